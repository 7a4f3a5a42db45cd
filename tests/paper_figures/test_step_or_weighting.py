"""The 2 x 2 of step and weighting: differences seed by seed, against scipy's paired test."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from benchmark.sweep import read_sweep
from obdbench.sweeps import shipped_sweeps
from paper_figures.figure import FigureError
from paper_figures.step_or_weighting import ROWS, step_or_weighting
from paper_figures.table import NOTHING
from results.frames import runs_frame
from tests.results.conftest import MakeRecord, Record

LEVELS = dict(zip(ROWS, (9.0, 15.0, 15.5, 20.0), strict=True))
DATASETS = ("hopper/medium", "walker2d/medium")


def scores(method: str, dataset: str) -> list[float]:
    noise = np.random.default_rng([ROWS.index(method), DATASETS.index(dataset)]).normal(size=4)
    return [float(LEVELS[method] + seed + noise[seed]) for seed in range(4)]


@pytest.fixture
def records(make_record: MakeRecord) -> list[Record]:
    return [
        make_record(method, dataset, seed, score)
        for method in ROWS
        for dataset in DATASETS
        for seed, score in enumerate(scores(method, dataset))
    ]


def data_of(records: list[Record]) -> pd.DataFrame:
    text = step_or_weighting(runs_frame(records)).csv()
    return pd.read_csv(io.StringIO(text)).set_index("dataset")


@pytest.mark.parametrize(
    ("effect", "one", "other"),
    [
        ("step", "pbc_scaled", "pbc"),
        ("weighting", "av_pbc_mean_one", "pbc"),
        ("both", "av_pbc", "pbc"),
        ("weighting at its step", "av_pbc", "pbc_scaled"),
    ],
)
@pytest.mark.parametrize("dataset", DATASETS)
def test_an_effect_is_the_paired_difference_of_its_two_methods(
    records: list[Record], effect: str, one: str, other: str, dataset: str
) -> None:
    row = data_of(records).loc[dataset]
    ends = ttest_rel(scores(one, dataset), scores(other, dataset)).confidence_interval(0.95)
    assert (row[f"{effect} low"], row[f"{effect} high"]) == pytest.approx(tuple(ends))
    assert row[effect] == pytest.approx(row[one] - row[other])


def test_the_mean_over_datasets_weighs_them_alike(records: list[Record]) -> None:
    data = data_of(records)
    for column in (*ROWS, "both"):
        mean = data.loc[list(DATASETS), column].mean()
        assert data.loc["mean over datasets", column] == pytest.approx(mean)
    assert data.loc["mean over datasets", "both low"] > data.loc[list(DATASETS), "both low"].min()


def test_datasets_stand_in_the_papers_order(make_record: MakeRecord) -> None:
    names = ["hopper/medium-replay", "hopper/medium", "hopper/medium-expert"]
    made = [make_record(method, name) for name in sorted(names) for method in ROWS]
    assert [name for name in data_of(made).index if name in names] == names


def test_seeds_that_one_of_the_four_lacks_do_not_count(records: list[Record]) -> None:
    first = [r for r in records if not (r.spec.method == "av_pbc" and r.spec.seed == 3)]
    row = data_of(first).loc["hopper/medium"]
    assert row["pbc"] == pytest.approx(np.mean(scores("pbc", "hopper/medium")[:3]))


def test_the_caption_names_what_failed_or_is_missing_and_what_is_therefore_left_out(
    records: list[Record], make_record: MakeRecord
) -> None:
    assert step_or_weighting(runs_frame(records)).caption.endswith("av_pbc less pbc_scaled.")
    done = [r for r in records if (r.spec.method, r.spec.dataset) != ("pbc", DATASETS[1])]
    failed = [make_record("pbc", DATASETS[1], seed, error="NotFinite") for seed in range(4)]
    asked = [make_record("av_pbc", DATASETS[0], seed).spec for seed in range(5)]
    caption = step_or_weighting(runs_frame([*done, *failed], asked)).caption
    assert caption.endswith(
        f"Left out, as the four have no seed in common: {DATASETS[1]}. Complete runs: av_pbc 8 of "
        f"9; pbc 4 of 8, 4 failed."
    )


def test_a_difference_of_a_single_seed_has_no_interval_and_the_caption_says_why(
    records: list[Record],
) -> None:
    first = [r for r in records if r.spec.dataset == DATASETS[0] or r.spec.seed == 0]
    table = step_or_weighting(runs_frame(first))
    details = [[cell.detail for cell in row[-4:]] for row in table.groups[0]]
    assert all(details[0])
    assert details[1:] == [[""] * 4] * 2  # the dataset of one seed, and the mean that has it
    assert "Without interval: a single seed on the dataset, or on one of" in table.caption
    assert "with 95 % interval (Student's t)" in table.caption
    alone = step_or_weighting(runs_frame([r for r in records if r.spec.seed == 0]))
    assert "95 %" not in alone.caption
    for text in (table, step_or_weighting(runs_frame(records))):
        assert NOTHING not in text.markdown()


def test_settings_that_differ_between_datasets_are_named(make_record: MakeRecord) -> None:
    found = [
        make_record(method, dataset, seed, score, parameters={"synthetic_size": size})
        for method in ROWS
        for dataset, size in zip(DATASETS, (16, 64), strict=True)
        for seed, score in enumerate(scores(method, dataset))
    ]
    assert (
        "Settings differ between datasets: av_pbc, av_pbc_mean_one, pbc, pbc_scaled with "
        "synthetic_size=16 on hopper/medium, synthetic_size=64 on walker2d/medium."
    ) in step_or_weighting(runs_frame(found)).caption


def test_a_method_of_two_cells_is_refused_and_not_averaged(
    records: list[Record], make_record: MakeRecord
) -> None:
    other = [make_record("pbc", DATASETS[0], seed, 90.0, parameters={"synthetic_size": 16})
             for seed in range(4)]  # fmt: skip
    with pytest.raises(FigureError, match="pbc on hopper/medium has 2 cells"):
        step_or_weighting(runs_frame([*records, *other]))


def test_without_the_four_there_is_no_table(make_record: MakeRecord) -> None:
    with pytest.raises(FigureError, match="the sweep step_or_weighting makes them"):
        step_or_weighting(runs_frame([make_record("pbc"), make_record("av_pbc")]))


def test_the_shipped_sweep_has_the_2_by_2_on_nine_datasets_with_five_seeds() -> None:
    runs = read_sweep(shipped_sweeps()["step_or_weighting"]).runs
    assert len(runs) == 4 * 9 * 5
    assert {run.method for run in runs} == set(ROWS)
    assert len({str(run.scoring_axes) for run in runs}) == 9 * 5  # common numbers per seed
