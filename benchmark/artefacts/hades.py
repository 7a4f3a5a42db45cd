"""What the authors of HaDES published (Behaviour Distillation, arXiv 2406.15042): sets, policies.

Each `data_final.pkl` of their repository holds the state of an evolution strategy, its fitness by
generation and the settings of the run. The mean of the state is the set, flat: first the actions
`[N, act_dim]`, then the states `[N, obs_dim]`; MinAtar and images have fixed labels in place of
actions. The states are in the units that students see: normalized where the run normalized
observations. The baseline's files hold a policy instead, whose weights were evolved directly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.artefacts.artefact import (
    Artefact,
    ArtefactProblem,
    Found,
    OnFile,
    clone_files,
    read_array,
    read_published,
)
from benchmark.artefacts.pickles import Inert, array, read_pickle
from benchmark.files import file_sha256

PAPER = "Behaviour Distillation, ICLR 2024, arXiv 2406.15042"
RESULTS = "results/ICLR"
BASELINES = f"{RESULTS}/baselines/"
FILE = "data_final.pkl"
SEEDS = 3
LAST_GENERATIONS = 20
"""Generations whose mean fitness the paper's tables print."""
_CONSTANTS = {"OBS_MEAN": ("mean", "mean"), "OBS_VAR": ("var", "variance")}
"""Arrays among the settings: their names in files of `normalize_params`, and here."""
VARIANCE_FLOOR = 1e-8
"""What the authors add to the variance before they take its root to normalize observations."""


class Space(NamedTuple):
    """The suite's name of an environment, and its dimensions.

    Attributes:
        name: Name with its simulator, for example "brax/hopper".
        observations: Numbers in an observation; MinAtar's and images are flattened.
        actions: Numbers in an action; the actions or classes themselves where labels are one-hot.
    """

    name: str
    observations: int
    actions: int

    @property
    def has_labels(self) -> bool:
        """Whether actions are one-hot labels, which do not evolve."""
        return not self.name.startswith("brax/")


# Brax with its positional backend, MinAtar by gymnax with its minimal action sets.
SPACES = {
    "ant": Space("brax/ant", 27, 8),
    "halfcheetah": Space("brax/halfcheetah", 17, 6),
    "hopper": Space("brax/hopper", 11, 3),
    "humanoid": Space("brax/humanoid", 244, 17),
    "humanoidstandup": Space("brax/humanoidstandup", 244, 17),
    "inverted_double_pendulum": Space("brax/inverted_double_pendulum", 8, 1),
    "reacher": Space("brax/reacher", 11, 2),
    "walker2d": Space("brax/walker2d", 17, 6),
    "Asterix-MinAtar": Space("minatar/asterix", 400, 5),
    "Breakout-MinAtar": Space("minatar/breakout", 400, 3),
    "Freeway-MinAtar": Space("minatar/freeway", 700, 3),
    "SpaceInvaders-MinAtar": Space("minatar/space_invaders", 600, 4),
    "MNIST": Space("images/mnist", 784, 10),
    "FashionMNIST": Space("images/fashion_mnist", 784, 10),
}
"""The environments of the paper by the names in the authors' files."""


def find_hades(folder: Path, on_file: OnFile | None = None) -> Found:
    """Read and check every set and policy of a clone of the authors' repository; store nothing.

    Args:
        folder: The clone.
        on_file: Called after each file.

    Raises:
        ArtefactProblem: It is not a clone, or a file of it is damaged, hostile, or not what its
            folder says; then nothing of the clone is imported.
    """
    found = Found()
    files = list(clone_files(folder, f"{RESULTS}/**/{FILE}", f"{RESULTS}/.../{FILE}"))
    for done, (path, name) in enumerate(files, start=1):
        read = _policy if name.startswith(BASELINES) else _artefact
        if isinstance(artefact := read(path, name, folder), str):
            found.left_out[artefact].append(name)
        else:
            found.artefacts.append(artefact)
        if on_file:
            on_file(done, len(files))
    cells: dict[str, list[str]] = {}
    for artefact in found.artefacts:
        cell, _, seed = artefact.name.rpartition("/")
        cells.setdefault(cell, []).append(seed)
    short = [f"{cell} ({', '.join(seeds)})" for cell, seeds in cells.items() if len(seeds) < SEEDS]
    if short:
        found.notes.append(f"Fewer than the paper's {SEEDS} seeds: {'; '.join(short)}.")
    return found


