"""The meta-gradient as one CUDA graph: T inner steps and their adjoint in one launch.

At OBD's sizes a GPU finishes a product sooner than Python can launch the next one. A captured
graph is launched whole, so the time is that of the products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from baselines.meta_gradient import InnerLoop, MetaGradient, OuterBatch, Pairs
from benchmark.provenance import checked_device
from benchmark.students.network import Parameters

WARM_UP_CALLS = 3  # libraries allocate their workspaces before a capture, as PyTorch's guide asks


Arguments = tuple[Parameters, Pairs, OuterBatch, Tensor | None, Tensor | None]
"""Arguments of `InnerLoop.gradient`, in its order."""

GradientFunction = Callable[
    [Parameters, Pairs, OuterBatch, Tensor | None, Tensor | None], MetaGradient
]
"""`InnerLoop.gradient`, or its captured form: tensors are on the CPU, and so is the result."""


def capture(loop: InnerLoop, device: str = "cpu") -> GradientFunction:
    """Give `loop.gradient` itself on a CPU, and a captured graph of it on a CUDA device.

    Args:
        loop: The inner loop; its settings are fixed in the graph.
        device: "cpu", or a CUDA device such as "cuda:0".

    Raises:
        ObdBenchError: The device is of another kind, or this machine has none such.
    """
    found = checked_device(device)
    return loop.gradient if found.type == "cpu" else _CapturedGradient(loop, found)


class _CapturedGradient:
    """`InnerLoop.gradient` on a CUDA device, captured at its first call and replayed afterwards.

    Arguments are copied into fixed memory of the device, the graph is replayed, and the result
    is copied back: the host waits once, for the result. Arguments of other shapes or types than
    the last call's are captured anew.

    Untested on hardware: it was written where there is no GPU; the tests cover only the CPU.
    """

    def __init__(self, loop: InnerLoop, device: torch.device) -> None:
        self.loop, self.device = loop, device
        self._inputs: Arguments | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: MetaGradient | None = None

    def __call__(
        self,
        initial: Parameters,
        pairs: Pairs,
        outer: OuterBatch,
        noise: Tensor | None,
        adjoint_noise: Tensor | None,
    ) -> MetaGradient:
        with torch.cuda.device(self.device), torch.no_grad():
            return self._replay((initial, pairs, outer, noise, adjoint_noise))

    def _replay(self, arguments: Arguments) -> MetaGradient:
        """Replay the graph on new arguments."""
        if self._inputs is None or layout(self._inputs) != layout(arguments):
            self._capture(arguments)
        assert self._inputs is not None and self._graph is not None and self._result is not None
        # A graph reads and writes the addresses that it was captured with: new values must be
        # copied there before the replay, and the result be copied away before the next one.
        for fixed, given in zip(tensors(self._inputs), tensors(arguments), strict=True):
            fixed.copy_(given)
        self._graph.replay()
        return MetaGradient(*(part.cpu() for part in self._result))

    def _capture(self, arguments: Arguments) -> None:
        """Record one call on fixed memory, after warm-up calls on a side stream."""
        self._graph = self._result = None  # releases the last graph's memory first
        self._inputs = inputs = on_device(arguments, self.device)
        # The side stream waits for the copies into `inputs`, and the current one for the warm-up.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self.loop.gradient(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._result = self.loop.gradient(*inputs)
        self._graph = graph


def tensors(arguments: Arguments) -> list[Tensor]:
    """All tensors in a fixed order, without those left out."""
    return [leaf for leaf in tree_leaves(arguments) if leaf is not None]


def layout(arguments: Arguments) -> list[tuple[torch.Size, torch.dtype] | None]:
    """Shapes and types of the arguments, which a graph depends on; None for those left out."""
    return [None if leaf is None else (leaf.shape, leaf.dtype) for leaf in tree_leaves(arguments)]


def on_device(arguments: Arguments, device: torch.device) -> Arguments:
    """Copy all tensors to new memory of a device."""
    copied: Arguments = tree_map(
        lambda leaf: None if leaf is None else leaf.to(device, copy=True), arguments
    )
    return copied
