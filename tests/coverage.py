"""How often the intervals hold the true value: `python -m tests.coverage --trials 2000 --seed 0`.

Scores are drawn from distributions whose true value is known; every interval is made by the
functions that tables and figures use. 95 is right; less means that an interval claims too much.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from results.bootstrap import Statistic
from results.differences import difference
from results.statistics import (
    Estimate,
    iqm,
    iqm_over_runs,
    mean,
    mean_over_tasks,
    performance_profile,
    probability_of_improvement,
    stratified,
)

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]
Tasks = Sequence[tuple[float, float]]
"""What is added to the scores of each task, and what they are multiplied with before."""


@dataclass(frozen=True)
class Distribution:
    """Scores of seeds, with their true mean and interquartile mean over infinitely many."""

    name: str
    draw: Draw

    @cache  # noqa: B019 - three of them, for the life of a program
    def truth(self, statistic: Callable[..., Array]) -> float:
        return float(statistic(self.draw(np.random.default_rng(12345), 1_000_000)))


DISTRIBUTIONS = (
    Distribution("normal", lambda rng, n: rng.normal(30, 5, n)),
    Distribution("skewed", lambda rng, n: rng.gamma(2.0, 5.0, n)),
    Distribution("bimodal", lambda rng, n: rng.normal(np.where(rng.random(n) < 0.5, 20, 40), 2)),
)
SEEDS = (3, 5, 10)


def covered(estimates: Sequence[Estimate], truth: float) -> float:
    """Share of intervals that hold the truth, in percent; ends a rounding away count as holding."""
    return 100 * float(np.mean([e.low - 1e-9 <= truth <= e.high + 1e-9 for e in estimates]))


NINE = tuple((10.0 * t, 1.0 + t) for t in range(9))
FAR_APART = ((10.0, 8.0), (50.0, 0.5), (90.0, 8.0))
TWO_CLOSE = ((5.0, 2.0), (10.0, 2.0), (90.0, 15.0))
"""Means and standard deviations of three tasks; the quarters that are cut end in the outer two."""
REPEATS = 20_000
"""Draws of all seeds that an expectation is taken over."""


def samples(one: Distribution, n: int, trials: int, seed: int) -> list[Array]:
    rng = np.random.default_rng([seed, n])
    return [one.draw(rng, n) for _ in range(trials)]


def coverage_of_mean(one: Distribution, n: int, trials: int, seed: int) -> float:
    drawn = samples(one, n, trials, seed)
    return covered([mean(list(x)) for x in drawn], one.truth(np.mean))


def coverage_of_iqm(one: Distribution, n: int, trials: int, seed: int) -> float:
    drawn = samples(one, n, trials, seed)
    return covered([iqm(list(x)) for x in drawn], one.truth(iqm_over_runs))


def coverage_of_bca(one: Distribution, n: int, trials: int, seed: int) -> float:
    """scipy's BCa of the mean, for comparison."""
    found = [
        bootstrap((x,), np.mean, method="BCa", n_resamples=999, rng=np.random.default_rng(seed))
        for x in samples(one, n, trials, seed)
    ]
    ends = [Estimate(0.0, *r.confidence_interval, n, 0.95, "BCa") for r in found]
    return covered(ends, one.truth(np.mean))


def tasks_with(one: Distribution, moments: Sequence[tuple[float, float]]) -> Tasks:
    """Tasks of these means and standard deviations."""
    factors = [deviation / one.truth(np.std) for _, deviation in moments]
    return tuple(
        (middle - factor * one.truth(np.mean), factor)
        for factor, (middle, _) in zip(factors, moments, strict=True)
    )


def drawn_tasks(one: Distribution, tasks: Tasks, rng: np.random.Generator, n: int) -> list[Array]:
    return [added + factor * one.draw(rng, n) for added, factor in tasks]


def intervals_over_tasks(
    one: Distribution, tasks: Tasks, n: int, trials: int, seed: int, statistic: Statistic
) -> list[Estimate]:
    rng = np.random.default_rng([seed, n])
    return [
        stratified(
            {str(t): list(x) for t, x in enumerate(drawn_tasks(one, tasks, rng, n))}, statistic
        )
        for _ in range(trials)
    ]


def coverage_over_tasks(one: Distribution, n: int, trials: int, seed: int) -> float:
    """Mean over nine tasks whose scores have other means and spreads."""
    truth = np.mean([added + factor * one.truth(np.mean) for added, factor in NINE])
    return covered(intervals_over_tasks(one, NINE, n, trials, seed, mean_over_tasks), float(truth))


