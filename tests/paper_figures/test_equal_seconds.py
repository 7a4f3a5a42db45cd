"""Scores at equal CPU seconds: whose seconds stand in a row, and where they are marked as off."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.method import METHODS
from obdbench import sweeps
from obdbench.sweeps import find_sweep
from paper_figures.equal_seconds import equal_seconds
from paper_figures.figure import FigureError
from paper_figures.palette import FAMILIES, family
from results.frames import runs_frame
from tests.results.conftest import MakeRecord
from tests.tiny_runs import altered

HOPPER, WALKER = "hopper/medium-expert", "walker2d/medium-expert"
SECONDS = {"av_pbc": 10.0, "frepo": 12.0, "rcig": 7.9, "hades": 12.1, "random": 0.1}
NOT_IN_SECONDS = {
    "hades_published", "hades_fixed_init_published", "hades_minatar_published",
    "ppmo", "synthetic_environment",
}  # fmt: skip


def runs(make_record: MakeRecord, *datasets: str) -> pd.DataFrame:
    """Three seeds, around the seconds above, twice them on Walker2d."""
    records = []
    for dataset in datasets:
        for method, seconds in SECONDS.items():
            for seed in range(3):
                record = make_record(method, dataset, seed, 10.0 * len(method) + seed)
                cost = (1 + (dataset == WALKER)) * seconds + seed - 1
                steps = 0 if method == "random" else 40
                records.append(altered(record, cost__cpu_seconds=cost, cost__outer_steps=steps))
    return runs_frame(records)


def test_seconds_are_the_mean_and_marked_from_a_fifth_off(make_record: MakeRecord) -> None:
    table = equal_seconds(runs(make_record, HOPPER, WALKER))
    rows = {row[1].text: row for group in table.groups for row in group}
    shown = {name: (rows[name][3].text, rows[name][3].detail) for name in SECONDS}
    assert shown == {
        "av_pbc": ("10.0", ""),
        "frepo": ("12.0", ""),
        "rcig": ("7.9", "(0.79x)"),
        "hades": ("12.1", "(1.21x)"),
        "random": ("0.1", "(0.01x)"),
    }
    assert rows["rcig"][5].text == "15.8" and rows["random"][2].text != "40"
    assert "as in 4 of 8 cells of iterative methods" in table.caption
    data = pd.read_csv(io.StringIO(table.csv())).set_index(["dataset", "method"])
    assert data.loc[(HOPPER, "rcig"), "share"] == pytest.approx(0.79)
    assert data.loc[(WALKER, "hades"), "value"] == pytest.approx(np.mean([50, 51, 52]))


def test_runs_are_held_against_those_of_their_own_processor(make_record: MakeRecord) -> None:
    found = runs(make_record, HOPPER)
    assert "processor" not in equal_seconds(found).caption
    slow = found["seed"] == 2
    found.loc[slow, "device"] = "cpu (slow)"
    found.loc[slow, "cpu_seconds"] *= 3
    # Of two methods the seeds are done on one of the two only.
    rcig, hades = found["method"] == "rcig", found["method"] == "hades"
    found = found[~(rcig & slow) & ~(hades & ~slow)]
    table = equal_seconds(found)
    share = pd.read_csv(io.StringIO(table.csv())).set_index("method")["share"]
    assert share["av_pbc"] == pytest.approx(1.0)
    assert share["rcig"] == pytest.approx(7.4 / 9.5)
    assert share["hades"] == pytest.approx(13.1 / 11.0)
    assert "over runs on 2 kinds of processor (8 on cpu, 4 on cpu (slow))" in table.caption


def test_rows_are_in_the_order_of_families(make_record: MakeRecord) -> None:
    table = equal_seconds(runs(make_record, HOPPER))
    found = [(row[0].text, row[1].text) for group in table.groups for row in group]
    assert found == [
        ("unrolled", "av_pbc"), ("kernel and implicit", "frepo"), ("kernel and implicit", "rcig"),
        ("evolution", "hades"), ("selection", "random"),
    ]  # fmt: skip
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    first = [f"| `{members[0]}`" for members in FAMILIES.values()]
    first[0] = "| `dbc`, `pbc`, `av_pbc`"
    first[4], first[5] = "| `generative_teaching`", "| [`hades`]"
    places = [page.index(row) for row in first[:-1]]
    assert places == sorted(places), "the order of the page"


def test_what_is_missing_is_said(make_record: MakeRecord) -> None:
    found = runs(make_record, HOPPER, WALKER)
    av_pbc = (found["dataset"] == WALKER) & (found["method"] == "av_pbc")
    table = equal_seconds(found[~av_pbc])
    assert f"On {WALKER} no run of av_pbc is complete" in table.caption
    rows = {row[1].text: row for group in table.groups for row in group}
    assert [cell.text for cell in rows["av_pbc"][5:]] == ["\u2013", "\u2013"]
    assert rows["rcig"][5].text == "15.8" and not rows["rcig"][5].detail
    failed = found.assign(status="failed", normalized_return=np.nan)
    with pytest.raises(FigureError, match="all_methods_seconds"):
        equal_seconds(failed)
    one = found.copy()
    hades = (one["dataset"] == WALKER) & (one["method"] == "hades")
    one.loc[hades, ["status", "normalized_return"]] = ["failed", np.nan]
    rows = {row[1].text: row for group in equal_seconds(one).groups for row in group}
    assert [cell.text for cell in rows["hades"][5:]] == ["\u2013", "failed"]


def test_two_cells_of_the_yardstick_have_no_seconds_in_common(make_record: MakeRecord) -> None:
    found = runs(make_record, HOPPER)
    other = found[found["method"] == "av_pbc"].assign(label="av_pbc (x=1)", cell_id="another")
    with pytest.raises(FigureError, match=f"av_pbc on {HOPPER} has 2 cells"):
        equal_seconds(pd.concat([found, other], ignore_index=True))


def test_the_sweep_has_every_method_that_can_be_compared_and_scores_it_at_quarters(
    tmp_path: Path,
) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    registered = set(project["entry-points"]["obdbench.methods"])
    plan = find_sweep("all_methods_seconds", tmp_path)
    for dataset in {run.dataset for run in plan.runs}:
        methods = {run.method for run in plan.runs if run.dataset == dataset}
        assert methods == registered - NOT_IN_SECONDS
    text = (Path(sweeps.__file__).parent / "all_methods_seconds.toml").read_text()
    assert all(name in text for name in NOT_IN_SECONDS), "the reason stands in the file"
    for run in plan.runs:
        steps = run.resolved_parameters.get("outer_steps")
        if steps and METHODS[run.method].needs != {"environment"}:
            assert steps == 4 * run.protocol.checkpoint_every, run.method
        assert family(run.method) in FAMILIES
