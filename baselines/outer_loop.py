"""The outer loop of OBD: synthetic pairs that follow the meta-gradient, several runs at once."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from baselines import native_engine
from baselines.cuda_step import Map, captured, prefetched, tensors
from baselines.device_memory import groups_that_fit
from baselines.meta_gradient import InnerLoop, MetaGradient, OuterBatch, Pairs
from baselines.selection import draw_pairs, require_available
from benchmark.method import (
    Assignment,
    BadParameter,
    Method,
    Monitor,
    Problem,
    State,
    require_above_zero,
    require_below_one,
    require_positive,
    require_settings,
)
from benchmark.provenance import checked_device
from benchmark.students.heads import SQUARED_ERROR_HEADS, squared_error_head
from benchmark.students.network import Network, Parameters, stack
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import NotFinite, SyntheticSet, require_finite
from benchmark.work import SAMPLE, Priced, Work, weights_of

PAPER_SIZE = 256
"""Pairs of the sets in OBD's Table 1."""
DRAWN_TOGETHER = 8
"""Runs whose initial weights are made orthogonal in one call; threads take a group each."""


FEW_STEPS = 10
"""Outer steps that are too few to tell a run whose pairs do not move."""


class Targets(NamedTuple):
    """Targets of the outer loss on every state of the dataset.

    actions `[M, act_dim]` in the unit box; weights `[M]`, or None where all states count the same;
    probabilities `[M]` that states are drawn with, or None for uniform ones; facts that were chosen
    from the data, for the record.
    """

    actions: Tensor
    weights: Tensor | None
    probabilities: Tensor | None = None
    facts: Mapping[str, float] = MappingProxyType({})

    def weighted(self) -> Targets:
        """The same targets with weights, ones where they had none."""
        if self.weights is not None:
            return self
        return self._replace(weights=torch.ones(len(self.actions)))

    @property
    def mean_weight(self) -> float:
        """Mean weight of a drawn state: the factor by which the weights scale every gradient."""
        if self.weights is None:
            return 1.0
        if self.probabilities is None:
            return float(self.weights.double().mean())
        return float((self.weights.double() * self.probabilities).sum())

    @property
    def effective_sample(self) -> float:
        """Effective sample size of the states as they are drawn and weighted, a share in (0, 1].

        (sum of w)^2 / (M * sum of w^2), Kish's; 1 where every state counts the same.
        """
        share = torch.ones(len(self.actions), dtype=torch.float64)
        for factor in (self.weights, self.probabilities):
            share = share if factor is None else share * factor.double().abs()
        return float(share.sum().square() / (len(share) * share.square().sum()))


