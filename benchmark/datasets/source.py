"""What a dataset entry of the registry is: a name, and a way to build it on this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from benchmark.datasets.collect import Part, Progress, collect
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.snapshots import SnapshotPolicies, load_snapshots
from benchmark.registry import Registry


class DatasetSource(ABC):
    """A dataset that can be built locally.

    Attributes:
        description: One sentence for `obdbench data list`.
        default_size: Transitions when no size is asked for.
    """

    description: str
    default_size: int

    @abstractmethod
    def build(
        self, name: str, size: int, seed: int, threads: int, progress: Progress | None
    ) -> Dataset:
        """Makes the dataset, deterministically: same name, size and seed, same content."""


DATASETS: Registry[DatasetSource] = Registry(
    "dataset", "obdbench.datasets", DatasetSource, entries="instances"
)


@dataclass(frozen=True)
class SnapshotMixture(DatasetSource):
    """Episodes with sampled actions of shipped policy snapshots.

    Args:
        environment: Name of the shipped snapshots, e.g. `hopper`.
        description: One sentence.
        shares: Gives each snapshot its share of the transitions; the shares sum to 1.
    """

    environment: str
    description: str
    shares: Callable[[SnapshotPolicies], dict[int, float]]
    default_size: int = 200_000

    def build(
        self, name: str, size: int, seed: int, threads: int, progress: Progress | None
    ) -> Dataset:
        policies = load_snapshots(self.environment)
        parts = _apportion(self.shares(policies), size)
        # Every slot plays its episode to the end: more slots than the data has episodes are waste.
        slots = min(64, 1 + size // 1000)
        return collect(
            name, policies, parts, seed=seed, slots=slots, threads=threads, progress=progress
        )


def replay(policies: SnapshotPolicies) -> dict[int, float]:
    """Equal shares of the snapshots up to the medium policy, equally spaced in training."""
    return {snapshot: 1 / len(policies.replay) for snapshot in policies.replay}


def medium(policies: SnapshotPolicies) -> dict[int, float]:
    """The medium policy alone."""
    return {policies.medium: 1.0}


def medium_expert(policies: SnapshotPolicies) -> dict[int, float]:
    """Half the medium policy, half the best snapshot."""
    return {policies.medium: 0.5, policies.best: 0.5}


def _apportion(shares: dict[int, float], size: int) -> list[Part]:
    """Whole numbers of transitions in these shares that sum to `size`."""
    parts, given, total = [], 0, 0.0
    for snapshot, share in shares.items():
        total += share
        upto = round(size * total)
        parts.append(Part(snapshot, upto - given))
        given = upto
    return parts


HOPPER_MEDIUM_REPLAY = SnapshotMixture(
    "hopper", "Hopper-v5: the PPO snapshots up to the medium policy, in training proportion", replay
)
HOPPER_MEDIUM = SnapshotMixture(
    "hopper", "Hopper-v5: the medium policy (about 45 % of the best)", medium
)
HOPPER_MEDIUM_EXPERT = SnapshotMixture(
    "hopper", "Hopper-v5: half the medium policy, half the best snapshot", medium_expert
)