class _File:
    """A published file, its values checked as they are taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: Any = read_pickle(read_published(path), path)
        keys = {"state", "fitness_over_gen", "fitness", "config", "es_config"}
        if not isinstance(self.content, dict) or not keys <= self.content.keys():
            raise self.problem(
                f"holds {self._shown(self.content)}, expected a dictionary with "
                f"{', '.join(sorted(keys))}: a file of another version"
            )
        state = self.content["state"]
        if not (
            isinstance(state, Inert)
            and state.name.endswith(".EvoState")
            and isinstance(state.state, dict)
        ):
            raise self.problem("has as 'state' something else than evosax's EvoState")
        self.state: dict[Any, Any] = state.state
        self.run, self.evolution = self.settings("config"), self.settings("es_config")

    def problem(self, what: str) -> ArtefactProblem:
        """The error that the file is not what it should be."""
        return ArtefactProblem(
            f"{self.path} {what}. Nothing was imported; clone the repository again, or move this "
            f"file out of the clone."
        )

    @staticmethod
    def _shown(content: object) -> str:
        if not isinstance(content, dict):
            return f"a {type(content).__name__}"
        return ", ".join(sorted(str(key)[:40] for key in content if isinstance(key, str))[:8])

    def array(self, where: Mapping[Any, Any], key: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """A finite array of a known shape.

        Args:
            where: Dictionary that holds it.
            key: Its key there.
            shape: Expected shape.
        """
        found = array(where.get(key))
        if found is None or found.shape != shape:
            shown = "missing" if key not in where else type(where[key]).__name__
            shown = str(list(found.shape)) if found is not None else shown
            raise self.problem(f"has {key!r} of shape {shown}, expected {list(shape)}")
        return self.finite(key, found)

    def finite(self, key: str, found: NDArray[Any]) -> NDArray[Any]:
        """The array, where every number is finite."""
        if bad := int((~np.isfinite(found)).sum()):
            raise self.problem(f"has {bad} of {found.size} numbers in {key!r} that are not finite")
        return found

    def curve(self, key: str, generations: int) -> NDArray[Any]:
        """A number per generation `[generations]`, each stored as an array without dimensions."""
        values = self.content.get(key)
        numbers = [array(value) for value in values] if isinstance(values, list) else []
        if len(numbers) != generations or any(n is None or n.shape for n in numbers):
            raise self.problem(
                f"has {len(numbers)} entries in {key!r}, expected a number for each of "
                f"{generations} generations"
            )
        return self.finite(key, np.array(numbers, dtype=np.float32))

    def settings(self, key: str) -> dict[str, Any]:
        """The authors' own settings that are numbers, texts, truth values or empty."""
        values = self.content[key]
        if not isinstance(values, dict):
            raise self.problem(f"has a {type(values).__name__} as {key!r}, expected settings")
        plain = {}
        for name, value in values.items():
            if name in _CONSTANTS:
                continue
            finite = not isinstance(value, float) or math.isfinite(value)
            known = value is None or value == {} or isinstance(value, str | bool | int | float)
            if not (isinstance(name, str) and known and finite):
                shown = value if not finite else f"a {type(value).__name__}"
                raise self.problem(f"has {shown} as a setting in {key!r}")
            plain[name] = value
        return plain

    def setting(self, settings: Mapping[str, Any], key: str, kind: type, least: int = 0) -> Any:
        """One setting of a known type; a whole number has a least value."""
        value = settings.get(key)
        outside = isinstance(value, int) and kind is int and not least <= value < 2**31
        if type(value) is not kind or outside:
            raise self.problem(
                f"has {value!r} as the setting {key!r}, expected a {kind.__name__}"
                f"{f' from {least}' if kind is int else ''}"
            )
        return value


