"""Scoring: students are trained from scratch on a synthetic set and play episodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.config import BadConfiguration
from benchmark.environments import Episodes, rollout
from benchmark.errors import did_you_mean
from benchmark.method import Policy
from benchmark.scaling import Scaling
from benchmark.seeds import derive_seed, episode_seeds
from benchmark.students.student import Batch, StudentPolicy, StudentSpec, train_students
from benchmark.synthetic_set import SyntheticSet


@dataclass(frozen=True)
class Protocol:
    """The way that a synthetic set is scored, and the checkpoints that count.

    Args:
        name: Name of the protocol.
        students: Number of policies trained on the set, each from its own initialisation.
        episodes: Episodes that each policy plays, with its deterministic action.
        checkpoint_every: Outer steps between scored checkpoints.
        last: Number of last checkpoints whose mean is the run's score; a method's starting point
            (outer step 0) counts only where there is no other.
        ensemble: Students that act together, by the mean of their actions (10 in OBD, Table 3).
            `students` then counts ensembles.
    """

    name: str
    students: int
    episodes: int
    checkpoint_every: int
    last: int
    ensemble: int = 1

    def __post_init__(self) -> None:
        for field in ("students", "episodes", "checkpoint_every", "last", "ensemble"):
            if getattr(self, field) < 1:
                raise BadConfiguration(
                    f"{field} of the protocol {self.name!r} is {getattr(self, field)}; expected 1 "
                    f"or more."
                )

    def as_dict(self) -> dict[str, Any]:
        """The values for a record, without an ensemble of 1, so that old names of cells hold."""
        values = asdict(self)
        if self.ensemble == 1:
            del values["ensemble"]
        return values

    def due(self, step: int, total: int) -> bool:
        """Say whether a method of `total` outer steps is scored at `step`."""
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
    """Look up a built-in protocol.

    Raises:
        BadConfiguration: There is none of that name.
    """
    if name not in PROTOCOLS:
        raise BadConfiguration(f"No protocol is called {name!r}. {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True)
class Ensembles:
    """Policies that are the mean of several students' actions (for discrete ones, scores).

    Args:
        students: Members of the first ensemble, then of the second, and so on.
        size: Members per ensemble.
    """

    students: StudentPolicy
    size: int

    @property
    def count(self) -> int:
        """The number of ensembles P."""
        return self.students.count // self.size

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute actions `[P, E, act_dim]` for raw observations `[P, E, obs_dim]`."""
        actions = self.students(observations.repeat(self.size, axis=0))
        mean: NDArray[np.float32] = actions.reshape(-1, self.size, *actions.shape[1:]).mean(1)
        return mean


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
    """Measure returns and lengths `[P, E]` of P policies over E episodes.

    Episode e starts from the same reset seed for every policy of a checkpoint.

    Args:
        result: A synthetic set, on which `protocol.students` students are trained; or policies,
            which are scored as they are.
        protocol: Numbers of students and episodes.
        student: Architecture and training of the students.
        scaling: Scaling under which the set was made.
        environment: Gymnasium id.
        axes: Names and values that identify this run and checkpoint; all seeds derive from them.
        on_progress: Callback with the number of environment steps so far.
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
    """Return the given policies, or train students on the whole set."""
    if not isinstance(result, SyntheticSet):
        return result
    observations = scaling.observations_in(result.observations)
    actions = scaling.actions_in(result.actions)
    count = protocol.students * protocol.ensemble

    at_once = observations.expand(count, -1, -1), actions.expand(count, -1, -1)

    def pairs(step: int) -> Batch:
        if result.stages is None:
            return at_once
        rows = result.rows(step, student.steps)
        return observations[rows].expand(count, -1, -1), actions[rows].expand(count, -1, -1)

    generators = [
        torch.Generator().manual_seed(derive_seed(**axes, purpose="evaluation student", student=i))
        for i in range(count)
    ]
    students = train_students(student, pairs, scaling, generators)
    return students if protocol.ensemble == 1 else Ensembles(students, protocol.ensemble)
