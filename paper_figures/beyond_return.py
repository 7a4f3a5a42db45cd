"""What policies of sets are apart from their return: tables and figures of two studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures import caption
from paper_figures.figure import (
    SETTINGS,
    FigureError,
    band,
    canvas,
    finish,
    plain_numbers,
    quiet,
    require_rows,
)
from paper_figures.palette import NEUTRAL, look
from paper_figures.table import NOTHING, Cell, Table, estimate_cell
from results.differences import Difference, mean_difference
from results.labels import dataset_order
from results.statistics import LEVEL, Estimate, mean

CONTROL = "teacher"
"""It saw both sides: its AUC is what the draw of the members gives by chance."""
TOLD = {
    "auc": ("membership AUC", 3),
    "excess": ("less the teacher's", 3),
    "member_distance": ("to a member", 2),
    "other_distance": ("to another", 2),
    "nearer_member": ("nearer a member", 2),
}
"""What is told of members: heading and decimals."""
DRAWN_TOLD = {
    "auc": "membership AUC of the policies",
    "nearer_member": "synthetic states nearer to a member",
}
BY_CHANCE = 0.5
PANEL_INCHES = (3.4, 0.55, 0.2)
"""Width of a panel, its height without a row, and height of a row."""


def privacy_table(measured: pd.DataFrame, *, seed: int = 0) -> Table:
    """State membership AUC and distances of every method on every dataset.

    Args:
        measured: The study `privacy`'s rows.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "privacy")
    groups, data = [], []
    drawn: list[Estimate] = []
    for dataset in sorted(set(measured["dataset"]), key=dataset_order):
        rows = []
        for method in _in_order(measured):
            found = _told(measured, dataset, method, seed)
            drawn += found.values()
            cells = [
                estimate_cell(e.value, e.low, e.high, decimals=decimals)
                if (e := found.get(quantity))
                else Cell(NOTHING)  # a policy has no states
                for quantity, (_, decimals) in TOLD.items()
            ]
            rows.append((Cell(dataset), Cell(method), *cells))
            data += [
                {"dataset": dataset, "method": method, "what": quantity} | e.columns
                for quantity, e in found.items()
            ]
        groups.append(tuple(rows))
    return Table(
        columns=("dataset", "method", *(heading for heading, _ in TOLD.values())),
        groups=tuple(groups),
        caption=f"Members are half of the episodes, drawn anew for every seed "
        f"({caption.seeds(e.n for e in drawn)}). Membership AUC: how well -|pi(s) - a|^2 of the "
        f"policies tells members' transitions from the others' (0.5: not at all), then less that "
        f"of the teacher, who saw both, seed by seed. Distance of synthetic states to the nearest "
        f"state of a member and of another episode, normalised, and share of them that is "
        f"nearer to a member. Means{caption.spread(', with', 'interval', drawn)}.",
        alignment="ll" + "r" * len(TOLD),
        data=pd.DataFrame(data),
    )


