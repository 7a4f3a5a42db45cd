"""Pruning: which transitions stay, and that a method on them is the method on those alone."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.data_part import ProblemOnPart, part_of
from baselines.matching import BCLoss, Clones
from baselines.obd import AvPBC
from baselines.pruned import Pruned
from benchmark.config import BadConfiguration
from benchmark.contract.tiny import toy
from benchmark.datasets.dataset import check_dataset
from benchmark.method import METHODS, BadParameter, Problem
from benchmark.protocol import Protocol
from benchmark.registry import UnknownName
from benchmark.spec import OtherVersion, RunSpec
from benchmark.students.spec import StudentSpec
from benchmark.students.student import StudentPolicy
from benchmark.work import Rates
from results.costs import CostEstimate, Costs
from tests.baselines.toy import Recorder, distil

STUDENT = StudentSpec(width=8, depth=2, steps=4)
TINY: dict[str, Any] = {
    **Pruned.tiny, "synthetic_size": 4, "outer_steps": 3, "probes": 4, "method": "pbc",
}  # fmt: skip


def problem(method: Any, seed: int = 0) -> Problem:
    """240 transitions, 12 episodes of 20 steps."""
    given = toy()
    return Problem(
        needs=method.needs,
        student=STUDENT,
        scaling=given.scaling,
        axes={"run": f"seed{seed}"},
        loaders={
            "dataset": lambda: given.dataset,
            "teacher": lambda: given.teacher,
            "log_density": lambda: given.log_density,
        },
    )


# --- which transitions stay ---------------------------------------------------------------------


@pytest.mark.parametrize("groups", ["cell", "time_step", "none"])
@pytest.mark.parametrize("criterion", ["early_loss", "late_loss", "utility", "random"])
def test_the_same_share_of_every_group_stays_and_it_is_the_best(
    criterion: Any, groups: Any
) -> None:
    method = Pruned(**TINY, fraction=0.25, criterion=criterion, groups=groups)
    given = problem(method)
    kept = method.kept(given)
    assert len(kept) == 60
    assert (np.diff(kept) > 0).all()
    assert np.array_equal(method.kept(problem(method)), kept)
    assert not np.array_equal(method.kept(problem(method, seed=1)), kept)
    group = method._groups(given)
    if groups == "time_step":
        assert np.array_equal(group, np.tile(np.arange(20), 12))
    stays = np.isin(np.arange(240), kept)
    costs = np.zeros(240) if criterion == "random" else method._costs(given).numpy()
    for one in np.unique(group):
        inside = group == one
        assert abs(stays[inside].sum() - inside.sum() / 4) < 1
        if stays[inside].any() and not stays[inside].all():
            assert costs[inside & stays].max() <= costs[inside & ~stays].min()


def test_utility_compares_probes_so_one_of_them_is_refused() -> None:
    # Of one probe every transition would have the same utility, and chance would decide.
    with pytest.raises(BadParameter, match=r"probes is 1; expected 2 or more for .*utility"):
        Pruned(**{**TINY, "probes": 1}, criterion="utility")
    assert Pruned(**{**TINY, "probes": 1}, criterion="late_loss").probes == 1


def test_halves_that_are_empty_are_refused_by_the_name_of_the_data() -> None:
    method = Pruned(**{**TINY, "synthetic_size": 1, "probes": 16}, criterion="utility")
    whole = problem(method)
    with pytest.raises(BadParameter, match=r"half of the 1 transitions of toy.*holds none"):
        method._costs(ProblemOnPart(whole, method.needs, np.arange(1)))


def test_cells_are_the_nearest_centres_of_some_states() -> None:
    method = Pruned(**{**TINY, "cells": 5})
    given = problem(method)
    cells = method._groups(given)
    assert set(cells.tolist()) == set(range(5))
    states = given.observations.numpy()
    centres = np.stack([states[cells == cell].mean(0) for cell in range(5)])
    nearest = np.linalg.norm(states[:, None] - centres, axis=2).argmin(1)
    assert (nearest == cells).mean() > 0.9, "a few Lloyd steps leave a few states on the border"


@pytest.mark.parametrize(("criterion", "steps"), [("early_loss", 2), ("late_loss", 3)])
def test_a_loss_is_that_of_the_probes_as_policies(criterion: Any, steps: int) -> None:
    method = Pruned(**TINY, criterion=criterion)
    given = problem(method)
    generator = given.generator("probes")
    probes = Clones(given, BCLoss(given, generator), 4)
    for _ in range(steps):
        rows = torch.stack([torch.randint(240, (8,), generator=generator) for _ in range(4)])
        probes.learn(given.observations[rows], given.actions[rows])
    head = STUDENT.policy_head
    policy = StudentPolicy(probes.loss.network, head, probes.parameters, given.scaling)
    data = given.dataset
    acted = policy(np.broadcast_to(data.observations, (4, *data.observations.shape)).copy())
    expected = np.square(acted - data.actions).mean((0, 2))  # Hopper's actions are in [-1, 1]
    np.testing.assert_allclose(method._costs(given), expected, rtol=1e-4)


def test_a_utility_is_what_probes_gain_by_learning_from_a_transition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = Pruned(**{**TINY, "probes": 6}, criterion="utility")
    given = problem(method)
    halves = torch.rand(6, 240, generator=given.generator("probes")) < 0.5
    seen: list[torch.Tensor] = []
    losses = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 9.0])
    monkeypatch.setattr(Clones, "learn", lambda self, states, actions: seen.append(states))
    monkeypatch.setattr(
        Clones, "mode_losses", lambda self, states, actions: losses[:, None].expand(6, len(states))
    )
    costs = method._costs(given).double().numpy()
    present = halves.double().numpy()
    expected = [5 * np.cov(present[:, row], losses.numpy())[0, 1] for row in range(240)]
    np.testing.assert_allclose(costs, expected, atol=1e-5)
    rows = {tuple(state): row for row, state in enumerate(given.observations.tolist())}
    for states in seen:
        for probe in range(6):
            assert all(halves[probe, rows[tuple(state)]] for state in states[probe].tolist())


# --- the method on them -------------------------------------------------------------------------


def test_all_of_the_data_is_the_method_itself() -> None:
    method = Pruned(**{**TINY, "method": "av_pbc"}, fraction=1.0)
    pruned = distil(method, problem(method))
    plain = AvPBC(synthetic_size=4, outer_steps=3)
    whole = distil(plain, problem(plain))
    assert pruned.facts == {**whole.facts, "kept_transitions": 240}
    for step in range(4):
        assert pruned.results[step].observations.equal(whole.results[step].observations)
        assert pruned.results[step].actions.equal(whole.results[step].actions)


def test_a_method_distils_from_what_stays_alone() -> None:
    method = Pruned(**{**TINY, "method": "random", "outer_steps": None}, fraction=0.1)
    given = problem(method)
    recorder = distil(method, given)
    data, kept = given.dataset, method.kept(given)
    assert recorder.facts == {"kept_transitions": 24}
    for state in recorder.results[0].observations.numpy():
        assert (data.observations[kept] == state).all(1).any()


@pytest.mark.parametrize("name", ["sdr", "sdw_obd"])
def test_needs_of_each_transition_stay_with_it(name: str) -> None:
    method = Pruned(**{**TINY, "method": name, "outer_steps": None if name == "sdr" else 2})
    rows = method.kept(problem(method))
    given = problem(method)
    part = ProblemOnPart(given, method.needs, rows)
    assert part.log_density.equal(given.log_density[torch.from_numpy(rows)])
    assert part.actions.equal(given.actions[torch.from_numpy(rows)])
    assert part.observations.equal(given.observations[torch.from_numpy(rows)])
    assert len(distil(method, problem(method)).results) > 0


def test_a_part_of_a_dataset_is_sound_and_has_no_episodes() -> None:
    whole, rows = toy().dataset, np.array([3, 19, 20, 100])
    part = part_of(whole, rows)
    check_dataset(part)
    for name in ("observations", "next_observations", "actions", "rewards", "timesteps"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[rows])
    for asked in (lambda: part.episode_returns, lambda: part.returns_to_go(0.9)):
        with pytest.raises(BadParameter, match=r"toy/Hopper-v5 \(a part: 4 of 240 .*whole ep"):
            asked()
    method = Pruned(**{**TINY, "method": "top_return", "outer_steps": None})
    with pytest.raises(BadParameter, match="asked for episode_returns"):
        distil(method, problem(method))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"fraction": 0.0}, BadParameter, "fraction is 0.0; expected more than 0, at most 1"),
        ({"method": "teacher"}, BadParameter, "method is 'teacher'; expected one that distils"),
        ({"method": "hades"}, BadParameter, "method is 'hades'; expected one that distils"),
        ({"method": "pruned"}, BadParameter, "method is 'pruned'; expected one that distils"),
        ({"method": "av_pbcc"}, UnknownName, "Did you mean"),
        ({"probes": 0}, BadParameter, "probes of Pruned is 0; expected 1 or more"),
    ],
)
def test_what_cannot_be_pruned_is_refused(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Pruned(**{**TINY, **settings})


def test_outer_steps_of_a_method_that_has_none_are_refused() -> None:
    with pytest.raises(BadConfiguration, match="'outer_steps' in the parameters of kmeans_pp"):
        Pruned(**{**TINY, "method": "kmeans_pp"})


def test_too_few_that_stay_are_named() -> None:
    method = Pruned(**TINY, fraction=0.01)
    with pytest.raises(BadParameter, match=r"is 4; expected 1 to 2, .*\(a part: 2 of 240 trans"):
        distil(method, problem(method), Recorder())


DISTILS_DATA = [
    name
    for name in METHODS
    if METHODS.origin(name) == "obdbench"
    and "dataset" in METHODS[name].needs
    and "synthetic_size" in {f.name for f in fields(METHODS[name])}
    and not isinstance(METHODS[name], Pruned)
]


@pytest.mark.parametrize("name", DISTILS_DATA)
def test_it_has_the_version_and_the_outer_steps_of_the_method_that_distils(name: str) -> None:
    inner, pruned = METHODS[name], Pruned(method=name)
    assert pruned.version == inner.version
    assert pruned.total_outer_steps == inner.total_outer_steps == getattr(inner, "outer_steps", 0)


def test_a_run_is_of_the_version_of_the_method_that_distils() -> None:
    """Its own default has another: the id changes, and a spec of the former version is refused."""
    run = RunSpec.create(
        method="pruned", dataset="hopper/medium", parameters={"method": "generative_teaching"},
        where="a test", seed=0, protocol=Protocol("tiny", 1, 1, 1, 1),
    )  # fmt: skip
    assert run.version == METHODS["generative_teaching"].version == 2
    assert isinstance(run.method_instance, Pruned)
    with pytest.raises(OtherVersion, match="is of version 1 of pruned; this suite has version 2"):
        _ = replace(run, version=1).method_instance


def test_a_pruned_run_is_planned_as_one_of_the_method_that_distils(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its checkpoints: its own `outer_steps` is None, and leaves the method its default."""
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path))
    rates = Rates()

    def costs(of: str, **parameters: Any) -> CostEstimate:
        run = RunSpec.create(
            method=of, dataset="hopper/medium-expert", where="a test", seed=0, student=STUDENT,
            parameters={"synthetic_size": 8, **parameters},
            protocol=Protocol("tiny", 1, 1, checkpoint_every=5_000, last=1),
        )  # fmt: skip
        return Costs([run], [], rates=rates).of(run)

    assert costs("pruned", method="random") == costs("random")
    assert costs("pruned") == costs("av_pbc")
    assert costs("pruned").source == "counted"


def test_a_record_names_the_device_only_where_the_method_that_distils_asks_for_it() -> None:
    method = Pruned(**TINY)
    whole = problem(method)
    part = ProblemOnPart(whole, method.inner.needs, np.arange(10))
    assert (part.uses_device, whole.uses_device) == (False, False)
    assert part.device == "cpu"
    assert (part.uses_device, whole.uses_device) == (True, True)
