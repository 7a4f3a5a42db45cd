"""Bootstrap intervals over seeds, resampled inside every task: BCa, or percentiles.

Written directly over arrays, because scipy's general `bootstrap` takes several times as long for
the same ends; a test holds the two to each other, draw by draw.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

RESAMPLES = 9_999
BATCH = 1_000
"""Resamples held in memory at a time; another value would draw other resamples from a seed."""
MOST_COUNTED = 400
"""Seeds of all tasks up to which the draws are kept as counts, 8 bytes each per resample."""


class Statistic(typing.Protocol):
    """A vectorised statistic of one or more samples; it reduces ``axis`` of each of them."""

    def __call__(self, *samples: Array, axis: int = -1) -> Array: ...


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
    scores = np.concatenate(samples, axis=axis)
    count = scores.shape[axis]
    cut = count // 4
    ordered = np.partition(scores, (cut, count - cut - 1), axis=axis)
    return np.asarray(ordered.take(range(cut, count - cut), axis=axis).mean(axis))


def improvement_over_tasks(*samples: Array, axis: int = -1) -> Array:
    """Probability that a run of X beats one of Y; samples are X, then Y, task by task.

    `axis` is the last one.
    """
    # (1 / T) sum over t of (1 / (N[t] M[t])) sum over i, j of S(x[t, i], y[t, j]).
    tasks = len(samples) // 2
    pairs = zip(samples[:tasks], samples[tasks:], strict=True)
    return np.asarray(sum(np.mean(_beats(x, y), axis=(axis - 1, axis)) for x, y in pairs) / tasks)


def _beats(x: Array, y: Array) -> Array:
    """S(x[i], y[j]) `[..., N, M]`: 1 if x > y, 1/2 if x = y, 0 if x < y."""
    return np.asarray(0.5 * (np.sign(x[..., :, None] - y[..., None, :]) + 1.0))


def resampled(samples: tuple[Array, ...], statistic: Statistic, *, seed: int) -> Array:
    """Values `[..., RESAMPLES]` of a statistic when the seeds of every task are drawn again.

    Args:
        samples: One per task, `[..., seeds]`; leading axes are resampled with the same draws.
        statistic: What is estimated.
        seed: Seed of the draws.
    """
    sizes = tuple(sample.shape[-1] for sample in samples)
    plain = all(sample.ndim == 1 for sample in samples) and sum(sizes) <= MOST_COUNTED
    if plain and statistic is mean_over_tasks:
        means = [x @ c / len(x) for c, x in zip(_counts(sizes, seed), samples, strict=True)]
        return np.asarray(sum(means) / len(means))
    if plain and statistic is iqm_over_runs:
        return _resampled_iqm(np.concatenate(samples), sizes, seed)
    if plain and statistic is improvement_over_tasks:
        # sum over i, j of counts[i] S(x[i], y[j]) counts[j] for every resample: sums of halves, so
        # that a resample which is as good as the scores themselves has their value to the bit.
        counts, tasks = _counts(sizes, seed), len(sizes) // 2
        pairs = zip(samples[:tasks], samples[tasks:], counts[:tasks], counts[tasks:], strict=True)
        wins = [
            np.einsum("ir,ir->r", a, _beats(x, y) @ b) / (x.size * y.size) for x, y, a, b in pairs
        ]
        return np.asarray(sum(wins) / tasks)
    drawn = [
        statistic(*(x[..., i] for x, i in zip(samples, indices, strict=True)), axis=-1)
        for indices in _draws(sizes, seed)
    ]
    return np.concatenate(drawn, axis=-1)


def _draws(sizes: tuple[int, ...], seed: int) -> Iterator[list[NDArray[np.int64]]]:
    """Batches of drawn seeds, one array `[BATCH, seeds]` per task; scipy's, draw by draw."""
    rng = np.random.default_rng(seed)
    for first in range(0, RESAMPLES, BATCH):
        count = min(BATCH, RESAMPLES - first)
        yield [rng.integers(size, size=(count, size)) for size in sizes]


