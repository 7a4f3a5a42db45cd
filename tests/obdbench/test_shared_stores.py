"""A store that somebody else made: nothing in it leads elsewhere, runs code or is obeyed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.record import FILE

AWAY = "../../../away"


@pytest.fixture
def shared(cli: Any, sweep_file: Path, record_store: Path) -> Path:
    """A store in which a sweep of two runs is done."""
    assert cli("sweep", sweep_file, "--jobs", "1").code == 0
    return record_store


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [AWAY, "/away", "other", "..", "a\0b", "-x"])
def test_the_list_of_a_sweep_has_the_name_of_its_file(
    name: str, shared: Path, cli: Any, tmp_path: Path
) -> None:
    change(shared / "sweeps" / "tiny.json", name=name)
    before = everything(tmp_path)
    for command in ("table", "report", "status"):
        found = cli(command, "tiny")
        assert found.code == 1 and "tiny.json is not the list of a sweep's runs" in found.err
        assert repr(name)[1:-1] in found.err
    assert everything(tmp_path) == before


@pytest.mark.parametrize("key", ["method", "dataset"])
def test_no_run_of_a_sweep_leads_out_of_the_store(key: str, shared: Path, cli: Any) -> None:
    path = shared / "sweeps" / "tiny.json"
    runs = json.loads(path.read_text("utf-8"))["runs"]
    change(path, runs=[{**run, key: AWAY} for run in runs])
    found = cli("table", "tiny")
    assert found.code == 1 and f"The {key} of a run is {AWAY!r}" in found.err


def test_a_sweep_is_not_asked_for_by_a_path(shared: Path, cli: Any) -> None:
    (shared.parent / "evil.json").write_bytes((shared / "sweeps" / "tiny.json").read_bytes())
    for command in ("table", "report", "status", "collect", "cancel"):
        found = cli(command, "../../evil")
        assert found.code == 1 and "The name of a sweep is '../../evil'" in found.err


def test_a_record_names_only_sets_next_to_it(shared: Path, cli: Any) -> None:
    record = next(shared.glob(f"*/seed0/{FILE}"))
    values = json.loads(record.read_text("utf-8"))
    for checkpoint in values["checkpoints"]:
        name = checkpoint["synthetic_set"]
        checkpoint["synthetic_set"] = f"../seed0/{name}"
    change(record, checkpoints=values["checkpoints"])
    found = cli("export", record.parent, "--to", shared / "set.npz")
    assert found.code == 1 and "A synthetic set of" in found.err
    assert not (shared / "set.npz").exists()


def test_nothing_is_written_through_a_link_out_of_the_store(
    shared: Path, cli: Any, sweep_file: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    reports, sweeps = shared / "reports", shared / "sweeps"
    cell = next(shared.glob("*/seed0")).parent
    for folder, commands in (
        (reports, [("table", "tiny"), ("report", "tiny")]),
        (sweeps, [("sweep", sweep_file, "--jobs", "1")]),
        (cell, [("sweep", sweep_file, "--jobs", "1")]),
    ):
        aside = folder.with_name(f"{folder.name}.aside")
        folder.rename(aside)
        folder.symlink_to(outside)
        if folder == sweeps:
            (outside / "tiny.json").write_bytes((aside / "tiny.json").read_bytes())
        before = everything(outside)
        for command in commands:
            found = cli(*command)
            assert found.code == 1 and f"leads out of {shared}" in found.err, found
        assert everything(outside) == before
        folder.unlink()
        aside.rename(folder)
