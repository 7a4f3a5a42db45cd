"""Exhibits of robustness and use: what is shown is what follows by hand from what was measured."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from paper_figures.figure import words
from paper_figures.robustness import kept, robustness, robustness_table
from paper_figures.table import NOTHING
from paper_figures.use import use, use_table

SEEDS = range(5)


def robustness_rows() -> pd.DataFrame:
    """The teacher keeps half under all noise; the random set's return is not above 0 for sure."""
    plain = {
        "teacher": [80.0, 90.0, 100.0, 110.0, 120.0],
        "av_pbc": [10.0, 12.0, 11.0, 9.0, 13.0],
        "random": [-1.0, 3.0, -2.0, 4.0, 1.0],
    }
    conditions = [("none", 0.0), ("attack", 0.05), ("attack", 0.45), ("mass", 0.8), ("mass", 1.2)]
    return pd.DataFrame(
        [
            {"item": f"{dataset}-{method}", "dataset": dataset, "method": method, "seed": seed,
             "kind": kind, "size": size,
             "normalized_return": scores[seed] * (1.0 if kind == "none" else 0.5)}
            for dataset in ("hopper/medium-expert", "halfcheetah/medium-expert")
            for method, scores in plain.items()
            for seed in SEEDS
            for kind, size in conditions
        ]
    )  # fmt: skip


def test_what_is_kept_is_a_ratio_of_means_with_its_delta_interval() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(5, 15, 6)
    y = 0.4 * x + rng.normal(0, 1, 6)
    found = kept(list(y), list(x))
    ratio = y.mean() / x.mean()
    # Variance of a ratio of means by its first derivatives, with the covariance of the pairs.
    cov = np.cov(x, y)
    variance = (cov[1, 1] - 2 * ratio * cov[0, 1] + ratio**2 * cov[0, 0]) / x.mean() ** 2 / len(x)
    half = stats.t.ppf(0.975, 5) * math.sqrt(variance)
    assert found.value == pytest.approx(100 * ratio)
    assert (found.low, found.high) == pytest.approx((100 * (ratio - half), 100 * (ratio + half)))
    exact = kept([0.3 * value for value in x], list(x))
    assert (exact.low, exact.value, exact.high) == pytest.approx((30.0, 30.0, 30.0))


def test_runs_are_paired_by_seed_whatever_their_order() -> None:
    rows = robustness_rows()
    shuffled = rows.sample(frac=1.0, random_state=1)
    assert robustness_table(shuffled, "").markdown() == robustness_table(rows, "").markdown()


def test_the_table_has_the_return_first_and_then_the_share_that_is_left() -> None:
    table = robustness_table(robustness_rows(), "4 students x 5 episodes")
    assert table.columns == ("dataset", "disturbed", "size", "av_pbc", "random", "teacher")
    assert len(table.groups) == 2
    first, attack, *_, mass = table.groups[0]
    assert [cell.text for cell in first[3:]] == ["11.0", "1.0", "100.0"]
    assert [cell.text for cell in attack[1:]] == [
        "attack on observations", "0.05", "50", NOTHING, "50",
    ]  # fmt: skip
    assert [cell.text for cell in mass[1:3]] == ["mass", "1.2"]
    assert mass[3].detail == "[50, 50]"
    assert "4 students x 5 episodes" in table.caption and "5 seeds" in table.caption
    shares = table.data[table.data["kind"] != "none"]
    assert set(shares["method"]) == {"av_pbc", "teacher"}
    assert np.allclose(shares["value"], 50.0)


