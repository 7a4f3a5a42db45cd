"""Stand-ins for D4RL's locomotion data: states with the same first two moments, played here.

PBC, Av-PBC and SDW-OBD read nothing of a dataset but its states; labels and action values come from
the teacher. So where D4RL's files are not at hand, states of other policies serve, if they are
spread alike: the teachers that OBD's authors published and the suite's snapshots, with noise, each
with a share of the transitions (`standin_shares.py` fits the shares). Nothing here is D4RL's data,
and a verdict on a stand-in is "like", never "reproduced".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.collect import Part, collect
from benchmark.datasets.d4rl_facts import (
    d4rl_environment,
    d4rl_reference,
    statistics_differences,
)
from benchmark.datasets.dataset import Dataset, DatasetProblem, OnProgress
from benchmark.datasets.snapshots import SnapshotPolicies, load_snapshots
from benchmark.datasets.source import STAND_IN, DatasetFamily, DatasetSource
from benchmark.errors import did_you_mean
from benchmark.registry import UnknownName

if TYPE_CHECKING:  # names are parsed by commands that need not wait for torch
    from benchmark.teachers.teacher import NetworkTeacher

SHARES = "standin_shares.json"
LARGEST_DIFFERENCE = 0.1
"""Largest accepted difference from the published moments in any dimension: in standard deviations
of the mean, and as a share of the standard deviation."""
SLOTS = 64
OWN_NOISE: Literal["own"] = "own"


@dataclass(frozen=True)
class Player:
    """One policy of a mixture.

    Args:
        kind: "teacher", one that OBD's authors published, or "snapshot", one of the suite's.
        which: Dataset of the teacher, e.g. "hopper-medium-v2", or index of the snapshot.
        noise: Standard deviation of the Gaussian noise on the teacher's deterministic action, which
            is clipped afterwards; "own" samples the policy's own distribution.
    """

    kind: Literal["teacher", "snapshot"]
    which: str | int
    noise: float | Literal["own"]


class Players:
    """Players of one environment that act side by side (see `collect.ActingPolicies`).

    Args:
        dataset: Name of a D4RL dataset, e.g. "hopper-medium-v2", whose environment they play in.
        players: Policies by index.

    Raises:
        TeacherProblem: A teacher was not imported.
    """

    def __init__(self, dataset: str, players: Sequence[Player]) -> None:
        self.env_id, self.reference = d4rl_environment(dataset), d4rl_reference(dataset)
        self.players = players
        self.snapshots: SnapshotPolicies = load_snapshots(dataset.partition("-")[0])
        named = {str(player.which) for player in players if player.kind == "teacher"}
        self.teachers = {name: _ArrayActor(_imported(name)) for name in sorted(named)}

    @property
    def action_dim(self) -> int:
        return self.snapshots.action_dim

    def act(
        self,
        policies: NDArray[np.int64],
        observations: NDArray[np.float64],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Actions `[B, act_dim]` in -1 to 1; a row's does not depend on its neighbours."""
        actions = np.empty((len(policies), self.action_dim), dtype=np.float32)
        for index in np.unique(policies):
            player, rows = self.players[index], policies == index
            seen, drawn = observations[rows].astype(np.float32), noise[rows]
            if player.kind == "teacher":
                actions[rows] = self.teachers[str(player.which)].act(seen, drawn, player.noise)
            else:
                which = np.full(len(seen), player.which, dtype=np.int64)
                actions[rows] = self.snapshots.act(which, seen, drawn if player.noise else None)
        return actions


class _ArrayActor:
    """A teacher's actor in NumPy, row by row, so that an action is the same in every batch."""

    def __init__(self, teacher: NetworkTeacher) -> None:
        self.layers = [(weight.numpy(), bias.numpy()) for weight, bias in teacher.actor]
        self.mean, self.std = teacher.observation_mean.numpy(), teacher.observation_std.numpy()
        self.multiplier = np.float32(teacher.log_std_multiplier)
        self.offset = np.float32(teacher.log_std_offset)

    def act(
        self,
        observations: NDArray[np.float32],
        drawn: NDArray[np.float32],
        noise: float | Literal["own"],
    ) -> NDArray[np.float32]:
        hidden = ((observations - self.mean) / self.std)[:, :, None]
        for place, (weight, bias) in enumerate(self.layers):
            hidden = np.matmul(weight, hidden) + bias[:, None]  # a product per row
            if place + 1 < len(self.layers):
                hidden = hidden.clip(min=0)
        mean, raw = np.split(hidden[:, :, 0], 2, axis=1)
        if noise == OWN_NOISE:
            log_std = (self.multiplier * raw + self.offset).clip(-20, 2)
            sampled: NDArray[np.float32] = np.tanh(mean + np.exp(log_std) * drawn)
            return sampled
        noisy: NDArray[np.float32] = (np.tanh(mean) + np.float32(noise) * drawn).clip(-1, 1)
        return noisy


