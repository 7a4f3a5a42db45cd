"""Two settings at every checkpoint, against scipy's paired test."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from paper_figures.figure import FigureError
from paper_figures.paired_curves import paired_curves
from paper_figures.table import NOTHING, Table
from results.frames import curves_frame, runs_frame
from tests.results.conftest import MakeRecord

GAPS = {0: 0.0, 500: 0.2, 1000: 6.0}


def table_of(rows: list[dict[str, object]]) -> Table:
    """The table of these checkpoints, of which nothing failed."""
    frame = pd.DataFrame(rows)
    return paired_curves(frame, frame.drop_duplicates(["label", "seed"]))


def curve(label: str, gaps: dict[int, float], seeds: int = 4) -> list[dict[str, object]]:
    generator = np.random.default_rng(len(label))
    return [
        {
            "status": "complete", "dataset": "hopper/medium", "label": label, "seed": seed,
            "outer_step": step, "normalized_return": 20 + seed + gap + generator.normal(),
        }
        for step, gap in gaps.items()
        for seed in range(seeds)
    ]  # fmt: skip


def test_every_checkpoint_has_its_paired_difference() -> None:
    rows = curve("a", dict.fromkeys(GAPS, 0.0)) + curve("precise", GAPS)
    frame, table = pd.DataFrame(rows), table_of(rows)
    data = pd.read_csv(io.StringIO(table.csv())).set_index("outer step")
    p_values = []
    for step in GAPS:
        one, other = (
            frame[(frame["label"] == name) & (frame["outer_step"] == step)]["normalized_return"]
            for name in ("a", "precise")
        )
        test = ttest_rel(other.to_numpy(), one.to_numpy())
        ends = test.confidence_interval(0.95)
        assert (data.loc[step, "low"], data.loc[step, "high"]) == pytest.approx(tuple(ends))
        p_values.append(test.pvalue)
    assert data.loc[1000, "p, Holm"] == pytest.approx(3 * min(p_values))
    assert [row[-1].text for row in table.groups[0]] == ["no", "no", "yes"]


def test_datasets_stand_in_the_papers_order_and_steps_in_theirs() -> None:
    names = ["hopper/medium-replay", "hopper/medium", "hopper/medium-expert"]
    rows = [
        row | {"dataset": name}
        for name in sorted(names)
        for label in ("a", "b")
        for row in curve(label, GAPS)
    ]
    found = table_of(rows).data[["dataset", "outer step"]]
    assert [tuple(row) for row in found.to_numpy()] == [(n, step) for n in names for step in GAPS]


def test_seeds_of_one_side_only_do_not_count() -> None:
    table = table_of(curve("a", GAPS, seeds=3) + curve("b", GAPS, seeds=4))
    assert list(table.data["seeds"]) == [3, 3, 3]


def test_of_a_single_seed_nothing_is_said_to_be_apart_or_not() -> None:
    table = table_of(curve("a", GAPS, seeds=1) + curve("b", GAPS, seeds=1))
    assert [row[-1].text for row in table.groups[0]] == [NOTHING] * 3
    assert f"{NOTHING}: a single seed." in table.caption


def test_the_caption_names_what_failed_or_is_missing(make_record: MakeRecord) -> None:
    settings = [{"synthetic_size": size} for size in (16, 64)]
    asked = [make_record(parameters=one, seed=seed).spec for one in settings for seed in range(3)]
    records = [make_record(parameters=settings[0], seed=seed) for seed in range(2)]
    records += [make_record(parameters=settings[1], seed=seed) for seed in range(2)]
    records += [make_record(parameters=settings[1], seed=2, error="NotFinite")]
    whole = [record for record in records if record.status == "complete"]
    assert paired_curves(curves_frame(whole), runs_frame(whole)).caption.endswith("a single seed.")
    assert paired_curves(curves_frame(records), runs_frame(records, asked)).caption.endswith(
        "Complete runs: av_pbc (synthetic_size=16) 2 of 3; av_pbc (synthetic_size=64) 2 of 3, "
        "1 failed."
    )


def test_one_setting_or_three_are_refused() -> None:
    one = curve("a", GAPS)
    with pytest.raises(FigureError, match=r"two settings; found \['a'\]"):
        table_of(one)
    with pytest.raises(FigureError, match="two settings"):
        table_of(one + curve("b", GAPS) + curve("c", GAPS))
