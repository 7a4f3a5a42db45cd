"""The convergence figure: what it draws, and the files it writes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures.curves import MOST_LINES, convergence
from paper_figures.figure import DOTS_PER_INCH, FigureError, write_formats
from results.frames import curves_frame
from results.statistics import mean
from tests.results.conftest import MakeRecord, Record
from tests.tiny_runs import altered

Sweep = Callable[..., list[Record]]


def points(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def curves_in(axes: Axes) -> list[Line2D]:
    """The lines that are not horizontal references (those have two points)."""
    return [line for line in axes.lines if len(points(line)[0]) > 2]


def test_one_panel_a_dataset_with_field_labels(make_sweep: Sweep) -> None:
    figure = convergence(curves_frame(make_sweep(["hopper/medium", "ant/medium"])))
    assert [axes.get_title() for axes in figure.axes] == [
        "ant/medium (5 seeds)",
        "hopper/medium (5 seeds)",
    ]
    for axes in figure.axes:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("outer step", "normalized return")
    assert "4 students x 10 episodes" in figure.get_suptitle()


def test_lines_are_means_over_seeds_with_their_bands(make_record: MakeRecord) -> None:
    finals = [10.0, 12.0, 17.0]
    records = [make_record(seed=i, curve=[0.0, 1.0 + i, f]) for i, f in enumerate(finals)]
    (axes,) = convergence(curves_frame(records)).axes
    assert [points(line) for line in curves_in(axes)] == [([0, 200, 400], [0.0, 2.0, 13.0])]
    (band,) = axes.collections
    last = mean(finals)
    outline = np.asarray(band.get_paths()[0].vertices)
    heights = outline[outline[:, 0] == 400, 1]
    assert (heights.min(), heights.max()) == pytest.approx((last.low, last.high))


def test_runs_that_end_at_different_steps_have_their_ends_at_the_mean_of_those(
    make_record: MakeRecord,
) -> None:
    records = [
        make_record(seed=0, curve=[0.0, 10.0, 30.0]),  # steps 0, 200, 400
        make_record(seed=1, curve=[4.0, 20.0, 99.0, 50.0]),  # and 600
    ]
    (axes,) = convergence(curves_frame(records)).axes
    (line,) = curves_in(axes)
    assert points(line) == ([0, 200, 500], [2.0, 15.0, 40.0])  # no point of a single seed


def test_ends_whose_mean_is_another_runs_checkpoint_are_still_drawn(
    make_record: MakeRecord,
) -> None:
    curves = [[0.0, 1.0, 6.0], [0.0, 2.0, 50.0, 7.0], [0.0, 3.0, 60.0, 70.0, 8.0]]
    records = [make_record(seed=seed, curve=curve) for seed, curve in enumerate(curves)]
    (axes,) = convergence(curves_frame(records)).axes  # ends at 400, 600 and 800
    (line,) = curves_in(axes)
    assert points(line) == ([0, 200, 600], [0.0, 2.0, 7.0])


def test_a_method_with_one_checkpoint_is_a_horizontal_line(make_record: MakeRecord) -> None:
    records = [make_record("random", seed=seed, score=5.0 + seed) for seed in range(3)]
    (axes,) = convergence(curves_frame(records)).axes
    (line,) = axes.lines
    assert points(line)[1] == [6.0, 6.0]
    assert len(axes.patches) == 1


def test_a_single_seed_has_a_line_but_no_band(make_record: MakeRecord) -> None:
    (axes,) = convergence(curves_frame([make_record("random")])).axes
    assert (len(axes.lines), len(axes.patches)) == (1, 0)
    assert axes.get_title() == "hopper/medium-replay (1 seed)"


def test_failed_runs_are_left_out_and_counted(make_record: MakeRecord) -> None:
    records = [make_record(seed=0, curve=[1.0, 2.0, 3.0])]
    records += [make_record(seed=seed, curve=[90.0], error="OSError") for seed in (1, 2)]
    records[-1] = altered(records[-1], checkpoints=[])  # failed before its first checkpoint
    (axes,) = convergence(curves_frame(records)).axes
    assert [points(line) for line in curves_in(axes)] == [([0, 200, 400], [1.0, 2.0, 3.0])]
    assert axes.get_title().endswith("2 failed runs left out")


def test_a_dataset_whose_runs_all_failed_keeps_an_empty_panel(make_record: MakeRecord) -> None:
    records = [make_record(), make_record(dataset="ant/medium", error="OSError")]
    empty, _ = convergence(curves_frame(records)).axes
    assert empty.get_title() == "ant/medium (no seeds)\n1 failed run left out"
    assert not empty.lines
    assert not empty.get_xticks().size


def test_nothing_to_draw_is_an_error(make_record: MakeRecord) -> None:
    with pytest.raises(FigureError, match="None of the 1 runs given is complete"):
        convergence(curves_frame([make_record(error="OSError")]))


def test_methods_differ_in_colour_and_in_dashes_and_marker(make_sweep: Sweep) -> None:
    figure = convergence(curves_frame(make_sweep()))
    entries = figure.legends[0].get_lines()
    assert len({str(line.get_color()) for line in entries}) == len(entries) == 5
    lines = curves_in(figure.axes[0])
    assert len({line.get_linestyle() for line in lines}) == 3
    assert len({line.get_marker() for line in lines}) == 3


def labels_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("more", [0, 1, 3])
def test_of_very_many_methods_the_best_are_drawn_and_the_title_says_so(
    make_record: MakeRecord, more: int
) -> None:
    # By their last checkpoints: the worst at the end are the best before, and written last.
    count = MOST_LINES + more
    curves = {f"m{i:02}": [100.0 - i, 50.0, float(i)] for i in range(count)}
    records = [
        make_record(name, dataset, curve=curve)
        for dataset in ("hopper/medium", "ant/medium")
        for name, curve in curves.items()
    ]
    records = [altered(r, checkpoints=r.checkpoints[::-1]) for r in records]
    records += [make_record(name, "ant/medium", score=-1) for name in ("teacher", "bc_whole")]
    figure = convergence(curves_frame(records))
    kept = [f"m{i:02}" for i in range(more, count)]
    assert labels_of(figure) == [*kept, "bc_whole", "teacher"], "references are always drawn"
    assert [len(curves_in(axes)) for axes in figure.axes] == [MOST_LINES, MOST_LINES]
    said = f"; {more} methods of lower mean are not drawn"
    assert figure.get_suptitle().endswith(said if more else "bootstrap band")


def test_the_best_are_those_of_the_highest_mean_over_seeds_and_datasets(
    make_record: MakeRecord,
) -> None:
    names = [f"m{i:02}" for i in range(MOST_LINES)]
    records = [make_record(name, score=20.0) for name in names]
    lucky = [make_record("lucky", seed=seed, score=s) for seed, s in enumerate((50.0, 0.0, 0.0))]
    even = [make_record("even", seed=seed, score=21.0) for seed in range(2)]
    one = [make_record("one", d, score=s) for d, s in (("ant/medium", 39.0), ("b/medium", 0.0))]
    drawn = labels_of(convergence(curves_frame([*records, *lucky, *even, *one])))
    assert "even" in drawn
    assert not {"lucky", "one", names[-1]} & set(drawn), "equal means are kept in alphabetic order"
    assert len(drawn) == MOST_LINES


def test_files_are_a_pdf_and_a_png_of_the_figure_s_size(make_sweep: Sweep, tmp_path: Path) -> None:
    curves = curves_frame(make_sweep(["a", "b", "c", "d"]))
    pdf, png = write_formats(convergence(curves), tmp_path / "figures", "four")
    assert (pdf.name, png.name) == ("four.pdf", "four.png")
    assert pdf.read_bytes().startswith(b"%PDF-1.")
    assert pdf.read_bytes().rstrip().endswith(b"%%EOF")
    header = png.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    size = convergence(curves).get_size_inches() * DOTS_PER_INCH
    assert struct.unpack(">II", header[16:]) == pytest.approx(size, abs=1)


@pytest.mark.parametrize("name", ["pbc", "a_method_with_a_long_name", "word " * 40 + "end"])
def test_legend_and_panels_stay_inside_the_figure_and_apart(
    make_record: MakeRecord, name: str
) -> None:
    records = [
        make_record(name, parameters={"synthetic_size": size}, curve=[1, 2])
        for size in (16, 32, 64, 128, 256)
    ]
    figure = convergence(curves_frame(records))
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0 < legend.x1 <= figure.bbox.x1
    for axes in figure.axes:
        panel = axes.get_tightbbox()
        assert panel is not None
        assert legend.y1 <= panel.y0
        assert panel.height > 0.4 * figure.bbox.height or name.startswith("word")


def test_same_records_give_the_same_bytes(make_sweep: Sweep, tmp_path: Path) -> None:
    records = make_sweep()
    first = write_formats(convergence(curves_frame(records)), tmp_path / "first", "one")
    second = write_formats(convergence(curves_frame(records[::-1])), tmp_path / "second", "one")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert b"CreationDate" not in first[0].read_bytes()
