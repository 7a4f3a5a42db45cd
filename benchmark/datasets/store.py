"""The local Minari store: where datasets are kept, and how they are checked when they are loaded.

A dataset is an ordinary Minari dataset (`minari.load_dataset` opens it), with two files of the
suite's own beside its `data` folder: `card.json` says what it is and what its digests are, and
`transitions.safetensors` is a flat copy that loads at the speed of the disk.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from filelock import FileLock
from minari.data_collector import EpisodeBuffer
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from benchmark.datasets.collect import Progress
from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.datasets.source import DATASETS
from benchmark.errors import ObdBenchError
from benchmark.files import atomic_path, file_sha256, write_atomic

NAMESPACE = "obdbench"
VERSION = 0

CARD_KEYS = (
    "name", "environment", "source", "size", "seed", "episodes", "returns", "reference_returns",
    "shapes", "sha256", "hdf5",
)  # fmt: skip


class DatasetProblem(ObdBenchError):
    """A dataset that is missing, truncated, altered or of the wrong shape."""


@dataclass(frozen=True)
class DatasetName:
    """A registered name with a size: `hopper/medium`, or `hopper/medium@50000`.

    The default size has no suffix, so that there is one way to write each dataset.
    """

    name: str
    size: int

    @classmethod
    def parse(cls, text: str) -> DatasetName:
        """Raises UnknownName for a name nobody registered, DatasetProblem for a bad size."""
        name, separator, size = text.partition("@")
        default = DATASETS[name].default_size
        if not separator:
            return cls(name, default)
        if not (size.isascii() and size.isdigit()) or int(size) < 1:
            raise DatasetProblem(
                f"The size in {text!r} is {size!r}; expected a positive number of transitions, "
                f"e.g. {name}@50000."
            )
        return cls(name, int(size))

    def __str__(self) -> str:
        default = DATASETS[self.name].default_size
        return self.name if self.size == default else f"{self.name}@{self.size}"

    @property
    def minari_id(self) -> str:
        """E.g. `obdbench/hopper/medium-v0`; another size is another dataset, `medium-50000-v0`."""
        size = "" if "@" not in str(self) else f"-{self.size}"
        return f"{NAMESPACE}/{self.name}{size}-v{VERSION}"

    @property
    def folder(self) -> Path:
        """Where the store keeps it; `MINARI_DATASETS_PATH` moves the store."""
        return Path(minari.storage.get_dataset_path()) / self.minari_id

    @property
    def build_command(self) -> str:
        size = "" if "@" not in str(self) else f" --size {self.size}"
        return f"obdbench data build {self.name}{size}"


def build_dataset(
    name: DatasetName,
    *,
    seed: int = 0,
    threads: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Builds a dataset into the local store, or loads the one that is there.

    Args:
        name: What to build.
        seed: Of the collection.
        threads: For stepping the environments; the content does not depend on it.
        force: Build anew even if a sound one is there.
        progress: Called with (transitions done, of how many).
    """
    name.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(name.folder.with_suffix(".lock")):  # two builders: the second finds it done
        return _build_or_load(name, seed, threads, force, progress)


def _build_or_load(
    name: DatasetName, seed: int, threads: int, force: bool, progress: Progress | None
) -> Dataset:
    if _card_path(name).exists() and not force:  # without its card it is a build that was killed
        card = _card(name)
        if card["seed"] != seed:
            raise DatasetProblem(
                f"{name} is in the store with seed {card['seed']}, you asked for seed {seed}. "
                f"Build over it with `{name.build_command} --seed {seed} --force`."
            )
        return load_dataset(name)
    dataset = DATASETS[name.name].build(str(name), name.size, seed, threads, progress)
    _write(name, dataset, seed)
    return dataset


def load_dataset(name: DatasetName) -> Dataset:
    """A dataset of the local store, checked against its card.

    Raises:
        DatasetProblem: It is missing, truncated, altered or of the wrong shape; the message names
            the file, what was expected, what was found and the command that mends it.
    """
    card = _card(name)
    main = name.folder / "data" / "main_data.hdf5"
    mend = f"Build it anew with `{name.build_command} --seed {card['seed']} --force`."
    if not main.is_file():
        raise DatasetProblem(f"{main} is missing. {mend}")
    if main.stat().st_size != card["hdf5"]["bytes"]:
        raise DatasetProblem(
            f"{main} has {main.stat().st_size} bytes, expected {card['hdf5']['bytes']}: it is "
            f"truncated or was written to. {mend}"
        )
    if (found := file_sha256(main)) != card["hdf5"]["sha256"]:
        raise DatasetProblem(
            f"{main} has sha256 {found}, expected {card['hdf5']['sha256']}: it was altered. {mend}"
        )
    flat = name.folder / "transitions.safetensors"
    try:
        arrays = load_file(flat)
    except (FileNotFoundError, SafetensorError) as error:
        raise DatasetProblem(f"{flat} cannot be read ({error}). {mend}") from error
    _check_shapes(flat, arrays, card, mend)
    dataset = Dataset(
        name=str(name),
        env_id=card["environment"],
        reference=ReferenceReturns(**card["reference_returns"]),
        **arrays,
    )
    if dataset.sha256 != card["sha256"]:
        raise DatasetProblem(
            f"{flat} has content sha256 {dataset.sha256}, expected {card['sha256']}: it was "
            f"altered. {mend}"
        )
    return dataset


