"""Intervals against brute force and closed forms, never against the module's own output."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, mstats, norm, ttest_1samp, ttest_ind
from scipy.stats import t as students_t

from results.bootstrap import Statistic, improvement_over_tasks
from results.statistics import (
    FEW_SEEDS,
    Estimate,
    StatisticsError,
    estimates,
    iqm,
    iqm_over_runs,
    mean,
    mean_over_tasks,
    performance_profile,
    probability_of_improvement,
    stratified,
)
from tests.coverage import DISTRIBUTIONS, KINDS, Distribution

UNEQUAL = {
    "hopper": [20.1, 25.3, 22.8, 28.0, 19.5, 24.2],
    "walker2d": [50.0, 41.2, 47.7, 44.4],
    "ant": [5.0, 9.0, 7.5, 6.1, 8.2],
}

MANY = {
    task: list(np.random.default_rng(place).normal(np.mean(scores), 3.0, count))
    for place, (count, (task, scores)) in enumerate(zip((41, 30, 35), UNEQUAL.items(), strict=True))
}


def brute_force(
    tasks: Sequence[Sequence[float]],
    statistic: Callable[[list[np.ndarray]], float],
    resamples: int = 20_000,
) -> np.ndarray:
    """A percentile bootstrap in plain loops: every task is resampled by itself."""
    rng = np.random.default_rng(7)
    arrays = [np.asarray(task) for task in tasks]
    drawn = [
        statistic([rng.choice(array, size=len(array)) for array in arrays])
        for _ in range(resamples)
    ]
    return np.quantile(drawn, [0.025, 0.975])


def trimmed_by_hand(scores: np.ndarray) -> float:
    cut = len(scores) // 4
    return float(np.mean(np.sort(scores)[cut : len(scores) - cut]))


def test_mean_on_many_seeds_has_the_interval_of_normal_theory() -> None:
    scores = np.random.default_rng(1).normal(30.0, 5.0, size=2_000)
    estimate = mean(scores.tolist())
    half = norm.ppf(0.975) * scores.std(ddof=1) / math.sqrt(len(scores))
    assert estimate.value == pytest.approx(scores.mean())
    assert estimate.low == pytest.approx(scores.mean() - half, abs=0.03 * half)
    assert estimate.high == pytest.approx(scores.mean() + half, abs=0.03 * half)
    assert (estimate.n, estimate.level, estimate.interval) == (2_000, 0.95, "BCa")


@pytest.mark.parametrize("count", [2, 3, 5, 10, FEW_SEEDS - 1])
def test_the_mean_of_few_seeds_has_students_interval(count: int) -> None:
    scores = np.random.default_rng(count).normal(30.0, 5.0, count)
    estimate = mean(list(scores))
    expected = ttest_1samp(scores, 0.0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), rel=1e-9)
    assert estimate.interval == "t"


def test_the_mean_over_two_tasks_has_welchs_interval() -> None:
    # Half of the sum of two means is half of the difference from the other one's negative.
    x, y = np.array(UNEQUAL["hopper"]), np.array(UNEQUAL["ant"])
    estimate = stratified({"hopper": list(x), "ant": list(y)})
    expected = ttest_ind(x, -y, equal_var=False).confidence_interval(0.95)
    ends = (expected.low / 2, expected.high / 2)
    assert (estimate.low, estimate.high) == pytest.approx(ends, rel=1e-9)


def test_the_iqm_of_few_seeds_has_yuens_interval() -> None:
    # Against a constant (whose variance is 0) Yuen's trimmed test is that of Tukey and McLaughlin.
    scores = np.array([3.0, 8.0, 8.5, 9.0, 9.2, 10.0, 11.0, 30.0])
    estimate = iqm(list(scores))
    cut = mstats.trimmed_mean_ci(scores, (0.25, 0.25), alpha=0.05)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(cut), rel=1e-9)


def test_the_iqm_of_scores_at_a_ceiling_is_not_certain() -> None:
    # Winsorised, 100, 100, 100, 100 and 80 are five times 100, and the fifth run never was.
    scores = [100.0, 100.0, 80.0, 100.0, 100.0]
    estimate = iqm(scores)
    half = students_t.ppf(0.975, 4) * math.sqrt(4 / 9 * np.var(scores, ddof=1))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (100, 100 - half, 100 + half)
    )
    assert estimates([scores, scores[::-1]], iqm_over_runs) == [estimate, estimate]
    same = iqm([100.0] * 5)
    assert (same.low, same.high) == (100.0, 100.0)


def test_an_extreme_score_that_is_kept_widens_the_interval_of_the_iqm_over_tasks() -> None:
    # Of nine scores 2, 50, 50, 50 and 100 are kept: a fifth of a score of each outer task.
    tasks = {"hopper": [0.0, 1.0, 2.0], "ant": [50.0] * 3, "walker2d": [100.0, 120.0, 140.0]}
    estimate = stratified(tasks, iqm_over_runs)
    low, high = np.var(tasks["hopper"], ddof=1) / 25, np.var(tasks["walker2d"], ddof=1) / 25
    freedom = (low + high) ** 2 / (low**2 / 2 + high**2 / 2)
    half = students_t.ppf(0.975, freedom) * math.sqrt(low + high)
    assert estimate.value == pytest.approx(50.4)
    assert (estimate.low, estimate.high) == pytest.approx((50.4 - half, 50.4 + half))


def assert_scipys_ends(
    estimate: Estimate, samples: tuple[NDArray[np.float64], ...], statistic: Statistic
) -> None:
    """The interval is scipy's BCa of the same resamples, whose seed is 3."""
    expected = bootstrap(
        samples,
        statistic,
        n_resamples=9_999,
        batch=1_000,
        vectorized=True,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), rel=1e-13)
    assert estimate.interval == "BCa"


