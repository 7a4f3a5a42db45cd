"""The HTML report, in a real browser, from a file: what it shows, and that it needs no more."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmark.record import Record
from benchmark.registry import load_plugin
from benchmark.scaling import Scaling
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from benchmark.synthetic_set import SyntheticSet, save_synthetic_set
from obdbench.html_report import page as page_module
from obdbench.html_report import write_html_report
from obdbench.html_report.content import PIXELS, content, facts, headline, over_datasets, picture
from obdbench.sweep_status import SweepStatus, sweep_status
from results import cell_table, runs_frame
from results.record_store import save_sweep, sweep_records
from tests.browser import visit
from tests.tiny_runs import PLUGIN, altered, execute, tiny_spec

HOSTILE = "</script><img src=x onerror=alert(1)>"
UNSEEN = "hopper/medium-replay@2000"
BACK = """const back = () => new Promise(done => {
  addEventListener("hashchange", () => setTimeout(done, 0), {once: true}); history.back();
});"""


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
    write_html_report(store, sweep, path)
    return path


def values_of(store: Path, sweep: Sweep) -> dict[str, Any]:
    records = sweep_records(store, sweep)
    return values_from(store, sweep, records)


def test_a_seed_that_a_script_cannot_count_to_is_shown_as_it_is(
    small_dataset_name: str, tmp_path: Path
) -> None:
    seeds = (2**53 - 1, 2**53 + 1, 2**63 - 1)
    runs = tuple(tiny_spec("random", small_dataset_name, seed=seed) for seed in seeds)
    execute(runs[1], tmp_path)
    save_sweep(tmp_path, sweep := Sweep("large", "", runs))
    write_html_report(tmp_path, sweep, path := tmp_path / "report.html")
    script = """await go("completeness");
    const all = what => [...document.querySelectorAll(what)];
    found.heads = all("#matrix thead th").map(h => h.textContent);
    found.links = all("#matrix tbody a").map(a => a.getAttribute("aria-label"));"""
    found = visit(path, script)
    assert found["heads"] == ["Cell", *map(str, seeds)]
    states = ("missing", "done", "missing")
    assert found["links"] == [
        f"seed {seed}: {state}" for seed, state in zip(seeds, states, strict=True)
    ]


def values_from(store: Path, sweep: Sweep, records: Sequence[Record]) -> dict[str, Any]:
    table = cell_table(runs_frame(records, sweep.runs))
    overall = over_datasets(runs_frame(records), table)
    return content(store, sweep, records, sweep_status(store, sweep), table, overall)


def run_of(sweep: Sweep, method: str, seed: int = 0) -> str:
    return next(run.run_id for run in sweep.runs if (run.method, run.seed) == (method, seed))


def cell_of(sweep: Sweep, method: str) -> str:
    return next(run.cell_id for run in sweep.runs if run.method == method)


def test_the_page_asks_for_nothing_from_anywhere(page: Path) -> None:
    text = page.read_text()
    svg_names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r'https?://[^"\s<>]+', text)) <= svg_names
    assert "default-src 'none'" in text


def test_it_opens_from_a_file_without_a_problem_and_shows_every_cell(page: Path) -> None:
    found = visit(
        page,
        """
        found.rows = byId("results-table").querySelectorAll("tbody a").length;
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
        data.cells.forEach(cell => { cell.apart = false; });
        refreshResults();
        const rows = () => [...byId("results-table").tBodies[0].rows];
        const scores = () => rows().map(r => r.cells[2].innerText);
        const score = byId("results-table").tHead.querySelectorAll("button")[2];
        found.down = scores();
        await click(score); found.up = scores();
        found.aria = score.closest("th").getAttribute("aria-sort");
        await type("find", "dbc"); found.filtered = byId("results-table").tBodies[0].innerText;
        await type("find", "no such method");
        found.none = byId("results-table").tBodies[0].innerText;
        found.count = byId("results-count").innerText;
        await go("runs"); await type("state", "failed");
        found.failed = byId("runs-table").tBodies[0].innerText;
        """,
    )
    values = values_of(store, sweep)
    means = sorted((c["value"] for c in values["cells"] if c["value"] is not None), reverse=True)
    assert [float(text.split()[0]) for text in found["down"][:2]] == [round(m, 1) for m in means]
    assert found["up"][:2] == found["down"][:2][::-1]
    assert found["aria"] == "ascending"
    assert "dbc" in found["filtered"] and "random" not in found["filtered"]
    assert found["none"].strip() == "Nothing matches."
    assert found["count"] == "0 of 3 methods"
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
    for words in (
        "Spec",
        "Cost",
        "Noted by the method",
        "gradient norm median",
        "Provenance",
        "dataset_sha256",
        "packages.torch",
        "sha256",
    ):
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
    values = values_of(store, sweep)
    shown: dict[str, Any] = {cell["cell_id"]: cell["value"] for cell in values["cells"]}
    for row in rows:
        want = shown[row["cell_id"]]
        assert row["value"] == "" if want is None else float(row["value"]) == pytest.approx(want)
    assert len(rows) == 3
    assert "arXiv:2410.22728" in found["bib"]


def test_the_same_records_give_the_same_page(page: Path, store: Path, sweep: Sweep) -> None:
    again = page.with_name("again.html")
    write_html_report(store, sweep, again)
    assert again.read_bytes() == page.read_bytes()


def test_no_view_has_the_name_of_an_element(page: Path) -> None:
    """The browser would scroll to the element that the hash names."""
    found = visit(page, "found.ids = VIEWS.filter(view => byId(view)); found.views = VIEWS.length;")
    assert found["ids"] == []
    assert found["views"] == 7


def test_the_skip_link_leads_to_the_content_of_the_view(page: Path) -> None:
    found = visit(
        page,
        """
        await go("runs");
        await click(document.querySelector(".skip")); await tick();
        found.focused = document.activeElement.id;
        found.hash = location.hash;
        found.hidden = byId("view-runs").hidden;
        """,
    )
    assert found == found | {"focused": "main", "hash": "#runs", "hidden": False, "problems": []}


def test_an_address_that_is_not_well_formed_is_answered(page: Path) -> None:
    found = visit(
        page,
        """
        await go("run/%"); found.run = byId("view-run").innerText;
        await go("runs/%"); found.runs = byId("view-runs").innerText;
        """,
    )
    assert found["run"] == "No run %"
    assert "No cell %" in found["runs"] and "Nothing matches." in found["runs"]
    assert found["problems"] == []


def test_cells_without_records_keep_their_dataset_and_one_label(
    store: Path, sweep: Sweep, tmp_path: Path
) -> None:
    runs = [*sweep.runs, *(tiny_spec("random", UNSEEN, synthetic_size=n) for n in (4, 8))]
    wider = Sweep("wider", "", tuple(runs))
    values = values_of(store, wider)
    cells = {cell["cell_id"]: cell for cell in values["cells"]}
    for cell_id, specs in wider.cells.items():
        assert cells[cell_id]["dataset"] == specs[0].dataset
        assert cells[cell_id]["label"] == values["labels"][cell_id]
    assert len({values["labels"][run.cell_id] for run in runs[-2:]}) == 2
    write_html_report(store, wider, tmp_path / "wider.html")
    found = visit(tmp_path / "wider.html", 'found.csv = byId("csv").textContent;')
    rows = csv.DictReader(io.StringIO(found["csv"]))
    assert [row["dataset"] for row in rows] == [cell["dataset"] for cell in values["cells"]]


def test_the_view_that_is_shown_is_the_one_that_is_printed(page: Path) -> None:
    found = visit(
        page,
        """
        const sheet = document.styleSheets[0];
        const print = [...sheet.cssRules].find(rule => rule.conditionText === "print");
        for (const rule of print.cssRules) sheet.insertRule(rule.cssText, sheet.cssRules.length);
        await go("completeness");
        const sections = [...document.querySelectorAll("section")];
        found.printed = sections.filter(s => s.getClientRects().length).map(s => s.id);
        const box = document.querySelector("#view-completeness .scroll");
        found.overflow = getComputedStyle(box).overflow;
        """,
    )
    assert found["printed"] == ["view-completeness"]
    assert found["overflow"] == "visible", "the whole table is printed"


@pytest.mark.parametrize(
    ("method", "seed", "offered"), [("dbc", 0, True), ("dbc", 2, False), ("raises", 0, False)]
)
def test_only_a_run_with_numbers_can_be_verified(
    page: Path, sweep: Sweep, method: str, seed: int, offered: bool
) -> None:
    run = run_of(sweep, method, seed)
    found = visit(page, f'await go("run/{run}"); found.text = byId("view-run").innerText;')
    assert (f"obdbench verify {run}" in found["text"]) is offered
    assert ("--store FOLDER" in found["text"]) is offered


def test_the_runs_of_a_cell_are_named_and_undisturbed_by_older_filters(
    page: Path, sweep: Sweep
) -> None:
    found = visit(
        page,
        f"""
        const look = () => ({{
          heading: byId("runs-heading").innerText, count: byId("runs-count").innerText,
          all: byId("all-runs").hidden ? null : byId("all-runs").querySelector("a").hash,
          rows: byId("runs-table").tBodies[0].rows.length,
        }});
        await go("runs"); await type("find-run", "raises"); await type("state", "failed");
        await go("runs/{cell_of(sweep, "random")}"); found.cell = look();
        found.filters = byId("find-run").value + byId("state").value;
        found.role = byId("runs-count").getAttribute("role");
        await type("find-run", "no such"); found.none = byId("runs-table").tBodies[0].innerText;
        await type("find-run", ""); await go("runs"); found.every = look();
        """,
    )
    dataset = sweep.runs[0].dataset
    heading = f"Runs of random on {dataset}"
    assert found["cell"] == {"heading": heading, "count": "3 of 7 runs", "all": "#runs", "rows": 3}
    assert found["filters"] == ""
    assert found["role"] == "status"
    assert found["none"].strip() == "Nothing matches."
    every = {"heading": "Runs", "count": "7 of 7 runs", "all": None, "rows": 7}
    assert found["every"] == every


def test_going_back_from_a_run_leads_to_where_one_was(page: Path, sweep: Sweep) -> None:
    found = visit(
        page,
        f"""
        {BACK}
        const box = document.querySelector("#view-runs .scroll");
        document.body.style.paddingBottom = "3000px";
        box.style.maxHeight = "60px";
        await go("runs"); await type("find-run", "d");
        box.scrollTo(0, 40); scrollTo(0, 300);
        await go("run/{run_of(sweep, "dbc")}");
        found.run = [scrollY, document.title, document.activeElement.tagName];
        found.links = [...byId("view-run").querySelectorAll("a")].map(a => decoded(a.hash));
        await back();
        found.back = [scrollY, box.scrollTop, byId("find-run").value];
        found.focused = document.activeElement.id;
        found.title = document.title;
        await go("results"); await go("runs"); found.anew = [scrollY, box.scrollTop];
        """,
    )
    dataset = sweep.runs[0].dataset
    assert found["run"] == [0, f"dbc on {dataset}, seed 0 - tiny - OBD-Bench", "H2"]
    assert f"#runs/{cell_of(sweep, 'dbc')}" in found["links"]
    assert found["back"] == [300, 40, "d"]
    assert found["focused"] == "runs-heading"
    assert found["title"] == "Runs - tiny - OBD-Bench"
    assert found["anew"] == [0, 0], "a view that is opened anew begins at its top"
    assert found["problems"] == []


def test_more_runs_stay_shown_until_the_cell_changes(page: Path, sweep: Sweep) -> None:
    run = run_of(sweep, "random")
    found = visit(
        page,
        f"""
        {BACK}
        const run = runsById.get("{run}");
        for (let seed = 3; seed < 450; seed += 1) data.runs.push({{...run, seed}});
        const rows = () => byId("runs-table").tBodies[0].rows.length;
        await go("runs"); found.first = rows();
        await click(byId("more")); found.more = rows();
        await go("run/{run}"); await back(); found.back = rows();
        await go("runs/{cell_of(sweep, "random")}"); found.cell = rows();
        """,
    )
    assert (found["first"], found["more"], found["back"], found["cell"]) == (200, 400, 400, 200)


def test_heads_of_tables_stay_in_sight(page: Path) -> None:
    found = visit(
        page,
        """
        await go("completeness");
        const box = document.querySelector("#view-completeness .scroll");
        const place = element => element.getBoundingClientRect();
        Object.assign(box.style, {maxHeight: "60px", width: "230px"});
        byId("matrix").style.width = "600px";
        const head = byId("matrix").tHead.rows[0].cells[1];
        const name = byId("matrix").tBodies[0].rows[2].cells[0];
        box.scrollTo(50, 40);
        found.scrolled = [box.scrollLeft, box.scrollTop];
        found.head = place(head).top - place(box).top;
        found.name = place(name).left - place(box).left;
        """,
    )
    assert found["scrolled"] == [50, 40]
    assert abs(found["head"]) < 1
    assert abs(found["name"]) < 1


def test_ranks_are_those_of_the_paper_tables(page: Path, store: Path, sweep: Sweep) -> None:
    records = sweep_records(store, sweep)
    # Seeds of the distilled cell far above those of the random one, and then around them.
    scores = {"apart": {"dbc": (80.0, 81.0), "random": (10.0, 11.0, 12.0)},
              "overlapping": {"dbc": (5.0, 15.0), "random": (8.0, 9.0, 10.0)},
              "single": {"dbc": (50.0,), "random": (8.0, 9.0, 10.0)}}  # fmt: skip
    ranks = {}
    for case, by_method in scores.items():
        changed = []
        for record in records:
            seed, mine = record.spec.seed, by_method.get(record.spec.method, ())
            if seed < len(mine):
                changed.append(altered(record, score__normalized_return=mine[seed]))
        values = values_from(store, sweep, changed)
        ranks[case] = {cell["method"]: cell["rank"] for cell in values["cells"]}
    assert ranks["apart"] == {"dbc": "best", "random": "", "raises": ""}
    assert ranks["overlapping"] == {"dbc": "best", "random": "tie", "raises": ""}
    assert ranks["single"] == {"dbc": "best", "random": "undecided", "raises": ""}


def test_ties_carry_a_dagger_and_the_best_is_bold(page: Path) -> None:
    found = visit(
        page,
        """
        const ranks = ["best", "tie", "undecided"];
        data.cells.forEach((cell, i) =>
          Object.assign(cell, {rank: ranks[i], value: 3 - i, apart: false}));
        refreshResults();
        const rows = [...byId("results-table").tBodies[0].rows];
        for (const row of rows) found[row.className] = [
          row.cells[2].querySelector(".rank").innerText, getComputedStyle(row.cells[2]).fontWeight];
        found.note = byId("results-note").innerText;
        """,
    )
    assert found["best"] == ["", "700"]
    assert found["tie"] == ["\N{DAGGER}", "400"]
    assert found["undecided"] == ["?", "400"]
    assert "\N{DAGGER}: not apart from it (the interval of the difference" in found["note"]


def test_figures_have_names_and_stay_legible_on_a_phone(page: Path) -> None:
    script = """
        const box = landing[0].querySelector(".paper"), svg = box.querySelector("svg");
        const look = () => box.dispatchEvent(new Event("scroll"));
        const width = () => svg.getBoundingClientRect().width;
        const names = svg.getAttribute("aria-labelledby").split(" ");
        const named = names.map(id => byId(id).textContent);
        found.name = [svg.getAttribute("role"), ...named];
        found.shown = ["h3", "figcaption"].map(name => landing[0].querySelector(name).innerText);
        document.body.style.width = "2000px"; found.most = width();
        document.body.style.width = "390px"; found.least = width();
        landing[0].style.width = "200px"; look();
        found.scrolls = [box.scrollWidth > box.clientWidth, box.tabIndex, box.className];
        found.hint = box.previousElementSibling.innerText;
        landing[0].style.width = ""; landing[0].style.maxWidth = "900px";
        document.body.style.width = "2000px"; look();
        found.fits = [box.scrollWidth > box.clientWidth, box.tabIndex, box.className];
        found.silent = box.previousElementSibling.hidden;
        found.natural = parseFloat(landing[0].style.getPropertyValue("--natural"));
        found.ink = getComputedStyle(svg).fill === getComputedStyle(document.body).color;
        found.ground = getComputedStyle(box).backgroundColor;
        """
    found = visit(page, script)
    assert found["problems"] == []
    assert found["name"] == ["img", *found["shown"]]
    assert "outer step" in found["shown"][0] and "seeds" in found["shown"][1]
    assert found["least"] >= 0.85 * found["natural"] - 1, "its text would be too small to read"
    assert found["natural"] < found["most"] <= 1.3 * found["natural"] + 1, "it takes the width"
    assert found["scrolls"] == [True, 0, "scroll paper more-right"]
    assert found["hint"].startswith("Scroll sideways")
    assert found["fits"] == [False, -1, "scroll paper"] and found["silent"]
    assert found["ink"] and found["ground"] == "rgba(0, 0, 0, 0)", "no white slab on a dark page"


def test_a_run_without_a_picture_leads_to_the_one_that_has_it(page: Path, sweep: Sweep) -> None:
    drawn, other = (run_of(sweep, "dbc", seed) for seed in (0, 1))
    found = visit(
        page,
        f"""
        await go("run/{drawn}");
        found.width = document.querySelector(".pairs").getBoundingClientRect().width;
        const circle = document.querySelector(".pairs circle");
        found.stroke = getComputedStyle(circle).stroke === getComputedStyle(document.body).color;
        await go("run/{other}");
        found.siblings = document.querySelector(".siblings").innerText;
        found.links = [...byId("view-run").querySelectorAll(".pictures a")]
          .map(a => decoded(a.hash));
        """,
    )
    assert found["width"] == 22 * 16
    assert found["stroke"], "a circle is seen on any ground"
    assert found["links"] == [f"#run/{drawn}"]
    assert re.search(r"seed 0: -?\d+\.\d, seed 1: -?\d+\.\d, seed 2: . missing", found["siblings"])


def test_every_button_has_a_name_and_heads_stand_over_their_numbers(page: Path) -> None:
    found = visit(
        page,
        """
        for (const view of VIEWS) await go(view);
        const buttons = [...document.querySelectorAll("button")];
        found.nameless = buttons.filter(button => !button.textContent.trim()).length;
        const side = cell => getComputedStyle(cell).textAlign;
        found.crooked = [];
        for (const table of document.querySelectorAll("table")) {
          const below = table.tBodies[0].rows[0].cells;
          for (const [i, head] of [...table.tHead.rows[0].cells].entries())
            if (side(head) !== side(below[i] ?? head)) found.crooked.push(head.innerText);
        }
        const heads = [...byId("results-table").tHead.rows[0].cells];
        found.interval = heads[3].innerText;
        """,
    )
    assert found["nameless"] == 0
    assert found["crooked"] == []
    assert found["interval"] == "Interval"


def test_a_bar_lies_between_the_random_policy_and_the_expert(page: Path) -> None:
    found = visit(
        page,
        """
        const limits = [...document.querySelectorAll(".bar")][0].querySelectorAll(".limit");
        found.limits = [...limits].map(line => Number(line.getAttribute("x1")));
        found.places = [0, 100].map(place).map(Number);
        """,
    )
    assert found["limits"] == found["places"]
    assert 0 <= found["places"][0] < found["places"][1] <= 100


def test_published_numbers_beside_a_single_seed_and_with_many_reasons(page: Path) -> None:
    found = visit(
        page,
        """
        const one = {source: "s", table: "t", row: "r", dataset: "d", published: 20, on: "d",
                     value: 22.6, low: null, high: null, n: 1, difference: 2.6, verdict: "v"};
        data.published.splice(0, data.published.length, {...one, reasons: ["a short one"]},
                              {...one, reasons: Array(9).fill("outer_steps 1, not 2")});
        await go("published");
        const rows = [...byId("published-table").tBodies[0].rows];
        found.here = rows[0].cells[3].innerText;
        found.folded = rows.map(row => row.querySelectorAll("details").length);
        """,
    )
    assert found["here"] == "22.6"
    assert found["folded"] == [0, 1]


def test_costs_have_units(page: Path, sweep: Sweep) -> None:
    run = run_of(sweep, "dbc")
    found = visit(
        page,
        f"""
        await go("run/{run}");
        const terms = [...byId("view-run").querySelectorAll("dt")];
        for (const term of terms) found[term.innerText] = term.nextSibling.innerText;
        """,
    )
    assert re.fullmatch(r"\d+\.\d s", found["wall_seconds"])
    assert re.fullmatch(r"[\d,]+\.\d MiB", found["peak_memory_bytes"])
    assert found["outer_steps"] == "6"


def test_it_says_that_the_scheduler_could_not_be_asked(
    store: Path, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = sweep_status(store, sweep)
    unknown = SweepStatus(states.at, states.waiting, unknown="sacct <timed out>")
    monkeypatch.setattr(page_module, "sweep_status", lambda store, sweep: unknown)
    write_html_report(store, sweep, tmp_path / "report.html")
    found = visit(
        tmp_path / "report.html", 'found.text = document.querySelector(".warning").innerText;'
    )
    assert found["text"] == "What is queued is not known: sacct <timed out>"


@pytest.mark.parametrize(
    ("observations", "explained"),
    [
        pytest.param([[1.0, 2.0, 3.0]], 0.0, id="one pair"),
        pytest.param([[1.0, 2.0, 3.0]] * 5, 0.0, id="five equal pairs"),
        pytest.param([[0.0], [1.0], [3.0]], 1.0, id="one dimension"),
        pytest.param([[0.0, 1.0], [1.0, 3.0]], 1.0, id="two pairs"),
    ],
)
def test_a_picture_of_pairs_that_do_not_span_a_plane(
    observations: list[list[float]], explained: float, tmp_path: Path
) -> None:
    drawn = picture(saved_set(torch.tensor(observations), tmp_path))
    assert drawn["explained"] == explained
    assert {y for _, y, _ in drawn["points"]} == {0}
    xs = [x for x, _, _ in drawn["points"]]
    assert (min(xs), max(xs)) == ((0, PIXELS - 1) if explained else (0, 0))


def test_a_picture_shows_the_pairs_along_their_singular_vectors(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(40, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    drawn = picture(saved_set(observations, tmp_path))
    standardised = (observations - observations.mean(0)) / observations.std(0, correction=0)
    _, strengths, directions = torch.linalg.svd(standardised.double(), full_matrices=False)
    shares = strengths.square() / strengths.square().sum()
    assert drawn["explained"] == pytest.approx(float(shares[:2].sum()), abs=2e-3)
    places = torch.tensor(drawn["points"], dtype=torch.float64)[:, :2]
    for found, wanted in zip(places.T, (standardised.double() @ directions[:2].T).T, strict=True):
        assert abs(float(torch.corrcoef(torch.stack([found, wanted]))[0, 1])) > 0.9999


def saved_set(observations: torch.Tensor, folder: Path) -> Path:
    pairs = SyntheticSet(observations, torch.zeros(len(observations), 1))
    size = observations.shape[1]
    scaling = Scaling(torch.zeros(size), torch.ones(size), torch.zeros(1), torch.ones(1))
    save_synthetic_set(pairs, scaling, folder / "set.safetensors", {})
    return folder / "set.safetensors"


# --- landing -------------------------------------------------------------------------------------


def test_the_landing_says_what_was_run_when_with_which_version_and_what_came_out(
    page: Path, store: Path, sweep: Sweep
) -> None:
    records = sweep_records(store, sweep)
    found = visit(
        page,
        """
        const view = byId("view-results"), table = byId("results-table");
        found.text = view.innerText;
        found.figures = byId("headline-figure").querySelectorAll("svg").length;
        const labels = body => [...body.querySelectorAll("a")].map(a => a.innerText);
        found.methods = [...table.tBodies].map(labels);
        found.sorted = table.tHead.querySelector("[aria-sort]").innerText;
        await click(byId("counts").querySelector("[data-state=failed]"));
        await go("runs");
        found.failed = [...byId("runs-table").tBodies[0].rows].map(row => row.cells[3].innerText);
        """,
    )  # fmt: skip
    made = records[0].provenance
    for words in ("dbc scores highest", "For comparison: random", "2 students x 2 episodes",
                  made.packages["obdbench"], made.packages["torch"], made.python,
                  min(r.started for r in records)[:16].replace("T", " "),
                  max(r.finished for r in records)[:16].replace("T", " ")):  # fmt: skip
        assert words in found["text"], words
    assert found["figures"] == 1
    assert found["methods"] == [["dbc", "raises"], ["random"]], "references stand apart"
    assert found["sorted"].startswith("Score")
    assert found["failed"] == ["\N{BALLOT X} failed"], "the count leads to the runs that it counts"
    assert found["problems"] == []


def test_work_on_several_machines_and_versions_is_named_and_counted(
    store: Path, sweep: Sweep
) -> None:
    record = sweep_records(store, sweep)[0]
    several = [altered(record, provenance__commit=f"{n}" * 40, provenance__dirty=n == 1,
                       cost__wall_seconds=3600.0, cost__evaluation_wall_seconds=1800.0)
               for n in range(5)]  # fmt: skip
    told = facts(sweep, several, runs_frame(several[:1]))
    assert "commit 0000000, 1111111 changed since, 2222222 and 2 more" in told["Version"]
    assert told["Work"] == "7.5 hours"
    assert "When" not in facts(sweep, [], runs_frame([]))
    assert "Settings" not in told
    runs = runs_frame(several[:1])
    two = [runs.assign(dataset=f"hopper/{n}", settings=f"synthetic_size={n}") for n in "ab"]
    assert "synthetic_size=b on hopper/b" in facts(sweep, several, pd.concat(two))["Settings"]


Scores = dict[str, tuple[tuple[float, ...], ...]]
"""Method -> scores by seed on `hopper/medium@2000`, and on another dataset."""


def scored(store: Path, sweep: Sweep, scores: Scores) -> list[Record]:
    of = {r.spec.method: r for r in sweep_records(store, sweep)}
    return [
        altered(of[method], spec=spec, run_id=spec.run_id, cell_id=spec.cell_id,
                score__normalized_return=score)
        for method, on in scores.items()
        for dataset, values in zip(("hopper/medium@2000", UNSEEN), on, strict=True)
        for seed, score in enumerate(values)
        for spec in (tiny_spec(method, dataset, seed=seed),)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def wide(store: Path, sweep: Sweep) -> tuple[Sweep, list[Record]]:
    """Two methods on two datasets, of which one lacks `dbc`'s runs; and `raises` on one."""
    scores: Scores = {
        "random": ((0.0, 2.0), (10.0, 30.0)),
        "dbc": ((40.0, 44.0), (60.0, 64.0, 68.0)),
    }
    records = scored(store, sweep, scores)
    return Sweep("wide", "", tuple(record.spec for record in records)), records


