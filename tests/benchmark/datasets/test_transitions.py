"""Files of transitions in the usual layouts and names, held to the episodes they were made from."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.datasets.dataset import Dataset, DatasetProblem, ReferenceReturns, check_dataset
from benchmark.datasets.hdf5 import MOST_BYTES, read_d4rl_file
from benchmark.datasets.transitions import SPELLINGS, clip_controls, read_transitions
from tests.d4rl_files import made_up, write_file

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "external"
REFERENCE = ReferenceReturns(0.0, 1.0)
Arrays = dict[str, NDArray[Any]]


# --- three episodes of Hopper's dimensions, and the same in every layout --------------------------
@dataclasses.dataclass
class Episode:
    states: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminated: bool


def episodes() -> list[Episode]:
    generator = np.random.default_rng(0)
    return [
        Episode(
            generator.standard_normal((length + 1, 11)).astype(np.float32),
            generator.uniform(-1, 1, (length, 3)).astype(np.float32),
            generator.standard_normal(length).astype(np.float32),
            terminated,
        )
        for length, terminated in ((5, True), (4, False), (1, True), (3, False))
    ]


def rows(lacking: str = "") -> Arrays:
    """With next observations, under D4RL's names; without the array `lacking`."""
    made = episodes()
    arrays = {
        "observations": np.concatenate([e.states[:-1] for e in made]),
        "actions": np.concatenate([e.actions for e in made]),
        "rewards": np.concatenate([e.rewards for e in made]),
        "next_observations": np.concatenate([e.states[1:] for e in made]),
        "terminals": np.concatenate([last(e) & e.terminated for e in made]),
        "timeouts": np.concatenate([last(e) & (not e.terminated) for e in made]),
    }
    arrays.pop(lacking, None)
    return arrays


def last(episode: Episode) -> NDArray[np.bool_]:
    return np.arange(len(episode.rewards)) == len(episode.rewards) - 1


def trajectories() -> Arrays:
    """The layout of the package imitation."""
    made = episodes()
    return {
        "obs": np.concatenate([e.states for e in made]),
        "acts": np.concatenate([e.actions for e in made]),
        "rews": np.concatenate([e.rewards for e in made]).astype(np.float64),
        "terminal": np.array([e.terminated for e in made]),
        "indices": np.cumsum([len(e.rewards) for e in made])[:-1],
    }


def check_episodes(dataset: Dataset) -> None:
    """Hold a dataset to the episodes, one by one."""
    check_dataset(dataset)
    made, at = episodes(), 0
    assert dataset.lengths.tolist() == [len(e.rewards) for e in made]
    for index, episode in enumerate(made):
        end = at + len(episode.rewards)
        np.testing.assert_array_equal(
            dataset.states[at + index : end + index + 1], episode.states, strict=True
        )
        np.testing.assert_array_equal(dataset.actions[at:end], episode.actions, strict=True)
        np.testing.assert_array_equal(dataset.rewards[at:end], episode.rewards, strict=True)
        assert dataset.terminations[end - 1] == episode.terminated
        assert dataset.truncations[end - 1] != episode.terminated
        at = end


def npz(folder: Path, arrays: Arrays) -> Path:
    np.savez(folder / "mine.npz", **arrays)  # type: ignore[arg-type]
    return folder / "mine.npz"