@dataclass(frozen=True)
class OBD(Method):
    """The loop that the three objectives share; docs/deviations.md has what is not the paper's.

    Args:
        synthetic_size: Pairs in the set.
        outer_steps: Updates of the set. The defaults are the paper's for Hopper; on HalfCheetah and
            Walker2d it takes 200,000 for DBC and PBC and 50,000 for Av-PBC.
        outer_learning_rate: Learning rate of SGD on the pairs.
        rate_rule: "fixed" takes that rate for every size, as the paper does. The gradient in a pair
            falls as one over the size, so larger sets move more slowly; "proportional" multiplies
            the rate by synthetic_size / 256, the paper's size.
        outer_momentum: Momentum of SGD on the pairs.
        outer_gradient_clip: Largest norm of the gradient in all pairs together; a longer one is
            scaled to it.
        outer_batch: States of the dataset per outer loss (10 batches of 256).
        adjoint_noise: "reused" differentiates the loss that was computed; "fresh" draws new action
            noise in the backward pass, as the published code does. Matters to noisy heads only.
        head_scalars: "student" leaves the student its head; "trained" makes the two scalars of a
            sampled head parameters that students train, as in the published code.
        precision: "bf16-adjoint" keeps the values of the inner steps in bf16, and multiplies in
            bf16 on the way back through them; the students' training stays in float32. It needs
            the C++ engine and a processor with AMX.
    """

    synthetic_size: int = 256
    outer_steps: int = 50_000
    outer_learning_rate: float = 0.1
    rate_rule: Literal["fixed", "proportional"] = "fixed"
    outer_momentum: float = 0.9
    outer_gradient_clip: float = 2.0
    outer_batch: int = 2560
    adjoint_noise: Literal["reused", "fresh"] = "reused"
    head_scalars: Literal["student", "trained"] = "student"
    precision: native_engine.Precision = "float32"

    def __post_init__(self) -> None:
        require_positive(self, "synthetic_size", "outer_steps", "outer_batch")
        require_above_zero(self, "outer_learning_rate", "outer_gradient_clip")
        require_below_one(self, "outer_momentum")

    @abstractmethod
    def targets(self, problem: Problem) -> Targets:
        """Target actions and weights of this objective on every state of the dataset."""

    @property
    def rate(self) -> float:
        """Learning rate of the pairs under `rate_rule`."""
        scale = self.synthetic_size / PAPER_SIZE if self.rate_rule == "proportional" else 1.0
        return self.outer_learning_rate * scale

    def student_for(self, student: StudentSpec) -> StudentSpec:
        """The sweep's student, the scalars of a sampled head trained where they are to be."""
        if self.head_scalars == "trained" and student.head == "sampled":
            return dataclasses.replace(student, head="sampled_trained")
        return student

    def require_student(self, student: StudentSpec) -> None:
        """The adjoint is written for ReLU networks under the squared error and plain SGD."""
        require_settings(
            self, student, optimizer="sgd", activation="relu", schedule="constant",
            gradient_clip=None, head=tuple(SQUARED_ERROR_HEADS),
        )  # fmt: skip

    def require_machine(self, device: str) -> None:
        """The adjoint in bf16 needs the C++ engine, and a processor that multiplies bf16."""
        if self.precision != "float32":
            native_engine.require_bf16(device)

    def engine(self, device: str) -> str:
        """The engine of the meta-gradient: C++ where it is built, on a CPU, else torch."""
        return native_engine.name(device)

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Distil one run."""
        advance([self.outer_run(problem, monitor)])

    def outer_run(self, problem: Problem, monitor: Monitor) -> OuterRun:
        """The run before its first outer step, or at the step of its saved state."""
        require_available(problem, self.synthetic_size)
        return OuterRun(self, self.targets(problem), problem, monitor)

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced | None:
        """Outer steps, each T inner steps, their adjoint, and the gradient of the outer loss."""
        network = student.network(observation_dim, action_dim)
        # Products per layer: three of a training step, six of its adjoint (benchmark.students
        # and baselines.meta_gradient); one more where the backward pass is repeated.
        products = 10 if self.adjoint_noise == "fresh" else 9
        inner = products * weights_of(network) * self.synthetic_size
        outer = 3 * weights_of(network) * self.outer_batch
        steps = max(1, min(student.steps, int((SAMPLE - outer) / inner)))

        def sample(runs: int) -> None:
            self._sample_step(network, dataclasses.replace(student, steps=steps), runs, action_dim)

        one_step, sampled = inner * student.steps + outer, inner * steps + outer
        engine = native_engine.name("cpu"), self.precision
        settings = (self.synthetic_size, self.outer_batch, products, steps, *engine)
        key = ("outer step", observation_dim, action_dim, student, settings)
        return Work(float(self.outer_steps * one_step), sample, float(sampled), key)

    def _sample_step(
        self, network: Network, student: StudentSpec, runs: int, action_dim: int
    ) -> None:
        """Do one outer step of R runs on made-up numbers, all that is drawn for it included."""
        loop = _loop(network, student, self.precision)
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        initial = network.initialise_runs([generator] * runs)
        size, batch = self.synthetic_size, self.outer_batch
        noise = [drawn(loop.steps, runs, size, action_dim) if loop.head.noisy else None] * 2
        loop.gradient(
            initial,
            Pairs(drawn(runs, size, network.sizes[0]), drawn(runs, size, action_dim).tanh()),
            OuterBatch(
                drawn(runs, batch, network.sizes[0]),
                drawn(runs, batch, action_dim).tanh(),
                None,
                drawn(runs, batch, action_dim) if loop.head.noisy else None,
            ),
            noise[0],
            noise[1] if self.adjoint_noise == "fresh" else None,
        )

    def pack_key(self) -> Hashable:
        """Settings of the outer loop: runs of any objective are packed where these are equal."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(OBD))

    @classmethod
    def distill_packed(cls, assignments: Sequence[Assignment]) -> None:
        """Distil R runs, each product of their outer steps batched over the runs."""
        advance([cast(OBD, a.method).outer_run(a.problem, a.monitor) for a in assignments])


