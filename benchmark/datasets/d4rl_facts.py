"""What D4RL publishes about its v2 locomotion datasets (arXiv 2004.07219), and data held to it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.dataset import Dataset, DatasetProblem, ReferenceReturns
from benchmark.errors import did_you_mean
from benchmark.files import Fingerprint
from benchmark.registry import UnknownName

PUBLIC_ADDRESS = "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2"
QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay")
ROUNDING = 5e-3
"""Largest difference, in standard deviations, that summing in float32 explains: over 2 million rows
of normal numbers it is off by 3e-4 in the mean and 7e-4 in the standard deviation."""
OTHER_DATA = 0.1
"""Difference, in standard deviations, from which on data are other data: of the nine published
datasets, the nearest two of one task are 0.3 apart."""

_REFERENCE = {  # D4RL's reference scores
    "halfcheetah": ReferenceReturns(random=-280.178953, expert=12135.0),
    "hopper": ReferenceReturns(random=-20.272305, expert=3234.3),
    "walker2d": ReferenceReturns(random=1.629008, expert=4592.3),
}
# D4RL's v2 data are scored on v4: v5 differs, and gymnasium 1 cannot make v2.
_ENVIRONMENT = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4"}
# Neither size nor digest of the other files is published; they are trusted on first use.
_FINGERPRINTS = {
    "hopper-medium-replay-v2": Fingerprint(
        75_854_457, "e121c5f7c9857a307baa9edc6a2c3b48e85fedb9ac316ecddd0f48ca7ef4e39b"
    ),
    "walker2d-medium-replay-v2": Fingerprint(
        86_323_963, "e75de96a4f77acf7d4e0d6fdf0d7ccb177c26c44bb4388e4fd99f543ccfa18db"
    ),
}


def d4rl_names() -> list[str]:
    """The eighteen names, such as `hopper-medium-replay-v2`; the papers use nine of them."""
    return [f"{task}-{quality}-v2" for task in _REFERENCE for quality in QUALITIES]


def statistics_names() -> list[str]:
    """The papers' nine datasets, such as `hopper-medium-replay-v2`."""
    return list(_statistics())


def d4rl_file_name(name: str) -> str:
    """The file of a dataset at D4RL's address: `hopper_medium_replay-v2.hdf5`."""
    return f"{name.removesuffix('-v2').replace('-', '_')}-v2.hdf5"


def d4rl_fingerprint(name: str) -> Fingerprint | None:
    """Size and digest of the published file, where they are known."""
    return _FINGERPRINTS.get(name)


def d4rl_reference(name: str) -> ReferenceReturns:
    """D4RL's returns of the random policy and the expert, for a dataset such as `hopper-medium-v2`.

    Raises:
        UnknownName: The dataset is of another task.
    """
    return _REFERENCE[_task(name)]


def d4rl_environment(name: str) -> str:
    """The gymnasium id that a D4RL dataset such as `hopper-medium-v2` is scored in: `Hopper-v4`.

    Raises:
        UnknownName: The dataset is of another task.
    """
    return _ENVIRONMENT[_task(name)]


