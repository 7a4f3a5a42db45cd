"""Policy heads: how a network's outputs become an action, and the derivatives of the BC loss.

Actions here are in the unit box [-1, 1]; `benchmark.scaling` maps them to an environment's bounds.
The behavioural-cloning loss of a batch is the mean over samples and action dimensions of the
squared error between the student's action and the target. First and second derivatives are
written out, because the meta-gradient needs both and autograd would store far more.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

LOG_STD_OFFSET = -1.0
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class Squashed(NamedTuple):
    """An action tanh(u) and the slope of u in the raw log standard deviation; empty without one."""

    action: Tensor
    slope: Tensor


class HeadTangent(NamedTuple):
    """Tangents of u and of `Squashed.slope`."""

    u: Tensor
    slope: Tensor


class Head(Protocol):
    """Turns network outputs `[..., outputs]` into actions `[..., act_dim]` in [-1, 1]."""

    noisy: bool

    def outputs(self, act_dim: int) -> int:
        """How many network outputs an action of `act_dim` dimensions needs."""
        ...

    def squash(self, outputs: Tensor, noise: Tensor | None) -> Squashed:
        """The action that training sees; `noise [..., act_dim]` is standard normal if `noisy`."""
        ...

    def mode(self, outputs: Tensor) -> Tensor:
        """The deterministic action of evaluation."""
        ...

    def output_gradient(self, inner: Tensor, squashed: Squashed) -> Tensor:
        """Derivative in the outputs from the derivative `inner` in u."""
        ...

    def tangent(self, outputs_tangent: Tensor, squashed: Squashed) -> HeadTangent:
        """Tangents of u and of the slope from the tangent of the outputs."""
        ...

    def output_gradient_tangent(
        self, inner: Tensor, inner_tangent: Tensor, squashed: Squashed, tangent: HeadTangent
    ) -> Tensor:
        """Tangent of `output_gradient` from those of `inner` and of the slope."""
        ...


class MeanHead:
    """Deterministic policy: action = tanh(outputs)."""

    noisy = False

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


class SampledHead:
    """Reparameterised tanh-Gaussian: action = tanh(mean + exp(log_std) * noise).

    The head of the published OBD code: log_std is the raw output minus 1, clamped to [-20, 2];
    the loss sees a sample, evaluation the mode.
    """

    noisy = True

    def outputs(self, act_dim: int) -> int:
        return 2 * act_dim

    def squash(self, outputs: Tensor, noise: Tensor | None) -> Squashed:
        if noise is None:
            raise ValueError("the sampled head needs noise [..., act_dim] to draw an action")
        mean, raw = outputs.chunk(2, dim=-1)
        log_std = raw + LOG_STD_OFFSET
        clamped = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        deviation = clamped.exp() * noise
        return Squashed((mean + deviation).tanh(), deviation * (clamped == log_std))

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.chunk(2, dim=-1)[0].tanh()

    def output_gradient(self, inner: Tensor, squashed: Squashed) -> Tensor:
        return torch.cat((inner, inner * squashed.slope), dim=-1)

    def tangent(self, outputs_tangent: Tensor, squashed: Squashed) -> HeadTangent:
        mean, raw = outputs_tangent.chunk(2, dim=-1)
        # d(slope)/d(raw) = slope, because the deviation is an exponential in the raw output.
        slope = raw * squashed.slope
        return HeadTangent(mean + slope, slope)

    def output_gradient_tangent(
        self, inner: Tensor, inner_tangent: Tensor, squashed: Squashed, tangent: HeadTangent
    ) -> Tensor:
        of_raw = torch.addcmul(inner_tangent * squashed.slope, inner, tangent.slope)
        return torch.cat((inner_tangent, of_raw), dim=-1)


HEADS: dict[str, Head] = {"mean": MeanHead(), "sampled": SampledHead()}


class LossGradient(NamedTuple):
    """The BC loss's derivatives, and what its value and its second derivatives follow from.

    With action = tanh(u): `outputs` and `inner` are the derivatives in the network outputs and in
    u, `slope` is d action / du, and `weighted` is the error times its sample's weight.
    """

    squashed: Squashed
    error: Tensor
    weighted: Tensor
    slope: Tensor
    inner: Tensor
    outputs: Tensor

    @property
    def loss(self) -> Tensor:
        """The loss of each run `[R]`."""
        return (self.error * self.weighted).mean((-2, -1))


def bc_loss_gradient(
    head: Head,
    outputs: Tensor,
    targets: Tensor,
    noise: Tensor | None,
    weights: Tensor | None = None,
) -> LossGradient:
    """Loss of each run and its derivative in the network outputs.

    Args:
        head: The policy head.
        outputs: Network outputs `[R, N, outputs]`.
        targets: Target actions `[R, N, act_dim]` in [-1, 1].
        noise: Standard normal `[R, N, act_dim]` for a noisy head, else None.
        weights: Optional weights of samples `[R, N]`, or of each number of their actions
            `[R, N, act_dim]`; the loss is mean(weight * squared error).
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
    head: Head, gradient: LossGradient, outputs_tangent: Tensor
) -> tuple[Tensor, Tensor]:
    """Tangents of the unweighted loss's derivatives in outputs and in targets, along the outputs.

    Returns:
        `(d outputs-gradient [R, N, outputs], d targets-gradient [R, N, act_dim])`.
    """
    squashed, slope = gradient.squashed, gradient.slope
    tangent = head.tangent(outputs_tangent, squashed)
    action_tangent = slope * tangent.u * (2 / _samples(slope))
    curvature = torch.addcmul(slope, squashed.action, gradient.error, value=-2)
    in_outputs = head.output_gradient_tangent(
        gradient.inner, action_tangent * curvature, squashed, tangent
    )
    return in_outputs, -action_tangent


def _samples(actions: Tensor) -> int:
    """How many squared errors a run's loss is the mean of."""
    return actions.shape[-1] * actions.shape[-2]
