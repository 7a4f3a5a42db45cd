"""The meta-gradient as one CUDA graph: T inner steps and their adjoint in a single launch.

At OBD's sizes a GPU finishes a product sooner than Python can launch the next one. A captured
graph is launched whole, so the time is that of the products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from baselines.meta_gradient import InnerLoop, MetaGradient, OuterBatch, Pairs
from benchmark.errors import ObdBenchError
from benchmark.students.network import Parameters

WARM_UP_CALLS = 3  # libraries allocate their workspaces before a capture, as PyTorch's guide asks


class CapturedInnerLoop:
    """`InnerLoop.gradient` on a device, captured at its first call and replayed at every later one.

    Arguments are copied into fixed memory of the device, the graph is replayed, and the result
    is copied back: the host waits once, for the result. Other shapes or types than the last call's
    are captured anew. On a CPU there is nothing to capture, and the loop itself is called.

    Untested on hardware: it was written where there is no GPU; the tests cover the CPU alone.

    Args:
        loop: The inner loop; its settings are fixed in the graph.
        device: "cpu", or a CUDA device such as "cuda:0".

    Raises:
        ObdBenchError: The device is another kind, or there is no such device here.
    """

    def __init__(self, loop: InnerLoop, device: str = "cpu") -> None:
        self.loop, self.device = loop, checked_device(device)
        self._inputs: _Arguments | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: MetaGradient | None = None

    def gradient(
        self,
        initial: Parameters,
        pairs: Pairs,
        outer: OuterBatch,
        noise: Tensor | None = None,
        adjoint_noise: Tensor | None = None,
    ) -> MetaGradient:
        """As `InnerLoop.gradient`, with tensors on the CPU and the result there too."""
        arguments = _Arguments(initial, pairs, outer, noise, adjoint_noise)
        if self.device.type == "cpu":
            return self.loop.gradient(*arguments)
        with torch.cuda.device(self.device), torch.no_grad():
            return self._replay(arguments)

    def _replay(self, arguments: _Arguments) -> MetaGradient:
        """Runs the graph on new arguments."""
        if self._inputs is None or self._inputs.layout() != arguments.layout():
            self._capture(arguments)
        assert self._inputs is not None and self._graph is not None and self._result is not None
        for fixed, given in zip(self._inputs.tensors(), arguments.tensors(), strict=True):
            fixed.copy_(given)
        self._graph.replay()
        return MetaGradient(*(part.cpu() for part in self._result))

    def _capture(self, arguments: _Arguments) -> None:
        """Records one call on fixed memory, after warm-up calls on a side stream."""
        self._graph = self._result = None  # gives the last graph's memory back first
        self._inputs = inputs = arguments.on(self.device)
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


class _Arguments(NamedTuple):
    """What `InnerLoop.gradient` takes, in its order."""

    initial: Parameters
    pairs: Pairs
    outer: OuterBatch
    noise: Tensor | None
    adjoint_noise: Tensor | None

    def entries(self) -> list[Tensor | None]:
        """All of it in a fixed order."""
        layers = [tensor for layer in self.initial for tensor in layer]
        return [*layers, *self.pairs, *self.outer, self.noise, self.adjoint_noise]

    def tensors(self) -> list[Tensor]:
        """The entries that are there."""
        return [entry for entry in self.entries() if entry is not None]

    def layout(self) -> list[tuple[torch.Size, torch.dtype] | None]:
        """What a graph depends on: which tensors there are, their shapes and types."""
        return [e if e is None else (e.shape, e.dtype) for e in self.entries()]

    def on(self, device: torch.device) -> _Arguments:
        """The same in memory of its own on a device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, copy=True)

        def moved_if(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else moved(tensor)

        return _Arguments(
            [(moved(weight), moved(bias)) for weight, bias in self.initial],
            Pairs(moved(self.pairs.observations), moved(self.pairs.actions)),
            OuterBatch(
                moved(self.outer.observations),
                moved(self.outer.actions),
                moved_if(self.outer.weights),
                moved_if(self.outer.noise),
            ),
            moved_if(self.noise),
            moved_if(self.adjoint_noise),
        )


def checked_device(name: str) -> torch.device:
    """The CPU, or a CUDA device that is there.

    Raises:
        ObdBenchError: It is neither.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ObdBenchError(f"{name!r} is no torch device; expected 'cpu' or 'cuda'.") from error
    if device.type not in ("cpu", "cuda"):
        raise ObdBenchError(f"The device {name!r} is not supported; expected 'cpu' or 'cuda'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ObdBenchError(
            f"The device {name!r} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here. Use 'cpu', or install a CUDA build."
        )
    return device
