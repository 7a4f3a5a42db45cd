"""docs/paper.md and the shipped results: true of the records that they speak of."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from benchmark.datasets.d4rl_facts import d4rl_reference
from benchmark.datasets.snapshots import suite_reference
from benchmark.files import file_sha256
from benchmark.record import read_record
from benchmark.synthetic_set import NotFinite
from paper_figures.equal_seconds import equal_seconds
from paper_figures.exhibits import EXHIBITS, write
from results import cell_table, curves_frame, mean, probability_of_improvement, runs_frame
from results.aggregate import best_and_ties, common_scores
from results.author_files import scores_beside
from results.comparison import FOLDER, JUDGED, Verdict, compare, published_cells
from results.differences import difference
from results.record_store import SHIPPED, all_records, load_sweep, started_sweeps, sweep_records
from results.statistics import stratified
from results.study_results import study_frame, study_results
from tests.docs.claims import Claim, claims

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "results" / "paper"
PAGE = (ROOT / "docs" / "paper.md").read_text()


def test_every_shipped_run_is_whole_and_made_by_committed_code() -> None:
    paths = sorted(SHIPPED.glob("*/seed*/record.json"))
    assert paths
    for path in paths:
        record = read_record(path)
        assert record.error is None or record.error.type == NotFinite.__name__, path
        assert record.provenance.dirty is False
        last = record.checkpoints[-1]
        if last.synthetic_set and record.error is None:
            assert file_sha256(path.with_name(last.synthetic_set)) == last.sha256
    for name in started_sweeps(SHIPPED):
        sweep = load_sweep(SHIPPED, name)
        assert len(sweep_records(SHIPPED, sweep)) == len(sweep.runs)


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.md")), ids=lambda path: path.stem)
def test_a_table_in_the_results_is_that_of_the_shipped_records(path: Path, tmp_path: Path) -> None:
    exhibit = next(exhibit for exhibit in EXHIBITS if exhibit.name == path.stem)
    write(exhibit, SHIPPED, tmp_path)
    assert path.read_text() == (tmp_path / path.name).read_text()


def test_every_exhibit_has_a_row_that_describes_it_and_a_second_link_where_it_is_read() -> None:
    rows = re.findall(r"^\| \[?`([\w-]+)`(?:\]\((\S+)\))? \| (.*?) \| (.*?) \|$", PAGE, re.M)
    rows = [row for row in rows if row[0] in {exhibit.name for exhibit in EXHIBITS}]
    assert [row[0] for row in rows] == [exhibit.name for exhibit in EXHIBITS]
    for (name, link, shows, source), exhibit in zip(rows, EXHIBITS, strict=True):
        measured = not exhibit.sweep or exhibit.sweep in started_sweeps(SHIPPED)
        if exhibit.study:
            measured = (SHIPPED / "studies" / exhibit.study).is_dir()
        assert shows == exhibit.shows
        assert source == exhibit.source + ("" if measured else ", not yet measured")
        assert bool(link) == measured
        assert not measured or (ROOT / "docs" / link).is_file()
        assert PAGE.count(f"]({link})" if measured else f"`{name}`") == 2
    linked = {Path(row[1]).name for row in rows if row[1]}
    assert linked == {path.name for path in PAPER.iterdir()}


@dataclass(frozen=True)
class Row:
    """A row of a table of claims, and where its numbers come from."""

    paper: str
    exhibits: tuple[str, ...]
    claim: str
    published: str
    here: str
    difference: str
    verdict: str


WITH_INTERVAL = r"-?\d+(?:\.\d+)?(?: %)? \[-?[\d.]+, -?[\d.]+\]"
BARE = r"-?\d+(?:,\d{3})*(?:\.\d+)?"
PAPERS = {"2410.22728": "obd", "2512.06692": "sdw_obd", "2406.15042": "hades"}


def _rows() -> list[Row]:
    """Every row of the three tables of claims; an empty first cell means the row above it."""
    rows, paper, exhibits = [], "", ()
    for line in PAGE.splitlines():
        if line.startswith("## "):
            paper = next((name for number, name in PAPERS.items() if number in line), "")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if (
            paper
            and line.startswith("|")
            and cells[0] != "exhibit"
            and not set(line) <= set("|-: ")
        ):
            exhibits = tuple(re.findall(r"results/paper/([\w-]+)\.", cells[0])) or exhibits
            rows.append(Row(paper, exhibits, *cells[1:]))
    return rows


ROWS = _rows()


@cache
def _measured(exhibit: str) -> str:
    """All numbers that an exhibit shows: a table's text; a figure's means with their intervals."""
    if (PAPER / f"{exhibit}.md").is_file():
        text = (PAPER / f"{exhibit}.md").read_text().replace("**", "")
    else:
        text = ""
    lines: list[str] = []
    match exhibit:
        case "obd-improvement":
            records = sweep_records(SHIPPED, load_sweep(SHIPPED, "main_table"))
            scores = common_scores(runs_frame(records)).scores
            found = [
                probability_of_improvement(scores[x], scores[y])
                for x, y in permutations(("av_pbc", "pbc", "dbc"), 2)
            ]
            lines = [
                f"{100 * e.value:.0f} % [{100 * e.low:.0f}, {100 * e.high:.0f}]" for e in found
            ]
        case "sdw-misalignment":
            rows = study_frame(study_results(SHIPPED, "misalignment"))
            stages = rows.groupby(["environment", "kind", "steps"])
            decimals = {"normalized_return": 1, "pivotal_error": 3, "surrounding_error": 3}
            lines = [
                _with_interval(stage[name], places)
                for _, stage in stages
                for name, places in decimals.items()
            ]
        case "step-or-weighting":
            runs = runs_frame(sweep_records(SHIPPED, load_sweep(SHIPPED, "step_or_weighting")))
            for _, cells in runs.groupby("method"):
                by_dataset = cells.groupby("dataset")["normalized_return"]
                found = stratified({str(name): list(scores) for name, scores in by_dataset})
                lines.append(f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]")
        case "hades-transfer":
            rows = study_frame(study_results(SHIPPED, "transfer"))
            students = ["environment", "grid", "depth", "width", "learning_rate", "steps"]
            lines = [_with_interval(sets["return"], 0) for _, sets in rows.groupby(students)]
        case "hades-cartpole":
            runs = runs_frame(sweep_records(SHIPPED, load_sweep(SHIPPED, "hades_cartpole")))
            lines = [f"{value:.0f}" for value in runs.loc[runs["method"] == "hades", "return"]]
    return "\n".join([text, *lines])


def _with_interval(values: pd.Series, places: int) -> str:
    found = mean(list(values))
    return f"{found.value:.{places}f} [{found.low:.{places}f}, {found.high:.{places}f}]"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.here[:40])
def test_the_numbers_of_a_row_are_those_of_its_exhibits_and_of_its_paper(row: Row) -> None:
    measured = "\n".join(map(_measured, row.exhibits))
    everywhere = measured + "".join(path.read_text() for path in PAPER.glob("*.md"))
    for text in re.findall(WITH_INTERVAL, row.here):
        assert text in everywhere.replace("**", "")
    bare = re.findall(BARE, re.sub(WITH_INTERVAL, "", row.here))
    assert set(bare) <= set(re.findall(BARE, measured))
    published = {float(text.replace(",", "")) for text in re.findall(BARE, row.published)}
    assert published <= _published(row.paper)


def _published(paper: str) -> set[float]:
    """Every number that a paper's file holds, steps in thousands as steps."""
    content = json.loads((FOLDER / f"{paper}.json").read_text())
    thousands = [1000.0 * steps for steps in content.get("steps_thousands", {}).values()]
    return {*thousands, *_numbers(content["tables"])}


