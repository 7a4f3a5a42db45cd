"""A store that somebody else made: nothing in it leads elsewhere, runs code or is obeyed."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import obdbench.cli
from benchmark.errors import ObdBenchError
from benchmark.monitor import STATE
from benchmark.record import FILE
from benchmark.run import tidy
from benchmark.sweep import Sweep
from results.record_store import load_sweep, readable_records, save_sweep
from slurm.submissions import submissions
from tests.tiny_runs import execute, tiny_spec

AWAY = "../../../away"


@pytest.fixture(scope="module")
def made(small_dataset_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a sweep of two runs is done."""
    store = tmp_path_factory.mktemp("made") / "runs"
    runs = tuple(tiny_spec("random", small_dataset_name, seed=seed) for seed in range(2))
    for run in runs:
        execute(run, store)
    save_sweep(store, Sweep("tiny", "", runs))
    return store


@pytest.fixture
def shared(made: Path, record_store: Path) -> Path:
    """A copy of that store as the test's own."""
    return shutil.copytree(made, record_store)


def change(path: Path, **values: Any) -> None:
    """Alter a file as somebody would who leaves its digest out, as files of older versions do."""
    before = json.loads(path.read_text("utf-8"))
    before.pop("sha256", None)
    path.write_text(json.dumps({**before, **values}), "utf-8")


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
    shared: Path, cli: Any, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    reports, sweeps = shared / "reports", shared / "sweeps"
    cell = next(shared.glob("*/seed0")).parent
    reports.mkdir()
    for folder, commands in (
        (reports, [("table", "tiny"), ("report", "tiny")]),
        (sweeps, [("sweep", "tiny", "--jobs", "1")]),
        (cell, [("sweep", "tiny", "--jobs", "1")]),
    ):
        aside = folder.with_name(f"{folder.name}.aside")
        folder.rename(aside)
        folder.symlink_to(outside)
        if folder == sweeps:
            (outside / "tiny.json").write_bytes((aside / "tiny.json").read_bytes())
        before = everything(outside)
        for command in commands:
            found = cli(*command)
            if folder == sweeps:  # the list is there already, so that nothing is to be written
                assert found.code == 0
            else:
                assert found.code == 1 and f"leads out of {shared}" in found.err, found
        assert everything(outside) == before
        folder.unlink()
        aside.rename(folder)


