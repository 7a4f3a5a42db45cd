"""The masked autoregressive flow: MADE blocks of zuko with batch normalisation after each.

Papamakarios et al. 2017, "Masked Autoregressive Flow for Density Estimation" (arXiv 1705.07057).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from zuko.flows import MaskedAutoregressiveTransform

EPSILON = 1e-5
"""Term added to every variance. It and `RATE` have the values of the code that the papers' flow
comes from (github.com/kamenbliznashki/normalizing_flows, momentum 0.9)."""

RATE = 0.1
"""Fraction of the way that the running statistics move towards those of a batch."""


class BatchNorm(nn.Module):
    """Batch normalisation as a layer of a flow (arXiv 1705.07057, appendix B).

        y = (x - mean) / sqrt(variance + EPSILON) * exp(log_gain) + bias

    Mean and (biased) variance are those of the batch in training, running ones in evaluation.

    Args:
        features: Width of the input.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_variance", torch.ones(features))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute y `[B, features]` and the log determinant of dy / dx, `[]`: one for all rows."""
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            variance, mean = torch.var_mean(x, 0, correction=0)
            self.running_mean.lerp_(mean.detach(), RATE)
            self.running_variance.lerp_(variance.detach(), RATE)
        # dy / dx is diagonal; with the mean and variance held fixed, each entry is exp(log_scale).
        log_scale = self.log_gain - 0.5 * (variance + EPSILON).log()
        return (x - mean) * log_scale.exp() + self.bias, log_scale.sum()


class MaskedAutoregressiveFlow(nn.Module):
    """Blocks of zuko's masked autoregressive transform, each followed by batch normalisation.

    The order of the features is reversed from block to block; the base is a standard normal.

    Args:
        features: Width of the states, obs_dim; 2 or more.
        blocks: Number of blocks.
        hidden: Widths of each block's ReLU layers.
    """

    def __init__(self, features: int, blocks: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        order = torch.arange(features)
        self.features = features
        self.blocks = nn.ModuleList(
            MaskedAutoregressiveTransform(
                features, order=order.flip(0) if index % 2 else order, hidden_features=hidden
            )
            for index in range(blocks)
        )
        self.norms = nn.ModuleList(BatchNorm(features) for _ in range(blocks))

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p `[B]` of `x [B, features]`; its terms are summed in float64.

        Change of variables (arXiv 1705.07057, section 2.2): log p(x) = log N(u; 0, 1) + the sum
        over all layers of log |det of the layer's Jacobian|, for u the output of the last layer.
        """
        total = x.new_zeros(len(x), dtype=torch.float64)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x, log_determinant = block().call_and_ladj(x)
            total = total + log_determinant.double()
            x, log_determinant = norm(x)
            total = total + log_determinant.double()
        constant = 0.5 * self.features * math.log(2 * math.pi)
        return total - 0.5 * x.double().square().sum(-1) - constant