def _numbers(values: Any) -> Iterator[float]:
    if isinstance(values, (dict, list)):
        for inner in values.values() if isinstance(values, dict) else values:
            yield from _numbers(inner)
    elif isinstance(values, (int, float)):
        yield float(values)


PAPER_CLAIMS = [claim for claim in claims() if claim.exhibit != "all-methods"]


def _row(claim: Claim) -> Row:
    found = [row for row in ROWS if row.claim.startswith(claim.row)]
    assert len(found) == 1, claim.row
    return found[0]


@pytest.mark.parametrize("claim", PAPER_CLAIMS, ids=lambda claim: claim.row)
def test_a_row_that_compares_has_the_differences_of_the_records(claim: Claim) -> None:
    row = _row(claim)
    assert row.here == claim.here
    assert row.difference == "; ".join(claim.difference_texts)
    assert claim.exhibit in row.exhibits


@pytest.mark.parametrize("claim", PAPER_CLAIMS, ids=lambda claim: claim.row)
def test_a_verdict_is_the_one_that_the_differences_allow(claim: Claim) -> None:
    verdict = _row(claim).verdict
    assert re.split("[;:]", verdict)[0] == claim.verdict
    possible = re.findall(r"a loss of up to (\S+) is not excluded", verdict)
    of_equals = claim.says == "equal" and claim.verdict == "not told apart"
    assert possible == [claim.largest_loss] * of_equals