def test_many_samples_at_once_have_the_estimates_of_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    counts = [5, 1, FEW_SEEDS, 2, 5, FEW_SEEDS - 1, 5, 1, FEW_SEEDS + 11]
    samples = [list(rng.normal(50, 9, count)) for count in counts] + [[4.0] * 5]
    for statistic, single in ((mean_over_tasks, mean), (iqm_over_runs, iqm)):
        assert estimates(samples, statistic) == [single(scores) for scores in samples]
    assert estimates([]) == []
    with pytest.raises(StatisticsError, match=r"scores\[1\] is nan"):
        estimates([*samples, [1.0, math.nan, 2.0, 3.0, 4.0]])


@pytest.mark.parametrize("counts", [(FEW_SEEDS,), (41, 30, 35)])
@pytest.mark.parametrize("statistic", [mean_over_tasks, iqm_over_runs])
def test_the_bootstrap_has_scipys_ends(counts: tuple[int, ...], statistic: Statistic) -> None:
    rng = np.random.default_rng(0)
    tasks = {str(place): np.sort(rng.gamma(2.0, size=count)) for place, count in enumerate(counts)}
    estimate = stratified({task: list(scores) for task, scores in tasks.items()}, statistic, seed=3)
    assert_scipys_ends(estimate, tuple(tasks.values()), statistic)


@pytest.mark.parametrize("counts", [(5, 5), (3, 7, 4, 6)])
def test_the_bootstrap_of_an_improvement_has_scipys_ends(counts: tuple[int, ...]) -> None:
    """Also where scores tie: many resamples are then exactly as good as the scores."""
    rng = np.random.default_rng(1)
    samples = tuple(np.sort(rng.integers(0, 6, size=count).astype(float)) for count in counts)
    half = len(counts) // 2
    x, y = ({str(i): list(s) for i, s in enumerate(part)} for part in
            (samples[:half], samples[half:]))  # fmt: skip
    estimate = probability_of_improvement(x, y, seed=3)
    assert_scipys_ends(estimate, samples, improvement_over_tasks)


