"""docs/paper.md and the shipped results: true of the records that they speak of."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.files import file_sha256
from benchmark.record import read_record
from paper_figures.exhibits import EXHIBITS, gather, write
from results.common_scores import common_scores
from results.comparison import published_cells
from results.record_store import load_sweep, started_sweeps, sweep_records
from results.shipping import SHIPPED
from results.statistics import mean, probability_of_improvement
from results.study_results import study_results

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "results" / "paper"
PAGE = (ROOT / "docs" / "paper.md").read_text()
NUMBER = r"-?\d+(?:\.\d+)?"


def test_every_shipped_run_is_whole_and_made_by_committed_code() -> None:
    paths = sorted(SHIPPED.glob("*/seed*/record.json"))
    assert paths
    for path in paths:
        record = read_record(path)
        assert record.status == "complete"
        assert record.provenance.dirty is False
        last = record.checkpoints[-1]
        if last.synthetic_set:
            assert file_sha256(path.with_name(last.synthetic_set)) == last.sha256
    for name in started_sweeps(SHIPPED):
        sweep = load_sweep(SHIPPED, name)
        assert len(sweep_records(SHIPPED, sweep)) == len(sweep.runs)


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.md")), ids=lambda path: path.stem)
def test_a_table_in_the_results_is_that_of_the_shipped_records(path: Path, tmp_path: Path) -> None:
    exhibit = next(exhibit for exhibit in EXHIBITS if exhibit.name == path.stem)
    write(exhibit, SHIPPED, tmp_path)
    assert path.read_text() == (tmp_path / path.name).read_text()


def test_every_exhibit_has_a_row_and_the_text_links_to_its_table_or_figure() -> None:
    rows = re.findall(r"^\| \[`([\w-]+)`\]\((\S+)\) \| (.*?) \| (.*?) \|$", PAGE, re.M)
    assert [row[0] for row in rows] == [exhibit.name for exhibit in EXHIBITS]
    text = "\n".join(line for line in PAGE.splitlines() if not line.startswith("| [`"))
    for (_, link, shows, source), exhibit in zip(rows, EXHIBITS, strict=True):
        assert (shows, source) == (exhibit.shows, exhibit.source)
        assert (ROOT / "docs" / link).is_file()
        assert f"]({link})" in text
    linked = {Path(row[1]).name for row in rows}
    assert linked == {path.name for path in PAPER.iterdir()}


def test_every_number_with_an_interval_is_of_a_table_or_behind_a_figure(
    behind_figures: set[str],
) -> None:
    tables = " ".join(path.read_text() for path in PAPER.glob("*.md")).replace("**", "")
    numbers = re.findall(rf"{NUMBER}(?: %)? \[[^\]]+\]", " ".join(PAGE.split()))
    assert len(numbers) > 100
    assert [n for n in numbers if n not in tables and n not in behind_figures] == []


@pytest.fixture(scope="module")
def behind_figures() -> set[str]:
    """What the figures of improvement, misalignment and transfer draw, as the page writes it."""
    stored = {exhibit.name: gather(exhibit, SHIPPED) for exhibit in EXHIBITS if exhibit.study}
    runs = next(
        gather(exhibit, SHIPPED) for exhibit in EXHIBITS if exhibit.name == "obd-improvement"
    )
    scores = common_scores(runs.runs).scores
    found = {
        f"{100 * e.value:.0f} % [{100 * e.low:.0f}, {100 * e.high:.0f}]"
        for x, y in itertools.permutations(scores, 2)
        for e in [probability_of_improvement(scores[x], scores[y])]
    }
    for name, keys, quantities in (
        (
            "sdw-misalignment",
            ["environment", "kind", "steps"],
            {"normalized_return": 0, "pivotal_error": 3, "surrounding_error": 3},
        ),
        (
            "hades-transfer",
            ["environment", "depth", "width", "learning_rate", "steps", "grid"],
            {"return": 0},
        ),
    ):
        for _, rows in stored[name].measured.groupby(keys):
            for quantity, digits in quantities.items():
                e = mean(list(rows[quantity]))
                found.add(f"{e.value:.{digits}f} [{e.low:.{digits}f}, {e.high:.{digits}f}]")
    return found


def claims() -> list[list[str]]:
    """The cells of every claim: exhibit, claim, the paper's numbers, measured, verdict."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if " against " in line]
    return [row for row in rows if len(row) == 5]


def test_a_verdict_says_what_the_intervals_do() -> None:
    assert len(claims()) > 50
    for _, claim, _, measured, verdict in claims():
        estimate = rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]"
        match = re.fullmatch(f"{estimate} against {estimate}", measured)
        assert match, measured
        first, low, high, second, other_low, other_high = map(float, match.groups())
        apart = low > other_high or high < other_low
        if " like " in claim:
            expected = "contradicts" if apart else "not told apart"
        elif first > second:
            expected = "agrees" if apart else "undecided, leaning to it"
        else:
            expected = "contradicts" if apart else "undecided, leaning against it"
        assert verdict == expected, claim


def test_the_papers_numbers_are_the_published_ones_in_the_order_of_the_claim() -> None:
    cells = published_cells()
    table_1: dict[str, list[float]] = {}
    for cell in cells:
        if (cell.paper, cell.table) == ("obd", "table1"):
            table_1.setdefault(cell.row, []).append(cell.value)
    published = {cell.value for cell in cells} | {round(mean(v).value, 1) for v in table_1.values()}
    stated = [(claim, numbers.split(", ")) for _, claim, numbers, *_ in claims() if numbers]
    assert len(stated) > 20
    for claim, numbers in stated:
        first, second = (float(number.replace(",", "")) for number in numbers)
        assert {first, second} <= published, claim
        assert first > second or " like " in claim, claim


def test_what_the_shipped_records_cost_is_stated() -> None:
    stated = re.findall(r"^\| (the study )?`(\w+)` \| (\d+) \| ([\d.]+) \|$", PAGE, re.M)
    expected = []
    for name in started_sweeps(SHIPPED):
        records = sweep_records(SHIPPED, load_sweep(SHIPPED, name))
        costs = [record.cost for record in records]
        seconds = sum(c.wall_seconds + c.evaluation_wall_seconds for c in costs)
        expected.append(("", name, str(len(records)), f"{seconds / 3600:.2f}"))
    for folder in sorted((SHIPPED / "studies").iterdir()):
        results = study_results(SHIPPED, folder.name)
        seconds = sum(result.cpu_seconds for result in results)
        expected.append(("the study ", folder.name, str(len(results)), f"{seconds / 3600:.2f}"))
    assert stated == expected


def test_shipped_studies_are_of_the_shipped_sets() -> None:
    digests = {
        record.run_id: record.checkpoints[-1].sha256
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


def test_the_page_counts_the_published_numbers() -> None:
    assert f"each of the {len(published_cells())} numbers" in PAGE.replace("\n", " ")


def test_the_gallery_holds_the_best_sets_with_their_scores() -> None:
    rows = re.findall(
        r"^\| ([\w/-]+) \| `(\w+)` \| (\d+) \| ([\d.]+) \| ([\d.]+) \| `(\S+)` \|$", PAGE, re.M
    )
    found: dict[str, list[tuple[float, float, str]]] = {}
    for path in SHIPPED.glob("*/seed*/record.json"):
        record = read_record(path)
        last = record.checkpoints[-1]
        run = record.spec
        # Those that differ in who is scored have the sets of other runs.
        if last.synthetic_set and not run.evaluation_student and run.protocol.ensemble == 1:
            found.setdefault(run.dataset, []).append(
                (last.normalized_return, record.mean_score.normalized_return, record.run_id)
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
