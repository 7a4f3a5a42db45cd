"""Runs become jobs and arrays: each once, by shape, in pieces that the cluster takes."""

from __future__ import annotations

import pytest

from benchmark.spec import RunSpec
from slurm.profile import build_profile, make_arrays
from tests.tiny_runs import tiny_spec

DATASET = "hopper/medium-expert@2000"
RUNS = [tiny_spec(name, DATASET, seed=seed) for seed in range(7) for name in ("random", "dbc")]


def test_every_run_is_in_one_job_and_jobs_are_grouped_by_what_they_ask_for() -> None:
    profile = build_profile({"pack": 3, "methods": {"random": {"cpus": 2}}}, "p", "here")
    arrays = make_arrays(RUNS, profile, max_array_size=1000)
    assert sorted(run.run_id for array in arrays for run in array.runs) == sorted(
        run.run_id for run in RUNS
    )
    assert [array.shape.cpus for array in arrays] == [2, 1]
    assert [{run.method for run in array.runs} for array in arrays] == [{"random"}, {"dbc"}]
    assert [len(job) for job in arrays[0].jobs] == [1] * 7
    assert sorted(len(job) for job in arrays[1].jobs) == [2, 2, 3]


def test_methods_that_ask_for_the_same_share_an_array() -> None:
    profile = build_profile({"methods": {"random": {"cpus": 1}}}, "p", "here")
    assert len(make_arrays(RUNS, profile, max_array_size=1000)) == 1


def test_arrays_are_no_larger_than_the_cluster_takes() -> None:
    arrays = make_arrays(RUNS, build_profile({"pack": 1}, "p", "here"), max_array_size=4)
    assert [len(array.jobs) for array in arrays] == [4, 4, 4, 2]


@pytest.mark.parametrize(("limit", "shares"), [(14, [4, 4, 4, 2]), (7, [2, 2, 2, 1])])
def test_arrays_share_the_limit_on_jobs_at_a_time(limit: int, shares: list[int]) -> None:
    profile = build_profile({"pack": 1, "parallelism": limit}, "p", "here")
    assert [a.parallelism for a in make_arrays(RUNS, profile, max_array_size=4)] == shares


@pytest.mark.parametrize(
    ("limit", "shares"), [(16, [8, 6, 1, 1]), (4, [1, 1, 1, 1]), (2, [1, 1, 1, 1])]
)
def test_small_arrays_get_their_job_out_of_the_limit(limit: int, shares: list[int]) -> None:
    """Half a job would be the share of each by size; with fewer than four, one of each works."""
    own = {name: {"cpus": cpus} for cpus, name in enumerate(("random", "dbc", "pbc", "av_pbc"), 2)}
    profile = build_profile({"pack": 1, "parallelism": limit, "methods": own}, "p", "here")
    counts = {"random": 18, "dbc": 12, "pbc": 1, "av_pbc": 1}
    runs = [tiny_spec(name, DATASET, seed=seed) for name, n in counts.items() for seed in range(n)]
    arrays = make_arrays(runs, profile, max_array_size=1000)
    assert [a.parallelism for a in arrays] == shares


def test_no_array_is_left_without_a_job() -> None:
    profile = build_profile({"pack": 1, "parallelism": 1}, "p", "here")
    assert {a.parallelism for a in make_arrays(RUNS, profile, max_array_size=4)} == {1}


def test_short_packs_share_a_job_and_long_or_unknown_ones_do_not() -> None:
    """Two minutes a random run, 20 or unknown minutes a DBC one; ten at most together."""
    profile = build_profile({"pack": 1}, "p", "here")

    def expected(run: RunSpec) -> float | None:
        if run.method == "random":
            return 120.0
        return 1200.0 if run.seed else None

    (array,) = make_arrays(RUNS, profile, 1000, expected)
    assert sorted(run.run_id for run in array.runs) == sorted(run.run_id for run in RUNS)
    sizes = {method: [] for method in ("random", "dbc")}
    for job in array.jobs:
        assert len({run.method for run in job}) == 1
        sizes[job[0].method].append(len(job))
    assert sizes == {"random": [5, 2], "dbc": [1] * 7}


@pytest.mark.parametrize(("minutes", "jobs"), [(0, 14), (1, 14), (2, 7), (28, 1)])
def test_a_profile_says_how_long_a_job_may_become(minutes: int, jobs: int) -> None:
    profile = build_profile({"pack": 1, "group_minutes": minutes}, "p", "here")
    (array,) = make_arrays(RUNS, profile, 1000, lambda _: 60.0)
    assert len(array.jobs) == (jobs if minutes else 14)
    assert {run.run_id for run in array.runs} == {run.run_id for run in RUNS}