def hdf5(folder: Path, arrays: Arrays) -> Path:
    with h5py.File(folder / "mine.hdf5", "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return folder / "mine.hdf5"


def parquet(folder: Path, arrays: Arrays, *, numbered: bool = False) -> Path:
    """Rows of lists, or a column per component."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra obdbench[parquet]")
    from pyarrow import parquet as files

    columns: dict[str, Any] = {}
    for key, array in arrays.items():
        if array.ndim == 1:
            columns[key] = array
        elif numbered:
            columns |= {f"{key}_{i}": array[:, i] for i in reversed(range(array.shape[1]))}
        else:
            columns[key] = list(array)
    files.write_table(pyarrow.table(columns), folder / "mine.parquet", row_group_size=6)
    return folder / "mine.parquet"


def numbered(folder: Path, arrays: Arrays) -> Path:
    return parquet(folder, arrays, numbered=True)


def read(path: Path, env_id: str = "Hopper-v4") -> Dataset:
    return read_transitions(path, name="local/mine", env_id=env_id, reference=REFERENCE)


def renamed(**names: str) -> Arrays:
    return {names.get(key, key): array for key, array in rows().items()}


# --- layouts --------------------------------------------------------------------------------------
@pytest.mark.parametrize("write", [npz, hdf5, parquet, numbered])
@pytest.mark.parametrize(
    "arrays",
    [
        rows(),
        renamed(
            observations="obs",
            actions="acts",
            rewards="rews",
            next_observations="next_obs",
            terminals="terminations",
            timeouts="truncations",
        ),
        {key: array.astype(np.float64) for key, array in rows().items()},
    ],
    ids=["d4rl", "gymnasium", "float64"],
)
def test_every_row_with_a_next_observation_is_a_transition(
    write: Callable[[Path, Arrays], Path], arrays: Arrays, tmp_path: Path
) -> None:
    dataset = read(write(tmp_path, arrays))
    check_episodes(dataset)
    assert dataset.provenance["warnings"] == []


@pytest.mark.parametrize("write", [npz, hdf5])
def test_trajectories_are_read(write: Callable[[Path, Arrays], Path], tmp_path: Path) -> None:
    check_episodes(read(write(tmp_path, trajectories())))


@pytest.mark.parametrize("write", [npz, hdf5])
def test_trajectories_may_have_d4rls_names(
    write: Callable[[Path, Arrays], Path], tmp_path: Path
) -> None:
    states = np.concatenate([e.states for e in episodes()])
    arrays = {**rows("next_observations"), "observations": states}
    check_episodes(read(write(tmp_path, arrays)))


@pytest.mark.parametrize(("key", "spelling"), [(k, s) for k in rows() for s in SPELLINGS[k]])
def test_every_spelling_is_taken(key: str, spelling: str, tmp_path: Path) -> None:
    check_episodes(read(npz(tmp_path, renamed(**{key: spelling}))))


@pytest.mark.parametrize("write", [npz, parquet])
def test_rows_without_next_observations_are_read_as_d4rls(
    write: Callable[[Path, Arrays], Path], tmp_path: Path
) -> None:
    arrays = made_up([20, 30, 10], "tot")
    expected = read_d4rl_file(
        write_file(tmp_path / "d4rl.hdf5", arrays),
        name="local/mine",
        env_id="Hopper-v4",
        reference=REFERENCE,
    )
    assert len(expected) == 58
    assert read(write(tmp_path, arrays)).sha256 == expected.sha256
    assert read(tmp_path / "d4rl.hdf5").sha256 == expected.sha256


def test_a_file_of_d4rl_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = write_file(tmp_path / "d4rl.hdf5", made_up([20, 30, 10], "tot")), []
    original = h5py.File

    def opens(*arguments: Any, **options: Any) -> h5py.File:
        opened.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(h5py, "File", opens)
    assert len(read(path)) == 58
    assert opened == [(path, "r")]


@pytest.mark.parametrize(
    "ends",
    [
        {"terminals": [4], "dones": [4, 9, 11]},
        {"terminals": [4], "timeouts": [9, 11]},
        {"dones": [4, 9, 11], "truncations": [9, 11]},
        {"terminals": [4], "episode_starts": [0, 5, 10]},
    ],
    ids=str,
)
def test_rows_without_next_observations_may_say_their_cuts_in_other_ways(
    ends: dict[str, list[int]], tmp_path: Path
) -> None:
    arrays = made_up([5, 5, 2], "too")
    expected = read(write_file(tmp_path / "d4rl.hdf5", arrays))
    assert expected.lengths.tolist() == [5, 4, 1]
    flags = {key: np.isin(np.arange(12), at) for key, at in ends.items()}
    plain = {key: arrays[key] for key in ("observations", "actions", "rewards")}
    assert read(npz(tmp_path, {**plain, **flags})).sha256 == expected.sha256


# --- ends -----------------------------------------------------------------------------------------
LENGTHS = [5, 4, 1, 3]
ENDS = {
    "lengths": {"episode_lengths": np.array(LENGTHS)},
    "starts": {"is_first": np.isin(np.arange(13), [0, 5, 9, 10])},
    "ids": {"episode_id": np.repeat([7, 8, 2, 9], LENGTHS)},
}


@pytest.mark.parametrize("ends", list(ENDS))
def test_ends_may_be_said_in_other_ways(ends: str, tmp_path: Path) -> None:
    dataset = read(npz(tmp_path, {**rows(lacking="timeouts"), **ENDS[ends]}))
    check_episodes(dataset)
    assert dataset.provenance["warnings"] == []


def test_dones_without_timeouts_are_terminal_and_with_them_are_not(tmp_path: Path) -> None:
    arrays = rows()
    arrays["dones"] = arrays.pop("terminals") | arrays["timeouts"]
    check_episodes(read(npz(tmp_path, arrays)))
    del arrays["timeouts"]
    assert read(npz(tmp_path, arrays)).terminations.sum() == 4


def test_an_unmarked_end_is_seen_by_the_next_row_and_said(tmp_path: Path) -> None:
    dataset = read(npz(tmp_path, rows(lacking="timeouts")))
    check_episodes(dataset)
    (warning,) = dataset.provenance["warnings"]
    assert warning.startswith("1 episodes of mine.npz end unmarked")  # the last row always is one


def test_a_next_observation_of_after_a_reset_is_said(tmp_path: Path) -> None:
    arrays = rows()
    arrays["next_observations"][8] = arrays["observations"][9]
    (warning,) = read(npz(tmp_path, arrays)).provenance["warnings"]
    assert warning.startswith("After 1 episodes of mine.npz that were cut")


def vector_rows(mode: gymnasium.vector.AutoresetMode) -> Arrays:
    """200 steps of CartPole in a vector environment, as a collector logs them."""
    environment = gymnasium.make_vec(
        "CartPole-v1", 1, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )
    environment.action_space.seed(0)
    observation, logged = environment.reset(seed=0)[0], []
    for _ in range(200):
        action = environment.action_space.sample()
        following, reward, terminated, truncated, infos = environment.step(action)
        final = infos["final_obs"][0] if "final_obs" in infos else following[0]
        logged.append((observation[0], action[0], reward[0], final, terminated[0], truncated[0]))
        observation = following.copy()
    keys = ("obs", "acts", "rews", "next_obs", "terminated", "truncated")
    columns = zip(*logged, strict=True)
    return {key: np.array(column) for key, column in zip(keys, columns, strict=True)}


def test_rows_that_autoreset_added_are_counted(tmp_path: Path) -> None:
    arrays = vector_rows(gymnasium.vector.AutoresetMode.NEXT_STEP)
    added = int((arrays["rews"] == 0).sum())
    assert added > 5
    (warning,) = read(npz(tmp_path, arrays), "CartPole-v1").provenance["warnings"]
    assert warning.startswith(f"After {added} terminals of mine.npz the next row begins with")
    assert f"and goes on from it, {added} times with reward 0." in warning
    assert "AutoresetMode.DISABLED or SAME_STEP" in warning

    dropped = {key: array[arrays["rews"] != 0] for key, array in arrays.items()}
    assert read(npz(tmp_path, dropped), "CartPole-v1").provenance["warnings"] == []
    sound = vector_rows(gymnasium.vector.AutoresetMode.SAME_STEP)
    assert read(npz(tmp_path, sound), "CartPole-v1").provenance["warnings"] == []


def test_next_observations_of_after_a_reset_are_told_from_autoreset(tmp_path: Path) -> None:
    arrays = vector_rows(gymnasium.vector.AutoresetMode.SAME_STEP)
    arrays["next_obs"] = np.roll(arrays["obs"], -1, axis=0)
    (warning,) = read(npz(tmp_path, arrays), "CartPole-v1").provenance["warnings"]
    assert "and goes on from it, 0 times with reward 0." in warning


@pytest.mark.parametrize("marks", ["per row", "per episode"])
def test_an_episode_at_the_time_limit_is_truncated(marks: str, tmp_path: Path) -> None:
    arrays = rows(lacking="timeouts") if marks == "per row" else trajectories()
    limited = 'Hopper-v4{"max_episode_steps": 5}'
    dataset = read(npz(tmp_path, arrays), limited)
    assert dataset.lengths.tolist() == LENGTHS
    ends = np.cumsum(LENGTHS) - 1
    assert dataset.terminations[ends].tolist() == [False, False, True, False]
    assert dataset.truncations[ends].tolist() == [True, True, False, True]
    assert any("1 episodes of mine.npz are marked as terminal at the 5 steps" in text
               for text in dataset.provenance["warnings"])  # fmt: skip
    (longer, *_) = read(npz(tmp_path, arrays), 'Hopper-v4{"max_episode_steps": 4}').provenance[
        "warnings"
    ][-1:]
    assert "1 episodes of mine.npz are longer than the 4 steps" in longer


@pytest.mark.parametrize("write", [npz, hdf5])
@pytest.mark.parametrize(
    "ends", ["timeouts", "no timeouts", "both marked", "dones and lengths", "dones and starts"]
)
def test_a_terminal_at_the_time_limit_is_a_cut_without_next_observations_too(
    write: Callable[[Path, Arrays], Path], ends: str, tmp_path: Path
) -> None:
    arrays = made_up([5, 4, 5, 2], "tttt")
    terminals = arrays.pop("terminals")
    arrays["timeouts"] = np.zeros(16, bool)
    if ends == "timeouts":
        arrays["terminals"] = terminals
    elif ends == "no timeouts":
        arrays["terminals"] = terminals
        del arrays["timeouts"]
    elif ends == "both marked":
        arrays["terminals"] = terminals
        arrays["timeouts"] = np.isin(np.arange(16), [4, 13])
    else:
        del arrays["timeouts"]
        arrays["dones"] = terminals
        lengths = {"episode_lengths": np.array([5, 4, 5, 2])}
        starts = {"is_first": np.isin(np.arange(16), [0, 5, 9, 14])}
        arrays |= lengths if ends == "dones and lengths" else starts

    dataset = read(write(tmp_path, arrays), 'Hopper-v4{"max_episode_steps": 5}')
    check_dataset(dataset)
    assert dataset.lengths.tolist() == [4, 4, 4, 1]  # a row that was cut makes no transition
    assert np.flatnonzero(dataset.terminations).tolist() == [7]
    assert np.flatnonzero(dataset.truncations).tolist() == [3, 11, 12]
    said = [text for text in dataset.provenance["warnings"] if "as terminal at the 5 steps" in text]
    assert [text.startswith("2 episodes of mine.") for text in said] == (
        [] if ends == "both marked" else [True]
    )


def test_a_terminal_beyond_the_time_limit_stays(tmp_path: Path) -> None:
    arrays = made_up([10, 3], "tt")
    dataset = read(npz(tmp_path, arrays), 'Hopper-v4{"max_episode_steps": 5}')
    assert np.flatnonzero(dataset.terminations).tolist() == [9]
    (warning,) = dataset.provenance["warnings"]
    assert "1 episodes of mine.npz are longer than the 5 steps" in warning


def test_a_file_of_d4rl_keeps_its_terminals_at_the_time_limit(tmp_path: Path) -> None:
    path = write_file(tmp_path / "d4rl.hdf5", made_up([1000, 4], "tt"))
    dataset = read_d4rl_file(path, name="d4rl/x", env_id="Hopper-v4", reference=REFERENCE)
    assert np.flatnonzero(dataset.terminations).tolist() == [999]
    assert dataset.provenance["warnings"] == []
    assert not read(path).terminations.any()


# --- actions --------------------------------------------------------------------------------------
def test_actions_are_clipped_as_the_environment_clips_them(tmp_path: Path) -> None:
    arrays = rows()
    arrays["actions"][2], arrays["actions"][6] = [-3.5, 0.5, 1.25], [1.0, 2.0, -1.0]
    given = read(npz(tmp_path, arrays))
    clipped = clip_controls(given)
    assert clipped.actions[[2, 6]].tolist() == [[-1.0, 0.5, 1.0], [1.0, 1.0, -1.0]]
    assert clipped.provenance["actions_clipped"] == 2
    said = "2 of 13 actions are outside the action space of Hopper-v4, by up to 2.5; they were clip"
    assert said in clipped.provenance["warnings"][-1]
    after = []
    for action in (given.actions[2], clipped.actions[2]):  # the environment's own verdict
        environment: Any = gymnasium.make("Hopper-v5").unwrapped
        environment.reset(seed=0)
        after.append(environment.step(action)[0])
    np.testing.assert_array_equal(*after)


def test_what_is_within_bounds_or_of_an_environment_that_does_not_clip_is_left(
    tmp_path: Path,
) -> None:
    within = read(npz(tmp_path, rows()))
    assert clip_controls(within) is within
    arrays = rows()
    arrays = {**arrays, "observations": arrays["observations"][:, :3], "actions": np.full(13, 9.0)}
    arrays["next_observations"] = arrays["next_observations"][:, :3]
    pendulum = read(npz(tmp_path, arrays), "Pendulum-v1")
    assert clip_controls(pendulum) is pendulum


def test_discrete_actions_become_one_hot_rows(tmp_path: Path) -> None:
    arrays = rows()
    arrays["actions"] = np.arange(13) % 2
    dataset = read(npz(tmp_path, arrays), "CartPole-v1")
    assert dataset.actions[:3].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert "one-hot rows of 2" in dataset.provenance["actions_converted"]


# --- what is refused ------------------------------------------------------------------------------
def shuffled() -> Arrays:
    order = np.random.default_rng(0).permutation(13)
    return {key: array[order] for key, array in rows().items()}


FEW_SPLITS = {**trajectories(), "terminal": np.zeros(13), "indices": np.array([5])}
REFUSED: dict[str, tuple[Arrays, str]] = {
    "objects": ({**rows(), "actions": np.array([{}] * 13)}, r"'actions' holds Python objects"),
    "text": ({**rows(), "actions": np.array(["a"] * 13)}, r"'actions' has dtype <U1, expected num"),
    "two names": ({**rows(), "obs": rows()["observations"]}, r"both 'observations' and 'obs'"),
    "no rewards": (rows(lacking="rewards"), r"has no rewards; it has 'actions'.*rews, rew: rename"),
    "no ends": (rows(lacking="terminals"), r"has no terminals; .*dones, done: rename"),
    "shuffled": (shuffled(), r"not in the order of time. Sort them"),
    "lengths": ({**rows(), "episode_lengths": np.array([5, 5])}, r"sums up to 10 .* the 13 rows"),
    "padded": (
        {**rows(), "observations": np.zeros((4, 5, 11))},
        r"observations \[4, 5, 11\].*Join",
    ),
    "few starts": ({**rows(), "is_first": np.zeros(3)}, r"is_first \[3\]; expected observations"),
    "short": ({**rows(), "rewards": np.zeros(12)}, r"rewards \[12\].*expected observations"),
    "flags": ({**rows(), "terminals": np.full(13, 2)}, r"'terminals' is 2 in row 0"),
    "few flags": ({**rows(), "terminals": np.zeros(3)}, r"'terminals' has 3 entries; .*\(13\)"),
    "nan": ({**rows(), "rewards": np.full(13, np.nan)}, r"'rewards' has 13 entries that are NaN"),
    "overflow": ({**rows(), "rewards": np.full(13, 1e300)}, r"'rewards' has 13 entries"),
    "splits": ({**trajectories(), "indices": np.array([5, 3])}, r"'indices' goes from 3 to 5"),
    "episodes": (
        FEW_SPLITS,
        r"makes 4 episodes; its ends make 2",
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_content_is_named_with_what_to_do(case: str, tmp_path: Path) -> None:
    arrays, says = REFUSED[case]
    if case == "few flags":
        arrays = {key: array for key, array in arrays.items() if key != "timeouts"}
    with pytest.raises(DatasetProblem, match=says) as problem:
        read(npz(tmp_path, arrays))
    assert "mine.npz" in str(problem.value)


def test_objects_that_nothing_needs_are_not_read(tmp_path: Path) -> None:
    check_episodes(read(npz(tmp_path, {**rows(), "infos": np.array([{}] * 13)})))


def test_an_array_that_is_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, rows(lacking="rewards"))
    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (MOST_BYTES,)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards.npy", header.getvalue())
    with pytest.raises(DatasetProblem, match=r"but its arrays need"):
        read(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"one line\n", "none of .npz (zip), HDF5 or parquet"),
        (b"", "none of .npz"),
        (None, "No such file"),
    ],
)
def test_another_kind_of_file_is_refused(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetProblem, match=re.escape(says)):
        read(path)


@pytest.mark.parametrize("write", [npz, hdf5, parquet])
def test_a_damaged_file_is_refused(write: Callable[[Path, Arrays], Path], tmp_path: Path) -> None:
    path = write(tmp_path, rows())
    sound = path.read_bytes()
    for cut in (10, len(sound) // 3, len(sound) - 30):
        path.write_bytes(sound[:cut])
        with pytest.raises(DatasetProblem, match=r"mine\.\w+:? (cannot be read|begins|has no)"):
            read(path)
    for at in range(40, len(sound), len(sound) // 20):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
        try:  # a flipped bit may be another number in HDF5, but nothing else than a refusal
            read(path)
        except DatasetProblem:
            continue


def test_parquet_asks_for_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DatasetProblem, match=r"pip install 'obdbench\[parquet\]'"):
        read(tmp_path / "mine.parquet")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"actions": [[0.0] * 3] * 12 + [[0.0] * 2]}, "the lists of 'actions' are empty or differ"),
        ({"rewards": [0.0] * 12 + [None]}, "1 rows of 'rewards' are empty"),
        ({"rewards": ["a"] * 13}, "'rewards' has dtype|holds Python objects"),
        ({"rewards_0": [0.0] * 13}, r"the columns 'rewards', 'rewards_0'; expected 'rewards', or"),
        ({"done_0": [0] * 13, "done_2": [0] * 13}, r"the columns 'done_0', 'done_2'; expected"),
    ],
)
def test_columns_of_parquet_are_checked(change: Any, says: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra obdbench[parquet]")
    from pyarrow import parquet as files

    columns: dict[str, Any] = {key: list(array) for key, array in rows().items()}
    files.write_table(pyarrow.table({**columns, **change}), tmp_path / "mine.parquet")
    with pytest.raises(DatasetProblem, match=says):
        read(tmp_path / "mine.parquet")


# --- public rollouts of expert policies ----------------------------------------------------------
@pytest.mark.skipif(not SHARED.is_dir(), reason="the public rollouts are not on this machine")
@pytest.mark.parametrize(
    ("env_id", "returns", "outside"),
    [("Hopper-v4", 3717, 1389), ("Walker2d-v4", 5383, 1961), ("CartPole-v1", 473, 0)],
)
def test_public_rollouts_are_read_with_their_returns(
    env_id: str, returns: float, outside: int
) -> None:
    path = SHARED / f"expert_rollouts_{env_id}.npz"
    dataset = clip_controls(read(path, env_id))
    check_dataset(dataset)
    assert dataset.episode_returns.mean() == pytest.approx(returns, abs=1)
    assert dataset.provenance.get("actions_clipped", 0) == outside
    if env_id == "CartPole-v1":
        assert (len(dataset), len(dataset.lengths)) == (26964, 57)
        at_limit = dataset.lengths == 500
        assert dataset.truncations.sum() == at_limit.sum() == 15
