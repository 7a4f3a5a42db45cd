"""Optimisers of students: torch's functions of SGD, Adam and AdamW, and what they keep.

`torch.optim.Optimizer` itself imports torch's compiler in every process that makes one, one and a
half seconds, and takes as long in Python per step as the arithmetic of a small student. The numbers
are those of its classes to the last bit (`tests/benchmark/students/test_optimisers.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

BETA_1, BETA_2 = 0.9, 0.999
"""Decay of Adam's two moments, torch's defaults."""


class Optimiser(Protocol):
    """An optimiser over tensors that it updates in place, elementwise."""

    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take one step.

        Args:
            gradients: A gradient per tensor, of its shape.
            rate: Learning rate of this step.
        """


class Sgd:
    """Stochastic gradient descent with heavy-ball momentum, as `torch.optim.SGD`.

    Args:
        tensors: The parameters.
        momentum: Share of the velocity that a step keeps; 0 for plain SGD.
    """

    def __init__(self, tensors: Sequence[Tensor], momentum: float = 0.0) -> None:
        self._tensors, self._momentum = list(tensors), momentum
        self._velocities: list[Tensor | None] = [None] * len(self._tensors)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take one step: v <- momentum * v + g;  x <- x - rate * v."""
        sgd(
            self._tensors, list(gradients), self._velocities, foreach=False, fused=False,
            weight_decay=0.0, momentum=self._momentum, lr=rate, dampening=0.0, nesterov=False,
            maximize=False,
        )  # fmt: skip


class Adam:
    """Adam (arXiv 1412.6980), as `torch.optim.Adam`; with weight decay as `torch.optim.AdamW`.

    Args:
        tensors: The parameters.
        epsilon: Number that is added to the root of the second moment.
        weight_decay: Share of its learning rate by which a step shrinks the parameters.
        fused: Whether each tensor is read and written once per step, by torch's fused kernel: a
            sixth of the time at 500,000 parameters, and other last bits.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        epsilon: float,
        weight_decay: float = 0.0,
        fused: bool = False,
    ) -> None:
        self._tensors, self._epsilon, self._fused = list(tensors), epsilon, fused
        self._weight_decay = weight_decay
        self._moments = [[torch.zeros_like(tensor) for tensor in tensors] for _ in range(2)]
        self._steps = [torch.tensor(0.0) for _ in tensors]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take one step down the first moment over the root of the second, both unbiased."""
        update = adamw if self._weight_decay else adam
        first, second = self._moments
        update(
            self._tensors, list(gradients), first, second, [], self._steps, foreach=False,
            fused=self._fused, amsgrad=False, beta1=BETA_1, beta2=BETA_2, lr=rate,
            weight_decay=self._weight_decay, eps=self._epsilon, maximize=False,
        )  # fmt: skip
