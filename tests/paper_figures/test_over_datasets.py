"""Figures across datasets: what they draw, against numbers reckoned by hand from the scores."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.record import Failure
from paper_figures.figure import FigureError, words, write_figure
from paper_figures.over_datasets import aggregate, cost, improvement, profiles, ranks
from results.frames import runs_frame
from results.statistics import iqm_over_runs, mean_over_tasks, stratified
from tests.results.conftest import MakeRecord, Record
from tests.tiny_runs import altered

Sweep = Callable[..., list[Record]]
DATASETS = ["ant/medium", "hopper/medium"]
BY_MEAN = ["teacher", "bc_whole", "av_pbc", "pbc", "dbc"]
METHODS = BY_MEAN[2:]
FIGURES: list[Callable[[pd.DataFrame], Figure]] = [aggregate, profiles, improvement, ranks, cost]
Scores = dict[str, dict[str, list[float]]]


@pytest.fixture
def records(make_sweep: Sweep) -> list[Record]:
    """Five seeds of three methods and two references on two datasets."""
    return make_sweep(DATASETS)


def scores_of(records: Sequence[Record]) -> Scores:
    """Method -> dataset -> scores by seed, straight from the records."""
    scores: Scores = {}
    for record in records:
        spec, score = record.spec, record.score.normalized_return
        scores.setdefault(spec.method, {}).setdefault(spec.dataset, []).append(score)
    return scores


def labels_down(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def bars(axes: Axes) -> dict[str, list[float]]:
    """Widths of each label's bars from left to right."""
    found: dict[str, list[tuple[float, float]]] = {}
    for (row, label), patch in itertools.product(enumerate(labels_down(axes)), axes.patches):
        if round(patch.get_y() + patch.get_height() / 2) == row:
            found.setdefault(label, []).append((patch.get_x(), patch.get_width()))
    return {label: [width for _, width in sorted(parts)] for label, parts in found.items()}


# --- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", FIGURES)
def test_title_and_caption_say_datasets_protocol_student_seeds_and_interval(
    make: Callable[[pd.DataFrame], Figure], records: list[Record]
) -> None:
    title, caption = words(make(runs_frame(records)))
    assert "2 datasets" in title
    kinds = {aggregate: "Student's t", profiles: "Wilson's", cost: "Student's t"}
    assert "2 datasets, 5 seeds" in caption
    if make in kinds:
        assert f"5 seeds; 95 % intervals ({kinds[make]})." in caption
    assert ("intervals" in caption) == (make is not ranks), "ranks are drawn without one"
    assert "4 students x 10 episodes" in caption and "Student: mlp 4x64" in caption
    one = [record for record in records if record.spec.dataset == "ant/medium"]
    title, caption = words(make(runs_frame(one)))
    assert "ant/medium" in title
    assert "ant/medium, 5 seeds" in caption


@pytest.mark.parametrize("make", FIGURES)
def test_a_method_that_lacks_a_dataset_is_named_and_not_drawn(
    make: Callable[[pd.DataFrame], Figure], records: list[Record], make_record: MakeRecord
) -> None:
    records += [make_record("hades", "ant/medium", seed) for seed in range(3)]
    records += [make_record("sdw_obd", dataset, error="OSError") for dataset in DATASETS[:1]]
    records.append(make_record("sdw_obd", DATASETS[1]))
    figure = make(runs_frame(records))
    assert "Without enough runs on every dataset: hades, sdw_obd" in words(figure)[1]
    drawn = [text.get_text() for axes in figure.axes for text in axes.findobj(match=_is_text)]
    assert not {"hades", "sdw_obd"} & set(drawn)


@pytest.mark.parametrize("make", FIGURES)
def test_methods_with_other_teachers_of_one_name_are_named(
    make: Callable[[pd.DataFrame], Figure], records: list[Record]
) -> None:
    assert "several files" not in words(make(runs_frame(records)))[1]
    other = [altered(r, teacher__sha256="1" * 64) if r.spec.method == "dbc" else r for r in records]
    said = f"teacher td3_bc on {DATASETS[0]}: av_pbc"
    assert said in words(make(runs_frame(other)))[1]


@pytest.mark.parametrize("make", FIGURES)
def test_runs_that_failed_or_are_missing_are_counted(
    make: Callable[[pd.DataFrame], Figure], records: list[Record]
) -> None:
    assert "Complete runs:" not in words(make(runs_frame(records)))[1]
    gone, *rest = [r for r in records if r.spec.method == "dbc"]
    error = Failure(type="OSError", message="", traceback="")
    failed = altered(rest[0], status="failed", score=None, error=error)
    left = [r for r in records if r not in (gone, rest[0])]
    frame = runs_frame([*left, failed], asked=[gone.spec])
    assert "Complete runs: dbc 8 of 10, 1 failed." in words(make(frame))[1]


