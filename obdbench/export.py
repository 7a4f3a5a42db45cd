"""Export of a synthetic set to the formats of other tools."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium.spaces import Box, Discrete
from minari.data_collector import EpisodeBuffer
from torch import Tensor

from benchmark.environments.batch import highest
from benchmark.environments.lookup import action_space, find_specification
from benchmark.errors import ObdBenchError
from benchmark.files import atomic_path, write_atomic
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set, method_of


def export_set(source: Path, kind: str, target: str) -> str:
    """Write a stored set in another format.

    Args:
        source: Safetensors file of a run.
        kind: "npz" (observations, actions, stages or weights where there are some, units and
            rate where they were learned with the set, card as JSON text), "safetensors" (the file
            as it is), "csv" (one row per pair, the same columns) or "minari" (a dataset in which
            every pair is an episode of one step without reward).
        target: File to write, or id of the Minari dataset.

    Returns:
        File or dataset that was written.

    Raises:
        ObdBenchError: The format is unknown, the source is not a synthetic set, or the format
            cannot hold the set's stages, weights or learned training.
    """
    if kind not in FORMATS:
        raise ObdBenchError(f"--format is {kind!r}; expected one of {', '.join(FORMATS)}.")
    pairs, _, card = load_synthetic_set(source)
    return FORMATS[kind](source, pairs, card, target)


def format_of(kind: str | None, target: str | None) -> str:
    """The format to write: the one that is asked for, or that a file's suffix says.

    Args:
        kind: Format, one of `FORMATS`; None where only the file says it.
        target: File to write, or id of the Minari dataset; None for a file named by the format.

    Raises:
        ObdBenchError: The suffix is that of another format, or of none where only it says so.
    """
    suffix = "" if target is None else Path(target).suffix.removeprefix(".").lower()
    of_suffix = suffix if suffix in FORMATS and suffix != "minari" else None
    if kind is None and target is not None and of_suffix is None:
        raise ObdBenchError(
            f"{target} has no suffix that says a format; expected .npz, .safetensors or .csv, or "
            f"one of {', '.join(FORMATS)} with --format."
        )
    if kind in FORMATS and of_suffix not in (None, kind):
        raise ObdBenchError(
            f"--format is {kind}, and {target} is named as one of {of_suffix}. Give another name, "
            f"or leave --format out."
        )
    return kind or of_suffix or "npz"


def minari_id(run_id: str) -> str:
    """Id of a run's set as a Minari dataset: the run's own, in the characters that Minari takes."""
    return f"obdbench/sets/{re.sub(r'[^A-Za-z0-9_]+', '-', run_id)}-v0"


def _safetensors(source: Path, pairs: SyntheticSet, card: dict[str, Any], target: str) -> str:
    with atomic_path(Path(target)) as temporary:
        shutil.copyfile(source, temporary)
    return target


def _npz(source: Path, pairs: SyntheticSet, card: dict[str, Any], target: str) -> str:
    arrays: dict[str, Any] = {
        "observations": pairs.observations.numpy(),
        "actions": pairs.actions.numpy(),
        "card": np.array(json.dumps(card)),
    }
    arrays |= {name: values.numpy() for name, values in _of_each_pair(pairs).items()}
    if (learned := pairs.training) is not None:
        arrays |= {name: values.numpy() for name, values in learned.scaling.tensors().items()}
        arrays["learning_rate"] = np.array(learned.learning_rate)
    with atomic_path(Path(target)) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    return target


def _csv(source: Path, pairs: SyntheticSet, card: dict[str, Any], target: str) -> str:
    _require_no_training(source, pairs, "columns of a table have")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    observations, actions, others = pairs.observations, pairs.actions, _of_each_pair(pairs)
    writer.writerow(
        [f"observation_{i}" for i in range(observations.shape[1])]
        + [f"action_{i}" for i in range(actions.shape[1])]
        + [name.removesuffix("s") for name in others]
    )
    columns = (values.tolist() for values in others.values())
    for observation, action, *rest in zip(
        observations.tolist(), actions.tolist(), *columns, strict=True
    ):
        writer.writerow(map(repr, [*observation, *action, *rest]))
    write_atomic(Path(target), text.getvalue())
    return target


def _minari(source: Path, pairs: SyntheticSet, card: dict[str, Any], target: str) -> str:
    if others := " and ".join(_of_each_pair(pairs)):
        raise ObdBenchError(
            f"{source} has {others}, by which its pairs are trained on, and an episode of a Minari "
            f"dataset has no place for them. Take --format npz or csv."
        )
    _require_no_training(source, pairs, "a Minari dataset has")
    _check_free(target)
    space = action_space(card["environment"])
    actions = pairs.actions.numpy()
    description = f"Synthetic set of {card['run_id']}: every pair is an episode of one step."
    if isinstance(space, Box) and (outside := (actions < space.low) | (actions > space.high)).any():
        # Clipped, they would be another set: students learn what they are.
        space = Box(-np.inf, np.inf, space.shape, np.float32)
        description += (
            f" {outside.mean():.1%} of its actions' numbers are learned ones beyond the "
            f"environment's bounds, which the action space therefore does not have."
        )
    elif isinstance(space, Discrete):
        actions = highest(actions, space)
    environment = find_specification(card["environment"])
    dim = pairs.observations.shape[1]
    minari.create_dataset_from_buffers(
        dataset_id=target,
        buffer=[
            EpisodeBuffer(
                id=index,
                observations=[observation, observation],
                actions=[action],
                rewards=[0.0],
                terminations=[True],
                truncations=[False],
            )
            for index, (observation, action) in enumerate(
                zip(pairs.observations.numpy(), actions, strict=True)
            )
        ],
        env=environment,
        eval_env=environment,
        observation_space=Box(-np.inf, np.inf, (dim,), np.float32),
        action_space=space,
        algorithm_name=method_of(card),
        author="OBD-Bench",
        author_email="none",
        code_permalink="none",
        description=description,
    )
    return f"Minari dataset {target}"


def _of_each_pair(pairs: SyntheticSet) -> dict[str, Tensor]:
    """Stages and weights, where the set has them: training without them is another training."""
    found = {"stages": pairs.stages, "weights": pairs.weights}
    return {name: values for name, values in found.items() if values is not None}


def _require_no_training(source: Path, pairs: SyntheticSet, place: str) -> None:
    if pairs.training is not None:
        raise ObdBenchError(
            f"{source} carries a learning rate and observation statistics that were learned with "
            f"it, and {place} no place for them. Take --format npz or safetensors."
        )


def _check_free(target: str) -> None:
    try:
        minari.dataset.minari_dataset.parse_dataset_id(target)
    except (ValueError, TypeError) as error:  # a TypeError where the version is left out
        raise ObdBenchError(
            f"{target!r} is not the id of a Minari dataset; expected letters, digits, '-', '_' and "
            f"a version, such as {minari_id('my.run.seed0')}."
        ) from error
    folder = minari.storage.get_dataset_path(target)
    if folder.exists():
        raise ObdBenchError(
            f"The Minari dataset {target} exists already, in {folder}. Give another id with --to, "
            f"or remove it first: minari delete {target}"
        )


FORMATS: dict[str, Callable[[Path, SyntheticSet, dict[str, Any], str], str]] = {
    "npz": _npz,
    "safetensors": _safetensors,
    "csv": _csv,
    "minari": _minari,
}
