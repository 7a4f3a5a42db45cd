"""Feed-forward student networks, with a leading runs axis on every tensor.

Several students of the same shape are trained and evaluated at once: parameters are stacked as
`[R, ...]` and every product is batched over the R runs. The same class serves the meta-gradient
(R runs that are distilled together), scoring (R students of one set) and R = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = list[tuple[Tensor, Tensor]]
"""One `(weight [R, out, in], bias [R, out])` pair a layer."""


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
            raise ValueError(
                f"sizes names at least an input and an output width, got {self.sizes}"
            )
        if self.skip is not None and not 1 <= self.skip[0] < self.skip[1] <= self.depth - 1:
            raise ValueError(f"skip {self.skip} must join two hidden layers of {self.depth - 1}")

    @property
    def depth(self) -> int:
        """Number of linear layers."""
        return len(self.sizes) - 1

    def initialise(self, generator: torch.Generator, dtype: torch.dtype) -> Parameters:
        """One run's fresh parameters: orthogonal weights of gain sqrt(2), zero biases (R = 1).

        Source: OBD, Section 5 (implementation details).
        """
        parameters = []
        for fan_in, fan_out in zip(self.sizes, self.sizes[1:], strict=False):
            weight = torch.empty(fan_out, fan_in, dtype=dtype, device=generator.device)
            torch.nn.init.orthogonal_(weight, gain=math.sqrt(2), generator=generator)
            bias = torch.zeros(1, fan_out, dtype=dtype, device=generator.device)
            parameters.append((weight[None], bias))
        return parameters

    def forward(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """Outputs `[R, N, out]` of the R networks on inputs `[R, N, in]`; autograd follows it."""
        hidden, kept = inputs, None
        for layer, (weight, bias) in enumerate(parameters, start=1):
            hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.transpose(1, 2))
            if layer == self.depth:
                break
            hidden = hidden.relu()
            if self.skip and layer == self.skip[0]:
                kept = hidden
            if self.skip and layer == self.skip[1] and kept is not None:
                hidden = hidden + kept
        return hidden


def stack(runs: list[Parameters]) -> Parameters:
    """The parameters of several runs as one batch, in the order given."""
    return [
        (torch.cat([run[i][0] for run in runs]), torch.cat([run[i][1] for run in runs]))
        for i in range(len(runs[0]))
    ]