@lru_cache(maxsize=16)
def _counts(sizes: tuple[int, ...], seed: int) -> tuple[Array, ...]:
    """How often every seed was drawn, `[seeds, RESAMPLES]` per task.

    Cells of one number of seeds have the same draws, so that the mean of all resamples is one
    product with the scores.
    """
    parts: list[list[Array]] = [[] for _ in sizes]
    for batch in _draws(sizes, seed):
        for part, drawn, size in zip(parts, batch, sizes, strict=True):
            flat = drawn + size * np.arange(len(drawn))[:, None]
            counted = np.bincount(flat.ravel(), minlength=drawn.size).reshape(-1, size)
            part.append(counted.astype(np.float64))
    return tuple(np.concatenate(part).T.copy() for part in parts)


def _resampled_iqm(scores: Array, sizes: tuple[int, ...], seed: int) -> Array:
    """Interquartile means `[RESAMPLES]` of the pooled scores `[n]` of all tasks."""
    order = np.argsort(scores, kind="stable")
    kept, n = _kept(sizes, tuple(order.tolist()), seed), len(scores)
    cut, ordered = n // 4, scores[order]
    # Score i is there kept[i] - kept[i - 1] times. Summed by parts:
    # sum = (n - cut) x[last] - cut x[0] - sum over i of kept[i] (x[i + 1] - x[i]).
    inner = np.diff(ordered) @ kept[:-1]
    return np.asarray(((n - cut) * ordered[-1] - cut * ordered[0] - inner) / (n - 2 * cut))


@lru_cache(maxsize=2)
def _kept(sizes: tuple[int, ...], order: tuple[int, ...], seed: int) -> Array:
    """Where the copies of every score end among those that are not cut, `[n, RESAMPLES]`.

    In the sorted resample the copies of a score take the places from that of the score before to
    the cumulated count; the places between floor(n / 4) and n - floor(n / 4) are kept.
    """
    upto = np.concatenate(_counts(sizes, seed))[list(order)]
    cut = len(order) // 4
    np.cumsum(upto, axis=0, out=upto)
    return np.clip(upto, cut, len(order) - cut, out=upto)


def percentile_interval(values: Array, level: float) -> tuple[Array, Array]:
    """The middle `level` of the resampled values `[..., RESAMPLES]`."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return low, high


def bca_interval(
    samples: tuple[Array, ...], statistic: Statistic, values: Array, level: float
) -> tuple[float, float] | None:
    """The bias-corrected and accelerated interval (Efron 1987), or None where it is not defined.

    The resamples' quantiles are taken at Phi(z0 + (z0 + z) / (1 - a (z0 + z))) in place of Phi(z),
    z = +-1.96 at 95 %. z0, how far their median lies from the value, corrects the bias, and a, from
    the jackknife's third moment, the skew. It is not defined where leaving out any one seed changes
    nothing, or where all resamples lie on one side of the value.

    Args:
        samples: One per task `[seeds]`.
        statistic: What is estimated.
        values: What `resampled` gives.
        level: Level of the interval.
    """
    value = float(statistic(*samples, axis=-1))
    below = (np.count_nonzero(values < value) + np.count_nonzero(values <= value)) / 2
    third = second = 0.0
    for place, sample in enumerate(samples):
        n = len(sample)
        without = np.stack([np.delete(sample, i) for i in range(n)])
        others = [np.broadcast_to(other, (n, len(other))) for other in samples]
        left_out = statistic(*others[:place], without, *others[place + 1 :], axis=-1)
        influence = (n - 1) * (left_out.mean() - left_out)
        third += float((influence**3).sum()) / n**3
        second += float((influence**2).sum()) / n**2
    if second == 0 or not 0 < below < len(values):
        return None
    acceleration = third / second**1.5 / 6
    z0 = ndtri(below / len(values))
    moved = z0 + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(values, ndtr(z0 + moved / (1 - acceleration * moved)))
    return float(low), float(high)