def test_a_row_without_comparison_has_no_difference_and_claims_nothing_of_one() -> None:
    rows = [row for row in ROWS if row not in map(_row, PAPER_CLAIMS)]
    assert [row.difference for row in rows] == [""] * len(rows)
    counted = [row for row in rows if not row.verdict.startswith(("no claim", "by eye", "not m"))]
    assert [row.claim[:20] for row in counted] == ["Av-PBC highest of th", "Two pairs, evolved w"]


def test_the_two_counts_of_the_page_are_those_of_the_records() -> None:
    records = sweep_records(SHIPPED, load_sweep(SHIPPED, "main_table"))
    best = best_and_ties(cell_table(runs_frame(records))).values()
    apart = {m: sum(m not in one.ties for one in best) for m in ("pbc", "dbc")}
    assert {one.best for one in best} == {"av_pbc"}
    assert (len(best), apart) == (9, {"pbc": 2, "dbc": 3})
    assert "highest mean on all nine; apart from DBC on three, from PBC on two" in PAGE
    runs = runs_frame(sweep_records(SHIPPED, load_sweep(SHIPPED, "hades_cartpole")))
    assert (runs.loc[runs["method"] == "hades", "return"] >= 475).sum() == 3
    assert "shows in part: solved (475) at three of five seeds" in PAGE


def test_the_share_of_the_cal_ql_teacher_that_no_method_gets_is_that_of_the_records() -> None:
    table = cell_table(runs_frame(sweep_records(SHIPPED, load_sweep(SHIPPED, "main_table"))))
    rows = table[table["dataset"] == "hopper/medium-replay"].set_index("label")["value"]
    share = rows.drop("teacher").max() / rows["teacher"]
    assert 1 / 6 < share < 1 / 5
    assert f"no method gets a fifth of its {rows['teacher']:.0f} points" in " ".join(PAGE.split())


def test_what_av_pbc_gains_after_its_first_checkpoint_is_that_of_the_records() -> None:
    curves = curves_frame(sweep_records(SHIPPED, load_sweep(SHIPPED, "main_table")))
    curves = curves[curves["label"] == "av_pbc"].set_index(["dataset", "outer_step", "seed"])
    gains = {}
    for environment in ("hopper", "walker2d"):
        scores = curves["normalized_return"][f"{environment}/medium-expert"]
        gains[environment] = difference(scores[3000].to_dict(), scores[500].to_dict()).estimate
        assert gains[environment].low < 0 < gains[environment].high
    assert (
        "its mean rises by {hopper.value:.0f} and {walker2d.value:.0f} points after step 500, by "
        "their own intervals apart from zero on neither".format(**gains)
        in " ".join(PAGE.split())
    )