def coverage_of_iqm_over_tasks(
    one: Distribution, n: int, trials: int, seed: int, tasks: Tasks
) -> float:
    """Interquartile mean over tasks, of infinitely many seeds."""
    infinite = drawn_tasks(one, tasks, np.random.default_rng(12345), 1_000_000)
    found = intervals_over_tasks(one, tasks, n, trials, seed, iqm_over_runs)
    return covered(found, float(iqm_over_runs(*infinite)))


def coverage_of_expected_iqm(
    one: Distribution, n: int, trials: int, seed: int, tasks: Tasks
) -> float:
    """Interquartile mean over tasks that as many seeds have on average."""
    many = drawn_tasks(one, tasks, np.random.default_rng(12345), REPEATS * n)
    expected = iqm_over_runs(*(x.reshape(REPEATS, n) for x in many), axis=-1).mean()
    found = intervals_over_tasks(one, tasks, n, trials, seed, iqm_over_runs)
    return covered(found, float(expected))


def coverage_of_difference(
    one: Distribution, n: int, trials: int, seed: int, paired: bool
) -> float:
    """Difference of 3 points; paired: half of the variance belongs to the seed."""
    rng = np.random.default_rng([seed, n])
    found = []
    for _ in range(trials):
        common = one.draw(rng, n) if paired else np.zeros(n)
        x, y = common + one.draw(rng, n) + 3, common + one.draw(rng, n)
        other = range(n) if paired else range(n, 2 * n)
        found.append(difference(dict(enumerate(x)), dict(zip(other, y, strict=True))).estimate)
    return covered(found, 3.0)


def coverage_of_improvement(one: Distribution, n: int, trials: int, seed: int) -> float:
    """P(X > Y) for a shift of 6 points on three tasks."""
    rng = np.random.default_rng(12345)
    truth = float(np.mean(one.draw(rng, 1_000_000) + 6 > one.draw(rng, 1_000_000)))
    rng = np.random.default_rng([seed, n])
    found = [
        probability_of_improvement(
            {str(t): list(one.draw(rng, n) + 6) for t in range(3)},
            {str(t): list(one.draw(rng, n)) for t in range(3)},
        )
        for _ in range(trials)
    ]
    return covered(found, truth)


def coverage_of_profile(one: Distribution, n: int, trials: int, seed: int) -> float:
    """Fraction of runs above the true mean, over three tasks."""
    threshold = one.truth(np.mean)
    truth = float(np.mean(one.draw(np.random.default_rng(12345), 1_000_000) > threshold))
    rng = np.random.default_rng([seed, n])
    found = [
        performance_profile({str(t): list(one.draw(rng, n)) for t in range(3)}, [threshold])
        for _ in range(trials)
    ]
    return covered([profile.estimates[0] for profile in found], truth)


KINDS: dict[str, Callable[[Distribution, int, int, int], float]] = {
    "mean": coverage_of_mean,
    "mean, scipy's BCa instead": coverage_of_bca,
    "interquartile mean": coverage_of_iqm,
    "mean over nine tasks": coverage_over_tasks,
    "interquartile mean over nine tasks": lambda *rest: coverage_of_iqm_over_tasks(
        *rest, tasks=NINE
    ),
    "interquartile mean over three tasks far apart": lambda one, *rest: coverage_of_iqm_over_tasks(
        one, *rest, tasks=tasks_with(one, FAR_APART)
    ),
    "interquartile mean over three tasks, two of them close": lambda one, *rest: (
        coverage_of_iqm_over_tasks(one, *rest, tasks=tasks_with(one, TWO_CLOSE))
    ),
    "..., expected of as many seeds": lambda one, *rest: coverage_of_expected_iqm(
        one, *rest, tasks=tasks_with(one, TWO_CLOSE)
    ),
    "difference, paired": lambda *rest: coverage_of_difference(*rest, paired=True),
    "difference, Welch": lambda *rest: coverage_of_difference(*rest, paired=False),
    "probability of improvement": coverage_of_improvement,
    "performance profile": coverage_of_profile,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    heads = [f"{one.name}, {n}" for one in DISTRIBUTIONS for n in SEEDS]
    print(f"| coverage of 95 % intervals, percent | {' | '.join(heads)} |")
    print("| :-- |" + " --: |" * len(heads))
    for kind, measure in KINDS.items():
        found = [
            measure(one, n, chosen.trials, chosen.seed) for one in DISTRIBUTIONS for n in SEEDS
        ]
        print(f"| {kind} | " + " | ".join(f"{value:.0f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    main()
