"""HaDES's zero-shot multi-task study: one student trained on the merged sets of several tasks.

Behaviour Distillation (arXiv 2406.15042), "zero-shot multi-task training on merged sets": a set of
each task is made alone; a student that has seen no environment learns from all their pairs at once.
Observations and actions of the smaller task are filled up with zeros, in the units that students
learn in; the student is not told which task it is in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from benchmark.environments import rollout
from benchmark.scaling import Scaling
from benchmark.seeds import episode_seeds, torch_generator
from benchmark.students.student import StudentPolicy, train_students
from studies.sets import FinishedSet, finished_runs, finished_set, source_of
from studies.study import NothingToStudy, Row, Study


@dataclass(frozen=True)
class MultiTask(Study):
    """Returns of students trained on one task's set, and on the merged sets of all tasks.

    Args:
        sweep: Whose sets are merged: of a method, those of equal seed.
        methods: Whose sets, one study each.
        synthetic_size: Pairs of each set.
        students: Trained on each set, each from its own initialisation.
        episodes: That each of them plays in every task.
    """

    shows: ClassVar[str] = (
        "One student on the merged sets of several tasks, beside students of each alone "
        "(arXiv 2406.15042)."
    )
    sweep: str = "all_methods"
    methods: tuple[str, ...] = ("hades", "av_pbc")
    synthetic_size: int = 64
    students: int = 10
    episodes: int = 5

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """One item a method and seed that has a set on two tasks or more."""
        runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for record in finished_runs(store, self.sweep):
            method = record["spec"]["method"]
            size = method["parameters"].get("synthetic_size")
            same = record["spec"]["evaluation_student"] in (None, record["spec"]["student"])
            if method["name"] in self.methods and size == self.synthetic_size and same:
                name = f"{method['name']}-seed{record['spec']['seed']}"
                runs[name].append({"dataset": record["spec"]["dataset"], **source_of(record)})
        found = {
            name: {"sets": sorted(sets, key=lambda one: str(one["dataset"]))}
            for name, sets in sorted(runs.items())
            if len(sets) > 1
        }
        for name, sources in found.items():
            datasets = [one["dataset"] for one in sources["sets"]]
            if len(set(datasets)) < len(datasets):
                raise NothingToStudy(
                    f"{self.sweep} has several sets of {name} on one dataset: {datasets}. The "
                    f"study needs one a dataset."
                )
        if not found:
            raise NothingToStudy(
                f"{self.sweep} in {store} has no method with sets of {self.synthetic_size} pairs "
                f"on two datasets."
            )
        return found

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Mean return in every task of students of its own set, and of the merged sets."""
        sources = source["sets"]
        sets = [finished_set(store, one["run"]) for one in sources]
        merged = Merged.of(sets)
        rows: list[Row] = []
        for trained_on, pairs in (("own", None), ("merged", merged.all_pairs())):
            for task, found in enumerate(sets):
                learned = pairs or merged.pairs(task)
                returns = self._returns(item, found, merged, task, learned)
                rows.append(
                    {"method": item.rpartition("-seed")[0], "task": sources[task]["dataset"],
                     "environment": found.environment, "trained_on": trained_on,
                     "pairs": len(learned[0]), "return": float(returns.mean())}
                )  # fmt: skip
        return rows

    def _returns(
        self,
        item: str,
        found: FinishedSet,
        merged: Merged,
        task: int,
        pairs: tuple[Tensor, Tensor],
    ) -> NDArray[np.float64]:
        """Returns `[P, E]` in one task of students trained on pairs."""
        observations, actions = (part.expand(self.students, -1, -1) for part in pairs)
        generators = [
            torch_generator(study="multi_task", item=item, student=k) for k in range(self.students)
        ]
        students = train_students(
            found.student, lambda step: (observations, actions), merged.identity, generators
        )
        return rollout(
            found.environment,
            merged.policy(students, task),
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
        """Of any number of sets."""
        return cls(
            sets,
            max(one.pairs.observations.shape[1] for one in sets),
            max(one.pairs.actions.shape[1] for one in sets),
        )

    @property
    def identity(self) -> Scaling:
        """A scaling that changes nothing: `policy` does it, as each task has its own."""
        return Scaling(
            torch.zeros(self.observation_dim),
            torch.ones(self.observation_dim),
            torch.zeros(self.action_dim),
            torch.ones(self.action_dim),
        )

    def pairs(self, task: int) -> tuple[Tensor, Tensor]:
        """One task's observations `[N, obs_dim]` and actions `[N, act_dim]` in the joint space."""
        one = self.sets[task]
        observations = one.scaling.observations_in(one.pairs.observations)
        actions = one.scaling.actions_in(one.pairs.actions)
        return _filled(observations, self.observation_dim), _filled(actions, self.action_dim)

    def all_pairs(self) -> tuple[Tensor, Tensor]:
        """Every task's pairs below each other."""
        observations, actions = zip(*map(self.pairs, range(len(self.sets))), strict=True)
        return torch.cat(observations), torch.cat(actions)

    def policy(self, students: StudentPolicy, task: int) -> Any:
        """Students of the joint space as policies of one task, in its environment's units."""
        scaling = self.sets[task].scaling
        act_dim = len(scaling.center)

        def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
            inputs = scaling.observations_in(torch.from_numpy(observations))
            actions = students(_filled(inputs, self.observation_dim).numpy())[..., :act_dim]
            return scaling.actions_out(torch.from_numpy(actions)).numpy()

        return act


def _filled(values: Tensor, dim: int) -> Tensor:
    """`[..., d]` with zeros after it up to `[..., dim]`."""
    return pad(values, (0, dim - values.shape[-1]))
