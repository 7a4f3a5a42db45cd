"""HaDES's zero-shot multi-task study: one student trained on the merged sets of several tasks.

Behaviour Distillation (arXiv 2406.15042), "zero-shot multi-task training on merged sets": a set of
each task is made on its own; a student that has seen no environment learns from all their pairs.
Observations and actions of the smaller task are filled up with zeros, in the units that students
learn in; the student is not told which task it is in. The loss is a mean over pairs and components
of an action, so that more pairs and more components would mean smaller steps on each: on merged
sets it is weighted so that the student takes the step of each task as if it were the only one, and
no step on the zeros that fill up. Students of a task's own set live in its own space.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from benchmark.environments.rollout import rollout
from benchmark.record import Summary
from benchmark.scaling import Scaling
from benchmark.seeds import episode_seeds, torch_generator
from benchmark.students.student import StudentPolicy, train_students
from paper_figures.studies.study import (
    FinishedSet,
    NothingToStudy,
    Row,
    Study,
    finished_runs,
    finished_set,
    one_per_dataset,
)

Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Actions `[P, E, act_dim]` for raw observations `[P, E, obs_dim]`."""


@dataclass(frozen=True)
class MultiTask(Study):
    """Returns of students trained on one task's set, and on the merged sets of all tasks.

    Args:
        sweep: Sweep whose sets are merged: those of one method and seed.
        methods: Methods whose sets are merged.
        synthetic_size: Number of pairs in each set.
        students: Number of students per set, each with its own initialisation.
        episodes: Number of episodes that each student plays in every task.
    """

    shows: ClassVar[str] = (
        "One student on the merged sets of several tasks, next to students of each task's own "
        "(arXiv 2406.15042)."
    )
    version: ClassVar[int] = 2
    sweep: str = "all_methods"
    methods: tuple[str, ...] = ("hades", "av_pbc")
    synthetic_size: int = 64
    students: int = 10
    episodes: int = 5

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List one item per method and seed that has a set on two tasks or more."""
        runs: dict[str, list[Summary]] = defaultdict(list)
        for record in finished_runs(store, self.sweep):
            spec, size = record.spec, record.parameters.get("synthetic_size")
            same = spec.scoring_student == spec.student
            if spec.method in self.methods and size == self.synthetic_size and same:
                runs[f"{spec.method}-seed{spec.seed}"].append(record)
        found = {
            name: {
                "sets": [
                    {"dataset": dataset, **source}
                    for dataset, source in sorted(one_per_dataset(records).items())
                ]
            }
            for name, records in sorted(runs.items())
            if len(records) > 1
        }
        if not found:
            raise NothingToStudy(
                f"{self.sweep} in {store} has no method with sets of {self.synthetic_size} pairs "
                f"on two datasets."
            )
        return found

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure the return in every task of students of its own set and of the merged ones."""
        sets = [finished_set(store, one) for one in source["sets"]]
        merged = Merged.of(sets)
        students = merged.train([self._generator(item, k) for k in range(self.students)])
        rows: list[Row] = []
        for task, (one, found) in enumerate(zip(source["sets"], sets, strict=True)):
            single = Merged.of([found])
            own = single.train([self._generator(item, k) for k in range(self.students)])
            for trained_on, space, policy in (
                ("own", single, single.policy(own, 0)),
                ("merged", merged, merged.policy(students, task)),
            ):
                returns = self._returns(item, found.environment, policy)
                rows.append(
                    {"method": item.rpartition("-seed")[0], "task": one["dataset"],
                     "environment": found.environment, "trained_on": trained_on,
                     "pairs": sum(len(each.pairs) for each in space.sets),
                     "return": float(returns.mean())}
                )  # fmt: skip
        return rows

    def _generator(self, item: str, student: int) -> torch.Generator:
        return torch_generator(study="multi_task", item=item, student=student)

    def _returns(self, item: str, environment: str, policy: Act) -> NDArray[np.float64]:
        """Play one task; return the returns `[P, E]`."""
        return rollout(
            environment,
            policy,
            policies=self.students,
            episodes=self.episodes,
            seeds=episode_seeds(self.episodes, study="multi_task", item=item),
        ).returns


