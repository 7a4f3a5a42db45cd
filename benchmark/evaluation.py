"""Scoring: students are trained on a set from scratch and play episodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmark.config import BadConfiguration
from benchmark.environments import Episodes, rollout
from benchmark.errors import did_you_mean
from benchmark.method import Policy
from benchmark.scaling import Scaling
from benchmark.seeds import derive_seed, episode_seeds
from benchmark.students.student import Batch, StudentSpec, train_students
from benchmark.synthetic_set import SyntheticSet


@dataclass(frozen=True)
class Protocol:
    """How a synthetic set is scored, and which checkpoints count.

    Args:
        name: Of the protocol.
        students: Policies trained on the set, each from its own initialisation.
        episodes: Episodes that each policy plays, with its deterministic action.
        checkpoint_every: Outer steps between scored checkpoints.
        last: The run's score is the mean over this many last checkpoints.
    """

    name: str
    students: int
    episodes: int
    checkpoint_every: int
    last: int

    def __post_init__(self) -> None:
        for field in ("students", "episodes", "checkpoint_every", "last"):
            if getattr(self, field) < 1:
                raise BadConfiguration(
                    f"{field} of the protocol {self.name!r} is {getattr(self, field)}; expected 1 "
                    f"or more."
                )

    def due(self, step: int, total: int) -> bool:
        """Whether a method of `total` outer steps is scored at `step`."""
        return step % self.checkpoint_every == 0 or step == total


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # OBD, Section 5: every 1,000 outer steps, 10 policies x 10 episodes, last five.
        Protocol("obd", students=10, episodes=10, checkpoint_every=1000, last=5),
        Protocol("quick", students=4, episodes=10, checkpoint_every=200, last=3),
        Protocol("smoke", students=2, episodes=2, checkpoint_every=5, last=1),
    )
}


def protocol_named(name: str) -> Protocol:
    """A built-in protocol.

    Raises:
        BadConfiguration: There is none of that name.
    """
    if name not in PROTOCOLS:
        raise BadConfiguration(f"No protocol is called {name!r}. {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def score(
    result: SyntheticSet | Policy,
    *,
    protocol: Protocol,
    student: StudentSpec,
    scaling: Scaling,
    environment: str,
    axes: Mapping[str, str | int],
    on_progress: Callable[[int], None] | None = None,
) -> Episodes:
    """Returns and lengths `[P, E]` of P policies over E episodes.

    Episode e starts from the same reset seed for every policy of a checkpoint.

    Args:
        result: A synthetic set, on which `protocol.students` students are trained; or policies,
            which are scored as they are.
        protocol: How many students and episodes.
        student: What is trained.
        scaling: Under which the set was made.
        environment: Gymnasium id.
        axes: Names this run and checkpoint; seeds derive from it.
        on_progress: Called with the number of environment steps so far.
    """
    policy = _clone(result, protocol, student, scaling, axes)
    return rollout(
        environment,
        policy,
        policies=policy.count,
        episodes=protocol.episodes,
        seeds=episode_seeds(protocol.episodes, **axes, purpose="evaluation episodes"),
        threads=min(torch.get_num_threads(), os.cpu_count() or 1),
        on_progress=on_progress,
    )


def _clone(
    result: SyntheticSet | Policy,
    protocol: Protocol,
    student: StudentSpec,
    scaling: Scaling,
    axes: Mapping[str, str | int],
) -> Policy:
    """The policies to score: those given, or students trained on the whole set."""
    if not isinstance(result, SyntheticSet):
        return result
    observations = scaling.observations_in(result.observations)
    actions = scaling.actions_in(result.actions)
    count = protocol.students

    def pairs(step: int) -> Batch:
        rows = result.rows(step, student.steps)
        return observations[rows].expand(count, -1, -1), actions[rows].expand(count, -1, -1)

    generators = [
        torch.Generator().manual_seed(derive_seed(**axes, purpose="evaluation student", student=i))
        for i in range(count)
    ]
    return train_students(student, pairs, scaling, generators)
