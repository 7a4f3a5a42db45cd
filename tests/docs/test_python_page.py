"""The Python that README and docs/python.md show is what runs here, in order."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import obdbench
from obdbench.face import RESULT_COLUMNS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.fixture
def registry_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page registers a method, which no other test should find."""
    assert "av_pbc" in obdbench.METHODS  # discovered now, or the copies would keep what is found
    monkeypatch.setattr(obdbench.METHODS, "_entries", dict(obdbench.METHODS._entries))
    monkeypatch.setattr(obdbench.METHODS, "_origins", dict(obdbench.METHODS._origins))


def blocks(text: str) -> Iterator[str]:
    """Python blocks of a page."""
    yield from (match[1] for match in re.finditer(r"```python\n(.*?)```", text, re.S))


def run(block: str, names: dict[str, Any]) -> None:
    """A block as a reader types it, without this file's `from __future__`."""
    exec(compile(block, "block", "exec", dont_inherit=True), names)


@pytest.mark.usefixtures("registry_as_it_was")
def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    found = list(blocks(PAGE))
    assert len(found) > 10
    assert len(ast.parse(found[0]).body) == 6, "the import and five lines"
    for block in found:
        run(block, names)
    said = capsys.readouterr().out
    assert "Did you mean 'outer_steps'" in said
    assert "BadParameter" in said
    assert names["total"] > 0
    assert set(names["numbers"].source) == {"shipped", "own", "published"}
    assert names["table"]._repr_html_().startswith("<table>")


def test_the_page_and_the_docstring_name_every_column_of_the_results() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", PAGE, re.M)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == list(
        obdbench.results("no such folder").columns
    )
    listed = re.findall(r"^ +- ([\w, ]+):", obdbench.results.__doc__ or "", re.M)
    named = [name for names in listed for name in names.split(", ")]
    assert sorted(named) == sorted(RESULT_COLUMNS)


def test_the_readme_shows_five_lines_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(README)
    assert len([line for line in block.splitlines() if line]) <= 5
    run(block, {"__name__": "readme"})
    assert "mean normalized return" in capsys.readouterr().out


def test_the_page_of_the_stable_interface_lists_every_public_name() -> None:
    page = (ROOT / "docs" / "stable_interface.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert sorted(re.findall(r"`(\w+)`", "\n".join(rows))) == sorted(obdbench.__all__)
