"""A damaged record, or a damaged list of runs, is named; the rest of the sweep is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import obdbench
from benchmark.files import json_sha256
from benchmark.record import DIGEST, FILE, OtherVersion
from benchmark.run import Conditions, WorkerDied, execute, record_death, run_folder
from results.record_store import load_sweep
from tests.slurm.fake_scheduler import FakeScheduler, fake_sbatch

Damage = Callable[[str], str]


def changed(**values: Any) -> Damage:
    return lambda text: json.dumps({**json.loads(text), **values})


def better(text: str) -> str:
    values = json.loads(text)
    values["score"]["normalized_return"] += 10.0
    return json.dumps(values)


UNREADABLE: dict[str, Damage] = {
    "cut short": lambda text: text[:-40],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "no status": changed(status=None),
}
ALTERED: dict[str, Damage] = {
    "a better score": better,
    "another run": changed(run_id="hopper-medium.random.0.seed0"),
    "another version": changed(schema="obdbench.record/9"),
    "no checkpoints": changed(checkpoints=[]),
    "another host": lambda text: text.replace('"host": "', '"host": "x'),
    "more threads than there are": lambda text: text.replace(
        '"threads": 1', '"threads": 1000000000'
    ),
    "no date": changed(started="yesterday"),
}


@pytest.fixture
def record(cli: Any, sweep_file: Path, record_store: Path) -> Path:
    """One record of a sweep whose two runs are done."""
    assert cli("sweep", sweep_file, "--jobs", "1").code == 0
    return next(record_store.glob(f"*/seed0/{FILE}"))


def test_the_table_shows_the_rest_and_names_the_damaged_record(record: Path, cli: Any) -> None:
    whole = record.read_text("utf-8")
    for case, damage in (UNREADABLE | ALTERED).items():
        record.write_text(damage(whole), "utf-8")
        for command in ("table", "collect"):
            found = cli(command, "tiny")
            assert found.code == 3, case
            assert found.err.count("A record cannot be read") == 1, case
            assert str(record) in found.err and "Traceback" not in found.err, case
            assert "1 of 2 seeds" in found.out, f"{case}: the other seed's record is shown"
    values = json.loads(cli("table", "tiny", "--json").out)
    assert [str(record) in message for message in values["damaged"]] == [True]


def test_status_counts_a_record_that_cannot_be_read_as_failed_and_says_why(
    record: Path, cli: Any
) -> None:
    whole = record.read_text("utf-8")
    for case, damage in (UNREADABLE | ALTERED).items():
        record.write_text(damage(whole), "utf-8")
        found = cli("status", "tiny")
        assert found.code == 3, case
        assert "D 1 done, F 1 failed" in found.out, case
        kind = "OtherVersion" if case == "another version" else "BadRecord"
        assert f"{kind}: {record}" in found.out, case


def test_a_sweep_goes_on_past_a_damaged_record_and_a_retry_keeps_it_aside(
    record: Path, cli: Any, sweep_file: Path
) -> None:
    whole, other = record.read_text("utf-8"), record.parents[1] / "seed1" / FILE
    for number, damage in enumerate((UNREADABLE["cut short"], ALTERED["no date"])):
        record.write_text(damage(whole), "utf-8")
        other.unlink()
        found = cli("sweep", sweep_file, "--jobs", "1")
        assert found.code == 3 and other.is_file(), "the other run is done"
        assert f"left; --retry failed puts it aside: {record}" in found.err
        assert record.read_text("utf-8") == damage(whole), "never replaced without being asked"

        found = cli("sweep", sweep_file, "--jobs", "1", "--retry", "failed")
        assert found.code == 0, found.err
        assert f"A record cannot be read, and is put aside: {record}" in found.err
        aside = record.with_name(f"{FILE}.damaged{number or ''}")
        assert aside.read_text("utf-8") == damage(whole)
        assert json.loads(record.read_text("utf-8"))["score"] == json.loads(whole)["score"]


def as_a_later_version_writes(text: str) -> str:
    """With a key that this one does not know, and the digest of it all."""
    values = {**json.loads(text), "new": "fact"}
    del values[DIGEST]
    return json.dumps({**values, DIGEST: json_sha256(values)})


@pytest.mark.parametrize(
    "damage",
    [ALTERED["another version"], as_a_later_version_writes],
    ids=["another schema", "another key"],
)
def test_a_record_of_another_version_is_never_replaced(
    damage: Damage, record: Path, cli: Any, sweep_file: Path, record_store: Path
) -> None:
    theirs = damage(record.read_text("utf-8"))
    record.write_text(theirs, "utf-8")
    files = {path: path.read_bytes() for path in record.parent.iterdir()}
    other = record.parents[1] / "seed1" / FILE
    other.unlink()
    found = cli("sweep", sweep_file, "--jobs", "1", "--retry", "failed")
    assert found.code == 3 and other.is_file(), "the other run is done"
    assert f"A record of another version is left as it is: {record}" in found.err
    # A job that was queued before, and one whose process died.
    sweep = load_sweep(record_store, "tiny")
    spec = next(run for run in sweep.runs if run_folder(record_store, run) == record.parent)
    with pytest.raises(OtherVersion):
        execute([spec], Conditions(record_store))
    assert not record_death(spec, record_store, WorkerDied("gone"))
    assert {path: path.read_bytes() for path in record.parent.iterdir()} == files


def test_a_retry_from_python_leaves_a_record_of_another_version_and_does_the_rest(
    record: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = as_a_later_version_writes(record.read_text("utf-8"))
    record.write_text(theirs, "utf-8")
    other = record.parents[1] / "seed1" / FILE
    other.unlink()
    table = obdbench.sweep("tiny", jobs=1, retry=True)
    assert other.is_file() and list(table.data["n"]) == [1]
    assert record.read_text("utf-8") == theirs
    assert [str(record) in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_one_damaged_record_stops_no_plan(
    command: str, record: Path, cli: Any, sweep_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fake_sbatch(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr("obdbench.cli.cluster.Scheduler", FakeScheduler)
    record.write_text("{", "utf-8")
    sweep_file.write_text(sweep_file.read_text().replace("seeds = 2", "seeds = 3"))
    found = cli(command, sweep_file, *(["--dry-run"] if command == "submit" else []))
    assert found.code == 0, found.err
    assert f"1 records cannot be read, and tell no cost; the first: {record}" in found.err


def test_the_report_shows_the_rest_and_a_warning(
    record: Path, cli: Any, record_store: Path
) -> None:
    record.write_text(better(record.read_text("utf-8")), "utf-8")
    assert cli("report", "tiny").code == 0
    page = (record_store / "reports" / "tiny" / "report.html").read_text("utf-8")
    assert page.count("A record cannot be read, and its run counts as missing") == 1
    assert str(record) in page


def test_the_report_shows_the_rest_where_a_set_was_altered(
    record: Path, cli: Any, record_store: Path
) -> None:
    (set_,) = record.parent.glob("set-*.safetensors")
    set_.write_bytes(set_.read_bytes()[:-1] + b"x")
    assert cli("report", "tiny").code == 0
    page = (record_store / "reports" / "tiny" / "report.html").read_text("utf-8")
    assert page.count("A set is not the one that was scored, and is not shown") == 1
    assert "2 done" in cli("status", "tiny").out
    for command in ("export", "verify"):
        found = cli(command, record.parent)
        assert found.code == 1 and f"{set_} has sha256" in found.err


def test_a_damaged_list_of_runs_is_one_message_with_what_to_do(
    record: Path, cli: Any, record_store: Path
) -> None:
    path = record_store / "sweeps" / "tiny.json"
    whole = json.loads(path.read_text("utf-8"))
    for content in (
        "", "[]", "{}", "null", "\x00", '{"name": "tiny", "description": "", "runs": [{}]}',
        '{"name": "tiny", "description": "", "runs": [{"method": 3}]}', "\ud800",
        '{"name": "tiny", "description": "", "runs": []}', "[" * 100_000,
        json.dumps({**whole, "name": "../../elsewhere"}), json.dumps({**whole, "description": "x"}),
        json.dumps({**whole, "runs": whole["runs"][:1]}), json.dumps({**whole, "more": 1}),
    ):  # fmt: skip
        path.write_text(content, "utf-8", errors="surrogatepass")
        for command in ("status", "table", "report", "collect"):
            found = cli(command, "tiny")
            assert found.code == 1, content
            assert f"{path} is not the list of a sweep's runs" in found.err, content
            assert "obdbench sweep FILE" in found.err, content
