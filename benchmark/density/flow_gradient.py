"""The gradient of a masked autoregressive flow, written out for its training steps.

A step on 100 states is some 15 MFLOP, less than a millisecond of arithmetic: through zuko and
autograd the time goes into several hundred small tensors, their graph and their optimiser slots.
Here the parameters are one vector, and a step is about forty in-place products and sums per block
on buffers that are allocated once. Batches are feature-major, `[obs_dim, B]`, so that a reduction
over the batch and each half of a block's output are contiguous.

One block computes, per feature, with shift m and raw log scale r from its masked network,

    a = r / (1 + |r| / SOFT_BOUND),  y = x exp(a) + m                   (the affine transform)
    s = (y - mean) / sqrt(variance + EPSILON),  z = s exp(gamma) + beta    (batch normalisation)

and the loss is the mean over the batch of |z|^2 / 2 for the last z, minus every a and every
gamma - log(variance + EPSILON) / 2. Its gradient is that of `MaskedAutoregressiveFlow.log_prob` in
training mode, which a test holds it to in float64.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from zuko.nn import MaskedLinear

from benchmark.density.flow import EPSILON, RATE, BatchNorm, MaskedAutoregressiveFlow

SOFT_BOUND = -math.log(1e-3)
"""Bound of the log scale: zuko's affine transform bends raw values into (-6.9, 6.9)."""


class FlowGradient:
    """The gradient of a batch's mean negative log-likelihood in a flow's parameters.

    The flow's parameters become views of `vector`, so an optimiser step on the vector is one on
    the flow.

    Args:
        flow: The flow to train; its parameters are replaced.
        batch_size: States B in every batch.
    """

    def __init__(self, flow: MaskedAutoregressiveFlow, batch_size: int) -> None:
        self.batch_size = batch_size
        parameters = list(flow.parameters())
        flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.vector = nn.Parameter(flat)
        self.vector.grad = torch.zeros_like(flat)
        self._mask = torch.ones_like(flat)
        offsets = itertools.accumulate((p.numel() for p in parameters), initial=0)
        for parameter, offset in zip(parameters, offsets, strict=False):
            span = slice(offset, offset + parameter.numel())
            parameter.data = self.vector.data[span].view_as(parameter)
            parameter.grad = self.vector.grad[span].view_as(parameter)
            parameter_mask = self._mask[span].view_as(parameter)
            for module in flow.modules():
                if isinstance(module, MaskedLinear) and module.weight is parameter:
                    parameter_mask.copy_(module.mask)
        # zuko masks the weights at every use. Here they are zero from the start and stay zero,
        # because their gradient is masked.
        self.vector.data.mul_(self._mask)
        self._blocks = [
            _Block(block, norm, batch_size)
            for block, norm in zip(flow.blocks, flow.norms, strict=True)
            if isinstance(norm, BatchNorm)
        ]

    @torch.no_grad()
    def compute(self, batch: Tensor) -> None:
        """Write the gradient for one batch `[obs_dim, B]` to `vector.grad`.

        The running statistics of the batch normalisations move as in a forward pass.
        """
        x = batch
        for block in self._blocks:
            x = block.forward(x)
        # d loss / dz = z / B; the log determinants enter in each block's backward pass.
        upstream = x.mul(1 / self.batch_size)
        for block in reversed(self._blocks):
            upstream = block.backward(upstream)
        assert self.vector.grad is not None
        self.vector.grad.mul_(self._mask)


class _Layer:
    """Views of a masked linear layer's parameters and gradients, shaped for the products."""

    def __init__(self, layer: MaskedLinear) -> None:
        self.weight, self.bias = layer.weight.data, layer.bias.data.unsqueeze(1)
        self.transposed = self.weight.T
        self.in_weight, self.in_bias = layer.weight.grad, layer.bias.grad


