"""Synthetic pairs drawn as what they stand for: MuJoCo's bodies, CartPole's carts and poles."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from benchmark.synthetic_set import SyntheticSet
from paper_figures.figure import SETTINGS, FigureError, canvas, finish, require_rows
from paper_figures.palette import BLUE, HUES, INK, NEUTRAL
from results.labels import dataset_order

PICTURE_INCHES = (1.6, 1.2)
CARTPOLE_INCHES = (1.7, 1.4)
POLE = 1.0  # twice gymnasium's half-length


def rendered_states(measured: pd.DataFrame) -> Figure:
    """Draw a block per dataset: a column per pair, downwards the time that its action is held.

    Args:
        measured: The study `rendered_states`'s rows.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "rendered_states")
    datasets = sorted(set(measured["item"]), key=dataset_order)
    steps = sorted(set(measured["step"]))
    count = int(measured.groupby("item")["pair"].nunique().max())
    rows_in_all = len(datasets) * len(steps)
    with mpl.rc_context(SETTINGS):
        figure = canvas(PICTURE_INCHES[0] * count + 0.4, PICTURE_INCHES[1] * rows_in_all + 0.4)
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
                        over = f"{dataset}\n" if column == 0 else ""
                        axes.set_title(f"{over}pair {pair}", fontsize=7, loc="left")
        return finish(
            figure,
            "Distilled states, and those that follow",
            "A column per pair of the set; downwards, the distilled action is held.",
        )


def _decoded(picture: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))


def cartpole_pairs(sets: Mapping[str, SyntheticSet]) -> Figure:
    """Draw a column per set, a panel per pair: cart, pole, velocities, and the action's push.

    Args:
        sets: Synthetic sets of CartPole by name.

    Raises:
        FigureError: There is no set, or it is of another environment.
    """
    if not sets:
        raise FigureError("There is no synthetic set to draw.")
    for name, pairs in sets.items():
        if pairs.observations.shape[1] != 4 or pairs.actions.shape[1] != 2:
            raise FigureError(
                f"{name} has observations of {pairs.observations.shape[1]} and actions of "
                f"{pairs.actions.shape[1]} numbers; CartPole's have 4 and 2."
            )
    count = max(map(len, sets.values()))
    with mpl.rc_context(SETTINGS):
        figure = canvas(CARTPOLE_INCHES[0] * len(sets), CARTPOLE_INCHES[1] * count + 0.2)
        panels = figure.subplots(count, len(sets), squeeze=False)
        for column, (name, pairs) in enumerate(sets.items()):
            for row in range(count):
                _draw_cartpole(panels[row, column], pairs, row)
            panels[0, column].set_title(name, fontsize=7)
        return finish(
            figure,
            "HaDES's pairs on CartPole",
            "A column per set. Arrows at the pole's tip and right below the cart (orange): their "
            "velocities; the lowest arrow (blue, thick): the push that the pair teaches.",
        )


def _draw_cartpole(axes: Axes, pairs: SyntheticSet, row: int) -> None:
    axes.set(xticks=[], yticks=[], xlim=(-1.5, 1.5), ylim=(-0.95, 1.2), aspect="equal")
    axes.set_frame_on(False)
    if row >= len(pairs):
        return
    x, speed, angle, spin = pairs.observations[row].tolist()
    left, right = pairs.actions[row].tolist()
    tip = np.array([np.sin(angle), np.cos(angle)]) * POLE
    axes.axhline(0, color=NEUTRAL, linewidth=0.6)
    axes.add_patch(Rectangle((-0.25, -0.12), 0.5, 0.24, color=NEUTRAL))
    axes.plot([0, tip[0]], [0, tip[1]], color=INK, linewidth=3, solid_capstyle="round")
    along = np.array([np.cos(angle), -np.sin(angle)])
    _arrow(axes, (0.0, -0.3), (_length(speed), -0.3), HUES[0])
    end = tip + _length(spin) * along
    _arrow(axes, (tip[0], tip[1]), (end[0], end[1]), HUES[0])
    push = 0.8 * np.tanh(right - left)
    _arrow(axes, (0.0, -0.55), (push, -0.55), BLUE, width=2.2)
    axes.text(
        0, -0.9, f"x {x:+.1f}, v {speed:+.1f}, angle {np.degrees(angle):+.0f}°, spin {spin:+.1f}",
        ha="center", fontsize=5.5,
    )  # fmt: skip


def _length(velocity: float) -> float:
    """Length of an arrow: small velocities can be told apart, large ones stay in the picture."""
    return float(np.tanh(2 * velocity))


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str,
    width: float = 1.2,
) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": color, "lw": width})
