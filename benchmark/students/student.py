"""Training students: a synthetic set is cloned into policy networks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.scaling import Scaling
from benchmark.students.heads import Head
from benchmark.students.network import Network, Parameters, stack
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet


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
    def outputs(self, observations: NDArray[np.float32]) -> Tensor:
        """Compute network outputs `[P, E, outputs]` for raw observations `[P, E, obs_dim]`."""
        inputs = self.scaling.observations_in(torch.from_numpy(observations))
        return self.network.forward(self.parameters, inputs).outputs

    def mode(self, observations: Tensor) -> Tensor:
        """Compute actions in the unit box `[P, E, act_dim]`; autograd can follow it."""
        inputs = self.scaling.observations_in(observations)
        return self.head.mode(self.network.forward(self.parameters, inputs).outputs)

    @torch.no_grad()
    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute actions `[P, E, act_dim]` for raw observations `[P, E, obs_dim]`."""
        return self.scaling.actions_out(self.mode(torch.from_numpy(observations))).numpy()

    def sampled(self, seeds: Sequence[Sequence[int]]) -> SampledStudents:
        """The same students, which draw their actions, for one `rollout`.

        Args:
            seeds: Seeds of the streams, one row per policy, one entry per episode. With fewer rows
                than policies they are taken in turn: policy p has row p modulo their number.

        Raises:
            ObdBenchError: Their head has only one action per state.
        """
        if not self.head.stochastic:
            raise ObdBenchError(
                f"Actions are to be sampled, but a {type(self.head).__name__} has only one per "
                f'state. Take students with another head, or actions = "mode".'
            )
        streams = ActionStreams(self.head, len(self.scaling.center), seeds)
        return SampledStudents(self, streams, np.arange(self.count) % len(seeds))


class ActionStreams:
    """The numbers that episodes draw their actions by, a stream each, one row per environment step.

    Args:
        head: Head whose noise they are.
        action_dim: Numbers per action.
        seeds: Seeds of the streams `[S, E]`.
    """

    BLOCK = 64
    """Steps that are drawn at once: a call of a generator costs as much as a hundred numbers."""

    def __init__(self, head: Head, action_dim: int, seeds: Sequence[Sequence[int]]) -> None:
        self._streams = [[np.random.default_rng(seed) for seed in row] for row in seeds]
        self._draw, self._shape = head.draw, (self.BLOCK, action_dim)
        self._block: NDArray[np.float32] = np.empty(0, np.float32)
        self._step = 0

    def next(self) -> NDArray[np.float32]:
        """The numbers of the next step `[S, E, act_dim]`."""
        row, self._step = self._step % self.BLOCK, self._step + 1
        if row == 0:
            drawn = [[self._draw(one, self._shape) for one in many] for many in self._streams]
            self._block = np.array(drawn)
        return self._block[:, :, row]