@pytest.mark.parametrize("make", FIGURES)
def test_settings_and_teachers_that_differ_between_datasets_are_named(
    make: Callable[[pd.DataFrame], Figure], make_record: MakeRecord
) -> None:
    found = []
    for dataset, size, teacher in (
        ("ant/medium", 16, "cal_ql"), ("hopper/medium", 64, "td3_bc"),
        ("walker2d/medium", 64, "td3_bc"),
    ):  # fmt: skip
        for seed in range(2):
            alike = make_record("random", dataset, seed, 5.0 + seed)
            one = make_record(
                "av_pbc", dataset, seed, 20.0 + seed, parameters={"synthetic_size": size}
            )
            spec = dataclasses.replace(one.spec, teacher=teacher)
            found += [alike, altered(one, spec=spec, run_id=spec.run_id, cell_id=spec.cell_id)]
    assert (
        "Settings differ between datasets: av_pbc with synthetic_size=16, teacher=cal_ql on "
        "ant/medium, synthetic_size=64, teacher=td3_bc elsewhere."
    ) in words(make(runs_frame(found)))[1]
    assert "Settings" not in words(make(runs_frame(found[4:])))[1], "hopper and walker2d are alike"


def test_a_single_seed_has_no_certain_rank(records: list[Record]) -> None:
    left = [r for r in records if r.spec.method != "av_pbc" or r.spec.seed == 0]
    figure = ranks(runs_frame(left))
    assert "av_pbc" not in labels_down(figure.axes[0])
    assert "Without enough runs on every dataset: av_pbc." in words(figure)[1]


def _is_text(artist: object) -> bool:
    return hasattr(artist, "get_text")


@pytest.mark.parametrize("make", FIGURES)
@pytest.mark.parametrize("given", ["nothing", "failed", "apart"])
def test_what_cannot_be_compared_gives_no_figure(
    make: Callable[[pd.DataFrame], Figure], given: str, make_record: MakeRecord
) -> None:
    records = {
        "nothing": [],
        "failed": [make_record(error="OSError")],
        "apart": [make_record("pbc", DATASETS[0]), make_record("dbc", DATASETS[1])],
    }[given]
    with pytest.raises(FigureError, match="No method has a complete run on every dataset"):
        make(runs_frame(records))


@pytest.mark.parametrize("make", FIGURES)
def test_the_same_records_in_any_order_give_the_same_bytes(
    make: Callable[[pd.DataFrame], Figure], records: list[Record], tmp_path: Path
) -> None:
    few = [r for r in records if r.spec.method in ("av_pbc", "pbc", "teacher")]
    for name, given in (("first", few), ("second", few[::-1])):
        write_figure(make(runs_frame(given)), tmp_path / f"{name}.pdf")
    assert (tmp_path / "first.pdf").read_bytes() == (tmp_path / "second.pdf").read_bytes()


@pytest.mark.parametrize("make", FIGURES)
def test_single_seeds_are_drawn_without_intervals(
    make: Callable[[pd.DataFrame], Figure], make_record: MakeRecord
) -> None:
    records = [
        make_record(method, dataset, score=score)
        for method, score in (("pbc", 20.0), ("dbc", 10.0))
        for dataset in DATASETS
    ]
    if make is ranks:
        with pytest.raises(FigureError, match="a single seed on some dataset"):
            make(runs_frame(records))
        return
    figure = make(runs_frame(records))
    # One run each that all beat the others': a probability of 1 has an interval all the same.
    end = "; 95 % intervals (exact)." if make is improvement else "."
    assert f"2 datasets, 1 seed{end}" in words(figure)[1]
    if make is aggregate:
        assert [len(axes.lines) for axes in figure.axes] == [2, 2], "marks alone, no bars"
    if make is improvement:
        assert {text.get_fontweight() for text in figure.axes[0].texts} == {"normal"}


# --- one by one -------------------------------------------------------------------------------


