"""Figures and tables of studies: what is drawn is what was measured."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from benchmark.synthetic_set import SyntheticSet
from paper_figures.drawn_states import cartpole_pairs, rendered_states
from paper_figures.figure import FigureError, words
from paper_figures.robustness import robustness, robustness_table
from paper_figures.study_figures import misalignment, multi_task, state_density, transfer
from paper_figures.training_cost import training_cost
from paper_figures.use import use, use_table
from results.comparison import published_training_steps
from results.record_store import SHIPPED, load_sweep, sweep_records
from results.study_results import study_frame
from tests.results.conftest import build_record


def _transfer_rows(sets: int = 3) -> pd.DataFrame:
    grids = [
        ("architecture", {"depth": d, "width": w, "learning_rate": 0.1, "steps": 50})
        for d in (2, 3)
        for w in (16, 64)
    ] + [
        ("training", {"depth": 3, "width": 64, "learning_rate": r, "steps": s})
        for r in (0.01, 0.1)
        for s in (25, 50)
    ]
    home = {"depth": 3, "width": 64, "learning_rate": 0.1, "steps": 50}
    return pd.DataFrame(
        [
            {"item": f"set{k}", "environment": "CartPole-v1", "pairs": 2, "grid": grid,
             "home": values == home, **values,
             "return": 10 * values["depth"] + values["width"] + values["steps"] + k}
            for k in range(sets)
            for grid, values in grids
        ]
    )  # fmt: skip


def _texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_heat_maps_state_the_mean_over_sets_and_frame_the_home_student() -> None:
    figure = transfer(_transfer_rows(), "10 students x 2 episodes")
    assert [axes.get_ylabel() for axes in figure.axes] == ["depth", "learning rate", "return"]
    means = [text for text in _texts(figure, 0) if "to" not in text]
    assert means == [f"{10 * d + w + 50 + 1:.0f}" for d in (2, 3) for w in (16, 64)]
    for axes in figure.axes[:2]:
        (frame,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert (frame.get_x() + 0.46, frame.get_y() + 0.46) == pytest.approx((1, 1))
    assert "3 sets" in figure.axes[0].get_title()
    assert "10 students x 2 episodes" in words(figure)[1]


def test_a_single_set_has_no_interval() -> None:
    assert not [text for text in _texts(transfer(_transfer_rows(sets=1), ""), 0) if "to" in text]


def test_multi_task_states_means_and_the_paired_difference() -> None:
    rows = pd.DataFrame(
        [
            {"item": f"m-seed{k}", "method": "m", "task": task, "trained_on": on, "pairs": pairs,
             "return": value + k * slope}
            for k in range(4)
            for task, value in (("a/x", 100.0), ("b/x", 10.0))
            for on, pairs, slope in (("own", 4, 10.0), ("merged", 8, 13.0))
        ]
    )  # fmt: skip
    table = multi_task(rows, "3 students x 2 episodes")
    data = table.data.set_index(["task", "what"])["return"]
    assert data["a/x", "own"] == 115.0
    assert data["a/x", "merged"] == pytest.approx(119.5)
    assert data["b/x", "difference"] == pytest.approx(4.5)
    assert "(8 pairs)" in table.caption
    assert [row[2].text for group in table.groups for row in group] == ["4", "4"]


def test_misalignment_draws_means_over_policies_against_their_mean_loss() -> None:
    rows = pd.DataFrame(
        [
            {"item": f"hopper/{kind}", "environment": "hopper", "kind": kind, "steps": steps,
             "policy": k, "training_loss": 1 / steps + 0.01 * k, "pivotal_error": 0.1 + k,
             "surrounding_error": 0.2, "normalized_return": base + steps + k}
            for kind, base in (("medium-expert", 0), ("medium-replay", 100))
            for steps in (4, 8)
            for k in range(3)
        ]
    )  # fmt: skip
    figure = misalignment(rows, "3 policies x 2 episodes")
    returns, pivotal, _ = figure.axes
    lines = {line.get_label(): line for line in returns.lines}
    np.testing.assert_allclose(lines["medium-expert"].get_xdata(), [0.26, 0.135])
    np.testing.assert_allclose(lines["medium-expert"].get_ydata(), [5, 9])
    np.testing.assert_allclose(lines["medium-replay"].get_ydata(), [105, 109])
    np.testing.assert_allclose(pivotal.lines[0].get_ydata(), [1.1, 1.1])
    assert returns.xaxis_inverted()  # the loss falls from left to right


def test_density_shows_every_sampled_and_every_synthetic_state() -> None:
    rows = pd.DataFrame(
        [{"item": "hopper/medium", "whose": "facts", "explained": 0.5, "floor": -3.0,
          "support": 0.25, "states": 100}]
        + [{"item": "hopper/medium", "whose": whose, "x": float(k), "y": 0.0,
            "log_density": -5.0 + k if whose == "dataset" else None}
           for whose, count in (("dataset", 20), ("av_pbc", 3), ("sdw_obd", 4))
           for k in range(count)]
    )  # fmt: skip
    figure = state_density(rows)
    counts = [
        len(np.asarray(dots.get_offsets()))
        for axes in figure.axes[:2]
        for dots in axes.collections
        if isinstance(dots, PathCollection)
    ]
    assert counts == [20, 20, 3, 4]
    assert "25%" in figure.axes[2].get_title()
    fewer = rows[(rows["whose"] != "dataset") | (rows["x"] < 5)].assign(item="tiny/own")
    _, caption = words(state_density(pd.concat([rows, fewer])))
    assert caption.startswith("5 to 20 states of each dataset")


def _picture(grey: int) -> str:
    content = io.BytesIO()
    Image.fromarray(np.full((3, 4, 3), grey, np.uint8)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def test_rendered_states_put_pairs_side_by_side_and_time_downwards() -> None:
    rows = pd.DataFrame(
        [
            {"item": "hopper/medium", "pair": pair, "step": step, "picture": _picture(pair + step)}
            for pair in (0, 9)
            for step in (0, 3)
        ]
    )
    figure = rendered_states(rows)
    shown = [int(np.asarray(axes.images[0].get_array()).ravel()[0]) for axes in figure.axes]
    assert shown == [0, 9, 3, 12]
    assert [axes.get_ylabel() for axes in figure.axes] == ["distilled", "", "after 3 steps", ""]


def test_a_pole_of_positive_angle_leans_to_the_right() -> None:
    pairs = SyntheticSet(
        torch.tensor([[0.0, 0.0, 0.2, 0.0], [0.0, 0.0, -0.2, 0.0]]), torch.eye(2).flip(0)
    )
    figure = cartpole_pairs({"one": pairs})
    tips = [float(np.asarray(axes.lines[1].get_xdata())[1]) for axes in figure.axes]
    assert tips == pytest.approx([np.sin(0.2), -np.sin(0.2)])


def test_sets_of_other_environments_are_not_drawn_as_carts() -> None:
    pairs = SyntheticSet(torch.zeros(2, 11), torch.zeros(2, 3))
    with pytest.raises(FigureError, match="11"):
        cartpole_pairs({"hopper": pairs})


def test_training_cost_puts_the_papers_steps_beside_those_of_the_records() -> None:
    table = training_cost(sweep_records(SHIPPED, load_sweep(SHIPPED, "main_table")))
    data = table.data.set_index("dataset")
    assert len(data) == 9
    assert set(data["whole_steps"]) == {25_000}
    assert set(data["set_steps"]) == {100}
    assert data.loc["walker2d/medium-expert", "published_whole_steps"] == 125_000
    with pytest.raises(FigureError, match="bc_whole"):
        training_cost([])


def test_training_cost_averages_no_two_cells_and_counts_what_failed() -> None:
    whole = [build_record("bc_whole", seed=seed, parameters={"steps": 1000}) for seed in range(3)]
    small = [build_record(seed=seed, parameters={"synthetic_size": 16}) for seed in range(3)]
    failed = build_record(seed=3, parameters={"synthetic_size": 16}, error="NotFinite")
    caption = training_cost([*whole, *small, failed]).caption
    assert "scores over 3 seeds with 95 % interval" in caption
    assert "Runs left out: 1 failed. Seconds" in caption
    elsewhere = build_record(
        "bc_whole", "hopper/medium", parameters={"steps": 9}, error="NotFinite"
    )
    caption = training_cost([*whole, *small, failed, elsewhere]).caption
    assert "Runs left out: 2 failed. Without complete runs of both: hopper/medium." in caption
    asked = [record.spec for record in (*whole, *small, failed)]
    caption = training_cost([*whole[:2], *small, failed], asked).caption
    assert "Runs left out: 1 failed, 1 without a record." in caption
    other = build_record(seed=0, parameters={"synthetic_size": 64})
    with pytest.raises(FigureError, match="av_pbc on hopper/medium-replay has 2 cells"):
        training_cost([*whole, *small, other])


def test_published_training_steps_are_known_under_both_names() -> None:
    assert published_training_steps("d4rl/hopper-medium-v2") == (50_000, 100)
    assert published_training_steps("hopper/medium") == (50_000, 100)
    assert published_training_steps("cartpole/mixed") is None


@pytest.mark.parametrize(
    "draw",
    [
        lambda rows: transfer(rows, ""),
        lambda rows: misalignment(rows, ""),
        lambda rows: multi_task(rows, ""),
        lambda rows: robustness(rows, ""),
        lambda rows: robustness_table(rows, ""),
        lambda rows: use(rows, ""),
        lambda rows: use_table(rows, ""),
        state_density,
        rendered_states,
    ],
)
def test_nothing_measured_is_no_figure(draw: Callable[[pd.DataFrame], object]) -> None:
    with pytest.raises(FigureError, match="no rows"):
        draw(study_frame([]))


def test_no_sets_is_no_figure() -> None:
    with pytest.raises(FigureError, match="no synthetic set"):
        cartpole_pairs({})