def test_bca_moves_towards_the_long_tail() -> None:
    scores = [*np.linspace(1.0, 1.5, FEW_SEEDS - 1), 9.0]
    low, high = brute_force([scores], lambda tasks: float(np.mean(tasks[0])))
    estimate = mean(scores)
    assert estimate.low > low
    assert estimate.high > high


def test_iqm_cuts_a_quarter_at_either_end() -> None:
    scores = [0.0, 2.0, 11.0, 12.0, 13.0, 14.0, 15.0, 1_000.0]
    estimate = iqm(scores)
    assert estimate.value == pytest.approx(np.mean([11.0, 12.0, 13.0, 14.0]))
    assert estimate.value == pytest.approx(trimmed_by_hand(np.asarray(scores)))


def test_iqm_interval_agrees_with_brute_force() -> None:
    scores = np.random.default_rng(3).normal(50.0, 4.0, size=60)
    low, high = brute_force([scores.tolist()], lambda tasks: trimmed_by_hand(tasks[0]), 5_000)
    estimate = iqm(scores.tolist())
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.35)


def test_stratified_mean_agrees_with_brute_force_over_unequal_seed_counts() -> None:
    tasks = list(MANY.values())
    low, high = brute_force(tasks, lambda drawn: float(np.mean([task.mean() for task in drawn])))
    estimate = stratified(MANY)
    assert estimate.value == pytest.approx(np.mean([np.mean(task) for task in tasks]))
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.03)
    assert estimate.n == 106


def test_stratified_iqm_agrees_with_brute_force() -> None:
    tasks = list(MANY.values())
    low, high = brute_force(tasks, lambda drawn: trimmed_by_hand(np.concatenate(drawn)), 5_000)
    estimate = stratified(MANY, iqm_over_runs)
    assert estimate.value == pytest.approx(trimmed_by_hand(np.concatenate(tasks)))
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.4)


def test_stratified_never_mixes_tasks() -> None:
    # Each task is constant: the spread between tasks must not enter the interval.
    estimate = stratified({"hopper": [1.0, 1.0, 1.0], "ant": [100.0, 100.0, 100.0]})
    assert (estimate.value, estimate.low, estimate.high) == (50.5, 50.5, 50.5)


def test_probability_of_improvement_agrees_with_counting_pairs() -> None:
    x = {"hopper": [1.0, 2.0, 3.0, 3.0], "ant": [5.0, 6.0, 9.0]}
    y = {"hopper": [2.0, 2.0, 3.0], "ant": [5.5, 1.0, 6.0, 7.0]}

    def by_pairs(a: Iterable[float], b: Iterable[float]) -> float:
        pairs = list(itertools.product(a, b))
        return sum((i > j) + 0.5 * (i == j) for i, j in pairs) / len(pairs)

    estimate = probability_of_improvement(x, y)
    expected = np.mean([by_pairs(x[task], y[task]) for task in x])
    low, high = brute_force(
        [*x.values(), *y.values()],
        lambda s: (by_pairs(s[0], s[2]) + by_pairs(s[1], s[3])) / 2.0,
        4_000,
    )
    assert estimate.value == pytest.approx(expected)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.06)


def test_probability_of_improvement_at_its_ends_has_an_exact_interval() -> None:
    # Three tasks of at least four seeds are twelve independent trials, all of them won.
    trials = binomtest(12, 12).proportion_ci(0.95, method="exact")
    above = {task: [score + 100 for score in scores] for task, scores in UNEQUAL.items()}
    won, lost = (probability_of_improvement(*pair) for pair in ((above, UNEQUAL), (UNEQUAL, above)))
    assert (won.value, won.low, won.high) == pytest.approx((1.0, trials.low, 1.0))
    assert (lost.value, lost.low, lost.high) == pytest.approx((0.0, 0.0, 1 - trials.low))
    assert won.interval == lost.interval == "exact"


