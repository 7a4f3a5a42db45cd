"""Use: a set as a warm start of behavioural cloning, next to a start from scratch.

A student of a set trains on by Adam on a small share of the data. All starts of a seed have the
rest in common: the initialisation, which the start from scratch keeps, the share of the data, the
minibatches and the noise of the loss. Steps on the set are not counted: on 64 pairs each costs a
fraction of one on a minibatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.source import DatasetName
from benchmark.environments.rollout import rollout
from benchmark.seeds import episode_seeds, torch_generator
from benchmark.students.network import stack
from benchmark.students.student import Batch, train_on_set, training
from paper_figures.studies.study import (
    NothingToStudy,
    Row,
    Study,
    finished_set,
    runs_by_cell,
    source_of,
)

SCRATCH = "scratch"
"""The start without a set; `paper_figures.use` draws it by this name."""


@dataclass(frozen=True)
class Use(Study):
    """Normalized returns along the cloning of a share of the data, by what it starts from.

    Args:
        sweeps: Sweeps whose sets are started from.
        datasets: Datasets of these sets.
        methods: Methods of these sets.
        seeds: Number of sets per method and dataset, seeds from 0.
        share: Share of the transitions that is cloned, drawn at random.
        learning_rate: Learning rate of Adam.
        batch_size: Transitions per minibatch.
        stages: Gradient steps after which the students play.
        students: Number of students per set, each with its own initialisation.
        episodes: Number of episodes that each student plays at each stage.
    """

    shows: ClassVar[str] = (
        "Cloning 1 % of the data from a student of a set, from one of random pairs, from scratch."
    )
    sweeps: tuple[str, ...] = ("main_table", "sdw_main")
    datasets: tuple[str, ...] = (
        "hopper/medium-expert", "halfcheetah/medium-expert", "walker2d/medium-expert",
    )  # fmt: skip
    methods: tuple[str, ...] = ("random", "pbc", "av_pbc", "sdw_obd")
    seeds: int = 5
    share: float = 0.01
    learning_rate: float = 0.001
    batch_size: int = 256
    stages: tuple[int, ...] = (0, *(2**k for k in range(3, 12)))
    students: int = 4
    episodes: int = 5

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List one item per dataset and seed that has a set of every method."""
        runs = runs_by_cell(store, self.sweeps, self.datasets, self.methods, self.seeds)
        found = {}
        for dataset, by_method in runs.items():
            digest = load_dataset(DatasetName.parse(dataset)).sha256
            for seed in range(self.seeds):
                of_seed = [by_seed.get(seed) for by_seed in by_method.values()]
                complete = [run for run in of_seed if run is not None]
                if len(complete) < len(self.methods):
                    continue
                found[f"{dataset}-seed{seed}"] = {
                    "dataset": dataset,
                    "dataset_sha256": digest,
                    "seed": seed,
                    "sets": {run.spec.method: source_of(run) for run in complete},
                }
                for run in complete:
                    if run.provenance.dataset_sha256 != digest:
                        raise NothingToStudy(
                            f"{run.run_id} is a set of {dataset} with sha256 "
                            f"{str(run.provenance.dataset_sha256)[:16]}; it has {digest[:16]} here."
                        )
        if not found:
            raise NothingToStudy(
                f"{store} has no seed with a set of each of {', '.join(self.methods)} on one of "
                f"{', '.join(self.datasets)}."
            )
        return found

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure the normalized return from every start at every stage."""
        dataset, seed = source["dataset"], source["seed"]
        axes = {"study": "use", "dataset": dataset, "seed": seed}
        data = load_dataset(DatasetName.parse(dataset))
        sets = {method: finished_set(store, one) for method, one in source["sets"].items()}
        first = next(iter(sets.values()))
        if any(one.student != first.student for one in sets.values()):
            raise NothingToStudy(
                f"The sets of {item} are for different students, and no initialisation is common "
                f"to them. Give the study sweeps of one student."
            )
        scaling = first.scaling

        def generators(purpose: str) -> list[torch.Generator]:
            return [
                torch_generator(**axes, purpose=purpose, student=k) for k in range(self.students)
            ]

        starts = {
            SCRATCH: first.student.network(data.observation_dim, data.action_dim).initialise_runs(
                generators("student")
            )
        }
        for method, one in sets.items():
            warm = train_on_set(one.student, one.pairs, one.scaling, generators("student"))
            starts[method] = warm.parameters

        draw = torch_generator(**axes, purpose="share")
        chosen = torch.randperm(len(data), generator=draw)[: round(self.share * len(data))]
        observations = scaling.observations_in(torch.from_numpy(data.observations)[chosen])
        actions = scaling.actions_in(torch.from_numpy(data.actions)[chosen])
        minibatches = torch_generator(**axes, purpose="minibatches")
        count = len(starts) * self.students

        def batch(step: int) -> Batch:
            rows = torch.randint(len(chosen), (self.batch_size,), generator=minibatches)
            return observations[rows].expand(count, -1, -1), actions[rows].expand(count, -1, -1)

        trained_as = replace(first.student, optimizer="adam", learning_rate=self.learning_rate)
        students = training(
            trained_as,
            batch,
            scaling,
            [noise for _ in starts for noise in generators("noise")],
            max(self.stages),
            initial=stack(list(starts.values())),
        )
        seeds = episode_seeds(self.episodes, **axes, purpose="episodes")
        rows: list[Row] = []
        for step, policy in enumerate(students):
            if step not in self.stages:
                continue
            returns = rollout(
                data.env_id, policy, policies=count, episodes=self.episodes, seeds=seeds
            ).returns
            means = returns.reshape(len(starts), -1).mean(1)
            for start, mean in zip(starts, means.tolist(), strict=True):
                rows.append(
                    {"dataset": dataset, "seed": seed, "start": start, "steps": step,
                     "normalized_return": float(data.reference.normalise(mean))}
                )  # fmt: skip
        return rows
