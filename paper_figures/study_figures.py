"""Tables and figures of the studies' measurements."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator

from paper_figures import caption
from paper_figures.figure import (
    SETTINGS,
    band,
    canvas,
    density_cloud,
    finish,
    plain_numbers,
    quiet,
    require_rows,
)
from paper_figures.palette import BLUE, HUES, INK, NEUTRAL, dataset_look, look, on_color
from paper_figures.table import Cell, Table, estimate_cell
from results.labels import dataset_order
from results.statistics import Estimate, mean

SETS = ("av_pbc", "sdw_obd")
ROW_INCHES = 2.5


def state_density(measured: pd.DataFrame) -> Figure:
    """Draw every dataset's states by log p, the synthetic ones, and a histogram of log p.

    Args:
        measured: The study `state_density`'s rows.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "state_density")
    datasets = sorted(set(measured["item"]), key=dataset_order)
    with mpl.rc_context(SETTINGS):
        figure = canvas(8.6, ROW_INCHES * len(datasets) + 0.4)
        for row, dataset in enumerate(datasets):
            rows = measured[measured["item"] == dataset]
            facts = rows[rows["whose"] == "facts"].iloc[0]
            states = rows[rows["whose"] == "dataset"]
            first, second, third = (
                figure.add_subplot(len(datasets), 3, 3 * row + place) for place in (1, 2, 3)
            )
            _colored(first, states, facts, dataset)
            _synthetic(second, states, rows)
            _histogram(third, states, facts)
        counts = sorted(set(measured[measured["whose"] == "dataset"].groupby("item").size()))
        how_many = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
        return finish(
            figure,
            "State density of the datasets, and where synthetic states lie",
            f"{how_many} states of each dataset on their first two principal components; "
            f"synthetic states of one seed. Dashed: the floor of log p.",
        )


def _colored(axes: Axes, states: pd.DataFrame, facts: pd.Series, dataset: str) -> None:
    log_density = states["log_density"].to_numpy()
    density_cloud(
        axes, states[["x", "y"]].to_numpy(), log_density,
        (facts["floor"], np.quantile(log_density, 0.99)), size=3, label="log p (nats)",
    )  # fmt: skip
    axes.set_title(f"{dataset}: {facts['explained']:.0%} of variance", fontsize=8)
    axes.set(xlabel="first component", ylabel="second component")
    quiet(axes)


def _synthetic(axes: Axes, states: pd.DataFrame, rows: pd.DataFrame) -> None:
    axes.scatter(
        states["x"], states["y"], s=2, color=NEUTRAL, alpha=0.4, linewidths=0, rasterized=True
    )
    for whose in SETS:
        mine, shape = rows[rows["whose"] == whose], look(whose)
        axes.scatter(
            mine["x"], mine["y"], s=11, marker=shape.marker, facecolors="none",
            edgecolors=shape.color,
            linewidths=0.8, label=f"{whose} ({len(mine)})",
        )  # fmt: skip
    axes.legend(fontsize=6.5, loc="best")
    axes.set(xlabel="first component", ylabel="second component")
    axes.set_title("synthetic states", fontsize=8)
    quiet(axes)


def _histogram(axes: Axes, states: pd.DataFrame, facts: pd.Series) -> None:
    values = states["log_density"].to_numpy()
    low = min(facts["floor"], float(np.quantile(values, 0.005)))
    axes.hist(values.clip(low), bins=40, color=BLUE, alpha=0.8)
    axes.axvline(facts["floor"], color=INK, linewidth=1, linestyle="--")
    axes.set(xlabel="log p (nats)", ylabel="states")
    axes.set_title(f"effective support of the weights {facts['support']:.0%}", fontsize=8)
    quiet(axes)


PANELS = {
    "normalized_return": "normalized return",
    "pivotal_error": "pivotal error",
    "surrounding_error": "surrounding error",
}
PANEL_INCHES = (2.5, 2.1)


