"""The time that a sweep has left: by what its runs cost, not by their number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmark.record import Record, Summary
from benchmark.spec import RunSpec
from obdbench.cli import console
from obdbench.time_left import share_done
from tests.tiny_runs import altered, execute, tiny_spec


@pytest.fixture(scope="module")
def record(small_dataset_name: str, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return execute(tiny_spec("random", small_dataset_name), tmp_path_factory.mktemp("store"))


def took(record: Record, seconds: float, **changes: Any) -> Summary:
    return altered(
        record, cost__cpu_seconds=0.75 * seconds,
        cost__evaluation_wall_seconds=0.25 * seconds, **changes,
    )  # fmt: skip


@pytest.fixture
def cheap(record: Record) -> RunSpec:
    return record.spec


@pytest.fixture
def expensive(cheap: RunSpec) -> RunSpec:
    return replace(cheap, parameters={"synthetic_size": 8})


def test_a_run_counts_as_much_as_those_of_its_cell_took(
    record: Record, cheap: RunSpec, expensive: RunSpec
) -> None:
    assert cheap.cell_id != expensive.cell_id
    runs = [cheap, expensive]
    records = [
        took(record, 10.0),
        took(record, 90.0, cell_id=expensive.cell_id, spec=expensive.with_seed(1)),
    ]
    assert share_done(runs, {}, {cheap.run_id: 1.0}, []) == 0.5, "nothing is known: all alike"
    assert share_done(runs, {}, {cheap.run_id: 1.0}, records) == pytest.approx(0.1)
    assert share_done(runs, {}, {expensive.run_id: 0.5}, records) == pytest.approx(0.45)
    assert share_done(runs, {}, {cheap.run_id: 1.0}, records[:1]) == 0.5, "unknown: the mean"
    assert share_done(runs, {}, {cheap.run_id: 1.0, expensive.run_id: 1.0}, records) == 1.0


def test_what_was_done_before_is_not_work_of_this_session(cheap: RunSpec) -> None:
    runs = [cheap, cheap.with_seed(1)]
    before = {cheap.run_id: 0.5}
    assert share_done(runs, before, before, []) == 0.0
    assert share_done(runs, before, {cheap.run_id: 1.0}, []) == pytest.approx(1 / 3)


def test_what_only_scored_anothers_sets_did_not_distil(
    record: Record, cheap: RunSpec, expensive: RunSpec
) -> None:
    cells = {"cell_id": expensive.cell_id, "spec": expensive}
    records = [took(record, 10.0), took(record, 40.0, sets_of="another run", **cells)]
    runs = [cheap, expensive]
    assert share_done(runs, {}, {cheap.run_id: 1.0}, records) == 0.5, "10 s each"


@pytest.mark.parametrize(
    ("share", "left"), [(None, "about 100 s left"), (0.1, "about 900 s left"), (1.0, "100 s")]
)
def test_the_line_in_a_log_takes_the_share_of_the_work(
    share: float | None, left: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(console, "PLAIN_SECONDS", -1.0)
    now = iter([0.0, 100.0, 100.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    console.ProgressBar("a sweep", "runs", 2).update(1, share=share)
    assert (
        capsys.readouterr().err
        == f"a sweep: 1 of 2 runs, 100 s{f', {left}' if 'left' in left else ''}\n"
    )
