"""Feed-forward student networks, with a leading runs axis on every tensor.

Several students of the same shape are trained and evaluated at once: parameters are stacked as
`[R, ...]` and every product is batched over the R runs. The same class serves the meta-gradient
(R runs that are distilled together), scoring (R students of one set) and R = 1.

Forward and backward pass are written out: the meta-gradient differentiates both a second time,
which needs their intermediate values and none of autograd's bookkeeping.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.registry import Registry

Parameters = list[tuple[Tensor, Tensor]]
"""One `(weight [R, out, in], bias [R, 1, out])` pair a layer.

The bias has the shape in which a batched product adds it: a view at every use costs as much as an
addition at small widths.
"""


def relu_backward(gradient: Tensor, output: Tensor) -> Tensor:
    """Zeroes `gradient` in place where the ReLU's output is zero; returns it."""
    result: Tensor = torch.ops.aten.threshold_backward.grad_input(
        gradient, output, 0, grad_input=gradient
    )
    return result


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A layer `[R, N, out]` of `inputs [R, N, in]`.

    The bias is added to the product in place: `baddbmm` fills its result with it first, which
    takes a pass over memory that is not yet in the cache.
    """
    return torch.bmm(inputs, weight.mT).add_(bias)


class Levels(NamedTuple):
    """Values of one forward pass.

    inputs[l] `[R, N, in]` enters layer l; rectified[l] is the output of its ReLU (before a skip
    connection is added); outputs `[R, N, out]` leaves the last layer.
    """

    inputs: list[Tensor]
    rectified: list[Tensor]
    outputs: Tensor


@dataclass(frozen=True)
class Network:
    """A ReLU network of linear layers, optionally with one skip connection.

    Args:
        sizes: Width of every level from input to output, e.g. `(11, 256, 256, 256, 6)` for the
            four-layer policy of OBD (arXiv 2410.22728, Section 5).
        skip: `(i, j)` adds the output of hidden layer i to the output of hidden layer j, both
            counted from 1. None for a plain MLP.
    """

    sizes: tuple[int, ...]
    skip: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes must hold at least an input and an output, got {self.sizes}")
        if self.skip is not None and not 1 <= self.skip[0] < self.skip[1] <= self.depth - 1:
            raise ValueError(
                f"skip {self.skip} must join two of the {self.depth - 1} hidden layers"
            )

    @property
    def depth(self) -> int:
        """Number of linear layers."""
        return len(self.sizes) - 1

    def initialise(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """One run's fresh parameters: orthogonal weights of gain sqrt(2), zero biases (R = 1).

        Source: OBD, Section 5 (implementation details).
        """
        parameters = []
        for fan_in, fan_out in zip(self.sizes, self.sizes[1:], strict=False):
            weight = torch.empty(fan_out, fan_in, dtype=dtype, device=generator.device)
            torch.nn.init.orthogonal_(weight, gain=math.sqrt(2), generator=generator)
            bias = torch.zeros(1, 1, fan_out, dtype=dtype, device=generator.device)
            parameters.append((weight[None], bias))
        return parameters

    def forward(self, parameters: Parameters, observations: Tensor) -> Levels:
        """A forward pass on `[R, N, in]` with every value kept; autograd can follow it."""
        inputs, rectified = [observations], []
        for layer, (weight, bias) in enumerate(parameters, start=1):
            value = linear(inputs[-1], weight, bias)
            if layer == self.depth:
                break
            rectified.append(value.relu_())
            if self.skip and layer == self.skip[1]:
                value = value + inputs[self.skip[0]]
            inputs.append(value)
        return Levels(inputs, rectified, value)

    def backward(
        self, parameters: Parameters, levels: Levels, outputs_gradient: Tensor
    ) -> list[Tensor]:
        """Derivative of a loss in every layer's value before its ReLU, first layer first."""
        deltas, kept = [outputs_gradient], None
        for layer in reversed(range(1, self.depth)):
            below = torch.bmm(deltas[-1], parameters[layer][0])
            if self.skip and layer == self.skip[0] and kept is not None:
                below += kept
            if self.skip and layer == self.skip[1]:
                kept = below.clone()
            deltas.append(relu_backward(below, levels.rectified[layer - 1]))
        return deltas[::-1]

    def gradients(self, levels: Levels, deltas: list[Tensor]) -> Parameters:
        """Derivative of the loss in the parameters, from a forward and a backward pass."""
        return [
            (torch.bmm(delta.mT, inputs), delta.sum(1, keepdim=True))
            for delta, inputs in zip(deltas, levels.inputs, strict=True)
        ]


def stack(runs: list[Parameters]) -> Parameters:
    """The parameters of several runs as one batch, in the order given."""
    return [
        (torch.cat([weight for weight, _ in layer]), torch.cat([bias for _, bias in layer]))
        for layer in zip(*runs, strict=True)
    ]


class Architecture(ABC):
    """Builds a network for given dimensions."""

    @abstractmethod
    def network(self, observation_dim: int, outputs: int, depth: int, width: int) -> Network:
        """A network of `depth` linear layers with hidden width `width`."""


class Mlp(Architecture):
    """Multi-layer perceptron with ReLU; OBD's default has 4 layers of width 256."""

    def network(self, observation_dim: int, outputs: int, depth: int, width: int) -> Network:
        """Sizes `(observation_dim, width, ..., width, outputs)`."""
        return Network((observation_dim, *[width] * (depth - 1), outputs))


class Residual(Architecture):
    """The MLP whose last hidden layer adds the first one's output (OBD, Table 2)."""

    def network(self, observation_dim: int, outputs: int, depth: int, width: int) -> Network:
        """As `Mlp`, with a skip connection from the first to the last hidden layer."""
        if depth < 3:
            raise ObdBenchError(
                f"A residual student needs at least 3 layers to skip over one; got depth {depth}."
            )
        return Network((observation_dim, *[width] * (depth - 1), outputs), skip=(1, depth - 1))


STUDENTS: Registry[type[Architecture]] = Registry(
    "student",
    "obdbench.students",
    Architecture,  # type: ignore[arg-type]
)