def test_what_equal_seconds_tell_apart_is_that_of_the_records() -> None:
    records = sweep_records(SHIPPED, load_sweep(SHIPPED, "all_methods_seconds"))
    runs = runs_frame(records)
    table = cell_table(runs)
    ours = set(table.loc[~table["reference"], "label"])
    best = best_and_ties(table)
    apart = {name: ours - {*one.ties, one.best} for name, one in best.items()}
    assert apart == {
        "halfcheetah/medium-expert": {
            "random", "random_relabelled", "top_q", "loss_matching_relabelled"
        },
        "hopper/medium-expert": set(),
        "walker2d/medium-expert": set(),
    }  # fmt: skip
    assert {one.best for one in best.values()} == {"sdw_obd", "av_pbc_published", "pbc_scaled"}
    page = " ".join(PAGE.split())
    assert f"of {len(ours)} methods of distillation four are apart from the highest mean" in page
    cells = pd.read_csv(io.StringIO(equal_seconds(runs).csv()))
    iterative = cells[cells["outer_steps"] > 0]
    off = iterative[(iterative["share"] - 1).abs() > 0.2]
    low, high = off.loc[off["share"].idxmin()], off.loc[off["share"].idxmax()]
    assert low["method"] == "bc_whole"
    assert f"In {len(off)} of {len(iterative)} cells of iterative methods" in page
    assert f"{low['share']:.2f} (BC on all data) to {high['share']:.2f} times" in page


def test_every_row_has_a_verdict_that_the_page_explains() -> None:
    words = re.findall(r"^\| \*\*([\w ]+)\*\* \|", PAGE, re.M)
    assert len(ROWS) > 35
    assert [row for row in ROWS if not row.verdict.startswith(tuple(words))] == []
    assert sum(len(claim.pairs) for claim in PAPER_CLAIMS) > 50


def test_every_number_with_an_interval_stands_in_a_table_of_claims() -> None:
    in_rows = sum(len(re.findall(WITH_INTERVAL, row.here + row.difference)) for row in ROWS)
    assert len(re.findall(WITH_INTERVAL, PAGE)) == in_rows > 150


def test_the_scale_has_the_scores_of_the_pilot() -> None:
    (head,) = re.findall(r"^\| pilot \| (.*) \|$", PAGE, re.M)
    steps = [int(step.replace(",", "")) for step in head.split(" | ")]
    records = sweep_records(SHIPPED, load_sweep(SHIPPED, "scale_pilot"))
    assert len(records) == 3
    for record in records:
        scores = {c.outer_step: c.normalized_return for c in record.checkpoints}
        row = " | ".join(f"{scores[step]:.1f}" for step in steps)
        assert f"| {record.spec.dataset} | {row} |" in PAGE


def test_the_readme_has_the_ends_on_stand_ins_next_to_the_published_numbers() -> None:
    readme = (ROOT / "README.md").read_text()
    published = json.loads((FOLDER / "obd.json").read_text())["tables"]["table1"]["values"]
    kinds = ("medium-replay", "medium", "medium-expert")
    ends, theirs = {}, {x: published["av_pbc"][f"d4rl/hopper-{x}-v2"] for x in kinds}
    for kind in kinds:
        sweep = load_sweep(SHIPPED, f"standin_hopper_{kind.replace('-', '_')}")
        records = [r for r in sweep_records(SHIPPED, sweep) if r.spec.method != "random"]
        assert {r.checkpoints[-1].outer_step for r in records} == {1000}
        ends[kind] = pd.Series([r.mean_score.normalized_return for r in records])
    ours = " | ".join(_with_interval(ends[kind], 1) for kind in kinds)
    assert f"| | {' | '.join(kinds)} |\n" in readme
    assert f"| Av-PBC here, five seeds, 95 % interval | {ours} |\n" in readme
    assert f"| the paper, after 20,000 | {' | '.join(str(theirs[x]) for x in kinds)} |" in readme
    low, lowest = mean(list(ends["medium-expert"])).low, theirs["medium-expert"] - 5
    findings = " ".join((ROOT / "docs" / "findings.md").read_text().split())
    assert low < lowest and f"({low:.3f} against {lowest:.1f})" in findings


