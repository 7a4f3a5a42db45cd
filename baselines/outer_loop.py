"""The outer loop of OBD: synthetic pairs that follow the meta-gradient, several runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from baselines.cuda_graph import GradientFunction, capture
from baselines.meta_gradient import InnerLoop, OuterBatch, Pairs
from baselines.selection import draw_pairs
from benchmark.method import BadParameter, Monitor, Problem, State
from benchmark.students.network import Parameters, stack
from benchmark.synthetic_set import SyntheticSet


class OuterSettings(Protocol):
    """Hyper-parameters of the outer loop, as `baselines.obd.OBD` documents them."""

    @property
    def synthetic_size(self) -> int: ...
    @property
    def outer_steps(self) -> int: ...
    @property
    def outer_learning_rate(self) -> float: ...
    @property
    def outer_momentum(self) -> float: ...
    @property
    def outer_gradient_clip(self) -> float: ...
    @property
    def outer_batch(self) -> int: ...
    @property
    def adjoint_noise(self) -> Literal["reused", "fresh"]: ...


class Targets(NamedTuple):
    """Targets of the outer loss on every state of the dataset.

    actions `[M, act_dim]` in the unit box; weights `[M]`, or None where all states count the same;
    probabilities `[M]` that states are drawn with, or None for uniform ones.
    """

    actions: Tensor
    weights: Tensor | None
    probabilities: Tensor | None = None


def advance(runs: Sequence[OuterRun]) -> None:
    """Advance runs of equal settings and student to their last outer step, in lock-step.

    Raises:
        BadParameter: Their saved states are at different steps.
    """
    first = runs[0]
    loop = inner_loop(first.problem)
    gradient = capture(loop, first.problem.device)
    if any(run.start != first.start for run in runs):
        raise BadParameter(
            f"Packed runs advance in lock-step, but their saved states are at steps "
            f"{[run.start for run in runs]}. Resume them one by one."
        )
    for step in range(first.start, first.settings.outer_steps):
        for run in runs:
            run.report(step)
        _outer_step(loop, gradient, runs, step)
    for run in runs:
        run.report(first.settings.outer_steps)


def _outer_step(
    loop: InnerLoop, gradient: GradientFunction, runs: Sequence[OuterRun], step: int
) -> None:
    """Update every run's pairs once."""
    draws = [run.draw(loop, step) for run in runs]
    # Tensors of a run gain a runs axis R: the first one, but the second of the noise, whose first
    # axis is the inner step.
    found = gradient(
        stack([draw.initial for draw in draws]),
        Pairs(
            torch.stack([run.observations for run in runs]),
            torch.stack([run.actions for run in runs]),
        ),
        OuterBatch(
            torch.stack([draw.outer.observations for draw in draws]),
            torch.stack([draw.outer.actions for draw in draws]),
            _stacked_weights([draw.outer.weights for draw in draws], draws[0].outer.actions),
            _stacked([draw.outer.noise for draw in draws]),
        ),
        _stacked([draw.noise for draw in draws], dim=1),
        _stacked([draw.adjoint_noise for draw in draws], dim=1),
    )
    for index, run in enumerate(runs):
        run.update(found.observations[index], found.actions[index])


class Draw(NamedTuple):
    """Everything random in one outer step of one run."""

    initial: Parameters
    outer: OuterBatch
    noise: Tensor | None
    adjoint_noise: Tensor | None

    def unpacked(self) -> Draw:
        """The draw of a run that is not packed: a runs axis of 1 on everything that lacks one."""
        observations, actions, weights, noise = self.outer
        return Draw(
            self.initial,
            OuterBatch(
                observations[None], actions[None], _with_axis(weights, 0), _with_axis(noise, 0)
            ),
            _with_axis(self.noise, 1),
            _with_axis(self.adjoint_noise, 1),
        )


