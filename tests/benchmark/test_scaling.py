"""Units go in and come out unchanged, and returns are normalised as D4RL does."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.errors import ObdBenchError
from benchmark.scaling import Scaling

LOW, HIGH = [-2.0, 0.0, -1.0], [4.0, 0.5, 1.0]
SPACE = gymnasium.spaces.Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))


@pytest.fixture
def scaling(small_dataset: Dataset) -> Scaling:
    return Scaling.of(small_dataset, SPACE)


def test_statistics_are_the_datasets_own(small_dataset: Dataset, scaling: Scaling) -> None:
    count, dim = small_dataset.observations.shape
    for d in range(dim):
        column = [float(value) for value in small_dataset.observations[:, d]]
        mean = sum(column) / count
        deviation = (sum((value - mean) ** 2 for value in column) / count) ** 0.5
        assert float(scaling.mean[d]) == pytest.approx(mean, rel=1e-5, abs=1e-7)
        assert float(scaling.std[d]) == pytest.approx(deviation + 1e-3, rel=1e-5)


def test_final_observations_of_episodes_do_not_count(small_dataset: Dataset) -> None:
    """No action was taken in them, so no student is trained on them."""
    states = small_dataset.states.copy()
    last = np.cumsum(small_dataset.lengths + 1) - 1
    states[last] = 1e6
    changed = Scaling.of(replace(small_dataset, states=states), SPACE)

    assert torch.equal(changed.mean, Scaling.of(small_dataset, SPACE).mean)


def test_statistics_hold_where_float32_sums_would_not(small_dataset: Dataset) -> None:
    states = (small_dataset.states * 0.01 + 4000).astype(np.float32)
    shifted = replace(small_dataset, states=states)
    exact = shifted.observations.astype(np.float64)

    scaling = Scaling.of(shifted, SPACE)

    np.testing.assert_allclose(scaling.mean.numpy(), exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scaling.std.numpy(), exact.std(0) + 1e-3, rtol=1e-4)


def test_observation_that_never_varies_stays_finite(small_dataset: Dataset) -> None:
    states = small_dataset.states.copy()
    states[:, 0] = 3.0
    scaling = Scaling.of(replace(small_dataset, states=states), SPACE)

    scaled = scaling.observations_in(torch.from_numpy(states))
    assert torch.equal(scaled[:, 0], torch.zeros(len(states)))


def test_normalised_observations_have_mean_0_and_deviation_near_1(
    small_dataset: Dataset, scaling: Scaling
) -> None:
    scaled = scaling.observations_in(torch.from_numpy(small_dataset.observations)).double()

    torch.testing.assert_close(scaled.mean(0), torch.zeros(11).double(), atol=1e-5, rtol=0)
    assert bool((scaled.std(0, correction=0) < 1).all())
    assert bool((scaled.std(0, correction=0) > 0.98).all())


def test_action_bounds_are_the_corners_of_the_unit_box(scaling: Scaling) -> None:
    bounds = torch.tensor([LOW, HIGH])

    assert torch.equal(scaling.actions_in(bounds), torch.tensor([[-1.0] * 3, [1.0] * 3]))
    assert torch.equal(scaling.actions_out(torch.tensor([[-1.0] * 3, [1.0] * 3])), bounds)


@pytest.mark.parametrize("lead", [(), (5,), (2, 5)])
def test_what_goes_in_comes_out(scaling: Scaling, lead: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    observations = 5 * torch.randn(*lead, 11, generator=generator)
    actions = torch.randn(*lead, 3, generator=generator)

    there = scaling.observations_in(observations)
    assert there.shape == observations.shape and not torch.allclose(there, observations)
    torch.testing.assert_close(scaling.observations_out(there), observations)
    there = scaling.actions_in(actions)
    assert there.shape == actions.shape and not torch.allclose(there, actions)
    torch.testing.assert_close(scaling.actions_out(there), actions)


@pytest.mark.parametrize("direction", ["observations_in", "observations_out"])
@pytest.mark.parametrize("width", [1, 3, 12])
def test_observations_of_another_dimension_are_refused(
    scaling: Scaling, direction: str, width: int
) -> None:
    """A width of 1 would broadcast without a word."""
    with pytest.raises(ObdBenchError, match=rf"observations .* \[4, {width}\].* must be 11"):
        getattr(scaling, direction)(torch.zeros(4, width))


@pytest.mark.parametrize("direction", ["actions_in", "actions_out"])
@pytest.mark.parametrize("width", [1, 11])
def test_actions_of_another_dimension_are_refused(
    scaling: Scaling, direction: str, width: int
) -> None:
    with pytest.raises(ObdBenchError, match=rf"actions .* \[4, {width}\].* must be 3"):
        getattr(scaling, direction)(torch.zeros(4, width))


def test_returns_are_normalised_as_d4rl_does() -> None:
    # d4rl/infos.py: REF_MIN_SCORE and REF_MAX_SCORE of hopper-*-v2.
    reference = ReferenceReturns(random=-20.272305, expert=3234.3)

    assert reference.normalise(-20.272305) == 0.0
    assert reference.normalise(3234.3) == 100.0
    # get_normalized_score gives (1000 + 20.272305) / (3234.3 + 20.272305) = 0.3134889...
    assert reference.normalise(1000.0) == pytest.approx(31.34889, abs=1e-5)
    assert reference.normalise(4000.0) > 100 and reference.normalise(-100.0) < 0
    np.testing.assert_allclose(
        reference.normalise(np.array([-20.272305, 3234.3])), [0.0, 100.0], atol=1e-12
    )