def test_the_mean_over_datasets_weighs_every_dataset_alike(
    wide: tuple[Sweep, list[Record]],
) -> None:
    sweep, records = wide
    table = cell_table(runs_frame(records, sweep.runs))
    overall = over_datasets(runs_frame(records), table).set_index("label")
    assert overall.loc["dbc", "value"] == pytest.approx((42 + 64) / 2)
    assert overall.loc["random", "value"] == pytest.approx((1 + 20) / 2)
    assert set(overall["dataset"]) == {"mean over 2 datasets"}
    assert list(overall.loc["dbc", ["n", "n_expected"]]) == [5, 5]
    assert all(overall["low"] < overall["value"]) and all(overall["value"] < overall["high"])
    text = headline(overall.reset_index())
    assert text.startswith("dbc scores highest (mean over 2 datasets): 53.0 [")
    assert text.endswith("For comparison: random 10.5.")


def test_means_over_datasets_are_told_apart_by_all_datasets(store: Path, sweep: Sweep) -> None:
    """On the first dataset nothing is apart; over both, every seed shows the difference."""
    scores: Scores = {
        "dbc": ((30.0, 10.0, 20.0), (90.0, 80.0, 85.0)),
        "random": ((10.0, 30.0, 20.0), (5.0, 6.0, 4.0)),
    }
    runs = runs_frame(scored(store, sweep, scores))
    table = cell_table(runs)
    first = table[table["dataset"] == "hopper/medium@2000"]
    assert "not told apart from it: random" in headline(first)
    assert "not told apart" not in headline(over_datasets(runs, table))


