"""What policies and sets tell about the episodes that they were made from.

The membership attack follows the privacy axis of HaDES's related work (arXiv 2305.03355). Half of a
dataset's episodes are members. Sets are distilled from the members, and the attacker, who holds a
transition (s, a), guesses "member" by the score -|pi(s) - a|^2 of a policy that such a set taught:

    AUC = P(score of a member > score of another) + P(they are equal) / 2

0.5 tells nothing. An attacker who holds the set itself looks at the distance of its states to the
nearest member and to the nearest other state.

Scaling, log densities and every pair come from members only. The teacher was trained on all
episodes: what it knows of members it knows of the others as well, and is not counted. Its own AUC
is what the draw of the members gives by chance; the others are read next to it, seed by seed.

Expected before any run: an AUC of 0.5 within the interval for every set, as 64 pairs cannot hold
what tells one episode from another; 0.50 to 0.52 after cloning all members, each transition about
thirteen times. Random pairs are members (distance 0); distilled ones begin there and move by more
than the data are apart, so that about half of them, up to 0.6, are nearer to a member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.config import build
from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.density.density import finite_log_density
from benchmark.density.log_densities import Fit
from benchmark.environments.lookup import action_space
from benchmark.method import METHODS, Method, Problem
from benchmark.scaling import Scaling
from benchmark.seeds import numpy_generator, torch_generator
from benchmark.students.spec import StudentSpec
from benchmark.students.student import train_on_set
from benchmark.synthetic_set import SyntheticSet
from benchmark.teachers.teacher_files import find_teacher
from paper_figures.studies.misalignment import Lesson
from paper_figures.studies.study import Row, Study, last_result


@dataclass(frozen=True)
class Privacy(Study):
    """Membership AUC of policies, and distances of synthetic states to members and others.

    Args:
        datasets: Names of datasets.
        methods: Methods that see the members; `bc_whole` clones all of them, `teacher` saw both.
        seeds: Draws of the members, each with its own sets and students.
        synthetic_size, outer_steps: Size of a set, and outer steps of its distillation.
        width, inner_steps: Students: units per hidden layer, gradient steps.
        clone_steps: Gradient steps of `bc_whole`.
        students_per_set: Students that a set teaches.
        density: Density recipe of the methods that weight by it, fitted to the members.
        attacked: Largest number of transitions of either side that are attacked, evenly spread.
    """

    shows: ClassVar[str] = (
        "Membership AUC of policies taught by sets, and distances of synthetic states to members."
    )
    datasets: tuple[str, ...] = (
        "halfcheetah/medium-expert", "hopper/medium-expert", "walker2d/medium-expert",
    )  # fmt: skip
    methods: tuple[str, ...] = ("random", "av_pbc", "sdw_obd", "bc_whole", "teacher")
    seeds: int = 5
    synthetic_size: int = 64
    outer_steps: int = 1_000
    width: int = 64
    inner_steps: int = 50
    clone_steps: int = 5_000
    students_per_set: int = 4
    density: str = "knn"
    attacked: int = 50_000

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List one item per dataset and draw of the members."""
        found = {}
        for name in self.datasets:
            data = load_dataset(DatasetName.parse(name))
            digests = {
                "dataset_sha256": data.sha256,
                "teacher_sha256": find_teacher(data, "td3_bc").facts["sha256"],
            }
            for seed in range(self.seeds):
                found[f"{name}-seed{seed}"] = {"dataset": name, "seed": seed, **digests}
        return found

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure one row per method; distances only of sets, as means over their states."""
        axes = {"study": "privacy", "dataset": source["dataset"], "seed": source["seed"]}
        data = load_dataset(DatasetName.parse(source["dataset"]))
        chosen = member_episodes(data.episode_returns, numpy_generator(**axes, purpose="members"))
        members, others = episodes_of(data, chosen), episodes_of(data, ~chosen)
        scaling = Scaling.of(members, action_space(data.env_id))
        teacher = find_teacher(data, "td3_bc")
        student = StudentSpec(width=self.width, steps=self.inner_steps)
        loaders: dict[str, Callable[[], Any]] = {
            "dataset": lambda: members,
            "teacher": lambda: teacher,
            "log_density": lambda: self._log_density(members, scaling),
        }
        sides = [transitions(side, scaling) for side in (members, others)]
        rows: list[Row] = []
        for name in self.methods:
            method = self._method(name)
            # The same axes for every method: all begin with the pairs that `random` draws.
            problem = Problem(
                needs=method.needs, student=student, scaling=scaling, axes=axes, loaders=loaders
            )
            result = last_result(method, problem)
            found: Row = {"dataset": data.name, "seed": source["seed"], "method": name}
            policy: Any = result
            if isinstance(result, SyntheticSet):
                generators = [
                    torch_generator(**axes, student=k) for k in range(self.students_per_set)
                ]
                policy = train_on_set(student, result, scaling, generators)
                synthetic = scaling.observations_in(result.observations)
                near, far = (nearest(synthetic, side.observations) for side in sides)
                found |= {
                    "member_distance": float(near.mean()),
                    "other_distance": float(far.mean()),
                    "nearer_member": float((near < far).double().mean()),
                }
            inside, outside = (side.sample(self.attacked).errors(policy).numpy() for side in sides)
            aucs = [auc(-a, -b) for a, b in zip(inside, outside, strict=True)]
            found |= {
                "auc": float(np.mean(aucs)),
                "member_error": float(inside.mean()),
                "other_error": float(outside.mean()),
            }
            rows.append(found)
        return rows

    def _method(self, name: str) -> Method:
        """The method with those of this study's sizes that it has."""
        sizes = {
            "synthetic_size": self.synthetic_size,
            "outer_steps": self.outer_steps,
            "steps": self.clone_steps,
        }
        known = {field.name for field in dataclasses.fields(METHODS[name])}
        settings = {key: value for key, value in sizes.items() if key in known}
        return build(METHODS[name], settings, f"the study privacy's {name}")

    def _log_density(self, members: Dataset, scaling: Scaling) -> Tensor:
        """Log densities of the members' states by a fit to them `[M]`."""
        states = transitions(members, scaling).observations
        fitted = Fit.of(self.density).built().fit(states, seed=0)
        return finite_log_density(fitted.log_prob(states, rows=torch.arange(len(states))))[0]


