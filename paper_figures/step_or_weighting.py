"""Step or weighting: what of Av-PBC's gain over PBC comes from which of the two."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from paper_figures import caption
from paper_figures.figure import FigureError, check_one_cell
from paper_figures.table import Cell, Table, estimate_cell
from results.labels import dataset_order
from results.statistics import Estimate, mean, stratified

ROWS = ("pbc", "pbc_scaled", "av_pbc_mean_one", "av_pbc")
EFFECTS = {
    "step": ("pbc_scaled", "pbc"),
    "weighting": ("av_pbc_mean_one", "pbc"),
    "both": ("av_pbc", "pbc"),
    "weighting at its step": ("av_pbc", "pbc_scaled"),
}
"""Each effect as the method with it and the one without."""
ALL = "mean over datasets"
SINGLE = " Without interval: a single seed on the dataset, or on one of those of the mean."


def step_or_weighting(runs: pd.DataFrame) -> Table:
    """One row per dataset: the four methods of the 2 x 2, and their differences seed by seed.

    Args:
        runs: What `results.runs_frame` gives. Datasets on which the four have no common seed are
            left out, and the caption names them, and the methods of which runs failed or are
            missing.

    Raises:
        FigureError: There is no such dataset, or a method has several cells on one.
    """
    scores = {str(dataset): _common_seeds(found) for dataset, found in runs.groupby("dataset")}
    present = {
        dataset: scores[dataset] for dataset in sorted(scores, key=dataset_order)
        if len(scores[dataset])
    }  # fmt: skip
    if not present:
        raise FigureError(
            f"On no dataset have {', '.join(ROWS)} a complete run of the same seed; the sweep "
            f"step_or_weighting makes them."
        )
    counts = [len(found) for found in present.values()]
    data, rows = [], []
    drawn: list[Estimate] = []
    for dataset, values in (*_each(present), *([_all(present)] if len(present) > 1 else [])):
        cells = [Cell(dataset), *(Cell(f"{values[name].value:.1f}") for name in ROWS)]
        for name in EFFECTS:
            found = values[name]
            drawn.append(found)
            cells.append(estimate_cell(found.value, found.low, found.high))
        rows.append(tuple(cells))
        data.append({"dataset": dataset} | {
            f"{name}{end}": getattr(found, field)
            for name, found in values.items()
            for end, field in (("", "value"), (" low", "low"), (" high", "high"))
        })  # fmt: skip
    return Table(
        columns=("dataset", *ROWS, *EFFECTS),
        groups=(tuple(rows),),
        caption=f"Normalized return over {caption.seeds(counts)}, and differences seed by seed"
        f"{caption.spread(' with', 'interval', drawn)}. pbc_scaled moves its pairs at "
        f"Av-PBC's step without its weighting, av_pbc_mean_one weights as Av-PBC does at PBC's "
        f"step. Step: pbc_scaled less pbc; weighting: av_pbc_mean_one less pbc; both: av_pbc less "
        f"pbc; weighting at its step: av_pbc less pbc_scaled.{SINGLE * (min(counts) == 1)}"
        f"{_notes(runs, present)}",
        alignment="l" + "r" * (len(ROWS) + len(EFFECTS)),
        data=pd.DataFrame(data),
    )


def _notes(runs: pd.DataFrame, present: Collection[str]) -> str:
    """Name datasets that are not shown, settings that differ, and failed or missing runs."""
    runs = runs[runs["method"].isin(ROWS)]
    absent = sorted(set(runs["dataset"]).difference(present), key=dataset_order)
    sentences = (
        caption.settings_of_datasets(runs[runs["dataset"].isin(present)]),
        f"Left out, as the four have no seed in common: {', '.join(absent)}." if absent else "",
        caption.short_of_runs(runs),
    )
    return "".join(f" {sentence}" for sentence in sentences if sentence)


def _common_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Scores of the four methods, one row per seed that all of them have."""
    complete = runs[(runs["status"] == "complete") & runs["method"].isin(ROWS)]
    for (method, dataset), rows in complete.groupby(["method", "dataset"]):
        check_one_cell(rows["cell_id"], f"{method} on {dataset}")
    found = complete.pivot(index="seed", columns="method", values="normalized_return")
    return found.reindex(columns=list(ROWS)).dropna()


def _each(scores: Mapping[str, pd.DataFrame]) -> list[tuple[str, dict[str, Estimate]]]:
    return [
        (
            dataset,
            {name: mean(list(found[name])) for name in ROWS}
            | {name: mean(list(found[x] - found[y])) for name, (x, y) in EFFECTS.items()},
        )
        for dataset, found in scores.items()
    ]


def _all(scores: Mapping[str, pd.DataFrame]) -> tuple[str, dict[str, Estimate]]:
    def over(column: str, less: str | None = None) -> Estimate:
        return stratified(
            {
                dataset: list(found[column] - (found[less] if less else 0.0))
                for dataset, found in scores.items()
            }
        )

    methods = {name: over(name) for name in ROWS}
    return ALL, methods | {name: over(x, y) for name, (x, y) in EFFECTS.items()}
