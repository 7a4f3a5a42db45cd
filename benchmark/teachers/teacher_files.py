"""Files of teachers: their format, their places, and which one is a dataset's teacher."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.config import LARGEST_INTEGER
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import STAND_IN
from benchmark.errors import ObdBenchError, short
from benchmark.files import atomic_path, cache_folder, file_sha256
from benchmark.state import content_sha256
from benchmark.teachers.teacher import (
    TEACHERS,
    ActionNoise,
    Layers,
    NetworkTeacher,
    TeacherProblem,
)

FORMAT = "obdbench.teacher/1"
SHIPPED = Path(__file__).parent / "shipped"
AUTHORS = "cal_ql_authors"
"""Name of the teachers that OBD's authors published: imported, never trained here."""


@dataclass(frozen=True)
class TeacherName:
    """The name of a dataset's teacher: a recipe and a training seed, `td3_bc` or `td3_bc:1`.

    `cal_ql_authors` is in place of a recipe for what was imported.
    """

    recipe: str
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> TeacherName:
        """Read a name.

        Raises:
            UnknownName: No such recipe is registered.
            TeacherProblem: The seed is not a whole number from 0, or is one of an imported teacher.
        """
        recipe, separator, seed = text.partition(":")
        if text == AUTHORS:
            return cls(AUTHORS)
        if recipe == AUTHORS:
            raise TeacherProblem(f"An imported teacher has no seed here; expected {AUTHORS}.")
        _ = TEACHERS[recipe]
        if not separator:
            return cls(recipe)
        whole = seed.isascii() and seed.isdigit() and len(seed) < 20
        if not whole or int(seed) >= LARGEST_INTEGER:
            raise TeacherProblem(
                f"The seed in {short(text)} is {short(seed)}; expected a number from 0 to 2^63-1, "
                f"e.g. {recipe}:1."
            )
        return cls(recipe, int(seed))

    def __str__(self) -> str:
        """The name without a seed of 0, so that each teacher has one spelling."""
        return self.recipe if self.seed == 0 else f"{self.recipe}:{self.seed}"


def teacher_cache() -> Path:
    """Folder of locally trained and imported teachers, in `OBDBENCH_CACHE`."""
    return cache_folder() / "teachers"


def cached_path(dataset: Dataset, recipe: str, seed: int = 0) -> Path:
    """File of a teacher that was trained here on exactly this data with this recipe and seed."""
    return _trained_path(dataset.sha256, TeacherName(recipe, seed))


def _trained_path(sha256: str, teacher: TeacherName) -> Path:
    return teacher_cache() / f"{sha256[:16]}.{teacher.recipe}.seed{teacher.seed}.safetensors"


def imported_path(dataset_name: str) -> Path:
    """File of a teacher that was imported for data of this name, or for what they stand in for."""
    return teacher_cache() / f"{_stem(stood_for(dataset_name))}.{AUTHORS}.safetensors"


def shipped_path(dataset_name: str, teacher: TeacherName) -> Path:
    """File of a shipped teacher, if there is one; the dataset's size does not matter."""
    seed = f".seed{teacher.seed}" if teacher.seed else ""
    return SHIPPED / f"{_stem(dataset_name)}.{teacher.recipe}{seed}.safetensors"


def shipped_teachers() -> list[Path]:
    """Every teacher file that the suite ships."""
    return sorted(SHIPPED.glob("*.safetensors"))


def local_teachers() -> list[Path]:
    """Every teacher file in the cache."""
    return sorted(teacher_cache().glob("*.safetensors"))


def imported_teachers() -> dict[str, tuple[Path, NetworkTeacher]]:
    """Teachers in the cache that were imported from a clone of their authors, by artefact."""
    found = {}
    for path in local_teachers():
        try:
            teacher = load_teacher(path)
        except ObdBenchError:  # `obdbench teacher list` says that it is broken
            continue
        if name := teacher.facts.get("artefact"):
            found[name] = path, teacher
    return found


def teacher_file(dataset_name: str, sha256: str | None, teacher: TeacherName) -> Path | None:
    """File of a dataset's teacher; None where there is none.

    That is the one imported for data of this name, or the one with this recipe and seed: trained
    here on exactly this data, or else shipped for data of this name, whatever their size.

    Args:
        dataset_name: Name of the dataset.
        sha256: Digest of its content; None where it is not on this machine.
        teacher: Recipe and seed.
    """
    shipped = shipped_path(dataset_name, teacher)
    candidates = [shipped]
    if teacher.recipe == AUTHORS:  # the second name is that of older imports
        old = teacher_cache() / f"{_stem(dataset_name)}.cal_ql.safetensors"
        candidates = [imported_path(dataset_name), old]
    elif sha256 is not None:
        candidates.insert(0, _trained_path(sha256, teacher))
    return next(
        (
            path
            for path in candidates
            if path.is_file() and (path != shipped or _learned_from(path, dataset_name))
        ),
        None,
    )