def member_episodes(
    returns: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw which episodes are members `[E]`: one of each two that are neighbours in return.

    Both sides then hold good and bad episodes alike, which a plain draw leaves to chance.

    Args:
        returns: Return of each episode `[E]`; with an odd number the best one is no member.
        generator: Source of the draws.
    """
    couples = np.argsort(returns, kind="stable")[: len(returns) // 2 * 2].reshape(-1, 2)
    members = np.zeros(len(returns), dtype=bool)
    members[couples[np.arange(len(couples)), generator.integers(2, size=len(couples))]] = True
    return members


def episodes_of(data: Dataset, chosen: NDArray[np.bool_]) -> Dataset:
    """The dataset without the episodes that are not chosen `[E]`."""
    rows = np.repeat(chosen, data.lengths)
    return dataclasses.replace(
        data,
        states=data.states[np.repeat(chosen, data.lengths + 1)],
        actions=data.actions[rows],
        rewards=data.rewards[rows],
        terminations=data.terminations[rows],
        truncations=data.truncations[rows],
        lengths=data.lengths[chosen],
    )


def transitions(data: Dataset, scaling: Scaling) -> Lesson:
    """Every state of a dataset with the action that was taken there."""
    return Lesson(
        scaling.observations_in(torch.from_numpy(data.observations)),
        scaling.actions_in(torch.from_numpy(data.actions)),
        scaling,
    )


def auc(members: NDArray[Any], others: NDArray[Any]) -> float:
    """Probability that a member's score is above another's, ties counting one half.

    Args:
        members: Scores of members `[N]`.
        others: Scores of the others `[M]`.
    """
    ordered = np.sort(others)
    # How many of the others are below each member, and how many below or equal.
    below = np.searchsorted(ordered, members, "left") + np.searchsorted(ordered, members, "right")
    return float(below.mean() / (2 * len(others)))


def nearest(points: Tensor, states: Tensor) -> Tensor:
    """Euclidean distance of each point `[N, D]` to the nearest of the states `[M, D]`: `[N]`."""
    # From differences: the distance of a point to itself is then exactly 0.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points, states, compute_mode=mode).amin(1)