def _artefact(path: Path, name: str, folder: Path) -> Artefact | str:
    """The set in a file, or the reason why it is left out."""
    file = _File(path)
    settings, evolution = file.run, file.evolution
    images = "DATASET" in settings
    environment = file.setting(settings, "DATASET" if images else "ENV_NAME", str)
    if environment not in SPACES:
        return f"sets for {environment[:40]!r}, which the paper does not report"
    space = SPACES[environment]
    published = file.setting(evolution, "dataset_size", int, 1)
    fixed = file.setting(settings, "OVERFIT", bool)
    seed = file.setting(settings, "SEED", int)
    said = f"{published} pairs for {environment}, seed {seed}"
    _check_folder(file, name, rf"{environment}/D{published}/(greedy_act\w+/)?seed{seed}", said)
    if evolution.get("learn_labels", False):
        raise file.problem("has evolved labels (learn_labels), expected fixed ones")
    tensors, labelled = _set(file, space, published)
    facts = {
        "kind": "set",
        "labels": "one-hot" if space.has_labels else "evolved",
        "pairs": labelled,
        "states_without_label": published - labelled,
        "fixed_initialization": fixed,
        "initialization_seed": settings.get("OVERFIT_SEED") if fixed else None,
    }
    return _described(file, name, folder, environment, tensors, facts)


def _policy(path: Path, name: str, folder: Path) -> Artefact | str:
    """The evolved policy in a file of the baseline, or the reason why it is left out.

    flax's parameters are flattened in the order of their names: of every layer the bias, then the
    kernel `[in, out]`. They are kept as `bias_0` `[out]`, `weight_0` `[out, in]` and so on.
    """
    file = _File(path)
    settings = file.run
    environment = file.setting(settings, "ENV_NAME", str)
    if environment not in SPACES:
        return f"policies for {environment[:40]!r}, which the paper does not report"
    space, width = SPACES[environment], file.setting(settings, "WIDTH", int, 1)
    seed = file.setting(settings, "SEED", int)
    said = f"a policy for {environment}, seed {seed}"
    _check_folder(file, name, rf"{environment}/(\w+/)?seed{seed}", said)
    sizes = (space.observations, width, width, space.actions)
    count = sum(after * (before + 1) for before, after in pairwise(sizes))
    sigma = _sigma(file, count)
    tensors: dict[str, Tensor] = {}
    for prefix, flat in (("", file.array(file.state, "mean", (count,))), ("sigma_", sigma)):
        numbers, at = torch.tensor(flat, dtype=torch.float32), 0
        for layer, (before, after) in enumerate(pairwise(sizes)):
            bias, at = numbers[at : at + after], at + after
            kernel, at = numbers[at : at + before * after].view(before, after), at + before * after
            tensors[f"{prefix}bias_{layer}"] = bias.clone()
            tensors[f"{prefix}weight_{layer}"] = kernel.T.contiguous()
    return _described(file, name, folder, environment, tensors, {"kind": "policy"})


def _described(
    file: _File,
    name: str,
    folder: Path,
    environment: str,
    tensors: dict[str, Tensor],
    facts: Mapping[str, Any],
) -> Artefact:
    """The artefact of a file: its tensors with the curves and constants, and its card.

    Args:
        file: The file.
        name: Its path in the clone.
        folder: The clone.
        environment: Environment in the authors' words.
        tensors: The set or policy.
        facts: What the card says of that.
    """
    settings, evolution, space = file.run, file.evolution, SPACES[environment]
    images = "DATASET" in settings
    generation = int(file.array(file.state, "gen_counter", ()))
    tensors = tensors | _curves(file, evolution, generation, images=images)
    normalization, constants = _normalization(file, settings, environment, space, folder)
    card = {
        "paper": PAPER,
        "file": name,
        "file_sha256": file_sha256(file.path),
        "environment": space.name,
        "observation_dim": space.observations,
        "action_dim": space.actions,
        **facts,
        "seed": settings["SEED"],
        "generation": generation,
        "normalization": normalization,
        "published": _published(file, tensors, environment, images=images),
        "settings": settings,
        "evolution_settings": evolution,
    }
    short = name.removeprefix(f"{RESULTS}/").removesuffix(f"/{FILE}")
    return Artefact(f"hades/{short}", card, tensors | constants)


def _check_folder(file: _File, name: str, expected: str, said: str) -> None:
    """Raise ArtefactProblem unless a file is in the folders of what it says that it holds."""
    if not re.fullmatch(rf"{RESULTS}/.*\b{expected}/{FILE}", name):
        raise file.problem(
            f"says that it holds {said}, expected what its folders say: a set for another "
            f"environment or run, or a policy"
        )


