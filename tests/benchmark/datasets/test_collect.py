"""What is collected is what gymnasium plays, whatever ran beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import benchmark.datasets.collect as module
from benchmark.datasets.collect import Part, collect
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.snapshots import SnapshotPolicies, load_snapshots
from benchmark.datasets.source import DATASETS
from benchmark.environments.batch import StepResult
from benchmark.seeds import derive_seed

PARTS = (Part(3, 150), Part(19, 1050))


@pytest.fixture(scope="module")
def policies() -> SnapshotPolicies:
    return load_snapshots("hopper")


@pytest.fixture(scope="module")
def collected(policies: SnapshotPolicies) -> Dataset:
    """A poor snapshot and the best: episodes that fall, reach the time limit and are cut."""
    return collect("replayed", policies, PARTS, seed=0, slots=4)


def episodes_of(dataset: Dataset) -> list[tuple[slice, NDArray[np.float32]]]:
    """Rows of each episode's transitions, and its states."""
    starts = np.concatenate(([0], np.cumsum(dataset.lengths)))
    return [
        (slice(a, b), dataset.states[a + index : b + index + 1])
        for index, (a, b) in enumerate(pairwise(starts.tolist()))
    ]


def test_every_part_has_exactly_as_many_transitions_as_asked_for(collected: Dataset) -> None:
    assert len(collected) == 1200
    assert 150 in np.cumsum(collected.lengths)  # no episode runs over from part to part
    assert len(collected.states) == 1200 + len(collected.lengths)
    assert bool((collected.lengths > 0).all())


def test_arrays_have_the_types_of_the_store(collected: Dataset) -> None:
    types = {name: array.dtype.name for name, array in collected.arrays().items()}

    assert types == {
        "states": "float32",
        "actions": "float32",
        "rewards": "float32",
        "terminations": "bool",
        "truncations": "bool",
        "lengths": "int64",
    }


@pytest.mark.parametrize(("slots", "threads"), [(1, 1), (3, 2), (7, 1)])
def test_content_depends_on_neither_slots_nor_threads(
    policies: SnapshotPolicies, collected: Dataset, slots: int, threads: int
) -> None:
    again = collect("replayed", policies, PARTS, seed=0, slots=slots, threads=threads)

    assert again.sha256 == collected.sha256


@pytest.mark.parametrize(("name", "seed"), [("replayed", 1), ("another", 0)])
def test_other_seed_or_name_is_other_data(policies: SnapshotPolicies, name: str, seed: int) -> None:
    parts = [Part(0, 20)]
    one = collect("replayed", policies, parts, seed=0, slots=1)
    other = collect(name, policies, parts, seed=seed, slots=1)

    assert not np.array_equal(one.states[0], other.states[0])
    assert not np.allclose(one.actions[:5], other.actions[:5])


def test_smaller_dataset_is_the_beginning_of_a_larger_one(policies: SnapshotPolicies) -> None:
    small = collect("d", policies, [Part(3, 60)], seed=0, slots=2)
    large = collect("d", policies, [Part(3, 90)], seed=0, slots=2)

    np.testing.assert_array_equal(small.actions, large.actions[:60])
    np.testing.assert_array_equal(small.rewards, large.rewards[:60])


def test_replayed_in_gymnasium_every_episode_gives_what_was_stored(collected: Dataset) -> None:
    env = gymnasium.make("Hopper-v5")
    ends, index_in_part = [], {0: 0, 1: 0}
    for rows, states in episodes_of(collected):
        part = 0 if rows.start < 150 else 1
        axes: dict[str, str | int] = {"dataset": "replayed", "seed": 0, "part": part}
        seed = derive_seed(**axes, episode=index_in_part[part], purpose="reset") % 2**31
        index_in_part[part] += 1

        observation, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(states[0], observation.astype(np.float32))
        terminated = truncated = False
        for row, state in zip(range(rows.start, rows.stop), states[1:], strict=True):
            assert not terminated and not truncated
            observation, reward, terminated, truncated, _ = env.step(collected.actions[row])
            np.testing.assert_array_equal(state, observation.astype(np.float32))
            assert collected.rewards[row] == np.float32(reward)
            full = rows.stop in (150, 1200)  # where its part is full, an episode is cut
            last_of_cut = full and row == rows.stop - 1 and not terminated
            assert collected.terminations[row] == terminated
            assert collected.truncations[row] == (truncated or last_of_cut)
        ends.append("fell" if terminated else "time limit" if truncated else "cut")
    env.close()

    assert {"fell", "time limit", "cut"} == set(ends)  # all three ways to end were held to it


