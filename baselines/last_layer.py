"""Fits of a student's last layer to pairs on its features, differentiable in the pairs.

With F = [h(X), 1] `[N, h + 1]` the features of N observations, W `[h + 1, act_dim]` the weights and
the bias of the last layer, u = F W its outputs, and a(u) the actions:

    ridge    min over W of |a(u_0) + a'(u_0) (F W - u_0) - A|^2 + lambda |W|^2,  u_0 = F W_0
    descent  W_{t+1} = W_t + lr 2 / (N act_dim) F^T a'(u_t) (A - a(u_t)),        from W_0

Both are solved in N x N, whatever the width: W = F^T alpha, or W_0 + F^T alpha.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmark.students.network import Network, Parameters
from benchmark.students.spec import StudentSpec

Link = Literal["tanh", "identity"]
"""What actions are of outputs: the tanh of every head of the squared error, or the outputs."""


class Fit(NamedTuple):
    """A fitted last layer and what it was fitted with.

    layer `[h + 1, act_dim]`; features `[N, h + 1]`; penalty, lambda, 0 for a descent.
    """

    layer: Tensor
    features: Tensor
    penalty: Tensor


def act(link: Link, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Actions a(u) and slopes a'(u), both shaped like the outputs."""
    if link == "identity":
        return outputs, torch.ones_like(outputs)
    actions = outputs.tanh()
    return actions, 1 - actions.square()


def features(network: Network, parameters: Parameters, observations: Tensor) -> Tensor:
    """Inputs of the last layer and a 1 `[N, h + 1]`, of one student and observations `[1, N, ...]`.

    A bias is then a weight like others.
    """
    hidden = network.forward(parameters, observations).inputs[network.depth - 1][0]
    return torch.cat((hidden, torch.ones_like(hidden[:, :1])), dim=1)


def last_layer(network: Network, parameters: Parameters, action_dim: int) -> Tensor:
    """Weights and bias `[h + 1, act_dim]` of the outputs that make the deterministic action."""
    weight, bias = parameters[network.depth - 1]
    return torch.cat((weight[0].mT, bias[0]))[:, :action_dim]


def ridge_fit(link: Link, inputs: Tensor, start: Tensor, actions: Tensor, ridge: float) -> Fit:
    """Fit the last layer in closed form.

    Args:
        link: What actions are of outputs; linearised at the outputs of `start`.
        inputs: Features F `[N, h + 1]`.
        start: W_0 `[h + 1, act_dim]`; without effect under "identity".
        actions: A `[N, act_dim]`.
        ridge: lambda as a fraction of the kernel's mean diagonal.
    """
    outputs = inputs @ start
    acted, slopes = act(link, outputs)
    response = slopes * outputs + actions - acted  # a'(u_0) times what F W is to be
    kernel, penalty = inputs @ inputs.mT, ridge * inputs.square().sum() / len(inputs)
    # Slopes differ by dimension: (S K S + lambda I) beta = response, and W = F^T S beta, for each.
    # In double precision: the smallest eigenvalue is lambda, the largest up to N of the diagonal.
    system = weighted_kernel(kernel, slopes, penalty)
    beta = torch.linalg.solve(system, response.mT.double())
    return Fit(inputs.mT @ (slopes * beta.mT.to(slopes.dtype)), inputs, penalty)


def weighted_kernel(kernel: Tensor, slopes: Tensor, penalty: Tensor) -> Tensor:
    """S K S + lambda I `[act_dim, N, N]` in double precision, S the slopes of each dimension."""
    scaled = slopes.mT[:, :, None] * kernel * slopes.mT[:, None, :]
    identity = torch.eye(len(kernel), dtype=torch.float64, device=kernel.device)
    return scaled.double() + penalty.double() * identity


def descent_fit(
    link: Link, inputs: Tensor, start: Tensor, actions: Tensor, student: StudentSpec
) -> Fit:
    """Fit the last layer by the student's own steps of SGD, its body held.

    Args:
        link: What actions are of outputs.
        inputs: Features F `[N, h + 1]`.
        start: W_0 `[h + 1, act_dim]`.
        actions: A `[N, act_dim]`.
        student: Number of steps, rate and momentum.
    """
    outputs, kernel = inputs @ start, inputs @ inputs.mT
    alpha = velocity = torch.zeros_like(actions)
    for _ in range(student.steps):
        acted, slopes = act(link, outputs + kernel @ alpha)
        # minus the BC loss's derivative in the outputs, which F^T takes to that in W
        push = slopes * (actions - acted) * (2 / actions.numel())
        velocity = student.momentum * velocity + push
        alpha = alpha + student.learning_rate * velocity
    return Fit(start + inputs.mT @ alpha, inputs, torch.zeros(()))


def mean_action_loss(
    link: Link, inputs: Tensor, layer: Tensor, targets: Tensor, weights: Tensor | None
) -> Tensor:
    """Mean of w |a(F W) - a*|^2 over states and dimensions, a scalar.

    Args:
        link: What actions are of outputs.
        inputs: Features F of B states `[B, h + 1]`.
        layer: W `[h + 1, act_dim]`.
        targets: a* `[B, act_dim]`.
        weights: Weights of the states `[B]`; None for equal ones.
    """
    error = (act(link, inputs @ layer)[0] - targets).square()
    return (error if weights is None else error * weights[:, None]).mean()
