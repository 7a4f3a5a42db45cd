"""Differences between two cells: by how much, how sure, and whether they are apart.

Two cells are apart where the interval of their difference excludes zero, corrected for the number
of comparisons that are made at once. Two intervals that touch do not say that cells are equal: two
means can differ clearly while each interval holds a part of the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from results.statistics import LEVEL, Estimate, StatisticsError


@dataclass(frozen=True)
class Difference:
    """Mean score of one cell less that of another.

    Args:
        estimate: The difference with its t interval; without one where a cell has a single seed.
        p: Two-sided p-value of no difference; NaN without an interval.
        paired: Whether it was taken seed by seed.
    """

    estimate: Estimate
    p: float
    paired: bool


def difference(
    one: Mapping[int, float], other: Mapping[int, float], *, level: float = LEVEL
) -> Difference:
    """Compare two cells by Student's t: paired where both have the same seeds, else Welch's.

    Methods of one seed share their initial pairs, students and episodes, so a pair of runs has
    less noise between it than two runs of different seeds.

    Args:
        one: Score by seed.
        other: Score by seed of the other cell.
        level: Level of the interval.
    """
    return mean_difference({"": one}, {"": other}, level=level)


def mean_difference(
    one: Mapping[str, Mapping[int, float]],
    other: Mapping[str, Mapping[int, float]],
    *,
    level: float = LEVEL,
) -> Difference:
    """Compare two means over tasks: task by task as in `difference`, every task weighing the same.

    Args:
        one: Score by seed of every task.
        other: Score by seed of the same tasks.
        level: Level of the interval.

    Returns:
        The difference of the means; paired if it is so on every task.

    Raises:
        StatisticsError: The two have different tasks.
    """
    if unmatched := sorted(one.keys() ^ other.keys()):
        raise StatisticsError(
            f"task {unmatched[0]!r} has scores of one side only; compare means over the tasks "
            f"that both have: {sorted(one.keys() & other.keys())}."
        )
    values, samples, paired, n = [], [], True, 0
    for task, scores in one.items():
        same = scores.keys() == other[task].keys()
        first, second = (
            np.array([found[seed] for seed in sorted(found)]) for found in (scores, other[task])
        )
        some = len(first) and len(second)
        values.append(float(first.mean() - second.mean()) if some else math.nan)
        samples += [first - second] if same else [first, second]
        paired &= same
        n += len(first) + len(second)
    value = float(np.mean(values))
    if min(map(len, samples)) < 2:
        return Difference(Estimate(value, math.nan, math.nan, n, level, "none"), math.nan, paired)
    # Variance of every sample's mean; Welch's and Satterthwaite's freedom of their sum.
    parts = np.array([x.var(ddof=1) / len(x) for x in samples]) / len(values) ** 2
    freedom = np.array([len(x) - 1 for x in samples])
    error = math.sqrt(parts.sum())
    if error == 0:
        return Difference(Estimate(value, value, value, n, level, "t"), float(value == 0), paired)
    total = parts.sum() ** 2 / (parts**2 / freedom).sum()
    half = float(stdtrit(total, (1 + level) / 2)) * error
    p = 2 * float(stdtr(total, -abs(value) / error))
    return Difference(Estimate(value, value - half, value + half, n, level, "t"), p, paired)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for making all of these comparisons at once (Holm 1979).

    An adjusted value below 1 - level means: apart at that level, whichever others are true. NaN
    stands for a comparison that could not be made, and is not counted.
    """
    values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(values), math.nan)
    order = [i for i in np.argsort(values, kind="stable") if not math.isnan(values[i])]
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * float(values[index])))
        adjusted[index] = largest
    return adjusted.tolist()
