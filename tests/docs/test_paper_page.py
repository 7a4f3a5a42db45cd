"""docs/paper.md and the shipped results: true of the records that they speak of."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmark.files import file_sha256
from benchmark.record import read_record
from paper_figures.exhibits import EXHIBITS, write
from results.reproduction import published_cells
from results.shipping import SHIPPED
from results.store import load_sweep, started_sweeps, sweep_records

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "paper.md").read_text()


def test_every_shipped_run_is_whole_and_made_by_committed_code() -> None:
    paths = sorted(SHIPPED.glob("*/seed*/record.json"))
    assert paths
    for path in paths:
        record = read_record(path)
        assert record["status"] == "complete"
        assert record["provenance"]["dirty"] is False
        last = record["checkpoints"][-1]
        if last["synthetic_set"]:
            assert file_sha256(path.with_name(last["synthetic_set"])) == last["sha256"]
    for name in started_sweeps(SHIPPED):
        sweep = load_sweep(SHIPPED, name)
        assert len(sweep_records(SHIPPED, sweep)) == len(sweep.runs)


@pytest.mark.parametrize("name", ["all-methods"])
def test_the_tables_in_the_results_are_those_of_the_shipped_records(
    name: str, tmp_path: Path
) -> None:
    exhibit = next(exhibit for exhibit in EXHIBITS if exhibit.name == name)
    for path in write(exhibit, SHIPPED, tmp_path):
        assert path.read_bytes() == (ROOT / "results" / "all_methods" / path.name).read_bytes()


def test_the_page_lists_every_exhibit_and_whether_its_records_are_shipped() -> None:
    have = started_sweeps(SHIPPED)
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \| (.*?) \| (yes|no) \|$", PAGE, re.M)
    assert [row[0] for row in rows] == [exhibit.name for exhibit in EXHIBITS]
    for row, exhibit in zip(rows, EXHIBITS, strict=True):
        assert row[1] == exhibit.shows
        assert (row[3] == "yes") == all(sweep in have for sweep in exhibit.sweeps)


def test_the_page_counts_the_published_numbers() -> None:
    assert f"each of the {len(published_cells())} numbers" in PAGE.replace("\n", " ")


def test_the_gallery_holds_the_best_sets_with_their_scores() -> None:
    rows = re.findall(
        r"^\| ([\w/-]+) \| `(\w+)` \| (\d+) \| ([\d.]+) \| ([\d.]+) \| `(\S+)` \|$", PAGE, re.M
    )
    found: dict[str, list[tuple[float, float, str]]] = {}
    for path in SHIPPED.glob("*/seed*/record.json"):
        record = read_record(path)
        last = record["checkpoints"][-1]
        if last["synthetic_set"]:
            found.setdefault(record["spec"]["dataset"], []).append(
                (last["normalized_return"], record["score"]["normalized_return"], record["run_id"])
            )
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
