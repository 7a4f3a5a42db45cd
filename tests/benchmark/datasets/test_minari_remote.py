"""Datasets of the Minari project: the local copy as it is, else what minari downloads."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from minari.data_collector import EpisodeBuffer
from numpy.typing import NDArray

from benchmark.datasets.catalog import build_dataset, dataset_card, load_dataset
from benchmark.datasets.dataset import Dataset, DatasetProblem
from benchmark.datasets.snapshots import suite_reference
from benchmark.datasets.source import DatasetName, dataset_names
from benchmark.environments.lookup import UnknownEnvironment
from benchmark.registry import UnknownName

ID = "mujoco/hopper/medium-v0"
LENGTHS = [3, 5]


def sampled(space: Space[Any], count: int) -> NDArray[Any]:
    space.seed(0)
    return np.stack([space.sample() for _ in range(count)])


def make(
    minari_id: str,
    env_id: str | None,
    *,
    observation_space: Space[Any],
    action_space: Space[Any],
    marked: bool = True,
    **more: Any,
) -> list[EpisodeBuffer]:
    """A Minari dataset of two episodes in the local store, the first terminated; its episodes."""
    episodes = []
    for index, length in enumerate(LENGTHS):
        ends = np.zeros((2, length), dtype=bool)
        ends[index, -1] = marked
        states = sampled(observation_space, length + 1)
        if isinstance(observation_space, Dict):
            states = {"seen": np.stack([state["seen"] for state in states])}
        episodes.append(
            EpisodeBuffer(
                id=index,
                observations=states,
                actions=sampled(action_space, length),
                rewards=np.arange(length, dtype=np.float64) / 3,
                terminations=ends[0],
                truncations=ends[1],
            )
        )
    specification = env_id and gymnasium.spec(env_id)
    minari.create_dataset_from_buffers(
        minari_id,
        episodes,
        env=specification,
        eval_env=specification,
        observation_space=observation_space,
        action_space=action_space,
        algorithm_name="random",
        author="tests",
        author_email="none",
        code_permalink="none",
        description="made up",
        **more,
    )
    return episodes


HOPPER: dict[str, Space[Any]] = {
    "observation_space": Box(-1, 1, (11,), np.float64),
    "action_space": Box(-1, 1, (3,), np.float32),
}
CARTPOLE: dict[str, Space[Any]] = {
    "observation_space": Box(-1, 1, (4,), np.float32),
    "action_space": Discrete(2),
}
SCORES = {"ref_min_score": 10.0, "ref_max_score": 500.0}

names_no_environment = pytest.mark.filterwarnings(
    "ignore:`eval_env` is set to None", "ignore:env_spec is None"
)


def fetch(minari_id: str = ID) -> Dataset:
    return build_dataset(DatasetName.parse(f"minari/{minari_id}"))


@pytest.fixture(autouse=True)
def offline(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store, and a test that asks for the network fails."""
    monkeypatch.setattr(minari, "download_dataset", lambda *_: pytest.fail("asked for a download"))


# --- what is there -------------------------------------------------------------------------------
def test_a_dataset_of_the_local_store_needs_no_network() -> None:
    episodes = make(ID, "Hopper-v5", **HOPPER, **SCORES)
    dataset = fetch()

    assert (dataset.name, dataset.env_id) == (f"minari/{ID}", "Hopper-v5")
    assert dataset.lengths.tolist() == LENGTHS
    states = np.concatenate([episode.observations for episode in episodes])
    np.testing.assert_array_equal(dataset.states, states.astype(np.float32), strict=True)
    for key in ("actions", "rewards", "terminations", "truncations"):
        expected = np.concatenate([getattr(episode, key) for episode in episodes])
        found = dataset.arrays()[key]
        np.testing.assert_array_equal(found, expected.astype(found.dtype))
    assert (dataset.reference.random, dataset.reference.expert) == (10.0, 500.0)
    assert load_dataset(DatasetName.parse(f"minari/{ID}")).sha256 == dataset.sha256


def test_discrete_actions_are_one_hot_here_and_integers_in_minari() -> None:
    episodes = make("classic/cartpole-v0", "CartPole-v1", **CARTPOLE, **SCORES)
    dataset = fetch("classic/cartpole-v0")

    taken = np.concatenate([episode.actions for episode in episodes])
    assert set(taken) == {0, 1}
    np.testing.assert_array_equal(dataset.actions, np.eye(2, dtype=np.float32)[taken], strict=True)
    loaded = load_dataset(DatasetName.parse("minari/classic/cartpole-v0"))
    np.testing.assert_array_equal(loaded.actions, dataset.actions)
    kept = minari.load_dataset("obdbench/minari/classic/cartpole-v0-v0")
    assert kept.action_space == Discrete(2)
    np.testing.assert_array_equal(np.concatenate([e.actions for e in kept]), taken)


def test_reference_returns_are_its_own_or_the_suites_or_asked_for() -> None:
    make("own/hopper-v0", "Hopper-v5", **HOPPER, **SCORES)
    assert fetch("own/hopper-v0").provenance["reference_returns"] == "the dataset's own"

    make("none/hopper-v0", "Hopper-v5", **HOPPER)
    dataset = fetch("none/hopper-v0")
    assert dataset.reference == suite_reference("Hopper-v5")
    assert dataset.provenance["reference_returns"] == "the suite's own"

    make("none/cartpole-v0", "CartPole-v1", **CARTPOLE)
    with pytest.raises(DatasetProblem, match=r"no reference returns for CartPole-v1.*Hopper-v5"):
        fetch("none/cartpole-v0")


