"""What a student is, as plain values: its network and the recipe that trains it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from benchmark.config import BadConfiguration, build, convert_fields
from benchmark.errors import ObdBenchError, did_you_mean, short

if TYPE_CHECKING:  # records and commands that train nothing must not pay for torch
    import gymnasium
    import torch

    from benchmark.students.heads import Head
    from benchmark.students.network import Network
    from benchmark.students.optimisers import Optimiser


HeadName = Literal["sampled", "sampled_trained", "mean", "gaussian", "categorical"]
OptimizerName = Literal["sgd", "adam", "adamw"]
ActivationName = Literal["relu", "tanh"]
ScheduleName = Literal["constant", "linear", "learned"]


@dataclass(frozen=True)
class StudentSpec:
    """A policy network and how it is trained; the defaults are OBD's (Section 5).

    In the published code the head has two trained scalars besides: `head = "sampled_trained"`. With
    "tanh", "gaussian" or "categorical", `gradient_clip` and `output_gain` it can be HaDES's
    (docs/hades.md).

    Args:
        name: Registered architecture: "mlp" or "residual".
        depth: Number of linear layers, 1 or more.
        width: Units per hidden layer.
        head: Under the squared error "sampled" (a tanh-Gaussian sample in the loss, its mode in
            evaluation), "sampled_trained" (the published code's: the same with two scalars of the
            log standard deviation among the parameters) or "mean" (tanh of the outputs); under the
            likelihood "gaussian" (one trained log standard deviation per action dimension) or, for
            discrete actions, "categorical".
        optimizer: "sgd", "adam" or "adamw".
        learning_rate: Step size of the optimiser.
        momentum: Momentum of "sgd"; the others ignore it.
        weight_decay: Weight decay of "adamw"; the others ignore it.
        steps: Gradient steps on the whole synthetic set.
        activation: Function of the hidden units: "relu" or "tanh".
        output_gain: Gain of the last layer's initial weights (HaDES: 0.01); hidden layers have
            sqrt(2).
        adam_epsilon: Epsilon of "adam" and "adamw" (HaDES: 1e-5); "sgd" ignores it.
        gradient_clip: Largest norm of each student's gradient over all of its parameters; a longer
            one is scaled to it (HaDES: 0.5). None for no limit.
        schedule: "constant", or "linear": the learning rate falls linearly over the steps, from
            `learning_rate` towards 0, as HaDES's does on MinAtar; "learned": the rate that the
            synthetic set carries, in place of `learning_rate` (PPMO).
    """

    name: str = "mlp"
    depth: int = 4
    width: int = 256
    head: HeadName = "sampled"
    optimizer: OptimizerName = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.01
    steps: int = 100
    activation: ActivationName = "relu"
    output_gain: float = math.sqrt(2)
    adam_epsilon: float = 1e-8
    gradient_clip: float | None = None
    schedule: ScheduleName = "constant"

    def __post_init__(self) -> None:
        convert_fields(self, "the student")
        for field in ("depth", "width", "steps"):
            if getattr(self, field) < 1:
                raise ObdBenchError(
                    f"student.{field} is {getattr(self, field)}; expected 1 or more."
                )
        for field in ("learning_rate", "output_gain", "adam_epsilon", "gradient_clip"):
            if (value := getattr(self, field)) is not None and not value > 0:
                raise ObdBenchError(f"student.{field} is {value}; expected above 0.")
        if not 0 <= self.momentum < 1:
            raise ObdBenchError(
                f"student.momentum is {self.momentum}; expected at least 0, less than 1."
            )
        if not self.weight_decay >= 0:
            raise ObdBenchError(f"student.weight_decay is {self.weight_decay}; expected 0 or more.")

    @property
    def policy_head(self) -> Head:
        """The head that `head` names."""
        from benchmark.students.heads import HEADS

        return HEADS[self.head]

    def network(self, observation_dim: int, action_dim: int) -> Network:
        """The network for an environment of these dimensions."""
        from benchmark.students.network import STUDENTS

        head = self.policy_head
        outputs = head.outputs(action_dim)
        plain = STUDENTS[self.name]().network(observation_dim, outputs, self.depth, self.width)
        return dataclasses.replace(
            plain,
            scalars=head.trained_scalars,
            constants=action_dim if head.log_std else 0,
            activation=self.activation,
            output_gain=self.output_gain,
        )

    def check_space(self, space: gymnasium.Space[Any], environment: str) -> None:
        """Check that the head is made for an environment's actions.

        Raises:
            ObdBenchError: It is not.
        """
        kind = self.policy_head.space
        if kind is not None and not isinstance(space, kind):
            other = {"gaussian": 'categorical" or "mean', "categorical": "gaussian"}[self.head]
            raise ObdBenchError(
                f"student.head is {self.head!r}, for actions of a {kind.__name__}; those of "
                f'{environment} are {space}. Set head = "{other}".'
            )

    def optimiser(self, tensors: Sequence[torch.Tensor]) -> Optimiser:
        """A fresh optimiser over stacked parameters; every update is elementwise in the runs."""
        from benchmark.students.optimisers import Adam, Sgd

        if self.optimizer == "sgd":
            return Sgd(tensors, self.momentum)
        decay = self.weight_decay if self.optimizer == "adamw" else 0.0
        # Students under the likelihood are wide, and no older record of one keeps its last bits.
        fused = self.policy_head.space is not None
        return Adam(tensors, self.adam_epsilon, decay, fused)

    def with_rate(self, learned: float | None) -> StudentSpec:
        """The student at the rate that its set carries, if it is to take that, else itself."""
        if self.schedule != "learned" or learned is None:
            return self
        return dataclasses.replace(self, schedule="constant", learning_rate=learned)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of gradient step `step` of `steps`, counted from 0, under the schedule.

        Raises:
            ObdBenchError: It is to be learned; `with_rate` gives one.
        """
        if self.schedule == "learned":
            raise ObdBenchError(
                'student.schedule is "learned": the learning rate is to be one that a synthetic '
                'set carries, and these pairs carry none. Set schedule = "constant".'
            )
        return self.learning_rate * (1 - step / steps if self.schedule == "linear" else 1)


