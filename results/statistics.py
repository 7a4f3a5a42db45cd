"""Point estimates with confidence intervals over seeds.

The seed is the unit of replication: every score is that of one run, already averaged over its
students and episodes. Written x[t, i]: score of seed i on task t, with N[t] seeds and T tasks.

Which interval is taken depends on the smallest number of seeds of a task:

- below 30, Student's t: of the mean, with Satterthwaite's degrees of freedom over several tasks;
  of the interquartile mean by the winsorised variance (Tukey and McLaughlin 1963), over several
  tasks bounded below by the variance of each task's own scores. A bootstrap never reaches beyond
  the scores that it was given: at 95 % it covers 70 to 85 % with three to five seeds, and 90 % with
  ten, where t covers 93 to 95;
- from 30 on, the bootstrap: BCa, or percentiles where BCa is not defined.

`python -m tests.coverage` prints how often either holds the true value (docs/statistics.md). Scores
are sorted first, so the order in which records were read changes nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import betaincinv, stdtrit

from benchmark.errors import ObdBenchError
from results.bootstrap import (
    Array,
    Statistic,
    bca_interval,
    improvement_over_tasks,
    iqm_over_runs,
    mean_over_tasks,
    percentile_interval,
    resampled,
)

Interval = Literal["t", "BCa", "percentile", "exact", "Wilson", "none"]

LEVEL = 0.95
FEW_SEEDS = 30
"""Below this, intervals are Student's t: bootstrap intervals are too narrow there."""


class StatisticsError(ObdBenchError):
    """The scores given do not suffice for an estimate."""


@dataclass(frozen=True)
class Estimate:
    """A statistic of ``n`` scores with its confidence interval.

    ``low`` and ``high`` are NaN and ``interval`` is "none" where no interval exists: with a single
    score, or, over several tasks, with a single score in any of them. Otherwise ``interval`` says
    how it was made: "t" below 30 seeds; from there on "BCa", or "percentile" where BCa is not
    defined; "exact" and "Wilson" for probabilities and fractions (see the functions).
    """

    value: float
    low: float
    high: float
    n: int
    level: float
    interval: Interval = "t"

    @property
    def has_interval(self) -> bool:
        """Whether the scores allow an interval at all."""
        return self.interval != "none"

    @property
    def columns(self) -> dict[str, float]:
        """Value, ends of the interval and number of scores, as columns of a table's data."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def __str__(self) -> str:
        if not self.has_interval:
            return f"{self.value:.1f} (n={self.n})"
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class PerformanceProfile:
    """Fraction of runs above each threshold: ``estimates[i]`` belongs to ``thresholds[i]``."""

    thresholds: tuple[float, ...]
    estimates: tuple[Estimate, ...]


def mean(scores: Sequence[float], *, seed: int = 0, level: float = LEVEL) -> Estimate:
    """Mean over seeds, sum over i of x[i] / N.

    Raises:
        StatisticsError: The scores are empty or not finite.
    """
    return _estimate((_checked(scores, "scores"),), mean_over_tasks, seed=seed, level=level)


def iqm(scores: Sequence[float], *, seed: int = 0, level: float = LEVEL) -> Estimate:
    """Interquartile mean over seeds: a quarter of the scores cut at either end (rounded down).

    With fewer than four seeds nothing is cut, and it equals the mean.

    Raises:
        StatisticsError: The scores are empty or not finite.
    """
    return _estimate((_checked(scores, "scores"),), iqm_over_runs, seed=seed, level=level)


def estimates(
    samples: Sequence[Sequence[float]],
    statistic: Statistic = mean_over_tasks,
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Estimate]:
    """Estimate `mean` or `iqm` of each of many samples, to the bit; t intervals all at once.

    Args:
        samples: Scores over seeds of each; counts may differ.
        statistic: `mean_over_tasks` or `iqm_over_runs`.
        seed: Seed of the bootstrap.
        level: Level of the intervals.

    Raises:
        StatisticsError: A sample is empty or not finite.
    """
    found: dict[int, Estimate] = {}
    by_count: dict[int, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        by_count[len(sample)].append(place)
    for count, places in by_count.items():
        checked = [_checked(samples[place], "scores") for place in places]
        if not 1 < count < FEW_SEEDS:
            for place, scores in zip(places, checked, strict=True):
                found[place] = _estimate((scores,), statistic, seed=seed, level=level)
            continue
        stacked = np.stack(checked)
        values = statistic(stacked, axis=-1)
        halves = _t_half_width((stacked,), statistic, _fraction(level))
        for place, value, half in zip(places, values.tolist(), halves.tolist(), strict=True):
            found[place] = Estimate(value, value - half, value + half, count, level, "t")
    return [found[place] for place in range(len(samples))]


def stratified(
    scores_by_task: Mapping[str, Sequence[float]],
    statistic: Statistic = mean_over_tasks,
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """A statistic over tasks, whose interval stands on the spread of the seeds inside every task.

    Args:
        scores_by_task: Scores of the seeds by task; counts may differ between tasks.
        statistic: Function that reduces one sample per task to one number: `mean_over_tasks` or
            `iqm_over_runs`. Any other one gets a bootstrap interval whatever the number of seeds.
        seed: Seed of the bootstrap.
        level: Level of the interval.

    Raises:
        StatisticsError: There is no task, or a task's scores are empty or not finite.
    """
    return _estimate(_strata(scores_by_task, "scores_by_task"), statistic, seed=seed, level=level)


def probability_of_improvement(
    x_by_task: Mapping[str, Sequence[float]],
    y_by_task: Mapping[str, Sequence[float]],
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Mean over tasks of P(X > Y) + P(X = Y) / 2 for one run of X and one of Y drawn at random.

    The Mann-Whitney statistic, as in Agarwal et al. 2021, section 4.3. ``n`` counts the runs of
    both. Where every run of one beats every run of the other on a task, no resample of it differs,
    and below 30 seeds the interval is at least the exact one: of each task's runs, k = min(N, M)
    disjoint pairs are independent (k the smallest over tasks), so Clopper and Pearson's interval of
    the same share of T k trials holds too much rather than too little.

    Raises:
        StatisticsError: The tasks differ, or there is none, or their scores are unusable.
    """
    x, y = _strata(x_by_task, "x_by_task"), _strata(y_by_task, "y_by_task")
    unmatched = sorted(set(x_by_task) ^ set(y_by_task))
    if unmatched:
        raise StatisticsError(
            f"task {unmatched[0]!r} is in one of x_by_task and y_by_task only; compare methods on "
            f"the tasks that both have run: {sorted(set(x_by_task) & set(y_by_task))}."
        )
    one_sided = any(
        float(improvement_over_tasks(a, b)) in (0, 1) for a, b in zip(x, y, strict=True)
    )
    value, few = float(improvement_over_tasks(*x, *y)), _smallest(x + y)
    if value in (0.0, 1.0):
        low, high = _clopper_pearson(value, len(x) * few, level)
        return Estimate(value, low, high, sum(map(len, x + y)), level, "exact")
    found = _estimate(x + y, improvement_over_tasks, seed=seed, level=level)
    if one_sided and 1 < few < FEW_SEEDS:
        low, high = _clopper_pearson(value, len(x) * few, level)
        low, high = min(low, found.low), max(high, found.high)
        return Estimate(value, low, high, found.n, level, "exact")
    return found


