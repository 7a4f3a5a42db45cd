"""The captured inner loop where there is no GPU: the loop itself, and clear errors."""

from __future__ import annotations

import pytest
import torch

from baselines.cuda_graph import capture, layout, on_device, tensors
from baselines.meta_gradient import InnerLoop, OuterBatch, Pairs
from benchmark.errors import ObdBenchError
from benchmark.students.heads import SQUARED_ERROR_HEADS as HEADS
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


def test_on_the_cpu_it_is_the_loop_itself() -> None:
    assert capture(LOOP) == LOOP.gradient


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "'meta' is not supported; expected 'cpu' or 'cuda'"),
        ("gpu", "'gpu' is not a torch device; expected 'cpu' or 'cuda'"),
        ("cuda:99", r"sees \d+ CUDA devices here. Use 'cpu'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    with pytest.raises(ObdBenchError, match=message):
        capture(LOOP, device)


def test_arguments_are_copied_to_a_device_whole() -> None:
    """The part of the CUDA path that a CPU can show: nothing is left behind, nothing is shared."""
    arguments = (*draw(0), None)
    moved = on_device(arguments, torch.device("cpu"))
    assert layout(moved) == layout(arguments)
    assert len(tensors(moved)) == 2 * 2 + 2 + 3 + 1
    for copy, original in zip(tensors(moved), tensors(arguments), strict=True):
        assert torch.equal(copy, original)
        assert copy.data_ptr() != original.data_ptr()
