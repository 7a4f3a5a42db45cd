"""Optimisers of students: SGD, Adam and AdamW with the arithmetic of torch.

The first `torch.optim.Optimizer` of a process imports torch's compiler, one and a half seconds that
every process would pay; and a step of one takes as long in Python as in the arithmetic of a small
student. The operations are torch's, one by one, so the numbers are the same to the last bit
(`tests/benchmark/students/test_optimisers.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

BETA_1, BETA_2 = 0.9, 0.999
"""Decay of Adam's two moments, torch's defaults."""


class Optimiser(ABC):
    """An optimiser over tensors that it updates in place, elementwise.

    Args:
        tensors: The parameters.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)

    @abstractmethod
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take one step.

        Args:
            gradients: A gradient per tensor, of its shape.
            rate: Learning rate of this step.
        """


class Sgd(Optimiser):
    """Stochastic gradient descent with heavy-ball momentum, as `torch.optim.SGD`.

    Args:
        tensors: The parameters.
        momentum: Share of the velocity that a step keeps; 0 for plain SGD.
    """

    def __init__(self, tensors: Sequence[Tensor], momentum: float = 0.0) -> None:
        super().__init__(tensors)
        self.momentum = momentum
        self._velocities: list[Tensor] = []

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take one step: v <- momentum * v + g;  x <- x - rate * v."""
        moves = gradients
        if self.momentum:
            if not self._velocities:
                self._velocities = [gradient.clone() for gradient in gradients]
            else:
                for velocity, gradient in zip(self._velocities, gradients, strict=True):
                    velocity.mul_(self.momentum).add_(gradient)
            moves = self._velocities
        for tensor, move in zip(self.tensors, moves, strict=True):
            tensor.add_(move, alpha=-rate)


class Adam(Optimiser):
    """Adam (arXiv 1412.6980), as `torch.optim.Adam`; with weight decay as `torch.optim.AdamW`.

    Args:
        tensors: The parameters.
        epsilon: Number that is added to the root of the second moment.
        weight_decay: Share of its learning rate by which a step shrinks the parameters.
    """

    def __init__(
        self, tensors: Sequence[Tensor], epsilon: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(tensors)
        self.epsilon, self.weight_decay = epsilon, weight_decay
        self._moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in self.tensors]
        self._steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take one step down the first moment over the root of the second, both unbiased."""
        self._steps += 1
        unbiased_rate = rate / (1 - BETA_1**self._steps)
        unbiasing_root = (1 - BETA_2**self._steps) ** 0.5
        for tensor, gradient, (first, second) in zip(
            self.tensors, gradients, self._moments, strict=True
        ):
            if self.weight_decay:
                tensor.mul_(1 - rate * self.weight_decay)
            first.lerp_(gradient, 1 - BETA_1)
            second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            root = (second.sqrt() / unbiasing_root).add_(self.epsilon)
            tensor.addcdiv_(first, root, value=-unbiased_rate)
