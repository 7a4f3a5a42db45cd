"""Which states policies of finished sets serve badly: the rare ones, a region, the worst tenth.

The fairness axis of HaDES's related work (arXiv 2305.03355), with groups of states in place of
groups of people. Students of a set are compared with the teacher, |pi(s) - pi*(s)|^2, on states of
the dataset, in two groupings: tenths by log density and cells of k-means. It is the pivotal and
surrounding error of SDW-OBD (arXiv 2512.06692) seen from another side, so SDW-OBD against Av-PBC,
whose runs of a seed begin alike, is the comparison to make.

Densities are those of nearest neighbours, not of the flow that SDW-OBD weights with: its groups are
then not of its own making. Random pairs, DBC and BC on everything learn the data's actions, not the
teacher's, so that a part of their error is the distance between the two.

Expected before any run: for every method the rarest tenth has the largest error, and the error
falls with density; SDW-OBD has a smaller error than Av-PBC in the rarest tenth, in the worst cell
and in the mean over the worst tenth of states, and pays with a larger one in the densest tenths.
At tau = 0.25 that is small: on some datasets the interval of the difference holds 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from baselines.references import BCWhole
from baselines.selection_by_coverage import lloyd_step, nearest_centres, seed_clusters
from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.source import DatasetName
from benchmark.density.log_densities import Fit, find_or_fit
from benchmark.environments.lookup import action_space
from benchmark.method import Problem
from benchmark.scaling import Scaling
from benchmark.seeds import torch_generator
from benchmark.students.student import train_on_set
from benchmark.teachers.teacher_files import find_teacher
from paper_figures.studies.misalignment import Lesson
from paper_figures.studies.study import (
    NothingToStudy,
    Row,
    Study,
    check_one_student,
    finished_runs,
    finished_set,
    last_result,
    one_per_dataset,
)


@dataclass(frozen=True)
class Fairness(Study):
    """Error against the teacher by density and by cell, of students of finished sets.

    Args:
        sweeps: Sweeps whose sets are measured, on the datasets that have one of every method and
            seed.
        methods: Methods of the sets; BC on everything is trained next to them.
        seeds: Number of seeds, from 0.
        students_per_set: Students that a set teaches, whose errors are averaged.
        clone_steps: Gradient steps of BC on everything.
        states: Largest number of states that are measured, evenly spread.
        density: Density recipe that the tenths are made by.
        bins: Number of groups by density, of equal size.
        cells, lloyd_steps: Number of cells, and steps of k-means.
        tail: Share of the states that are the worst.
    """

    shows: ClassVar[str] = (
        "Imitation error of policies of finished sets on rare states, by cell, and in its tail."
    )
    sweeps: tuple[str, ...] = ("main_table", "sdw_main")
    methods: tuple[str, ...] = ("random", "dbc", "pbc", "av_pbc", "sdw_obd")
    seeds: int = 5
    students_per_set: int = 4
    clone_steps: int = 5_000
    states: int = 20_000
    density: str = "knn"
    bins: int = 10
    cells: int = 20
    lloyd_steps: int = 10
    tail: float = 0.1

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List one item per dataset that has a set of every method and seed."""
        runs = {r.run_id: r for sweep in self.sweeps for r in finished_runs(store, sweep)}.values()
        sets = {
            (method, seed): one_per_dataset(
                r for r in runs if (r.spec.method, r.spec.seed) == (method, seed)
            )
            for method in self.methods
            for seed in range(self.seeds)
        }
        check_one_student(r for r in runs if r.spec.method in self.methods)
        found = {}
        for name in sorted(set.intersection(*(set(one) for one in sets.values()))):
            data = load_dataset(DatasetName.parse(name))
            teacher = _only_teacher(name, (r.spec.teacher for r in runs if r.spec.dataset == name))
            found[name] = {
                "dataset_sha256": data.sha256,
                "teacher_sha256": find_teacher(data, teacher).facts["sha256"],
                "sets": [
                    {"method": method, "seed": seed, **one[name]}
                    for (method, seed), one in sets.items()
                ],
            }
        return found

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure one row per method and seed: mean error, by group, and of the worst states."""
        data = load_dataset(DatasetName.parse(item))
        scaling = Scaling.of(data, action_space(data.env_id))
        chosen = torch.linspace(0, len(data) - 1, min(self.states, len(data))).long()
        states = torch.from_numpy(data.observations)[chosen]
        sets = [finished_set(store, one) for one in source["sets"]]
        teacher = _only_teacher(item, (one.teacher for one in sets))
        lesson = Lesson.of(states, find_teacher(data, teacher), scaling)
        log_density = find_or_fit(data, Fit.of(self.density)).values[chosen]
        groups = {
            "by_density": equal_groups(log_density, self.bins),
            "by_cell": self._cells(lesson.observations, item),
        }

        def row(method: str, seed: int, policy: Any) -> Row:
            errors = lesson.errors(policy).mean(0)  # [M], over the students
            return {
                "method": method,
                "seed": seed,
                "error": float(errors.mean()),
                "tail": tail_mean(errors, self.tail),
                **{name: group_means(errors, group) for name, group in groups.items()},
            }

        rows, students = [], {}
        for one, found in zip(source["sets"], sets, strict=True):
            students[one["seed"]] = found.student
            # Student k of a seed begins alike on the sets of all methods.
            generators = [
                torch_generator(study="fairness", dataset=item, seed=one["seed"], student=k)
                for k in range(self.students_per_set)
            ]
            policy = train_on_set(found.student, found.pairs, found.scaling, generators)
            rows.append(row(one["method"], one["seed"], policy))
        for seed, student in students.items():
            problem = Problem(
                needs=BCWhole.needs, student=student, scaling=scaling,
                axes={"study": "fairness", "dataset": item, "seed": seed},
                loaders={"dataset": lambda: data},
            )  # fmt: skip
            rows.append(row("bc_whole", seed, last_result(BCWhole(self.clone_steps), problem)))
        return rows

    def _cells(self, states: Tensor, item: str) -> Tensor:
        """Cell of each state `[M]` by k-means, on normalised states."""
        generator = torch_generator(study="fairness", dataset=item, purpose="cells")
        centres = states[seed_clusters(states, min(self.cells, len(states)), generator)]
        for _ in range(self.lloyd_steps):
            centres = lloyd_step(states, centres)
        return nearest_centres(states, centres)


def _only_teacher(dataset: str, names: Iterable[str]) -> str:
    """The teacher that the sets of a dataset imitate; those that imitate none have "none".

    Raises:
        NothingToStudy: There are several, or none.
    """
    found = sorted(set(names) - {"none"})
    if len(found) != 1:
        raise NothingToStudy(
            f"Sets on {dataset} imitate {', '.join(found) or 'no teacher'}; the study compares "
            f"them with one teacher. Give it sweeps with one teacher per dataset."
        )
    return found[0]


def equal_groups(values: Tensor, count: int) -> Tensor:
    """Group `[M]` of each value by its rank, from 0 for the smallest; sizes differ by 1 at most."""
    ranks = torch.empty(len(values), dtype=torch.int64)
    ranks[values.argsort(stable=True)] = torch.arange(len(values))
    return ranks * count // len(values)


def group_means(errors: Tensor, group: Tensor) -> list[float]:
    """Mean error of each group that has a state, in the order of the groups.

    Args:
        errors: Error of each state `[M]`.
        group: Group of each state `[M]`.
    """
    sums = torch.bincount(group, weights=errors.double())
    counts = torch.bincount(group)
    means: list[float] = (sums[counts > 0] / counts[counts > 0]).tolist()
    return means


def tail_mean(errors: Tensor, share: float) -> float:
    """Mean of the largest errors: this share of all `[M]`, rounded, at least one."""
    return float(errors.topk(max(1, round(share * len(errors)))).values.mean())
