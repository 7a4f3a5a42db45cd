"""Gradient of an outer loss through T steps of behavioural cloning, in the synthetic pairs.

    v_{t+1} = momentum * v_t + grad L_BC(theta_t, D),   theta_{t+1} = theta_t - lr * v_{t+1}
    wanted: dH(theta_T) / dD

With c_t = dH/dtheta_t and u_t = dH/dv_t, the adjoint goes back in time from c_T and u_{T+1} = 0:

    u_{t+1} = momentum * u_{t+2} - lr * c_{t+1}
    c_t     = c_{t+1} + (d^2 L_BC / dtheta^2)  u_{t+1}
    dH/dD  += (d^2 L_BC / dD dtheta) u_{t+1}

The Hessian-vector product and the mixed derivative are both the tangent of the whole forward and
backward pass along one direction in parameter space: one forward-mode sweep over stored values (the
R-operator; Pearlmutter 1994, "Fast exact multiplication by the Hessian"), six matrix products per
layer and nothing re-differentiated. All tensors carry a leading runs axis R, so that several seeds
or cells advance in one batch of products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from baselines import native_engine
from benchmark.students.heads import (
    LossGradient,
    SquaredErrorHead,
    bc_loss_gradient,
    bc_loss_tangent,
)
from benchmark.students.network import (
    Levels,
    Network,
    Parameters,
    halves,
    joined,
    linear,
    relu_backward,
)


class Pairs(NamedTuple):
    """Synthetic pairs of R runs: observations `[R, N, obs_dim]`, actions `[R, N, act_dim]`."""

    observations: Tensor
    actions: Tensor


class OuterBatch(NamedTuple):
    """States and targets of the outer loss H.

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


