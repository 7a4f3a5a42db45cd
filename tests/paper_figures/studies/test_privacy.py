"""The study of privacy: the attack on known scores, a planted leak, and no leak."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.contract.tiny import Toy, tiny_method, toy
from benchmark.contract.trial import Recorder
from benchmark.datasets.dataset import check_dataset
from benchmark.method import METHODS, Problem
from benchmark.scaling import Scaling
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet
from paper_figures.studies import privacy as module
from paper_figures.studies.privacy import Privacy, auc, episodes_of, member_episodes, nearest
from paper_figures.studies.study import last_result
from results import mean

SOURCE = {"dataset": "toy/dataset", "seed": 0}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A toy problem, whose actions follow from nothing, in place of every dataset and teacher."""
    made = toy()
    monkeypatch.setattr(module, "load_dataset", lambda name: made.dataset)
    monkeypatch.setattr(module.DatasetName, "parse", lambda name: name)
    monkeypatch.setattr(module, "find_teacher", lambda data, name: made.teacher)
    return made


def test_auc_counts_the_pairs_that_are_in_order_and_half_of_the_ties() -> None:
    draw = np.random.default_rng(0)
    members, others = draw.integers(0, 9, size=57), draw.integers(0, 8, size=31)
    won = sum(1.0 * (a > b) + 0.5 * (a == b) for a in members for b in others)
    assert auc(members, others) == pytest.approx(won / (57 * 31), abs=1e-12)
    assert auc(members, members) == pytest.approx(0.5)
    assert (auc(members + 9, others), auc(members - 9, others)) == (1.0, 0.0)


def test_auc_of_two_normals_is_that_of_the_closed_form() -> None:
    """P(X > Y) = Phi(d / sqrt 2) for X and Y normal of unit deviation, d apart."""
    draw = np.random.default_rng(1)
    found = auc(draw.normal(0.5, 1, 40_000), draw.normal(0, 1, 40_000))
    assert found == pytest.approx(0.5 * (1 + math.erf(0.5 / 2)), abs=0.006)


