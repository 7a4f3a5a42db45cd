"""The convergence figure: what it draws, and the files it writes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from paper_figures import over_datasets
from paper_figures.curves import (
    MOST_OF_A_FAMILY,
    MOST_TOGETHER,
    against_environment_steps,
    against_seconds,
    convergence,
)
from paper_figures.figure import DOTS_PER_INCH, FigureError, words, write_formats
from paper_figures.palette import look
from results.frames import curves_frame, runs_frame
from results.statistics import mean
from tests.results.conftest import MakeRecord, Record, build_spec
from tests.tiny_runs import altered

Sweep = Callable[..., list[Record]]


def points(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def curves_in(axes: Axes) -> list[Line2D]:
    """The lines that are not horizontal references (those have two points)."""
    return [line for line in axes.lines if len(points(line)[0]) > 2]


def test_one_panel_a_dataset_in_the_papers_order_with_field_labels(make_sweep: Sweep) -> None:
    given = ["hopper/medium-expert", "ant/medium", "hopper/medium-replay", "hopper/medium"]
    figure = convergence(curves_frame(make_sweep(given)))
    assert [axes.get_title() for axes in figure.axes] == [
        "ant/medium", "hopper/medium-replay", "hopper/medium", "hopper/medium-expert",
    ]  # fmt: skip
    # Two by two: what panels share is named once.
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "outer step", "outer step"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["normalized return", ""] * 2


def test_the_caption_says_protocol_student_seeds_and_interval(make_sweep: Sweep) -> None:
    title, caption = words(convergence(curves_frame(make_sweep())))
    assert title == "Normalized return against outer step"
    for part in (
        "4 students x 10 episodes",
        "mlp 4x64",
        "100 steps",
        "5 seeds",
        "95 % band (Student's t)",
    ):
        assert part in caption


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


def test_a_method_with_one_checkpoint_is_a_line_whose_marker_has_the_interval(
    make_record: MakeRecord,
) -> None:
    scores = [5.0, 6.0, 10.0]
    records = [make_record("random", seed=i, score=score) for i, score in enumerate(scores)]
    (axes,) = convergence(curves_frame(records)).axes
    line, marker, *_ = axes.lines
    assert points(line)[1] == [7.0, 7.0]
    assert points(marker)[1] == [7.0]
    ((_, low), (_, high)) = axes.collections[0].get_segments()[0]  # type: ignore[attr-defined]
    assert (low, high) == pytest.approx((mean(scores).low, mean(scores).high))


def test_a_single_seed_has_a_line_but_no_interval(make_record: MakeRecord) -> None:
    figure = convergence(curves_frame([make_record("random")]))
    assert not figure.axes[0].collections
    assert "1 seed." in words(figure)[1]


def test_references_far_above_the_rest_are_written_with_their_mean(
    make_record: MakeRecord,
) -> None:
    records = [make_record(seed=i, curve=[1.0, 20.0]) for i in range(2)]
    records += [make_record("teacher", seed=i, score=90.0 + i) for i in range(2)]
    near = [make_record("bc_whole", seed=i, score=22.0 + i) for i in range(2)]
    (axes,) = convergence(curves_frame(records + near)).axes
    assert [text.get_text() for text in axes.texts] == ["\u2191 teacher 90"]
    heights = [y for line in axes.lines for y in points(line)[1]]
    assert 22.5 in heights and max(heights) < 30
    (alone,) = convergence(curves_frame(records[2:])).axes
    assert not alone.texts, "with nothing else, a reference is drawn"


def test_failed_runs_are_left_out_and_counted(make_record: MakeRecord) -> None:
    records = [make_record(seed=0, curve=[1.0, 2.0, 3.0])]
    records += [make_record(seed=seed, curve=[90.0], error="OSError") for seed in (1, 2)]
    records[-1] = altered(records[-1], checkpoints=[])  # failed before its first checkpoint
    (axes,) = convergence(curves_frame(records)).axes
    assert [points(line) for line in curves_in(axes)] == [([0, 200, 400], [1.0, 2.0, 3.0])]
    assert axes.get_title() == "hopper/medium-replay\n2 failed runs left out"


def test_runs_without_a_record_are_counted_and_datasets_without_any_are_named(
    make_record: MakeRecord,
) -> None:
    records = [make_record(seed=seed, curve=[1.0, 2.0]) for seed in (0, 1)]
    records.append(make_record(seed=2, error="OSError"))
    asked = [build_spec(seed=seed) for seed in range(5)]
    asked += [build_spec(dataset="ant/medium", seed=seed) for seed in range(2)]
    figure = convergence(curves_frame(records, asked))
    (axes,) = figure.axes
    assert axes.get_title() == (
        "hopper/medium-replay\n1 failed run left out\n2 runs without a record"
    )
    assert words(figure)[1].endswith("Without a record: ant/medium.")
    timed = [altered(r, cost__checkpoint_cpu_seconds=[0.0, 9.0]) for r in records[:2]]
    (axes,) = against_seconds(curves_frame(timed, asked[:4])).axes
    assert axes.get_title().endswith("2 runs without a record")


def test_a_dataset_whose_runs_all_failed_keeps_an_empty_panel(make_record: MakeRecord) -> None:
    records = [make_record(), make_record(dataset="ant/medium", error="OSError")]
    empty, _ = convergence(curves_frame(records)).axes
    assert empty.get_title() == "ant/medium\n1 failed run left out"
    assert not empty.lines
    assert not empty.get_xticks().size


def test_nothing_to_draw_is_an_error(make_record: MakeRecord) -> None:
    with pytest.raises(FigureError, match="None of the 1 runs given is complete"):
        convergence(curves_frame([make_record(error="OSError")]))


def test_a_method_looks_the_same_whatever_else_is_drawn(make_sweep: Sweep) -> None:
    records = make_sweep()
    for given in (records, [r for r in records if r.spec.method in ("pbc", "teacher")]):
        figure = convergence(curves_frame(given))
        entry = next(x for x in figure.legends[0].get_lines() if x.get_label() == "pbc")
        (line,) = (x for x in figure.axes[0].lines if x.get_color() == look("pbc").color)
        for drawn in (entry, line):
            assert (drawn.get_color(), drawn.get_marker()) == (look("pbc").color, "s")


def test_many_methods_are_rows_of_panels_by_family_with_common_lines(
    make_record: MakeRecord,
) -> None:
    unrolled = ("av_pbc", "pbc", "dbc", "sdw_obd")
    matching = ("gradient_matching", "distribution_matching")
    methods = (*unrolled, *matching, "hades", "evolution_strategies", "herding")
    assert len(methods) > MOST_TOGETHER
    records = [
        make_record(name, dataset, curve=[1.0, 2.0, 3.0])
        for name in methods
        for dataset in ("hopper/medium", "ant/medium")
    ]
    records += [make_record(x, "ant/medium", score=3.0) for x in ("random", "teacher")]
    figure = convergence(curves_frame(records))
    rows = figure.axes[1::2]
    legends = [axes.get_legend() for axes in rows]
    assert all(legends)
    found = {x.get_title().get_text(): [t.get_text() for t in x.get_texts()] for x in legends if x}
    assert found == {
        "unrolled": ["av_pbc", "dbc", "pbc", "sdw_obd", "random", "teacher"],
        "parameter matching": ["gradient_matching", "av_pbc", "random", "teacher"],
        "distribution matching": ["distribution_matching", "av_pbc", "random", "teacher"],
        "evolution": ["evolution_strategies", "hades", "av_pbc", "random", "teacher"],
        "selection": ["herding", "random", "av_pbc", "teacher"],
    }
    first, second = figure.axes[0], figure.axes[2]
    colors = {line.get_color() for line in first.lines}
    assert {look(x).color for x in found["unrolled"]} == colors
    # A guest is a horizontal line at its last checkpoint: rows count steps of different kinds.
    (guest,) = (
        x for x in second.lines if x.get_color() == look("av_pbc").color and len(points(x)[0]) == 2
    )
    assert points(guest)[1] == [3.0, 3.0]


def test_settings_of_common_methods_have_panels_like_any_other(make_record: MakeRecord) -> None:
    records = [
        make_record(name, parameters={"synthetic_size": size}, curve=[1.0, float(size)])
        for name in ("av_pbc", "random")
        for size in (16, 32, 64, 128, 256)
    ]
    figure = convergence(curves_frame(records))
    assert [len(curves) for curves in map(labels_in, figure.axes)] == [5, 5]
    (only,) = convergence(curves_frame([*records[:5], make_record("pbc")])).axes
    assert len(only.lines) == 5 + 2, "few labels share a panel"


def labels_in(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def labels_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("more", [1, 3])
def test_of_very_many_methods_the_best_are_drawn_and_the_caption_says_so(
    make_record: MakeRecord, more: int
) -> None:
    # By their last checkpoints: the worst at the end are the best before, and written last.
    count = MOST_OF_A_FAMILY + more
    curves = {f"m{i:02}": [100.0 - i, 50.0, float(i)] for i in range(count)}
    records = [
        make_record(name, dataset, curve=curve)
        for dataset in ("hopper/medium", "ant/medium")
        for name, curve in curves.items()
    ]
    records = [altered(r, checkpoints=r.checkpoints[::-1]) for r in records]
    figure = convergence(curves_frame(records))
    assert labels_of(figure) == [f"m{i:02}" for i in range(more, count)]
    assert [len(curves_in(axes)) for axes in figure.axes] == [MOST_OF_A_FAMILY] * 2
    assert f" {more} methods of lower mean are not drawn" in words(figure)[1]


def test_the_best_are_those_of_the_highest_mean_over_seeds_and_datasets(
    make_record: MakeRecord,
) -> None:
    names = [f"m{i:02}" for i in range(MOST_OF_A_FAMILY)]
    records = [make_record(name, score=20.0) for name in names]
    lucky = [make_record("lucky", seed=seed, score=s) for seed, s in enumerate((50.0, 0.0, 0.0))]
    even = [make_record("even", seed=seed, score=21.0) for seed in range(2)]
    one = [make_record("one", d, score=s) for d, s in (("ant/medium", 39.0), ("b/medium", 0.0))]
    drawn = labels_of(convergence(curves_frame([*records, *lucky, *even, *one])))
    assert "even" in drawn
    assert not {"lucky", "one", names[-1]} & set(drawn), "equal means are kept in alphabetic order"
    assert len(drawn) == MOST_OF_A_FAMILY


def test_files_are_a_pdf_a_png_and_an_svg_of_the_figure_s_size(
    make_sweep: Sweep, tmp_path: Path
) -> None:
    curves = curves_frame(make_sweep(["a", "b", "c", "d"]))
    pdf, png, svg = write_formats(convergence(curves), tmp_path / "figures", "four")
    assert (pdf.name, png.name, svg.name) == ("four.pdf", "four.png", "four.svg")
    assert pdf.read_bytes().startswith(b"%PDF-1.")
    assert pdf.read_bytes().rstrip().endswith(b"%%EOF")
    header = png.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    size = convergence(curves).get_size_inches() * DOTS_PER_INCH
    assert struct.unpack(">II", header[16:]) == pytest.approx(size, abs=1)


@pytest.mark.parametrize("name", ["pbc", "a_method_with_a_long_name", "long_" * 18 + "end"])
def test_legend_title_caption_and_panels_stay_inside_the_figure_and_apart(
    make_record: MakeRecord, name: str
) -> None:
    records = [
        make_record(name, parameters={"synthetic_size": size}, curve=[1, 2])
        for size in (16, 32, 64, 128, 256)
    ]
    figure = convergence(curves_frame(records))
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    title, caption = (text.get_window_extent() for text in figure.texts)
    for box in (legend, title, caption):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    for axes in figure.axes:
        panel = axes.get_tightbbox()
        assert panel is not None
        assert panel.x1 <= legend.x0
        assert caption.y1 <= panel.y0 < panel.y1 <= title.y0
        assert panel.width > 0.4 * figure.bbox.width


def test_same_records_give_the_same_bytes(
    make_sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = make_sweep()
    monkeypatch.setattr("threading.active_count", lambda: 1)  # pytest-xdist has some
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    first = write_formats(convergence(curves_frame(records)), tmp_path / "first", "one")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})  # in forks
    second = write_formats(convergence(curves_frame(records[::-1])), tmp_path / "second", "one")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert b"CreationDate" not in first[0].read_bytes()


def test_a_text_is_drawn_as_it_is_and_not_as_a_formula(
    make_record: MakeRecord, tmp_path: Path
) -> None:
    note = "$\\frac{$\x1b</a>"
    records = [
        make_record(parameters={"synthetic_size": 64, "note": note * i}, curve=[1, 2])
        for i in range(2)
    ]
    runs = runs_frame(records)
    for figure in (
        convergence(curves_frame(records)), over_datasets.cost(runs), over_datasets.aggregate(runs)
    ):  # fmt: skip
        _, _, svg = write_formats(figure, tmp_path, "figure")
        texts = ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")
        shown = note.replace("\x1b", "\\x1b")
        assert any(shown in "".join(text.itertext()) for text in texts)


def test_a_row_of_panels_is_as_tall_as_the_legend_next_to_it(make_record: MakeRecord) -> None:
    """A legend that is taller than its row would press all panels to nothing."""
    records = [
        make_record(method, dataset, parameters={"synthetic_size": size}, curve=[1, 2, 3])
        for method in ("distribution_matching", "trajectory_matching")
        for dataset in ("ant/medium", "hopper/medium")
        for size in range(1, MOST_OF_A_FAMILY + 1)
    ]
    figure = convergence(curves_frame(records))
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.get_legend()]
    assert len(panels) == 2
    boxes = [axes.get_window_extent() for axes in panels]
    legends = [legend.get_window_extent() for axes in panels if (legend := axes.get_legend())]
    assert min(box.height for box in boxes) > figure.dpi
    assert legends[1].y1 <= legends[0].y0, "they do not cover each other"
    assert all(figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1 for box in legends)


def test_a_figure_is_laid_out_once_for_all_formats(
    make_sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts: list[Figure] = []
    execute = ConstrainedLayoutEngine.execute

    def counted(self: ConstrainedLayoutEngine, figure: Figure) -> Any:
        layouts.append(figure)
        return execute(self, figure)

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", counted)
    write_formats(convergence(curves_frame(make_sweep())), tmp_path, "one")
    assert len(layouts) == 1


# --- against processor seconds ------------------------------------------------------------------


def test_checkpoints_are_drawn_at_their_mean_seconds(make_record: MakeRecord) -> None:
    records = [
        altered(
            make_record(method, seed=seed, score=9.0, curve=[1.0 + seed, 5.0, 9.0]),
            cost__checkpoint_cpu_seconds=[0.5, cost * 2.0 + seed, cost * 4.0 + seed],
        )
        for method, cost in (("av_pbc", 3), ("frepo", 1))
        for seed in range(3)
    ]
    records += [make_record("teacher", seed=seed) for seed in range(3)]  # a reference has no curve
    figure = against_seconds(curves_frame(records))
    (axes,) = figure.axes
    found = sorted(points(line) for line in curves_in(axes))
    assert found == [
        ([0.5, 3.0, 5.0], [2.0, 5.0, 9.0]),
        ([0.5, 7.0, 13.0], [2.0, 5.0, 9.0]),
    ]
    assert axes.get_xlabel() == "processor seconds of distillation"
    assert words(figure)[0] == "Normalized return against processor seconds of distillation"


def test_a_failed_run_moves_no_curve(make_record: MakeRecord) -> None:
    def run(seed: int, seconds: list[float], error: str | None = None) -> Record:
        record = make_record(seed=seed, score=9.0, curve=[1.0, 5.0, 9.0][: len(seconds)],
                             error=error)  # fmt: skip
        return altered(record, cost__checkpoint_cpu_seconds=seconds)

    records = [run(seed, [0.0, 10.0, 20.0]) for seed in range(4)]
    figure = against_seconds(curves_frame([*records, run(4, [0.0, 200.0], "NotFinite")]))
    assert points(curves_in(figure.axes[0])[0])[0] == [0.0, 10.0, 20.0]


def test_runs_without_seconds_are_named(make_record: MakeRecord) -> None:
    with pytest.raises(FigureError, match=r"av_pbc\S+seed0, have no seconds.*obdbench sweep"):
        against_seconds(curves_frame([make_record(curve=[1.0, 2.0])]))


def test_published_ends_are_lines_across_the_steps_of_the_search(make_record: MakeRecord) -> None:
    records = [
        altered(
            make_record("hades", seed=seed, score=9.0, curve=[1.0, 5.0, 9.0]),
            cost__environment_steps=4000 + 2 * seed,
            cost__checkpoint_environment_steps=[0, 2000, 4000 + 2 * seed],
        )
        for seed in range(3)
    ]
    figure = against_environment_steps(
        curves_frame(records), {records[0].spec.dataset: {"published": 50.0}, "another": {"x": 1.0}}
    )
    (axes,) = figure.axes
    assert points(curves_in(axes)[0]) == ([0.0, 2000.0, 4002.0], [1.0, 5.0, 9.0])
    assert [text.get_text() for text in axes.texts] == ["published"]
    assert any(list(line.get_ydata()) == [50.0, 50.0] for line in axes.lines)


def test_runs_without_environment_steps_are_named(make_record: MakeRecord) -> None:
    with pytest.raises(FigureError, match=r"seed0, have no environment steps of their checkp"):
        against_environment_steps(curves_frame([make_record(curve=[1.0, 2.0])]), {})


@pytest.mark.parametrize(
    ("slow", "fast", "expected"),
    [
        # Seed 0 takes 200,000 environment steps per checkpoint, seed 1 half as many; both end at
        # 800,000. The mean steps of a checkpoint of both are those of a later one of seed 1 alone.
        ([0.0, 25.0, 50.0, 75.0, 100.0],
         [0.0, 12.5, 25.0, 37.5, 50.0, 62.5, 75.0, 87.5, 100.0],
         ([0.0, 150e3, 300e3, 450e3, 800e3], [0.0, 18.75, 37.5, 56.25, 100.0])),
        # Seed 1 goes on for more outer steps, and ends at fewer environment steps.
        ([0.0] * 5, [0.0, 10.0, 20.0, 30.0, 40.0, 60.0],
         ([0.0, 150e3, 300e3, 450e3, 650e3], [0.0, 5.0, 10.0, 15.0, 30.0])),
    ],
)  # fmt: skip
def test_every_seed_is_once_in_every_point_against_environment_steps(
    make_record: MakeRecord,
    slow: list[float],
    fast: list[float],
    expected: tuple[list[float], list[float]],
) -> None:
    records = [
        altered(
            make_record("hades", seed=seed, score=curve[-1], curve=curve),
            cost__environment_steps=each * (len(curve) - 1),
            cost__checkpoint_environment_steps=[each * i for i in range(len(curve))],
        )
        for seed, (curve, each) in enumerate(((slow, 200_000), (fast, 100_000)))
    ]
    (axes,) = against_environment_steps(curves_frame(records), {}).axes
    assert points(curves_in(axes)[0]) == expected


def test_a_method_that_plays_no_steps_is_a_line_at_its_last_checkpoint(
    make_record: MakeRecord,
) -> None:
    records = [
        altered(
            make_record(method, seed=seed, score=9.0, curve=[1.0, 5.0, 9.0]),
            cost__checkpoint_environment_steps=[0, played, 2 * played],
        )
        for method, played in (("hades", 2000), ("av_pbc", 0))
        for seed in range(3)
    ]
    (axes,) = against_environment_steps(curves_frame(records), {}).axes
    assert points(curves_in(axes)[0]) == ([0.0, 2000.0, 4000.0], [1.0, 5.0, 9.0])
    (level,) = (x for x in axes.lines if x.get_color() == look("av_pbc").color and
                len(points(x)[0]) == 2)  # fmt: skip
    assert points(level)[1] == [9.0, 9.0]
