"""What methods have in common, and the ranks they would take, against counting by hand."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from results.aggregate import common_scores, rank_probabilities
from results.frames import runs_frame
from tests.results.conftest import MakeRecord

# No two draws of different methods have the same mean.
SCORES = {
    "bold": {"ant": [1.013, 9.037], "hopper": [20.0, 31.0591, 42.0713]},
    "steady": {"ant": [5.1207, 5.3], "hopper": [30.2311, 30.9, 31.3177]},
    "weak": {"ant": [4.0217, 6.4], "hopper": [22.0133, 29.5, 33.7411]},
}


def every_resampled_mean(tasks: Mapping[str, Sequence[float]]) -> list[float]:
    """The mean over tasks for every way to draw each task's seeds anew, all equally likely."""
    draws = [itertools.product(scores, repeat=len(scores)) for scores in tasks.values()]
    return [
        float(np.mean([np.mean(task) for task in drawn])) for drawn in itertools.product(*draws)
    ]


def test_only_methods_with_a_complete_run_on_every_dataset_are_compared(
    make_record: MakeRecord,
) -> None:
    records = [make_record(m, d) for m in ("pbc", "dbc") for d in ("ant/medium", "hopper/medium")]
    records.append(make_record("av_pbc", "ant/medium"))
    records.append(make_record("av_pbc", "hopper/medium", error="OSError"))
    common = common_scores(runs_frame(records))
    assert common.datasets == ("ant/medium", "hopper/medium")
    assert list(common.scores) == ["dbc", "pbc"]
    assert common.left_out == ("av_pbc",)


def test_scores_are_in_the_order_of_seeds_whatever_that_of_the_records(
    make_record: MakeRecord,
) -> None:
    scores = {10: 3.0, 2: 12.0, 0: 10.0, 9: 1.0}
    records = [make_record(seed=seed, score=score) for seed, score in scores.items()]
    records += [make_record("pbc", seed=seed, score=seed) for seed in (1, 0)]
    records.append(make_record("pbc", seed=2, error="OSError"))
    for given in (records, records[::-1]):
        common = common_scores(runs_frame(given))
        assert common.scores["av_pbc"]["hopper/medium-replay"] == [10.0, 12.0, 1.0, 3.0]
        assert common.scores["pbc"]["hopper/medium-replay"] == [0.0, 1.0]


def test_labels_are_in_numerical_order(make_record: MakeRecord) -> None:
    records = [make_record(parameters={"synthetic_size": size}) for size in (128, 16, 64)]
    records.append(make_record("random", "ant/medium"))
    common = common_scores(runs_frame(records))
    assert not common.scores
    sizes = [f"av_pbc (synthetic_size={size})" for size in (16, 64, 128)]
    assert common.left_out == (*sizes, "random")


def test_without_a_complete_run_nothing_is_common(make_record: MakeRecord) -> None:
    common = common_scores(runs_frame([make_record(error="OSError")]))
    assert (common.scores, common.left_out) == ({}, ("av_pbc",))
    assert common_scores(runs_frame([])).datasets == ()


def test_rank_probabilities_agree_with_counting_every_resample() -> None:
    means = [every_resampled_mean(tasks) for tasks in SCORES.values()]
    assert len(set(itertools.chain(*means))) == sum(len(set(values)) for values in means)
    drawn = np.stack([grid.ravel() for grid in np.meshgrid(*means)])
    better = (drawn[None, :] > drawn[:, None]).sum(1)
    expected = [[float((ahead == rank).mean()) for rank in range(3)] for ahead in better]
    found = rank_probabilities(SCORES)
    assert list(found.index) == list(SCORES)
    assert list(found.columns) == [1, 2, 3]
    # 9,999 resamples have a standard error of 0.005.
    assert found.to_numpy() == pytest.approx(np.asarray(expected), abs=0.02)


def test_a_rank_that_no_draw_changes_is_certain() -> None:
    scores = {
        "second": {"ant": [10.0, 12.0], "hopper": [40.0, 41.0]},
        "first": {"ant": [30.0, 31.0], "hopper": [80.0, 90.0]},
        "third": {"ant": [1.0], "hopper": [0.0, 2.0, 4.0]},
    }
    found = rank_probabilities(scores)
    assert found.to_numpy().tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_equal_means_share_their_ranks() -> None:
    """On CartPole several methods reach 100 with every seed: none of them is first for certain."""
    full = {"cartpole": [100.0] * 3}
    found = rank_probabilities({"a": full, "b": full, "c": {"cartpole": [1.0, 2.0, 3.0]}})
    assert found.to_numpy().tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]


def test_seeds_are_never_drawn_from_another_dataset() -> None:
    # Mixed, "high" could draw 0 twice and lose; by dataset it has 50 for certain.
    found = rank_probabilities(
        {
            "high": {"ant": [0.0, 0.0], "hopper": [100.0, 100.0]},
            "low": {"ant": [49.0, 49.0], "hopper": [49.0, 49.0]},
        }
    )
    assert found[1].to_dict() == {"high": 1.0, "low": 0.0}


def test_the_same_seed_gives_the_same_probabilities_and_another_nearly_the_same() -> None:
    first, again, other = (rank_probabilities(SCORES, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)
    assert other.to_numpy() == pytest.approx(first.to_numpy(), abs=0.03)


def test_a_method_whose_runs_all_failed_is_left_out_by_name(make_record: MakeRecord) -> None:
    common = common_scores(runs_frame([make_record("pbc"), make_record("dbc", error="OSError")]))
    assert common.left_out == ("dbc",)
