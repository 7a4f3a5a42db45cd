"""Records become rows; labels tell cells apart."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import pandas as pd
import pytest

from benchmark.datasets.dataset import ReferenceReturns
from results.frames import (
    CURVE_COLUMNS,
    RUN_COLUMNS,
    RecordError,
    curves_frame,
    facts_frame,
    runs_frame,
)
from results.labels import natural_order
from tests.results.conftest import STUDENT, MakeRecord, build_record, build_spec
from tests.tiny_runs import altered


def labels_of(frame: pd.DataFrame) -> list[str]:
    return sorted(set(frame["label"]))


def test_a_complete_record_is_one_row(make_record: MakeRecord) -> None:
    record = make_record(score=21.3, seed=3, needs=["teacher", "dataset", "log_density"])
    row = runs_frame([record]).iloc[0]
    assert (row["status"], row["seed"], row["normalized_return"]) == ("complete", 3, 21.3)
    assert row["return"] == pytest.approx(639.0)
    assert (row["dataset"], row["method"], row["label"]) == (
        "hopper/medium-replay",
        "av_pbc",
        "av_pbc",
    )
    assert row["used"] == "data, density, teacher"
    assert (row["synthetic_size"], row["outer_steps"]) == (64, 1000)
    assert row["protocol_detail"] == "quick: 4 students x 10 episodes, last 3 checkpoints"
    assert row["student"] == "mlp 4x64, sampled head, sgd, 100 steps"
    assert pd.isna(row["error"])


def test_a_failed_record_keeps_its_row_and_error(make_record: MakeRecord) -> None:
    row = runs_frame([make_record(error="MemoryError")]).iloc[0]
    assert (row["status"], row["error"]) == ("failed", "MemoryError")
    assert pd.isna(row["normalized_return"])
    assert row["wall_seconds"] == 20.0, "what a failed run cost is known"


def test_a_record_that_failed_before_anything_was_loaded_has_a_row(
    make_record: MakeRecord,
) -> None:
    record = msgspec.structs.replace(make_record(error="OSError"), teacher=None, checkpoints=[])
    assert pd.isna(runs_frame([record]).iloc[0]["teacher_return"])
    (point,) = curves_frame([record]).to_dict("records")
    assert point["status"] == "failed"
    assert pd.isna(point["outer_step"])


def test_a_run_without_a_record_has_a_row_where_it_was_asked_for(make_record: MakeRecord) -> None:
    record = make_record(parameters={"synthetic_size": 16})
    asked = [record.spec, build_spec(seed=1), build_spec("teacher", parameters={})]
    frame = runs_frame([record], asked).set_index("run_id")
    assert list(frame.loc[[run.run_id for run in asked], "status"]) == [
        "complete", "missing", "missing",
    ]  # fmt: skip
    assert list(frame.loc[[run.run_id for run in asked], "label"]) == [
        "av_pbc (synthetic_size=16)", "av_pbc (synthetic_size=64)", "teacher",
    ]  # fmt: skip
    assert frame.loc[asked[1].run_id, "synthetic_size"] == 64
    assert pd.isna(frame.loc[asked[1].run_id, "normalized_return"])
    assert list(frame.loc[[run.run_id for run in asked], "reference"]) == [False, False, True]
    curves = curves_frame([record], asked)
    assert list(curves["run_id"]) == sorted(run.run_id for run in asked)
    without = curves.set_index("run_id").loc[[run.run_id for run in asked[1:]]]
    assert list(without["status"]) == ["missing", "missing"]
    assert without[["outer_step", "normalized_return"]].isna().all(axis=None)
    for column in ("label", "status", "reference"):
        both = (
            dict(zip(f["run_id"], f[column], strict=True)) for f in (frame.reset_index(), curves)
        )
        assert next(both) == next(both)


def test_no_records_give_empty_frames_with_their_columns() -> None:
    assert list(runs_frame([]).columns) == list(RUN_COLUMNS)
    assert list(curves_frame([]).columns) == list(CURVE_COLUMNS)


def test_row_order_does_not_depend_on_reading_order(make_record: MakeRecord) -> None:
    records = [make_record(seed=seed, curve=[1.0, 2.0]) for seed in range(4)]
    pd.testing.assert_frame_equal(runs_frame(records), runs_frame(records[::-1]))
    pd.testing.assert_frame_equal(curves_frame(records), curves_frame(records[::-1]))


def test_curves_have_a_row_per_checkpoint(make_record: MakeRecord) -> None:
    frame = curves_frame([make_record(curve=[1.0, 5.0, 9.0])])
    assert list(frame["outer_step"]) == [0, 200, 400]
    assert list(frame["normalized_return"]) == [1.0, 5.0, 9.0]
    assert frame["cpu_seconds"].isna().all()  # of an earlier version


def test_curves_have_the_costs_of_their_checkpoints(make_record: MakeRecord) -> None:
    timed = altered(
        make_record(curve=[1.0, 5.0]),
        cost__checkpoint_cpu_seconds=[0.5, 7.0],
        cost__checkpoint_environment_steps=[0, 900],
    )
    assert list(curves_frame([timed])["cpu_seconds"]) == [0.5, 7.0]
    assert list(curves_frame([timed])["environment_steps"]) == [0, 900]


def test_labels_show_what_differs_within_a_dataset(make_record: MakeRecord) -> None:
    frame = runs_frame(
        [
            make_record(parameters={"synthetic_size": 16, "tau": 0.5}),
            make_record(parameters={"synthetic_size": 64, "tau": 0.5}),
            make_record("dbc"),
        ]
    )
    assert labels_of(frame) == ["av_pbc (synthetic_size=16)", "av_pbc (synthetic_size=64)", "dbc"]


def test_labels_of_one_method_agree_over_datasets(make_record: MakeRecord) -> None:
    frame = runs_frame(
        [
            make_record(parameters={"synthetic_size": 16}),
            make_record(parameters={"synthetic_size": 64}),
            make_record(dataset="ant/medium", parameters={"synthetic_size": 64}),
        ]
    )
    ant = frame[frame["dataset"] == "ant/medium"]
    assert labels_of(ant) == ["av_pbc (synthetic_size=64)"]


def test_a_setting_that_differs_between_datasets_only_is_no_label(make_record: MakeRecord) -> None:
    frame = runs_frame(
        [
            make_record(parameters={"synthetic_size": 16}),
            make_record(dataset="ant/medium", parameters={"synthetic_size": 64}),
        ]
    )
    assert labels_of(frame) == ["av_pbc"]
    settings = dict(zip(frame["dataset"], frame["settings"], strict=True))
    assert settings == {
        "ant/medium": "synthetic_size=64", "hopper/medium-replay": "synthetic_size=16"
    }  # fmt: skip


def test_only_what_differs_between_the_datasets_of_a_label_is_among_its_settings(
    make_record: MakeRecord,
) -> None:
    both = [
        make_record(dataset=dataset, parameters={"synthetic_size": size}, student={"width": width})
        for dataset, width in (("ant/medium", 64), ("hopper/medium", 256))
        for size in (16, 64)
    ]
    alike = [make_record("pbc", dataset) for dataset in ("ant/medium", "hopper/medium")]
    frame = runs_frame([*both, *alike])
    found = set(zip(frame["label"], frame["dataset"], frame["settings"], strict=True))
    assert found == {
        ("av_pbc (synthetic_size=16)", "ant/medium", "student.width=64"),
        ("av_pbc (synthetic_size=64)", "ant/medium", "student.width=64"),
        ("av_pbc (synthetic_size=16)", "hopper/medium", "student.width=256"),
        ("av_pbc (synthetic_size=64)", "hopper/medium", "student.width=256"),
        ("pbc", "ant/medium", ""),
        ("pbc", "hopper/medium", ""),
    }


def test_students_and_protocols_appear_where_they_differ(make_record: MakeRecord) -> None:
    frame = runs_frame(
        [
            make_record(),
            make_record(student={"width": 256}),
            make_record("pbc", evaluation_student=replace(STUDENT, depth=2)),
            make_record("pbc"),
            make_record("dbc"),
            make_record("dbc", protocol={"name": "paper", "students": 10}),
        ]
    )
    assert labels_of(frame) == [
        "av_pbc (student.width=256)",
        "av_pbc (student.width=64)",
        "dbc (protocol=paper)",
        "dbc (protocol=quick)",
        "pbc",
        "pbc (evaluation_student.depth=2)",
    ]


def test_cells_that_no_setting_tells_apart_are_still_two(make_record: MakeRecord) -> None:
    first = make_record()
    spec = replace(first.spec, version=2)
    second = msgspec.structs.replace(first, spec=spec, cell_id=spec.cell_id, run_id=spec.run_id)
    expected = sorted(f"av_pbc #{record.spec.digest}" for record in (first, second))
    assert labels_of(runs_frame([first, second])) == expected


def test_labels_sort_by_the_numbers_in_them() -> None:
    labels = ["a (x=0.5)", "a (x=0.25)", "a (x=1e-05)", "a (x=128)", "a (x=16)", "a", "b"]
    assert sorted(labels, key=natural_order) == [
        "a",
        "a (x=1e-05)",
        "a (x=0.25)",
        "a (x=0.5)",
        "a (x=16)",
        "a (x=128)",
        "b",
    ]


def test_two_records_of_one_run_are_refused(make_record: MakeRecord) -> None:
    with pytest.raises(RecordError, match=r"seed0' has more than one record"):
        runs_frame([make_record(), make_record()])


def test_facts_are_columns_next_to_the_run_that_they_are_of(make_record: MakeRecord) -> None:
    noted = altered(make_record(seed=1), method_facts={"tau": 0.25, "seed": 9.0})
    frame = facts_frame([noted, make_record("pbc", seed=0)])
    assert list(frame.columns) == ["run_id", "dataset", "label", "seed", "tau"]
    rows = frame.set_index("label")
    assert (rows.loc["av_pbc", "tau"], rows.loc["av_pbc", "seed"]) == (0.25, 1)
    assert pd.isna(rows.loc["pbc", "tau"])


@pytest.mark.parametrize(
    ("part", "value", "what"),
    [
        ("teacher__sha256", "1" * 64, "teachers of one name"),
        ("provenance__dataset_sha256", "1" * 64, "datasets of one name"),
        ("provenance__environment", "Hopper-v4", "environments"),
        ("normalisation", ReferenceReturns(random=-200.0, expert=3000.0), "normalisations"),
        ("reference", True, "kinds (reference and method)"),
    ],
)
def test_seeds_that_no_mean_is_of_are_refused(part: str, value: object, what: str) -> None:
    records = [build_record(seed=seed) for seed in range(3)]
    other = altered(records[2], **{part: value})
    runs_frame([*records[:2], build_record("pbc", seed=0), altered(records[2], teacher=None)])
    assert len(runs_frame([*records[:2], other], mixed=True)) == 3
    for frame in (runs_frame, curves_frame):
        with pytest.raises(RecordError, match=f"have 2 {re.escape(what)}.*seed0, .*seed2"):
            frame([*records[:2], other])


def test_cells_of_one_dataset_are_of_the_same_data() -> None:
    """They are compared: another dataset of the same name would be another task."""
    ours, theirs = build_record(seed=0), build_record("pbc", seed=0)
    theirs = altered(theirs, provenance__dataset_sha256="1" * 64)
    assert len(runs_frame([ours, theirs], mixed=True)) == 2
    for frame in (runs_frame, curves_frame):
        with pytest.raises(RecordError, match=r"different data of the name hopper/medium-replay"):
            frame([ours, theirs])


def test_a_run_that_failed_before_anything_was_loaded_is_of_any_cell() -> None:
    """Its record knows neither the data nor whether its method is a reference."""
    records = [build_record("teacher", seed=seed, reference=True) for seed in range(2)]
    failed = altered(
        build_record("teacher", seed=2, reference=False, error="WorkerDied"),
        checkpoints=[],
        teacher=None,
        normalisation=None,
        provenance__environment=None,
        provenance__dataset_sha256=None,
    )
    assert list(runs_frame([*records, failed])["status"]) == ["complete", "complete", "failed"]