@dataclass(frozen=True)
class SampledStudents:
    """P students that draw their actions from their distributions, for one `rollout`.

    The numbers of an episode come from a stream of its own, whatever the other episodes do.

    Args:
        students: The students.
        streams: Streams of all policies; students that are asked without the others share them.
        rows: Row of the streams of each student `[P]`.
    """

    students: StudentPolicy
    streams: ActionStreams
    rows: NDArray[np.intp]

    @property
    def count(self) -> int:
        """The number of students P."""
        return self.students.count

    def only(self, policies: NDArray[np.intp]) -> SampledStudents:
        """The students of these indices, without the others (see `rollout`)."""
        return SampledStudents(self.students.only(policies), self.streams, self.rows[policies])

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Draw actions `[P, E, act_dim]` of the next step for observations `[P, E, obs_dim]`."""
        noise = torch.from_numpy(self.streams.next()[self.rows])
        drawn = self.students.head.sample(self.students.outputs(observations), noise)
        return self.students.scaling.actions_out(drawn).numpy()


Batch = tuple[Tensor, Tensor]
"""Normalised observations `[P, N, obs_dim]` and actions in the unit box `[P, N, act_dim]`."""


def train_students(
    spec: StudentSpec,
    batch: Callable[[int], Batch],
    scaling: Scaling,
    generators: Sequence[torch.Generator],
    steps: int | None = None,
    weights: Tensor | None = None,
    initial: Parameters | None = None,
) -> StudentPolicy:
    """Train P students at once by behavioural cloning; `train_on_set` does so on a synthetic set.

    Args:
        spec: Architecture and training of every student.
        batch: Function from the gradient step to its pairs; a synthetic set is always one batch.
        scaling: Scaling of the observations and actions, kept with the policy.
        generators: One generator per student, for its initial parameters and action noise; a
            student depends only on its own.
        steps: Gradient steps; None takes `spec.steps`.
        weights: Weights of the losses, per pair `[P, N]` or, for squared errors, per number of an
            action `[P, N, act_dim]`; None weighs all by 1.
        initial: Parameters that all students begin with (R = 1), or each with its own (R = P); None
            draws each student's own.

    Returns:
        The trained students.
    """
    trained = training(spec, batch, scaling, generators, steps, weights, initial)
    return deque(trained, maxlen=1).pop()


def training(
    spec: StudentSpec,
    batch: Callable[[int], Batch],
    scaling: Scaling,
    generators: Sequence[torch.Generator],
    steps: int | None = None,
    weights: Tensor | None = None,
    initial: Parameters | None = None,
) -> Iterator[StudentPolicy]:
    """Train P students; yield them before the first step, then after each.

    It is one policy each time, whose parameters the next step changes in place. Arguments as of
    `train_students`.
    """
    observations, actions = batch(0)
    network = spec.network(observations.shape[-1], actions.shape[-1])
    head = spec.policy_head
    if initial is None:
        parameters = network.initialise_runs(generators)
    else:
        runs = len(initial[0][0])
        parameters = stack([initial] * (len(generators) if runs == 1 else 1))
        if len(parameters[0][0]) != len(generators):
            raise ObdBenchError(
                f"{len(generators)} students cannot begin with the parameters of {runs}; expected "
                f"those of one, or of each."
            )
    optimiser = spec.optimiser([tensor for layer in parameters for tensor in layer])
    steps = spec.steps if steps is None else steps
    students = StudentPolicy(network, head, parameters, scaling)
    yield students
    for step in range(steps):
        observations, actions = batch(step)
        # Each student's noise comes from its own generator: students do not depend on each other.
        noise = _noise(actions, generators) if head.noisy else None
        with torch.no_grad():
            levels = network.forward(parameters, observations)
            in_outputs = head.loss_gradient(levels.outputs, actions, noise, weights)
            deltas = network.backward(parameters, levels, in_outputs)
            gradients = [g for layer in network.gradients(levels, deltas) for g in layer]
            if spec.gradient_clip is not None:
                clip_by_norm(gradients, spec.gradient_clip)
        optimiser.step(gradients, spec.rate(step, steps))
        yield students


def train_on_set(
    spec: StudentSpec,
    pairs: SyntheticSet,
    scaling: Scaling,
    generators: Sequence[torch.Generator],
    steps: int | None = None,
) -> StudentPolicy:
    """Train P students at once on a synthetic set, in its stages, by its weights or as it says.

    Args:
        spec: Architecture and training of every student.
        pairs: The set, which every student learns.
        scaling: Scaling that the set was made under, kept with the policy; a set that carries its
            own has students take that.
        generators: One generator per student, as in `train_students`.
        steps: Gradient steps; None takes `spec.steps`.
    """
    count, steps = len(generators), spec.steps if steps is None else steps
    if pairs.training is not None:
        scaling = pairs.training.scaling
        spec = spec.with_rate(pairs.training.learning_rate)
    observations = scaling.observations_in(pairs.observations)
    actions = scaling.actions_in(pairs.actions)
    at_once = observations.expand(count, -1, -1), actions.expand(count, -1, -1)

    def batch(step: int) -> Batch:
        if pairs.stages is None:
            return at_once
        rows = pairs.rows(step, steps)
        return observations[rows].expand(count, -1, -1), actions[rows].expand(count, -1, -1)

    weights = pairs.mean_one_weights
    weights = None if weights is None else weights.expand(count, -1)
    return train_students(spec, batch, scaling, generators, steps, weights)


def clip_by_norm(gradients: Sequence[Tensor], largest: float) -> None:
    """Scale each run's gradient in place to a norm of at most `largest`, over all of its tensors.

    As `optax.clip_by_global_norm`, which HaDES's code has: torch's adds 1e-6 to the norm.

    Args:
        gradients: Gradients of all parameters, each `[R, ...]`.
        largest: Largest norm.
    """
    of_each = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
    norms = torch.linalg.vector_norm(torch.stack(of_each), dim=0)  # [R]
    if not bool((norms > largest).any()):
        return
    scale = torch.where(norms > largest, largest / norms, 1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))


def _noise(actions: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    shape = actions.shape[1:]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])