@pytest.mark.parametrize("seeds", [3, 5])
def test_tasks_that_are_won_or_lost_by_every_run_do_not_make_an_interval_of_no_width(
    seeds: int,
) -> None:
    low, high = ([base + 0.1 * i for i in range(seeds)] for base in (0.0, 10.0))
    x = {"hopper": high, "ant": high, "walker2d": low}
    y = {"hopper": low, "ant": low, "walker2d": high}
    estimate = probability_of_improvement(x, y)
    trials = binomtest(2 * seeds, 3 * seeds).proportion_ci(0.95, method="exact")
    assert (estimate.value, estimate.interval) == (pytest.approx(2 / 3), "exact")
    assert (estimate.low, estimate.high) == pytest.approx(tuple(trials))


def test_where_a_task_is_won_by_every_run_the_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    chances, trials = (0.99, 0.99, 0.01), 100
    shifts = np.sqrt(2) * norm.ppf(chances)
    found = [
        probability_of_improvement(
            {str(task): list(rng.normal(shift, 1, 5)) for task, shift in enumerate(shifts)},
            {str(task): list(rng.normal(0, 1, 5)) for task in range(3)},
        )
        for _ in range(trials)
    ]
    held = sum(e.low <= np.mean(chances) <= e.high for e in found)
    assert held >= 90  # BCa alone holds it in a quarter of the trials


def test_probability_of_improvement_is_antisymmetric() -> None:
    other = {task: [score * 1.05 for score in scores] for task, scores in UNEQUAL.items()}
    forth, back = (
        probability_of_improvement(*pair) for pair in ((UNEQUAL, other), (other, UNEQUAL))
    )
    assert forth.value + back.value == pytest.approx(1.0)


def test_performance_profile_counts_runs_above_each_threshold() -> None:
    profile = performance_profile(UNEQUAL, [0.0, 7.5, 24.2, 100.0])
    expected = [
        np.mean([np.mean(np.asarray(scores) > tau) for scores in UNEQUAL.values()])
        for tau in profile.thresholds
    ]
    assert [estimate.value for estimate in profile.estimates] == pytest.approx(expected)


def test_a_profile_of_few_seeds_has_wilsons_intervals() -> None:
    scores = {"hopper": [1.0, 2.0, 3.0, 4.0], "ant": [2.0, 3.0, 4.0, 5.0]}
    profile = performance_profile(scores, [0.0, 2.5, 9.0])
    for estimate, above in zip(profile.estimates, (8, 5, 0), strict=True):
        ends = binomtest(above, 8).proportion_ci(0.95, method="wilson")
        assert (estimate.low, estimate.high) == pytest.approx(tuple(ends), abs=1e-12)
        assert estimate.interval == "Wilson"


