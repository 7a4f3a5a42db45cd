"""A masked autoregressive flow: training steps and scoring, against plain zuko with autograd.

Times of two candidates are taken turn by turn, because other work on the machine then weighs on
both alike; ratios are recorded in `extra_info`. That both compute the same is asserted here, and
in float64 in `tests/benchmark/density/test_flow.py`.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import zuko
from torch import Tensor

from benchmark.density.flow import MaskedAutoregressiveFlow
from benchmark.density.flow_gradient import FlowGradient
from benchmark.density.maf import MAF, FlowDensity

WIDTH, BATCH, STEPS = 17, 100, 200
PAPER = MAF()
FIT_STEPS = 200_000 // BATCH * PAPER.epochs
"""Of the papers' settings on 200,000 states."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def new_flow() -> MaskedAutoregressiveFlow:
    torch.manual_seed(0)
    return MaskedAutoregressiveFlow(WIDTH, PAPER.blocks, (PAPER.width,) * PAPER.hidden_layers)


def batches() -> Tensor:
    """`[STEPS, BATCH, WIDTH]`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(STEPS, BATCH, WIDTH, generator=generator)


class Explicit:
    """The suite's step: the gradient written out, one parameter vector."""

    def __init__(self, flow: MaskedAutoregressiveFlow) -> None:
        self.flow, self.gradient = flow, FlowGradient(flow, BATCH)
        self.optimizer = torch.optim.Adam(
            [self.gradient.vector], PAPER.learning_rate, weight_decay=PAPER.weight_decay, fused=True
        )

    def step(self, batch: Tensor) -> None:
        self.gradient.compute(batch.T.contiguous())
        self.optimizer.step()


class Autograd:
    """The step that a reader would write, for our flow (batch norm included) or zuko's own MAF."""

    def __init__(self, flow: torch.nn.Module, log_prob: Callable[[Tensor], Tensor]) -> None:
        self.flow, self.log_prob = flow, log_prob
        self.optimizer = torch.optim.Adam(
            flow.parameters(), PAPER.learning_rate, weight_decay=PAPER.weight_decay
        )

    def step(self, batch: Tensor) -> None:
        loss = -self.log_prob(batch).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


@pytest.mark.benchmark(group="density")
@pytest.mark.parametrize("other", ["same flow, autograd", "zuko.flows.MAF, no batch norm"])
def test_training_step(benchmark: Any, other: str) -> None:
    """200 steps of 100 states of 17 dimensions, the papers' flow."""
    explicit, data = Explicit(new_flow()), batches()
    if other == "same flow, autograd":
        twin = copy.deepcopy(new_flow())
        plain = Autograd(twin, twin.log_prob)
    else:
        zukos = zuko.flows.MAF(WIDTH, transforms=PAPER.blocks, hidden_features=(PAPER.width,))
        plain = Autograd(zukos, lambda batch: zukos().log_prob(batch))

    benchmark.pedantic(lambda: _steps(explicit, data), rounds=3, warmup_rounds=1)
    ratios, fast = _in_turns(lambda: _steps(explicit, data), lambda: _steps(plain, data))

    benchmark.extra_info["against"] = other
    benchmark.extra_info["speedup"] = ratios
    benchmark.extra_info["milliseconds_a_step"] = 1000 * fast / STEPS
    benchmark.extra_info["seconds_for_200_000_states"] = fast / STEPS * FIT_STEPS


@pytest.mark.benchmark(group="density")
def test_both_steps_give_the_same_flow(benchmark: Any) -> None:
    """In float32, after ten steps; the time is that of zuko with autograd."""
    explicit, twin = Explicit(new_flow()), new_flow()
    plain, data = Autograd(twin, twin.log_prob), batches()[:10]

    _steps(explicit, data)
    benchmark.pedantic(lambda: _steps(plain, data), rounds=1)

    states = batches()[-1]
    found, expected = (FlowDensity(flow).log_prob(states) for flow in (explicit.flow, twin))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.benchmark(group="density")
def test_scoring_a_million_states(benchmark: Any) -> None:
    """`log_prob` of 1,000,000 states of 17 dimensions."""
    states = torch.randn(1_000_000, WIDTH, generator=torch.Generator().manual_seed(0))
    density = FlowDensity(new_flow())
    values = benchmark.pedantic(density.log_prob, args=(states,), rounds=1)
    assert values.shape == (1_000_000,) and values.isfinite().all()


def _steps(trainer: Explicit | Autograd, data: Tensor) -> None:
    for batch in data:
        trainer.step(batch)


def _in_turns(
    fast: Callable[[], object], slow: Callable[[], object], rounds: int = 5
) -> tuple[float, float]:
    """Median of slow / fast over rounds, and the median seconds of the fast one."""
    ratios, seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        fast()
        middle = time.perf_counter()
        slow()
        seconds.append(middle - start)
        ratios.append((time.perf_counter() - middle) / seconds[-1])
    return statistics.median(ratios), statistics.median(seconds)
