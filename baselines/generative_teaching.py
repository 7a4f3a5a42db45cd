"""Generative teaching: a network makes the pairs, and follows OBD's meta-gradient in their place.

Source: Generative Teaching Networks (Such et al., ICML 2020, arXiv 1912.07768), in the form for
policies: G_phi(z_i) -> (s_i, a_i), an MLP of codes z_i that are learned with its weights.

    repeat:
        D = G_phi(z);  g = dH(theta_T) / dD, the meta-gradient of Av-PBC (`baselines.obd`)
        phi, z follow (dD / d(phi, z))^T g, by Adam

The number of pairs is chosen after the distillation, which only `training_size` enters. The clip is
that of the code behind arXiv 2203.08559, whose rate of Adam, 0.01, makes the pairs diverge here;
orthogonal weights, and codes between learned ones where more pairs are asked for than were trained,
are ours.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import torch

from baselines.meta_gradient import MetaGradient, Pairs
from baselines.obd import AvPBC
from baselines.outer_loop import OuterRun, Targets, inner_loop
from baselines.pair_generator import PairGenerator
from baselines.selection import require_available
from benchmark.method import BadParameter, Method, Monitor, Problem, State, require_positive
from benchmark.outer_steps import OuterSteps
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet
from benchmark.work import Priced


@dataclass(frozen=True)
class GenerativeTeaching(AvPBC):
    """Av-PBC whose pairs come from a generator; `outer_momentum` is Adam's first beta.

    Args:
        training_size: Pairs that students learn from during distillation; None takes
            `synthetic_size`. Runs that differ in `synthetic_size` only have the same generator.
        code_dim: Numbers per code.
        generator_width: Units per hidden layer of the generator.
        generator_depth: Linear layers of the generator.
    """

    version: ClassVar[int] = 2  # a tenth of the former rate, at which pairs diverged
    outer_learning_rate: float = 0.001
    outer_gradient_clip: float = 4.0
    training_size: int | None = None
    code_dim: int = 64
    generator_width: int = 128
    generator_depth: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "code_dim", "generator_width", "generator_depth")
        if self.training_size is not None:
            require_positive(self, "training_size")
        if self.rate_rule != "fixed":
            raise BadParameter(
                f"rate_rule is {self.rate_rule!r}; a generator takes only 'fixed': its gradient is "
                f"a sum over pairs, and does not fall with their number."
            )

    @property
    def trained_pairs(self) -> int:
        """Pairs that students learn from during distillation."""
        return self.training_size or self.synthetic_size

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced:
        """Outer steps, timed as they are taken: the generator's cost is overhead, not products."""
        return OuterSteps.of(self, observation_dim, action_dim, student)

    def pack_key(self) -> Hashable | None:
        """None: the generators of several runs are not one batch of products."""
        return None

    distill_packed = Method.distill_packed  # one run after the other

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Distil one run."""
        self.require_student(problem.student)
        require_available(problem, self.synthetic_size)
        run = _GeneratorRun(self, self.targets(problem), problem, monitor)
        loop = inner_loop(problem, self.precision)
        for step in range(run.start, self.outer_steps):
            run.report(step)
            draw = run.draw(loop, step)
            run.update(
                loop.gradient(draw.initial, run.pairs(), draw.outer, draw.noise, draw.adjoint_noise)
            )
        run.report(self.outer_steps)


class _GeneratorRun(OuterRun):
    """A run whose pairs are those of a generator, which is what is updated and saved."""

    settings: GenerativeTeaching

    def __init__(
        self, settings: GenerativeTeaching, targets: Targets, problem: Problem, monitor: Monitor
    ) -> None:
        self.make = PairGenerator(
            settings.trained_pairs,
            (settings.code_dim, *[settings.generator_width] * (settings.generator_depth - 1)),
            problem,
        )
        self.adam = torch.optim.Adam(
            self.make.learned, settings.rate, betas=(settings.outer_momentum, 0.999)
        )
        super().__init__(settings, targets, problem, monitor)

    def first_pairs(self) -> Pairs:
        """The pairs of the generator as it is."""
        with torch.no_grad():
            return self.make(self.make.learned[0])

    def update(self, gradient: MetaGradient) -> None:
        """Update the generator and its codes, then the pairs that they make.

        Raises:
            NotFinite: The pairs that come out hold such values.
        """
        for tensor, part in zip(self.make.learned, self.make.gradient(gradient), strict=True):
            tensor.grad = part
        clip = self.settings.outer_gradient_clip
        self.norms[self.step] = torch.nn.utils.clip_grad_norm_(self.make.learned, clip)
        self.adam.step()
        self.observations, self.actions = self.first_pairs()
        self.require_finite()

    def synthetic_set(self) -> SyntheticSet:
        """The pairs in the environment's units, as many as asked.

        The first ones are of learned codes; more are of codes drawn between two of these.
        """
        codes = self.make.learned[0].detach()
        more = max(0, self.settings.synthetic_size - len(codes))
        generator = self.problem.generator("further codes")
        one = torch.randint(len(codes), (more,), generator=generator)
        # Another than the first, where there is another.
        other = (one + torch.randint(1, max(2, len(codes)), (more,), generator=generator)) % len(
            codes
        )
        share = torch.rand(more, 1, generator=generator)
        codes = torch.cat((codes, share * codes[one] + (1 - share) * codes[other]))
        with torch.no_grad():
            pairs = self.make(codes[: self.settings.synthetic_size])
        scaling = self.problem.scaling
        return SyntheticSet(
            scaling.observations_out(pairs.observations), scaling.actions_out(pairs.actions)
        )

    def state(self, step: int) -> State:
        """All that is learned with Adam's moments, and the norms so far."""
        tensors = {"gradient_norms": self.norms[:step].double()}
        for index, tensor in enumerate(self.make.learned):
            moments = self.adam.state[tensor] or dict.fromkeys(MOMENTS, torch.zeros_like(tensor))
            tensors[f"learned_{index}"] = tensor.detach()
            tensors |= {f"{name}_{index}": moments[name] for name in MOMENTS}
        return State(tensors, {"step": step})

    def restore(self, state: State) -> None:
        """Take all that is learned and Adam's moments from a saved state."""
        for index, tensor in enumerate(self.make.learned):
            with torch.no_grad():
                tensor.copy_(state.tensors[f"learned_{index}"])
            if self.start:
                moments = {name: state.tensors[f"{name}_{index}"] for name in MOMENTS}
                self.adam.state[tensor] = {"step": torch.tensor(float(self.start)), **moments}
        self.observations, self.actions = self.first_pairs()


MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of Adam's moments in `torch.optim`."""
