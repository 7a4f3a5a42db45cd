"""The HTML report, in a real browser, from a file: what it shows, and that it needs no more."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.registry import load_plugin
from benchmark.run import execute
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from obdbench.html import write_page
from obdbench.html.content import content
from obdbench.states import look
from results.store import save_sweep, sweep_records
from tests.browser import visit
from tests.tiny_runs import PLUGIN, tiny_spec

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def sweep(small_dataset_name: str, store: Path) -> Sweep:
    """Two methods at three seeds, one of which is missing; a failed run with an evil message."""
    load_plugin(PLUGIN)
    runs: list[RunSpec] = [
        tiny_spec(name, small_dataset_name, seed=seed)
        for name in ("random", "dbc")
        for seed in range(3)
    ]
    runs.append(tiny_spec("raises", small_dataset_name, message=HOSTILE))
    for run in runs:
        if (run.method, run.seed) != ("dbc", 2):
            execute(run, store)
    sweep = Sweep("tiny", HOSTILE, tuple(runs))
    save_sweep(store, sweep)
    return sweep


@pytest.fixture(scope="module")
def page(store: Path, sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(store, sweep, path)
    return path


def test_the_page_asks_for_nothing_from_anywhere(page: Path) -> None:
    text = page.read_text()
    svg_names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r'https?://[^"\s<>]+', text)) <= svg_names
    assert "default-src 'none'" in text


def test_it_opens_from_a_file_without_a_problem_and_shows_every_cell(page: Path) -> None:
    found = visit(
        page,
        """
        found.rows = byId("results-table").tBodies[0].rows.length;
        found.text = byId("view-results").innerText;
        found.counts = byId("counts").textContent;
        for (const view of ["runs", "completeness", "figures", "published", "downloads"]) {
          await go(view);
          found[view] = !byId(`view-${view}`).hidden && byId("view-results").hidden;
        }
        found.figures_drawn = byId("view-figures").querySelectorAll("svg").length;
        found.matrix = byId("matrix").tBodies[0].innerText;
        """,
    )
    assert found["problems"] == []
    assert found["rows"] == 3
    assert "5 done" in found["counts"] and "1 failed" in found["counts"]
    assert "1 missing" in found["counts"]
    views = ("runs", "completeness", "figures", "published", "downloads")
    assert all(found[view] for view in views)
    assert found["figures_drawn"] >= 1
    assert found["matrix"].count("●") == 5
    assert found["matrix"].count("✗") == 1


def test_it_sorts_and_filters(page: Path, store: Path, sweep: Sweep) -> None:
    found = visit(
        page,
        """
        const rows = () => [...byId("results-table").tBodies[0].rows];
        const scores = () => rows().map(r => r.cells[2].innerText);
        const score = byId("results-table").tHead.querySelectorAll("button")[2];
        await click(score); found.down = scores();
        await click(score); found.up = scores();
        found.aria = score.closest("th").getAttribute("aria-sort");
        await type("find", "dbc"); found.filtered = byId("results-table").tBodies[0].innerText;
        await type("find", "no such method");
        found.none = byId("results-table").tBodies[0].rows.length;
        await go("runs"); await type("state", "failed");
        found.failed = byId("runs-table").tBodies[0].innerText;
        """,
    )
    values = content(store, sweep, sweep_records(store, sweep), look(store, sweep))
    means = sorted((c["value"] for c in values["cells"] if c["value"] is not None), reverse=True)
    assert [float(text.split()[0]) for text in found["down"][:2]] == [round(m, 1) for m in means]
    assert found["up"][:2] == found["down"][:2][::-1]
    assert found["aria"] == "ascending"
    assert "dbc" in found["filtered"] and "random" not in found["filtered"]
    assert found["none"] == 0
    assert "raises" in found["failed"] and "ValueError" in found["failed"]
    assert found["problems"] == []


def test_a_run_has_a_page_of_its_own(page: Path, sweep: Sweep) -> None:
    run = next(run for run in sweep.runs if run.method == "dbc")
    found = visit(
        page,
        f"""
        await go("runs");
        const link = [...byId("runs-table").querySelectorAll("a")]
          .find(a => decodeURIComponent(a.hash) === "#run/{run.run_id}");
        link.focus();
        found.focused = document.activeElement === link;
        await click(link); await tick();
        found.text = byId("view-run").innerText;
        found.circles = byId("view-run").querySelectorAll("svg circle").length;
        """,
    )
    assert found["problems"] == []
    assert found["focused"]
    assert f"obdbench verify {run.run_id}" in found["text"]
    for words in ("Spec", "Cost", "Provenance", "dataset_sha256", "packages.torch", "sha256"):
        assert words in found["text"]
    assert found["circles"] == 4 + 4, "the curve's checkpoints, and the pairs of the set"


def test_what_a_run_says_is_text_and_never_code(page: Path, sweep: Sweep) -> None:
    failed = sweep.runs[-1].run_id
    found = visit(
        page,
        f"""
        await go("run/{failed}");
        found.text = byId("view-run").innerText;
        found.images = document.images.length;
        found.description = document.querySelector("header p").innerText;
        """,
    )
    assert HOSTILE in found["text"]
    assert HOSTILE in found["description"]
    assert found["images"] == 0
    assert found["problems"] == []


def test_it_fits_a_phone(page: Path) -> None:
    found = visit(
        page,
        """
        found.overflow = {};
        for (const view of ["results", "runs", "completeness", "downloads"]) {
          await go(view);
          found.overflow[view] = document.documentElement.scrollWidth - innerWidth;
        }
        """,
        width=400,
    )
    assert all(overflow <= 0 for overflow in found["overflow"].values()), found["overflow"]


def test_the_csv_holds_the_same_numbers(page: Path, store: Path, sweep: Sweep) -> None:
    found = visit(page, 'found.csv = byId("csv").textContent; found.bib = byId("bib").textContent;')
    rows = list(csv.DictReader(io.StringIO(found["csv"])))
    values = content(store, sweep, sweep_records(store, sweep), look(store, sweep))
    shown: dict[str, Any] = {cell["cell_id"]: cell["value"] for cell in values["cells"]}
    for row in rows:
        want = shown[row["cell_id"]]
        assert row["value"] == "" if want is None else float(row["value"]) == pytest.approx(want)
    assert len(rows) == 3
    assert "arXiv:2410.22728" in found["bib"]


def test_the_same_records_give_the_same_page(page: Path, store: Path, sweep: Sweep) -> None:
    again = page.with_name("again.html")
    write_page(store, sweep, again)
    assert again.read_bytes() == page.read_bytes()
