"""docs/findings.md states what the shipped records give, and nothing else with an interval."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from paper_figures.use import use_table
from results import curves_frame
from results.differences import mean_difference
from results.record_store import SHIPPED, load_sweep, sweep_records
from results.study_results import study_frame, study_results
from tests.docs.claims import Claim, fair, findings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "findings.md").read_text()
TEXT = " ".join(PAGE.split())
AXES = " ".join((ROOT / "docs" / "axes.md").read_text().split())
Quantity = Callable[[pd.Series], float]
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
        assert stated in TEXT and counted in TEXT


def test_the_weights_of_sdw_obd_have_the_effective_sample_and_the_mean_that_are_stated() -> None:
    facts: dict[tuple[str, str, int], dict[str, float]] = {}
    for record in sweep_records(SHIPPED, load_sweep(SHIPPED, "sdw_main")):
        facts[record.spec.method, record.spec.dataset, record.spec.seed] = record.method_facts
    cells = sorted({(dataset, seed) for _, dataset, seed in facts})
    assert len(cells) == 45
    sample = {
        method: [facts[method, *cell]["effective_sample"] for cell in cells]
        for method in ("av_pbc", "sdw_obd")
    }
    means = [
        facts["sdw_obd", *cell]["mean_weight"] / facts["av_pbc", *cell]["mean_weight"]
        for cell in cells
    ]
    for values, words in (
        (sample["sdw_obd"], "100 states count as {:.0f} to {:.0f} equal ones"),
        (sample["av_pbc"], "with Av-PBC's own weights they count as {:.0f} to {:.0f}"),
        (means, "is {:.0f} to {:.0f} % of Av-PBC's"),
    ):
        assert words.format(100 * min(values), 100 * max(values)) in TEXT


def test_the_counts_of_datasets_on_which_weights_serve_rare_states_are_those_of_the_study() -> None:
    numbers = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def signs(quantity: Quantity) -> dict[str, int]:
        plain, ours = (fair(method, quantity) for method in ("av_pbc", "sdw_obd"))
        found = {}
        for dataset in plain:
            gain = mean_difference({dataset: plain[dataset]}, {dataset: ours[dataset]}).estimate
            found[dataset] = (gain.low > 0) - (gain.high < 0)
        assert len(found) == 9
        return found

    rarest = signs(lambda row: float(row["by_density"][0]))
    cell = signs(lambda row: float(max(row["by_cell"])))
    tail = signs(lambda row: float(row["tail"]))
    better = [numbers[list(found.values()).count(1)] for found in (rarest, cell, tail)]
    worse = numbers[list(tail.values()).count(-1)]
    assert (
        f"the rarest tenth is better on {better[0]} of nine, the worst cell on {better[1]}, the "
        f"worst tenth of states on {better[2]} and worse on {worse}" in TEXT
    )
    assert [found["halfcheetah/medium-replay"] for found in (rarest, cell, tail)] == [-1] * 3


def test_the_seconds_at_paper_size_are_those_that_the_runs_took() -> None:
    records = sweep_records(SHIPPED, load_sweep(SHIPPED, "kernel_paper_size"))
    taken = pd.DataFrame([(r.spec.method, r.cost.cpu_seconds) for r in records])
    means = taken.groupby(0)[1].mean()
    assert means.idxmax() == "frepo"
    assert (
        f"the methods took {means.min():.0f} to {means.max():.0f} in the mean, unrolling "
        f"{means['av_pbc']:.0f} and FRePo the most" in TEXT
    )


def test_the_disturbed_teacher_earns_more_than_students_in_the_mean_and_not_on_hopper() -> None:
    measured = study_frame(study_results(SHIPPED, "robustness"))
    keys = ["method", "kind", "size", "dataset", "seed"]
    scores = measured.set_index(keys)["normalized_return"].sort_index()

    def by_dataset(method: str, kind: str, size: float) -> dict[str, dict[int, float]]:
        rows = scores[method, kind, size]
        return {name: rows[name].to_dict() for name in rows.index.unique("dataset")}

    for method in ("av_pbc", "sdw_obd"):
        for disturbed in (("attack", 0.15), ("observation noise", 0.15), ("action noise", 0.3)):
            students = by_dataset(method, "none", 0.0)
            assert mean_difference(by_dataset("teacher", *disturbed), students).estimate.low > 0
    name = "hopper/medium-expert"
    teacher = by_dataset("teacher", "action noise", 0.3)[name]
    undisturbed = by_dataset("av_pbc", "none", 0.0)[name]
    less = mean_difference({name: teacher}, {name: undisturbed}).estimate
    assert less.value < 0 < less.high
    means = [sum(found.values()) / len(found) for found in (teacher, undisturbed)]
    assert (
        "on Hopper, with noise on actions, {:.0f} where Av-PBC's undisturbed students earn {:.0f}, "
        "not apart".format(*means)
        in TEXT
    )


def test_what_changed_physics_cost_the_teacher_on_halfcheetah_is_that_of_the_study() -> None:
    rows = study_frame(study_results(SHIPPED, "robustness"))
    rows = rows[(rows["method"] == "teacher") & (rows["dataset"] == "halfcheetah/medium-expert")]
    means = rows.groupby(["kind", "size"])["normalized_return"].mean()
    left = means[["mass", "friction"]].min() / means["none", 0.0]
    assert f"on HalfCheetah {100 * (1 - left):.0f} % at most" in AXES


def test_the_aucs_of_sets_are_not_told_apart_from_the_teachers_on_any_dataset() -> None:
    rows = study_frame(study_results(SHIPPED, "privacy"))
    aucs = rows.set_index(["method", "dataset", "item"])["auc"].sort_index()
    for method in ("random", "av_pbc", "sdw_obd", "bc_whole"):
        for dataset in sorted(set(rows["dataset"])):
            found, teachers = (aucs[name, dataset].to_dict() for name in (method, "teacher"))
            excess = mean_difference({dataset: found}, {dataset: teachers}).estimate
            assert (excess.low < 0 < excess.high) == (method != "bc_whole")
    assert "none is told apart from the teacher's; BC on all members is, by 0.004" in AXES


def test_the_mean_over_the_steps_of_a_warm_start_gains_on_halfcheetah_by_itself() -> None:
    table = use_table(study_frame(study_results(SHIPPED, "use")), "").data
    gains = table[table["what"] == "mean_less"].set_index(["dataset", "start"])
    apart = gains[(gains["low"] > 0) | (gains["high"] < 0)]
    ours = apart["value"]
    assert list(ours.index) == [
        ("halfcheetah/medium-expert", start) for start in ("av_pbc", "sdw_obd", "random")
    ]
    stated = (
        f"three of the four starts gain {ours.min():.0f} to {ours.max():.0f} points in the latter"
    )
    assert stated in AXES


def test_what_density_weights_and_av_pbc_move_after_step_250_is_that_of_the_records() -> None:
    moved = {}
    for sweep, method in (
        ("standin_hopper_medium_sdw", "sdw_obd"),
        ("standin_hopper_medium", "av_pbc_published"),
    ):
        curves = curves_frame(sweep_records(SHIPPED, load_sweep(SHIPPED, sweep)))
        means = curves[curves["label"] == method].groupby("outer_step")["normalized_return"].mean()
        moved[method] = means[1000] - means[250]
    assert (
        "its mean moves by {sdw_obd:+.1f} points, Av-PBC's by {av_pbc_published:+.1f}".format(
            **moved
        )
        in TEXT
    )


def test_the_longer_runs_with_density_weights_begin_as_the_shorter_ones_to_the_bit() -> None:
    scores = {}
    for sweep in ("standin_hopper_sdw", "standin_hopper_medium_sdw"):
        curves = curves_frame(sweep_records(SHIPPED, load_sweep(SHIPPED, sweep)))
        rows = curves[
            (curves["dataset"] == "standin/hopper-medium-v2") & (curves["outer_step"] <= 250)
        ]
        scores[sweep] = rows.set_index(["seed", "outer_step"])["normalized_return"].to_dict()
    one, other = scores.values()
    assert len(one) == 10 and one == other
