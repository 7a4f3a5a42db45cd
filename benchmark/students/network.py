"""Feed-forward student networks with a leading runs axis on every tensor, and their registry.

Several students of the same shape are trained and evaluated at once: parameters are stacked as
`[R, ...]` and every product is batched over the R runs. The same class is used in the meta-gradient
(R runs that are distilled together), in scoring (R students of one set) and for R = 1.

Forward and backward pass are written out: the meta-gradient differentiates both a second time,
which needs their intermediate values and none of autograd's bookkeeping.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.registry import Registry
from benchmark.students.heads import LOG_STD_MULTIPLIER, LOG_STD_OFFSET

Parameters = list[tuple[Tensor, Tensor]]
"""One `(weight [R, out, in], bias [R, 1, out])` pair per layer.

The scalars of a policy head that trains them are one more pair, `(multiplier, offset)`, both
`[R, 1, 1]`: a linear layer from one unit to one unit, whose samples are the raw log standard
deviations of all samples and action dimensions. Outputs that are the same for every observation are
one more pair too: a layer without inputs, `(weight [R, out, 0], bias [R, 1, out])`.

The bias has the shape in which it is added to a batched product: at small widths, a view at every
use takes as long as an addition.
"""


HIDDEN_GAIN = math.sqrt(2)
"""Gain of the initial weights of hidden layers (OBD, Section 5; HaDES's code too)."""


def relu_backward(gradient: Tensor, output: Tensor) -> Tensor:
    """Set `gradient` to zero where the ReLU's output is zero; return it.

    In place on a CPU, where memory is what costs. PyTorch follows the form that gives a new tensor
    on a CUDA device that is not there, too (`tests/baselines/test_cuda_step.py`).
    """
    if gradient.is_cuda:
        return torch.ops.aten.threshold_backward(gradient, output, 0)  # type: ignore[no-any-return]
    result: Tensor = torch.ops.aten.threshold_backward.grad_input(
        gradient, output, 0, grad_input=gradient
    )
    return result


def tanh_backward(gradient: Tensor, output: Tensor) -> Tensor:
    """Multiply `gradient` in place by the slope 1 - h^2 of tanh at its output h; return it."""
    result: Tensor = torch.ops.aten.tanh_backward.grad_input(gradient, output, grad_input=gradient)
    return result


class Activation(NamedTuple):
    """The function of hidden units, which works in place, and its backward pass from its output."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(torch.relu_, relu_backward),
    "tanh": Activation(torch.tanh_, tanh_backward),
}


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a linear layer `[R, N, out]` of `inputs [R, N, in]`.

    The bias is added to the product in place: `baddbmm` would fill its result with the bias first,
    a pass over memory that is not yet in the cache.
    """
    return torch.bmm(inputs, weight.mT).add_(bias)


class Levels(NamedTuple):
    """The values of one forward pass, by layer from 0."""

    inputs: list[Tensor]  # of each pair of parameters [R, N, in]; of the scalars [R, N act_dim, 1]
    activated: list[Tensor]  # after each activation, before a skip is added [R, N, width]
    outputs: Tensor  # of the last layer, after the scalars, with the constant ones [R, N, out]


@dataclass(frozen=True)
class Network:
    """A network of linear layers, optionally with one skip connection.

    Args:
        sizes: Widths from input to output, for example `(11, 256, 256, 256, 6)` for the four-layer
            policy of OBD (arXiv 2410.22728, Section 5).
        skip: A pair `(i, j)` adds the output of hidden layer i to the output of hidden layer j,
            both counted from 1. None gives a plain MLP.
        scalars: Whether the second half of the outputs is multiplied by one trained scalar and
            moved by another (`benchmark.students.heads.SampledHead`).
        constants: Number of further outputs that are parameters themselves, the same for every
            observation; they start at 0.
        activation: Function of the hidden units, "relu" or "tanh".
        output_gain: Gain of the last layer's initial weights.
    """

    sizes: tuple[int, ...]
    skip: tuple[int, int] | None = None
    scalars: bool = False
    constants: int = 0
    activation: str = "relu"
    output_gain: float = HIDDEN_GAIN

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes must hold at least an input and an output, got {self.sizes}")
        if self.skip is not None and not 1 <= self.skip[0] < self.skip[1] <= self.depth - 1:
            raise ValueError(
                f"skip {self.skip} must join two of the {self.depth - 1} hidden layers"
            )

    @property
    def _hidden(self) -> Activation:
        return ACTIVATIONS[self.activation]

    @property
    def depth(self) -> int:
        """The number of linear layers."""
        return len(self.sizes) - 1

    @property
    def layer_sizes(self) -> list[tuple[int, int]]:
        """`(in, out)` of every pair of parameters; (1, 1) for trained scalars."""
        layers = list(zip(self.sizes, self.sizes[1:], strict=False))
        if self.scalars:
            layers.append((1, 1))
        if self.constants:
            layers.append((0, self.constants))
        return layers

    def initialise(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Draw one run's parameters (R = 1); see `initialise_runs`."""
        return self.initialise_runs([generator], dtype)

    def initialise_runs(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Draw the parameters of R runs, each from its generator: orthogonal weights, zero biases.

        The gain is sqrt(2), and `output_gain` in the last layer. Trained scalars start at the
        head's constants, constant outputs at 0; both draw nothing from the generators.

        Source: OBD, Section 5 (implementation details).
        """
        runs, device = len(generators), generators[0].device
        drawn = [
            [
                torch.empty(fan_out, fan_in, dtype=dtype, device=device).normal_(generator=one)
                for fan_in, fan_out in itertools.pairwise(self.sizes)
            ]
            for one in generators
        ]
        gains = [*[HIDDEN_GAIN] * (self.depth - 1), self.output_gain]
        parameters = [
            (_orthogonal(torch.stack(normals), gain), normals[0].new_zeros(runs, 1, fan_out))
            for normals, gain, fan_out in zip(
                zip(*drawn, strict=True), gains, self.sizes[1:], strict=True
            )
        ]
        if self.scalars:
            multiplier, offset = (
                torch.full((runs, 1, 1), value, dtype=dtype, device=device)
                for value in (LOG_STD_MULTIPLIER, LOG_STD_OFFSET)
            )
            parameters.append((multiplier, offset))
        if self.constants:
            bias = torch.zeros(runs, 1, self.constants, dtype=dtype, device=device)
            parameters.append((bias.new_zeros(runs, self.constants, 0), bias))
        return parameters

    def forward(self, parameters: Parameters, observations: Tensor) -> Levels:
        """Do a forward pass on `[R, N, in]` and return all its values; autograd can follow it."""
        inputs, activated = [observations], []
        for layer, (weight, bias) in enumerate(parameters, start=1):
            value = linear(inputs[-1], weight, bias)
            if layer == self.depth:
                break
            value = self._hidden.forward(value)
            activated.append(value)
            if self.skip and layer == self.skip[1]:
                value = value + inputs[self.skip[0]]
            inputs.append(value)
        if self.scalars:
            multiplier, offset = parameters[self.depth]
            mean, raw = halves(value)
            inputs.append(raw)
            value = joined(mean, raw * multiplier + offset)
        if self.constants:
            inputs.append(observations[..., :0])
            value = torch.cat((value, linear(inputs[-1], *parameters[-1])), dim=-1)
        return Levels(inputs, activated, value)

    def backward(
        self, parameters: Parameters, levels: Levels, outputs_gradient: Tensor
    ) -> list[Tensor]:
        """Do a backward pass.

        Args:
            parameters: Parameters of the forward pass.
            levels: Values of the forward pass.
            outputs_gradient: Derivative `[R, N, out]` of the loss in the outputs.

        Returns:
            The derivative `[R, N, out]` in each layer's value before its activation, first layer
            first; with trained scalars one more, in the values `[R, N act_dim, 1]` that they give;
            with constant outputs a last one, in those `[R, N, constants]`.
        """
        above: list[Tensor] = []
        if self.constants:
            above = [outputs_gradient[..., -self.constants :]]
            outputs_gradient = outputs_gradient[..., : -self.constants]
        if self.scalars:
            mean, log_std = halves(outputs_gradient)
            above = [log_std, *above]
            outputs_gradient = joined(mean, log_std * parameters[self.depth][0])
        deltas, skipped = [outputs_gradient], None
        for layer in reversed(range(1, self.depth)):
            below = torch.bmm(deltas[-1], parameters[layer][0])  # delta W
            # The output of layer i reaches the sum after layer j too: it receives the gradient
            # there, which is copied because the activation's backward below works in place.
            if self.skip and layer == self.skip[0] and skipped is not None:
                below += skipped
            if self.skip and layer == self.skip[1]:
                skipped = below.clone()
            deltas.append(self._hidden.backward(below, levels.activated[layer - 1]))
        return deltas[::-1] + above

    def gradients(self, levels: Levels, deltas: list[Tensor]) -> Parameters:
        """Compute the loss's derivative in the parameters from a forward and a backward pass."""
        # dW = delta^T x [R, out, in] and db = sum of delta over samples [R, 1, out]
        return [
            (torch.bmm(delta.mT, inputs), delta.sum(1, keepdim=True))
            for delta, inputs in zip(deltas, levels.inputs, strict=True)
        ]


def _orthogonal(normals: Tensor, gain: float) -> Tensor:
    """Orthogonal matrices from standard normal ones `[R, out, in]`, as `torch.nn.init.orthogonal_`.

    The numbers are its own to the last bit; all runs are factorised in one call.
    """
    wide = normals.shape[-2] < normals.shape[-1]
    q, r = torch.linalg.qr(normals.mT if wide else normals)
    # The signs of R's diagonal make Q uniform (Mezzadri 2007, arXiv math-ph/0609050).
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    weights: Tensor = (q.mT if wide else q) * gain
    return weights.contiguous()


def halves(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Split `[R, N, 2 act_dim]` into `[R, N, act_dim]` and, as samples, `[R, N act_dim, 1]`."""
    first, second = outputs.chunk(2, dim=-1)
    return first, second.reshape(len(second), -1, 1)


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Undo `halves`."""
    return torch.cat((first, second.reshape(first.shape)), dim=-1)


def stack(runs: list[Parameters]) -> Parameters:
    """Stack the parameters of several runs along the runs axis, in the order given."""
    return [
        (torch.cat([weight for weight, _ in layer]), torch.cat([bias for _, bias in layer]))
        for layer in zip(*runs, strict=True)
    ]


class Architecture(ABC):
    """A student architecture of the registry, which builds a network for given dimensions."""

    @abstractmethod
    def network(self, observation_dim: int, outputs: int, depth: int, width: int) -> Network:
        """Build a network of `depth` linear layers with `width` units per hidden layer."""


class Mlp(Architecture):
    """Multi-layer perceptron; OBD's default has 4 layers of width 256."""

    def network(self, observation_dim: int, outputs: int, depth: int, width: int) -> Network:
        """Build a network of sizes `(observation_dim, width, ..., width, outputs)`."""
        return Network((observation_dim, *[width] * (depth - 1), outputs))


class Residual(Architecture):
    """Multi-layer perceptron whose last hidden layer adds the first one's output (OBD, Table 2)."""

    def network(self, observation_dim: int, outputs: int, depth: int, width: int) -> Network:
        """Build the MLP with a skip connection from the first to the last hidden layer."""
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