def test_leftovers_outside_the_store_are_not_removed(shared: Path, tmp_path: Path) -> None:
    cell, outside = next(shared.glob("*/seed0")).parent, tmp_path / "outside"
    runs = load_sweep(shared, "tiny").runs
    cell.rename(outside)
    cell.symlink_to(outside)
    (outside / "seed0" / STATE).write_text("left")
    tidy(runs, shared)
    assert (outside / "seed0" / STATE).exists()
    cell.unlink()
    outside.rename(cell)
    tidy(runs, shared)
    assert not (cell / "seed0" / STATE).exists()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def large(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(2**26 + 1)


UNFIT = {
    device: "is a folder, a pipe or a device; expected a file",
    os.mkfifo: "is a folder, a pipe or a device; expected a file",
    Path.mkdir: "is a folder, a pipe or a device; expected a file",
    large: "has 67,108,865 bytes; expected at most 67,108,864",
    lambda path: path.write_text("[" * 10**6): "is not JSON",
}


@pytest.mark.parametrize("make", UNFIT)
def test_what_is_no_file_of_that_size_is_named_and_the_rest_shown(
    make: Callable[[Path], object], shared: Path
) -> None:
    record = next(shared.glob(f"*/seed0/{FILE}"))
    record.unlink()
    make(record)
    records, (message,) = readable_records(shared, load_sweep(shared, "tiny"))
    assert len(records) == 1 and UNFIT[make] in message and str(record) in message


@pytest.mark.parametrize("make", list(UNFIT)[:3])
def test_other_files_of_a_store_are_held_to_the_same(
    make: Callable[[Path], object], shared: Path, cli: Any
) -> None:
    record = next(shared.glob(f"*/seed0/{FILE}"))
    record.unlink()
    make(record.with_name("alive.json"))
    assert cli("status", "tiny").code == 0
    sweep = shared / "sweeps" / "tiny.json"
    sweep.unlink()
    make(sweep)
    found = cli("status", "tiny")
    assert found.code == 1 and UNFIT[make] in found.err


@pytest.mark.parametrize("make", list(UNFIT)[:4])
def test_files_of_sweeps_and_profiles_are_held_to_the_same(
    make: Callable[[Path], object], shared: Path, cli: Any
) -> None:
    path = shared.parent / "x.toml"
    make(path)
    for words in (("plan", path), ("plan", "tiny", "--profile", path)):
        found = cli(*words)
        assert found.code == 1 and str(path) in found.err
        assert UNFIT[make] in found.err or path.is_dir(), found.err


@pytest.mark.parametrize("make", list(UNFIT)[:3])
def test_jobs_of_a_store_are_held_to_the_same(make: Callable[[Path], object], shared: Path) -> None:
    jobs = shared / "jobs"
    (jobs / "obd.tiny.0").mkdir(parents=True)
    (jobs / "obd.tiny.0.json").write_text('{"sweep": "tiny", "jobs": [["x.seed0"]]}')
    for name in ("runs.json", "cluster", "1_0_log.err"):
        make(jobs / "obd.tiny.0" / name)
    (job,) = submissions(shared)
    assert job.log_tail(0) == ""
    for read in (job.specs, lambda: job.cluster):
        with pytest.raises(ObdBenchError, match="is a folder, a pipe or a device"):
            read()


def test_a_set_larger_than_any_is_not_read(shared: Path, cli: Any) -> None:
    path = next(shared.glob("*/seed0/set-*"))
    with path.open("wb") as stream:
        stream.truncate(2**30 + 1)
    found = cli("export", path.parent, "--to", shared / "set.npz")
    assert found.code == 1 and f"{path} has 1,073,741,825 bytes" in found.err


class _Trap:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_no_pickle_of_a_store_is_loaded(shared: Path, cli: Any, tmp_path: Path) -> None:
    trap = pickle.dumps(_Trap(tmp_path / "mark"))
    pickle.loads(trap)
    (tmp_path / "mark").unlink()  # it works
    cell = next(shared.glob("*/seed0"))
    runs = json.loads((shared / "sweeps" / "tiny.json").read_text("utf-8"))["runs"]
    for folder in (shared / "jobs" / "12", shared / "jobs" / "obd.tiny.0", cell, shared):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("12_0_result.pkl", "12_submitted.pkl", "12_0_submitted.pkl", "state.pt"):
            (folder / name).write_bytes(trap)
    (shared / "jobs" / "obd.tiny.0" / "runs.json").write_text(json.dumps(runs))
    note = {"sweep": "tiny", "jobs": [[f"{cell.parent.name}.seed0"]]}
    (shared / "jobs" / "obd.tiny.0.json").write_text(json.dumps(note))
    for command in ("status", "report", "collect", "cancel"):
        cli(command, "tiny")
    cli("export", cell, "--to", tmp_path / "set.npz")
    assert not (tmp_path / "mark").exists()


HOSTILE = "[red]x[/nope] \x1b]0;title\x1b[2J\x9b31m\u202e </script><!-- $x$ :bug: \r\n=cmd"
SHOWN = r"[red]x[/nope] \x1b]0;title\x1b[2J\x9b31m\u202e </script><!-- $x$ :bug:"


def fail(record: Path, text: str) -> None:
    """Let a run have failed with an error whose every word is `text`."""
    error = {"type": text, "message": text, "traceback": text}
    change(record, status="failed", score=None, error=error)


def test_words_of_a_record_neither_steer_a_terminal_nor_are_markup(shared: Path, cli: Any) -> None:
    fail(next(shared.glob(f"*/seed0/{FILE}")), HOSTILE)
    for command in ("status", "table"):
        found = cli(command, "tiny")
        assert found.code == 3, command
        assert SHOWN in found.out.replace("\n", " "), command
        for text in (found.out, found.err):
            assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in text if c != "\n")


def test_words_of_a_record_stay_words_in_every_file(shared: Path, cli: Any) -> None:
    fail(next(shared.glob(f"*/seed0/{FILE}")), HOSTILE)
    assert cli("report", "tiny").code == 0 and cli("table", "tiny").code == 3
    folder = shared / "reports" / "tiny"
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("</script>") == page.count("<script") and "<!-- $x$" not in page
    markdown, latex = (folder / f"table.{end}" for end in ("md", "tex"))
    assert r"\</script>\<!-- \$x\$" in markdown.read_text("utf-8")
    assert r"\$x\$ :bug:" in latex.read_text("utf-8")
    with (folder / "table.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert SHOWN in row["errors"] and "\n" not in row["errors"]
    assert not row["errors"].startswith(("=", "+", "-", "@"))
    for path in (markdown, latex, folder / "table.csv"):
        assert not set("\x1b\x9b\u202e") & set(path.read_text("utf-8")), path


def test_the_console_takes_no_markup() -> None:
    """A style is `style=` or a `Text`: tags would have to be told from the words of others."""
    folder = Path(obdbench.cli.__file__).parent
    tags = [
        f"{path.name}:{number}"
        for path in folder.glob("*.py")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if ("[/]" in line or "rich.markup" in line)
        and '": "[' not in line
        and path.name != "lazy.py"  # typer itself takes help for markup
    ]
    assert tags == []