def test_the_readme_has_the_means_on_both_scales() -> None:
    readme = (ROOT / "README.md").read_text()
    order = ("random", "dbc", "pbc", "av_pbc", "bc_whole")
    table = (PAPER / "obd-table-1.md").read_text()
    head = [name.strip() for name in table.splitlines()[0].strip("|").split("|")]
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()[2:]
        if line.startswith("|")
    }
    for scale, column in (("the suite's", "mean"), ("D4RL's", "mean, D4RL's scale")):
        means = " | ".join(rows[name][head.index(column)] for name in order)
        assert f"| shipped, {scale} scale | {means} |" in readme
    published = json.loads((FOLDER / "obd.json").read_text())["tables"]["table1"]["values"]
    means = " | ".join(f"{np.mean(list(published[name].values())):.1f}" for name in order)
    assert f"| published, D4RL's scale | {means} |" in readme
    experts = (
        suite_reference("HalfCheetah-v5").expert,
        d4rl_reference("halfcheetah-medium-v2").expert,
    )
    assert (
        "is a return of {:,.0f} on the suite's scale and {:,.0f} on D4RL's".format(*experts)
        in readme
    )
    (pbc,) = [claim for claim in claims() if claim.row == "PBC above DBC"]
    assert pbc.verdict == "shows" and f"DBC and PBC too ({pbc.difference_texts[0]})" in readme


def test_the_text_about_all_methods_has_the_differences_of_the_records() -> None:
    page = (ROOT / "results" / "all_methods.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| **")
    ]
    found = [claim for claim in claims() if claim.exhibit == "all-methods"]
    assert len(rows) == len(found)
    for (expected, cheetah, hopper, verdict), claim in zip(rows, found, strict=True):
        assert expected.removeprefix("**").startswith(claim.row)
        assert re.split("[;:]", verdict)[0] == claim.verdict
        assert claim.says != "equal" or f"a loss of up to {claim.largest_loss} is not" in verdict
        texts, half = claim.difference_texts, len(claim.pairs) // 2
        for cell, of_dataset in ((cheetah, texts[:half]), (hopper, texts[half:])):
            places = [cell.index(text) for text in of_dataset]
            assert places == sorted(places)
            assert len(re.findall(WITH_INTERVAL, cell)) == half


def test_what_the_shipped_records_cost_is_stated() -> None:
    stated = re.findall(r"^\| (the study )?`(\w+)` \| (\d+) \| ([\d.]+) \|$", PAGE, re.M)
    expected = []
    for name in started_sweeps(SHIPPED):
        records = sweep_records(SHIPPED, load_sweep(SHIPPED, name))
        costs = [record.cost for record in records]
        seconds = sum(cost.evaluation_wall_seconds for cost in costs)
        seconds += sum(r.cost.wall_seconds for r in records if r.sets_of is None)
        expected.append(("", name, str(len(records)), f"{seconds / 3600:.2f}"))
    for folder in sorted((SHIPPED / "studies").iterdir()):
        results = study_results(SHIPPED, folder.name)
        seconds = sum(result.cpu_seconds for result in results)
        expected.append(("the study ", folder.name, str(len(results)), f"{seconds / 3600:.2f}"))
    assert stated == expected


def test_shipped_studies_are_of_the_shipped_sets() -> None:
    digests = {
        record.run_id: record.checkpoints[-1].sha256 or (record.teacher and record.teacher.sha256)
        for record in map(read_record, SHIPPED.glob("*/seed*/record.json"))
    }
    for folder in (SHIPPED / "studies").iterdir():
        for result in study_results(SHIPPED, folder.name):
            assert result.provenance["dirty"] is False
            for source in _sets(result.source):
                assert digests[source["run"]] == source["sha256"]


def _sets(source: Any) -> Iterator[dict[str, str]]:
    """Every run and digest that stands anywhere in a study's source."""
    if isinstance(source, dict) and "run" in source:
        yield source
    elif isinstance(source, (dict, list)):
        for inner in source.values() if isinstance(source, dict) else source:
            yield from _sets(inner)


def test_the_pages_count_the_published_numbers_and_their_verdicts() -> None:
    assert f"each of the {len(published_cells())} numbers" in PAGE.replace("\n", " ")
    table = (PAPER / "reproduction.md").read_text()
    judged = re.search(r"\d+ of \d+ published numbers judged: [^.;]+", table)
    assert judged
    for page in ("README.md", "docs/artefacts.md"):
        assert judged[0] in (ROOT / page).read_text().replace("\n", " "), f"{page}: {judged[0]}"
    rows = re.findall(
        r"(reproduced|differs|inconclusive|like|not tested)(?: \([^|]*)? \|$", table, re.M
    )
    stated = re.findall(r"^\| ([a-z ]+) \| [^|]+ \| (\d+) \|$", PAGE, re.M)
    assert {verdict: int(n) for verdict, n in stated if n != "0"} == Counter(rows)
    assert [verdict for verdict, _ in stated] == list(get_args(Verdict))