def privacy_figure(measured: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw membership AUC and the share of states nearer to a member, a row of panels per dataset.

    Args:
        measured: The study `privacy`'s rows.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "privacy")
    datasets = sorted(set(measured["dataset"]), key=dataset_order)
    methods = _in_order(measured)
    width, above, of_row = PANEL_INCHES
    drawn: list[Estimate] = []
    with mpl.rc_context(SETTINGS):
        figure = canvas(2 * width, (above + of_row * len(methods)) * len(datasets))
        panels = figure.subplots(len(datasets), len(DRAWN_TOLD), squeeze=False, sharex="col")
        for row, dataset in zip(panels, datasets, strict=True):
            told = {method: _told(measured, dataset, method, seed) for method in methods}
            for axes, (quantity, name) in zip(row, DRAWN_TOLD.items(), strict=True):
                found = {m: one[quantity] for m, one in told.items() if quantity in one}
                drawn += found.values()
                _dots(axes, found, methods)
                axes.set_title(dataset, fontsize=8)
                if dataset == datasets[-1]:
                    axes.set_xlabel(name)
        for axes in panels[:, 1]:
            axes.set_yticklabels([])
        return finish(
            figure,
            "What policies and sets tell about the episodes that they were made from",
            f"Members are half of the episodes; mean over {caption.seeds(e.n for e in drawn)}"
            f"{caption.spread(' with', 'interval', drawn)}. Dashed: nothing is told. "
            f"Policies without a set have no states.",
        )


def _in_order(measured: pd.DataFrame) -> list[str]:
    """Methods in the order in which the study measures them."""
    return list(dict.fromkeys(measured["method"]))


def _told(measured: pd.DataFrame, dataset: str, method: str, seed: int) -> dict[str, Estimate]:
    """Means over the seeds; distances only where the method gives a set."""
    of_item = measured[measured["method"] == CONTROL].set_index("item")["auc"]
    rows = measured[(measured["dataset"] == dataset) & (measured["method"] == method)]
    if method != CONTROL:
        rows = rows.assign(excess=rows["auc"] - rows["item"].map(of_item))
    samples = {quantity: list(rows[quantity].dropna()) for quantity in TOLD if quantity in rows}
    return {name: mean(sample, seed=seed) for name, sample in samples.items() if sample}


def _dots(axes: Axes, found: Mapping[str, Estimate], methods: Sequence[str]) -> None:
    """Draw a row per method: its mean with its interval."""
    axes.axvline(BY_CHANCE, color=NEUTRAL, linewidth=0.8, linestyle="--")
    for method, e in found.items():
        reach = [[e.value - e.low], [e.high - e.value]] if e.has_interval else None
        axes.errorbar(
            e.value, methods.index(method), xerr=reach, elinewidth=0.9, **look(method).dots
        )
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    quiet(axes)


ONE, OTHER = "sdw_obd", "av_pbc"
"""The comparison that the table of the study `fairness` makes."""
UNEQUAL = {
    "error": "mean",
    "rarest": "rarest tenth",
    "density gap": "gap of tenths",
    "worst cell": "worst cell",
    "cell gap": "gap of cells",
    "tail": "worst 10 %",
}
"""Measures of unequal error, with their headings."""
EVERYWHERE = "mean over datasets"


def fairness_table(measured: pd.DataFrame) -> Table:
    """Compare SDW-OBD with Av-PBC, seed by seed: error on rare states, by cell and in the tail.

    Args:
        measured: The study `fairness`'s rows.

    Raises:
        FigureError: The study has no rows, or none of one of the two on some dataset.
    """
    require_rows(measured, "fairness")
    judged = unequal(measured)
    counts = _seeds(judged)
    datasets = sorted(set(judged["item"]), key=dataset_order)
    wanted = {dataset: [dataset] for dataset in datasets}
    if len(datasets) > 1:
        wanted[EVERYWHERE] = datasets
    groups: list[tuple[tuple[Cell, ...], ...]] = []
    differences: list[Difference] = []
    for name, chosen in wanted.items():
        found = [_compared(judged, chosen, quantity) for quantity in UNEQUAL]
        differences += found
        means = [
            tuple(Cell(f"{_mean(judged, chosen, method, quantity):.3f}") for quantity in UNEQUAL)
            for method in (ONE, OTHER)
        ]
        less = tuple(
            estimate_cell(e.value, e.low, e.high, decimals=3, sign="+")
            for e in (one.estimate for one in found)
        )
        labels = (ONE, OTHER, "difference")
        groups.append(
            tuple(
                (Cell(name), Cell(label), *cells)
                for label, cells in zip(labels, (*means, less), strict=True)
            )
        )
    where = "" if all(one.paired for one in differences) else " where both have the same seeds"
    drawn = [one.estimate for one in differences]
    return Table(
        columns=("dataset", "method", *UNEQUAL.values()),
        groups=tuple(groups),
        caption=f"Squared distance to the teacher's action, per number of an action in the unit "
        f"box, of students of finished sets: mean over states; over the tenth of lowest density; "
        f"largest less smallest tenth by density; cell of k-means with the largest error; largest "
        f"less smallest cell; the tenth of states with the largest errors. "
        f"{caption.seeds(counts)} each. Difference: {ONE} less {OTHER}, paired by seed{where}"
        f"{caption.spread(', with', 'interval', drawn)}; each by itself, not corrected for their "
        f"number.",
        alignment="ll" + "r" * len(UNEQUAL),
        data=judged,
    )


def unequal(measured: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset, method and seed: its errors by group reduced to `UNEQUAL`."""
    rows = [
        {"item": row["item"], "method": row["method"], "seed": row["seed"], "error": row["error"],
         "rarest": row["by_density"][0],
         "density gap": max(row["by_density"]) - min(row["by_density"]),
         "worst cell": max(row["by_cell"]),
         "cell gap": max(row["by_cell"]) - min(row["by_cell"]),
         "tail": row["tail"]}
        for _, row in measured.iterrows()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _seeds(judged: pd.DataFrame) -> list[int]:
    """Number of seeds of each of the two methods on each dataset.

    Raises:
        FigureError: One of them has none on some dataset.
    """
    found = judged.groupby(["item", "method"])["seed"].nunique()
    counts = found.reindex(
        pd.MultiIndex.from_product([sorted(set(judged["item"])), (ONE, OTHER)]), fill_value=0
    )
    for (dataset, method), count in counts.items():
        if not count:
            raise FigureError(
                f"The study fairness has no rows of {method} on {dataset}, which it compares. "
                f"Remove its result to have it measured again: obdbench study fairness"
            )
    return [int(count) for count in counts]


def _mean(judged: pd.DataFrame, datasets: Sequence[str], method: str, quantity: str) -> float:
    """Mean over datasets of the mean over seeds."""
    rows = judged[(judged["method"] == method) & judged["item"].isin(datasets)]
    return float(rows.groupby("item")[quantity].mean().mean())


def _compared(judged: pd.DataFrame, datasets: Sequence[str], quantity: str) -> Difference:
    one, other = (
        {
            dataset: judged[(judged["method"] == method) & (judged["item"] == dataset)]
            .set_index("seed")[quantity]
            .to_dict()
            for dataset in datasets
        }
        for method in (ONE, OTHER)
    )
    return mean_difference(one, other, level=LEVEL)


ACROSS = 3
"""Panels in a row of the figure of the study `fairness`."""


def fairness_figure(measured: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw every method's error from the rarest states to the densest, a panel per dataset.

    Args:
        measured: The study `fairness`'s rows.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "fairness")
    datasets = sorted(set(measured["item"]), key=dataset_order)
    down = -(-len(datasets) // ACROSS)
    drawn: list[Estimate] = []
    with mpl.rc_context(SETTINGS):
        figure = canvas(2.4 * min(ACROSS, len(datasets)) + 1.0, 2.1 * down)
        for place, dataset in enumerate(datasets, start=1):
            axes = figure.add_subplot(down, min(ACROSS, len(datasets)), place)
            for method in _in_order(measured):
                rows = measured[(measured["item"] == dataset) & (measured["method"] == method)]
                found = [
                    mean(list(errors), seed=seed)
                    for errors in zip(*rows["by_density"], strict=True)
                ]
                drawn += found
                places = list(range(1, len(found) + 1))
                band(axes, places, found, label=method, **look(method).line | {"markersize": 2.5})
            axes.set_yscale("log")
            plain_numbers(axes)
            axes.set_title(dataset, fontsize=8)
            axes.set(xlabel="tenth by density, rarest first", ylabel="error")
            quiet(axes)
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside right upper", handlelength=3.2
        )
        return finish(
            figure,
            "Error of policies of finished sets, from the rarest states to the densest",
            f"Mean squared distance to the teacher's action in the unit box, over "
            f"{caption.seeds(e.n for e in drawn)}{caption.spread(' with', 'band', drawn)}; tenths "
            f"of a dataset's states by log density (nearest neighbours). Random pairs, DBC and BC "
            f"on everything learn the data's actions, not the teacher's.",
        )
