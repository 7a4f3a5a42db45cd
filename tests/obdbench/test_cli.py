"""The command line, as a user meets it: what it prints, how it exits, what it leaves."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark.heartbeat import last_sign
from benchmark.record import read_record, write_record
from benchmark.registry import load_plugin
from benchmark.sweep import read_sweep
from obdbench.cli import console, started_sweeps
from obdbench.cli.app import app
from results.record_store import save_sweep
from tests.tiny_runs import PLUGIN, altered

TINY = ["--set", "student.width=8", "--set", "student.depth=2", "--set", "student.steps=4"]
RAISES = """
[[methods]]
name = "raises"
"""
DIES_ONCE = """
[[methods]]
name = "dies_once"
synthetic_size = 4
outer_batch = 8
outer_steps = {steps}
marker = "{marker}"
"""


# --- datasets and registries ------------------------------------------------------------------


def test_data_build_list_and_info_agree(cli: Any) -> None:
    built = cli("data", "build", "hopper/medium", "--size", "60")
    assert built.code == 0
    digest = re.search(r"hopper/medium@60: 60 transitions, sha256 (\w{16})", built.err)
    assert digest
    listed = cli("data", "list").out
    row = next(line for line in listed.splitlines() if "hopper/medium@60" in line)
    assert re.search(r"│ 60 .*│ yes ", row)
    info = cli("data", "info", "hopper/medium@60").out
    assert re.search(rf"^sha256 +{digest[1]}\w{{48}}$", info, re.M)
    assert re.search(r"^environment +Hopper-v5$", info, re.M)
    assert re.search(r"^transitions +60 in \d+ episodes, seed 0$", info, re.M)


def test_a_dataset_of_another_seed_is_used_as_it_is(
    cli: Any, small_dataset_name: str, tmp_path: Path
) -> None:
    # Only `data build` asks for a seed; a run takes the dataset that is there.
    assert cli("data", "build", "hopper/medium@50", "--seed", "3").code == 0
    run = cli("run", "random", "hopper/medium@50", *TINY, "--set", "synthetic_size=4",
              "--protocol", "smoke")  # fmt: skip
    assert run.code == 0
    again = cli("data", "build", "hopper/medium@50")
    assert again.code == 1
    assert "is in the store with seed 3, you asked for seed 0" in again.err


def test_list_names_every_registered_thing(cli: Any) -> None:
    listed = cli("list").out
    for name in ("av_pbc", "random", "teacher", "hopper/medium-replay", "residual", "td3_bc"):
        assert re.search(rf"^│ {name} +│ obdbench ", listed, re.M), name
    assert "broken" not in listed


# --- one run ----------------------------------------------------------------------------------


def test_run_prints_its_score_and_keeps_its_record(
    cli: Any, small_dataset_name: str, record_store: Path
) -> None:
    arguments = ["run", "dbc", small_dataset_name, *TINY, "--protocol", "smoke", "--seed", "7"]
    sizes = ["--set", "synthetic_size=4", "--set", "outer_steps=3", "--set", "outer_batch=8"]
    done = cli(*arguments, *sizes)
    assert done.code == 0
    said = re.search(r"(\S+)\.seed7: normalized return (-?\d+\.\d\d)$", done.out.strip())
    assert said
    assert (record_store / said[1] / "seed7" / "record.json").is_file()
    assert cli(*arguments, *sizes).out == done.out


def test_a_run_that_fails_says_why_and_exits_with_1(cli: Any, small_dataset_name: str) -> None:
    failed = cli("--plugin", PLUGIN, "run", "raises", small_dataset_name, "--set", "message=[oh]")
    assert failed.code == 1
    assert "ValueError: [oh]" in failed.err
    assert "Traceback" not in failed.err
    said = re.search(r"^(\S+\.seed0) failed; its record has the traceback: (.*)$", failed.err, re.M)
    assert said
    record = read_record(Path(said[2]))
    assert record.run_id == said[1]
    assert "in distil" in record.failure.traceback


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "dcb", "hopper/medium"], "No method is called 'dcb'. Did you mean 'dbc'"),
        (["run", "mine", "hopper/medium"], "One of your own: --plugin FILE before the command."),
        (["run", "dbc", "mine/data"], "One of your own: --plugin FILE before the command."),
        (["run", "dbc", "hopper/mine"], "One of your own: --plugin FILE before the command."),
        (["run", "dbc", "hopper/medum"], "'hopper/medum'. Did you mean 'hopper/medium'"),
        (["run", "dbc", "hopper/medium@x"], "The size in 'hopper/medium@x' is 'x'"),
        (["run", "dbc", "hopper/medium", "--protocol", "obdd"], "Did you mean 'obd'?"),
        (["run", "dbc", "hopper/medium", "--teacher", "td3bc"], "Did you mean 'td3_bc'?"),
        (["run", "dbc", "hopper/medium", "--set", "outer_step=3"], "Did you mean 'outer_steps'"),
        (["run", "dbc", "hopper/medium", "--set", "outer_steps=3.5"], "3.5 (float); expected int"),
        (["run", "dbc", "hopper/medium", "--set", "outer_steps"], "is not of the form key=value"),
        (["run", "dbc", "hopper/medium", "--set", f"outer_steps={10**20}"], "from -2^63 to 2^63-1"),
        (["run", "dbc", "hopper/medium", "--set", f"outer_steps={'9' * 5000}"], "cannot be read"),
        (["run", "dbc", "hopper/medium", "--set", "student.widht=3"], "Did you mean 'width'"),
        (
            ["run", "dbc", "hopper/medium", "--set", "student.head=men"],
            "one of 'sampled', 'sampled_trained', 'mean'",
        ),
        (["sweep", "quickstat"], "Did you mean 'quickstart'?"),
        (["sweep", "nowhere.toml"], "The sweep file nowhere.toml does not exist"),
        (["sweep", "quickstart", "--retry", "all"], "--retry takes 'failed', got 'all'"),
        (["sweep", "quickstart", "--jobs", "0"], "--jobs is 0; expected 1 or more"),
        (["status", "quickstart"], "No sweep 'quickstart' was started in"),
        (["table", "quickstart"], "No sweep 'quickstart' was started in"),
        (["data", "info", "hopper/medium@99"], "data build hopper/medium --size 99"),
        (["data", "build", "hopper/medium", "--size", "0"], "expected a positive number"),
        (["--plugin", "nowhere.py", "list"], "nowhere.py is not a file"),
    ],
)
def test_a_mistake_is_answered_with_one_message_that_helps(
    arguments: list[str], says: str, cli: Any
) -> None:
    result = cli(*arguments)
    assert result.code == 1
    assert result.err.startswith("Error: ")
    assert says in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "tiny"\nd', 'name = "tiny\nd', "is not TOML"),
        ("[student]", "[studnet]", "Unknown key 'studnet' in {file}. Did you mean 'student'?"),
        ("width = 8", "widht = 8", "Unknown key 'widht' in [student] of {file}. Did you mean"),
        ("width = 8", 'width = "8"', "width in [student] of {file} is '8' (str); expected int."),
        ("synthetic_size", "sizes", "Unknown key 'sizes' in [[methods]] random of {file}."),
        ("seeds = 2", "seeds = 0", "seeds in {file} is 0"),
        ("last = 2\n", "", "[protocol] of {file} lacks 'last'"),
        ("[[methods]]", "[grid]\nwdth = [1]\n[[methods]]", "Unknown axis 'wdth' in [grid]"),
        ('name = "random"', 'nmae = "random"', "Every [[methods]] of {file} needs a name"),
    ],
)
def test_a_mistake_in_a_sweep_file_is_named_with_its_table(
    old: str, new: str, says: str, cli: Any, sweep_file: Path
) -> None:
    text = sweep_file.read_text()
    assert old in text
    sweep_file.write_text(text.replace(old, new, 1))
    result = cli("sweep", sweep_file)
    assert (result.code, result.out) == (1, "")
    assert says.format(file=sweep_file) in result.err
    assert "Traceback" not in result.err


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["swep"])
    assert result.exit_code == 2
    assert "No such command 'swep'" in result.output


@contextmanager
def background(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A real `obdbench` process whose output is a pipe; it does not outlive the block."""
    command = [str(Path(sys.executable).with_name("obdbench")), *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


# --- sweeps -----------------------------------------------------------------------------------


def test_sweep_status_and_table(
    cli: Any, sweep_file: Path, record_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_plugin(PLUGIN)
    sweep_file.write_text(sweep_file.read_text() + RAISES)
    done = cli("sweep", sweep_file, "--jobs", "1")
    assert done.code == 3, "a script must see that runs failed"
    assert "Some runs failed; see: obdbench status tiny" in done.err
    assert "tiny: 4 runs, 0 done, 0 failed, 4 to do" in done.err
    for suffix in ("md", "csv", "tex"):
        assert (record_store / "reports" / "tiny" / f"table.{suffix}").is_file()

    status = cli("status", "tiny")
    assert status.code == 3
    rows = [line for line in status.out.splitlines() if line.startswith("│")]
    marks = {re.split(r"[.│ ]+", row)[2]: [c.strip() for c in row.split("│")[2:4]] for row in rows}
    assert marks["random"] == ["DD", ""]
    assert marks["raises"] == ["FF", "ValueError"]
    assert "seeds 0 to 1" in status.out
    assert "D 2 done, F 2 failed" in status.out
    assert status.out.count("ValueError: ") == 1, "the reason, once, and where to read more"
    assert re.search(r"raises\..*/seed0/record\.json", status.out)
    assert "obdbench sweep tiny --retry failed" in status.out
    # With plug-ins a command that is to be typed next has them too.
    own = f"obdbench --plugin {PLUGIN.resolve()}"
    assert f"{own} sweep tiny --retry failed" in cli("--plugin", PLUGIN, "status", "tiny").out
    assert f"{own} status tiny" in cli("--plugin", PLUGIN, "sweep", "tiny", "--jobs", "1").err

    again = cli("sweep", sweep_file, "--jobs", "1")
    assert "4 runs, 2 done, 2 failed, 0 to do" in again.err
    # The command that `status` names works, though "tiny" is not a file.
    retried = cli("sweep", "tiny", "--retry", "failed", "--jobs", "1")
    assert "4 runs, 2 done, 2 failed, 2 to do" in retried.err

    table = cli("table", "tiny")
    assert table.code == 3
    assert table.out == again.out == retried.out == done.out

    monkeypatch.setattr(started_sweeps, "LONG", 1)  # as with hundreds of cells
    lines = cli("status", "tiny").out.splitlines()
    (row,) = (line for line in lines if re.match(r"\S+\.raises\.\w+ ", line))
    assert row.split()[1:] == ["FF", "ValueError"]
    plain = cli("table", "tiny")
    assert plain.code == 3
    assert "│" not in plain.out
    numbers = re.compile(r"-?\d+\.\d")
    assert numbers.findall(plain.out) == numbers.findall(table.out), "the same numbers and caption"


def test_a_second_sweep_of_the_name_says_that_it_replaces_the_first(
    cli: Any, sweep_file: Path
) -> None:
    text = sweep_file.read_text()
    assert "other runs" not in cli("sweep", sweep_file, "--jobs", "1").err
    sweep_file.write_text(text.replace("synthetic_size = 4", "synthetic_size = 5"))
    said = "tiny asked for 2 other runs before; their records stay, its list and table are written"
    assert said in cli("sweep", sweep_file, "--jobs", "1").err
    assert "other runs" not in cli("sweep", sweep_file, "--jobs", "1").err


@pytest.mark.parametrize("columns", [80, 40])
def test_status_keeps_every_mark_on_a_narrow_terminal(
    columns: int, cli: Any, sweep_file: Path, record_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = sweep_file.read_text().replace("seeds = 2", "seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20]")
    other = '[[methods]]\nname = "distribution_matching_relabelled"\nseeds = 10\n'
    sweep_file.write_text(text + other)
    save_sweep(record_store, read_sweep(sweep_file))
    monkeypatch.setattr(console.out, "width", columns)
    found = cli("status", "tiny").out
    assert max(map(len, found.splitlines())) <= columns
    rows = "".join(row.split("│")[2] for row in found.splitlines() if row.startswith("│"))
    assert rows.split() == ["." * 10, ".", "." * 10, "-"]
    assert "seeds 0 to" in found and "9, 20 " in found
    assert ". 21 missing, - 1 not in the sweep" in found


def test_a_report_is_written_over_pages_only(
    cli: Any, sweep_file: Path, record_store: Path, tmp_path: Path
) -> None:
    save_sweep(record_store, read_sweep(sweep_file))
    page, notes = tmp_path / "page.html", tmp_path / "notes.md"
    notes.write_text("my notes")
    for path, says in ((notes, "is not an HTML page"), (tmp_path, "is a folder; expected a file")):
        found = cli("report", "tiny", "--to", path)
        assert found.code == 1 and f"{path} " in found.err and says in found.err
    assert notes.read_text() == "my notes"
    for _ in range(2):
        assert cli("report", "tiny", "--to", page).code == 0


def test_a_sweep_leaves_alone_what_another_process_works_on(
    cli: Any, sweep_file: Path, tmp_path: Path, record_store: Path
) -> None:
    load_plugin(PLUGIN)
    text = sweep_file.read_text().replace("seeds = 2", "seeds = 1")
    sweep_file.write_text(text + DIES_ONCE.format(steps=10**6, marker=tmp_path))
    with background("--plugin", PLUGIN, "sweep", sweep_file, "--jobs", "1") as other:
        while not any((s := last_sign(p)) and s.step for p in record_store.glob("*/seed*")):
            assert other.poll() is None, other.communicate()
            time.sleep(0.05)
        mine = cli("sweep", sweep_file, "--jobs", "1")
        assert "2 runs, 1 done, 0 failed, 1 running elsewhere, 0 to do" in mine.err
        assert re.search(r"│ R +│ 0 % ", cli("status", "tiny").out)

        # A real process that is interrupted says so and leaves no traceback.
        other.send_signal(signal.SIGINT)
        _, err = other.communicate(timeout=60)
    assert other.returncode == 130
    assert "Stopped. Finished runs are kept" in err
    assert "Traceback" not in err
    assert "S 1 stopped" in cli("status", "tiny").out


def test_a_real_process_with_local_workers_and_a_plugin(
    sweep_file: Path, tmp_path: Path, record_store: Path, cli: Any
) -> None:
    marker = tmp_path / "marker"
    marker.touch()
    sweep_file.write_text(sweep_file.read_text() + DIES_ONCE.format(steps=2, marker=marker))
    local = ("--jobs", "2")
    with background("--plugin", PLUGIN, "sweep", sweep_file, *local) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "\x1b" not in out + err, "colours in a pipe"
    assert "dies_once" in out
    assert len(list(record_store.glob("*.dies_once.*/seed*/record.json"))) == 2
    assert "D 4 done" in cli("status", "tiny").out


def test_records_of_other_data_do_not_stand_beside_new_ones(
    cli: Any, sweep_file: Path, record_store: Path
) -> None:
    assert cli("sweep", sweep_file, "--jobs", "1").code == 0
    path = next(record_store.glob("*/seed0/record.json"))
    write_record(path, altered(read_record(path), provenance__dataset_sha256="0" * 64))
    again = cli("sweep", sweep_file, "--jobs", "1")
    assert again.code != 0
    assert "with sha256 0000000000000000; it now holds" in str(again)
    assert "Build that data again, or give another store." in str(again)
