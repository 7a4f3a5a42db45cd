"""The bootstrap of a cell, and over nine tasks, next to scipy's of the same draws.

Every call has other scores, as the cells of a table do.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap, trim_mean

from results.bootstrap import (
    BATCH,
    RESAMPLES,
    Array,
    Statistic,
    bca_interval,
    iqm_over_runs,
    mean_over_tasks,
    resampled,
)

SEEDS = 30


def scipys_iqm(*samples: Array, axis: int = -1) -> Array:
    return np.asarray(trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis))


STATISTICS: dict[str, tuple[Statistic, Statistic]] = {
    "mean": (mean_over_tasks, mean_over_tasks),
    "iqm": (iqm_over_runs, scipys_iqm),
}


@pytest.mark.parametrize("tasks", [1, 9])
@pytest.mark.parametrize("name", list(STATISTICS))
@pytest.mark.parametrize("who", ["ours", "scipy"])
def test_bootstrap(benchmark: Any, who: str, name: str, tasks: int) -> None:
    ours, theirs = STATISTICS[name]
    seeds = itertools.count()

    def call() -> None:
        rng = np.random.default_rng(next(seeds))
        samples = tuple(np.sort(rng.normal(size=SEEDS)) for _ in range(tasks))
        if who == "ours":
            bca_interval(samples, ours, resampled(samples, ours, seed=0), 0.95)
        else:
            bootstrap(
                samples, theirs, n_resamples=RESAMPLES, batch=BATCH, vectorized=True,
                rng=np.random.default_rng(0),
            )  # fmt: skip

    benchmark.group = f"{name}, {tasks} tasks"
    benchmark.pedantic(call, rounds=15, warmup_rounds=2)