class _Block:
    """One masked network (MADE) with its batch normalisation, forward and backward.

    Every intermediate value x has a buffer, and `in_x` is the derivative of the loss in it.

    Args:
        made: zuko's masked autoregressive transform.
        norm: The batch normalisation after it.
        batch_size: States B in every batch.
    """

    def __init__(self, made: nn.Module, norm: BatchNorm, batch_size: int) -> None:
        self.layers = [_Layer(m) for m in made.modules() if isinstance(m, MaskedLinear)]
        self.norm, self.share = _Norm(norm), 1 / batch_size
        features = len(norm.bias)
        new = norm.bias.new_empty
        self.hidden = [new(len(layer.bias), batch_size) for layer in self.layers[:-1]]
        self.below = [torch.empty_like(hidden) for hidden in self.hidden]
        self.transposed = [hidden.T for hidden in self.hidden]
        self.outputs, self.in_outputs = (new(2 * features, batch_size) for _ in range(2))
        self.shift, self.raw = self.outputs[0::2], self.outputs[1::2]  # zuko's order of outputs
        self.in_shift, self.in_raw = self.in_outputs[0::2], self.in_outputs[1::2]
        self.ones = new(features, batch_size).fill_(1)
        self.damping, self.scale, self.scaled, self.standard, self.product = (
            new(features, batch_size) for _ in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute z `[features, B]` of `x [features, B]`; fill the buffers for `backward`."""
        self.x = below = x
        for layer, hidden in zip(self.layers, self.hidden, strict=False):
            below = torch.addmm(layer.bias, layer.weight, below, out=hidden).relu_()
        last = self.layers[-1]
        torch.addmm(last.bias, last.weight, below, out=self.outputs)
        # damping = 1 / (1 + |r| / SOFT_BOUND), scale = exp(a) = exp(r damping), scaled = x exp(a)
        torch.abs(self.raw, out=self.damping)
        torch.add(self.ones, self.damping, alpha=1 / SOFT_BOUND, out=self.damping).reciprocal_()
        torch.mul(self.raw, self.damping, out=self.scale).exp_()
        torch.mul(x, self.scale, out=self.scaled)
        return self._normalise(torch.add(self.scaled, self.shift, out=self.standard))

    def _normalise(self, y: Tensor) -> Tensor:
        """Compute z from y, which becomes s in place (the buffer `standard`)."""
        norm = self.norm
        mean = y.sum(1, keepdim=True).mul_(self.share)
        y.sub_(mean)
        variance = torch.mul(y, y, out=self.product).sum(1, keepdim=True).mul_(self.share)
        norm.running_mean.lerp_(mean, RATE)
        norm.running_variance.lerp_(variance, RATE)
        self.inverse = variance.add_(EPSILON).rsqrt_()
        self.gain = norm.log_gain.exp()
        y.mul_(self.inverse)
        return torch.addcmul(norm.bias, y, self.gain)

    def backward(self, upstream: Tensor) -> Tensor:
        """Compute d loss / dx `[features, B]` from d loss / dz; write all parameters' gradients."""
        self._through_normalisation(upstream)
        # dm = dy; da = dy x exp(a) - 1 / B (the log determinant's); dr = da damping^2
        torch.mul(self.in_shift, self.scaled, out=self.in_raw).sub_(self.share)
        self.in_raw.mul_(self.damping).mul_(self.damping)
        below = self.in_outputs
        for index in reversed(range(len(self.hidden))):
            layer = self.layers[index + 1]
            torch.mm(below, self.transposed[index], out=layer.in_weight)
            torch.sum(below, 1, out=layer.in_bias)
            # The weights' gradient has read the hidden values: their buffer may become the ReLU's
            # derivative, 1 where they are positive.
            active = self.hidden[index].sign_()
            below = torch.mm(layer.transposed, below, out=self.below[index]).mul_(active)
        layer = self.layers[0]
        torch.mm(below, self.x.T, out=layer.in_weight)
        torch.sum(below, 1, out=layer.in_bias)
        # x acts through the affine transform and through the masked network.
        return torch.mul(self.in_shift, self.scale).addmm_(layer.transposed, below)

    def _through_normalisation(self, upstream: Tensor) -> None:
        """Write `in_shift`, d loss / dy, and the gradients of gamma and beta, from d loss / dz."""
        norm = self.norm
        # dbeta = sum dz; dgamma = exp(gamma) sum dz s - 1, where -1 is the log determinant's
        torch.sum(upstream, 1, keepdim=True, out=norm.in_bias)
        torch.mul(upstream, self.standard, out=self.product)
        torch.sum(self.product, 1, keepdim=True, out=norm.in_log_gain).mul_(self.gain).sub_(1)
        # With i = 1 / sqrt(variance + EPSILON) and g = exp(gamma),
        #     dy = i g dz - i g sum(dz) / B - i s (g sum(dz s) - 1) / B:
        # the mean takes away the second term, the variance the third; its -1 is again the log
        # determinant's, so the bracket is dgamma.
        factor = self.inverse * self.gain
        constant = torch.mul(factor, norm.in_bias).mul_(-self.share)
        along = torch.mul(self.inverse, norm.in_log_gain).mul_(-self.share)
        torch.addcmul(constant, upstream, factor, out=self.in_shift)
        self.in_shift.addcmul_(self.standard, along)


class _Norm:
    """Views of a batch normalisation's parameters, gradients and statistics, `[features, 1]`."""

    def __init__(self, norm: BatchNorm) -> None:
        assert norm.log_gain.grad is not None and norm.bias.grad is not None
        self.log_gain, self.bias, self.in_log_gain, self.in_bias = (
            tensor.unsqueeze(1)
            for tensor in (norm.log_gain.data, norm.bias.data, norm.log_gain.grad, norm.bias.grad)
        )
        self.running_mean = norm.running_mean.unsqueeze(1)
        self.running_variance = norm.running_variance.unsqueeze(1)
