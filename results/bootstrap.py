"""Bootstrap intervals over seeds, resampled inside every task: BCa, or percentiles.

Written directly over arrays, because scipy's general `bootstrap` takes several times as long for
the same ends; a test holds the two to each other, draw by draw.
"""

from __future__ import annotations

import typing

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

RESAMPLES = 9_999
BATCH = 1_000
"""Resamples held in memory at a time; another value would draw other resamples from a seed."""


class Statistic(typing.Protocol):
    """A vectorised statistic of one or more samples; it reduces ``axis`` of each of them."""

    def __call__(self, *samples: Array, axis: int = -1) -> Array: ...


def resampled(samples: tuple[Array, ...], statistic: Statistic, *, seed: int) -> Array:
    """Values `[..., RESAMPLES]` of a statistic when the seeds of every task are drawn again.

    Args:
        samples: One per task, `[..., seeds]`; leading axes are resampled with the same draws.
        statistic: What is estimated.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    values = []
    for first in range(0, RESAMPLES, BATCH):
        count = min(BATCH, RESAMPLES - first)
        drawn = [
            sample[..., rng.integers(sample.shape[-1], size=(count, sample.shape[-1]))]
            for sample in samples
        ]
        values.append(statistic(*drawn, axis=-1))
    return np.concatenate(values, axis=-1)


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
