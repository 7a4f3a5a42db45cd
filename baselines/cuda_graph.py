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
    """`InnerLoop.gradient`, captured at its first call and replayed at every later one.

    Arguments are copied into fixed memory, the graph is replayed, and the result is copied out; the
    host never waits for the device. Other shapes or types than the last call's are captured anew.
    On a CPU there is nothing to capture, and the loop itself is called.

    Untested on hardware: it was written where there is no GPU; the tests cover the CPU alone.

    Args:
        loop: The inner loop; its settings are fixed in the graph.
    """

    def __init__(self, loop: InnerLoop) -> None:
        self.loop = loop
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
        """As `InnerLoop.gradient`, all tensors on one device.

        Raises:
            ObdBenchError: The tensors lie on several devices, or on one that is no CPU or GPU.
        """
        arguments = _Arguments(initial, pairs, outer, noise, adjoint_noise)
        device = _device_of(arguments)
        if device.type == "cpu":
            return self.loop.gradient(*arguments)
        with torch.cuda.device(device), torch.no_grad():
            return self._replay(arguments)

    def _replay(self, arguments: _Arguments) -> MetaGradient:
        """Runs the graph on new arguments."""
        if self._inputs is None or self._inputs.layout() != arguments.layout():
            self._capture(arguments)
        assert self._inputs is not None and self._graph is not None and self._result is not None
        for fixed, given in zip(self._inputs.tensors(), arguments.tensors(), strict=True):
            fixed.copy_(given)
        self._graph.replay()
        return MetaGradient(*(part.clone() for part in self._result))

    def _capture(self, arguments: _Arguments) -> None:
        """Records one call on fixed memory, after warm-up calls on a side stream."""
        self._graph = self._result = None  # gives the last graph's memory back first
        self._inputs = inputs = arguments.clone()
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

    def layout(self) -> list[tuple[torch.Size, torch.dtype, torch.device] | None]:
        """What a graph depends on: which tensors there are, their shapes, types and devices."""
        return [e if e is None else (e.shape, e.dtype, e.device) for e in self.entries()]

    def clone(self) -> _Arguments:
        """The same in memory of its own."""
        return _Arguments(
            [(weight.clone(), bias.clone()) for weight, bias in self.initial],
            Pairs(self.pairs.observations.clone(), self.pairs.actions.clone()),
            OuterBatch(
                self.outer.observations.clone(),
                self.outer.actions.clone(),
                _cloned(self.outer.weights),
                _cloned(self.outer.noise),
            ),
            _cloned(self.noise),
            _cloned(self.adjoint_noise),
        )


def _cloned(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _device_of(arguments: _Arguments) -> torch.device:
    """The one device that all tensors lie on."""
    devices = {tensor.device for tensor in arguments.tensors()}
    names = ", ".join(sorted(map(str, devices)))
    if len(devices) > 1:
        raise ObdBenchError(
            f"The meta-gradient's tensors lie on several devices ({names}). Move the students, "
            f"the pairs, the outer batch and the noise to one of them."
        )
    (device,) = devices
    if device.type not in ("cpu", "cuda"):
        raise ObdBenchError(
            f"A CUDA graph needs tensors on a CUDA device (or on the CPU, where the loop is called "
            f"directly); got {names}."
        )
    return device