def test_actions_are_sampled_from_each_parts_own_snapshot(
    policies: SnapshotPolicies, collected: Dataset
) -> None:
    for part, rows in ((PARTS[0], slice(0, 150)), (PARTS[1], slice(150, 1200))):
        observations, actions = collected.observations[rows], collected.actions[rows]
        snapshots = np.full(len(observations), part.policy)
        mean = policies.act(snapshots, observations.astype(np.float64))
        free = (np.abs(actions) < 1) & (np.abs(mean) < 1)
        noise = ((actions - mean) / np.exp(policies.tensors["log_std"][part.policy]))[free]

        assert len(noise) > 100
        assert abs(float(noise.mean())) < 0.35  # clipping leaves out the outer ones
        assert 0.6 < float(noise.std()) < 1.15
        assert np.abs(actions).max() <= 1


def test_noise_of_one_episode_is_not_that_of_another(policies: SnapshotPolicies) -> None:
    data = collect("noise", policies, [Part(3, 40), Part(3, 40)], seed=0, slots=2)

    assert not np.allclose(data.actions[:20], data.actions[40:60], atol=1e-3)


def test_part_of_no_transitions_is_left_out(policies: SnapshotPolicies) -> None:
    data = collect("d", policies, [Part(0, 0), Part(1, 30), Part(2, 0)], seed=0, slots=4)

    assert len(data) == 30


def test_progress_ends_at_the_total(policies: SnapshotPolicies) -> None:
    seen: list[tuple[int, int]] = []
    collect("d", policies, [Part(0, 40)], seed=0, slots=2, progress=lambda *now: seen.append(now))

    done = [now for now, _ in seen]
    assert {total for _, total in seen} == {40}
    assert done == sorted(done) and done[-1] == 40


class _EndsBothWays:
    """An environment whose third step is a fall and the time limit at once."""

    env_id, size, observation_dim, max_episode_steps = "Hopper-v5", 2, 11, 3
    action_space = gymnasium.spaces.Box(-1, 1, (3,))

    def __init__(self) -> None:
        self.elapsed = np.zeros(2, dtype=np.int64)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> NDArray[np.float64]:
        self.elapsed[list(slots)] = 0
        return np.zeros((len(slots), 11))

    def step(self, slots: NDArray[np.integer], actions: NDArray[Any]) -> StepResult:
        self.elapsed[slots] += 1
        ended = self.elapsed[slots] == 3
        return StepResult(np.zeros((len(slots), 11)), np.ones(len(slots)), ended, ended)

    def close(self) -> None: ...


def test_end_that_is_both_is_stored_as_both(
    policies: SnapshotPolicies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "make_batched", lambda *_: _EndsBothWays())

    data = collect("d", policies, [Part(0, 5)], seed=0, slots=2)

    assert data.lengths.tolist() == [3, 2]
    assert data.terminations.tolist() == [False, False, True, False, False]
    assert data.truncations.tolist() == [False, False, True, False, True]


@pytest.mark.parametrize("size", [1, 18, 19, 37])
def test_replay_mixture_has_every_snapshot_in_equal_shares(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[Part]] = []

    def spy(name: str, policies: SnapshotPolicies, parts: Sequence[Part], **_: Any) -> None:
        asked.append(parts)

    monkeypatch.setattr("benchmark.datasets.own.collect", spy)
    DATASETS["hopper/medium-replay"].build("d", size, 0, 1, None)

    counts = [part.transitions for part in asked[0]]
    assert [part.policy for part in asked[0]] == list(range(19))
    assert sum(counts) == size and max(counts) - min(counts) <= 1


def test_medium_expert_is_half_and_half(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[Part]] = []
    monkeypatch.setattr(
        "benchmark.datasets.own.collect", lambda name, policies, parts, **_: asked.append(parts)
    )
    DATASETS["hopper/medium-expert"].build("d", 2000, 0, 1, None)

    assert asked == [[Part(18, 1000), Part(19, 1000)]]
