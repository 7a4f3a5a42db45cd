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

from results.statistics import LEVEL, Estimate


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
    paired = one.keys() == other.keys()
    first, second = (np.array([scores[seed] for seed in sorted(scores)]) for scores in (one, other))
    n = len(first) + len(second)
    value = float(first.mean() - second.mean()) if len(first) and len(second) else math.nan
    if min(len(first), len(second)) < 2:
        return Difference(Estimate(value, math.nan, math.nan, n, level, "none"), math.nan, paired)
    if paired:
        parts, freedom = (
            np.array([(first - second).var(ddof=1) / len(first)]),
            np.array([len(first) - 1]),
        )
    else:
        parts = np.array([scores.var(ddof=1) / len(scores) for scores in (first, second)])
        freedom = np.array([len(first) - 1, len(second) - 1])
    error = math.sqrt(parts.sum())
    if error == 0:
        return Difference(Estimate(value, value, value, n, level, "t"), float(value == 0), paired)
    total = parts.sum() ** 2 / (parts**2 / freedom).sum()  # Welch and Satterthwaite
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
