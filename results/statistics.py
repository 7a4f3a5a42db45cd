"""Point estimates with bootstrap confidence intervals over seeds.

The seed is the unit of replication: every score is that of one run, already averaged over its
students and episodes. Written x[t, i]: score of seed i on task t, with N[t] seeds and T tasks. All
intervals come from :func:`scipy.stats.bootstrap` and are seeded. Scores are sorted first, so the
order in which records were read changes nothing.

A bootstrap interval never reaches beyond the scores that it was given, so with few seeds it is too
narrow. On normal scores a 95 % interval held the true mean in 75 % of 600 trials with three seeds,
85 % with five, 90 % with ten and 94 % with thirty (BCa and percentile alike).
"""

from __future__ import annotations

import math
import typing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap, trim_mean

from benchmark.errors import ObdBenchError

Array = NDArray[np.float64]
Interval = Literal["BCa", "percentile", "none"]

LEVEL = 0.95
RESAMPLES = 9_999
BATCH = 1_000
"""Resamples held in memory at a time; another value would draw other resamples from a seed."""


class Statistic(typing.Protocol):
    """A vectorised statistic of one or more samples; it reduces ``axis`` of each of them."""

    def __call__(self, *samples: Array, axis: int = -1) -> Array: ...


class StatisticsError(ObdBenchError):
    """The scores given do not suffice for an estimate."""


@dataclass(frozen=True)
class Estimate:
    """A statistic of ``n`` scores with its confidence interval.

    ``low`` and ``high`` are NaN and ``interval`` is "none" where no interval exists: with a single
    score, or, over several tasks, with a single score in any of them. ``interval`` is "percentile"
    where BCa is not defined: fewer than three scores in a task, or a degenerate resampling
    distribution (for instance, all scores equal).
    """

    value: float
    low: float
    high: float
    n: int
    level: float
    interval: Interval = "BCa"

    @property
    def has_interval(self) -> bool:
        """Whether the scores allow an interval at all."""
        return self.interval != "none"

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

    With fewer than four seeds nothing is cut and it equals the mean.

    Raises:
        StatisticsError: The scores are empty or not finite.
    """
    return _estimate((_checked(scores, "scores"),), iqm_over_runs, seed=seed, level=level)


def mean_over_tasks(*samples: Array, axis: int = -1) -> Array:
    """Mean of the tasks' means: every task weighs the same, however many seeds it has."""
    # (1 / T) sum over t of (1 / N[t]) sum over i of x[t, i]
    means = [np.mean(sample, axis=axis) for sample in samples]
    return np.asarray(sum(means) / len(means))


def iqm_over_runs(*samples: Array, axis: int = -1) -> Array:
    """25 % trimmed mean of all runs pooled over tasks (Agarwal et al. 2021, section 4.3).

    A task with more seeds weighs more: give equal seed counts where that matters.
    """
    # Of the n = sum over t of N[t] sorted scores, floor(n / 4) are cut at either end.
    return np.asarray(trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis))


def stratified(
    scores_by_task: Mapping[str, Sequence[float]],
    statistic: Statistic = mean_over_tasks,
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """A statistic over tasks whose interval resamples the seeds inside every task.

    Args:
        scores_by_task: Scores of the seeds by task; counts may differ between tasks.
        statistic: Function that reduces one sample per task to one number; see `mean_over_tasks`,
            `iqm_over_runs`.

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
    both.

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
    return _estimate(x + y, _improvement, seed=seed, level=level)


def performance_profile(
    scores_by_task: Mapping[str, Sequence[float]],
    thresholds: Sequence[float],
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> PerformanceProfile:
    """Fraction of runs with score > threshold, averaged over tasks, with pointwise intervals.

    Agarwal et al. 2021, section 4.3, equation 1. Percentile intervals throughout: a fraction is
    degenerate at the profile's two ends, and one curve should not change its kind of interval.

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
    if _smallest(strata) > 1:
        interval = "percentile"
        low, high = _resample(above, mean_over_tasks, interval, seed=seed, level=level)
    n = sum(len(scores) for scores in strata)
    estimates = tuple(
        Estimate(float(f), float(lo), float(hi), n, level, interval)
        for f, lo, hi in zip(fractions, low, high, strict=True)
    )
    return PerformanceProfile(tuple(taus.tolist()), estimates)


def _improvement(*samples: Array, axis: int = -1) -> Array:
    """Probability of improvement; samples are X, then Y, task by task, and ``axis`` is the last."""
    # (1 / T) sum over t of (1 / (N[t] M[t])) sum over i, j of S(x[t, i], y[t, j]), where
    # S = (sign(x - y) + 1) / 2: 1 if x > y, 1/2 if x = y, 0 if x < y.
    tasks = len(samples) // 2
    wins = []
    for x, y in zip(samples[:tasks], samples[tasks:], strict=True):
        difference = x[..., :, None] - y[..., None, :]  # [..., N[t], M[t]]
        wins.append(np.mean(0.5 * (np.sign(difference) + 1.0), axis=(axis - 1, axis)))
    return np.asarray(sum(wins) / tasks)


def _estimate(
    samples: tuple[Array, ...], statistic: Statistic, *, seed: int, level: float
) -> Estimate:
    if not 0.0 < level < 1.0:
        raise StatisticsError(f"level is {level}; expected a fraction such as 0.95.")
    value = float(statistic(*samples, axis=-1))
    n = sum(len(sample) for sample in samples)
    if _smallest(samples) < 2:
        # Resampling a single seed would pretend that this task has no spread.
        return Estimate(value, math.nan, math.nan, n, level, "none")
    if all(sample[0] == sample[-1] for sample in samples):  # sorted: every score is the same
        return Estimate(value, value, value, n, level, "percentile")
    # BCa (Efron 1987) takes the resamples' quantiles at Phi(z0 + (z0 + z) / (1 - a (z0 + z))) in
    # place of Phi(z), z = +-1.96 at 95 %. z0, how far their median lies from the value, corrects
    # the bias, and a, from the jackknife's third moment, the skew, which two scores do not have.
    if _smallest(samples) > 2:
        low, high = _resample(samples, statistic, "BCa", seed=seed, level=level)
        if np.isfinite(low) and np.isfinite(high):
            return Estimate(value, float(low), float(high), n, level, "BCa")
    low, high = _resample(samples, statistic, "percentile", seed=seed, level=level)
    return Estimate(value, float(low), float(high), n, level, "percentile")


def _resample(
    samples: tuple[Array, ...], statistic: Statistic, kind: Interval, *, seed: int, level: float
) -> tuple[Array, Array]:
    """Bootstrap the two ends of the interval; they are NaN where BCa is not defined."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # BCa divides by the jackknife's spread; the caller sees NaN and falls back, saying so.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result: Any = bootstrap(
            samples,
            statistic,
            vectorized=True,
            axis=-1,
            n_resamples=RESAMPLES,
            batch=BATCH,
            confidence_level=level,
            method=kind,
            rng=np.random.default_rng(seed),
        )
    return result.confidence_interval.low, result.confidence_interval.high


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