def _sigma(file: _File, size: int) -> NDArray[Any]:
    """Deviation of every dimension: one number (OpenES), or one for each (SNES)."""
    sigma = array(file.state.get("sigma"))
    if sigma is None or sigma.shape not in ((), (size,)) or not (sigma > 0).all():
        raise file.problem(f"has a 'sigma' that is not one positive number or {size} of them")
    return np.broadcast_to(file.finite("sigma", sigma), (size,))


def _set(file: _File, space: Space, pairs: int) -> tuple[dict[str, Tensor], int]:
    """Tensors of the set, and the number of its pairs that have a label.

    Where labels are fixed, each action has pairs // actions of them, in order (the authors' code);
    the states after the last label are never trained on.
    """
    evolved = 0 if space.has_labels else space.actions
    size = pairs * (evolved + space.observations)
    mean = file.array(file.state, "mean", (size,))
    best = file.array(file.state, "best_member", (size,))
    sigma = _sigma(file, size)
    labelled = pairs
    if space.has_labels:
        each = pairs // space.actions
        labelled = each * space.actions
        if not labelled:
            raise file.problem(f"has {pairs} states, expected one per action at least")
        labels = torch.eye(space.actions).repeat_interleave(each, 0)
    tensors: dict[str, Tensor] = {}
    for prefix, flat in (("", mean), ("best_", best), ("sigma_", sigma)):
        numbers = torch.tensor(flat, dtype=torch.float32)
        actions = numbers[: pairs * evolved].view(pairs, evolved)
        if space.has_labels:  # labels are not perturbed
            actions = torch.zeros_like(labels) if prefix == "sigma_" else labels.clone()
        states = numbers[pairs * evolved :].view(pairs, space.observations)
        tensors |= {f"{prefix}observations": states[:labelled], f"{prefix}actions": actions}
    return tensors, labelled


def _curves(
    file: _File, evolution: Mapping[str, Any], generation: int, *, images: bool
) -> dict[str, Tensor]:
    """Fitness by generation `[G]`, and that of the last population `[P]`."""
    population = file.setting(evolution, "popsize", int, 1)
    curves = {
        "fitness_mean": file.curve("fitness_over_gen", generation),
        "fitness_last_population": file.array(file.content, "fitness", (population,)),
    }
    if not images:
        curves["fitness_max"] = file.curve("max_fitness_over_gen", generation)
    return {key: torch.tensor(values, dtype=torch.float32) for key, values in curves.items()}


def _published(
    file: _File, tensors: Mapping[str, Tensor], environment: str, *, images: bool
) -> dict[str, Any]:
    """The scores that the file itself states."""
    curve = tensors["fitness_mean"].double()
    accuracy = file.array(file.content, f"{environment}:train_accuracy", ()) if images else None
    return {
        "unit": "loss on the training images" if images else "episode return",
        f"mean_of_last_{LAST_GENERATIONS}_generations": float(curve[-LAST_GENERATIONS:].mean()),
        "last_generation": float(curve[-1]),
        "best_member": float(file.array(file.state, "best_fitness", ())),
        "train_accuracy": None if accuracy is None else float(accuracy),
    }


def _normalization(
    file: _File, settings: Mapping[str, Any], environment: str, space: Space, folder: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """How observations were normalized, and the constants `[obs_dim]` of it where there are some.

    The constants are those in the file; where the clone has them in `normalize_params` too, they
    must agree.
    """
    if "DATASET" in settings:
        return {"kind": "none", "pixels": "divided by 255"}, {}
    running = file.setting(settings, "NORMALIZE_OBS", bool)
    if not file.setting(settings, "CONST_NORMALIZE_OBS", bool):
        return {"kind": "running" if running else "none", "variance_floor": VARIANCE_FLOOR}, {}
    constants = {}
    for key, (short, name) in _CONSTANTS.items():
        values = file.array(file.content["config"], key, (space.observations,))
        stored = folder / "normalize_params" / f"{short}_{environment}.npy"
        if stored.is_file() and not np.array_equal(read_array(stored), values):
            raise file.problem(
                f"has other numbers in {key!r} than {stored}: another version's file"
            )
        constants[f"observation_{name}"] = torch.tensor(values, dtype=torch.float32)
    if bool((constants["observation_variance"] < 0).any()):
        raise file.problem("has negative numbers in 'OBS_VAR', expected variances")
    return {"kind": "constant", "variance_floor": VARIANCE_FLOOR}, constants
