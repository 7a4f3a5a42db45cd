"""Which jobs a list of runs becomes: packs of the same shape, in arrays that the cluster takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmark.packing import Pack, make_packs
from benchmark.spec import RunSpec
from slurm.profile import JobShape, Profile


@dataclass(frozen=True)
class Array:
    """Jobs that are submitted in one piece.

    Args:
        shape: What each asks for.
        jobs: The runs of each.
        parallelism: Most of them at a time.
    """

    shape: JobShape
    jobs: tuple[Pack, ...]
    parallelism: int

    @property
    def runs(self) -> list[RunSpec]:
        """The runs of all jobs."""
        return [run for job in self.jobs for run in job]


def make_arrays(runs: Sequence[RunSpec], profile: Profile, max_array_size: int) -> list[Array]:
    """The arrays of a list of runs.

    Every run is in one job; jobs of the same shape share arrays; arrays that work side by side
    share the profile's parallelism by their sizes, each at least one job.

    Args:
        runs: In the order in which they are to begin.
        profile: Says what jobs ask for.
        max_array_size: Most jobs of an array.
    """
    shapes: dict[str, tuple[JobShape, list[RunSpec]]] = {}
    for run in runs:
        shape = profile.of(run.method)
        shapes.setdefault(json.dumps(asdict(shape), sort_keys=True), (shape, []))[1].append(run)
    pieces: list[tuple[JobShape, list[Pack]]] = []
    for shape, group in shapes.values():
        packs = make_packs(group, shape.pack)
        starts = range(0, len(packs), max_array_size)
        pieces += [(shape, packs[start : start + max_array_size]) for start in starts]
    jobs = sum(len(packs) for _, packs in pieces)
    return [
        Array(shape, tuple(packs), max(1, profile.parallelism * len(packs) // jobs))
        for shape, packs in pieces
    ]