class OuterRun:
    """The normalised pairs of one run, their optimiser, and their targets.

    Args:
        settings: Hyper-parameters of the outer loop.
        targets: Targets of the outer loss.
        problem: Source of the first pairs and of every draw.
        monitor: Receiver of the run's reports, and source of its saved state.
    """

    def __init__(
        self, settings: OuterSettings, targets: Targets, problem: Problem, monitor: Monitor
    ) -> None:
        self.settings, self.targets = settings, targets
        self.problem, self.monitor = problem, monitor
        real = draw_pairs(problem, settings.synthetic_size)
        self.observations = problem.scaling.observations_in(real.observations)
        self.actions = problem.scaling.actions_in(real.actions)
        self.velocity = [torch.zeros_like(self.observations), torch.zeros_like(self.actions)]
        chances = targets.probabilities
        self.cumulative = None if chances is None else chances.double().cumsum(0)
        self.start = 0
        if (state := monitor.resume()) is not None:
            self.start = int(state.facts["step"])
            self.observations = state.tensors["observations"]
            self.actions = state.tensors["actions"]
            self.velocity = [
                state.tensors["observations_velocity"],
                state.tensors["actions_velocity"],
            ]

    def draw(self, loop: InnerLoop, step: int) -> Draw:
        """Draw initialisation, outer batch and action noise; they depend only on run and step."""
        generator = self.problem.generator("outer step", step)
        size, batch = self.actions.shape, self.settings.outer_batch
        initial = loop.network.initialise(generator)
        chosen = self._draw_states(batch, generator)
        weights = self.targets.weights
        noise = outer_noise = adjoint_noise = None
        if loop.head.noisy:
            noise = torch.randn(loop.steps, *size, generator=generator)
            outer_noise = torch.randn(batch, size[1], generator=generator)
            if self.settings.adjoint_noise == "fresh":
                adjoint_noise = torch.randn(loop.steps, *size, generator=generator)
        outer = OuterBatch(
            self.problem.observations[chosen],
            self.targets.actions[chosen],
            None if weights is None else weights[chosen],
            outer_noise,
        )
        return Draw(initial, outer, noise, adjoint_noise)

    def _draw_states(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw rows of the dataset `[count]` with replacement."""
        states = len(self.targets.actions)
        if self.cumulative is None:
            return torch.randint(states, (count,), generator=generator)
        # Inverse of the cumulative sum; it also serves datasets above the 2^24 categories of
        # torch.multinomial.
        drawn = torch.rand(count, generator=generator, dtype=torch.float64) * self.cumulative[-1]
        return torch.searchsorted(self.cumulative, drawn, right=True).clamp(max=states - 1)

    def pairs(self) -> Pairs:
        """The pairs of a run that is not packed, with a runs axis of 1."""
        return Pairs(self.observations[None], self.actions[None])

    def update(self, observations_gradient: Tensor, actions_gradient: Tensor) -> None:
        """Take one step of SGD with momentum, the gradient clipped by its norm over all pairs.

        Args:
            observations_gradient: `[N, obs_dim]`.
            actions_gradient: `[N, act_dim]`.
        """
        # As torch.nn.utils.clip_grad_norm_ (its 1e-6 too), then torch.optim.SGD:
        # v <- momentum * v + clip(g);  x <- x - lr * v. Both are in place.
        gradients = (observations_gradient, actions_gradient)
        norm = torch.linalg.vector_norm(torch.cat(gradients, dim=1))
        scale = (self.settings.outer_gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        for values, velocity, gradient in zip(
            (self.observations, self.actions), self.velocity, gradients, strict=True
        ):
            velocity.mul_(self.settings.outer_momentum).add_(gradient * scale)
            values.sub_(velocity, alpha=self.settings.outer_learning_rate)

    def report(self, step: int) -> None:
        """Report the step to the monitor; score and save where these are due."""
        self.monitor.progress(step, self.settings.outer_steps)
        if self.monitor.due(step):
            self.monitor.checkpoint(step, self.synthetic_set())
        self.monitor.save(step, lambda: self.state(step))

    def synthetic_set(self) -> SyntheticSet:
        """The pairs in the environment's units."""
        scaling = self.problem.scaling
        return SyntheticSet(
            scaling.observations_out(self.observations), scaling.actions_out(self.actions)
        )

    def state(self, step: int) -> State:
        """Pairs and velocities: all that the next outer step depends on."""
        return State(
            {
                "observations": self.observations,
                "actions": self.actions,
                "observations_velocity": self.velocity[0],
                "actions_velocity": self.velocity[1],
            },
            {"step": step},
        )


def inner_loop(problem: Problem) -> InnerLoop:
    """The student's training as a differentiable loop."""
    student = problem.student
    if student.optimizer != "sgd":
        raise BadParameter(
            f"OBD differentiates through SGD; student.optimizer is {student.optimizer!r}. Distil "
            f'with optimizer = "sgd" and score under another with [evaluation_student].'
        )
    network = student.network(problem.observation_dim, problem.action_dim)
    return InnerLoop(
        network, student.policy_head, student.steps, student.learning_rate, student.momentum
    )


def _stacked(tensors: Sequence[Tensor | None], dim: int = 0) -> Tensor | None:
    """Stack the runs' tensors on a new runs axis; None where there are none."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present, dim=dim) if present else None


def _stacked_weights(weights: Sequence[Tensor | None], actions: Tensor) -> Tensor | None:
    """Stack the runs' weights; a run without weights gets ones where another has some."""
    if all(weight is None for weight in weights):
        return None
    ones = torch.ones(actions.shape[:-1], dtype=actions.dtype)
    return torch.stack([ones if weight is None else weight for weight in weights])


def _with_axis(tensor: Tensor | None, dim: int) -> Tensor | None:
    """Add a runs axis of 1 at `dim`."""
    return None if tensor is None else tensor.unsqueeze(dim)