def test_aggregates_are_the_trimmed_and_the_plain_mean_with_their_intervals(
    records: list[Record],
) -> None:
    scores = scores_of(records)

    def middle(tasks: Mapping[str, Sequence[float]]) -> float:
        pooled = np.sort(np.concatenate(list(tasks.values())))
        return float(pooled[len(pooled) // 4 : len(pooled) - len(pooled) // 4].mean())

    def plain(tasks: Mapping[str, Sequence[float]]) -> float:
        return float(np.mean([np.mean(task) for task in tasks.values()]))

    figure = aggregate(runs_frame(records))
    assert labels_down(figure.axes[0]) == BY_MEAN
    for axes, by_hand, statistic in zip(
        figure.axes, (middle, plain), (iqm_over_runs, mean_over_tasks), strict=True
    ):
        for row, label in enumerate(BY_MEAN):
            interval, mark = (
                np.asarray(line.get_xdata()) for line in axes.lines if line.get_ydata()[0] == row
            )
            assert mark == pytest.approx(by_hand(scores[label]))
            expected = stratified(scores[label], statistic)
            assert interval == pytest.approx([expected.low, expected.high])
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "IQM of normalized return",
        "mean of normalized return",
    ]


def test_profiles_are_the_fractions_of_runs_above_each_score(records: list[Record]) -> None:
    scores = scores_of(records)
    (axes,) = profiles(runs_frame(records)).axes
    assert [line.get_label() for line in axes.lines] == METHODS, "references are left out"
    for line in axes.lines:
        taus, fractions = np.asarray(line.get_xydata()).T
        tasks = scores[str(line.get_label())].values()
        by_hand = [np.mean([np.mean(np.asarray(s) > tau) for s in tasks]) for tau in taus]
        assert fractions == pytest.approx(by_hand)
        assert (fractions[0], fractions[-1]) == (1.0, 0.0)
    first = np.asarray(axes.lines[0].get_xdata())
    every = [score for label in METHODS for task in scores[label].values() for score in task]
    assert first[0] < min(every) < max(every) < first[-1]


def test_improvement_counts_pairs_of_runs_and_bolds_what_is_sure(records: list[Record]) -> None:
    scores = scores_of(records)
    axes, bar = improvement(runs_frame(records)).axes
    assert bar.get_ylabel() == "probability (%)"
    assert labels_down(axes) == [label.get_text() for label in axes.get_xticklabels()] == BY_MEAN

    def by_pairs(x: str, y: str) -> float:
        pairs = [
            [(a > b) + 0.5 * (a == b) for a, b in itertools.product(scores[x][d], scores[y][d])]
            for d in DATASETS
        ]
        return float(np.mean([np.mean(task) for task in pairs]))

    cells = {text.get_position(): text for text in axes.texts}
    for (row, x), (column, y) in itertools.permutations(enumerate(BY_MEAN), 2):
        text = cells.pop((column, row))
        assert text.get_text() == f"{100 * by_pairs(x, y):.0f}"
        # Every run of one above every run of the other is sure; av_pbc and pbc overlap.
        assert (text.get_fontweight() == "bold") == ({x, y} != {"av_pbc", "pbc"})
    assert not cells, "a method is not compared with itself"


def test_ranks_are_bars_of_probabilities(make_record: MakeRecord) -> None:
    scores = {"teacher": [90.0] * 2, "dbc": [1.0, 2.0], "pbc": [16.0] * 2, "av_pbc": [10.0, 20.0]}
    records = [
        make_record(method, "ant/medium", seed, score)
        for method, found in scores.items()
        for seed, score in enumerate(found)
    ]
    axes, bar = ranks(runs_frame(records)).axes
    assert bar.get_ylabel() == "rank (1: highest mean)"
    # A rank is also written: colour does not say it alone.
    assert sorted(text.get_text() for text in axes.texts) == ["1", "1", "2", "2", "3"]
    found = bars(axes)
    # av_pbc is drawn as 20 and 20 in one of four resamples, and beats 16 then alone.
    assert found["av_pbc"] == pytest.approx([0.25, 0.75, 0.0], abs=0.02)
    assert found["pbc"] == pytest.approx([0.75, 0.25, 0.0], abs=0.02)
    assert found["dbc"] == [0.0, 0.0, 1.0]
    assert list(found) == ["pbc", "av_pbc", "dbc"], "by mean, references left out"


def test_cost_has_each_method_at_its_mean_seconds_and_mean_score(make_record: MakeRecord) -> None:
    scores = {"dbc": 10.0, "pbc": 30.0, "av_pbc": 20.0, "sdw_obd": 40.0, "teacher": 90.0}
    seconds = {"dbc": 1.0, "pbc": 10.0, "av_pbc": 100.0, "sdw_obd": 1000.0, "teacher": 0.5}
    records = []
    for method, dataset, seed in itertools.product(scores, DATASETS, range(3)):
        record = make_record(method, dataset, seed, scores[method] + seed - 1)
        record.cost.cpu_seconds = seconds[method] * (1 + (seed - 1) / 2)
        records.append(record)
    figure = cost(runs_frame(records))
    (axes,) = figure.axes
    points = {
        str(bar.get_label()): tuple(np.asarray(bar.lines[0].get_xydata())[0])
        for bar in axes.containers
    }
    assert points == {
        label: pytest.approx((seconds[label], scores[label]))
        for label in scores
        if label != "teacher"
    }
    assert axes.get_xscale() == "log"
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(points)


def test_costs_dashed_line_joins_what_no_cheaper_method_beats(make_record: MakeRecord) -> None:
    generator = np.random.default_rng(4)
    spots = {
        f"method_{i}": (float(x), float(y))
        for i, (x, y) in enumerate(generator.uniform(1, 50, (12, 2)))
    }
    records = [
        altered(make_record(name, score=score), cost__cpu_seconds=seconds)
        for name, (seconds, score) in spots.items()
    ]
    (axes,) = cost(runs_frame(records)).axes
    (front,) = (line for line in axes.lines if line.get_linestyle() == "--")
    unbeaten = [(x, y) for x, y in spots.values() if all(y > b for a, b in spots.values() if a < x)]
    assert 1 < len(unbeaten) < len(spots)
    assert [tuple(point) for point in np.asarray(front.get_xydata())] == sorted(unbeaten)


@pytest.mark.parametrize("make", [profiles, ranks, cost])
def test_references_alone_give_no_figure(
    make: Callable[..., Figure], make_record: MakeRecord
) -> None:
    records = [make_record(m, seed=s, score=s) for m in ("teacher", "bc_whole") for s in (0, 1)]
    with pytest.raises(FigureError):
        make(runs_frame(records))


@pytest.mark.parametrize("make", [profiles, ranks, aggregate, cost])
def test_methods_that_are_not_drawn_for_want_of_room_are_counted(
    make: Callable[..., Figure], make_record: MakeRecord
) -> None:
    records = [make_record(f"m{i}", seed=s, score=i + s) for i in range(30) for s in (0, 1)]
    assert "not drawn" in words(make(runs_frame(records)))[1]


def test_files_of_a_method_that_is_not_drawn_are_not_named(make_record: MakeRecord) -> None:
    records = [make_record(f"m{i:02}", seed=s, score=i + s) for i in range(30) for s in (0, 1)]
    for other, named in (("m00", False), ("m29", True)):
        found = [
            altered(r, teacher__sha256="1" * 64) if r.spec.method == other else r for r in records
        ]
        assert ("several files" in words(profiles(runs_frame(found)))[1]) is named


def test_captions_count_the_seeds_of_what_is_drawn(
    records: list[Record], make_record: MakeRecord
) -> None:
    """A reference of one seed is in no figure that leaves references out."""
    one = [r for r in records if r.spec.method != "teacher" or r.spec.seed == 0]
    runs = runs_frame(one)
    for draw in (profiles, ranks, cost):
        assert "2 datasets, 5 seeds" in words(draw(runs))[1]
    assert "2 datasets, 1 to 5 seeds" in words(aggregate(runs))[1]


@pytest.mark.parametrize("draw", FIGURES)
def test_long_labels_leave_room_for_the_drawing(
    draw: Callable[[pd.DataFrame], Figure], make_record: MakeRecord
) -> None:
    """A warning would fail this: matplotlib lays nothing out where labels take the whole figure."""
    students: list[dict[str, object]] = [
        {"width": 64, "depth": 3, "learning_rate": 0.1, "momentum": 0.9, "steps": 50},
        {"width": 128, "depth": 4, "learning_rate": 0.01, "momentum": 0.0, "steps": 100},
    ]
    runs = runs_frame(
        [
            make_record(seed=seed, score=10.0 * seed + place, student=student)
            for place, student in enumerate(students)
            for seed in range(3)
        ]
    )
    figure = draw(runs)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    for axes in figure.axes[:1]:
        box = axes.get_window_extent()
        assert box.width > 0.2 * width and box.height > 0.2 * height


@pytest.mark.parametrize("draw", [profiles, cost])
def test_a_name_that_begins_with_an_underscore_is_in_the_legend(
    draw: Callable[[pd.DataFrame], Figure], make_record: MakeRecord
) -> None:
    runs = runs_frame([make_record(name, seed=s) for name in ("_mine", "dbc") for s in range(2)])
    (legend,) = draw(runs).legends
    assert {text.get_text() for text in legend.get_texts()} == {"_mine", "dbc"}
