"""Differences of two cells against scipy's tests, and Holm's correction against his rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as t_distribution
from scipy.stats import ttest_ind, ttest_rel

from results.differences import difference, holm, mean_difference
from results.statistics import StatisticsError

X = {0: 12.0, 1: 15.5, 2: 11.0, 3: 19.0}
Y = {0: 10.0, 1: 14.0, 2: 10.5, 3: 16.0}


def test_cells_of_the_same_seeds_are_compared_seed_by_seed() -> None:
    found = difference(X, {seed: Y[seed] for seed in reversed(Y)})  # whatever the order
    expected = ttest_rel(list(X.values()), list(Y.values()))
    ends = expected.confidence_interval(0.95)
    assert found.paired
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(ends), rel=1e-9)
    assert found.estimate.value == pytest.approx(1.75)


def test_cells_of_other_seeds_are_compared_by_welchs_test() -> None:
    other = {seed + 1: score for seed, score in Y.items()} | {7: 30.0}
    found = difference(X, other)
    expected = ttest_ind(list(X.values()), list(other.values()), equal_var=False)
    ends = expected.confidence_interval(0.95)
    assert not found.paired
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(ends), rel=1e-9)


def test_pairing_finds_what_the_noise_of_the_seeds_hides() -> None:
    apart = difference(X, Y).p
    assert apart < 0.05 < difference(X, {seed + 10: score for seed, score in Y.items()}).p


def test_a_single_seed_has_no_interval() -> None:
    found = difference({0: 1.0}, Y)
    assert not found.estimate.has_interval
    assert math.isnan(found.p)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (3.0, 0.0)])
def test_a_difference_that_never_varies_is_certain(shift: float, p: float) -> None:
    found = difference(X, {seed: score - shift for seed, score in X.items()})
    assert (found.estimate.low, found.estimate.high, found.p) == (shift, shift, p)


def test_holm_multiplies_by_the_comparisons_that_are_left() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, and never below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_holm_leaves_out_what_could_not_be_compared() -> None:
    adjusted = holm([math.nan, 0.03, 0.2])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.06, 0.2])


def test_holm_holds_the_share_of_tables_with_a_false_difference() -> None:
    """Of tables of twenty comparisons of equals, one in twenty calls one of them apart."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        cells = [dict(enumerate(rng.normal(size=5))) for _ in range(21)]
        p_values = [difference(cells[0], other).p for other in cells[1:]]
        false += min(holm(p_values)) < 0.05
    assert false / 300 < 0.10
    assert false > 0


def test_means_over_tasks_are_compared_task_by_task() -> None:
    """Equal tasks: the t test of all pairs with a freedom per task; unequal ones by hand."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(1.0, size=(3, 4)), rng.normal(size=(3, 4))  # [task, seed]
    one = {f"task {t}": dict(enumerate(x[t])) for t in range(3)}
    other = {f"task {t}": dict(enumerate(y[t])) for t in range(3)}
    other["task 2"] = {seed + 1: score for seed, score in other["task 2"].items()}
    found = mean_difference(one, other)
    paired, free = (x - y)[:2], (x[2], y[2])
    variances = [*paired.var(1, ddof=1), *(scores.var(ddof=1) for scores in free)]
    error = math.sqrt(sum(variances) / 4) / 3
    freedom = sum(variances) ** 2 / sum(v**2 / 3 for v in variances)
    assert not found.paired
    assert found.estimate.value == pytest.approx(x.mean() - y.mean())
    half = t_distribution.ppf(0.975, freedom) * error
    assert found.estimate.high - found.estimate.value == pytest.approx(half)
    assert found.p == pytest.approx(
        2 * t_distribution.sf(abs(found.estimate.value) / error, freedom)
    )


def test_a_task_of_one_seed_leaves_the_mean_without_an_interval() -> None:
    assert not mean_difference(
        {"a": X, "b": {0: 1.0}}, {"a": Y, "b": {0: 0.0}}
    ).estimate.has_interval


def test_means_over_other_tasks_are_not_compared() -> None:
    with pytest.raises(
        StatisticsError, match=r"'b' has scores of one side only; .* both have: \['a'\]"
    ):
        mean_difference({"a": X, "b": X}, {"a": Y})


def test_a_cell_without_a_score_has_no_difference() -> None:
    found = difference({}, Y)
    assert math.isnan(found.estimate.value)
    assert not found.estimate.has_interval
