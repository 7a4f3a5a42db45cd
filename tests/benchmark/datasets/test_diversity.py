"""Diversity figures against closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmark.datasets.dataset import Dataset
from benchmark.datasets.diversity import (
    PrincipalComponents,
    diversity,
    nearest_neighbour_entropy,
    sample_states,
)


@pytest.mark.parametrize(("dim", "scale"), [(1, 1.0), (2, 0.3), (4, 2.0)])
def test_the_entropy_of_a_gaussian_is_the_closed_form(dim: int, scale: float) -> None:
    points = scale * np.random.default_rng(0).normal(size=(20_000, dim))
    exact = dim / 2 * math.log(2 * math.pi * math.e) + dim * math.log(scale)
    assert nearest_neighbour_entropy(points, 10) == pytest.approx(exact, abs=0.05)


def test_copies_of_a_point_do_not_make_the_entropy_infinite() -> None:
    points = np.random.default_rng(0).normal(size=(3_000, 2))
    points[:20] = points[0]
    assert math.isfinite(nearest_neighbour_entropy(points, 10))


def test_components_are_those_of_numpys_singular_values() -> None:
    points = np.random.default_rng(0).normal(size=(500, 5)) * [3, 1, 5, 0.1, 2]
    plane = PrincipalComponents.of(points)
    found, shares = plane.at(points), plane.shares
    centred = points - points.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * values[:2]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(shares, values[:2] ** 2 / (values**2).sum())


def test_components_do_not_change_sign_with_the_order_of_the_rows() -> None:
    points = np.random.default_rng(1).normal(size=(300, 4)) * [3, 1, 2, 0.5]
    found = PrincipalComponents.of(points).at(points)
    reversed_ = PrincipalComponents.of(points[::-1]).at(points[::-1])
    np.testing.assert_allclose(found[::-1], reversed_, atol=1e-9)


def test_figures_are_the_same_each_time_and_grow_with_spread(small_dataset: Dataset) -> None:
    flat = torch.zeros(len(small_dataset))
    first, again = (diversity(small_dataset, flat) for _ in range(2))
    assert first == again
    assert first.support == pytest.approx(1.0)  # equal densities: every state counts the same
    uneven = diversity(small_dataset, torch.linspace(-5, 5, len(small_dataset)))
    assert uneven.support < 0.3


def test_the_mean_distance_is_that_of_all_pairs(small_dataset: Dataset) -> None:
    """2,000 transitions: the sample is all of them."""
    states = small_dataset.observations.astype(np.float64)
    states = (states - states.mean(0)) / (states.std(0) + 1e-3)
    distances = np.sqrt(((states[:, None] - states[None]) ** 2).sum(-1))
    pairs = distances[np.triu_indices(len(states), 1)]
    found = diversity(small_dataset, torch.zeros(len(states))).pairwise_distance
    assert found == pytest.approx(pairs.mean(), rel=1e-6)


def test_a_sample_holds_no_state_twice(small_dataset: Dataset) -> None:
    states = sample_states(small_dataset, 10_000, np.random.default_rng(0))
    assert states.shape == small_dataset.observations.shape
    assert len(np.unique(states, axis=0)) == len(np.unique(small_dataset.observations, axis=0))
