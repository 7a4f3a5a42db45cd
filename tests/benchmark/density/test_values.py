"""Log densities that are not finite, or far apart, are counted and survived."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.density.density import DensityProblem, effective_support, finite_log_density

AUTHORS = (
    Path(__file__).parents[4] / "shared" / "density" / "log_density_maf_hopper-medium-replay.npy"
)

needs_authors_file = pytest.mark.skipif(
    not AUTHORS.is_file(), reason=f"the authors' log densities are not at {AUTHORS}"
)


def test_bad_values_take_the_nearest_finite_one_and_are_counted() -> None:
    values = torch.tensor([1.0, math.nan, -3.0, -math.inf, math.inf, 2.0])

    clean, bad = finite_log_density(values)

    assert clean.tolist() == [1.0, -3.0, -3.0, -3.0, 2.0, 2.0]
    assert clean.dtype == torch.float64 and bad == 3
    assert values[1].isnan(), "the caller's values stay as they are"


def test_finite_values_stay_as_they_are() -> None:
    values = torch.tensor([-400.0, 7.0], dtype=torch.float64)
    clean, bad = finite_log_density(values)
    assert torch.equal(clean, values) and bad == 0


def test_nothing_finite_is_refused() -> None:
    with pytest.raises(DensityProblem, match="None of 2 log densities is finite"):
        finite_log_density(torch.tensor([math.nan, math.inf]))


def test_support_is_the_definition_where_that_does_not_overflow() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=1000))
    weights = np.exp(-0.7 * np.maximum(values.numpy(), np.quantile(values.numpy(), 0.05)))

    support = effective_support(values, 0.7, floor_quantile=0.05)

    assert support == pytest.approx(weights.sum() ** 2 / (1000 * (weights**2).sum()), rel=1e-12)


def test_support_of_equal_densities_is_whole_and_of_one_outlier_a_single_state() -> None:
    assert effective_support(torch.full((50,), -700.0), 2.0) == pytest.approx(1.0)
    far = torch.zeros(50)
    far[7] = -5000.0  # exp(5000) is no float
    assert effective_support(far, 1.0) == pytest.approx(1 / 50)


@needs_authors_file
def test_authors_densities_survive_bad_values_and_a_range_of_80_nats() -> None:
    values = torch.from_numpy(np.load(AUTHORS, allow_pickle=False)).double()
    clean, bad = finite_log_density(values)
    assert bad == int((~values.isfinite()).sum()) and clean.isfinite().all()
    assert clean.max() - clean.min() > 80

    spoiled = clean.clone()
    spoiled[[5, 500, 5000]] = torch.tensor([math.nan, -math.inf, math.inf], dtype=torch.float64)
    mended, bad = finite_log_density(spoiled)

    assert bad == 3
    for exponent in (0.1, 0.25):
        expected = effective_support(clean, exponent, floor_quantile=0.01)
        found = effective_support(mended, exponent, floor_quantile=0.01)
        assert found == pytest.approx(expected, rel=1e-3)


@needs_authors_file
@pytest.mark.parametrize(
    ("exponent", "floor", "expected"),
    [
        (0.05, None, 0.857),
        (0.1, None, 0.062),
        (0.25, None, 4e-6),
        (0.1, 0.01, 0.617),
        (0.25, 0.01, 0.18),
        (0.5, 0.01, 0.051),
        (1.0, 0.01, 0.021),
    ],
)
def test_authors_densities_have_the_support_measured_before(
    exponent: float, floor: float | None, expected: float
) -> None:
    """Figures of an independent calculation, to the digits that were kept."""
    values, _ = finite_log_density(torch.from_numpy(np.load(AUTHORS, allow_pickle=False)))

    support = effective_support(values, exponent, floor_quantile=floor)

    digits = 0.0005 if expected > 1e-3 else 0.5e-6
    assert abs(support - expected) <= digits + 0.002 * expected
