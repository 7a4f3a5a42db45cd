"""Cells keep their rows, say what they lack, and compete fairly."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from results.aggregate import CELL_COLUMNS, AggregationError, Best, best_and_ties, cell_table
from results.frames import runs_frame
from results.statistics import iqm, mean
from tests.results.conftest import MakeRecord, build_spec


def row_of(table: pd.DataFrame, label: str) -> pd.Series:
    (_, row), *others = table[table["label"] == label].iterrows()
    assert not others
    return row


def test_a_cell_has_mean_interval_and_costs_over_its_seeds(make_record: MakeRecord) -> None:
    scores = [20.0, 22.0, 27.0, 21.0]
    table = cell_table(runs_frame([make_record(seed=i, score=s) for i, s in enumerate(scores)]))
    row = row_of(table, "av_pbc")
    estimate, middle = mean(scores), iqm(scores)
    assert (row["value"], row["low"], row["high"]) == (
        estimate.value,
        estimate.low,
        estimate.high,
    )
    assert (row["iqm"], row["iqm_low"], row["iqm_high"]) == (middle.value, middle.low, middle.high)
    assert (row["n"], row["n_expected"], row["n_failed"]) == (4, 4, 0)
    assert row["wall_seconds"] == pytest.approx(21.5)
    assert row["scores"] == tuple(scores)
    assert row["teacher_return"] == 2500.0


def test_failed_seeds_are_counted_and_not_averaged(make_record: MakeRecord) -> None:
    records = [make_record(seed=0, score=10.0), make_record(seed=1, score=20.0)]
    records += [make_record(seed=seed, error="MemoryError") for seed in (2, 3)]
    records += [make_record(seed=4, error="OSError")]
    row = row_of(cell_table(runs_frame(records)), "av_pbc")
    assert (row["value"], row["n"], row["n_expected"], row["n_failed"]) == (15.0, 2, 5, 3)
    assert row["errors"] == "MemoryError x2, OSError"


def test_a_cell_whose_seeds_all_failed_keeps_its_row(make_record: MakeRecord) -> None:
    row = row_of(cell_table(runs_frame([make_record(error="OSError")])), "av_pbc")
    assert (row["n"], row["n_failed"]) == (0, 1)
    assert math.isnan(row["value"])
    assert row["teacher_return"] == 2500.0


def test_runs_of_a_sweep_without_a_record_are_counted(make_record: MakeRecord) -> None:
    asked = [build_spec(method, seed=seed) for method in ("av_pbc", "pbc") for seed in range(3)]
    table = cell_table(runs_frame([make_record()], asked))
    assert (row_of(table, "av_pbc")["n"], row_of(table, "av_pbc")["n_expected"]) == (1, 3)
    unseen = row_of(table, "pbc")
    assert (unseen["dataset"], unseen["n"], unseen["n_expected"]) == ("hopper/medium-replay", 0, 3)
    assert (unseen["n_failed"], unseen["errors"], unseen["used"]) == (0, "", "")


def test_cells_without_a_record_are_told_apart_by_their_settings(make_record: MakeRecord) -> None:
    sizes = {16: "dbc (synthetic_size=16)", 32: "dbc (synthetic_size=32)"}
    asked = [build_spec("dbc", parameters={"synthetic_size": size}) for size in sizes]
    table = cell_table(runs_frame([make_record()], asked))
    assert list(table["label"]) == ["av_pbc", *sizes.values()]


def test_a_sweep_that_has_not_started_is_a_table_of_missing_cells() -> None:
    table = cell_table(runs_frame([], [build_spec("pbc", seed=seed) for seed in range(2)]))
    assert list(table.columns) == list(CELL_COLUMNS)
    assert (table["n"].sum(), table["n_expected"].sum()) == (0, 2)
    assert cell_table(runs_frame([])).empty


def test_a_score_that_is_not_finite_is_named_by_run(make_record: MakeRecord) -> None:
    record = make_record(score=math.inf)
    with pytest.raises(AggregationError, match=r"seed0' is complete with normalized return inf"):
        cell_table(runs_frame([record]))


def test_frames_joined_by_hand_do_not_pool_two_cells(make_record: MakeRecord) -> None:
    frames = [runs_frame([make_record(parameters={"synthetic_size": n})]) for n in (16, 64)]
    with pytest.raises(AggregationError, match="share the label 'av_pbc'"):
        cell_table(pd.concat(frames))


def test_best_leaves_references_out_and_finds_ties(make_record: MakeRecord) -> None:
    levels = {"av_pbc": 25.0, "pbc": 24.5, "dbc": 9.0, "teacher": 80.0, "bc_whole": 60.0}
    records = [
        make_record(method, seed=seed, score=level + (3 - seed if method == "pbc" else seed))
        for method, level in levels.items()
        for seed in range(4)
    ]
    table = cell_table(runs_frame(records))
    assert best_and_ties(table) == {"hopper/medium-replay": Best("av_pbc", ("pbc",), ())}


def test_a_difference_that_every_seed_shows_is_no_tie_though_the_intervals_overlap(
    make_record: MakeRecord,
) -> None:
    scores = {"av_pbc": (10.0, 20.0, 30.0, 40.0), "pbc": (8.0, 18.5, 27.5, 38.2)}
    records = [
        make_record(method, seed=seed, score=score)
        for method, found in scores.items()
        for seed, score in enumerate(found)
    ]
    table = cell_table(runs_frame(records)).set_index("label")
    assert table.loc["pbc", "high"] > table.loc["av_pbc", "low"]
    assert best_and_ties(table.reset_index())["hopper/medium-replay"].ties == ()


def test_the_more_comparisons_a_table_makes_the_more_a_difference_must_show(
    make_record: MakeRecord,
) -> None:
    noise = np.random.default_rng(0).normal(size=(40, 4))
    best = [make_record(seed=seed, score=50.0 + 3 * seed) for seed in range(4)]
    near = [make_record("pbc", seed=s, score=47.0 + 3 * s + 1.5 * noise[0, s]) for s in range(4)]
    assert best_and_ties(cell_table(runs_frame([*best, *near])))["hopper/medium-replay"].ties == ()
    others = [
        make_record(
            "random", seed=s, score=49.0 + s + noise[n, s], parameters={"synthetic_size": n}
        )
        for n in range(1, 40)
        for s in range(4)
    ]
    found = best_and_ties(cell_table(runs_frame([*best, *near, *others])))
    assert "pbc" in found["hopper/medium-replay"].ties


def test_a_single_seed_can_neither_tie_nor_lose(make_record: MakeRecord) -> None:
    records = [make_record(seed=seed, score=20.0 + seed) for seed in range(3)]
    records.append(make_record("pbc", score=5.0))
    (best,) = best_and_ties(cell_table(runs_frame(records))).values()
    assert best == Best("av_pbc", (), ("pbc",))


def test_a_best_with_a_single_seed_leaves_all_others_undecided(make_record: MakeRecord) -> None:
    records = [make_record(seed=seed, score=20.0 + seed) for seed in range(3)]
    records.append(make_record("pbc", score=50.0))
    (best,) = best_and_ties(cell_table(runs_frame(records))).values()
    assert best == Best("pbc", (), ("av_pbc",))


def test_a_dataset_without_a_score_has_no_best(make_record: MakeRecord) -> None:
    records = [make_record(error="OSError"), make_record("teacher")]
    (best,) = best_and_ties(cell_table(runs_frame(records))).values()
    assert best == Best(None, (), ())


def test_a_reference_of_someone_elses_competes_for_nothing(make_record: MakeRecord) -> None:
    theirs = [make_record("their_oracle", seed=s, score=99.0 + s, reference=True) for s in range(3)]
    ours = [make_record("av_pbc", seed=s, score=20.0 + s) for s in range(3)]
    table = cell_table(runs_frame([*theirs, *ours]))
    assert best_and_ties(table)["hopper/medium-replay"].best == "av_pbc"
    assert dict(zip(table["method"], table["reference"], strict=True)) == {
        "av_pbc": False,
        "their_oracle": True,
    }


def test_a_record_that_says_that_it_is_no_reference_competes(make_record: MakeRecord) -> None:
    record = make_record("teacher", reference=False)
    assert best_and_ties(cell_table(runs_frame([record])))["hopper/medium-replay"].best == "teacher"
