"""A file in D4RL's format becomes D4RL's q-learning view, or the message says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from benchmark.datasets.dataset import Dataset, DatasetProblem, ReferenceReturns
from benchmark.datasets.hdf5 import read_d4rl_file
from benchmark.environments.lookup import UnknownEnvironment
from tests.d4rl_files import (
    OBSERVATIONS,
    Arrays,
    made_up,
    qlearning_view,
    with_next_observations,
    write_file,
)


def read(path: Path, env_id: str = "Hopper-v4") -> Dataset:
    return read_d4rl_file(
        path, name="local/made-up", env_id=env_id, reference=ReferenceReturns(0.0, 1.0)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made_up.hdf5"


# --- the q-learning view -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("lengths", "ends"),
    [
        ([5], "n"),
        ([5, 3], "on"),
        ([5, 3], "tn"),
        ([3, 4, 2], "oto"),
        ([3, 4, 2], "tot"),
        ([3, 4, 2], "bbb"),
        ([3, 1, 1, 2, 1], "ototo"),
        ([1, 1, 4, 1], "oott"),
        ([7, 2, 9, 4, 1, 6], "tobotn"),
    ],
)
@pytest.mark.parametrize("bring_next", [False, True])
def test_transitions_are_those_of_d4rls_own_loop(
    path: Path, lengths: list[int], ends: str, bring_next: bool
) -> None:
    arrays = made_up(lengths, ends)
    if ends == "n":
        arrays["timeouts"][1] = True  # a file in which nothing ends is refused
    expected = qlearning_view(arrays)
    dataset = read(write_file(path, with_next_observations(arrays) if bring_next else arrays))

    np.testing.assert_array_equal(dataset.observations, expected["observations"])
    np.testing.assert_array_equal(dataset.actions, expected["actions"])
    np.testing.assert_array_equal(dataset.rewards, expected["rewards"])
    np.testing.assert_array_equal(dataset.terminations, expected["terminals"])
    terminated = expected["terminals"]
    np.testing.assert_array_equal(
        dataset.next_observations[~terminated], expected["next_observations"][~terminated]
    )
    np.testing.assert_array_equal(
        dataset.next_observations[terminated],
        expected["next_observations"][terminated] + np.float32(100 * bring_next),
    )
    assert ("next_observations" in dataset.provenance["after_terminals"]) == bring_next
    assert dataset.provenance["warnings"] == []


def test_the_last_observation_of_an_episode_is_where_it_was_cut(path: Path) -> None:
    arrays = made_up([3, 4, 2], "otn")
    dataset = read(write_file(path, with_next_observations(arrays)))
    rows = arrays["observations"]

    assert dataset.lengths.tolist() == [2, 4, 1]
    np.testing.assert_array_equal(dataset.states[:3], rows[:3])
    np.testing.assert_array_equal(dataset.states[3:7], rows[3:7])
    np.testing.assert_array_equal(dataset.states[7], rows[7] + 100)
    np.testing.assert_array_equal(dataset.states[8:], rows[7:])
    assert np.flatnonzero(dataset.terminations).tolist() == [5]
    assert np.flatnonzero(dataset.truncations).tolist() == [1, 6]


def test_hopper_medium_replay_counts_as_published(path: Path) -> None:
    """402,000 rows give 401,598 transitions: all but 401 time-outs and the last row."""
    arrays = {
        "observations": np.zeros((402_000, OBSERVATIONS), np.float32),
        "actions": np.zeros((402_000, 3), np.float32),
        "rewards": np.ones(402_000, np.float32),
        "terminals": np.zeros(402_000, bool),
        "timeouts": np.zeros(402_000, bool),
    }
    arrays["timeouts"][999:401_000:1000] = True
    arrays["terminals"][499::1000] = True
    dataset = read(write_file(path, arrays))

    assert arrays["timeouts"].sum() == 401
    assert len(dataset) == 401_598
    assert dataset.provenance["rows"] == 402_000
    assert len(dataset.lengths) == 804
    assert dataset.episode_returns.sum() == 401_598


def test_float64_becomes_float32(path: Path) -> None:
    arrays = made_up([3, 4], "to")
    wide = {
        key: array.astype(np.float64) if array.dtype == np.float32 else array.astype(np.uint8)
        for key, array in arrays.items()
    }
    dataset = read(write_file(path, wide))

    np.testing.assert_array_equal(
        dataset.observations, qlearning_view(arrays)["observations"], strict=True
    )
    assert dataset.rewards.dtype == np.float32 and dataset.terminations.dtype == bool


# --- what is odd but no mistake ------------------------------------------------------------------
def test_rows_that_do_not_follow_each_other_are_reported(path: Path) -> None:
    arrays = with_next_observations(made_up([3, 4], "to"))
    arrays["next_observations"][[0, 4]] += 1
    (warning,) = read(write_file(path, arrays)).provenance["warnings"]
    assert "In 2 of 6 transitions of made_up.hdf5 next_observations is not" in warning


def test_an_episode_longer_than_the_time_limit_is_reported(path: Path) -> None:
    (warning,) = read(write_file(path, made_up([1500, 4], "to"))).provenance["warnings"]
    assert "1 episodes of made_up.hdf5 are longer than the 1000 steps of Hopper-v4" in warning
    assert "the longest 1500" in warning


# --- bad input -----------------------------------------------------------------------------------
def _without(key: str) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.pop(key)


def _set(key: str, row: int, value: float) -> Callable[[Arrays], object]:
    return lambda arrays: arrays[key].__setitem__(row, value)


def _replace(**changes: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({key: f(arrays[key]) for key, f in changes.items()})


BAD: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "a key is missing": (_without("terminals"), r"lacks 'terminals'; it has 'actions', 'infos'"),
    "keys of another format": (
        lambda a: (a.update(obs=a.pop("observations")), a.pop("actions")),
        r"lacks 'observations', 'actions'; it has .*Expected D4RL's format",
    ),
    "a shape too short": (
        _replace(rewards=lambda x: x[:-1]),
        r"has observations \[7, 11\].*rewards \[6\].*expected",
    ),
    "a table where a list belongs": (
        _replace(rewards=lambda x: np.stack([x, x], 1)),
        r"rewards \[7, 2\].*everything else \[N\]",
    ),
    "next observations that are a group": (
        lambda a: a.update({"next_observations/mean": np.zeros(7)}),
        r"'next_observations' has dtype no array, expected numbers",
    ),
    "an empty array": (
        lambda a: a.update(actions=h5py.Empty("f4")),
        r"lacks 'actions'; it has",
    ),
    "images": (
        _replace(observations=lambda x: x.reshape(7, 11, 1)),
        r"has observations \[7, 11, 1\], .*expected observations .*\[N, obs_dim\]",
    ),
    "no rows": (
        _replace(**dict.fromkeys(made_up([1], "t"), lambda x: x[:0])),
        r"has observations \[0, 11\]",
    ),
    "next observations of another size": (
        lambda a: a.update(next_observations=a["observations"][:, :5]),
        r"next_observations \[7, 5\]; expected observations \(and next_observations",
    ),
    "text as observations": (
        _replace(observations=lambda x: x.astype("S8")),
        r"'observations' has dtype \|S8, expected numbers, such as float32",
    ),
    "complex rewards": (
        _replace(rewards=lambda x: x.astype(complex)),
        r"'rewards' has dtype complex128, expected numbers",
    ),
    "flags that are neither": (
        lambda a: a.update(terminals=np.array([0, 1, 0.5, 0, 0, 0, 1])),
        r"'terminals' is 0\.5 in row 2, expected true or false, or 1 and 0 of any type",
    ),
    "flags that are NaN": (
        lambda a: a.update(terminals=np.array([0, 1, 0, np.nan, 0, 0, 1])),
        r"'terminals' is nan in row 3, expected",
    ),
    "flags that are counts": (
        _replace(timeouts=lambda x: x.astype(np.int64) * 2),
        r"'timeouts' is 2 in row 6, expected",
    ),
    "NaN": (
        _set("observations", 4, np.nan),
        r"'observations' has 11 entries that are NaN or infinite in float32, the first \(nan\) in "
        r"row 4",
    ),
    "infinity": (_set("rewards", 2, -np.inf), r"'rewards' has 1 entries .*\(-inf\) in row 2"),
    "more than float32 holds": (
        lambda a: a.update(actions=a["actions"].astype(np.float64) * 1e300),
        r"'actions' has 21 entries that are NaN or infinite in float32",
    ),
    "NaN in the next observations": (
        lambda a: a.update(next_observations=np.full((7, 11), np.nan, np.float32)),
        r"'next_observations' from row 0 has 77 entries",
    ),
    "episodes without end": (
        _replace(terminals=np.zeros_like, timeouts=np.zeros_like),
        r"none of the 7 rows is true in 'terminals' or 'timeouts', so the episodes are without end"
        r"\. Mark",
    ),
    "nothing but time-outs": (
        _replace(timeouts=np.ones_like),
        r"its 7 rows make no transition: every one timed out",
    ),
}


# --- what D4RL's reader takes too -------------------------------------------------------------
SAME: dict[str, Callable[[Arrays], object]] = {
    "flags 0.0 and 1.0": _replace(
        terminals=lambda x: x.astype(np.float32), timeouts=lambda x: x.astype(np.float64)
    ),
    "flags of bytes": _replace(
        terminals=lambda x: x.astype(np.uint8), timeouts=lambda x: x.astype(np.int8)
    ),
    "columns": lambda a: a.update(
        {key: a[key][:, None] for key in ("rewards", "terminals", "timeouts")}
    ),
    "double precision": _replace(
        **dict.fromkeys(("observations", "actions", "rewards"), lambda x: x.astype(np.float64))
    ),
    "the other byte order": _replace(
        **dict.fromkeys(("observations", "actions", "rewards"), lambda x: x.astype(">f4")),
        terminals=lambda x: x.astype(">i4"),
    ),
    "more keys": lambda a: a.update(
        {"episode_ids": np.arange(7), "infos/qpos": np.zeros((7, 6)), "name": np.array(b"x")}
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_another_type_or_layout_of_the_same_numbers_is_the_same_dataset(
    path: Path, case: str
) -> None:
    arrays = made_up([3, 4], "to")
    expected = read(write_file(path, arrays))
    SAME[case](arrays)
    found = read(write_file(path, arrays))
    assert found.sha256 == expected.sha256
    assert found.provenance == expected.provenance


def test_compressed_arrays_are_read(path: Path) -> None:
    arrays = made_up([3, 4], "to")
    expected = read(write_file(path, arrays))
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, chunks=True, compression="gzip")
    assert read(path).sha256 == expected.sha256


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float16, ">i2", bool])
def test_numbers_of_any_type_are_taken_as_they_are(path: Path, kind: Any) -> None:
    arrays = made_up([3, 4], "to")
    numbers = (np.arange(7 * OBSERVATIONS).reshape(7, -1) % 2).astype(kind)
    arrays.update(observations=numbers, rewards=numbers[:, 0])
    dataset = read(write_file(path, arrays))
    np.testing.assert_array_equal(dataset.observations, numbers[:6].astype(np.float32))
    np.testing.assert_array_equal(dataset.rewards, numbers[:6, 0].astype(np.float32))


def test_without_timeouts_episodes_end_at_the_time_limit(path: Path) -> None:
    marked = made_up([1000, 400, 1000, 1000, 20], "otoon")
    expected = read(write_file(path, marked))
    dataset = read(write_file(path, {k: v for k, v in marked.items() if k != "timeouts"}))
    assert dataset.lengths.tolist() == [999, 400, 999, 999, 19]
    assert dataset.sha256 == expected.sha256
    assert dataset.provenance["warnings"] == [
        "made_up.hdf5 has no 'timeouts': episodes end at terminals and every 1000 steps, the time "
        "limit of Hopper-v4."
    ]


# --- discrete actions -------------------------------------------------------------------------
TAKEN = [0, 1, 1, 0, 1, 0, 0, 1]


def cartpole(**changes: np.ndarray) -> Arrays:
    """Eight rows of one episode of CartPole that terminates."""
    generator = np.random.default_rng(0)
    return {
        "observations": generator.standard_normal((8, 4)).astype(np.float32),
        "actions": np.array(TAKEN),
        "rewards": np.ones(8, np.float32),
        "terminals": np.arange(8) == 6,
        "timeouts": np.zeros(8, bool),
        **changes,
    }


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32, np.float64, ">i4", bool])
@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_whole_number_actions_become_one_hot_rows(
    path: Path, kind: Any, shape: tuple[int, ...]
) -> None:
    actions = np.array(TAKEN).astype(kind).reshape(shape)
    dataset = read(write_file(path, cartpole(actions=actions)), "CartPole-v1")
    assert dataset.actions.tolist() == [[1.0 - a, float(a)] for a in TAKEN[:7]]
    assert dataset.actions.dtype == np.float32
    said = "whole numbers 0 to 1 to one-hot rows of 2"
    assert dataset.provenance["actions_converted"] == said


def test_one_hot_actions_of_any_type_stay(path: Path) -> None:
    actions = np.eye(2, dtype=np.int64)[TAKEN]
    dataset = read(write_file(path, cartpole(actions=actions)), "CartPole-v1")
    assert dataset.actions.tolist() == actions[:7].tolist()
    assert "actions_converted" not in dataset.provenance


@pytest.mark.parametrize("wrong", [2, -1, 0.5])
def test_an_action_that_the_environment_does_not_have_is_named_by_its_row(
    path: Path, wrong: float
) -> None:
    actions = np.array([*TAKEN[:5], wrong, 0, 0])
    write_file(path, cartpole(actions=actions))
    said = (
        rf"the action of row 5 is {wrong}; CartPole-v1 has discrete actions: expected whole "
        rf"numbers from 0 to 1, \[N\] or \[N, 1\], or one-hot rows \[N, 2\]"
    )
    with pytest.raises(DatasetProblem, match=said):
        read(path, "CartPole-v1")


def test_a_list_of_actions_of_one_dimension_is_a_column(path: Path) -> None:
    actions = np.linspace(-2, 2, 8)
    arrays = cartpole(actions=actions, observations=np.zeros((8, 3)))
    dataset = read(write_file(path, arrays), "Pendulum-v1")
    np.testing.assert_array_equal(dataset.actions, actions[:7, None].astype(np.float32))


@pytest.mark.parametrize("case", BAD)
def test_bad_content_is_named_with_what_was_found_and_expected(path: Path, case: str) -> None:
    damage, message = BAD[case]
    arrays = made_up([3, 4], "to")
    damage(arrays)
    write_file(path, arrays)

    with pytest.raises(DatasetProblem, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_group_is_no_array(path: Path) -> None:
    arrays = made_up([3, 4], "to")
    del arrays["actions"]
    write_file(path, {**arrays, "actions/mean": np.zeros((7, 3))})
    with pytest.raises(DatasetProblem, match="lacks 'actions'"):
        read(path)


def test_a_minari_file_is_recognised(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["episode_0/observations"] = np.zeros((3, 2))
    with pytest.raises(DatasetProblem, match=r"Minari dataset: put its folder .* as minari/ID"):
        read(path)


def test_a_file_that_is_no_hdf5_is_refused(path: Path) -> None:
    with pytest.raises(DatasetProblem, match=r"cannot be read as HDF5 .*get it again"):
        read(path)
    path.write_text("<html>Please log in</html>")
    with pytest.raises(DatasetProblem, match=r"cannot be read as HDF5 .*get it again"):
        read(path)
    whole = write_file(path, made_up([3, 4], "to")).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole.replace(b"HEAP", b"heap")):
        path.write_bytes(damaged)
        with pytest.raises(DatasetProblem, match=r"cannot be read as HDF5 .*cut short"):
            read(path)


def test_an_environment_that_is_not_installed_says_what_to_install(path: Path) -> None:
    write_file(path, made_up([3, 4], "to"))
    with pytest.raises(UnknownEnvironment, match="pip install gymnasium-robotics"):
        read(path, "AntMaze_UMaze-v4")