def _learned_from(path: Path, dataset_name: str) -> bool:
    """Whether data of this name are those of a teacher's file: two names may give one file name."""
    learned = load_teacher(path).facts.get("dataset", "")
    return bool(_without_size(learned) == _without_size(dataset_name))


def find_teacher(dataset: Dataset, name: str) -> NetworkTeacher:
    """Load the teacher of a dataset by its name, for example `td3_bc` or `td3_bc:1`.

    A shipped one may have learned from other data of that name, see its `dataset_sha256`.

    Raises:
        TeacherProblem: There is none, or its dimensions are not the dataset's.
        UnknownName: The recipe is not registered.
    """
    teacher = TeacherName.parse(name)
    found = teacher_file(dataset.name, dataset.sha256, teacher)
    if found is None:
        seed = f" --seed {teacher.seed}" if teacher.seed else ""
        if teacher.recipe == AUTHORS:
            raise TeacherProblem(missing_import(dataset.name))
        raise TeacherProblem(
            f"There is no {teacher} teacher for {dataset.name}: none in {teacher_cache()} for its "
            f"content {dataset.sha256[:16]}, and none is shipped. Train one with "
            f"`obdbench teacher train {dataset.name} --recipe {teacher.recipe}{seed}`."
        )
    loaded = load_teacher(found)
    name = f"{dataset.name}, whose teacher file is {found},"
    loaded.check_fit(dataset.observation_dim, dataset.action_dim, name)
    return loaded


def missing_import(dataset_name: str) -> str:
    """What to say where no teacher was imported for data of this name."""
    dataset_name = stood_for(dataset_name)
    return (
        f"No teacher of the papers' authors was imported for {dataset_name}. Import their "
        f"checkpoint with `obdbench teacher import FILE.pt --dataset {dataset_name}`."
    )


def stood_for(dataset_name: str) -> str:
    """Name of D4RL's dataset that one stands in for, which has its teacher; else its own."""
    if dataset_name.startswith(STAND_IN):
        return f"d4rl/{dataset_name.removeprefix(STAND_IN)}"
    return dataset_name


def _stem(dataset_name: str) -> str:
    return _without_size(dataset_name).replace("/", "-")


def _without_size(dataset_name: str) -> str:
    return dataset_name.partition("@")[0]


def save_teacher(teacher: NetworkTeacher, path: Path) -> None:
    """Write a teacher as safetensors, with its facts as JSON in the file's metadata."""
    tensors = {
        "observation_mean": teacher.observation_mean,
        "observation_std": teacher.observation_std,
    }
    for name, layers in (("actor", teacher.actor), ("critics", teacher.critics)):
        for index, (weight, bias) in enumerate(layers):
            tensors[f"{name}.{index}.weight"] = weight.contiguous()
            tensors[f"{name}.{index}.bias"] = bias.contiguous()
    card = {
        "format": FORMAT,
        "action_noise": teacher.action_noise,
        "log_std_multiplier": teacher.log_std_multiplier,
        "log_std_offset": teacher.log_std_offset,
        "facts": dict(teacher.facts),
    }
    text = json.dumps(card, sort_keys=True)
    with atomic_path(path) as temporary:
        digest = content_sha256(tensors, text)
        save_file(tensors, temporary, metadata={"teacher": text, "sha256": digest})


class _Parameters(msgspec.Struct):
    steps: float | None = None


class _Evaluation(msgspec.Struct, rename={"return_": "return"}):
    return_: float
    normalized_return: float
    episodes: int


class _Facts(msgspec.Struct):
    """The facts that the suite reads, with their types; a file may have others."""

    dataset: str = ""
    dataset_sha256: str | None = None
    environment: str | None = None
    contacts: str | None = None
    recipe: str = ""
    seed: int = 0
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)
    evaluation: _Evaluation | None = None
    artefact: str | None = None
    checkpoint_sha256: str | None = None


class _Card(msgspec.Struct):
    """The JSON in a teacher's file."""

    format: str
    action_noise: ActionNoise
    log_std_multiplier: float
    log_std_offset: float
    facts: _Facts


