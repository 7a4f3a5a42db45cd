"""Score against the number of synthetic pairs (OBD, Table 5), one panel a dataset."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paper_figures import caption
from paper_figures.figure import SETTINGS, FigureError, canvas, quiet
from results.statistics import LEVEL, mean

PANEL_INCHES = (3.3, 2.6)


def sizes(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Mean over seeds with its interval, a line a method.

    Args:
        runs: What `results.runs_frame` gives.
        seed: Of the bootstrap.

    Raises:
        FigureError: No method has complete runs at two sizes.
    """
    complete = runs[(runs["status"] == "complete") & runs["synthetic_size"].notna()]
    several = complete.groupby("method")["synthetic_size"].nunique()
    methods = sorted(several[several > 1].index)
    if not methods:
        raise FigureError("No method has complete runs at two synthetic sizes or more.")
    complete = complete[complete["method"].isin(methods)]
    mixed = complete.groupby(["method", "dataset", "synthetic_size"])["cell_id"].nunique()
    if (mixed > 1).any():
        method, dataset, size = mixed[mixed > 1].index[0]
        raise FigureError(
            f"{method} on {dataset} has several cells of {size} pairs, which differ in something "
            f"else; a curve over sizes needs one. Give it a sweep of one student and protocol."
        )
    failed = runs[(runs["status"] != "complete") & runs["method"].isin(methods)]
    datasets = sorted(set(complete["dataset"]))
    with mpl.rc_context(SETTINGS):
        figure = canvas(PANEL_INCHES[0] * max(len(datasets), 1) + 1.2, PANEL_INCHES[1] + 0.5)
        palette = sns.color_palette("colorblind", len(methods))
        for place, dataset in enumerate(datasets, start=1):
            axes = figure.add_subplot(1, len(datasets), place)
            for method, color in zip(methods, palette, strict=True):
                mine = complete[(complete["method"] == method) & (complete["dataset"] == dataset)]
                found = {
                    int(size): mean(list(rows["normalized_return"]), seed=seed)
                    for size, rows in mine.groupby("synthetic_size", sort=True)
                }
                axes.plot(
                    list(found), [e.value for e in found.values()], "o-", color=color,
                    label=method, markersize=3, linewidth=1.2,
                )  # fmt: skip
                low = [e.low for e in found.values()]
                high = [e.high for e in found.values()]
                axes.fill_between(list(found), low, high, color=color, alpha=0.15, linewidth=0)
            axes.set_xscale("log", base=2)
            ticks = sorted({int(size) for size in complete["synthetic_size"]})
            axes.set_xticks(ticks, [str(size) for size in ticks])
            axes.set(xlabel="synthetic pairs", ylabel="normalized return", title=dataset)
            quiet(axes)
        axes.legend(frameon=False)
        seeds = complete.groupby(["dataset", "label"])["seed"].nunique()
        left_out = f"; {len(failed)} failed runs left out" if len(failed) else ""
        figure.suptitle(
            f"Mean over {caption.seeds(seeds)} with {caption.percent(LEVEL)} bootstrap band"
            f"{left_out}",
            fontsize=8,
        )
    return figure