@names_no_environment
def test_a_variant_of_the_environment_is_reported() -> None:
    specification = gymnasium.make("Hopper-v5", reset_noise_scale=0.1).spec
    make(ID, None, **HOPPER)
    metadata = minari.load_dataset(ID).storage
    metadata.update_metadata({"env_spec": specification.to_json()})
    dataset = fetch()
    (warning,) = dataset.provenance["warnings"]
    assert "collected in Hopper-v5 with {'reset_noise_scale': 0.1}" in warning
    assert dataset_card(DatasetName.parse(f"minari/{ID}"))["provenance"]["warnings"] == [warning]


def test_names_are_those_of_the_local_store() -> None:
    make(ID, "Hopper-v5", **HOPPER)
    fetch()
    assert [name for name in dataset_names() if name.startswith("minari/")] == [f"minari/{ID}"]


def test_an_id_without_its_prefix_is_answered_with_it() -> None:
    with pytest.raises(UnknownName, match=f"Perhaps it is 'minari/{ID}'"):
        DatasetName.parse(ID)
    with pytest.raises(UnknownName, match="expected minari/ID with an id and its version"):
        DatasetName.parse("minari/mujoco/hopper/medium")


# --- what is not there ---------------------------------------------------------------------------
def test_what_is_not_there_is_downloaded_by_minari(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(ID, "Hopper-v5", **HOPPER)
    here, there = own_folders / "datasets" / ID, own_folders / "remote"
    shutil.move(here, there)

    def download(minari_id: str) -> None:
        print("Downloading", minari_id)
        shutil.copytree(there, here)

    monkeypatch.setattr(minari, "download_dataset", download)
    assert len(fetch()) == sum(LENGTHS)
    assert capsys.readouterr() == ("", f"Downloading {ID}\n"), "results alone go to stdout"


def test_no_way_to_the_remote_says_so_and_leaves_nothing(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = own_folders / "datasets" / ID

    def download(minari_id: str) -> None:
        (here / "data").mkdir(parents=True)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(DatasetProblem) as error:
        fetch()
    message = str(error.value)
    assert f"{ID} is not in the local Minari store ({here})" in message
    assert "ConnectionError: no route to host" in message
    assert "pip install 'minari[hf]'" in message
    assert not here.exists()


def test_minari_without_its_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # minari's own download, which fails before it asks the network for anything
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "minari.storage.remotes.huggingface", raising=False)
    with pytest.raises(DatasetProblem, match=r"ImportError: huggingface_hub is not installed"):
        fetch("nobody/has-v0")


# --- bad input -----------------------------------------------------------------------------------
@names_no_environment
def test_an_environment_that_is_not_installed_says_what_to_install() -> None:
    specification = gymnasium.spec("Hopper-v5")
    make(ID, None, **HOPPER)
    foreign = specification.to_json().replace("Hopper-v5", "AntMaze_UMaze-v4")
    minari.load_dataset(ID).storage.update_metadata({"env_spec": foreign})
    with pytest.raises(UnknownEnvironment, match="pip install gymnasium-robotics"):
        fetch()


def test_data_of_another_environment_are_refused() -> None:
    make(ID, "Walker2d-v5", **HOPPER, **SCORES)
    with pytest.raises(DatasetProblem, match=r"has 11 observation and 3 action .* has 17 and 6"):
        fetch()


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        (
            {**HOPPER, "observation_space": Dict({"seen": Box(-1, 1, (11,))})},
            r"has observations Dict\(.*only distils flat Box observations",
        ),
        (
            {**HOPPER, "observation_space": Box(-1, 1, (11, 1))},
            r"has observations Box\(.*only distils flat Box observations",
        ),
        (
            {**HOPPER, "action_space": MultiBinary(3)},
            r"has actions MultiBinary\(3\).*only distils flat Box and Discrete actions",
        ),
    ],
)
def test_spaces_that_the_suite_cannot_serve_are_named(
    spaces: dict[str, Space[Any]], message: str
) -> None:
    make(ID, "Hopper-v5", **spaces, **SCORES)
    with pytest.raises(DatasetProblem, match=message):
        fetch()


@names_no_environment
def test_data_without_environment_are_refused() -> None:
    make(ID, None, **HOPPER)
    with pytest.raises(DatasetProblem, match="names no environment"):
        fetch()


def test_episodes_without_end_are_refused() -> None:
    make(ID, "Hopper-v5", marked=False, **HOPPER, **SCORES)
    with pytest.raises(DatasetProblem, match=r"2 episodes are without end, the first at transit"):
        fetch()


def test_damage_is_named(own_folders: Path) -> None:
    make(ID, "Hopper-v5", **HOPPER, **SCORES)
    main = own_folders / "datasets" / ID / "data" / "main_data.hdf5"
    with h5py.File(main, "a") as file:
        file["episode_1/observations"].resize((4, 11))
    with pytest.raises(DatasetProblem, match=r"Episode 1 of .* does not fit its 5 rewards"):
        fetch()
    with h5py.File(main, "a") as file:
        del file["episode_1"]
    with pytest.raises(DatasetProblem, match=r"cannot be read .*delete its folder and fetch it"):
        fetch()
    main.unlink()
    with pytest.raises(DatasetProblem, match=r"cannot be opened .*Delete that folder"):
        fetch()
