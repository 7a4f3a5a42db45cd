"""Gradient of an outer loss through T steps of behavioural cloning, in the synthetic pairs.

    v_{t+1} = momentum * v_t + grad L_BC(theta_t, D),   theta_{t+1} = theta_t - lr * v_{t+1}
    wanted: dH(theta_T) / dD

The adjoint of one step needs a Hessian-vector product and the mixed derivative in D. Both are the
tangent of the whole forward and backward pass along one direction in parameter space: one
forward-mode sweep over stored values (the R-operator; Pearlmutter 1994, "Fast exact multiplication
by the Hessian"), six matrix products a layer and nothing re-differentiated. All tensors carry a
leading runs axis R, so several seeds or cells advance in one batch of products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.students.heads import Head, LossGradient, bc_loss_gradient, bc_loss_tangent
from benchmark.students.network import Levels, Network, Parameters, linear, relu_backward


class Pairs(NamedTuple):
    """Synthetic pairs of R runs: observations `[R, N, obs_dim]`, actions `[R, N, act_dim]`."""

    observations: Tensor
    actions: Tensor


class OuterBatch(NamedTuple):
    """What the trained students are held to.

    observations `[R, B, obs_dim]`, target actions `[R, B, act_dim]`, sample weights `[R, B]` or
    None, and standard normal noise `[R, B, act_dim]` for a noisy head.
    """

    observations: Tensor
    actions: Tensor
    weights: Tensor | None = None
    noise: Tensor | None = None


class MetaGradient(NamedTuple):
    """Outer loss `[R]` and its gradient in the synthetic pairs, shaped like them."""

    loss: Tensor
    observations: Tensor
    actions: Tensor


class _Step(NamedTuple):
    """What the adjoint needs of one inner step."""

    parameters: Parameters
    levels: Levels
    loss: LossGradient
    deltas: list[Tensor]


@dataclass(frozen=True)
class InnerLoop:
    """T full-batch BC steps of SGD, and their adjoint.

    Args:
        network: The students' network.
        head: The students' policy head.
        steps: T.
        learning_rate: Of every step.
        momentum: Heavy-ball momentum as in `torch.optim.SGD`; 0 for plain SGD.
    """

    network: Network
    head: Head
    steps: int
    learning_rate: float
    momentum: float = 0.0

    @torch.no_grad()
    def gradient(
        self,
        initial: Parameters,
        pairs: Pairs,
        outer: OuterBatch,
        noise: Tensor | None = None,
        adjoint_noise: Tensor | None = None,
    ) -> MetaGradient:
        """Outer loss after training from `initial`, and its gradient in the pairs.

        Args:
            initial: Stacked parameters of the R students.
            pairs: The synthetic pairs.
            outer: What the trained students are held to.
            noise: `[T, R, N, act_dim]` for a noisy head: one draw, used by both passes.
            adjoint_noise: The published OBD code draws new noise in its backward pass, which
                is not the gradient of its own loss. Given here, `[T, R, N, act_dim]`, it
                reproduces that estimate.
        """
        steps: list[_Step] = []
        parameters, velocity = initial, None
        for t in range(self.steps):
            steps.append(self._step(parameters, pairs, None if noise is None else noise[t]))
            parameters, velocity = self._update(steps[-1], velocity)
        loss, cotangent = self._outer_gradient(parameters, outer)

        carried: Parameters = [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in cotangent]
        total = MetaGradient(loss, *(torch.zeros_like(tensor) for tensor in pairs))
        for t in reversed(range(self.steps)):
            step = steps.pop()
            if adjoint_noise is not None:
                step = self._redraw(step, pairs, adjoint_noise[t])
            direction, scale = self._direction(cotangent, carried)
            self._sweep(step, direction, scale, cotangent, total)
        return total

    @torch.no_grad()
    def train(self, initial: Parameters, pairs: Pairs, noise: Tensor | None = None) -> Parameters:
        """Parameters `[R, ...]` after training from `initial`; see `gradient` for the arguments."""
        parameters, velocity = initial, None
        for t in range(self.steps):
            step = self._step(parameters, pairs, None if noise is None else noise[t])
            parameters, velocity = self._update(step, velocity)
        return parameters

    def _step(self, parameters: Parameters, pairs: Pairs, noise: Tensor | None) -> _Step:
        """Forward and backward pass of one inner step, everything kept."""
        levels = self.network.forward(parameters, pairs.observations)
        loss = bc_loss_gradient(self.head, levels.outputs, pairs.actions, noise)
        deltas = self.network.backward(parameters, levels, loss.outputs)
        return _Step(parameters, levels, loss, deltas)

    def _redraw(self, step: _Step, pairs: Pairs, noise: Tensor) -> _Step:
        """The same step under other action noise (the published code's adjoint)."""
        loss = bc_loss_gradient(self.head, step.levels.outputs, pairs.actions, noise)
        deltas = self.network.backward(step.parameters, step.levels, loss.outputs)
        return step._replace(loss=loss, deltas=deltas)

    def _update(
        self, step: _Step, velocity: Parameters | None
    ) -> tuple[Parameters, Parameters | None]:
        """One step of SGD; without momentum the update is part of the gradient's own product."""
        rate = self.learning_rate
        layers = zip(step.parameters, step.deltas, step.levels.inputs, strict=True)
        if not self.momentum:
            return [
                (
                    torch.baddbmm(weight, delta.mT, inputs, alpha=-rate),
                    torch.sub(bias, delta.sum(1, keepdim=True), alpha=rate),
                )
                for (weight, bias), delta, inputs in layers
            ], None
        gradients = self.network.gradients(step.levels, step.deltas)
        if velocity is not None:
            for gradient, previous in zip(gradients, velocity, strict=True):
                for now, before in zip(gradient, previous, strict=True):
                    now.add_(before, alpha=self.momentum)
        updated = [
            (torch.sub(weight, dw, alpha=rate), torch.sub(bias, db, alpha=rate))
            for (weight, bias), (dw, db) in zip(step.parameters, gradients, strict=True)
        ]
        return updated, gradients

    def _outer_gradient(
        self, parameters: Parameters, outer: OuterBatch
    ) -> tuple[Tensor, Parameters]:
        """Outer loss `[R]` and its gradient in the trained parameters."""
        levels = self.network.forward(parameters, outer.observations)
        result = bc_loss_gradient(
            self.head, levels.outputs, outer.actions, outer.noise, outer.weights
        )
        deltas = self.network.backward(parameters, levels, result.outputs)
        return result.loss, self.network.gradients(levels, deltas)

    def _direction(self, cotangent: Parameters, carried: Parameters) -> tuple[Parameters, float]:
        """dH/dv_{t+1} as `(direction, scale)`; the velocity carries momentum back in time."""
        if not self.momentum:
            return cotangent, -self.learning_rate
        for velocity, parameter in zip(carried, cotangent, strict=True):
            for v, p in zip(velocity, parameter, strict=True):
                v.mul_(self.momentum).add_(p, alpha=-self.learning_rate)
        return carried, 1.0

    def _sweep(
        self,
        step: _Step,
        direction: Parameters,
        scale: float,
        cotangent: Parameters,
        total: MetaGradient,
    ) -> None:
        """Adds `scale` times the Hessian-vector product along `direction` to `cotangent`, and
        `scale` times the mixed derivatives to `total`, in place.

        `direction` may be `cotangent` itself: a layer's entry is read before it is written.
        """
        tangents = self._forward_tangents(step, direction)
        delta_tangent, action_tangent = bc_loss_tangent(self.head, step.loss, tangents[-1])
        total.actions.add_(action_tangent, alpha=scale)
        skip, kept = self.network.skip, None
        for layer in reversed(range(self.network.depth)):
            weight, along = step.parameters[layer][0], direction[layer][0]
            delta, inputs = step.deltas[layer], step.levels.inputs[layer]
            below = torch.bmm(delta_tangent, weight).baddbmm_(delta, along)
            weight_cotangent, bias_cotangent = cotangent[layer]
            weight_cotangent.baddbmm_(delta_tangent.mT, inputs, alpha=scale)
            bias_cotangent.add_(delta_tangent.sum(1, keepdim=True), alpha=scale)
            if layer == 0:
                total.observations.add_(below, alpha=scale)
                break
            weight_cotangent.baddbmm_(delta.mT, tangents[layer - 1], alpha=scale)
            if skip and kept is not None and layer == skip[0]:
                below += kept
            if skip and layer == skip[1]:
                kept = below.clone()
            delta_tangent = relu_backward(below, step.levels.rectified[layer - 1])

    def _forward_tangents(self, step: _Step, direction: Parameters) -> list[Tensor]:
        """Tangent of every layer's value along a direction in parameter space."""
        tangents: list[Tensor] = []
        skip = self.network.skip
        for layer, (along, bias_along) in enumerate(direction):
            tangent = linear(step.levels.inputs[layer], along, bias_along)
            if layer > 0:
                tangent.baddbmm_(tangents[-1], step.parameters[layer][0].mT)
            if layer + 1 < self.network.depth:
                tangent = relu_backward(tangent, step.levels.rectified[layer])
                if skip and layer + 1 == skip[1]:
                    tangent += tangents[skip[0] - 1]
            tangents.append(tangent)
        return tangents
