"""Packs: runs of a sweep that are distilled together, as one batch of products."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from benchmark.spec import RunSpec

if TYPE_CHECKING:  # commands only want the default
    from benchmark.method import Method

PACK_ON_CPU, PACK_ON_GPU = 8, 128
"""Largest packs by default: more no longer save time on a CPU; of those on a GPU a method advances
as many at a time as its memory holds (`baselines.device_memory`)."""

Pack = list[RunSpec]
"""Runs for `benchmark.run.execute`; most packs hold one run."""


def default_pack(device: str) -> int:
    """The largest pack where none is asked for."""
    return PACK_ON_CPU if device == "cpu" else PACK_ON_GPU


def make_packs(runs: Sequence[RunSpec], largest: int, workers: int = 1) -> list[Pack]:
    """Group runs of the same dataset and student whose methods can be packed.

    Runs that distil the same sets are in one pack, which distils them once.

    Args:
        runs: Runs in the order of a sweep.
        largest: Largest number of distillations in a pack; 1 packs nothing.
        workers: Number of processes; a group is split so that each can take a part.

    Returns:
        Packs that hold every run once, in the order of their first runs.
    """
    groups: dict[Hashable, dict[str, Pack]] = {}
    for run in runs:
        groups.setdefault(_key(run), {}).setdefault(distils(run), []).append(run)
    packs: list[Pack] = []
    for group in map(list, map(dict.values, groups.values())):
        pieces = min(len(group), max(workers, -(-len(group) // largest)))
        packs.extend(list(chain(*group[start::pieces])) for start in range(pieces))
    order = {run.run_id: index for index, run in enumerate(runs)}
    return sorted(packs, key=lambda pack: order[pack[0].run_id])


def _key(run: RunSpec) -> Hashable:
    method = run.method_instance
    key = method.pack_key()
    if key is None or _only_distill_is_its_own(type(method)):
        return distils(run)
    return (type(method).distill_packed.__func__, key, run.student, run.dataset)  # type: ignore[attr-defined]


def distils(run: RunSpec) -> str:
    """What runs of the same sets have in common; a reference has a policy, and shares none."""
    return run.run_id if run.method_instance.reference else run.distillation_id


def _only_distill_is_its_own(method: type[Method]) -> bool:
    """Whether a method changes `distill` of a class that can be packed, but not `distill_packed`.

    A pack would then not do what the method says.
    """
    for cls in method.__mro__:
        if "distill_packed" in vars(cls):
            return False
        if "distill" in vars(cls):
            return True
    return False
