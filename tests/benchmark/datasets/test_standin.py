"""Stand-ins are played as their shares say, and are accepted by their moments alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.datasets import standin
from benchmark.datasets.d4rl_facts import d4rl_reference, d4rl_statistics
from benchmark.datasets.dataset import Dataset, DatasetProblem
from benchmark.datasets.snapshots import load_snapshots
from benchmark.datasets.source import DatasetName, find_source
from benchmark.datasets.standin import FAMILY, Player, Players, StandIn, accepted
from benchmark.datasets.standin_shares import QUALITIES, fit_shares, pool
from benchmark.errors import ObdBenchError
from benchmark.registry import UnknownName
from benchmark.teachers.teacher import NetworkTeacher, TeacherProblem
from benchmark.teachers.teacher_files import find_teacher, imported_path, save_teacher

MEDIUM = "hopper-medium-v2"


def invented_teacher(seed: int = 0) -> NetworkTeacher:
    generator = torch.Generator().manual_seed(seed)

    def layer(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(shape, generator=generator) / 3, torch.randn(shape[:-1]) * 0.1

    return NetworkTeacher(
        actor=[layer(8, 11), layer(8, 8), layer(6, 8)],
        critics=[(torch.zeros(1, 1, 14), torch.zeros(1, 1))],
        observation_mean=torch.randn(11, generator=generator),
        observation_std=torch.rand(11, generator=generator) + 0.5,
        action_noise="gaussian",
        facts={"environment": "Hopper-v4"},
        log_std_multiplier=0.8,
        log_std_offset=-1.5,
    )


@pytest.fixture
def teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, NetworkTeacher]:
    """Teachers of the three Hopper datasets, as if imported."""
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path))
    found = {f"hopper-{q}-v2": invented_teacher(place) for place, q in enumerate(QUALITIES)}
    for name, teacher in found.items():
        save_teacher(teacher, imported_path(f"d4rl/{name}"))
    return found


def observations(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 11))


# --- players -------------------------------------------------------------------------------------


def test_a_teacher_plays_as_torch_has_it(teachers: dict[str, NetworkTeacher]) -> None:
    seen, drawn = observations(5), np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    players = Players(MEDIUM, [Player("teacher", MEDIUM, x) for x in (0.0, 0.3, "own")])
    teacher = teachers[MEDIUM]
    plain = teacher.act(torch.tensor(seen, dtype=torch.float32)).numpy()

    def play(index: int) -> np.ndarray:
        return players.act(np.full(5, index), seen, drawn)

    np.testing.assert_allclose(play(0), plain, rtol=0, atol=1e-6)
    np.testing.assert_allclose(play(1), (plain + 0.3 * drawn).clip(-1, 1), rtol=0, atol=1e-6)
    outputs = teacher._actor_outputs(torch.tensor(seen, dtype=torch.float32))
    std = (0.8 * outputs[:, 3:] - 1.5).exp()
    own = (outputs[:, :3] + std * torch.from_numpy(drawn)).tanh().numpy()
    np.testing.assert_allclose(play(2), own, rtol=0, atol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours(teachers: dict[str, NetworkTeacher]) -> None:
    players = Players(MEDIUM, pool("hopper"))
    rows = np.arange(len(players.players))
    drawn = np.random.default_rng(2).normal(size=(len(rows), 3)).astype(np.float32)
    seen = observations(len(rows))
    together = players.act(rows, seen, drawn)
    alone = [players.act(rows[[r]], seen[[r]], drawn[[r]])[0] for r in rows]
    np.testing.assert_array_equal(together, np.stack(alone))
    snapshots = load_snapshots("hopper")
    last = len(snapshots.tensors["log_std"]) - 1
    np.testing.assert_array_equal(
        together[-1], snapshots.act(np.array([last]), seen[[-1]], drawn[[-1]])[0]
    )


# --- the shares ----------------------------------------------------------------------------------


def test_shares_of_known_mixtures_are_found() -> None:
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(4, 11)) * 2
    played = [(c + generator.normal(size=(4000, 11))).astype(np.float32) for c in centres]
    true = np.array([0.5, 0.3, 0.2, 0.0])
    mean = true @ np.stack([p.mean(0) for p in played])
    square = true @ np.stack([((p - mean) ** 2).mean(0) for p in played])
    shares, off = fit_shares(played, mean, np.sqrt(square))
    np.testing.assert_allclose(shares, true, atol=2e-3)
    assert off < 0.02
    # Out of reach: no mixture has a mean outside of all of them.
    _, off = fit_shares(played, centres.max(0) + 10, np.ones(11))
    assert off > 10


def test_the_shipped_shares_name_players_of_the_pool_and_sum_to_one() -> None:
    assert FAMILY.names() == [f"standin/hopper-{quality}-v2" for quality in QUALITIES]
    for name in FAMILY.names():
        source = find_source(name)
        assert isinstance(source, StandIn)
        assert set(source.mixture) <= set(pool("hopper"))
        assert sum(source.mixture.values()) == pytest.approx(1, abs=2e-3)


# --- what is accepted ----------------------------------------------------------------------------


def _normal(mean: np.ndarray, std: np.ndarray, count: int = 20_000) -> Dataset:
    drawn = np.random.default_rng(4).normal(size=(count, len(mean)))
    drawn = (drawn - drawn.mean(0)) / drawn.std(0) * std + mean
    return Dataset(
        name="standin/x", env_id="Hopper-v4",
        states=np.concatenate((drawn, drawn[-1:])).astype(np.float32),
        actions=np.zeros((count, 3), np.float32), rewards=np.zeros(count, np.float32),
        terminations=np.zeros(count, bool), truncations=np.arange(count) == count - 1,
        lengths=np.array([count]), reference=d4rl_reference(MEDIUM),
    )  # fmt: skip


@pytest.mark.parametrize(("shift", "scale", "fits"), [
    (0.09, 1.0, True), (0.11, 1.0, False), (0.0, 1.09, True), (0.0, 0.89, False),
])  # fmt: skip
def test_every_dimension_must_have_the_published_moments(
    shift: float, scale: float, fits: bool
) -> None:
    mean, std = map(np.array, d4rl_statistics(MEDIUM))
    one = np.eye(11)[7]  # the other ten are met
    given = _normal(mean + shift * std * one, std * (1 + (scale - 1) * one))
    if fits:
        noted = accepted(given, MEDIUM).provenance
        assert noted["stands_in_for"] == "d4rl/hopper-medium-v2"
        assert noted["statistics_differences"]["mean"] == pytest.approx(shift, abs=1e-3)
        assert noted["statistics_differences"]["sd"] == pytest.approx(abs(scale - 1), abs=1e-3)
    else:
        with pytest.raises(DatasetProblem, match=r"not stand in for .* by up to \S+ standard"):
            accepted(given, MEDIUM)


def test_a_build_plays_its_shares_and_says_how_far_it_is_from_the_published(
    teachers: dict[str, NetworkTeacher], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["teacher", MEDIUM, 0.1, 0.7], ["snapshot", 3, "own", 0.3]]
    monkeypatch.setattr(standin, "_shares", lambda: {MEDIUM: rows})
    source = FAMILY.source(f"standin/{MEDIUM}")
    with pytest.raises(DatasetProblem, match=r"not stand in for hopper-medium-v2.*more than 200\."):
        source.build("standin/x", 200, 0, 1, None)
    monkeypatch.setattr(standin, "LARGEST_DIFFERENCE", 100.0)
    found = source.build("standin/x", 200, 0, 1, None)
    assert (len(found), found.env_id, found.reference) == (200, "Hopper-v4", d4rl_reference(MEDIUM))
    again = replace(source, default_size=7).build("standin/x", 200, 0, 2, None)  # type: ignore[type-var]
    np.testing.assert_array_equal(found.states, again.states)
    starts = np.cumsum(found.lengths) - found.lengths
    assert 140 in starts  # 70 % are the teacher's


# --- teachers ------------------------------------------------------------------------------------


def test_the_teacher_of_a_stand_in_is_that_of_what_it_stands_in_for(
    teachers: dict[str, NetworkTeacher],
) -> None:
    mean, std = map(np.array, d4rl_statistics(MEDIUM))
    given = replace(_normal(mean, std, 50), name=f"standin/{MEDIUM}@50")
    found = find_teacher(given, "cal_ql_authors")
    torch.testing.assert_close(found.observation_mean, teachers[MEDIUM].observation_mean)


def test_without_teachers_one_sentence_says_what_to_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path))
    with pytest.raises(TeacherProblem, match=r"was not imported.*obdbench artefacts import obd"):
        find_source(f"standin/{MEDIUM}").check("")
    mean, std = map(np.array, d4rl_statistics(MEDIUM))
    given = replace(_normal(mean, std, 50), name=f"standin/{MEDIUM}")
    with pytest.raises(TeacherProblem, match=r"--dataset d4rl/hopper-medium-v2`"):
        find_teacher(given, "cal_ql_authors")


def test_an_unknown_stand_in_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="standin/hopper-medium-v2"):
        find_source("standin/hopper-medium")
    with pytest.raises(ObdBenchError):
        DatasetName.parse("standin/walker2d-nothing-v2")
