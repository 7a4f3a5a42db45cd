"""Tables and figures of privacy and fairness: what they show is what was measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from paper_figures.beyond_return import (
    fairness_figure,
    fairness_table,
    privacy_figure,
    privacy_table,
    unequal,
)
from paper_figures.figure import FigureError, words
from paper_figures.table import NOTHING

SEEDS = 4
DATASETS = ("walker2d/medium", "hopper/medium")


def told() -> pd.DataFrame:
    """Rows of the study `privacy`: the teacher has no set."""
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"item": f"{dataset}-seed{k}", "dataset": dataset, "seed": k, "method": method,
             "auc": 0.5 + 0.02 * draw.normal()}
            | ({} if method == "teacher" else
               {"member_distance": draw.random(), "other_distance": 1 + draw.random(),
                "nearer_member": draw.random()})
            for dataset in DATASETS
            for k in range(SEEDS)
            for method in ("random", "av_pbc", "teacher")
        ]
    )  # fmt: skip


def served() -> pd.DataFrame:
    """Rows of the study `fairness`."""
    draw = np.random.default_rng(1)
    return pd.DataFrame(
        [
            {"item": dataset, "method": method, "seed": k, "error": draw.random(),
             "tail": draw.random(), "by_density": list(draw.random(3)),
             "by_cell": list(draw.random(4))}
            for dataset in DATASETS
            for k in range(SEEDS)
            for method in ("random", "av_pbc", "sdw_obd")
        ]
    )  # fmt: skip


def interval(sample: pd.Series) -> tuple[float, float]:
    half = t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / len(sample) ** 0.5
    return sample.mean() - half, sample.mean() + half


def test_the_table_of_privacy_has_means_and_intervals_over_seeds() -> None:
    rows, table = told(), privacy_table(told())
    chance = rows[rows["method"] == "teacher"].set_index("item")["auc"]
    rows["excess"] = [row["auc"] - chance[row["item"]] for _, row in rows.iterrows()]
    names = [(row[0].text, row[1].text) for group in table.groups for row in group]
    assert names == [(d, m) for d in DATASETS[::-1] for m in ("random", "av_pbc", "teacher")]
    for _, one in table.data.iterrows():
        mine = rows[(rows["dataset"] == one["dataset"]) & (rows["method"] == one["method"])]
        sample = mine[one["what"]]
        assert one["value"] == pytest.approx(sample.mean())
        assert (one["low"], one["high"]) == pytest.approx(interval(sample))
        assert one["n"] == SEEDS
    assert len(table.data) == 2 * (5 + 5 + 1)
    assert [cell.text for cell in table.groups[0][2][3:]] == [NOTHING] * 4
    assert "4 seeds" in table.caption and "Student's t" in table.caption


def test_the_figure_of_privacy_has_a_dot_per_method_at_its_mean() -> None:
    rows, figure = told(), privacy_figure(told())
    assert [axes.get_title() for axes in figure.axes] == [d for d in DATASETS[::-1] for _ in (0, 1)]
    for place, axes in enumerate(figure.axes):
        quantity, count = [("auc", 3), ("nearer_member", 2)][place % 2]
        dots = [line for line in axes.lines if line.get_marker() not in (None, "None", "")]
        mine = rows[rows["dataset"] == axes.get_title()]
        means = mine.groupby("method", sort=False)[quantity].mean().dropna()
        assert [float(np.ravel(dot.get_xdata())[0]) for dot in dots] == pytest.approx(list(means))
        assert len(dots) == count
        bars = [bar.get_segments()[0][:, 0] for bar in axes.collections]
        ends = [interval(mine[mine["method"] == method][quantity]) for method in means.index]
        np.testing.assert_allclose(bars, ends)
    assert all(words(figure))


def test_unequal_error_is_the_worst_group_and_its_gap_to_the_best() -> None:
    rows = served()
    judged = unequal(rows)
    assert len(judged) == len(rows)
    for (_, row), (_, one) in zip(rows.iterrows(), judged.iterrows(), strict=True):
        assert one["rarest"] == row["by_density"][0]
        for group, gap in (("by_density", "density gap"), ("by_cell", "cell gap")):
            worst, best = sorted(row[group])[-1], sorted(row[group])[0]
            assert one[gap] == worst - best
        assert one["worst cell"] == sorted(row["by_cell"])[-1]


def test_the_table_of_fairness_pairs_the_seeds() -> None:
    table, judged = fairness_table(served()), unequal(served())
    *each, overall = table.groups
    for group, dataset in zip(each, DATASETS[::-1], strict=True):
        mine = judged[judged["item"] == dataset].pivot(index="seed", columns="method")
        for column, quantity in enumerate(
            ("error", "rarest", "density gap", "worst cell", "cell gap", "tail"), start=2
        ):
            one, other = mine[quantity]["sdw_obd"], mine[quantity]["av_pbc"]
            assert [row[column].text for row in group[:2]] == [
                f"{one.mean():.3f}", f"{other.mean():.3f}",
            ]  # fmt: skip
            assert group[2][column].text == f"{(one - other).mean():+.3f}"
            low, high = interval(one - other)
            assert group[2][column].detail == f"[{low:.3f}, {high:.3f}]"
    means = judged.groupby("method")["tail"].mean()
    assert overall[2][-1].text == f"{means['sdw_obd'] - means['av_pbc']:+.3f}"
    assert len(fairness_table(served()[lambda rows: rows["item"] == DATASETS[0]]).groups) == 1


def test_the_caption_of_fairness_counts_the_seeds_of_each_method_and_says_what_is_paired() -> None:
    rows = served()
    assert "4 seeds each. Difference: sdw_obd less av_pbc, paired by seed, with" in (
        fairness_table(rows).caption
    )
    of_one = (rows["method"] == "sdw_obd") & (rows["item"] == DATASETS[0])
    table = fairness_table(rows[~(of_one & (rows["seed"] == 0))])
    assert (
        "3 to 4 seeds each. Difference: sdw_obd less av_pbc, paired by seed where both have the "
        "same seeds, with"
    ) in table.caption
    with pytest.raises(FigureError, match=f"no rows of sdw_obd on {DATASETS[0]}"):
        fairness_table(rows[~of_one])


def test_the_figure_of_fairness_goes_from_the_rarest_states_to_the_densest() -> None:
    rows, figure = served(), fairness_figure(served())
    assert [axes.get_title() for axes in figure.axes] == list(DATASETS[::-1])
    for axes in figure.axes:
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines) == ["random", "av_pbc", "sdw_obd"]
        for method, line in lines.items():
            mine = rows[(rows["item"] == axes.get_title()) & (rows["method"] == method)]
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_allclose(line.get_ydata(), np.mean(list(mine["by_density"]), axis=0))
    assert all(words(figure))


@pytest.mark.parametrize("draw", [privacy_table, privacy_figure, fairness_table, fairness_figure])
def test_nothing_measured_is_nothing_to_show(draw: Callable[[pd.DataFrame], object]) -> None:
    with pytest.raises(FigureError, match="no rows"):
        draw(pd.DataFrame())