def test_a_method_that_lacks_a_dataset_has_no_mean_over_them(
    wide: tuple[Sweep, list[Record]],
) -> None:
    sweep, records = wide
    fewer = [r for r in records if (r.spec.method, r.spec.dataset) != ("dbc", UNSEEN)]
    table = cell_table(runs_frame(fewer, sweep.runs))
    assert list(over_datasets(runs_frame(fewer), table)["label"]) == ["random"]
    first = [r for r in records if r.spec.dataset != UNSEEN]
    table = cell_table(runs_frame(first, sweep.runs))
    assert over_datasets(runs_frame(first), table).empty, "one dataset is no mean"


def test_settings_that_have_not_run_yet_have_their_labels_everywhere(
    wide: tuple[Sweep, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two settings one has records: mean, table and figures call it by the same label."""
    sweep, records = wide
    others = [
        replace(run, parameters={**run.parameters, "synthetic_size": 8})
        for run in sweep.runs
        if run.method == "dbc"
    ]
    half = Sweep("half", "", (*sweep.runs, *others))
    monkeypatch.setattr(page_module, "readable_records", lambda store, sweep: (records, []))
    write_html_report(tmp_path, half, tmp_path / "half.html")
    page = (tmp_path / "half.html").read_text()
    values = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert {row["label"] for row in values["overall"]} == {"dbc (synthetic_size=4)", "random"}
    for drawing in page.split("<svg")[1:3]:  # means and curves
        assert "dbc (synthetic_size=4)" in drawing
    assert "dbc (synthetic_size=8) 0 of 5" in page, "what has not run is named"


def test_nothing_is_called_highest_where_nothing_was_scored_or_datasets_are_mixed(
    wide: tuple[Sweep, list[Record]],
) -> None:
    sweep, records = wide
    assert headline(cell_table(runs_frame([], sweep.runs))) == ""
    assert headline(cell_table(runs_frame(records, sweep.runs))) == ""


def test_several_datasets_begin_with_the_mean_over_them(
    wide: tuple[Sweep, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, records = wide
    monkeypatch.setattr(page_module, "readable_records", lambda store, sweep: (records, []))
    write_html_report(tmp_path, sweep, tmp_path / "wide.html")
    found = visit(
        tmp_path / "wide.html",
        """
        const table = byId("results-table");
        const labels = () => [...table.querySelectorAll("tbody a")].map(a => a.innerText);
        const second = () => getComputedStyle(table.tHead.rows[0].cells[1]).display;
        found.first = [byId("dataset").value, byId("results-count").innerText, labels(), second()];
        await type("dataset", ""); found.every = [byId("results-count").innerText, second()];
        await type("dataset", "hopper/medium@2000");
        found.one = [byId("results-count").innerText, labels()];
        await go("runs/dbc"); found.runs = byId("runs-count").innerText;
        found.heading = byId("runs-heading").innerText;
        """,
    )
    both = ["dbc", "random"]
    assert found["first"] == ["mean over 2 datasets", "2 of 2 methods", both, "none"]
    assert found["every"] == ["4 of 4 cells", "table-cell"]
    assert found["one"] == ["2 of 2 methods", both]
    assert (found["runs"], found["heading"]) == ("5 of 9 runs", "Runs of dbc")
    assert found["problems"] == []


def test_everything_on_the_page_can_be_had_as_json(page: Path, store: Path, sweep: Sweep) -> None:
    found = visit(page, "found.json = downloads.json();")
    values = json.loads(found["json"])
    assert values.keys() == values_of(store, sweep).keys() - {"pictures"}
    scores = {r.run_id: r.score.normalized_return for r in sweep_records(store, sweep) if r.score}
    got = {f"{run['cell']}.seed{run['seed']}": run.get("score") for run in values["runs"]}
    assert {run: score for run, score in got.items() if score is not None} == scores


def test_no_other_script_than_the_pages_own_is_allowed(page: Path) -> None:
    text = page.read_text("utf-8")
    policy = re.findall(r'http-equiv="Content-Security-Policy"\s+content="(.*?)"', text)[0]
    script = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1
    assert f"script-src 'sha256-{digest}'" in policy and policy.count("script-src") == 1
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    assert not re.search(r"<[^>]+\son[a-z]+=", text.partition('<script id="data"')[0])
