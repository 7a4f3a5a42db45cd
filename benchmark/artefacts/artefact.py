"""Artefacts of authors in the store: a card (JSON) and a file of tensors (safetensors) each."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.files import (
    UnfitFile,
    atomic_path,
    cache_folder,
    file_sha256,
    json_sha256,
    read_small,
    write_atomic,
)
from benchmark.names import check_name

FORMAT = "obdbench.artefact/1"
TENSORS = ".safetensors"
CARD = ".json"
OnFile = Callable[[int, int], None]
"""Called with (files that were read, all files) while a clone is read."""


class ArtefactProblem(ObdBenchError):
    """A clone, a file of it or a stored artefact that is not what it must be."""


@dataclass(frozen=True)
class Artefact:
    """A synthetic set or the log densities that authors published, as they published them.

    Args:
        name: Name in the store, for example "hades/brax/distill/hopper/D4/seed0".
        card: JSON values: kind, environment, dimensions, normalization, published scores, the
            authors' own settings, and the file that it was read from with its sha256.
        tensors: Tensors by name. A set has `observations [N, obs_dim]` in the units that its
            students see and `actions [N, act_dim]`; what else there is depends on the source.
    """

    name: str
    card: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)


@dataclass
class Found:
    """What the files of a clone came to.

    Attributes:
        artefacts: Artefacts, checked, not yet stored.
        left_out: Files that hold something else, by the reason why each was left out.
        notes: Sentences on what is missing or was decided.
    """

    artefacts: list[Artefact] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)


def artefact_folder() -> Path:
    """Folder of artefacts where no other is given, in `OBDBENCH_CACHE`."""
    return cache_folder() / "artefacts"


def read_published(path: Path) -> bytes:
    """The bytes of a file of a clone.

    Raises:
        ArtefactProblem: It cannot be read, is empty or too large, or Git LFS left a pointer.
    """
    try:
        content = read_small(path)
    except OSError as error:
        raise ArtefactProblem(f"{path} cannot be read ({error.strerror}). Clone again.") from error
    if content.startswith(b"version https://git-lfs"):
        raise ArtefactProblem(
            f"{path} is a pointer of Git LFS, expected the file itself. Run `git lfs pull` in the "
            f"clone."
        )
    return content


def read_array(path: Path) -> NDArray[Any]:
    """The array of a `.npy` file of a clone; no pickle in it is read.

    Raises:
        ArtefactProblem: It is damaged, or something else.
    """
    read_published(path)
    try:
        # Mapped, so that it is no larger than the file, whatever its head says.
        found = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ArtefactProblem(
            f"{path} cannot be read as a numpy array ({error}). Clone the repository again."
        ) from error
    if not isinstance(found, np.ndarray):
        raise ArtefactProblem(f"{path} is an archive, expected one array. Clone again.")
    return np.array(found)


def store_artefacts(artefacts: Iterable[Artefact], source: str, folder: Path) -> None:
    """Store the artefacts of a source all together; those of an earlier import are replaced.

    They are written to a folder of their own, which is renamed when it is complete.

    Args:
        artefacts: Artefacts whose names begin with the source.
        source: Name of the source, for example "hades".
        folder: Folder of artefacts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".importing-") as scratch:
        for artefact in artefacts:
            path = Path(scratch) / _checked(artefact.name)
            tensors = {key: value.contiguous() for key, value in artefact.tensors.items()}
            with atomic_path(path.with_name(path.name + TENSORS)) as temporary:
                save_file(tensors, temporary)
                digest = file_sha256(temporary)
            card = {**artefact.card, "format": FORMAT, "name": artefact.name, "sha256": digest}
            card["card_sha256"] = json_sha256(card)
            write_atomic(path.with_name(path.name + CARD), json.dumps(card, indent=1))
        target, replaced = folder / source, Path(scratch) / ".replaced"
        if target.exists():
            target.rename(replaced)
        try:
            (Path(scratch) / source).rename(target)
        except BaseException:
            if replaced.exists():
                replaced.rename(target)
            raise


def stored_names(folder: Path) -> list[str]:
    """The name of every artefact in a folder."""
    cards = folder.glob(f"[!.]*/**/*{CARD}")
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in cards)


def _checked(name: str) -> str:
    """The name of an artefact, each part of which can be the name of a folder."""
    return "/".join(check_name("A part of the name of an artefact", p) for p in name.split("/"))


def load_card(name: str, folder: Path) -> dict[str, Any]:
    """The card of a stored artefact, once it and the tensors agree with their digests.

    Raises:
        ArtefactProblem: There is none of that name, or it was altered.
    """
    path = folder / f"{_checked(name)}{CARD}"
    if not path.is_file():
        raise ArtefactProblem(
            f"There is no artefact {name!r} in {folder}. "
            f"{did_you_mean(name, stored_names(folder), 'obdbench artefacts list')}"
        )
    try:
        card = json.loads(read_small(path))
        digest = card.pop("card_sha256")
        sound = card["format"] == FORMAT and card["name"] == name and json_sha256(card) == digest
    except (UnfitFile, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ArtefactProblem(
            f"{path} cannot be read as the card of an artefact ({error}). Import it again."
        ) from error
    if not sound:
        raise ArtefactProblem(f"{path} was altered, or is not of {FORMAT}. Import it again.")
    tensors = path.with_name(path.name.removesuffix(CARD) + TENSORS)
    try:
        found = file_sha256(tensors)
    except OSError as error:
        raise ArtefactProblem(f"{tensors} cannot be read ({error}). Import it again.") from error
    if found != card["sha256"]:
        raise ArtefactProblem(
            f"{tensors} has sha256 {found}, expected {card['sha256']}: it was altered. Import it "
            f"again."
        )
    return dict(card)


def load_artefact(name: str, folder: Path | None = None) -> Artefact:
    """Load a stored artefact; check it against its digests.

    Args:
        name: Name that `obdbench artefacts list` shows.
        folder: Folder of artefacts; None for that in the cache.

    Raises:
        ArtefactProblem: There is none of that name, or it was altered.
    """
    folder = folder or artefact_folder()
    card = load_card(name, folder)
    return Artefact(name, card, load_file(folder / f"{name}{TENSORS}"))


def clone_files(folder: Path, pattern: str, expected: str) -> Iterator[tuple[Path, str]]:
    """Files of a clone that match a pattern, each with its path in the clone.

    Args:
        folder: A clone of the authors' repository.
        pattern: Pattern of `Path.glob`.
        expected: What the clone must have, for the message.

    Raises:
        ArtefactProblem: The folder is not there, or has none.
    """
    if not folder.is_dir():
        raise ArtefactProblem(f"{folder} is not a folder; expected a clone with {expected}.")
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not paths:
        raise ArtefactProblem(
            f"{folder} has no {expected}: not a clone of the authors' repository, or half of one. "
            f"Clone it again, and name the folder of the clone."
        )
    return ((path, path.relative_to(folder).as_posix()) for path in paths)
