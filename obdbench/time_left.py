"""How much of a sweep's work is done, where its runs differ in what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmark.record import Summary
from benchmark.spec import RunSpec


def share_done(
    runs: Sequence[RunSpec],
    before: Mapping[str, float],
    now: Mapping[str, float],
    records: Sequence[Summary],
) -> float:
    """Share of the seconds of these runs that are spent, by what runs of their cells took.

    A run of a cell without a record counts as much as the mean of the other cells.

    Args:
        runs: The runs that were to be done.
        before: How far each was when the work began, by run id; 0 where left out.
        now: How far each is; 1 for one that is done or failed.
        records: Records of the sweep, those of earlier sessions included.

    Returns:
        0 to 1.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.status == "complete":
            cost = record.cost
            # What only scored another run's sets notes that run's distillation as its own.
            distillation = cost.cpu_seconds if record.sets_of is None else 0.0
            seconds[record.cell_id].append(distillation + cost.evaluation_wall_seconds)
    cells = {run.cell_id for run in runs}
    means = {cell: fmean(each) for cell, each in seconds.items() if cell in cells}
    known = {cell: mean for cell, mean in means.items() if mean > 0.0}
    unknown = fmean(known.values()) if known else 1.0
    spent = in_all = 0.0
    for run in runs:
        weight, begun = known.get(run.cell_id, unknown), before.get(run.run_id, 0.0)
        in_all += weight * (1.0 - begun)
        spent += weight * max(now.get(run.run_id, 0.0) - begun, 0.0)
    return spent / in_all if in_all else 1.0
