"""The captured inner loop where there is no GPU: the loop itself, and clear errors."""

from __future__ import annotations

import pytest
import torch

from baselines.cuda_graph import CapturedInnerLoop
from baselines.meta_gradient import InnerLoop, OuterBatch, Pairs
from benchmark.errors import ObdBenchError
from benchmark.students.heads import HEADS
from benchmark.students.network import Network, Parameters

NETWORK = Network((5, 8, 6))
LOOP = InnerLoop(NETWORK, HEADS["sampled"], steps=4, learning_rate=0.1)


def draw(seed: int) -> tuple[Parameters, Pairs, OuterBatch, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return (
        NETWORK.initialise(generator),
        Pairs(normal(1, 7, 5), normal(1, 7, 3)),
        OuterBatch(normal(1, 9, 5), normal(1, 9, 3), None, normal(1, 9, 3)),
        normal(4, 1, 7, 3),
    )


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 0)], ids=["one call", "several calls"])
def test_on_the_cpu_it_is_the_loop_itself(seeds: tuple[int, ...]) -> None:
    captured = CapturedInnerLoop(LOOP)
    for seed in seeds:
        arguments = draw(seed)
        found, expected = captured.gradient(*arguments), LOOP.gradient(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_tensors_on_several_devices_are_refused() -> None:
    initial, pairs, outer, noise = draw(0)
    with pytest.raises(ObdBenchError, match=r"several devices \(cpu, meta\)"):
        CapturedInnerLoop(LOOP).gradient(initial, pairs, outer, noise.to("meta"))


def test_a_device_that_is_no_gpu_is_refused() -> None:
    initial, pairs, outer, noise = draw(0)
    with pytest.raises(ObdBenchError, match=r"needs tensors on a CUDA device.*got meta"):
        CapturedInnerLoop(LOOP).gradient(
            [(weight.to("meta"), bias.to("meta")) for weight, bias in initial],
            Pairs(*(tensor.to("meta") for tensor in pairs)),
            OuterBatch(outer.observations.to("meta"), outer.actions.to("meta")),
            noise.to("meta"),
        )
