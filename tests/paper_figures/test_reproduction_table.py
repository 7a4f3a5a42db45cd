"""Published next to reproduced: every number, what was found, and why it was not tested."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark.datasets.d4rl_facts import d4rl_reference
from paper_figures.reproduction_table import reproduction_table
from paper_figures.table import Table
from results.comparison import RULE, Comparison, PublishedCell, compare, published_cells
from results.statistics import Estimate, mean
from tests.results.conftest import MakeRecord, Record

NO_SETTINGS: Mapping[str, Any] = {}
FOUND = Estimate(21.26, 19.96, 23.04, 5, 0.95)


def published(
    value: float = 20.0,
    *,
    paper: str = "obd",
    table: str = "table1",
    row: str = "av_pbc",
    dataset: str = "d4rl/hopper-medium-v2",
) -> PublishedCell:
    wanted = {"protocol.ensemble": 1}
    return PublishedCell(
        paper,
        "arXiv 1",
        table,
        row,
        dataset,
        "av_pbc",
        value,
        "normalized return",
        wanted,
        NO_SETTINGS,
    )


def line_with(text: str, *words: str) -> str:
    (line,) = (line for line in text.splitlines() if all(word in line for word in words))
    return line


def data_of(table: Table) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(table.csv()))


@pytest.fixture
def records(make_record: MakeRecord) -> list[Record]:
    """Av-PBC, sets of 64 pairs, on D4RL's data and twice on the suite's own."""
    return [
        make_record(dataset=dataset, seed=seed, score=score, environment="HalfCheetah-v5")
        for dataset, scores in (
            ("d4rl/hopper-medium-v2", [31.0, 32.5, 35.5]),
            ("halfcheetah/medium", [10.0, 11.0]),
            ("hopper/medium-replay", [30.0, 31.0, 32.0, 33.0]),
        )
        for seed, score in enumerate(scores)
    ]


def test_a_row_has_both_numbers_the_seeds_the_difference_and_the_verdict() -> None:
    one = Comparison(published(), FOUND, "d4rl/hopper-medium-v2", "reproduced")
    assert line_with(reproduction_table([one]).markdown(), "av_pbc") == (
        "| obd | table1 | av_pbc | d4rl/hopper-medium-v2 | 20 | 21.3 [20.0, 23.0] | 5 "
        "| d4rl/hopper-medium-v2 | +1.3 | reproduced |"
    )


def test_what_has_no_record_is_a_row_of_dashes() -> None:
    table = reproduction_table([Comparison(published(), None, None, "not tested")])
    assert line_with(table.markdown(), "av_pbc").endswith(
        "| 20 | \u2013 | 0 | \u2013 | \u2013 | not tested |"
    )
    assert "nan" not in table.markdown() + table.latex()
    row = data_of(table).iloc[0]
    assert row["n"] == 0
    missing = ["reproduced", "low", "high", "reproduced_on", "difference", "reasons"]
    assert row[missing].isna().all()


def test_a_single_seed_has_a_mean_and_no_interval() -> None:
    alone = Estimate(21.26, math.nan, math.nan, 1, 0.95, "none")
    table = reproduction_table([Comparison(published(), alone, "hopper/medium", "inconclusive")])
    assert "| 21.3 | 1 | hopper/medium | +1.3 | inconclusive |" in table.markdown()
    assert "nan" not in table.markdown() + table.latex()


def test_the_first_reasons_are_printed_and_all_of_them_kept_in_the_csv() -> None:
    reasons = ("a 1, not 2", "b 3, not 4", "c 5, not 6", "d 7, not 8", "e 9, not 0")
    three, five = (
        reproduction_table([Comparison(published(), FOUND, "x", "not tested", given)])
        for given in (reasons[:3], reasons)
    )
    printed = "not tested (a 1, not 2; b 3, not 4; c 5, not 6"
    assert f"{printed}) |" in three.markdown()
    assert f"{printed}; 2 more) |" in five.markdown()
    assert data_of(five)["reasons"].iloc[0] == "; ".join(reasons)


def test_a_number_in_another_unit_has_no_difference() -> None:
    cell = published(250159, paper="hades", dataset="brax/humanoidstandup")
    reasons = ("no record",)
    table = reproduction_table([Comparison(cell, None, None, "not tested", reasons)])
    line = line_with(table.markdown(), "brax/humanoidstandup")
    assert "| 250,159 | \u2013 | 0 |" in line
    assert line.endswith("| \u2013 | not tested (no record) |")


def test_the_caption_has_the_rule_and_counts_every_verdict() -> None:
    given = [
        Comparison(published(value), FOUND, "x", verdict)
        for value, verdict in ((1, "differs"), (2, "reproduced"), (3, "differs"))
    ]
    caption = reproduction_table(given).caption
    judged = "3 of 3 published numbers judged: 1 reproduced, 2 differ, 0 inconclusive. "
    assert caption.startswith(judged)
    assert RULE in caption


def test_the_tables_of_a_paper_are_ruled_off() -> None:
    cells = [published(table=t, row=r) for t in ("table1", "table5") for r in ("16", "32")]
    cells.append(published(paper="sdw_obd"))
    table = reproduction_table([Comparison(cell, None, None, "not tested") for cell in cells])
    assert [len(group) for group in table.groups] == [2, 2, 1]
    assert table.latex().count(r"\midrule") == 3


def test_the_csv_has_every_published_number_and_what_the_records_say(
    records: list[Record],
) -> None:
    cells = published_cells()
    data = data_of(reproduction_table(compare(cells, records)))
    assert list(data["published"]) == [cell.value for cell in cells]
    assert list(data["source"]) == [cell.source for cell in cells]

    found = data[data["n"] > 0].set_index(["table", "row", "dataset"])
    assert sorted(found.index) == [
        ("table1", "av_pbc", "d4rl/halfcheetah-medium-v2"),
        ("table1", "av_pbc", "d4rl/hopper-medium-replay-v2"),
        ("table1", "av_pbc", "d4rl/hopper-medium-v2"),
        ("table5", "64", "d4rl/hopper-medium-replay-v2"),
    ]
    hopper = found.loc["table1", "av_pbc", "d4rl/hopper-medium-v2"]
    returns = 30.0 * np.array([31.0, 32.5, 35.5])  # by references that are not D4RL's
    scores = d4rl_reference("hopper-medium-v2").normalise(returns)
    assert (hopper["published"], hopper["n"]) == (32.5, 3)
    assert hopper["reproduced"] == pytest.approx(np.mean(scores))
    assert hopper["verdict"] == "not tested"
    assert data["difference"].isna().all(), "a difference between unlike things is no number"
    assert (hopper["low"], hopper["high"]) == (mean(scores).low, mean(scores).high)
    assert hopper["reproduced_on"] == "d4rl/hopper-medium-v2"
    assert "synthetic_size 64, not 256" in hopper["reasons"]
    cheetah = found.loc["table1", "av_pbc", "d4rl/halfcheetah-medium-v2"]
    assert cheetah["reproduced_on"] == "halfcheetah/medium"
    assert "the suite's own halfcheetah/medium (HalfCheetah-v5)" in cheetah["reasons"]
    size = found.loc["table5", "64", "d4rl/hopper-medium-replay-v2"]
    assert (size["published"], size["n"]) == (32.3, 4)
    returned = [r.mean_score.return_ for r in records if r.spec.dataset == "hopper/medium-replay"]
    reference = d4rl_reference("hopper-medium-replay-v2")  # the paper's unit
    assert size["reproduced"] == pytest.approx(reference.normalise(np.mean(returned)))
    assert "synthetic_size" not in size["reasons"]
    assert set(data[data["n"] == 0]["verdict"]) == {"not tested"}


@pytest.mark.parametrize("given", ["all", "none"])
def test_every_form_has_a_row_for_every_number(records: list[Record], given: str) -> None:
    comparisons = compare(published_cells(), records if given == "all" else [])
    table = reproduction_table(comparisons)
    assert len(table.alignment) == len(table.columns)
    rows = [line for line in table.latex().splitlines() if line.endswith(r"\\")]
    assert {row.count(" & ") for row in rows} == {len(table.columns) - 1}
    lines = [line for line in table.markdown().splitlines() if line.startswith("| ")]
    assert len(rows) == len(lines) - 1 == len(comparisons) + 1  # the heading; and in Markdown marks
    assert len(table.data) == len(comparisons) == len(published_cells())


def forms(records: Sequence[Record]) -> tuple[str, ...]:
    table = reproduction_table(compare(published_cells(), records))
    return table.markdown(), table.csv(), table.latex()


def test_the_same_records_in_any_order_give_the_same_bytes(records: list[Record]) -> None:
    assert forms(records) == forms(records[::-1])