class InnerStep(NamedTuple):
    """Values of one inner step that its adjoint reads.

    deltas[l] `[R, N, out]` is the derivative of the loss in layer l's value before its ReLU; with
    trained scalars the last one is that in what they give.
    """

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
        learning_rate: Learning rate of every step, lr above.
        momentum: Heavy-ball momentum as in `torch.optim.SGD`; 0 for plain SGD.
        precision: Precision of the adjoint (`baselines.native_engine.Precision`).
    """

    network: Network
    head: SquaredErrorHead
    steps: int
    learning_rate: float
    momentum: float = 0.0
    precision: native_engine.Precision = "float32"

    def __post_init__(self) -> None:
        if self.network.activation != "relu":
            raise ValueError(
                f"The adjoint is that of ReLU networks; got one with {self.network.activation}."
            )

    def gradient(
        self,
        initial: Parameters,
        pairs: Pairs,
        outer: OuterBatch,
        noise: Tensor | None = None,
        adjoint_noise: Tensor | None = None,
        velocity: Parameters | None = None,
    ) -> MetaGradient:
        """Outer loss after training from `initial`, and its gradient in the pairs.

        Args:
            initial: Stacked parameters of the R students.
            pairs: The synthetic pairs.
            outer: States and targets of the outer loss.
            noise: Standard normal `[T, R, N, act_dim]` for a noisy head: one draw, used by both
                passes.
            adjoint_noise: Noise `[T, R, N, act_dim]` of the backward pass where it differs. The
                published OBD code draws it anew there, which is not the gradient of its own loss;
                given here, it reproduces that estimate.
            velocity: v_0, as `train_on` gives it; None for zero. The C++ engine begins at zero
                only, so that torch computes the others.
        """
        if velocity is None and native_engine.serves(pairs.actions):
            return MetaGradient(
                *native_engine.gradient(self, initial, pairs, outer, noise, adjoint_noise)
            )
        return self._gradient(initial, pairs, outer, noise, adjoint_noise, velocity)

    @torch.no_grad()
    def _gradient(
        self,
        initial: Parameters,
        pairs: Pairs,
        outer: OuterBatch,
        noise: Tensor | None,
        adjoint_noise: Tensor | None,
        velocity: Parameters | None = None,
    ) -> MetaGradient:
        """`gradient` in torch: the C++ engine's reference, and what runs where there is none."""
        # Forward in time: T steps of BC, each of which keeps what its adjoint reads.
        steps: list[InnerStep] = []
        parameters = initial
        for noise_t in self._by_step(noise):
            steps.append(self.inner_step(parameters, pairs, noise_t))
            parameters, velocity = self._update(steps[-1], velocity)
        loss, cotangent = self.outer_gradient(parameters, outer)

        # Backward in time. Of c_t (`cotangent`), u_t (`carried`) and dH/dD (`total`) there is one
        # copy each, updated in place; the values of a step are released once it is passed.
        carried: Parameters = [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in cotangent]
        total = MetaGradient(loss, *(torch.zeros_like(tensor) for tensor in pairs))
        for redrawn in reversed(self._by_step(adjoint_noise)):
            step = steps.pop()
            if redrawn is not None:
                step = self._redraw(step, pairs, redrawn)
            direction, scale = self._direction(cotangent, carried)
            self._sweep(step, direction, scale, cotangent, total)
        return total

    @torch.no_grad()
    def inner_step(self, parameters: Parameters, pairs: Pairs, noise: Tensor | None) -> InnerStep:
        """Forward and backward pass of one inner step, with all values that its adjoint reads.

        Args:
            parameters: Parameters of the R students.
            pairs: The synthetic pairs.
            noise: Standard normal `[R, N, act_dim]` for a noisy head.
        """
        levels = self.network.forward(parameters, pairs.observations)
        loss = bc_loss_gradient(self.head, levels.outputs, pairs.actions, noise)
        deltas = self.network.backward(parameters, levels, loss.outputs)
        return InnerStep(parameters, levels, loss, deltas)

    @torch.no_grad()
    def second_derivatives(
        self, step: InnerStep, along: Parameters
    ) -> tuple[Parameters, MetaGradient]:
        """Derivatives of <grad L_BC, r>: H r, and the mixed one in the pairs, whose loss is L_BC.

        Args:
            step: What `inner_step` gave.
            along: Direction r in the parameters.
        """
        product: Parameters = [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in along]
        pairs = step.levels.inputs[0], step.loss.error
        mixed = MetaGradient(step.loss.loss, *(torch.zeros_like(tensor) for tensor in pairs))
        self._sweep(step, along, 1.0, product, mixed)
        return product, mixed

    @torch.no_grad()
    def train(self, initial: Parameters, pairs: Pairs, noise: Tensor | None = None) -> Parameters:
        """Parameters `[R, ...]` after training from `initial`; arguments as in `gradient`."""
        if native_engine.serves(pairs.actions):
            return native_engine.train(self, initial, pairs, noise)
        return self.train_on(initial, None, pairs, noise)[0]

    @torch.no_grad()
    def train_on(
        self,
        parameters: Parameters,
        velocity: Parameters | None,
        pairs: Pairs,
        noise: Tensor | None = None,
    ) -> tuple[Parameters, Parameters | None]:
        """Go on with a training, in torch: parameters and velocity from v_0 (None for zero)."""
        for noise_t in self._by_step(noise):
            step = self.inner_step(parameters, pairs, noise_t)
            parameters, velocity = self._update(step, velocity)
        return parameters, velocity

    def stored_bytes(
        self, initial: Parameters, pairs: Pairs, outer: OuterBatch, noise: Tensor | None = None
    ) -> int:
        """Memory at the end of the forward pass, counted on tensors that hold no numbers.

        T inner steps, each parameters, hidden values and their derivatives, and what the head
        keeps; once the same for the outer batch; the pairs' and two parameters' gradients.
        """
        initial, pairs, outer, noise = tree_map_only(
            Tensor, lambda tensor: tensor.to("meta"), (initial, pairs, outer, noise)
        )
        inner = self.inner_step(initial, pairs, self._by_step(noise)[0])
        last = self.inner_step(initial, Pairs(*outer[:2]), outer.noise)
        gradients = 2 * _bytes((initial, pairs))
        return self.steps * _bytes(inner, shared=pairs) + _bytes(last, shared=initial) + gradients

    def _by_step(self, noise: Tensor | None) -> Sequence[Tensor | None]:
        """The noise of each of the T steps; what it holds beyond them is for other loops."""
        return [None] * self.steps if noise is None else noise.narrow(0, 0, self.steps).unbind()

    def _redraw(self, step: InnerStep, pairs: Pairs, noise: Tensor) -> InnerStep:
        """Repeat the backward pass of a step under other action noise (the published adjoint)."""
        loss = bc_loss_gradient(self.head, step.levels.outputs, pairs.actions, noise)
        deltas = self.network.backward(step.parameters, step.levels, loss.outputs)
        return step._replace(loss=loss, deltas=deltas)

    def _update(
        self, step: InnerStep, velocity: Parameters | None
    ) -> tuple[Parameters, Parameters | None]:
        """Take one step of SGD; give new parameters, and v_{t+1} where there is momentum."""
        rate = self.learning_rate
        # dL/dW = delta^T inputs `[R, out, in]`; without momentum the product subtracts itself from
        # the weights, so that no gradient is written to memory.
        layers = zip(step.parameters, step.deltas, step.levels.inputs, strict=True)
        if not self.momentum:
            return [
                (
                    torch.baddbmm(weight, delta.mT, inputs, alpha=-rate),
                    torch.sub(bias, delta.sum(1, keepdim=True), alpha=rate),
                )
                for (weight, bias), delta, inputs in layers
            ], None
        # v_{t+1} = momentum * v_t + dL/dtheta_t, accumulated in the memory of the gradient.
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

    @torch.no_grad()
    def outer_gradient(
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
        """u_{t+1} as `(direction, scale)` from c_{t+1} and, in `carried`, u_{t+2}."""
        if not self.momentum:
            return cotangent, -self.learning_rate  # u = -lr * c needs no memory of its own
        for velocity, parameter in zip(carried, cotangent, strict=True):
            for v, p in zip(velocity, parameter, strict=True):
                v.mul_(self.momentum).add_(p, alpha=-self.learning_rate)
        return carried, 1.0

    def _sweep(
        self,
        step: InnerStep,
        direction: Parameters,
        scale: float,
        cotangent: Parameters,
        total: MetaGradient,
    ) -> None:
        """Add a Hessian-vector product to `cotangent` and mixed derivatives to `total`, in place.

        With R{.} the tangent along `direction` (weights r), x the inputs of a layer, W its weights
        and delta the loss's derivative in its value before the ReLU, from the last layer down:

            R{dL/dx} = R{delta} W + delta r
            R{dL/dW} = R{delta}^T x + delta^T R{x};   R{dL/db} = sum over pairs of R{delta}

        Args:
            step: Stored values of the inner step.
            direction: u_{t+1} up to its scale; may be `cotangent` itself.
            scale: Factor of everything that is added.
            cotangent: c_{t+1} on entry, c_t on return.
            total: dH/dD so far.
        """
        tangents = self.forward_tangents(step, direction)
        delta_tangent, action_tangent = bc_loss_tangent(self.head, step.loss, tangents[-1])
        # Targets enter only the loss, so their mixed derivative is there at once.
        total.actions.add_(action_tangent, alpha=scale)
        if self.network.scalars:
            delta_tangent = self._sweep_scalars(
                step, direction[-1], scale, cotangent[-1], delta_tangent, tangents[-2]
            )
        skip, kept = self.network.skip, None
        for layer in reversed(range(self.network.depth)):
            weight, along = step.parameters[layer][0], direction[layer][0]
            delta, inputs = step.deltas[layer], step.levels.inputs[layer]
            # First R{dL/dx}, which reads r, then the weights' cotangent: the two share memory
            # where `direction` is `cotangent`.
            below = torch.bmm(delta_tangent, weight).baddbmm_(delta, along)
            weight_cotangent, bias_cotangent = cotangent[layer]
            weight_cotangent.baddbmm_(delta_tangent.mT, inputs, alpha=scale)
            bias_cotangent.add_(delta_tangent.sum(1, keepdim=True), alpha=scale)
            if layer == 0:  # x is the observations: R{x} = 0, and R{dL/dx} is their derivative
                total.observations.add_(below, alpha=scale)
                break
            weight_cotangent.baddbmm_(delta.mT, tangents[layer - 1], alpha=scale)
            # The skip connection adds hidden layer i's output to hidden layer j's: the derivative
            # in their sum flows to both. A copy waits for layer i, since the ReLU works in place.
            if skip and kept is not None and layer == skip[0]:
                below += kept
            if skip and layer == skip[1]:
                kept = below.clone()
            # The second derivative of a ReLU is 0: its mask is that of the forward pass.
            delta_tangent = relu_backward(below, step.levels.activated[layer - 1])

    def _sweep_scalars(
        self,
        step: InnerStep,
        direction: tuple[Tensor, Tensor],
        scale: float,
        cotangent: tuple[Tensor, Tensor],
        delta_tangent: Tensor,
        outputs_tangent: Tensor,
    ) -> Tensor:
        """Take the sweep through the head's trained scalars: log_std = multiplier * raw + offset.

        With delta = dL/dlog_std, and m the multiplier, the rules of `_sweep` for one unit:

            R{dL/draw} = R{delta} m + delta R{m}
            R{dL/dm} = sum of R{delta} raw + delta R{raw};   R{dL/doffset} = sum of R{delta}

        Args:
            step: Stored values of the inner step.
            direction: Direction in the two scalars, as in `_sweep`.
            scale: Factor of everything that is added.
            cotangent: Cotangents of the two scalars, updated in place.
            delta_tangent: R{.} of the loss's derivative in the head's inputs `[R, N, outputs]`.
            outputs_tangent: R{.} of the last linear layer's outputs `[R, N, outputs]`.

        Returns:
            R{.} of the loss's derivative in the last linear layer's outputs `[R, N, outputs]`.
        """
        mean, log_std = halves(delta_tangent)
        delta, raw = step.deltas[-1], step.levels.inputs[-1]
        of_raw = log_std * step.parameters[-1][0] + delta * direction[0]
        raw_tangent = halves(outputs_tangent)[1]
        of_multiplier = (log_std * raw + delta * raw_tangent).sum(1, keepdim=True)
        cotangent[0].add_(of_multiplier, alpha=scale)
        cotangent[1].add_(log_std.sum(1, keepdim=True), alpha=scale)
        return joined(mean, of_raw)

    def forward_tangents(self, step: InnerStep, direction: Parameters) -> list[Tensor]:
        """Tangents of every layer's output along a direction in parameter space.

        R{x W^T + b} = x r^T + R{x} W^T + r_b, then the ReLU's mask and the skip connection; entry l
        `[R, N, out]` is R{x} of layer l + 1, the last one the tangent of the network's outputs.
        With trained scalars one more follows: R{m raw + offset} = m R{raw} + raw R{m} + R{offset}.
        """
        tangents: list[Tensor] = []
        skip = self.network.skip
        for layer, (along, bias_along) in enumerate(direction[: self.network.depth]):
            tangent = linear(step.levels.inputs[layer], along, bias_along)
            if layer > 0:
                tangent.baddbmm_(tangents[-1], step.parameters[layer][0].mT)
            if layer + 1 < self.network.depth:
                tangent = relu_backward(tangent, step.levels.activated[layer])
                if skip and layer + 1 == skip[1]:
                    tangent += tangents[skip[0] - 1]
            tangents.append(tangent)
        if self.network.scalars:
            mean, raw = halves(tangents[-1])
            along, bias_along = direction[-1]
            raw = raw * step.parameters[-1][0] + step.levels.inputs[-1] * along + bias_along
            tangents.append(joined(mean, raw))
        return tangents


def _bytes(tensors: object, shared: object = ()) -> int:
    """Memory of a tree of tensors, each piece of it counted once; without what is shared."""
    found, others = (
        {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
         for tensor in tree_leaves(tree) if tensor is not None}
        for tree in (tensors, shared)
    )  # fmt: skip
    return sum(size for piece, size in found.items() if piece not in others)
