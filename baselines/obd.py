"""Offline behaviour distillation (Lei, Zhang & Tao, NeurIPS 2024, arXiv 2410.22728).

A student is trained on the synthetic pairs by T steps of BC; the outer loss holds it to a target
on states of the dataset; the pairs follow the gradient of that loss through the training:

    repeat:
        theta_0 ~ initialisation;  theta_T = T steps of BC on D_syn from theta_0
        D_syn <- D_syn - lr * clip(grad_{D_syn} H(theta_T))

The three objectives differ in H alone (Section 4):

    DBC     E_{(s,a) ~ D_off}  |pi_theta(s) - a|^2                       (data-based, eq. 4)
    PBC     E_{s ~ D_off}      |pi_theta(s) - pi*(s)|^2                  (policy-based, eq. 5)
    Av-PBC  E_{s ~ D_off}      q*(s, pi*(s)) |pi_theta(s) - pi*(s)|^2    (action-value weighted)
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from baselines.cuda_graph import CapturedInnerLoop
from baselines.meta_gradient import InnerLoop, OuterBatch, Pairs
from baselines.random_selection import draw_pairs
from benchmark.method import Assignment, BadParameter, Method, Monitor, Problem, State
from benchmark.students.network import stack
from benchmark.synthetic_set import SyntheticSet


class Targets(NamedTuple):
    """What students are held to on every state of the dataset: actions `[M, act_dim]` in the unit
    box and weights `[M]`, or None where all states count the same."""

    actions: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class OBD(Method):
    """What the three objectives share; the defaults are the paper's.

    Args:
        synthetic_size: Pairs in the set.
        outer_steps: Updates of the set. The paper: 200,000 for DBC and PBC (Hopper 50,000),
            50,000 for Av-PBC (Hopper 20,000).
        outer_learning_rate: Of SGD on the pairs.
        outer_momentum: Of SGD on the pairs.
        outer_gradient_clip: Bound on the norm of the gradient in all pairs together.
        outer_batch: States of the dataset that an outer loss is taken over (10 batches of 256).
        adjoint_noise: "reused" differentiates the loss that was computed; "fresh" draws new action
            noise in the backward pass, as the published code does. Matters to noisy heads only.
    """

    synthetic_size: int = 256
    outer_steps: int = 50_000
    outer_learning_rate: float = 0.1
    outer_momentum: float = 0.9
    outer_gradient_clip: float = 2.0
    outer_batch: int = 2560
    adjoint_noise: Literal["reused", "fresh"] = "reused"

    @abstractmethod
    def targets(self, problem: Problem) -> Targets:
        """What this objective holds students to."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Distils one run."""
        self.distill_packed([Assignment(self, problem, monitor)])

    def pack_key(self) -> Hashable:
        """Runs of any objective go together, so long as their outer loops are alike."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(OBD))

    @classmethod
    def distill_packed(cls, assignments: Sequence[Assignment]) -> None:
        """Distils R runs in one batch of products."""
        runs = [_Run(*assignment) for assignment in assignments]
        loop, outer_steps = _inner_loop(runs[0].problem), runs[0].method.outer_steps
        captured = CapturedInnerLoop(loop, runs[0].problem.device)
        step = runs[0].start
        if any(run.start != step for run in runs):
            raise BadParameter(
                f"Packed runs go in lock-step, but their saved states are at steps "
                f"{[run.start for run in runs]}. Resume them one by one."
            )
        while True:
            for run in runs:
                run.report(step)
            if step == outer_steps:
                return
            _outer_step(captured, runs, step)
            step += 1


@dataclass(frozen=True)
class DBC(OBD):
    """Data-based BC: students are held to the dataset's own actions."""

    def targets(self, problem: Problem) -> Targets:
        """The dataset's actions, unweighted."""
        return Targets(problem.actions, None)


@dataclass(frozen=True)
class PBC(OBD):
    """Policy-based BC: students are held to the teacher's actions.

    Args:
        teacher_action: "mean" takes the teacher's deterministic action, "sampled" one draw for
            every state (the published code draws anew in every batch).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"dataset", "teacher"})
    teacher_action: Literal["mean", "sampled"] = "mean"

    def targets(self, problem: Problem) -> Targets:
        """The teacher's actions, unweighted."""
        return Targets(self._teacher_actions(problem), None)

    def _teacher_actions(self, problem: Problem) -> Tensor:
        """In the unit box, for every state of the dataset `[M, act_dim]`."""
        observations = torch.from_numpy(problem.dataset.observations)
        if self.teacher_action == "mean":
            return problem.teacher.act(observations)
        return problem.teacher.sample(observations, problem.generator("teacher actions"))


@dataclass(frozen=True)
class AvPBC(PBC):
    """Action-value weighted PBC: every state counts by the value of the teacher's action.

    Args:
        beta: Scales the action value (0.02 in the published code).
    """

    beta: float = 0.02

    def targets(self, problem: Problem) -> Targets:
        """The teacher's actions, weighted by beta * q*(s, pi*(s))."""
        actions = self._teacher_actions(problem)
        values = problem.teacher.q(torch.from_numpy(problem.dataset.observations), actions)
        return Targets(actions, self.beta * values)


