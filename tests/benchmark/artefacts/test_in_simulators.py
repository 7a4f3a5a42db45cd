"""What scoring takes from JAX: first states that are kept, and the authors' initialization."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from benchmark.artefacts.initialization import authors_parameters
from benchmark.environments.lookup import make_batched
from benchmark.students.spec import RECIPES

# JAX is imported by the tests themselves: its log closes the stream that a collection captures.
pytestmark = pytest.mark.jax


def test_a_slot_that_begins_again_from_its_seed_costs_no_reset() -> None:
    batch: Any = make_batched("minatar/breakout", 3)
    seeds = [5, 6, 7]
    first = batch.reset([0, 1, 2], seeds)
    while not (ended := batch.step(np.arange(3), np.array([0, 1, 2]))).terminated.any():
        pass
    slots = np.flatnonzero(ended.terminated)
    with mock.patch.object(type(batch._task), "reset", side_effect=AssertionError, create=True):
        again = batch.reset(slots, [seeds[slot] for slot in slots])
    np.testing.assert_array_equal(again, first[slots])
    again[:] = 9  # the caller's own copy
    fresh = make_batched("minatar/breakout", 3)
    fresh.reset([0, 1, 2], seeds)
    actions = np.zeros(len(slots), np.int64)
    expected = fresh.step(slots, actions)
    np.testing.assert_array_equal(batch.step(slots, actions).observations, expected.observations)
    anew = batch.reset(slots, [seed + 10 for seed in range(len(slots))])
    other = make_batched("minatar/breakout", 3)
    np.testing.assert_array_equal(
        anew, other.reset(slots, [seed + 10 for seed in range(len(slots))])
    )


def actor() -> Any:
    """The authors' policy, by its description: two hidden layers, and a deviation of its own."""
    from flax import linen

    class Actor(linen.Module):  # type: ignore[misc]
        @linen.compact
        def __call__(self, values: Any) -> Any:
            orthogonal, zeros = linen.initializers.orthogonal, linen.initializers.zeros
            for _ in range(2):
                hidden = linen.Dense(512, kernel_init=orthogonal(np.sqrt(2)), bias_init=zeros)
                values = linen.tanh(hidden(values))
            values = linen.Dense(3, kernel_init=orthogonal(0.01), bias_init=zeros)(values)
            return values, self.param("log_std", zeros, (3,))

    return Actor()


def test_the_authors_initialization_is_that_of_their_module() -> None:
    import jax

    network = RECIPES["hades"].network(11, 3)
    found = authors_parameters(420, network)
    with jax.threefry_partitionable(False):  # the default of that time
        module = actor().init(jax.random.PRNGKey(420), np.zeros(11, np.float32))["params"]
    for layer in range(3):
        kernel = np.asarray(module[f"Dense_{layer}"]["kernel"])
        np.testing.assert_allclose(found[layer][0][0].numpy(), kernel.T, atol=1e-6)
        assert not found[layer][1].any()
    assert [weight.shape for weight, _ in found] == [
        (1, 512, 11),
        (1, 512, 512),
        (1, 3, 512),
        (1, 3, 0),
    ]
    torch.testing.assert_close(
        found[1][0][0] @ found[1][0][0].T, 2 * torch.eye(512), atol=1e-4, rtol=0
    )
    other = authors_parameters(421, network)
    assert not torch.equal(found[0][0], other[0][0])
