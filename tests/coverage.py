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

from results.differences import difference
from results.statistics import (
    Estimate,
    iqm,
    iqm_over_runs,
    mean,
    performance_profile,
    probability_of_improvement,
    stratified,
)

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]


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


def coverage_over_tasks(one: Distribution, n: int, trials: int, seed: int) -> float:
    """Mean over nine tasks whose scores have other means and spreads."""
    truth = np.mean([10 * t + (1 + t) * one.truth(np.mean) for t in range(9)])
    rng = np.random.default_rng([seed, n])
    found = [
        stratified({str(t): list(10 * t + (1 + t) * one.draw(rng, n)) for t in range(9)})
        for _ in range(trials)
    ]
    return covered(found, float(truth))


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
