"""A network that makes synthetic pairs of codes, learned together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.meta_gradient import MetaGradient, Pairs
from benchmark.method import Problem
from benchmark.students.network import Network


class PairGenerator:
    """G_phi with its codes, the tensors that are learned.

    Args:
        count: Number of codes.
        widths: Numbers per code, then units of each hidden layer.
        problem: Dimensions of the pairs, and source of the random weights and codes.
    """

    def __init__(self, count: int, widths: Sequence[int], problem: Problem) -> None:
        self.observation_dim = problem.observation_dim
        outputs = problem.observation_dim + problem.action_dim
        self.network = Network((*widths, outputs))
        generator = problem.generator("pair generator")
        weights = [t for layer in self.network.initialise(generator) for t in layer]
        codes = torch.randn(count, widths[0], generator=generator)
        self.learned = [tensor.requires_grad_() for tensor in (codes, *weights)]

    def __call__(self, codes: Tensor) -> Pairs:
        """Pairs of codes `[N, code_dim]`: normalised observations, actions in the unit box."""
        weights = self.learned[1:]
        layers = list(zip(weights[::2], weights[1::2], strict=True))
        outputs = self.network.forward(layers, codes[None]).outputs[0]
        observations, actions = outputs.tensor_split([self.observation_dim], dim=1)
        return Pairs(observations, actions.tanh())

    def gradient(self, of_pairs: MetaGradient) -> tuple[Tensor, ...]:
        """Chain a gradient in the pairs of the learned codes into all that is learned."""
        pairs = self(self.learned[0])
        along = (of_pairs.observations[0], of_pairs.actions[0])
        return torch.autograd.grad(list(pairs), self.learned, along)
