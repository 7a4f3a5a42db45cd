"""Any method on a part of the data: the least useful transitions are pruned before it distils.

Source: Distill Gold from Massive Ores (BiLP, ECCV 2024, arXiv 2305.18381) and its code: of every
class the samples of most utility are kept; dropped are those of large loss, early in a training or
after it, or those of small Monte-Carlo utility.

Policies have no classes: here the groups are cells of states by k-means, or time steps. The loss is
that of behavioural cloning. The scaling of observations, the teacher and log densities stay those
of the whole dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.data_part import ProblemOnPart
from baselines.matching import BCLoss, Clones, require_plain
from baselines.selection import BLOCK, require_available
from baselines.selection_by_coverage import lloyd_step, nearest_centres, seed_clusters
from benchmark.config import build
from benchmark.method import METHODS, BadParameter, Method, Monitor, Problem, require_positive
from benchmark.students.spec import StudentSpec
from benchmark.work import Priced

LLOYD_STEPS = 5


@dataclass(frozen=True)
class Pruned(Method):
    """A method on the transitions of a dataset that are of the most use.

    Args:
        method: Registered name of the method that distils.
        synthetic_size: Pairs of its set.
        outer_steps: Its outer steps; None leaves it its default.
        fraction: Share of the transitions to keep, rounded to whole ones; 1 is the method itself.
        criterion: What is kept: the smallest "early_loss" or "late_loss" of probe students, the
            largest "utility", how much better probes become by learning from a transition, or
            "random" ones.
        groups: Groups of which each keeps its share: a "cell" of states, a "time_step" of
            episodes, or "none" for all transitions as one.
        cells: Number of cells.
        probes: Students that the losses are means over; for "utility" 2 or more, each of which
            learns from a random half of the transitions.
        early_steps: Gradient steps of the probes for "early_loss".
        late_steps: Gradient steps of the probes for "late_loss" and "utility".
        probe_batch: Transitions per minibatch of the probes.
    """

    tiny: ClassVar[Mapping[str, int]] = {
        "cells": 4, "probes": 2, "early_steps": 2, "late_steps": 3, "probe_batch": 8,
    }  # fmt: skip
    method: str = "av_pbc"
    synthetic_size: int = 256
    outer_steps: int | None = None
    fraction: float = 0.1
    criterion: Literal["early_loss", "late_loss", "utility", "random"] = "early_loss"
    groups: Literal["cell", "time_step", "none"] = "cell"
    cells: int = 100
    probes: int = 8
    early_steps: int = 100
    late_steps: int = 1000
    probe_batch: int = 256

    def __post_init__(self) -> None:
        require_positive(self, "synthetic_size", *self.tiny)
        if not 0 < self.fraction <= 1:
            raise BadParameter(f"fraction is {self.fraction}; expected more than 0, at most 1.")
        if self.criterion == "utility" and self.probes < 2:
            raise BadParameter(
                f'probes is {self.probes}; expected 2 or more for criterion = "utility", '
                f"which compares probes that learned from a transition with those that did not."
            )
        inner = METHODS[self.method]
        sized = any(field.name == "synthetic_size" for field in fields(inner))
        if not sized or "dataset" not in inner.needs or isinstance(inner, Pruned):
            raise BadParameter(
                f"method is {self.method!r}; expected one that distils sets from a dataset, such "
                f'as "av_pbc" or "random".'
            )
        _ = self.inner  # refuses hyper-parameters that it cannot have

    @property
    def inner(self) -> Method:
        """The method that distils, with its hyper-parameters."""
        given: dict[str, Any] = {"synthetic_size": self.synthetic_size}
        if self.outer_steps is not None:
            given["outer_steps"] = self.outer_steps
        return build(METHODS[self.method], given, f"the parameters of {self.method}")

    @property
    def version(self) -> int:  # type: ignore[override]
        """The version of the method that distils, whose numbers a run has."""
        return self.inner.version

    @property
    def total_outer_steps(self) -> int:
        """The outer steps of the method that distils."""
        return self.inner.total_outer_steps

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The needs of the method that distils, a dataset among them."""
        return self.inner.needs

    @property
    def own_student(self) -> StudentSpec:
        """The student of the method that distils."""
        return self.inner.own_student

    def student_for(self, student: StudentSpec) -> StudentSpec:
        """The student of the method that distils."""
        return self.inner.student_for(student)

    def require_student(self, student: StudentSpec) -> None:
        """A student of the method that distils, and, where there are probes, one of theirs."""
        self.inner.require_student(student)
        if self.criterion != "random" and self.fraction < 1:
            require_plain(self, student)

    def engine(self, device: str) -> str:
        """The engine of the method that distils."""
        return self.inner.engine(device)

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced | None:
        """The work of the method that distils; that of the probes is not counted."""
        return self.inner.work(observation_dim, action_dim, student)

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Prune, then distil; a resumed run prunes again, to the same transitions."""
        require_available(problem, self.synthetic_size)
        if self.fraction < 1:
            self.require_student(problem.student)
            problem = ProblemOnPart(problem, self.inner.needs, self.kept(problem))
        monitor.note(kept_transitions=len(problem.dataset))
        self.inner.distill(problem, monitor)

    def kept(self, problem: Problem) -> NDArray[np.int64]:
        """Rows of the dataset to keep, ascending."""
        chance = torch.rand(len(problem.dataset), generator=problem.generator("pruning")).numpy()
        cost = chance if self.criterion == "random" else self._costs(problem).numpy()
        # The place of each transition in its group, as a share of the group: the same share of
        # every group is below any threshold, and all groups together keep exactly the fraction.
        group = self._groups(problem)
        order = np.lexsort((chance, cost, group))
        sizes = np.bincount(group)
        place = np.empty(len(group))
        place[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        share = (place + 0.5) / sizes[group]
        count = max(1, round(self.fraction * len(group)))
        return np.sort(np.lexsort((chance, share))[:count])

    def _groups(self, problem: Problem) -> NDArray[np.int64]:
        """Group of each transition `[M]`, from 0."""
        if self.groups == "none":
            return np.zeros(len(problem.dataset), dtype=np.int64)
        if self.groups == "time_step":
            return problem.dataset.timesteps
        points = problem.observations
        count = min(self.cells, len(points))
        centres = points[seed_clusters(points, count, problem.generator("cells"))]
        for _ in range(LLOYD_STEPS):
            centres = lloyd_step(points, centres)
        cells: NDArray[np.int64] = nearest_centres(points, centres).numpy()
        return cells

    def _costs(self, problem: Problem) -> Tensor:
        """What counts against each transition `[M]`: its loss, or less than no utility."""
        generator = problem.generator("probes")
        states, actions = problem.observations, problem.actions
        halves = torch.ones(self.probes, len(states), dtype=torch.bool)
        if self.criterion == "utility":
            halves = torch.rand(halves.shape, generator=generator) < 0.5
        if not bool(halves.any(1).all()):
            raise BadParameter(
                f"A random half of the {len(states)} transitions of {problem.dataset.name}, from "
                f'which a probe was to learn for criterion = "utility", holds none. Take more '
                f'data, or criterion = "late_loss".'
            )
        rows = [half.nonzero()[:, 0] for half in halves]
        probes = Clones(problem, BCLoss(problem, generator), self.probes)
        for _ in range(self.early_steps if self.criterion == "early_loss" else self.late_steps):
            chosen = torch.stack([
                own[torch.randint(len(own), (self.probe_batch,), generator=generator)]
                for own in rows
            ])  # fmt: skip
            probes.learn(states[chosen].to(problem.device), actions[chosen].to(problem.device))
        blocks = zip(torch.split(states, BLOCK), torch.split(actions, BLOCK), strict=True)
        losses = torch.cat([probes.mode_losses(*block) for block in blocks], dim=1)  # [P, M]
        if self.criterion != "utility":
            return losses.mean(0)
        # Covariance of a transition's presence with the probe's loss on all data: below 0 where
        # probes that learned from it are better.
        of_probe = losses.mean(1)
        return (halves.float() - 0.5).T @ (of_probe - of_probe.mean())