def d4rl_statistics(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the observations of a D4RL v2 dataset, `[obs_dim]` each.

    Raises:
        UnknownName: No statistics of such a dataset are shipped.
    """
    datasets = _statistics()
    if name not in datasets:
        raise UnknownName(
            f"There are no observation statistics of a D4RL dataset {name!r}. "
            f"{did_you_mean(name, datasets, 'obdbench data list')}"
        )
    return datasets[name]["mean"], datasets[name]["std"]


def statistics_differences(dataset: Dataset, d4rl_name: str) -> dict[str, float]:
    """Largest difference of `dataset.observations` from the published moments over the dimensions.

    Returns:
        "mean" and "sd", both in published standard deviations.

    Raises:
        DatasetProblem: The observations have other dimensions.
        UnknownName: No statistics of such a dataset are shipped.
    """
    if (published := len(d4rl_statistics(d4rl_name)[0])) != dataset.observation_dim:
        raise DatasetProblem(
            f"The data for {d4rl_name} have {dataset.observation_dim} observation dimensions, the "
            f"published have {published}. This is another dataset's file."
        )
    return _differences(dataset.observation_moments(), d4rl_name)


def _differences(
    moments: tuple[NDArray[np.float64], NDArray[np.float64]], d4rl_name: str
) -> dict[str, float]:
    mean, std = (np.array(values) for values in d4rl_statistics(d4rl_name))
    found_mean, found_std = moments
    return {
        "mean": float(np.abs((found_mean - mean) / std).max()),
        "sd": float(np.abs((found_std - std) / std).max()),
    }


def compare_statistics(dataset: Dataset, d4rl_name: str) -> dict[str, Any]:
    """Compare the mean and standard deviation of `dataset.observations` with the published ones.

    Both are of the q-learning view. Differences are in published standard deviations, the largest
    over the dimensions. Small ones are reported and not refused: which rows were taken (timeouts,
    the last row) and how they were summed differs between the codes that print such numbers. Large
    ones are refused: such a file is other data, and a table would carry it under a wrong name. So
    is, under a name without published statistics, a file that has those of another dataset.

    Returns:
        Facts for the dataset's provenance, with a sentence in "warnings" where they differ, or
        could not be compared.

    Raises:
        DatasetProblem: These are other data.
    """
    if d4rl_name not in _statistics():
        _refuse_another_published(dataset, d4rl_name)
        warning = (
            f"No statistics are published for {d4rl_name}; the content of its file was not checked."
        )
        return {"statistics": "none published", "warnings": [warning]}
    differences = statistics_differences(dataset, d4rl_name)
    sentence = (
        f"The observations differ from the published statistics of {d4rl_name}, by up to "
        f"{differences['mean']:.2g} standard deviations in the mean and "
        f"{100 * differences['sd']:.2g} % in the standard deviation"
    )
    if max(differences.values()) > OTHER_DATA:
        raise DatasetProblem(
            f"{sentence}: these are other data. Check the file; it can be imported under a name of "
            f"its own, `obdbench data import FILE --as local/NAME --environment ID`."
        )
    facts = {"statistics_differences": differences}
    if max(differences.values()) <= ROUNDING:
        return {"statistics": "agree with the published", **facts, "warnings": []}
    warning = f"{sentence} (expected at most {ROUNDING:g} and {100 * ROUNDING:g} %)."
    return {"statistics": "differ from the published", **facts, "warnings": [warning]}


def _refuse_another_published(dataset: Dataset, d4rl_name: str) -> None:
    """Raise DatasetProblem where data have the published statistics of another name."""
    moments = dataset.observation_moments()
    for other in statistics_names():
        if len(d4rl_statistics(other)[0]) != dataset.observation_dim:
            continue
        differences = _differences(moments, other)
        if max(differences.values()) <= OTHER_DATA:
            raise DatasetProblem(
                f"The observations of the file for {d4rl_name} have the published statistics of "
                f"{other}, within {differences['mean']:.2g} standard deviations in the mean and "
                f"{100 * differences['sd']:.2g} % in the standard deviation: these are other data. "
                f"Import the file as d4rl/{other}, or under a name of its own, `obdbench data "
                f"import FILE --as local/NAME --environment ID`."
            )


def _task(name: str) -> str:
    task = name.partition("-")[0]
    if task not in _REFERENCE:
        raise UnknownName(
            f"The D4RL dataset {name!r} is of the task {task!r}, which has no reference returns "
            f"here. {did_you_mean(task, _REFERENCE)}"
        )
    return task


def _statistics() -> dict[str, dict[str, list[float]]]:
    """Statistics by dataset; only those of the papers' nine are published."""
    file = resources.files("benchmark.datasets") / "d4rl_observation_statistics.json"
    datasets: dict[str, dict[str, list[float]]] = json.loads(file.read_text("utf-8"))["datasets"]
    return datasets