def advance(runs: Sequence[OuterRun]) -> None:
    """Advance runs of equal settings and student to their last outer step, in lock-step.

    On a CUDA device as many at a time as its memory holds.

    Raises:
        BadParameter: Their saved states are at different steps.
        ObdBenchError: The device is not one of this machine, or cannot hold a single run.
    """
    first = runs[0]
    first.settings.require_student(first.problem.student)
    loop = inner_loop(first.problem, first.settings.precision)
    (device,) = {checked_device(run.problem.device) for run in runs}
    if any(run.start != first.start for run in runs):
        raise BadParameter(
            f"Packed runs advance in lock-step, but their saved states are at steps "
            f"{[run.start for run in runs]}. Resume them one by one."
        )
    steps = range(first.start, first.settings.outer_steps)
    for group in groups_that_fit(runs, lambda: _bytes_of_run(loop, first), device):
        pack = Pack(loop, group, device)
        outer_step = captured(pack.step, (*pack.pairs, *pack.velocity), device)
        with closing(prefetched(pack.draw, steps, device)) as draws:
            for step in steps:
                for run in group:
                    run.report(step)
                pack.norms.select(1, step).add_(outer_step(next(draws)))
                if device.type == "cpu":  # a look at a device's numbers would stop it at every step
                    pack.require_finite()
        for run in group:
            run.report(steps.stop)


def _bytes_of_run(loop: InnerLoop, run: OuterRun) -> int:
    """Memory that a run takes on a device, to be held against what is free there."""
    draw = run.draw(loop, run.start)
    stored = loop.stored_bytes(draw.initial, run.pairs(), draw.outer, draw.noise)
    # The draws twice: those of the graph, and those that are on their way to it.
    return stored + 2 * sum(tensor.nbytes for tensor in tensors(draw))


class Draw(NamedTuple):
    """Everything random in one outer step, with a runs axis: of 1 as it is drawn."""

    initial: Parameters
    outer: OuterBatch
    noise: Tensor | None
    adjoint_noise: Tensor | None

    @staticmethod
    def joined(draws: Sequence[Draw]) -> Draw:
        """Join the draws of several runs along their runs axis.

        It is the first axis, but the second of the noise, whose first one is the inner step.
        """
        outer = [draw.outer for draw in draws]
        return Draw(
            stack([draw.initial for draw in draws]),
            OuterBatch(
                torch.cat([batch.observations for batch in outer]),
                torch.cat([batch.actions for batch in outer]),
                _joined([batch.weights for batch in outer]),
                _joined([batch.noise for batch in outer]),
            ),
            _joined([draw.noise for draw in draws], dim=1),
            _joined([draw.adjoint_noise for draw in draws], dim=1),
        )


def _joined(tensors: Sequence[Tensor | None], dim: int = 0) -> Tensor | None:
    """Join the runs' tensors along the runs axis; None where there are none."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present, dim=dim) if present else None


class Pack:
    """Runs that advance together: their tensors joined to `[R, ...]`, of which each has its row.

    Args:
        loop: The students' training.
        runs: R runs at the same step, whose tensors become views of the pack's.
        device: Device of the pack's tensors. Draws are made on the CPU.
    """

    def __init__(self, loop: InnerLoop, runs: Sequence[OuterRun], device: torch.device) -> None:
        self.loop, self.runs = loop, runs

        def joined(tensors: Iterable[Tensor]) -> Tensor:
            return torch.stack(list(tensors)).to(device)

        self.pairs = Pairs(joined(r.observations for r in runs), joined(r.actions for r in runs))
        self.velocity = Pairs(*(joined(r.velocity[i] for r in runs) for i in range(2)))
        self.norms = joined(run.norms for run in runs)
        if any(run.targets.weights is not None for run in runs):
            for run in runs:  # a run without weights gets ones where another has some
                run.targets = run.targets.weighted()
        rows = zip(runs, *self.pairs, *self.velocity, self.norms, strict=True)
        for run, observations, actions, *velocity, norms in rows:
            run.observations, run.actions, run.velocity = observations, actions, velocity
            run.norms = norms

    def draw(self, step: int, each: Map = map) -> Draw:
        """Draw everything random in an outer step, a few runs at a time."""
        starts = range(0, len(self.runs), DRAWN_TOGETHER)
        groups = [self.runs[start : start + DRAWN_TOGETHER] for start in starts]
        drawn = each(lambda group: draw_runs(group, self.loop, step), groups)
        return Draw.joined([draw for group in drawn for draw in group])

    def step(self, draw: Draw) -> Tensor:
        """Update every run's pairs once; give the norms `[R]` of the gradients."""
        gradient = self.loop.gradient(
            draw.initial, self.pairs, draw.outer, draw.noise, draw.adjoint_noise
        )
        return follow(self.runs[0].settings, self.pairs, self.velocity, gradient)

    def require_finite(self) -> None:
        """Raise NotFinite where the pairs of a run are not finite."""
        for run in self.runs:
            run.require_finite()