def test_the_readmes_first_table_counts_the_verdicts_of_each_published_table() -> None:
    found = Counter(
        (one.published.table, one.published.row if one.published.table != "sizes" else "", word)
        for one in compare(published_cells(), list(all_records(SHIPPED)), scores_beside(SHIPPED))
        for word in ("judged", one.verdict)
        if one.verdict in JUDGED
    )
    rows = {
        "HaDES, 64 pairs in Brax, random initialization": ("size_64", "hades"),
        "HaDES, 64 pairs in Brax, fixed initialization": ("size_64", "hades_fixed_init"),
        "HaDES, 4 pairs in Brax": ("size_4", "hades"),
        "HaDES, 4 to 256 pairs in Brax": ("sizes", ""),
        "HaDES, 16 pairs in MinAtar, random initialization": ("minatar", "hades"),
        "HaDES, 16 pairs in MinAtar, fixed initialization": ("minatar", "hades_fixed_init"),
        "HaDES, evolved policies in MinAtar": ("minatar_es", "evolution_strategies"),
        "HaDES, ten images of MNIST and of FashionMNIST": ("supervised", "hades"),
        "OBD, the nine teachers": ("table1", "teacher"),
    }
    readme = (ROOT / "README.md").read_text()
    for name, key in rows.items():
        counts = [found[*key, word] for word in ("judged", *JUDGED)]
        assert f"| {name} | {' | '.join(map(str, counts))} |" in readme, (name, counts)
    assert {key[:2] for key in found} == set(rows.values())


def test_two_rules_that_are_one_give_the_same_scores_to_the_last_bit() -> None:
    records = sweep_records(SHIPPED, load_sweep(SHIPPED, "size_rates"))
    scores = {
        rule: {
            record.spec.seed: record.mean_score.return_
            for record in records
            if record.parameters["synthetic_size"] == 256 and record.parameters["rate_rule"] == rule
        }
        for rule in ("fixed", "proportional")
    }
    assert len(scores["fixed"]) == 5
    assert scores["fixed"] == scores["proportional"]
    assert "each seed has the same score to the last bit under both" in " ".join(PAGE.split())


def test_the_gallery_holds_the_best_sets_with_their_scores() -> None:
    rows = re.findall(
        r"^\| ([\w/@-]+) \| `(\w+)` \| (\d+) \| ([\d.]+) \| ([\d.]+) \| `(\S+)` \|$", PAGE, re.M
    )
    found: dict[str, list[tuple[float, float, str]]] = {}
    for path in SHIPPED.glob("*/seed*/record.json"):
        record = read_record(path)
        if record.score is None:  # it diverged
            continue
        last, run = record.checkpoints[-1], record.spec
        # Runs that differ in who is scored only have the sets of other runs.
        as_usual = run.evaluation_student is None and run.protocol.ensemble == 1
        if last.synthetic_set and as_usual:
            found.setdefault(run.dataset, []).append(
                (last.normalized_return, record.score.normalized_return, record.run_id)
            )
    counts = [len(scores) for scores in found.values()]
    assert f"highest of {min(counts)} to {max(counts)} sets per dataset" in " ".join(PAGE.split())
    for dataset, scores in found.items():
        best = [(f"{last:.1f}", f"{score:.1f}", run) for last, score, run in sorted(scores)[:-4:-1]]
        assert [(row[3], row[4], row[5]) for row in rows if row[0] == dataset] == best


def test_a_policy_is_trained_on_a_shipped_set_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)
    assert code
    names: dict[str, object] = {}
    exec(code.group(1), names)
    action = names["action"]
    assert isinstance(action, np.ndarray)
    assert action.shape == (1, 1, 3)
    assert np.isfinite(action).all()
    assert np.abs(action).max() > 0
