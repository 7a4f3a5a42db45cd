"""Training students: a synthetic set is cloned into policy networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.scaling import Scaling
from benchmark.students.heads import Head, bc_loss_gradient
from benchmark.students.network import Network, Parameters, stack
from benchmark.students.spec import StudentSpec


@dataclass(frozen=True)
class StudentPolicy:
    """P trained students as one deterministic policy for `rollout`, in the environment's units.

    Args:
        network: Network of every student.
        head: Policy head, whose mode is the action.
        parameters: Parameters of the P students, stacked.
        scaling: Scaling of observations and actions under which the students were trained.
    """

    network: Network
    head: Head
    parameters: Parameters
    scaling: Scaling

    @property
    def count(self) -> int:
        """The number of students P."""
        return int(self.parameters[0][0].shape[0])

    def only(self, policies: NDArray[np.intp]) -> StudentPolicy:
        """The students of these indices, without the others (see `rollout`)."""
        chosen = torch.from_numpy(policies)
        parameters = [(weight[chosen], bias[chosen]) for weight, bias in self.parameters]
        return replace(self, parameters=parameters)

    @torch.no_grad()
    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute actions `[P, E, act_dim]` for raw observations `[P, E, obs_dim]`."""
        inputs = self.scaling.observations_in(torch.from_numpy(observations))
        outputs = self.network.forward(self.parameters, inputs).outputs
        return self.scaling.actions_out(self.head.mode(outputs)).numpy()


Batch = tuple[Tensor, Tensor]
"""Normalised observations `[P, N, obs_dim]` and actions in the unit box `[P, N, act_dim]`."""


def train_students(
    spec: StudentSpec,
    batch: Callable[[int], Batch],
    scaling: Scaling,
    generators: Sequence[torch.Generator],
    steps: int | None = None,
    weights: Tensor | None = None,
) -> StudentPolicy:
    """Train P students at once by behavioural cloning.

    Args:
        spec: Architecture and training of every student.
        batch: Function from the gradient step to its pairs; a synthetic set is always one batch.
        scaling: Scaling of the observations and actions, kept with the policy.
        generators: One generator per student, for its initial parameters and action noise; a
            student depends only on its own.
        steps: Gradient steps; None takes `spec.steps`.
        weights: Weight of each squared error `[P, N, act_dim]`; None weighs all by 1.

    Returns:
        The trained students.
    """
    observations, actions = batch(0)
    network = spec.network(observations.shape[-1], actions.shape[-1])
    head = spec.policy_head
    parameters = stack([network.initialise(generator) for generator in generators])
    tensors = [tensor for layer in parameters for tensor in layer]
    optimiser = spec.optimiser(tensors)
    for step in range(spec.steps if steps is None else steps):
        observations, actions = batch(step)
        # Each student's noise comes from its own generator: students do not depend on each other.
        noise = _noise(actions, generators) if head.noisy else None
        with torch.no_grad():
            levels = network.forward(parameters, observations)
            loss = bc_loss_gradient(head, levels.outputs, actions, noise, weights)
            deltas = network.backward(parameters, levels, loss.outputs)
            gradients = network.gradients(levels, deltas)
        for tensor, gradient in zip(
            tensors, (g for layer in gradients for g in layer), strict=True
        ):
            tensor.grad = gradient
        optimiser.step()
    return StudentPolicy(network, head, parameters, scaling)


def _noise(actions: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    shape = actions.shape[1:]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])