def _imported(dataset: str) -> NetworkTeacher:
    from benchmark.teachers.teacher import TeacherProblem
    from benchmark.teachers.teacher_files import imported_path, load_teacher

    path = imported_path(f"d4rl/{dataset}")
    if not path.is_file():
        raise TeacherProblem(
            f"Stand-ins for D4RL are played by the teachers that OBD's authors published; that of "
            f"{dataset} was not imported. Import it from your clone of their repository: "
            f"obdbench artefacts import obd FOLDER, or obdbench teacher import FILE.pt --dataset "
            f"d4rl/{dataset}."
        )
    return load_teacher(path)


@dataclass(frozen=True)
class StandIn(DatasetSource):
    """A mixture of players whose states have the moments of one of D4RL's datasets.

    Args:
        dataset: Name of the D4RL dataset, e.g. "hopper-medium-v2".
        description: One sentence.
    """

    dataset: str
    description: str
    default_size: int = 400_000

    @property
    def environment_id(self) -> str | None:
        return d4rl_environment(self.dataset)

    @property
    def mixture(self) -> dict[Player, float]:
        """Players with their shares of the transitions, which sum to 1, but for rounding."""
        return {
            Player(kind, which, noise): share
            for kind, which, noise, share in _shares()[self.dataset]
        }

    def check(self, name: str) -> int | None:
        Players(self.dataset, list(self.mixture))
        return None

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        """Play the mixture.

        Raises:
            TeacherProblem: A teacher was not imported.
            DatasetProblem: The moments are further from the published ones than is accepted.
        """
        size, mixture = size or self.default_size, self.mixture
        upto = np.cumsum([0.0, *mixture.values()])
        upto = np.round(size * upto / upto[-1]).astype(int)  # shares are rounded
        parts = [Part(place, int(n)) for place, n in enumerate(np.diff(upto)) if n]
        players = Players(self.dataset, list(mixture))
        dataset = collect(
            name, players, parts, seed=seed, slots=SLOTS, threads=threads, progress=progress
        )
        return accepted(dataset, self.dataset)


def accepted(dataset: Dataset, standing_for: str) -> Dataset:
    """Note how far the moments of a stand-in are from the published ones.

    Raises:
        DatasetProblem: They are further away than is accepted.
    """
    differences = statistics_differences(dataset, standing_for)
    if max(differences.values()) > LARGEST_DIFFERENCE:
        raise DatasetProblem(
            f"{dataset.name} does not stand in for {standing_for}: observations differ from the "
            f"published moments by up to {differences['mean']:.2g} standard deviations in the mean "
            f"and {100 * differences['sd']:.2g} % in the standard deviation, expected at most "
            f"{LARGEST_DIFFERENCE:g} and {100 * LARGEST_DIFFERENCE:g} %. Few transitions are few "
            f"episodes: ask for more than {len(dataset):,}."
        )
    facts = {"stands_in_for": f"d4rl/{standing_for}", "statistics_differences": differences}
    return replace(dataset, provenance={**dataset.provenance, **facts})


class StandIns(DatasetFamily):
    """Stand-ins for D4RL's datasets, as far as shares were fitted."""

    description = "states with the moments of D4RL's data, played by published teachers"

    def names(self) -> list[str]:
        return [STAND_IN + name for name in _shares()]

    def source(self, name: str) -> DatasetSource:
        if name not in self.names():
            raise UnknownName(f"No dataset is called {name!r}. {did_you_mean(name, self.names())}")
        dataset = name.removeprefix(STAND_IN)
        said = f"{d4rl_environment(dataset)}: a stand-in for D4RL's {dataset}, not its data"
        return StandIn(dataset, said)


def _shares() -> dict[str, list[tuple[Any, Any, Any, float]]]:
    text = resources.files("benchmark.datasets").joinpath(SHARES).read_text("utf-8")
    return {name: [tuple(row) for row in rows] for name, rows in json.loads(text).items()}


FAMILY = StandIns()
