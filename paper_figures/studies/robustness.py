"""Robustness: what is left of a return where observations, actions or physics are disturbed.

Policies are those of finished runs, the students of a set or the teacher, and play the episodes of
their record; the undisturbed ones have its returns. Sizes of noise and attack on observations are
in the units that students see, standard deviations of the dataset; those on actions in the unit
box.

The attack is one step of signed gradients (FGSM, arXiv 1412.6572) up the squared change of the
action, the maximal action difference of arXiv 2003.08938. Its gradient is zero at the observation
itself, so that it is taken at a random point of the box that the attack may move in, as in arXiv
2001.03994.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.references import TeacherPolicy
from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.source import DatasetName
from benchmark.environments.lookup import action_space
from benchmark.environments.physics import UNCHANGED, Physics
from benchmark.evaluation import clones, score
from benchmark.method import Policy
from benchmark.record import FILE, Record, read_record, record_folder
from benchmark.scaling import Scaling
from benchmark.seeds import torch_generator
from benchmark.students.student import StudentPolicy
from benchmark.teachers.teacher_files import find_teacher
from paper_figures.studies.study import (
    NothingToStudy,
    Row,
    Study,
    finished_set,
    last_axes,
    runs_by_cell,
    source_of,
)

Kind = Literal["none", "observation noise", "attack", "action noise", "mass", "friction"]


@dataclass(frozen=True)
class Robustness(Study):
    """Normalized returns of students of finished sets, and of the teacher, under disturbances.

    Args:
        sweeps: Sweeps whose runs are measured.
        datasets: Datasets of these runs.
        methods: Methods of these runs.
        seeds: Number of runs per method and dataset, seeds from 0.
        observation_sizes: Standard deviations of noise on observations, and largest changes by the
            attack.
        action_sizes: Standard deviations of noise on actions, which are then cut to the box.
        masses, frictions: Factors of all masses, of all friction.
        students: Number of students per set, the first ones of the record.
        episodes: Number of episodes that each policy plays.
    """

    shows: ClassVar[str] = (
        "Return of policies of finished sets under noise, attacks and changed physics."
    )
    sweeps: tuple[str, ...] = ("main_table", "sdw_main")
    datasets: tuple[str, ...] = (
        "hopper/medium-expert", "halfcheetah/medium-expert", "walker2d/medium-expert",
    )  # fmt: skip
    methods: tuple[str, ...] = ("teacher", "random", "pbc", "av_pbc", "sdw_obd")
    seeds: int = 5
    observation_sizes: tuple[float, ...] = (0.05, 0.15, 0.45)
    action_sizes: tuple[float, ...] = (0.1, 0.3, 0.9)
    masses: tuple[float, ...] = (0.8, 1.2)
    frictions: tuple[float, ...] = (0.5, 2.0)
    students: int = 4
    episodes: int = 5

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List one item per dataset and method, with its runs."""
        runs = runs_by_cell(store, self.sweeps, self.datasets, self.methods, self.seeds)
        return {
            f"{dataset}-{method}": {"runs": [source_of(run) for run in by_seed.values()]}
            for dataset, by_method in runs.items()
            for method, by_seed in by_method.items()
            if by_seed
        }

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure the normalized return of every run under every disturbance."""
        return [row for run in source["runs"] for row in self._of_run(run, store)]

    def conditions(self) -> Iterator[tuple[Kind, float]]:
        """Yield every disturbance with its size, none first."""
        yield "none", 0.0
        kinds: tuple[tuple[Kind, tuple[float, ...]], ...] = (
            ("observation noise", self.observation_sizes),
            ("attack", self.observation_sizes),
            ("action noise", self.action_sizes),
            ("mass", self.masses),
            ("friction", self.frictions),
        )
        for kind, sizes in kinds:
            for size in sizes:
                yield kind, size

    def _of_run(self, source: Mapping[str, Any], store: Path) -> Iterator[Row]:
        record = read_record(store / record_folder(source["run"]) / FILE)
        spec, reference = record.spec, record.normalisation
        assert reference is not None, "a complete record has one"
        player = self._player(record, source, store)
        protocol = replace(spec.protocol, students=self.students, episodes=self.episodes)
        for kind, size in self.conditions():
            physics = Physics(**{kind: size}) if kind in ("mass", "friction") else UNCHANGED
            policy = player.policy
            if kind in ACTS:
                # The same numbers for every method and size, so that these are compared.
                noise = torch_generator(
                    study="robustness", dataset=spec.dataset, seed=spec.seed, kind=kind
                )
                policy = Disturbed(player, kind, size, noise)
            returns = score(
                policy,
                protocol=protocol,
                student=spec.scoring_student,
                scaling=player.scaling,
                environment=player.environment,
                axes=last_axes(record),
                physics=physics,
            ).returns
            yield {
                "dataset": spec.dataset, "method": spec.method, "seed": spec.seed,
                "kind": kind, "size": size,
                "normalized_return": float(reference.normalise(float(returns.mean()))),
            }  # fmt: skip

    def _player(self, record: Record, source: Mapping[str, Any], store: Path) -> Player:
        """The policies that a record is the score of.

        Raises:
            NothingToStudy: The teacher here is not the record's.
        """
        spec = record.spec
        if record.checkpoints[-1].synthetic_set is None:
            data = load_dataset(DatasetName.parse(spec.dataset))
            teacher: Any = find_teacher(data, spec.teacher)
            if teacher.facts["sha256"] != source["sha256"]:
                raise NothingToStudy(
                    f"{record.run_id} is the score of a teacher of sha256 "
                    f"{source['sha256'][:16]}, and {spec.teacher} of {spec.dataset} is another one "
                    f"here. Make the run again."
                )
            scaling = Scaling.of(data, action_space(data.env_id))
            return Player(TeacherPolicy(teacher, scaling), teacher.mode, scaling, data.env_id)
        found = finished_set(store, source)
        protocol = replace(spec.protocol, students=self.students)
        students = clones(
            found.pairs,
            protocol,
            spec.scoring_student,
            found.scaling,
            last_axes(record),
        )
        assert isinstance(students, StudentPolicy), "the sweeps score no ensembles"
        return Player(students, students.mode, found.scaling, found.environment)


class Player(NamedTuple):
    """Policies in their environment; `mode` gives their actions in the unit box to autograd."""

    policy: Policy
    mode: Callable[[Tensor], Tensor]
    scaling: Scaling
    environment: str


@dataclass(frozen=True)
class Disturbed:
    """Policies whose observations or actions are disturbed, for one `rollout`.

    Args:
        player: The policies.
        kind: One of `ACTS`.
        size: Size of the disturbance; 0 for none.
        noise: Generator of all numbers.
    """

    player: Player
    kind: Kind
    size: float
    noise: torch.Generator

    @property
    def count(self) -> int:
        """The number of policies P."""
        return self.player.policy.count

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute actions `[P, E, act_dim]` for raw observations `[P, E, obs_dim]`."""
        return ACTS[self.kind](self, observations)

    def on_noisy_observations(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Act on observations with normal noise."""
        drawn = torch.randn(observations.shape, generator=self.noise)
        return self.player.policy((torch.from_numpy(observations) + self._raw(drawn)).numpy())

    def on_attacked_observations(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Act on observations that are moved by `size` in every number, up the signed gradient."""
        seen = torch.from_numpy(observations)
        start = 2 * torch.rand(seen.shape, generator=self.noise) - 1
        signs = change_gradient(self.player.mode, seen, self._raw(start)).sign()
        return self.player.policy((seen + self._raw(signs)).numpy())

    def with_noisy_actions(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Act with normal noise on the actions, which stay in their bounds."""
        scaling, acted = self.player.scaling, self.player.policy(observations)
        unit = scaling.actions_in(torch.from_numpy(acted))
        drawn = torch.randn(unit.shape, generator=self.noise)
        return scaling.actions_out((unit + self.size * drawn).clamp(-1, 1)).numpy()

    def _raw(self, moved: Tensor) -> Tensor:
        """A change in units of the size `[P, E, obs_dim]`, in the environment's units."""
        return self.size * self.player.scaling.std * moved


ACTS: Mapping[str, Callable[[Disturbed, NDArray[np.float32]], NDArray[np.float32]]] = {
    "observation noise": Disturbed.on_noisy_observations,
    "attack": Disturbed.on_attacked_observations,
    "action noise": Disturbed.with_noisy_actions,
}
"""Kinds of disturbance of what a policy sees or does, and how it acts then."""


def change_gradient(mode: Callable[[Tensor], Tensor], observations: Tensor, at: Tensor) -> Tensor:
    """Gradient of the squared change of the action |mode(s + d) - mode(s)|^2 in d, at d = `at`.

    Args:
        mode: Actions in the unit box for raw observations.
        observations: Raw observations s `[P, E, obs_dim]`.
        at: Change d of the observations, of their shape.

    Returns:
        Of the shape of the observations; its signs are the same in normalised units.
    """
    moved = (observations + at).requires_grad_()
    change = (mode(moved) - mode(observations)).square().sum()
    (gradient,) = torch.autograd.grad(change, moved)
    return gradient
