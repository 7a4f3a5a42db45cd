"""Policy heads: how a network's outputs become an action, and the derivatives of the BC loss.

Actions here are in the unit box [-1, 1]; `benchmark.scaling` maps them to an environment's bounds.
The behavioural-cloning loss of OBD's heads is the mean over samples and action dimensions of the
squared error between the student's action and the target. First and second derivatives are
written out, because the meta-gradient needs both and autograd would store far more. The heads of
HaDES, whose loss is a likelihood, are in `benchmark.students.likelihood`.

With network outputs o, the action before squashing u(o), a = tanh(u), targets t and n = N act_dim:

    loss      = sum (a - t)^2 / n
    dloss/du  = 2 (a - t) (1 - a^2) / n
    dloss/do  = dloss/du du/do

A dot marks a tangent, the derivative along a direction o-dot in the outputs; u-dot = du/do o-dot.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.students.likelihood import CategoricalHead, GaussianHead

LOG_STD_MULTIPLIER, LOG_STD_OFFSET = 1.0, -1.0
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class Squashed(NamedTuple):
    """An action tanh(u) and du / d raw log standard deviation, both `[..., act_dim]`.

    The second is empty for a head without a standard deviation.
    """

    action: Tensor
    slope: Tensor


class HeadTangent(NamedTuple):
    """Tangents of u and of `Squashed.slope`, both `[..., act_dim]`."""

    u: Tensor
    slope: Tensor


class Head(typing.Protocol):
    """Turns network outputs `[..., outputs]` into actions `[..., act_dim]` in [-1, 1].

    Attributes:
        noisy: Whether the training loss needs noise.
        stochastic: Whether `sample` differs from `mode`.
        trained_scalars: Whether the network's last pair of parameters are the head's scalars.
        log_std: Whether the last `act_dim` of the outputs are the same for every observation.
        space: The kind of action space that it is made for; None for all kinds.
    """

    noisy: bool
    stochastic: bool
    trained_scalars: bool
    log_std: bool
    space: type[Any] | None

    def outputs(self, act_dim: int) -> int:
        """The number of outputs of the last layer for an action of `act_dim` dimensions."""

    def mode(self, outputs: Tensor) -> Tensor:
        """Compute the deterministic action of evaluation."""

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Compute an action of the policy's distribution from noise that `draw` gave."""

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw the noise of `sample`, shaped like the actions."""

    def loss_gradient(
        self, outputs: Tensor, targets: Tensor, noise: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        """Compute the derivative of each run's loss in the outputs `[R, N, outputs]`.

        Arguments as in `bc_loss_gradient`.
        """


class SquaredErrorHead(ABC):
    """A head whose loss is the squared error of its actions; the meta-gradient differentiates it.

    The action is tanh(u), for a u that depends on the outputs.
    """

    noisy = stochastic = trained_scalars = log_std = False
    space: type[Any] | None = None

    @abstractmethod
    def outputs(self, act_dim: int) -> int:
        """The number of network outputs for an action of `act_dim` dimensions."""

    @abstractmethod
    def squash(self, outputs: Tensor, noise: Tensor | None) -> Squashed:
        """Compute the action in the training loss; `noise [..., act_dim]` is drawn if `noisy`."""

    @abstractmethod
    def mode(self, outputs: Tensor) -> Tensor:
        """Compute the deterministic action of evaluation."""

    @abstractmethod
    def output_gradient(self, inner: Tensor, squashed: Squashed) -> Tensor:
        """Compute dloss/do `[..., outputs]` from `inner` = dloss/du `[..., act_dim]`."""

    @abstractmethod
    def tangent(self, outputs_tangent: Tensor, squashed: Squashed) -> HeadTangent:
        """Compute the tangents of u and of the slope from that of the outputs."""

    @abstractmethod
    def output_gradient_tangent(
        self, inner: Tensor, inner_tangent: Tensor, squashed: Squashed, tangent: HeadTangent
    ) -> Tensor:
        """Compute the tangent of `output_gradient` from those of `inner` and of the slope."""

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Compute the action of the training loss."""
        return self.squash(outputs, noise).action

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw standard normal numbers."""
        return generator.standard_normal(shape, dtype=np.float32)

    def loss_gradient(
        self, outputs: Tensor, targets: Tensor, noise: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        """Compute the derivative of `bc_loss_gradient`."""
        return bc_loss_gradient(self, outputs, targets, noise, weights).outputs


class MeanHead(SquaredErrorHead):
    """Deterministic policy: u = o."""

    def outputs(self, act_dim: int) -> int:
        return act_dim

    def squash(self, outputs: Tensor, noise: Tensor | None) -> Squashed:
        return Squashed(outputs.tanh(), outputs.new_empty(0))

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.tanh()

    def output_gradient(self, inner: Tensor, squashed: Squashed) -> Tensor:
        return inner

    def tangent(self, outputs_tangent: Tensor, squashed: Squashed) -> HeadTangent:
        return HeadTangent(outputs_tangent, squashed.slope)

    def output_gradient_tangent(
        self, inner: Tensor, inner_tangent: Tensor, squashed: Squashed, tangent: HeadTangent
    ) -> Tensor:
        return inner_tangent


class SampledHead(SquaredErrorHead):
    """Reparameterised tanh-Gaussian: u = mean + exp(log_std) * noise, for o = (mean, raw).

    log_std is raw - 1, clamped to [-20, 2]; the loss sees a sample, evaluation the mode. In the
    published OBD code it is multiplier * raw + offset, where both scalars are parameters that the
    students train, from 1 and -1.

    Args:
        trained_scalars: Whether they are trained. The scalars are then the network's last layer
            (`Network.scalars`), so that o = (mean, multiplier * raw + offset); else they stay.
    """

    noisy = stochastic = True

    def __init__(self, *, trained_scalars: bool = False) -> None:
        self.trained_scalars = trained_scalars
        self.offset = 0.0 if trained_scalars else LOG_STD_OFFSET

    def outputs(self, act_dim: int) -> int:
        return 2 * act_dim

    def squash(self, outputs: Tensor, noise: Tensor | None) -> Squashed:
        if noise is None:
            raise ValueError("the sampled head needs noise [..., act_dim] to draw an action")
        mean, raw = outputs.chunk(2, dim=-1)
        log_std = raw + self.offset
        clamped = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        deviation = clamped.exp() * noise
        # du / d raw = exp(log_std) noise, and 0 where the clamp is active
        return Squashed((mean + deviation).tanh(), deviation * (clamped == log_std))

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.chunk(2, dim=-1)[0].tanh()

    def output_gradient(self, inner: Tensor, squashed: Squashed) -> Tensor:
        # du / d mean = 1, du / d raw = slope
        return torch.cat((inner, inner * squashed.slope), dim=-1)

    def tangent(self, outputs_tangent: Tensor, squashed: Squashed) -> HeadTangent:
        mean, raw = outputs_tangent.chunk(2, dim=-1)
        # u-dot = mean-dot + slope raw-dot. The slope is exp(raw + const) noise, its own derivative
        # in raw, so that slope-dot = slope raw-dot is the same product.
        slope = raw * squashed.slope
        return HeadTangent(mean + slope, slope)

    def output_gradient_tangent(
        self, inner: Tensor, inner_tangent: Tensor, squashed: Squashed, tangent: HeadTangent
    ) -> Tensor:
        # product rule on inner * slope
        of_raw = torch.addcmul(inner_tangent * squashed.slope, inner, tangent.slope)
        return torch.cat((inner_tangent, of_raw), dim=-1)


SQUARED_ERROR_HEADS: dict[str, SquaredErrorHead] = {
    "mean": MeanHead(),
    "sampled": SampledHead(),
    "sampled_trained": SampledHead(trained_scalars=True),
}
HEADS: dict[str, Head] = {
    **SQUARED_ERROR_HEADS,
    "gaussian": GaussianHead(),
    "categorical": CategoricalHead(),
}


def squared_error_head(head: Head) -> SquaredErrorHead:
    """The same head, where its loss is the squared error of its actions.

    Raises:
        ObdBenchError: Its loss is a likelihood.
    """
    if not isinstance(head, SquaredErrorHead):
        raise ObdBenchError(
            f"The loss of a {type(head).__name__} is a likelihood, and only the squared error of "
            f"actions is differentiated here; expected a student whose head is one of "
            f"{', '.join(SQUARED_ERROR_HEADS)}."
        )
    return head


class LossGradient(NamedTuple):
    """The BC loss's derivatives, with the values that the loss and its tangents are made from."""

    squashed: Squashed
    error: Tensor  # a - t [R, N, act_dim]
    weighted: Tensor  # error times the sample's weight [R, N, act_dim]
    slope: Tensor  # da/du = 1 - a^2 [R, N, act_dim]
    inner: Tensor  # dloss/du [R, N, act_dim]
    outputs: Tensor  # dloss/do [R, N, outputs]

    @property
    def loss(self) -> Tensor:
        """The loss `[R]` of each run."""
        return (self.error * self.weighted).mean((-2, -1))