def build_student(
    values: Mapping[str, Any], where: str, base: StudentSpec | None = None
) -> StudentSpec:
    """A student from its settings.

    Args:
        values: Settings by name; `recipe` names one of `RECIPES`, from which the others differ.
        where: What the mapping is, for messages: "[student] of sweep.toml".
        base: What settings that are left out are taken from where no recipe is named; OBD's student
            by default.

    Raises:
        BadConfiguration: A key, or the recipe, is unknown (with the nearest valid ones), or a value
            does not fit.
    """
    if not isinstance(values, Mapping):
        raise BadConfiguration(
            f"{where} is {short(values)} ({type(values).__name__}); expected its settings by name, "
            f'such as {{"width": 64}} or {{"recipe": "hades"}}.'
        )
    changed = dict(values)
    if (recipe := changed.pop("recipe", None)) is not None:
        if recipe not in RECIPES:
            raise BadConfiguration(
                f"recipe in {where} is {recipe!r}. {did_you_mean(str(recipe), RECIPES)}"
            )
        base = RECIPES[recipe]
    return build(base or StudentSpec(), changed, where)


@cache
def describe_student(student: StudentSpec) -> str:
    """For example "mlp 4x64, sampled head, sgd, 50 steps"."""
    hidden = f"{student.depth}x{student.width}"
    rate = " at the set's rate" if student.schedule == "learned" else ""
    clip = "" if student.gradient_clip is None else f" clipped at {student.gradient_clip:g}"
    return (
        f"{student.name} {hidden}{' tanh' if student.activation == 'tanh' else ''}, "
        f"{student.head} head, {student.optimizer}{clip}{rate}, {student.steps} steps"
    )


RECIPES = {
    "obd": StudentSpec(),
    # HaDES's code on Brax; it takes 200 steps on Hopper and InvertedDoublePendulum.
    "hades": StudentSpec(
        depth=3, width=512, activation="tanh", head="gaussian", output_gain=0.01,
        optimizer="adam", learning_rate=5e-3, adam_epsilon=1e-5, gradient_clip=0.5, steps=400,
    ),
    # As its code runs on MinAtar: its schedule divides integers, which leaves the rate as it is,
    # and its clipping is commented out, whatever the settings say (docs/artefacts.md).
    "hades_minatar": StudentSpec(
        depth=3, width=512, head="categorical", output_gain=0.01, optimizer="adam",
        learning_rate=0.03, adam_epsilon=1e-5, steps=64,
    ),
    # PPMO's code: one step of the squared error, which is that of the likelihood at deviation 1 but
    # for a factor, at the rate that its sets carry (baselines/ppmo.py).
    "ppmo": StudentSpec(
        depth=3, width=64, activation="tanh", head="gaussian", output_gain=0.01, steps=1,
        schedule="learned",
    ),
}  # fmt: skip
"""Students of papers, by the name that `student.recipe` takes."""
