"""Distilled states as MuJoCo draws them, and the states that follow (OBD, Figure 2)."""

from __future__ import annotations

import base64
import io

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from paper_figures.figure import SETTINGS, FigureError, canvas

PICTURE_INCHES = (1.6, 1.2)


def rendered_states(measured: pd.DataFrame) -> Figure:
    """A block a dataset: a column a synthetic pair, downwards the time that its action is held.

    Args:
        measured: The study `rendered_states`'s rows.

    Raises:
        FigureError: There are none.
    """
    if measured.empty:
        raise FigureError("The study rendered_states has no rows.")
    datasets = sorted(set(measured["item"]))
    steps = sorted(set(measured["step"]))
    count = int(measured.groupby("item")["pair"].nunique().max())
    rows_in_all = len(datasets) * len(steps)
    with mpl.rc_context(SETTINGS):
        figure = canvas(PICTURE_INCHES[0] * count + 0.7, PICTURE_INCHES[1] * rows_in_all + 0.7)
        panels = figure.subplots(rows_in_all, count, squeeze=False)
        for axes in panels.flat:
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
        for block, dataset in enumerate(datasets):
            mine = measured[measured["item"] == dataset]
            for column, (pair, pictures) in enumerate(mine.groupby("pair", sort=True)):
                for row, step in enumerate(steps):
                    axes = panels[block * len(steps) + row, column]
                    axes.imshow(_decoded(pictures.loc[pictures["step"] == step, "picture"].iloc[0]))
                    if column == 0:
                        axes.set_ylabel(
                            f"after {step} step{'s' * (step > 1)}" if step else "distilled"
                        )
                    if row == 0:
                        axes.set_title(
                            f"{dataset}, pair {pair}" if column == 0 else f"pair {pair}", fontsize=7
                        )
        figure.suptitle(
            "Distilled states, and those that follow while the distilled action is held"
        )
    return figure


def _decoded(picture: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
