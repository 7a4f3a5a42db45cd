"""Cost of a policy from a synthetic set, and from the whole data (OBD, Table 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmark.record import Summary
from benchmark.spec import RunSpec
from paper_figures import caption
from paper_figures.figure import FigureError, check_one_cell
from paper_figures.table import NOTHING, Cell, Table, estimate_cell
from results.comparison import published_training_steps
from results.labels import dataset_order
from results.statistics import Estimate, mean

WHOLE, SET = "bc_whole", "av_pbc"


def training_cost(
    records: Sequence[Summary], asked: Sequence[RunSpec] = (), *, seed: int = 0
) -> Table:
    """Compare gradient steps and score of BC on the whole data and of students on a set.

    One row per dataset. A gradient step is of 256 transitions on the whole data and of all pairs on
    a set, as in the paper.

    Args:
        records: Records, some of them complete ones of `bc_whole` and `av_pbc`.
        asked: Runs that were asked for; of those without a record it is said how many there are.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: No dataset has complete runs of both, or one of them has several cells there.
    """
    found: dict[str, dict[str, list[Summary]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        found[record.spec.dataset][record.spec.method].append(record)
    both = {
        name: {m: _complete(found[name][m], f"{m} on {name}") for m in (WHOLE, SET)}
        for name in sorted(found, key=dataset_order)
    }
    lacking = [name for name, cells in both.items() if not all(cells.values())]
    both = {name: cells for name, cells in both.items() if name not in lacking}
    if not both:
        raise FigureError(f"No dataset has complete runs of {WHOLE} and of {SET}.")
    failed = sum(
        record.status != "complete" and record.spec.method in (WHOLE, SET) for record in records
    )
    recorded = {record.run_id for record in records}
    absent = sum(run.run_id not in recorded and run.method in (WHOLE, SET) for run in asked)
    counts = ((failed, "failed"), (absent, "without a record"))
    short = ", ".join(f"{count} {what}" for count, what in counts if count)
    without = f"Without complete runs of both: {', '.join(lacking)}. " if lacking else ""
    rows, data = [], []
    means: list[Estimate] = []
    for dataset, cells in both.items():
        whole, small = cells[WHOLE], cells[SET]
        steps = whole[0].parameters["steps"]
        few = small[0].spec.scoring_student.steps
        published = published_training_steps(dataset)
        scores = {
            name: mean([record.mean_score.normalized_return for record in cells[name]], seed=seed)
            for name in (WHOLE, SET)
        }
        means += scores.values()
        seconds = float(np.mean([record.cost.cpu_seconds for record in whole]))
        rows.append(
            (
                Cell(dataset),
                Cell(f"{steps:,}"),
                Cell(f"{seconds:.1f}"),
                _score(scores[WHOLE]),
                Cell(str(small[0].parameters["synthetic_size"])),
                Cell(f"{few:,}"),
                _score(scores[SET]),
                Cell(f"{steps / few:,.0f}"),
                Cell(f"{published[0]:,} / {published[1]:,}" if published else NOTHING),
            )
        )
        data.append(
            {"dataset": dataset, "whole_steps": steps, "whole_seconds": seconds,
             "whole_score": scores[WHOLE].value, "set_steps": few, "set_score": scores[SET].value,
             "published_whole_steps": published[0] if published else None,
             "published_set_steps": published[1] if published else None}
        )  # fmt: skip
    return Table(
        columns=("dataset", "steps, whole data", "seconds", "score", "pairs", "steps, set", "score",
                 "ratio of steps", "published steps, whole / set"),
        groups=(tuple(rows),),
        caption=f"Gradient steps to a policy: behavioural cloning of the whole data ({WHOLE}) and "
        f"of a synthetic set ({SET}); scores over {caption.seeds(one.n for one in means)}"
        f"{caption.spread(' with', 'interval', means)}. "
        f"{f'Runs left out: {short}. ' if short else ''}"
        f"{without}"
        f"Seconds are processor time of one thread. Steps here are those that the sweep gave, in "
        f"the paper those until convergence, on D4RL's dataset of the same name. Making the set "
        f"is not counted, as in the paper; the main table has it.",
        alignment="lrrrrrrrr",
        data=pd.DataFrame(data),
    )  # fmt: skip


def _complete(records: Sequence[Summary], of: str) -> list[Summary]:
    check_one_cell((record.cell_id for record in records), of)
    return [record for record in records if record.status == "complete"]


def _score(found: Estimate) -> Cell:
    return estimate_cell(found.value, found.low, found.high)
