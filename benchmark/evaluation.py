"""Scoring: students are trained from scratch on a synthetic set and play episodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.environments.physics import UNCHANGED, Physics
from benchmark.environments.rollout import Episodes, rollout
from benchmark.errors import ObdBenchError
from benchmark.method import Policy, Stochastic
from benchmark.protocol import Protocol
from benchmark.scaling import Scaling
from benchmark.seeds import derive_seed, episode_seeds
from benchmark.students.spec import StudentSpec
from benchmark.students.student import StudentPolicy, train_on_set
from benchmark.synthetic_set import SyntheticSet


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

    def only(self, policies: NDArray[np.intp]) -> Ensembles:
        """The ensembles of these indices, without the others (see `rollout`)."""
        members = policies[:, None] * self.size + np.arange(self.size)
        return replace(self, students=self.students.only(members.ravel()))

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
    physics: Physics = UNCHANGED,
) -> Episodes:
    """Measure returns and lengths `[P, E]` of P policies over E episodes.

    Episode e starts from the same reset seed for every policy of a checkpoint. Sampled actions of
    policy p in episode e are drawn from a stream of these two.

    Args:
        result: A synthetic set, on which `protocol.students` students are trained; or policies,
            which are scored as they are.
        protocol: Numbers of students and episodes, and whether actions are sampled.
        student: Architecture and training of the students.
        scaling: Scaling under which the set was made.
        environment: Gymnasium id.
        axes: Names and values that all seeds derive from, `RunSpec.scoring_axes`.
        on_progress: Callback with the number of environment steps so far.
        physics: Changed physics of the environment (see `make_batched`).
    """
    policy = acting(clones(result, protocol, student, scaling, axes), protocol, axes)
    return rollout(
        environment,
        policy,
        policies=policy.count,
        episodes=protocol.episodes,
        seeds=episode_seeds(protocol.episodes, **axes, purpose="evaluation episodes"),
        threads=min(torch.get_num_threads(), os.cpu_count() or 1),
        on_progress=on_progress,
        physics=physics,
    )


def acting(policy: Policy, protocol: Protocol, axes: Mapping[str, str | int]) -> Policy:
    """The policies as the protocol lets them act, for one `rollout`.

    Raises:
        ObdBenchError: Actions are to be sampled, but the policies have no distribution.
    """
    if protocol.actions == "mode":
        return policy
    if not isinstance(policy, Stochastic):
        raise ObdBenchError(
            f"The protocol {protocol.name!r} samples actions, but a {type(policy).__name__} has no "
            f'`sampled(seeds)`. Give it one, or score with actions = "mode".'
        )
    return policy.sampled(
        [
            [
                derive_seed(**axes, purpose="sampled actions", policy=i, episode=e)
                for e in range(protocol.episodes)
            ]
            for i in range(policy.count)
        ]
    )


def clones(
    result: SyntheticSet | Policy,
    protocol: Protocol,
    student: StudentSpec,
    scaling: Scaling,
    axes: Mapping[str, str | int],
) -> Policy:
    """Return the given policies, or train students on the whole set; arguments as of `score`.

    Raises:
        ObdBenchError: The result is neither.
    """
    if not isinstance(result, SyntheticSet):
        if not (callable(result) and hasattr(result, "count")):
            raise ObdBenchError(
                f"The result of the method is a {type(result).__name__}; expected "
                f"SyntheticSet(observations, actions) of tensors, or policies: a callable with "
                f"`count`."
            )
        return result
    count = protocol.students * protocol.ensemble
    generators = [
        torch.Generator().manual_seed(derive_seed(**axes, purpose="evaluation student", student=i))
        for i in range(count)
    ]
    students = train_on_set(student, result, scaling, generators)
    return students if protocol.ensemble == 1 else Ensembles(students, protocol.ensemble)
