"""Two settings at every checkpoint, against scipy's paired test."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from paper_figures.figure import FigureError
from paper_figures.paired_curves import paired_curves

GAPS = {0: 0.0, 500: 0.2, 1000: 6.0}


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
    frame = pd.DataFrame(curve("a", dict.fromkeys(GAPS, 0.0)) + curve("precise", GAPS))
    table = paired_curves(frame)
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


def test_seeds_of_one_side_only_do_not_count() -> None:
    frame = pd.DataFrame(curve("a", GAPS, seeds=3) + curve("b", GAPS, seeds=4))
    assert list(paired_curves(frame).data["seeds"]) == [3, 3, 3]


def test_one_setting_or_three_are_refused() -> None:
    one = curve("a", GAPS)
    with pytest.raises(FigureError, match=r"two settings; found \['a'\]"):
        paired_curves(pd.DataFrame(one))
    with pytest.raises(FigureError, match="two settings"):
        paired_curves(pd.DataFrame(one + curve("b", GAPS) + curve("c", GAPS)))