def follow(settings: OBD, pairs: Pairs, velocity: Pairs, gradient: MetaGradient) -> Tensor:
    """Take one step of SGD with momentum, the gradient clipped by its norm over a run's pairs.

    Args:
        settings: Rate, momentum and clip.
        pairs: Pairs of R runs, updated in place.
        velocity: Their velocity, updated in place.
        gradient: The meta-gradient in the pairs.

    Returns:
        The norm of each run's gradient `[R]`, before it was clipped.
    """
    # As torch.nn.utils.clip_grad_norm_ (its 1e-6 too), then torch.optim.SGD:
    # v <- momentum * v + clip(g);  x <- x - lr * v. Norms are taken run by run: one over all runs
    # would be summed in an order that depends on their number.
    parts = (gradient.observations, gradient.actions)
    norms = torch.stack([torch.linalg.vector_norm(run) for run in torch.cat(parts, dim=2).unbind()])
    scale = (settings.outer_gradient_clip / (norms + 1e-6)).clamp(max=1.0).view(-1, 1, 1)
    for values, moving, part in zip(pairs, velocity, parts, strict=True):
        moving.mul_(settings.outer_momentum).add_(part * scale)
        values.sub_(moving, alpha=settings.rate)
    return norms


def moved_nothing(norms: Tensor) -> Tensor:
    """Whether each step moved nothing: its gradient was zero, or clipped to that by infinity."""
    return (norms == 0) | ~norms.isfinite()


def draw_runs(runs: Sequence[OuterRun], loop: InnerLoop, step: int) -> list[Draw]:
    """Draw everything random in an outer step of some runs; each only depends on run and step."""
    generators = [run.problem.generator("outer step", step) for run in runs]
    initial = loop.network.initialise_runs(generators)  # first of all that a generator gives
    return [
        run.draw_after([(w[i : i + 1], b[i : i + 1]) for w, b in initial], generator, loop)
        for i, (run, generator) in enumerate(zip(runs, generators, strict=True))
    ]