def local_datasets() -> list[DatasetName]:
    """Every dataset of the suite that is in the local store."""
    root = Path(minari.storage.get_dataset_path()) / NAMESPACE
    names = []
    for path in sorted(root.rglob("card.json")):
        try:
            card = json.loads(path.read_text())
            name = DatasetName.parse(card["name"])
        except (json.JSONDecodeError, KeyError, TypeError, ObdBenchError):
            continue  # not one of ours, or of a plug-in that is not loaded: `info` reports it
        if name.folder == path.parent:
            names.append(name)
    return names


def dataset_card(name: DatasetName) -> dict[str, Any]:
    """The card of a dataset in the store: size, returns, source, digests."""
    return _card(name)


def _card(name: DatasetName) -> dict[str, Any]:
    path = _card_path(name)
    mend = f"Build it anew with `{name.build_command} --force`."
    if not path.is_file():
        raise DatasetProblem(
            f"The dataset {name} is not in the local store ({name.folder}). "
            f"Build it with `{name.build_command}`."
        )
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DatasetProblem(f"{path} is not JSON ({error}). {mend}") from error
    if lacking := [key for key in CARD_KEYS if key not in card]:
        raise DatasetProblem(f"{path} lacks {', '.join(map(repr, lacking))}. {mend}")
    if card["name"] != str(name):
        raise DatasetProblem(
            f"{path} is the card of {card['name']!r}, expected {str(name)!r}: two datasets share a "
            f"folder, or it was copied here. {mend}"
        )
    return card


def _card_path(name: DatasetName) -> Path:
    return name.folder / "card.json"


def _check_shapes(
    path: Path, arrays: dict[str, np.ndarray[Any, Any]], card: dict[str, Any], mend: str
) -> None:
    """Names and shapes as the card has them, and finite values."""
    found = {key: list(array.shape) for key, array in arrays.items()}
    if found != card["shapes"]:
        raise DatasetProblem(f"{path} has shapes {found}, expected {card['shapes']}. {mend}")
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise DatasetProblem(f"{path} has values that are not finite in {key!r}. {mend}")


def _write(name: DatasetName, dataset: Dataset, seed: int) -> None:
    """Writes the Minari dataset and its two companions; the card comes last and makes it whole."""
    if name.folder.exists():
        shutil.rmtree(name.folder)
    space = gymnasium.spaces.Box(-np.inf, np.inf, (dataset.observation_dim,), np.float32)
    minari.create_dataset_from_buffers(
        dataset_id=name.minari_id,
        buffer=_episodes(dataset),
        env=dataset.env_id,
        eval_env=dataset.env_id,
        observation_space=space,
        ref_min_score=dataset.reference.random,
        ref_max_score=dataset.reference.expert,
        algorithm_name="PPO snapshots (obdbench)",
        author="OBD-Bench",
        author_email="none",
        code_permalink="none",
        description=DATASETS[name.name].description,
        data_format="hdf5",
    )
    flat = name.folder / "transitions.safetensors"
    with atomic_path(flat) as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in dataset.arrays().items()}, temporary)
    main = name.folder / "data" / "main_data.hdf5"
    returns = dataset.episode_returns
    card = {
        "name": str(name),
        "environment": dataset.env_id,
        "source": DATASETS[name.name].description,
        "size": len(dataset),
        "seed": seed,
        "episodes": len(dataset.lengths),
        "returns": {
            "mean": float(returns.mean()),
            "sd": float(returns.std()),
            "max": float(returns.max()),
        },
        "reference_returns": {
            "random": dataset.reference.random,
            "expert": dataset.reference.expert,
        },
        "shapes": {key: list(array.shape) for key, array in dataset.arrays().items()},
        "sha256": dataset.sha256,
        "hdf5": {"bytes": main.stat().st_size, "sha256": file_sha256(main)},
    }
    write_atomic(name.folder / "card.json", json.dumps(card, indent=1) + "\n")


def _episodes(dataset: Dataset) -> list[EpisodeBuffer]:
    ends = np.cumsum(dataset.lengths)
    buffers = []
    for index, (end, length) in enumerate(zip(ends, dataset.lengths, strict=True)):
        rows = slice(end - length, end)
        buffers.append(
            EpisodeBuffer(
                id=index,
                observations=dataset.states[end - length + index : end + index + 1],
                actions=dataset.actions[rows],
                rewards=dataset.rewards[rows],
                terminations=dataset.terminations[rows],
                truncations=dataset.truncations[rows],
                infos=None,
            )
        )
    return buffers