def misalignment(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Figure:
    """Draw return, pivotal and surrounding error against the training loss of every environment.

    Training goes from left to right: the loss falls. A point is the mean over policies.

    Args:
        measured: The study `misalignment`'s rows.
        played: How many policies played how many episodes at each stage, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "misalignment")
    environments = sorted(set(measured["environment"]))
    with mpl.rc_context(SETTINGS):
        figure = canvas(PANEL_INCHES[0] * len(PANELS), PANEL_INCHES[1] * len(environments))
        drawn: list[Estimate] = []
        for row, environment in enumerate(environments):
            rows = measured[measured["environment"] == environment]
            for column, (quantity, name) in enumerate(PANELS.items()):
                axes = figure.add_subplot(
                    len(environments), len(PANELS), row * len(PANELS) + column + 1
                )
                for kind, mine in rows.groupby("kind", sort=True):
                    drawn += _line(axes, mine, str(kind), quantity, seed)
                _describe(axes, environment, name, quantity)
                if row == column == 0:
                    axes.legend(fontsize=7)
        return finish(
            figure,
            "Return, pivotal and surrounding error of policies along their training",
            f"States of quality (medium-expert) and of diversity (medium-replay), labelled by one "
            f"teacher; training goes to the right. Mean over policies ({played})"
            f"{caption.spread(' with', 'band', drawn)}; errors are mean squares in the unit box.",
        )


def _line(axes: Axes, rows: pd.DataFrame, kind: str, quantity: str, seed: int) -> list[Estimate]:
    """Draw a line, and return its points."""
    losses, found = [], []
    for _, stage in rows.groupby("steps", sort=True):
        losses.append(float(stage["training_loss"].mean()))
        found.append(mean(list(stage[quantity]), seed=seed))
    band(axes, losses, found, label=kind, **dataset_look(kind).line | {"markersize": 2.5})
    return found


def _describe(axes: Axes, environment: str, name: str, quantity: str) -> None:
    axes.set_xscale("log")
    axes.invert_xaxis()
    if quantity != "normalized_return":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    plain_numbers(axes)
    axes.set(xlabel="training loss", ylabel=name)
    axes.set_title(environment, fontsize=8)
    quiet(axes)


def multi_task(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Table:
    """Compare the returns of students of a task's own set and of the merged sets.

    One row per method and task.

    Args:
        measured: The study `multi_task`'s rows.
        played: Who played how many episodes on each set, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "multi_task")
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    data = []
    drawn: list[Estimate] = []
    for (method, task), rows in measured.groupby(["method", "task"], sort=True):
        by_item = rows.pivot_table(index="item", columns="trained_on", values="return")
        paired = by_item.dropna()
        found = {
            "own": mean(list(by_item["own"].dropna()), seed=seed),
            "merged": mean(list(by_item["merged"].dropna()), seed=seed),
            "difference": mean(list(paired["merged"] - paired["own"]), seed=seed),
        }
        cells = [
            estimate_cell(e.value, e.low, e.high, decimals=0, sign="+" * (what == "difference"))
            for what, e in found.items()
        ]
        name = (Cell(str(method)), Cell(str(task)), Cell(str(len(paired))))
        drawn += found.values()
        groups.setdefault(str(method), []).append((*name, *cells))
        for what, estimate in found.items():
            data.append(
                {"method": method, "task": task, "what": what, "return": estimate.value,
                 "low": estimate.low, "high": estimate.high, "n": estimate.n}
            )  # fmt: skip
    pairs = sorted(set(measured.loc[measured["trained_on"] == "merged", "pairs"]))
    return Table(
        columns=("method", "task", "n", "its own set", "merged sets", "difference"),
        groups=tuple(tuple(rows) for rows in groups.values()),
        caption=f"Return (not normalized) of students trained on a task's own set, and on the "
        f"merged sets of all tasks ({', '.join(map(str, pairs))} pairs): mean over n seeds, "
        f"{played} each{caption.spread(', with', 'interval', drawn)}; difference paired by "
        f"seed. No student saw an environment; those of merged sets are not told their task.",
        alignment="llrrrr",
        data=pd.DataFrame(data),
    )


GRIDS = {"architecture": ("depth", "width"), "training": ("learning_rate", "steps")}
NAMES = {"learning_rate": "learning rate", "steps": "gradient steps"}
MAP_INCHES = (4.0, 2.1)


def transfer(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Figure:
    """Draw two heat maps per environment: mean return over sets, with its interval.

    Args:
        measured: The study `transfer`'s rows.
        played: Who played how many episodes on each set, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "transfer")
    kinds = sorted(set(zip(measured["environment"], measured["pairs"], strict=True)))
    with mpl.rc_context(SETTINGS):
        figure = canvas(2 * MAP_INCHES[0], MAP_INCHES[1] * len(kinds))
        drawn: list[Estimate] = []
        for row, (environment, pairs) in enumerate(kinds):
            rows = measured[(measured["environment"] == environment) & (measured["pairs"] == pairs)]
            students = rows.groupby(["grid", *GRIDS["architecture"], *GRIDS["training"]])
            best = float(students["return"].mean().max())
            panels = [figure.add_subplot(len(kinds), 2, 2 * row + 1 + place) for place in (0, 1)]
            for axes, grid in zip(panels, GRIDS, strict=True):
                image = _heat_map(axes, rows[rows["grid"] == grid], *GRIDS[grid], best, seed, drawn)
                axes.set_title(
                    f"{environment}, {pairs} pairs, {rows['item'].nunique()} sets", fontsize=8
                )
            figure.colorbar(image, ax=panels, aspect=25, pad=0.01).set_label("return")
        return finish(
            figure,
            "Return of HaDES's sets under other architectures and hyper-parameters",
            f"Mean over sets ({played} each){caption.spread(' with', 'interval', drawn)}. "
            f"Framed: the student that the sets were evolved for.",
        )


def _heat_map(
    axes: Axes,
    rows: pd.DataFrame,
    down: str,
    across: str,
    best: float,
    seed: int,
    drawn: list[Estimate],
) -> AxesImage:
    """Draw a mean per student into a map, and add it to `drawn`."""
    downs, acrosses = sorted(set(rows[down])), sorted(set(rows[across]))
    values = np.full((len(downs), len(acrosses)), np.nan)
    colors = mpl.colormaps["viridis"]
    for (y, x), cell in rows.groupby([down, across]):
        i, j = downs.index(y), acrosses.index(x)
        found = mean(list(cell["return"]), seed=seed)
        drawn.append(found)
        values[i, j] = found.value
        color = on_color(colors(found.value / best))
        axes.text(j, i - 0.12, f"{found.value:.0f}", ha="center", va="center", color=color)
        if found.has_interval:
            axes.text(
                j, i + 0.26, f"{found.low:.0f} to {found.high:.0f}", ha="center", va="center",
                color=color, fontsize=5.5,
            )  # fmt: skip
        if bool(cell["home"].any()):
            frame = Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, lw=1.8, color=HUES[0])
            axes.add_patch(frame)
    image = axes.imshow(values, cmap=colors, vmin=0, vmax=best, aspect="auto")
    axes.set_xticks(range(len(acrosses)), [f"{value:g}" for value in acrosses])
    axes.set_yticks(range(len(downs)), [f"{value:g}" for value in downs])
    axes.set(xlabel=NAMES.get(across, across), ylabel=NAMES.get(down, down))
    return image