def test_curves_go_through_100_where_nothing_is_changed() -> None:
    figure = robustness(robustness_rows(), "4 students x 5 episodes")
    assert len(figure.axes) == 10
    assert [axes.get_xlabel() for axes in figure.axes[4:7]] == ["", *["sd of the dataset"] * 2]
    assert figure.axes[0].get_ylabel().startswith("halfcheetah/medium-expert")
    by_title = {axes.get_title(): axes for axes in figure.axes[:5]}
    attack = {line.get_label(): line for line in by_title["attack on observations"].lines}
    np.testing.assert_allclose(attack["teacher"].get_xdata(), [0.0, 0.05, 0.45])
    np.testing.assert_allclose(attack["teacher"].get_ydata(), [100, 50, 50])
    mass = {line.get_label(): line for line in by_title["mass"].lines}
    np.testing.assert_allclose(mass["av_pbc"].get_xdata(), [0.8, 1.0, 1.2])
    np.testing.assert_allclose(mass["av_pbc"].get_ydata(), [50, 100, 50])
    assert "random" not in attack
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["av_pbc", "teacher"]
    assert "is not above 0 for sure" in words(figure)[1]


STAGES = (0, 10, 30)
CURVES = {
    "scratch": [[0.0, 20.0, 50.0], [0.0, 30.0, 50.0]],
    "random": [[10.0, 10.0, 40.0], [10.0, 10.0, 40.0]],
    "av_pbc": [[50.0, 20.0, 60.0], [0.0, 45.0, 60.0]],
}


def use_rows(shift: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"item": "x", "dataset": "hopper/medium-expert", "seed": seed, "start": start,
             "steps": stage, "normalized_return": scores[seed][place] + shift}
            for start, scores in CURVES.items()
            for seed in (0, 1)
            for place, stage in enumerate(STAGES)
        ]
    )  # fmt: skip


def test_the_table_of_starts_follows_from_the_curves_by_hand() -> None:
    table = use_table(use_rows(), "4 students x 5 episodes")
    values = table.data.set_index(["start", "what"])["value"]
    # Trapezoids over 10 and 20 steps: (10 (0 + 20) / 2 + 20 (20 + 50) / 2) / 30, and the like.
    scratch = [(100 + 700) / 30, (150 + 800) / 30]
    warm = [(350 + 800) / 30, (225 + 1050) / 30]
    assert values["scratch", "mean"] == pytest.approx(np.mean(scratch))
    assert values["av_pbc", "mean"] == pytest.approx(np.mean(warm))
    difference = table.data[table.data["what"] == "mean_less"].set_index("start").loc["av_pbc"]
    less = np.subtract(warm, scratch)
    half = stats.t.ppf(0.975, 1) * less.std(ddof=1) / math.sqrt(2)
    assert difference["value"] == pytest.approx(less.mean())
    assert difference["high"] == pytest.approx(less.mean() + half)
    # The target is 90 % of 50: at once and after 10 steps; from scratch at the end; random never.
    assert values["av_pbc", "steps"] == 5
    assert values["scratch", "steps"] == 30
    assert values["av_pbc", "steps_less"] == -25
    assert values["random", "steps"] == 30
    reached = {row[1].text: row[-1].text for row in table.groups[0]}
    assert reached == {"from scratch": "2 of 2", "random": "0 of 2", "av_pbc": "2 of 2"}
    assert ("scratch", "mean_less") not in values.index


def test_no_start_reaches_a_target_that_the_random_policy_reaches() -> None:
    table = use_table(use_rows(shift=-60.0), "")
    assert not table.data["what"].isin(["steps", "steps_less"]).any()
    assert {row[-1].text for row in table.groups[0]} == {NOTHING}
    assert {row[-2].text for row in table.groups[0]} == {NOTHING}


def test_a_seed_without_every_start_is_left_out_of_all() -> None:
    rows = use_rows()
    lacking = rows[(rows["start"] != "random") | (rows["seed"] == 0)]
    assert set(use_table(lacking, "").data["n"]) == {1}


def test_curves_of_starts_are_means_over_seeds() -> None:
    figure = use(use_rows(), "4 students x 5 episodes")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert next(iter(lines)) == "from scratch"
    np.testing.assert_allclose(lines["av_pbc"].get_xdata(), STAGES)
    np.testing.assert_allclose(lines["av_pbc"].get_ydata(), [25.0, 32.5, 60.0])
