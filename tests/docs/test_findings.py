"""docs/findings.md states what the shipped records give, and nothing else with an interval."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from results.record_store import SHIPPED, load_sweep, sweep_records
from tests.docs.claims import Claim, findings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "findings.md").read_text()
WITH_INTERVAL = r"[-+]?\d+(?:\.\d+)? \[-?[\d.]+, -?[\d.]+\]"


@pytest.mark.parametrize("claim", findings(), ids=lambda claim: claim.row)
def test_a_row_has_the_numbers_and_the_verdict_of_the_records(claim: Claim) -> None:
    differences = "; ".join(claim.difference_texts)
    assert f"| {claim.row} | {claim.here} | {differences} | {claim.verdict} |" in PAGE


def test_no_other_number_has_an_interval() -> None:
    ours = sum(
        len(re.findall(WITH_INTERVAL, text))
        for claim in findings()
        for text in (claim.here, *claim.difference_texts)
    )
    assert len(re.findall(WITH_INTERVAL, PAGE)) == ours > 0


def test_the_weights_on_the_stand_in_have_the_mean_and_the_effective_sample_that_are_stated() -> (
    None
):
    records = sweep_records(SHIPPED, load_sweep(SHIPPED, "standin_hopper_medium_methods"))
    facts = [record.method_facts for record in records if record.spec.method == "av_pbc"]
    assert len(facts) == 5
    for fact in facts:
        stated = "have a mean of {mean_weight:.2f} and differ little".format(**fact)
        counted = f"100 states count as {100 * fact['effective_sample']:.0f} equal ones"
        assert stated in " ".join(PAGE.split()) and counted in " ".join(PAGE.split())
