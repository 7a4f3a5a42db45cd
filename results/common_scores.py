"""Scores of methods on the datasets that all of them were run on, for comparisons over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from results.labels import natural_order
from results.statistics import RESAMPLES

Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""Label -> dataset -> normalized returns over seeds."""


@dataclass(frozen=True)
class CommonScores:
    """Scores of the methods that have complete runs on every dataset.

    Args:
        scores: Normalized returns over complete runs, by label and dataset.
        datasets: Every dataset of the runs.
        left_out: Labels that lack a complete run on some dataset.
        references: Labels that are compared with but distil nothing.
    """

    scores: Scores
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    references: frozenset[str]

    @property
    def seeds(self) -> list[int]:
        """Number of seeds behind each label and dataset."""
        return [len(s) for tasks in self.scores.values() for s in tasks.values()]


def common_scores(runs: pd.DataFrame) -> CommonScores:
    """Collect the scores of all labels that have complete runs on every dataset of the frame.

    Args:
        runs: What `results.frames.runs_frame` gives.
    """
    complete = runs[runs["status"] == "complete"]
    datasets = tuple(sorted(set(runs["dataset"])))
    scores: dict[str, dict[str, list[float]]] = {}
    for (label, dataset), found in complete.groupby(["label", "dataset"], sort=True):
        ordered = found.sort_values("seed")["normalized_return"]
        scores.setdefault(str(label), {})[str(dataset)] = [float(score) for score in ordered]
    whole = {label: tasks for label, tasks in scores.items() if len(tasks) == len(datasets)}
    return CommonScores(
        {label: whole[label] for label in sorted(whole, key=natural_order)},
        datasets,
        tuple(sorted(set(runs["label"]) - whole.keys(), key=natural_order)),
        frozenset(runs.loc[runs["reference"], "label"]),
    )


def rank_probabilities(scores: Scores, *, seed: int = 0) -> pd.DataFrame:
    """Estimate how often each method takes each rank when the seeds are drawn again.

    Seeds are resampled with replacement inside every dataset; methods are ranked by their mean over
    datasets, equal means in the order of `scores`. A method whose rank is certain has one entry
    of 1.

    Args:
        scores: Normalized returns by label; every label has the same datasets.
        seed: Seed of the resampling.

    Returns:
        Probabilities: one row per label, one column per rank, 1 being the best.
    """
    generator = np.random.default_rng(seed)
    # [methods, RESAMPLES]: the mean over datasets of the means over resampled seeds.
    means = np.stack(
        [
            np.mean([_resampled_means(task, generator) for task in tasks.values()], axis=0)
            for tasks in scores.values()
        ]
    )
    # The inverse of the sorting permutation is the rank, from 0, of every method in each resample.
    ranks = (-means).argsort(0, kind="stable").argsort(0)
    count = len(means)
    table = [[float((ranks[i] == rank).mean()) for rank in range(count)] for i in range(count)]
    return pd.DataFrame(table, index=list(scores), columns=range(1, count + 1))


def _resampled_means(scores: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """Means `[RESAMPLES]` of the seeds drawn with replacement."""
    values = np.asarray(scores)
    draws = generator.integers(len(values), size=(RESAMPLES, len(values)))
    return np.asarray(values[draws].mean(1))