@pytest.mark.parametrize("counts", [(5, 5), (2, 10), (2, 28)])
def test_a_profile_of_tasks_of_unequal_seeds_holds_the_truth(counts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    trials, held = 400, 0
    for _ in range(trials):
        scores = {str(task): list(rng.normal(0, 1, n)) for task, n in enumerate(counts)}
        (estimate,) = performance_profile(scores, [0.0]).estimates
        held += estimate.low <= 0.5 <= estimate.high
    assert held > 0.92 * trials


def test_performance_profile_interval_agrees_with_brute_force() -> None:
    profile = performance_profile(MANY, [22.0])
    low, high = brute_force(
        list(MANY.values()),
        lambda drawn: float(np.mean([np.mean(task > 22.0) for task in drawn])),
        5_000,
    )
    assert profile.estimates[0].low == pytest.approx(low, abs=0.02)
    assert profile.estimates[0].high == pytest.approx(high, abs=0.02)


def test_same_seed_same_interval_whatever_the_order_of_scores_and_tasks() -> None:
    assert mean([3.0, 1.0, 2.0, 9.0]) == mean([9.0, 3.0, 2.0, 1.0])
    reordered = {task: scores[::-1] for task, scores in reversed(UNEQUAL.items())}
    assert stratified(reordered) == stratified(UNEQUAL)


def test_another_seed_gives_slightly_different_ends() -> None:
    scores = np.random.default_rng(5).normal(size=FEW_SEEDS).tolist()
    first, second = mean(scores, seed=0), mean(scores, seed=1)
    assert first != second
    assert first.low == pytest.approx(second.low, abs=0.05)


def test_one_seed_has_no_interval_and_prints_its_n() -> None:
    estimate = mean([21.34])
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert not estimate.has_interval
    assert str(estimate) == "21.3 (n=1)"


def test_one_seed_in_one_task_leaves_the_whole_without_an_interval() -> None:
    scores = {"hopper": [1.0, 2.0, 3.0], "ant": [4.0]}
    assert stratified(scores).interval == "none"
    assert math.isnan(performance_profile(scores, [2.0]).estimates[0].low)


@pytest.mark.parametrize("statistic", [mean, iqm])
def test_equal_scores_give_an_interval_without_width(
    statistic: Callable[[Sequence[float]], Estimate],
) -> None:
    for count in (3, FEW_SEEDS):
        estimate = statistic([0.1] * count)
        assert (estimate.low, estimate.high) == pytest.approx((0.1, 0.1))
        assert estimate.value == pytest.approx(0.1)


def test_a_jackknife_without_spread_falls_back_to_percentiles() -> None:
    # Leaving out any one score gives the same IQM, so BCa's acceleration is 0 / 0.
    estimate = iqm([0.0, *[5.0] * FEW_SEEDS, 100.0])
    assert estimate.interval == "percentile"
    assert estimate.low <= 5.0 <= estimate.high


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], r"scores has shape \(0,\)"),
        ([1.0, float("nan")], r"scores\[1\] is nan"),
        ([float("inf"), 1.0], r"scores\[0\] is inf"),
    ],
)
def test_unusable_scores_are_named(scores: list[float], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        mean(scores)


def test_unusable_tasks_are_named() -> None:
    with pytest.raises(StatisticsError, match="scores_by_task is empty"):
        stratified({})
    with pytest.raises(StatisticsError, match=r"scores_by_task\['ant'\] has shape"):
        stratified({"ant": []})
    with pytest.raises(StatisticsError, match="'walker2d' is in one of"):
        probability_of_improvement({"ant": [1.0], "walker2d": [1.0]}, {"ant": [1.0]})
    with pytest.raises(StatisticsError, match="thresholds has shape"):
        performance_profile(UNEQUAL, [])


def test_a_level_in_percent_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"level is 95"):
        mean([1.0, 2.0], level=95)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    scores = UNEQUAL["hopper"]
    wide, narrow = mean(scores), mean(scores, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_mean_over_tasks_weighs_tasks_alike() -> None:
    assert mean_over_tasks(np.zeros(9), np.full(1, 10.0)) == pytest.approx(5.0)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda one: one.name)
@pytest.mark.parametrize(
    ("kind", "seeds", "least"),
    [("mean", 5, 88), ("mean", 10, 90), ("mean over nine tasks", 5, 91),
     ("difference, paired", 3, 91), ("difference, Welch", 5, 91),
     ("interquartile mean over nine tasks", 5, 91),
     ("interquartile mean over three tasks far apart", 3, 91),
     ("interquartile mean over three tasks far apart", 5, 91)],
)  # fmt: skip
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    distribution: Distribution, kind: str, seeds: int, least: float
) -> None:
    """`python -m tests.coverage` measures it more closely, and what a bootstrap would cover."""
    assert KINDS[kind](distribution, seeds, 300, 0) >= least


def test_students_interval_covers_what_the_bootstrap_misses() -> None:
    normal = DISTRIBUTIONS[0]
    assert KINDS["mean, scipy's BCa instead"](normal, 3, 200, 0) < 80
    assert KINDS["mean"](normal, 3, 200, 0) > 90
