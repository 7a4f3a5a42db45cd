"""What a student is, as plain values: its network and the recipe that trains it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from benchmark.errors import ObdBenchError, did_you_mean

if TYPE_CHECKING:  # records and commands that train nothing must not pay for torch
    import torch

    from benchmark.students.heads import Head
    from benchmark.students.network import Network


HeadName = Literal["sampled", "sampled_trained", "mean"]
OptimizerName = Literal["sgd", "adam", "adamw"]


@dataclass(frozen=True)
class StudentSpec:
    """A policy network and how it is trained; the defaults are OBD's (Section 5).

    In the published code the head has two trained scalars besides: `head = "sampled_trained"`.

    Args:
        name: Registered architecture: "mlp" or "residual".
        depth: Number of linear layers, 1 or more.
        width: Units per hidden layer.
        head: "sampled" (a tanh-Gaussian sample in the loss, its mode in evaluation),
            "sampled_trained" (the published code's: the same with two scalars of the log standard
            deviation among the parameters) or "mean" (tanh of the outputs).
        optimizer: "sgd", "adam" or "adamw".
        learning_rate: Step size of the optimiser.
        momentum: Momentum of "sgd"; the others ignore it.
        weight_decay: Weight decay of "adamw"; the others ignore it.
        steps: Gradient steps on the whole synthetic set.
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

    def __post_init__(self) -> None:
        for field, names in (("head", HeadName), ("optimizer", OptimizerName)):
            value, known = getattr(self, field), get_args(names)
            if value not in known:
                raise ObdBenchError(f"student.{field} is {value!r}. {did_you_mean(value, known)}")
        for field in ("depth", "width", "steps"):
            if getattr(self, field) < 1:
                raise ObdBenchError(
                    f"student.{field} is {getattr(self, field)}; expected 1 or more."
                )
        if not self.learning_rate > 0:
            raise ObdBenchError(f"student.learning_rate is {self.learning_rate}; expected above 0.")
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
        return dataclasses.replace(plain, scalars=head.trained_scalars)

    def optimiser(self, tensors: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
        """A fresh optimiser over stacked parameters; every update is elementwise in the runs."""
        import torch

        if self.optimizer == "sgd":
            return torch.optim.SGD(tensors, self.learning_rate, momentum=self.momentum)
        if self.optimizer == "adam":
            return torch.optim.Adam(tensors, self.learning_rate)
        return torch.optim.AdamW(tensors, self.learning_rate, weight_decay=self.weight_decay)
