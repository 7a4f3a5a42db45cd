"""Score against synthetic size: what is drawn, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures.curves import pruning, sizes
from paper_figures.exhibits import StoredResults
from paper_figures.figure import FigureError, words, write_figure
from results.frames import runs_frame
from results.statistics import mean
from tests.results.conftest import MakeRecord, Record, build_record

SCORES = {16: [1.0, 4.0, 10.0], 64: [20.0, 21.0, 25.0], 128: [30.0, 33.0, 33.0]}


def grown(
    method: str = "av_pbc",
    dataset: str = "hopper/medium",
    scores: Mapping[int, Sequence[float]] = SCORES,
) -> list[Record]:
    """Records of a method at several sizes, some seeds each."""
    return [
        build_record(method, dataset, seed, score, parameters={"synthetic_size": size})
        for size, found in scores.items()
        for seed, score in enumerate(found)
    ]


def lines_of(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.lines if len(line.get_xydata())}


def points(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_line_has_the_means_over_seeds_at_each_size_and_their_bands() -> None:
    (axes,) = sizes(runs_frame(grown()[::-1])).axes
    assert points(lines_of(axes)["av_pbc"]) == ([16, 64, 128], [5.0, 22.0, 32.0])
    (band,) = axes.collections
    outline = np.asarray(band.get_paths()[0].vertices)
    for size, scores in SCORES.items():
        heights = outline[outline[:, 0] == size, 1]
        interval = mean(scores)
        assert (heights.min(), heights.max()) == pytest.approx((interval.low, interval.high))


def test_panels_have_the_fields_labels_and_every_size_as_a_tick() -> None:
    figure = sizes(runs_frame(grown() + grown(dataset="ant/medium", scores={16: [1.0, 2.0, 3.0]})))
    assert [axes.get_title() for axes in figure.axes] == ["ant/medium", "hopper/medium"]
    for axes in figure.axes:
        assert axes.get_xlabel() == "synthetic pairs"
        assert axes.get_xscale() == "log"
        ticks = [label.get_text() for label in axes.get_xticklabels()]
        assert (axes.get_xticks().tolist(), ticks) == ([16, 64, 128], ["16", "64", "128"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["normalized return", ""]
    assert words(figure)[1].endswith("Mean over 3 seeds with 95 % band (Student's t).")


def test_unequal_seeds_are_said() -> None:
    figure = sizes(runs_frame(grown(scores={16: [1.0], 32: [2.0, 3.0], 64: [3.0]})))
    assert "Mean over 1 to 2 seeds" in words(figure)[1]


def test_a_method_keeps_its_colour_and_its_place_in_the_legend_where_it_has_no_runs() -> None:
    records = grown() + grown("random", "ant/medium") + grown("random", "hopper/medium")
    records += grown("dbc", "ant/medium")
    figure = sizes(runs_frame(records))
    first, last = figure.axes
    assert list(lines_of(first)) == ["dbc", "random"]
    assert list(lines_of(last)) == ["av_pbc", "random"]
    assert lines_of(first)["random"].get_color() == lines_of(last)["random"].get_color()
    assert legend(figure) == ["av_pbc", "dbc", "random"]


def test_methods_of_one_size_or_none_are_not_drawn() -> None:
    records = grown() + grown("dbc", scores={64: [5.0, 6.0]})
    records += [build_record("bc_whole", "hopper/medium", parameters={"steps": 10})]
    figure = sizes(runs_frame(records))
    assert list(lines_of(figure.axes[0])) == legend(figure) == ["av_pbc"]


def test_failed_runs_are_not_drawn() -> None:
    failed = build_record(
        "av_pbc", "hopper/medium", 7, 90.0, parameters={"synthetic_size": 64}, error="OSError"
    )
    (axes,) = sizes(runs_frame([*grown(), failed])).axes
    assert points(lines_of(axes)["av_pbc"])[1] == [5.0, 22.0, 32.0]


def test_a_single_seed_has_a_line_and_no_visible_band() -> None:
    (axes,) = sizes(runs_frame(grown(scores={16: [1.0], 64: [2.0]}))).axes
    assert points(lines_of(axes)["av_pbc"])[1] == [1.0, 2.0]
    assert not any(len(path.vertices) for band in axes.collections for path in band.get_paths())


@pytest.mark.parametrize(
    "records",
    [
        [],
        grown(scores={64: [1.0, 2.0]}),
        grown(scores={64: [1.0]}) + grown("pbc", scores={16: [1.0]}),
        [
            *grown(scores={64: [1.0]}),
            build_record(
                dataset="hopper/medium", parameters={"synthetic_size": 8}, error="OSError"
            ),
        ],
    ],
    ids=["nothing", "one size", "one size each", "the other size failed"],
)
def test_without_two_sizes_of_a_method_there_is_no_figure(records: list[Record]) -> None:
    with pytest.raises(FigureError, match="No method has complete runs at two synthetic sizes"):
        sizes(runs_frame(records))


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    records = grown() + grown("random", "ant/medium")
    for name, given in (("first", records), ("second", records[::-1])):
        write_figure(sizes(runs_frame(given)), tmp_path / f"{name}.pdf")
    assert (tmp_path / "first.pdf").read_bytes() == (tmp_path / "second.pdf").read_bytes()


def test_failed_runs_are_counted(make_record: MakeRecord) -> None:
    records = [
        make_record(seed=seed, parameters={"synthetic_size": size})
        for seed in (0, 1)
        for size in (16, 64)
    ]
    records.append(make_record(seed=2, parameters={"synthetic_size": 16}, error="OSError"))
    assert "1 failed run left out" in words(sizes(runs_frame(records)))[1]


def test_runs_of_a_sweep_without_a_record_are_counted() -> None:
    records = grown()
    stored = StoredResults(records[1:-1], [record.spec for record in records])
    text = words(sizes(stored.every_run))[1]
    assert text.endswith(
        "Mean over 2 to 3 seeds with 95 % band (Student's t). 2 runs without a record."
    )
    assert "without a record" not in words(sizes(runs_frame(records)))[1]


def test_two_cells_of_one_size_are_never_averaged(make_record: MakeRecord) -> None:
    records = [
        make_record(score=width, parameters={"synthetic_size": size}, student={"width": width})
        for width in (64, 256)
        for size in (16, 64)
    ]
    with pytest.raises(FigureError, match="at 16 synthetic pairs has 2 cells, such as"):
        sizes(runs_frame(records))


# --- pruning ------------------------------------------------------------------------------------


def pruned(fraction: float, criterion: str, scores: Sequence[float]) -> list[Record]:
    given = {"fraction": fraction, "criterion": criterion}
    return [
        build_record("pruned", "hopper/medium", seed, score, parameters=given)
        for seed, score in enumerate(scores)
    ]


def test_all_of_the_data_is_a_point_of_every_criterions_line() -> None:
    records = [
        *pruned(1.0, "random", [50.0, 52.0]),
        *pruned(0.1, "random", [20.0, 22.0]),
        *pruned(0.1, "early_loss", [30.0, 32.0]),
        *pruned(0.01, "early_loss", [4.0, 6.0]),
        build_record(
            "pruned",
            "hopper/medium",
            9,
            error="OSError",
            parameters={"fraction": 0.1, "criterion": "random"},
        ),
        *grown(),
    ]
    runs = StoredResults(records).with_parameters("fraction", "criterion")
    assert runs.loc[runs["method"] == "av_pbc", "fraction"].isna().all()
    (axes,) = pruning(runs).axes
    assert {name: points(line) for name, line in lines_of(axes).items()} == {
        "early_loss": ([1, 10, 100], [5.0, 31.0, 51.0]),
        "random": ([10, 100], [21.0, 51.0]),
    }
    assert axes.get_xlabel() == "% of the transitions kept"


def test_parts_of_the_data_without_a_record_are_counted() -> None:
    records = [
        *pruned(1.0, "random", [50.0, 52.0]),
        *pruned(0.1, "random", [20.0, 22.0]),
        *pruned(0.01, "utility", [20.0, 22.0]),
    ]
    stored = StoredResults(records[:4], [record.spec for record in records])
    runs = stored.with_parameters("fraction", "criterion")
    assert set(runs.loc[runs["status"] == "missing", "criterion"]) == {"utility"}
    figure = pruning(runs)
    assert list(lines_of(figure.axes[0])) == ["random"]
    assert words(figure)[1].endswith(" 2 runs without a record.")


@pytest.mark.parametrize("records", [grown(), pruned(1.0, "random", [1.0])])
def test_without_two_fractions_there_is_no_figure(records: list[Record]) -> None:
    with pytest.raises(FigureError, match="No criterion of pruned has complete runs at two"):
        pruning(StoredResults(records).with_parameters("fraction", "criterion"))