@dataclass(frozen=True)
class Merged:
    """Sets of several tasks in one space: learned units, the smaller tasks filled up with zeros."""

    sets: Sequence[FinishedSet]
    observation_dim: int
    action_dim: int

    @classmethod
    def of(cls, sets: Sequence[FinishedSet]) -> Merged:
        """Join any number of sets.

        Raises:
            NothingToStudy: They are for different students, or one is learned in stages.
        """
        if any(one.student != sets[0].student for one in sets):
            raise NothingToStudy(
                f"{', '.join(one.run_id for one in sets)} are sets for different students; one "
                f"student is to learn from all of them."
            )
        if staged := [one.run_id for one in sets if one.pairs.stages is not None]:
            raise NothingToStudy(
                f"{', '.join(staged)} are learned in stages, and merged sets all at once. Give the "
                f"study methods without stages."
            )
        return cls(
            sets,
            max(one.pairs.observations.shape[1] for one in sets),
            max(one.pairs.actions.shape[1] for one in sets),
        )

    @property
    def identity(self) -> Scaling:
        """Scaling that changes nothing: `policy` scales, as each task has its own units."""
        dims = self.observation_dim, self.action_dim
        return Scaling(*(values(dim) for dim in dims for values in (torch.zeros, torch.ones)))

    def pairs(self, task: int) -> tuple[Tensor, Tensor]:
        """Observations `[N, obs_dim]` and actions `[N, act_dim]` of one task in the joint space."""
        one = self.sets[task]
        observations = one.scaling.observations_in(one.pairs.observations)
        actions = one.scaling.actions_in(one.pairs.actions)
        return _filled(observations, self.observation_dim), _filled(actions, self.action_dim)

    def all_pairs(self) -> tuple[Tensor, Tensor]:
        """Pairs of all tasks, one task after the other."""
        observations, actions = zip(*map(self.pairs, range(len(self.sets))), strict=True)
        return torch.cat(observations), torch.cat(actions)

    def weights(self) -> Tensor:
        """Weights `[N, act_dim]` of the loss of each component of each pair's action.

        A component weighs as much as in the loss of its own set, a zero that fills up nothing.
        """
        # The loss is the mean over all N * act_dim components. A task with n * d of them is to
        # count as its own mean, 1 / (n d) per component: the weight is N * act_dim / (n d), times
        # that of the pair where the set has weights.
        numbers = sum(len(one.pairs) for one in self.sets) * self.action_dim
        weights = []
        for pairs in (one.pairs for one in self.sets):
            of_each = torch.full(pairs.actions.shape, numbers / pairs.actions.numel())
            if (own := pairs.mean_one_weights) is not None:
                of_each = of_each * own[:, None]
            weights.append(_filled(of_each, self.action_dim))
        return torch.cat(weights)

    def train(self, generators: Sequence[torch.Generator]) -> StudentPolicy:
        """Train one student per generator on all pairs at once, of the first set's architecture."""
        observations, actions = self.all_pairs()
        count = len(generators)
        batch = observations.expand(count, -1, -1), actions.expand(count, -1, -1)
        return train_students(
            self.sets[0].student,
            lambda step: batch,
            self.identity,
            generators,
            weights=self.weights().expand(count, -1, -1),
        )

    def policy(self, students: StudentPolicy, task: int) -> Act:
        """Use students of the joint space as policies of one task, in its environment's units."""
        scaling = self.sets[task].scaling
        act_dim = len(scaling.center)

        def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
            inputs = scaling.observations_in(torch.from_numpy(observations))
            actions = students(_filled(inputs, self.observation_dim).numpy())[..., :act_dim]
            return scaling.actions_out(torch.from_numpy(actions)).numpy()

        return act


def _filled(values: Tensor, dim: int) -> Tensor:
    """Fill up `[..., d]` with zeros to `[..., dim]`."""
    return pad(values, (0, dim - values.shape[-1]))