@pytest.mark.parametrize("count", [12, 13])
def test_one_of_each_two_neighbours_in_return_is_a_member(count: int) -> None:
    returns = np.random.default_rng(2).normal(size=count)
    drawn = np.stack([member_episodes(returns, np.random.default_rng(s)) for s in range(40)])
    for members in drawn:
        ranked = members[np.argsort(returns)]
        assert (ranked[: count // 2 * 2].reshape(-1, 2).sum(1) == 1).all()
        assert members.sum() == count // 2
    coupled = np.argsort(returns)[: count // 2 * 2]
    assert (drawn[:, coupled].any(0) & ~drawn[:, coupled].all(0)).all()  # anyone may be one


def test_both_sides_are_sound_datasets_that_share_no_transition() -> None:
    data = toy().dataset
    chosen = member_episodes(data.episode_returns, np.random.default_rng(0))
    members, others = episodes_of(data, chosen), episodes_of(data, ~chosen)
    check_dataset(members)
    check_dataset(others)
    episode = np.repeat(np.arange(len(data.lengths)), data.lengths)
    for side, mine in ((members, chosen), (others, ~chosen)):
        of_side = mine[episode]
        np.testing.assert_array_equal(side.observations, data.observations[of_side])
        np.testing.assert_array_equal(side.next_observations, data.next_observations[of_side])
        np.testing.assert_array_equal(side.actions, data.actions[of_side])
        np.testing.assert_array_equal(side.episode_returns, data.episode_returns[mine])


def test_the_nearest_state_is_found_and_a_copy_is_at_distance_zero() -> None:
    draw = torch.Generator().manual_seed(0)
    points, states = torch.randn(5, 3, generator=draw), torch.randn(40, 3, generator=draw) + 30
    points[2] = states[7]
    expected = [
        min(math.dist(p, s) for s in states.double().tolist()) for p in points.double().tolist()
    ]
    found = nearest(points, states)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64))
    assert found[2] == 0


def test_a_policy_that_saw_neither_side_tells_nothing(made: Toy) -> None:
    study = Privacy(methods=("teacher",))
    rows = [row for k in range(20) for row in study.measure("x", {**SOURCE, "seed": k}, Path())]
    found = mean([row["auc"] for row in rows])
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.06


def test_a_set_that_holds_every_member_leaks_and_one_of_others_leaks_backwards(made: Toy) -> None:
    """The toy's actions are noise: who is nearer to a side's has learned them by heart."""
    found = {}
    for side in ("members", "others"):
        study = _Planted(side)
        (row,) = study.measure("x", SOURCE, Path())
        found[side] = row
    assert found["members"]["auc"] > 0.8
    assert found["others"]["auc"] < 0.2
    assert (found["members"]["member_distance"], found["members"]["nearer_member"]) == (0, 1)
    assert (found["others"]["other_distance"], found["others"]["nearer_member"]) == (0, 0)


class _Planted(Privacy):
    """The study of one method, whose set is all pairs of a side."""

    def __init__(self, side: str) -> None:
        super().__init__(methods=("random",), width=64, inner_steps=600, students_per_set=1)
        object.__setattr__(self, "side", side)

    def _method(self, name: str) -> Any:
        return _GivesASide(getattr(self, "side"))  # noqa: B009


class _GivesASide:
    needs = frozenset({"dataset"})

    def __init__(self, side: str) -> None:
        self.side = side

    def distill(self, problem: Problem, monitor: Recorder) -> None:
        data, members = toy().dataset, problem.dataset
        inside = {row.tobytes() for row in members.observations}
        rows = np.array(
            [(row.tobytes() in inside) == (self.side == "members") for row in data.observations]
        )
        assert rows.sum() == len(data) // 2
        pairs = (torch.from_numpy(part[rows]) for part in (data.observations, data.actions))
        monitor.checkpoint(0, SyntheticSet(*pairs))


def test_sets_and_scaling_and_densities_come_from_members_only(
    made: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Problem] = []
    results: list[Any] = []

    def watched(method: Any, problem: Problem) -> Any:
        seen.append(problem)
        result: Any = last_result(method, problem)
        if "log_density" in method.needs:  # far from all states, as after many steps
            draw = torch.randn(40, 11, generator=torch.Generator().manual_seed(0))
            result = SyntheticSet(draw, torch.zeros(40, 3))
        results.append(result)
        return result

    monkeypatch.setattr(module, "last_result", watched)
    sizes: dict[str, Any] = {
        "synthetic_size": 6, "outer_steps": 2, "inner_steps": 3, "clone_steps": 2, "width": 8,
    }  # fmt: skip
    study = Privacy(density="knn", **sizes)
    rows = study.measure("x", SOURCE, Path())
    assert [row["method"] for row in rows] == list(study.methods)
    random, *_, whole, teacher = rows
    assert (random["member_distance"], random["nearer_member"]) == (0, 1)
    assert random["other_distance"] > 0
    assert "member_distance" not in whole and "nearer_member" not in teacher
    place = study.methods.index("sdw_obd")
    problem = seen[place]
    data = problem.dataset
    assert len(data) == len(made.dataset) // 2
    np.testing.assert_allclose(problem.scaling.mean, data.observations.mean(0), atol=1e-6)
    assert problem.log_density.shape == (len(data),)
    states = problem.observations.double().numpy()
    tenth = np.sort(np.linalg.norm(states[:, None] - states[None], axis=2), axis=1)[:, 10]
    order = np.argsort(problem.log_density.numpy())
    np.testing.assert_array_equal(order, np.argsort(-tenth))  # of the members' own neighbours
    inside = {row.tobytes() for row in data.observations}
    outside = np.array([row for row in made.dataset.observations if row.tobytes() not in inside])
    synthetic, members, others = (
        (part - problem.scaling.mean.numpy()) / problem.scaling.std.numpy()
        for part in (results[place].observations.numpy(), data.observations, outside)
    )
    near, far = (
        np.linalg.norm(synthetic[:, None] - side[None], axis=2).min(1) for side in (members, others)
    )
    assert rows[place]["member_distance"] == pytest.approx(near.mean(), rel=1e-5)
    assert rows[place]["other_distance"] == pytest.approx(far.mean(), rel=1e-5)
    assert rows[place]["nearer_member"] == pytest.approx((near < far).mean())
    assert 0.2 < (near < far).mean() < 0.8
    assert rows == study.measure("x", SOURCE, Path())


def test_every_dataset_has_an_item_per_draw(made: Toy) -> None:
    object.__setattr__(made.teacher, "facts", {"sha256": "t"})
    items = Privacy(datasets=("a/x", "b/y"), seeds=2).items(Path())
    assert list(items) == ["a/x-seed0", "a/x-seed1", "b/y-seed0", "b/y-seed1"]
    assert items["b/y-seed1"] == {
        "dataset": "b/y", "seed": 1, "dataset_sha256": made.dataset.sha256, "teacher_sha256": "t",
    }  # fmt: skip


def test_the_last_result_of_a_method_is_that_of_a_whole_run(made: Toy) -> None:
    method = tiny_method(METHODS["dbc"], {})
    results = []
    for work in (last_result, _last_of_all):
        problem = Problem(
            needs=method.needs,
            student=StudentSpec(width=8, depth=2, steps=4),
            scaling=Scaling(*made.scaling.tensors().values()),
            axes={"seed": 0},
            loaders={"dataset": lambda: made.dataset},
        )
        results.append(work(method, problem))
    assert torch.equal(results[0].observations, results[1].observations)


def _last_of_all(method: Any, problem: Problem) -> Any:
    recorder = Recorder(total=method.outer_steps)
    method.distill(problem, recorder)
    assert list(recorder.results)[-1] == method.outer_steps
    return recorder.results[method.outer_steps]