@dataclass(frozen=True)
class PublishedDBC(DBC):
    """DBC with the published code's backward pass."""

    adjoint_noise: Literal["reused", "fresh"] = "fresh"


@dataclass(frozen=True)
class PublishedPBC(PBC):
    """PBC with the published code's backward pass and sampled teacher actions."""

    adjoint_noise: Literal["reused", "fresh"] = "fresh"
    teacher_action: Literal["mean", "sampled"] = "sampled"


@dataclass(frozen=True)
class PublishedAvPBC(AvPBC):
    """Av-PBC with the published code's backward pass and sampled teacher actions."""

    adjoint_noise: Literal["reused", "fresh"] = "fresh"
    teacher_action: Literal["mean", "sampled"] = "sampled"


def _outer_step(captured: CapturedInnerLoop, runs: Sequence[_Run], step: int) -> None:
    """One update of every run's pairs."""
    draws = [run.draw(captured.loop, step) for run in runs]
    gradient = captured.gradient(
        initial=stack([draw.initial for draw in draws]),
        pairs=Pairs(
            torch.stack([run.observations for run in runs]),
            torch.stack([run.actions for run in runs]),
        ),
        outer=OuterBatch(
            torch.stack([draw.outer.observations for draw in draws]),
            torch.stack([draw.outer.actions for draw in draws]),
            _stacked_weights([draw.outer.weights for draw in draws], draws[0].outer.actions),
            _stacked([draw.outer.noise for draw in draws]),
        ),
        noise=_stacked([draw.noise for draw in draws], dim=1),
        adjoint_noise=_stacked([draw.adjoint_noise for draw in draws], dim=1),
    )
    for index, run in enumerate(runs):
        run.update(gradient.observations[index], gradient.actions[index])


class _Draw(NamedTuple):
    """Everything random in one outer step of one run."""

    initial: list[tuple[Tensor, Tensor]]
    outer: OuterBatch
    noise: Tensor | None
    adjoint_noise: Tensor | None


class _Run:
    """One run's pairs (normalised), their optimiser, and its targets."""

    def __init__(self, method: Method, problem: Problem, monitor: Monitor) -> None:
        assert isinstance(method, OBD)
        self.method, self.problem, self.monitor = method, problem, monitor
        self.targets = method.targets(problem)
        real = draw_pairs(problem, method.synthetic_size)
        self.observations = problem.scaling.observations_in(real.observations)
        self.actions = problem.scaling.actions_in(real.actions)
        self.velocity = [torch.zeros_like(self.observations), torch.zeros_like(self.actions)]
        self.start = 0
        if (state := monitor.resume()) is not None:
            self.start = int(state.facts["step"])
            self.observations = state.tensors["observations"]
            self.actions = state.tensors["actions"]
            self.velocity = [
                state.tensors["observations_velocity"],
                state.tensors["actions_velocity"],
            ]

    def draw(self, loop: InnerLoop, step: int) -> _Draw:
        """Initialisation, outer batch and action noise of an outer step, from the step alone."""
        generator = self.problem.generator("outer step", step)
        size, batch = self.actions.shape, self.method.outer_batch
        initial = loop.network.initialise(generator)
        chosen = torch.randint(len(self.targets.actions), (batch,), generator=generator)
        weights = self.targets.weights
        noise = outer_noise = adjoint_noise = None
        if loop.head.noisy:
            noise = torch.randn(loop.steps, *size, generator=generator)
            outer_noise = torch.randn(batch, size[1], generator=generator)
            if self.method.adjoint_noise == "fresh":
                adjoint_noise = torch.randn(loop.steps, *size, generator=generator)
        outer = OuterBatch(
            self.problem.observations[chosen],
            self.targets.actions[chosen],
            None if weights is None else weights[chosen],
            outer_noise,
        )
        return _Draw(initial, outer, noise, adjoint_noise)

    def update(self, observations_gradient: Tensor, actions_gradient: Tensor) -> None:
        """SGD with momentum on the pairs, the gradient clipped by its norm over both."""
        gradients = (observations_gradient, actions_gradient)
        norm = torch.linalg.vector_norm(torch.cat(gradients, dim=1))
        scale = (self.method.outer_gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        for values, velocity, gradient in zip(
            (self.observations, self.actions), self.velocity, gradients, strict=True
        ):
            velocity.mul_(self.method.outer_momentum).add_(gradient * scale)
            values.sub_(velocity, alpha=self.method.outer_learning_rate)

    def report(self, step: int) -> None:
        """Tells the monitor where this run is."""
        self.monitor.progress(step, self.method.outer_steps)
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
        """All that the next outer step depends on."""
        return State(
            {
                "observations": self.observations,
                "actions": self.actions,
                "observations_velocity": self.velocity[0],
                "actions_velocity": self.velocity[1],
            },
            {"step": step},
        )


def _inner_loop(problem: Problem) -> InnerLoop:
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
    """The runs' tensors on a new runs axis, or None where there are none."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present, dim=dim) if present else None


def _stacked_weights(weights: Sequence[Tensor | None], actions: Tensor) -> Tensor | None:
    """As `_stacked`; where only some runs are weighted, the others weigh every state 1."""
    if all(weight is None for weight in weights):
        return None
    ones = torch.ones(actions.shape[:-1], dtype=actions.dtype)
    return torch.stack([ones if weight is None else weight for weight in weights])