def bc_loss_gradient(
    head: SquaredErrorHead,
    outputs: Tensor,
    targets: Tensor,
    noise: Tensor | None,
    weights: Tensor | None = None,
) -> LossGradient:
    """Compute each run's loss and its derivative in the network outputs.

    Args:
        head: The policy head.
        outputs: Network outputs `[R, N, outputs]` of N samples in each of R runs.
        targets: Target actions `[R, N, act_dim]` in [-1, 1].
        noise: Standard normal numbers `[R, N, act_dim]` for a noisy head, else None.
        weights: Weights of the squared errors, one per sample `[R, N]` or per number of an action
            `[R, N, act_dim]`; the loss is the mean of weight * error^2. None weighs all by 1.
    """
    squashed = head.squash(outputs, noise)
    error = squashed.action - targets
    if weights is not None and weights.ndim < error.ndim:
        weights = weights.unsqueeze(-1)
    weighted = error if weights is None else error * weights
    slope = 1 - squashed.action.square()
    inner = weighted * slope * (2 / _samples(error))
    return LossGradient(
        squashed, error, weighted, slope, inner, head.output_gradient(inner, squashed)
    )


def bc_loss_tangent(
    head: SquaredErrorHead, gradient: LossGradient, outputs_tangent: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the tangents of the unweighted loss's derivatives in the outputs and the targets.

    Args:
        head: The policy head.
        gradient: The loss's derivatives, without weights.
        outputs_tangent: Direction o-dot `[R, N, outputs]` in the network outputs.

    Returns:
        The tangents of dloss/do `[R, N, outputs]` and of dloss/dt `[R, N, act_dim]`.
    """
    squashed, slope = gradient.squashed, gradient.slope
    tangent = head.tangent(outputs_tangent, squashed)
    # 2 a-dot / n, for a-dot = (1 - a^2) u-dot
    action_tangent = slope * tangent.u * (2 / _samples(slope))
    # The tangent of dloss/du = 2 (a - t) (1 - a^2) / n along a-dot is
    #     2 a-dot / n ((1 - a^2) - 2 a (a - t)).
    curvature = torch.addcmul(slope, squashed.action, gradient.error, value=-2)
    in_outputs = head.output_gradient_tangent(
        gradient.inner, action_tangent * curvature, squashed, tangent
    )
    return in_outputs, -action_tangent  # dloss/dt = -2 (a - t) / n


def _samples(actions: Tensor) -> int:
    """The number n of squared errors in a run's loss."""
    return actions.shape[-1] * actions.shape[-2]
