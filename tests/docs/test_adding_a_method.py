"""The walk in docs/adding_a_method.md, as written: its blocks and commands are what runs here."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import obdbench
from benchmark.students import student
from obdbench import CHECKS
from tests.plugins import fresh_methods, outcomes, succeed

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_method.md").read_text()
INLINE = ["--jobs", "1"]  # starting processes would take longer than the runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with each block of the page as the file that its first line names."""
    for content in re.findall(r"```(?:python|toml)\n(.*?)```", PAGE, re.DOTALL):
        name = re.match(r"# (\S+)\n", content)
        assert name is not None
        (tmp_path / name[1]).write_text(content)
    return tmp_path


def commands(first: str) -> list[list[str]]:
    """The page's `obdbench` commands whose line begins so."""
    lines = [line for line in PAGE.splitlines() if line.startswith(f"obdbench {first}")]
    assert lines
    return [line.split()[1:] for line in lines]


def test_the_method_has_fewer_than_20_lines_of_code(folder: Path) -> None:
    source = (folder / "top_advantage.py").read_text()
    tree = ast.parse(source)
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    code = [
        line
        for number, line in enumerate(source.splitlines(), start=1)
        if line.strip() and not line.startswith("#") and number not in docstrings
    ]
    assert len(code) == 19, "as the page says"


def test_from_nothing_to_a_row_with_an_interval_as_a_file_and_as_a_package(
    folder: Path, record_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    check, check_by_name = commands("check-method")
    (sweep,) = commands("--plugin")
    with fresh_methods(folder):
        assert succeed(*check).splitlines()[-1].startswith("top_advantage: 14 passed, 3 not")
        assert_has_its_row(succeed(*sweep, *INLINE))

    for cell in record_store.glob("*.top_advantage.*"):
        shutil.rmtree(cell)
    (sweep,) = commands("sweep")
    with fresh_methods(install(folder)):
        assert succeed(*check_by_name).splitlines()[-1].startswith("top_advantage: 14")
        assert_has_its_row(succeed(*sweep, *INLINE))


def test_every_function_that_the_contract_names_exists() -> None:
    contract = PAGE.partition("## The contract")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(?:\w+\.)*([a-z]+(?:_[a-z]+)+)(?:\([^`]*\))?`", contract))
    known = {*dir(obdbench.Method), *dir(obdbench.Monitor), *dir(obdbench.Problem), *dir(student)}
    assert {"own_student", "student_for"} <= named <= known


def install(folder: Path) -> Path:
    """Install the page's package into a folder of its own, and remove its source."""
    source = folder / "top_advantage.py"
    lines = source.read_text().splitlines()
    assert lines.pop() == 'METHODS.register("top_advantage", TopAdvantage)'
    source.write_text("\n".join(lines))
    site = folder / "site"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-index"]
    pip = [sys.executable, "-m", "pip", "install", *quiet, "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), "."], cwd=folder, check=True)
    source.unlink()
    return site


def assert_has_its_row(printed: str) -> None:
    rows = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines()]
    found = {row[2]: row for row in rows if len(row) > 8}
    assert set(found) >= {"random", "top_advantage", "av_pbc"}
    score, used = found["top_advantage"][3], found["top_advantage"][8]
    assert re.fullmatch(r"-?\d+\.\d \[-?\d+\.\d, -?\d+\.\d\].?", score)
    assert used == "data, teacher"


def test_its_own_test_passes(folder: Path) -> None:
    with fresh_methods(folder):
        assert outcomes("test_top_advantage", "test_contract") == {"passed": len(CHECKS)}
