"""The parts of matching methods: pairs that descend a loss by autograd, and students in training.

Second derivatives, through a gradient or a few steps of training, are left to autograd here: the
losses differ from method to method, and the loops are short (OBD's hundred steps are not).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from baselines.selection import (
    Labels,
    Selection,
    draw_pairs,
    in_blocks,
    needs_of_labels,
    require_available,
)
from benchmark.method import (
    Method,
    Monitor,
    Problem,
    State,
    require_above_zero,
    require_below_one,
    require_positive,
    require_settings,
)
from benchmark.outer_steps import OuterSteps
from benchmark.students.heads import SQUARED_ERROR_HEADS, bc_loss_gradient, squared_error_head
from benchmark.students.network import Parameters
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet, require_finite
from benchmark.work import Priced


@dataclass(frozen=True)
class Matching(Method):
    """Pairs that are optimised until networks respond to them as they do to the real data.

    Args:
        synthetic_size: Pairs in the set; they begin as real ones, drawn uniformly.
        optimised: "both", or only the "observations" while the actions stay as drawn.
        labels: Actions of the real data and of the first pairs: the dataset's or the teacher's,
            which adds the teacher to `needs`.
        outer_steps: Iterations of the outer loop.
        outer_learning_rate: Learning rate of SGD on the pairs.
        outer_momentum: Momentum of SGD on the pairs (0.5 in dataset condensation).
    """

    synthetic_size: int = 256
    optimised: Literal["both", "observations"] = "both"
    labels: Labels = "data"
    outer_steps: int = 1000
    outer_learning_rate: float = 0.1
    outer_momentum: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "synthetic_size", "outer_steps")
        require_above_zero(self, "outer_learning_rate")
        require_below_one(self, "outer_momentum")

    def require_student(self, student: StudentSpec) -> None:
        """Losses and training here are those of `BCLoss` and `Clones`."""
        require_plain(self, student)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The dataset, and the teacher where it gives the labels."""
        return needs_of_labels(self.labels)

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced:
        """Outer steps, timed as they are taken."""
        return OuterSteps.of(self, observation_dim, action_dim, student)

    def learned_facts(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Facts for the record, from what is learned (`LearnedPairs.values`)."""
        return {}


@dataclass(frozen=True)
class BatchMatching(Matching):
    """Matching to minibatches of the real data.

    Args:
        outer_batch: Real transitions per minibatch (256 in dataset condensation).
    """

    outer_batch: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "outer_batch")


def require_plain(method: Method, student: StudentSpec) -> None:
    """Raise BadParameter unless `BCLoss` and `Clones` are the student's loss and training.

    They are the squared error, at a constant rate, without a clip.
    """
    require_settings(
        method, student, schedule="constant", gradient_clip=None, head=tuple(SQUARED_ERROR_HEADS)
    )


class RealPairs:
    """The dataset as students see it: normalised, with labels of the data or of the teacher.

    Raises:
        BadParameter: The dataset has fewer transitions than the synthetic set.
    """

    def __init__(self, method: Matching | Selection, problem: Problem) -> None:
        method.require_student(problem.student)
        require_available(problem, method.synthetic_size)
        self.device = problem.device
        self.observations, self.actions = problem.observations, problem.actions
        if method.labels == "teacher":
            raw = torch.from_numpy(problem.dataset.observations)
            self.actions = in_blocks(problem.teacher.act, raw)

    def batch(
        self, size: int, generator: torch.Generator, students: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Draw a minibatch for each of P students, uniformly with replacement.

        Returns:
            Observations `[P, size, obs_dim]` and actions `[P, size, act_dim]`.
        """
        chosen = torch.randint(len(self.actions), (students, size), generator=generator)
        return self.observations[chosen].to(self.device), self.actions[chosen].to(self.device)


class LearnedPairs:
    """The pairs of one run, normalised, as they descend a loss.

    Args:
        method: Hyper-parameters of the descent.
        problem: Source of the first pairs.
        monitor: Receiver of the run's reports, and source of its saved state.
        others: What is learned next to the pairs, by name: first value, and learning rate of SGD on
            it; 0 holds it constant.
    """

    def __init__(
        self,
        method: Matching,
        problem: Problem,
        monitor: Monitor,
        others: Mapping[str, tuple[Tensor, float]] = MappingProxyType({}),
    ) -> None:
        self.method, self.problem, self.monitor = method, problem, monitor
        values = _first_pairs(method, problem)
        rates = {"observations": method.outer_learning_rate}
        if method.optimised == "both":
            rates["actions"] = method.outer_learning_rate
        values |= {name: first for name, (first, _) in others.items()}
        rates |= {name: rate for name, (_, rate) in others.items() if rate > 0}
        velocity = {name: torch.zeros_like(values[name]) for name in rates}
        self.start = self.step = 0
        if (state := monitor.resume()) is not None:
            self.start = self.step = int(state.facts["step"])
            values = {name: state.tensors[name] for name in values}
            velocity = {name: state.tensors[f"{name}_velocity"] for name in rates}
        self.rates = rates
        self.velocity = {name: tensor.to(problem.device) for name, tensor in velocity.items()}
        self.values = {
            name: tensor.detach().to(problem.device).requires_grad_(name in rates)
            for name, tensor in values.items()
        }

    @property
    def observations(self) -> Tensor:
        """Normalised observations `[1, N, obs_dim]`."""
        return self.values["observations"]

    @property
    def actions(self) -> Tensor:
        """Actions `[1, N, act_dim]`; they begin in the unit box and are not clamped to it."""
        return self.values["actions"]

    def steps(self) -> Iterator[int]:
        """Iterate over the outer steps that remain; report before each and after the last."""
        for step in range(self.start, self.method.outer_steps):
            self._report(step)
            yield step
        self._report(self.method.outer_steps)

    def descend(self, loss: Tensor) -> None:
        """Take one step of SGD with momentum, as `torch.optim.SGD`, on all that is learned.

        Raises:
            NotFinite: What comes out holds such values.
        """
        gradients = torch.autograd.grad(loss, [self.values[name] for name in self.rates])
        with torch.no_grad():
            # v <- momentum * v + g;  x <- x - rate * v, in place: `values` stay leaves of the graph
            # of the next loss.
            for (name, rate), gradient in zip(self.rates.items(), gradients, strict=True):
                self.velocity[name].mul_(self.method.outer_momentum).add_(gradient)
                self.values[name].sub_(self.velocity[name], alpha=rate)
                what = f"The {name} after the update of outer step {self.step}"
                require_finite(what, self.values[name])

    def _report(self, step: int) -> None:
        self.step = step
        self.monitor.progress(step, self.method.outer_steps)
        if self.monitor.due(step):
            with torch.no_grad():
                self.monitor.note(**self.method.learned_facts(self.values))
            self.monitor.checkpoint(step, self._synthetic_set())
        self.monitor.save(step, lambda: self._state(step))

    def _synthetic_set(self) -> SyntheticSet:
        """The pairs in the environment's units."""
        scaling = self.problem.scaling
        observations, actions = (t.detach()[0].cpu() for t in (self.observations, self.actions))
        return SyntheticSet(scaling.observations_out(observations), scaling.actions_out(actions))

    def _state(self, step: int) -> State:
        """The learned tensors and their velocities: all that the next outer step depends on."""
        values = {name: value.detach() for name, value in self.values.items()}
        velocity = {f"{name}_velocity": value for name, value in self.velocity.items()}
        return State({**values, **velocity}, {"step": step})


def _first_pairs(method: Matching, problem: Problem) -> dict[str, Tensor]:
    """Draw the first pairs `[1, N, ...]`, the same ones as random selection."""
    real = draw_pairs(problem, method.synthetic_size)
    observations = problem.scaling.observations_in(real.observations)
    if method.labels == "teacher":
        actions = problem.teacher.act(real.observations)
    else:
        actions = problem.scaling.actions_in(real.actions)
    return {"observations": observations[None], "actions": actions[None]}


class BCLoss:
    """The BC loss of the problem's student.

    Args:
        problem: Source of the student's network and head.
        generator: Source of initial parameters and, for a noisy head, of every loss's action noise.
    """

    def __init__(self, problem: Problem, generator: torch.Generator) -> None:
        self.network = problem.student.network(problem.observation_dim, problem.action_dim)
        self.head = squared_error_head(problem.student.policy_head)
        self.generator, self.device = generator, problem.device

    def gradient(self, parameters: Parameters, observations: Tensor, actions: Tensor) -> Parameters:
        """Gradient of the loss in the parameters of P students.

        Where the pairs are learned, the gradient can itself be differentiated in all that it
        depends on.

        Args:
            parameters: Parameters of P students; values, or themselves functions of the pairs.
            observations: Normalised observations `[P, N, obs_dim]`.
            actions: Actions in the unit box `[P, N, act_dim]`.
        """
        # Parameters that depend on the pairs (after an inner step) are differentiated as they are;
        # plain values become leaves of their own.
        flat = [
            tensor if tensor.requires_grad else tensor.detach().requires_grad_()
            for layer in parameters
            for tensor in layer
        ]
        outputs = self.network.forward(_layers(flat), observations).outputs
        # A sum over students that share nothing: the gradient of each is that of its own loss.
        loss = bc_loss_gradient(self.head, outputs, actions, self.noise(actions)).loss.sum()
        learned = observations.requires_grad or actions.requires_grad
        return _layers(torch.autograd.grad(loss, flat, create_graph=learned))

    def noise(self, actions: Tensor) -> Tensor | None:
        """Draw the noise of one loss, shaped like the actions; None for a deterministic head."""
        if not self.head.noisy:
            return None
        return torch.randn(actions.shape, generator=self.generator).to(self.device)


class Clones:
    """P fresh students, trained by the student's own optimiser.

    Args:
        problem: Source of the optimiser.
        loss: BC loss, whose generator draws the initial parameters.
        count: P.
    """

    def __init__(self, problem: Problem, loss: BCLoss, count: int = 1) -> None:
        self.loss = loss
        drawn = loss.network.initialise_runs([loss.generator] * count)
        self.parameters = [(w.to(loss.device), b.to(loss.device)) for w, b in drawn]
        tensors = [tensor for layer in self.parameters for tensor in layer]
        self._optimiser = problem.student.optimiser(tensors)
        self._rate = problem.student.learning_rate

    @torch.no_grad()
    def learn(self, observations: Tensor, actions: Tensor) -> None:
        """Take one gradient step on pairs `[P, N, ...]`, by the written-out derivatives."""
        # No graph is needed here, so the closed-form backward pass replaces autograd's.
        network, head = self.loss.network, self.loss.head
        levels = network.forward(self.parameters, observations)
        loss = bc_loss_gradient(head, levels.outputs, actions, self.loss.noise(actions))
        deltas = network.backward(self.parameters, levels, loss.outputs)
        gradients = [g for layer in network.gradients(levels, deltas) for g in layer]
        self._optimiser.step(gradients, self._rate)

    @torch.no_grad()
    def mode_losses(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Mean squared error of each student's deterministic action in each pair `[P, M]`."""
        inputs = observations.to(self.loss.device).expand(len(self.parameters[0][0]), -1, -1)
        acted = self.loss.head.mode(self.loss.network.forward(self.parameters, inputs).outputs)
        return (acted - actions.to(self.loss.device)).square().mean(-1).cpu()


def squared_distance(one: Parameters, other: Parameters) -> Tensor:
    """Squared Euclidean distance between two sets of parameters, a scalar."""
    layers = zip(one, other, strict=True)
    parts = [(p - q).square().sum() for a, b in layers for p, q in zip(a, b, strict=True)]
    return torch.stack(parts).sum()


def _layers(flat: Sequence[Tensor]) -> Parameters:
    """Regroup weight, bias, weight, bias, ... as one pair per layer."""
    return list(zip(flat[::2], flat[1::2], strict=True))