def load_teacher(path: Path) -> NetworkTeacher:
    """Read a teacher file; its sha256 is added to the facts.

    Raises:
        TeacherProblem: The file is missing, not safetensors, of another format, malformed or
            altered, or its numbers are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise TeacherProblem(
            f"{path} cannot be read as a teacher ({error}). A teacher is a safetensors file; "
            f"import a CORL checkpoint (.pt) with `obdbench teacher import`."
        ) from error
    try:
        card = json.loads(metadata["teacher"])
        known = card["format"] == FORMAT
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TeacherProblem(f"{path} is a safetensors file but not a teacher: {error}.") from error
    if not known:
        raise TeacherProblem(f"{path} has format {card['format']!r}, expected {FORMAT!r}.")
    try:
        # Files of earlier versions have no digest.
        if metadata.get("sha256") not in (None, content_sha256(tensors, metadata["teacher"])):
            raise _Malformed("its content has another sha256 than it says, so it was altered")
        return _teacher(card, tensors, file_sha256(path))
    except (_Malformed, msgspec.ValidationError) as error:
        raise TeacherProblem(
            f"{path} is not a sound teacher: {error}. Put the file back as it was, or train or "
            f"import it again with --force."
        ) from error


class _Malformed(Exception):
    """What is wrong with a teacher's file."""


def _teacher(card: dict[str, Any], tensors: dict[str, Tensor], sha256: str) -> NetworkTeacher:
    """The teacher of a file's content, once its parts fit together."""
    checked = msgspec.convert(card, _Card)
    scalars = torch.tensor([checked.log_std_multiplier, checked.log_std_offset])
    for name, tensor in {**tensors, "log_std": scalars}.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise _Malformed(f"{name} has numbers that are not finite, or of {tensor.dtype}")
    left = dict(tensors)
    mean, std = (left.pop(f"observation_{name}", torch.empty(())) for name in ("mean", "std"))
    if mean.dim() != 1 or mean.shape != std.shape or not bool((std > 0).all()):
        raise _Malformed(
            f"observation_mean {list(mean.shape)} and observation_std {list(std.shape)} are "
            f"missing, of two lengths, or a deviation is not positive"
        )
    teacher = NetworkTeacher(
        actor=_layers(left, "actor", len(mean), 2),
        critics=[],
        observation_mean=mean,
        observation_std=std,
        action_noise=checked.action_noise,
        log_std_multiplier=checked.log_std_multiplier,
        log_std_offset=checked.log_std_offset,
        facts={**card["facts"], "sha256": sha256},
    )
    outputs = len(teacher.actor[-1][1])
    if checked.action_noise != "exploration" and outputs % 2:
        raise _Malformed(f"the actor has {outputs} outputs, expected a mean and a deviation each")
    critics = _layers(left, "critics", len(mean) + teacher.action_dim, 3)
    if critics[-1][1].shape[-1] != 1:
        raise _Malformed(f"a critic has {critics[-1][1].shape[-1]} outputs, expected 1")
    if left:
        raise _Malformed(f"it has tensors that no network takes: {', '.join(sorted(left)[:4])}")
    return dataclasses.replace(teacher, critics=critics)


def _layers(tensors: dict[str, Tensor], name: str, inputs: int, dims: int) -> Layers:
    """Take the layers of a network out of `tensors`, each with as many inputs as the last gave.

    Args:
        tensors: Tensors of a file by name.
        name: "actor" or "critics".
        inputs: Numbers that the first layer must take.
        dims: Dimensions of a weight, `[out, in]` or `[C, out, in]`.
    """
    layers: Layers = []
    while (weight := tensors.pop(f"{name}.{len(layers)}.weight", None)) is not None:
        bias = tensors.pop(f"{name}.{len(layers)}.bias", torch.empty(()))
        lead = (layers[0][0] if layers else weight).shape[:-2]
        expected = (*lead, *bias.shape[-1:], inputs)
        if weight.dim() != dims or weight.shape != expected or bias.shape != expected[:-1]:
            raise _Malformed(
                f"layer {len(layers)} of {name} has weight {list(weight.shape)} and bias "
                f"{list(bias.shape)}, expected {inputs} inputs, {dims} dimensions and a bias per "
                f"output"
            )
        layers.append((weight, bias))
        inputs = bias.shape[-1]
    if not layers or not inputs:
        raise _Malformed(f"{name} has no layers")
    return layers
