"""The convexified curvature of a regression's loss in a student's body (RCIG, arXiv 2302.06755).

The network is replaced by its linearisation at the body theta, in which the problem of all weights
is a least-squares one. With the derivative J of its outputs in theta, the slopes S of the actions
there, the kernel K = F F' of the last layer's features, and that layer solved for,

    d^2 L / dtheta^2 = 2 / (N act_dim) J' S P S J,   P = lambda (S K S + lambda)^-1
"""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.last_layer import Fit, Link, act, weighted_kernel
from baselines.meta_gradient import InnerLoop, Pairs
from baselines.student_pool import flattened, unflattened
from benchmark.students.heads import MeanHead
from benchmark.students.network import Network, Parameters


class BodyCurvature:
    """The convexified d^2 L / dtheta^2 of one student, as products with it.

    Args:
        link: What actions are of outputs.
        network: The student's network.
        student: Its parameters, of which the last layer is replaced by the fitted one.
        fit: Last layer, features and lambda of the regression.
        pairs: The pairs that it was regressed on.
    """

    @torch.no_grad()
    def __init__(
        self, link: Link, network: Network, student: Parameters, fit: Fit, pairs: Pairs
    ) -> None:
        self.sizes = network.layer_sizes[: network.depth - 1]
        self.last = (fit.layer[:-1].mT[None], fit.layer[None, -1:])
        regressed = Network((*network.sizes[:-1], fit.layer.shape[1]), network.skip)
        self.loop = InnerLoop(regressed, MeanHead(), steps=1, learning_rate=1.0)
        body = student[: len(self.sizes)]
        self.step = self.loop.inner_step([*body, self.last], pairs, None)
        _, self.slopes = act(link, self.step.levels.outputs[0])
        kernel = fit.features @ fit.features.mT
        system = weighted_kernel(kernel, self.slopes, fit.penalty)
        self.projection = fit.penalty * torch.linalg.inv(system).to(kernel.dtype)  # P by dimension

    @torch.no_grad()
    def product(self, along: Tensor) -> Tensor:
        """The product with a change of the body in one row."""
        still = torch.zeros_like(self.last[0]), torch.zeros_like(self.last[1])
        direction = [*unflattened(along, self.sizes), still]
        tangents = self.loop.forward_tangents(self.step, direction)[-1][0]  # J v `[N, act_dim]`
        projected = self.projection @ (self.slopes * tangents).mT[..., None]
        outputs = self.slopes * projected[..., 0].mT * (2 / self.slopes.numel())
        deltas = self.loop.network.backward(self.step.parameters, self.step.levels, outputs[None])
        gradients = self.loop.network.gradients(self.step.levels, deltas)
        return flattened(gradients[: len(self.sizes)])
