"""Environment steps a second: Brax's Hopper in one compiled call against gymnasium's loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from benchmark.environments.lookup import make_batched

STEPS = 20


def batched(env_id: str, size: int) -> Callable[[], float]:
    """Seconds of a step of a batch, the best of `STEPS`, each from the first state."""
    batch, slots = make_batched(env_id, size), np.arange(size)

    def measure() -> float:
        taken = []
        for _ in range(STEPS):
            batch.reset(slots, slots.tolist())
            started = time.perf_counter()
            batch.step(slots, np.zeros((size, 3), np.float32))
            taken.append(time.perf_counter() - started)
        return min(taken)

    measure()  # compiles
    return measure


def looped(env_id: str, size: int) -> Callable[[], float]:
    """Seconds of a step of each of `size` environments of gymnasium, one after the other."""
    environments = [gymnasium.make(env_id) for _ in range(size)]

    def measure() -> float:
        taken = []
        for _ in range(STEPS):
            for seed, environment in enumerate(environments):
                environment.reset(seed=seed)
            started = time.perf_counter()
            for environment in environments:
                environment.step(np.zeros(3, np.float32))
            taken.append(time.perf_counter() - started)
        return min(taken)

    return measure


@pytest.mark.jax
@pytest.mark.parametrize("size", [1, 64, 1_024])
def test_steps_a_second(benchmark: Any, size: int) -> None:
    sides = {
        "Brax": batched("brax/hopper", size),
        "suite on MuJoCo": batched("Hopper-v5", size),
        "gymnasium's loop": looped("Hopper-v5", min(size, 64)),
    }
    rounds = [{name: side() for name, side in sides.items()} for _ in range(3)]  # in turn
    counts = {"gymnasium's loop": min(size, 64)}
    rates = {
        name: counts.get(name, size) / float(np.median([found[name] for found in rounds]))
        for name in sides
    }
    print({name: f"{rate:,.0f}" for name, rate in rates.items()})
    benchmark.extra_info.update(rates)
    benchmark.pedantic(sides["Brax"], rounds=1)
