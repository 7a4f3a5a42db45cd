"""Files are read and written in one encoding, whatever the locale; terminals lack characters."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.record import record_folder
from benchmark.sweep import read_sweep
from results.record_store import SHIPPED, load_sweep, save_sweep
from slurm.profile import read_profile

ROOT = Path(__file__).parents[2]
PACKAGES = ("obdbench", "benchmark", "baselines", "slurm", "results", "paper_figures")
SWEEP = (
    'name = "s"\ndescription = "größer"\ndatasets = ["hopper/medium"]\n'
    '[[methods]]\nname = "random"\n'
)


def unspecified(source: str) -> list[int]:
    """Lines of calls that read or write text in the locale's encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keywords = {k.arg: k.value for k in node.keywords}
        modes = [a.value for a in [*node.args, *keywords.values()] if isinstance(a, ast.Constant)]
        if name == "read_text" and not node.args and "encoding" not in keywords:
            found.append(node.lineno)
        if name == "write_text" and len(node.args) < 2 and "encoding" not in keywords:
            found.append(node.lineno)
        if name == "open" and not any(isinstance(m, str) and "b" in m for m in modes):
            plain = isinstance(node.func, ast.Name) or not node.args
            if plain and "encoding" not in keywords:
                found.append(node.lineno)
        if keywords.keys() & {"text", "universal_newlines"} and "encoding" not in keywords:
            found.append(node.lineno)
    return found


def test_every_text_file_and_program_is_read_in_a_stated_encoding() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    found = {str(p.relative_to(ROOT)): unspecified(p.read_text("utf-8")) for p in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    ["path.read_text()", "path.write_text(x)", "open(path)", 'open(path, "w")', "path.open()",
     "subprocess.run(words, text=True)"],
)  # fmt: skip
def test_a_call_in_the_locales_encoding_is_found(source: str) -> None:
    assert unspecified(source) == [1]


@pytest.mark.parametrize(
    "source",
    ['path.read_text("utf-8")', 'open(path, "rb")', 'path.open("wb")', "registry.open(1)",
     'subprocess.run(words, encoding="utf-8")', 'open(path, encoding="utf-8")'],
)  # fmt: skip
def test_other_calls_are_not(source: str) -> None:
    assert unspecified(source) == []


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_files_of_users_are_read_with_and_without_a_byte_order_mark(
    mark: bytes, tmp_path: Path
) -> None:
    sweep, profile = tmp_path / "s.toml", tmp_path / "p.toml"
    sweep.write_bytes(mark + SWEEP.encode())
    profile.write_bytes(mark + b'time = "1:00:00"\n')
    assert read_sweep(sweep).description == "größer"
    assert read_profile(profile).of("random").time == "1:00:00"


def test_a_locale_that_is_not_utf8_reads_the_same_and_prints_plain_characters(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(SWEEP.encode())
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
                   "PYTHONIOENCODING": "ascii"}  # fmt: skip
    environment["OBDBENCH_STORE"] = str(tmp_path / "runs")
    command = [sys.executable, "-m", "obdbench"]
    (tmp_path / "runs" / "sweeps").mkdir(parents=True)
    for words in (["plan", str(path)], ["table", "main_table"]):
        if words[0] == "table":
            environment["OBDBENCH_STORE"] = str(copied_sweep(tmp_path))
        done = subprocess.run([*command, *words], capture_output=True, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        done.stdout.decode("ascii")
    assert b"]+" in done.stdout, "the dagger of a tie"


def copied_sweep(folder: Path) -> Path:
    """A store with only the shipped records of one sweep, to which a table may be written."""

    store, sweep = folder / "store", load_sweep(SHIPPED, "main_table")
    for run in sweep.runs:
        if run.dataset == "hopper/medium-expert":
            shutil.copytree(SHIPPED / record_folder(run.run_id), store / record_folder(run.run_id))
    few = [run for run in sweep.runs if run.dataset == "hopper/medium-expert"]
    save_sweep(store, type(sweep)(sweep.name, sweep.description, tuple(few)))
    return store