def performance_profile(
    scores_by_task: Mapping[str, Sequence[float]],
    thresholds: Sequence[float],
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> PerformanceProfile:
    """Fraction of runs with score > threshold, averaged over tasks, with pointwise intervals.

    Agarwal et al. 2021, section 4.3, equation 1. Below 30 seeds Wilson's intervals of a fraction of
    all runs, which do not shrink to nothing where every run lies on one side; from there on
    percentiles of a bootstrap. One curve does not change its kind of interval.

    Raises:
        StatisticsError: The scores or thresholds are empty or not finite.
    """
    strata = _strata(scores_by_task, "scores_by_task")
    taus = _finite(thresholds, "thresholds")
    # F(tau) = (1 / T) sum over t of (1 / N[t]) sum over i of 1[x[t, i] > tau].
    # One row per threshold: scipy resamples the last axis with the same indices in every row, so
    # the whole profile belongs to one resample of runs.
    above = tuple((scores > taus[:, None]).astype(np.float64) for scores in strata)
    fractions = mean_over_tasks(*above)
    low = high = np.full(len(taus), math.nan)
    interval: Interval = "none"
    if _smallest(strata) >= FEW_SEEDS:
        interval = "percentile"
        low, high = percentile_interval(resampled(above, mean_over_tasks, seed=seed), level)
    elif _smallest(strata) > 1:
        interval = "Wilson"
        low, high = _wilson(fractions, _equal_runs(strata), level)
    n = sum(len(scores) for scores in strata)
    estimates = tuple(
        Estimate(float(f), float(lo), float(hi), n, level, interval)
        for f, lo, hi in zip(fractions, low, high, strict=True)
    )
    return PerformanceProfile(tuple(taus.tolist()), estimates)


def _estimate(
    samples: tuple[Array, ...], statistic: Statistic, *, seed: int, level: float
) -> Estimate:
    _fraction(level)
    value = float(statistic(*samples, axis=-1))
    n = sum(len(sample) for sample in samples)
    if _smallest(samples) < 2:
        # A single seed would pretend that this task has no spread.
        return Estimate(value, math.nan, math.nan, n, level, "none")
    if _smallest(samples) < FEW_SEEDS and statistic in (mean_over_tasks, iqm_over_runs):
        half = float(_t_half_width(samples, statistic, level))
        return Estimate(value, value - half, value + half, n, level, "t")
    if all(sample[0] == sample[-1] for sample in samples):  # sorted: every score is the same
        return Estimate(value, value, value, n, level, "percentile")
    values = resampled(samples, statistic, seed=seed)
    if _smallest(samples) > 2 and (ends := bca_interval(samples, statistic, values, level)):
        return Estimate(value, *ends, n, level, "BCa")
    low, high = percentile_interval(values, level)
    return Estimate(value, float(low), float(high), n, level, "percentile")


def _t_half_width(samples: tuple[Array, ...], statistic: Statistic, level: float) -> Array:
    """Half of the t interval of the mean over tasks, or of the interquartile mean over runs.

    Args:
        samples: One per task, `[..., seeds]`.
        statistic: Which of the two.
        level: Level of the interval.
    """
    if statistic is iqm_over_runs:
        parts, freedom = _iqm_variances(samples)
    else:
        counts = np.array([sample.shape[-1] for sample in samples])
        parts, freedom = 1 / counts / len(samples) ** 2 * _variances(samples), counts - 1.0
    variance = parts.sum(axis=-1)
    # Satterthwaite 1946: freedom of a sum of variances, each with its own. Without spread there is
    # none, and the interval is a point.
    squares = (parts**2 / freedom).sum(axis=-1)
    total = np.divide(variance * variance, squares, out=np.ones_like(variance), where=variance > 0)
    return np.asarray(stdtrit(total, (1 + level) / 2) * np.sqrt(variance))


def _iqm_variances(samples: tuple[Array, ...]) -> tuple[Array, Array]:
    """Variance that each task gives the interquartile mean over runs, and its degrees of freedom.

    Args:
        samples: One per task, `[..., seeds]`.

    Returns:
        Both `[..., tasks]`.
    """
    # Winsorise: what was cut is moved to the nearest score that was not. With h scores kept of n,
    # the variance of the trimmed mean is that of n / h times the winsorised mean.
    pooled = np.sort(np.concatenate(samples, axis=-1), axis=-1)
    n = pooled.shape[-1]
    cut = n // 4
    h = n - 2 * cut
    low, high = pooled[..., cut, None], pooled[..., n - cut - 1, None]
    counts = np.array([sample.shape[-1] for sample in samples])
    parts = counts / h**2 * _variances([np.clip(sample, low, high) for sample in samples])
    freedom = np.maximum(counts - 2 * (counts // 4) - 1.0, 1.0)
    # Winsorised, a task of which a single score is kept has no spread at all, but that score moves
    # the mean. k extreme scores vary less than k of any: the task's own variance is an upper bound.
    inside = [((low <= sample) & (sample <= high)).sum(axis=-1) for sample in samples]
    bounds = np.stack(inside, axis=-1) / h**2 * _variances(samples)
    # Of one task it is taken only where winsorising leaves nothing: of 100, 100, 100, 100 and 80,
    # scores at a ceiling, the last would count as never seen.
    larger = bounds >= parts if len(samples) > 1 else parts == 0
    return np.where(larger, bounds, parts), np.where(larger, counts - 1.0, freedom)


def _variances(samples: Sequence[Array]) -> Array:
    """Variances `[..., tasks]` of the scores of each task."""
    return np.stack([sample.var(axis=-1, ddof=1) for sample in samples], axis=-1)


def _clopper_pearson(share: float, trials: int, level: float) -> tuple[float, float]:
    """Exact interval of a share of independent trials (Clopper and Pearson 1934)."""
    won, tail = share * trials, (1 - _fraction(level)) / 2
    low = float(betaincinv(won, trials - won + 1, tail)) if share > 0 else 0.0
    high = float(betaincinv(won + 1, trials - won, 1 - tail)) if share < 1 else 1.0
    return low, high


def _equal_runs(strata: tuple[Array, ...]) -> float:
    """Number of runs that tell as much of a mean over tasks if all tasks had as many."""
    return float(len(strata) ** 2 / sum(1 / len(scores) for scores in strata))


def _wilson(fractions: Array, n: float, level: float) -> tuple[Array, Array]:
    """Wilson's interval of fractions of n runs (Wilson 1927)."""
    z = float(stdtrit(math.inf, (1 + level) / 2))
    middle = (fractions + z**2 / (2 * n)) / (1 + z**2 / n)
    inside = fractions * (1 - fractions) / n + z**2 / (4 * n**2)
    half = z * np.sqrt(inside) / (1 + z**2 / n)
    return middle - half, middle + half


def _fraction(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise StatisticsError(f"level is {level}; expected a fraction such as 0.95.")
    return level


def _strata(scores_by_task: Mapping[str, Sequence[float]], name: str) -> tuple[Array, ...]:
    if not scores_by_task:
        raise StatisticsError(f"{name} is empty; expected the scores of at least one task.")
    tasks = sorted(scores_by_task)
    return tuple(_checked(scores_by_task[task], f"{name}[{task!r}]") for task in tasks)


def _checked(scores: Sequence[float], name: str) -> Array:
    return np.sort(_finite(scores, name))


def _finite(values: Sequence[float], name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise StatisticsError(
            f"{name} has shape {array.shape}; expected a flat sequence of at least one number."
        )
    if not np.all(np.isfinite(array)):
        position = int(np.flatnonzero(~np.isfinite(array))[0])
        raise StatisticsError(
            f"{name}[{position}] is {array[position]}; expected finite numbers. A run that "
            "diverged should be recorded as failed, not averaged."
        )
    return array


def _smallest(samples: Sequence[Array]) -> int:
    return min(len(sample) for sample in samples)