class OuterRun:
    """The normalised pairs of one run, their optimiser, and their targets.

    Args:
        settings: Hyper-parameters of the outer loop.
        targets: Targets of the outer loss.
        problem: Source of the first pairs and of every draw.
        monitor: Receiver of the run's reports, and source of its saved state.
    """

    def __init__(self, settings: OBD, targets: Targets, problem: Problem, monitor: Monitor) -> None:
        self.settings, self.targets = settings, targets
        self.problem, self.monitor = problem, monitor
        self.observations, self.actions = self.first_pairs()
        self.velocity = [torch.zeros_like(self.observations), torch.zeros_like(self.actions)]
        chances = targets.probabilities
        self.cumulative = None if chances is None else chances.double().cumsum(0)
        self.start = self.step = 0
        self.norms = torch.zeros(settings.outer_steps)  # of the gradients, before they are clipped
        self.resumed = state = monitor.resume()
        if state is not None:
            self.start = self.step = int(state.facts["step"])
            self.norms[: self.start] = state.tensors["gradient_norms"]
            self.restore(state)

    def first_pairs(self) -> Pairs:
        """The pairs before the first step, without a runs axis: real ones."""
        real, scaling = draw_pairs(self.problem, self.settings.synthetic_size), self.problem.scaling
        return Pairs(scaling.observations_in(real.observations), scaling.actions_in(real.actions))

    def restore(self, state: State) -> None:
        """Take the pairs and their velocities from a saved state."""
        self.observations = state.tensors["observations"]
        self.actions = state.tensors["actions"]
        self.velocity = [
            state.tensors["observations_velocity"],
            state.tensors["actions_velocity"],
        ]

    def draw(self, loop: InnerLoop, step: int) -> Draw:
        """Draw everything random in an outer step of this run only."""
        return draw_runs([self], loop, step)[0]

    def draw_after(self, initial: Parameters, generator: torch.Generator, loop: InnerLoop) -> Draw:
        """Draw outer batch and action noise after the initialisation, from the same generator."""
        size, batch = self.actions.shape, self.settings.outer_batch
        chosen = self._draw_states(batch, generator)
        weights = self.targets.weights
        noise = outer_noise = adjoint_noise = None
        if loop.head.noisy:
            noise = torch.randn(loop.steps, 1, *size, generator=generator)
            outer_noise = torch.randn(1, batch, size[1], generator=generator)
            if self.settings.adjoint_noise == "fresh":
                adjoint_noise = torch.randn(loop.steps, 1, *size, generator=generator)
        # `index_select` copies whole rows, in half the time that an index in brackets takes.
        outer = OuterBatch(
            self.problem.observations.index_select(0, chosen)[None],
            self.targets.actions.index_select(0, chosen)[None],
            None if weights is None else weights.index_select(0, chosen)[None],
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
        """The pairs with a runs axis of 1."""
        return Pairs(self.observations[None], self.actions[None])

    def update(self, gradient: MetaGradient) -> None:
        """Update the pairs of a run that advances by itself.

        Args:
            gradient: The meta-gradient, of one run.

        Raises:
            NotFinite: The pairs that come out hold such values.
        """
        velocity = Pairs(*(part[None] for part in self.velocity))
        self.norms[self.step] = follow(self.settings, self.pairs(), velocity, gradient)[0]
        self.require_finite()

    def require_finite(self) -> None:
        """Raise NotFinite with the step of the update from which on the pairs were not finite.

        No gradient is finite from there on; one before it whose norm only overflowed, which the
        clip made nothing of, is not it.
        """
        for values in (self.observations, self.actions):
            if not values.isfinite().all():
                broken = set(self.norms.isfinite().logical_not().nonzero().flatten().tolist())
                step = max(broken, default=self.step)
                while step - 1 in broken:
                    step -= 1
                require_finite(f"The pairs after the update of outer step {step}", values)

    def _require_gradients(self) -> None:
        """Raise NotFinite where more than half of the gradients moved nothing.

        Students that saturate, at infinity too, are finite in what they do; but their gradient is
        zero, or its norm overflows and the clip leaves nothing of it. Nothing moves the pairs then,
        and the set would be scored as if it had been distilled.
        """
        still = int(moved_nothing(self.norms[: self.step]).sum())
        enough = min(FEW_STEPS, self.settings.outer_steps)  # a first student may saturate by chance
        if self.step >= enough and 2 * still > self.step:
            raise NotFinite(
                f"The gradient in the pairs was exactly zero, or its norm infinite, at {still} of "
                f"{self.step} outer steps: the students that were trained on them saturated, or "
                f"every weight of the outer loss is zero."
            )

    def report(self, step: int) -> None:
        """Report the step to the monitor; score and save where these are due."""
        self.step = step
        self.monitor.progress(step, self.settings.outer_steps)
        if self.monitor.due(step):
            self.require_finite()
            self._require_gradients()
            self.monitor.note(**self.facts())
            self.monitor.checkpoint(step, self.synthetic_set())
        self.monitor.save(step, lambda: self.state(step))

    def facts(self) -> dict[str, float]:
        """Weights of the targets, and norms of the gradients so far, before they were clipped."""
        targets = self.targets
        facts = {
            **targets.facts,
            "mean_weight": targets.mean_weight,
            "effective_sample": targets.effective_sample,
        }
        if self.step:
            norms = self.norms[: self.step].cpu().double()
            clipped = norms > self.settings.outer_gradient_clip
            facts |= {
                "gradient_norm_median": float(norms.median()),
                "gradient_norm_largest": float(norms.max()),
                "gradient_clipped_share": float(clipped.double().mean()),
            }
            if still := int(moved_nothing(norms).sum()):
                facts["gradient_zero_share"] = still / self.step
        return facts

    def synthetic_set(self) -> SyntheticSet:
        """The pairs in the environment's units."""
        scaling = self.problem.scaling
        return SyntheticSet(
            scaling.observations_out(self.observations.cpu()),
            scaling.actions_out(self.actions.cpu()),
        )

    def state(self, step: int) -> State:
        """Pairs and velocities, all that the next outer step depends on, and the norms so far."""
        self.require_finite()
        tensors = {
            "observations": self.observations,
            "actions": self.actions,
            "observations_velocity": self.velocity[0],
            "actions_velocity": self.velocity[1],
            "gradient_norms": self.norms[:step].double(),
        }
        return State({name: tensor.cpu() for name, tensor in tensors.items()}, {"step": step})


def inner_loop(problem: Problem, precision: native_engine.Precision = "float32") -> InnerLoop:
    """The student's training as a differentiable loop, its adjoint in this precision."""
    if precision != "float32":
        native_engine.require_bf16(problem.device)  # a job of a cluster is on another machine
    student = problem.student
    network = student.network(problem.observation_dim, problem.action_dim)
    return _loop(network, student, precision)


def _loop(network: Network, student: StudentSpec, precision: native_engine.Precision) -> InnerLoop:
    return InnerLoop(
        network,
        squared_error_head(student.policy_head),
        student.steps,
        student.learning_rate,
        student.momentum,
        precision,
    )
