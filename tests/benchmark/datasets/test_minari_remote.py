"""Datasets of the Minari project: the local copy as it is, else what minari downloads."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import mujoco
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from minari.data_collector import EpisodeBuffer
from numpy.typing import NDArray

from benchmark.datasets.catalog import build_dataset, dataset_card, load_dataset
from benchmark.datasets.dataset import Dataset, DatasetProblem, ReferenceReturns
from benchmark.datasets.minari_remote import MinariSource
from benchmark.datasets.snapshots import suite_reference
from benchmark.datasets.source import DatasetName, dataset_names
from benchmark.environments.lookup import UnknownEnvironment
from benchmark.environments.rollout import NoTimeLimit, rollout
from benchmark.registry import UnknownName

ID = "mujoco/hopper/medium-v0"
LENGTHS = [3, 5]


def sampled(space: Space[Any], count: int) -> NDArray[Any]:
    space.seed(0)
    return np.stack([space.sample() for _ in range(count)])


def make(
    minari_id: str,
    env_id: str | EnvSpec | None,
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
    specification = gymnasium.spec(env_id) if isinstance(env_id, str) else env_id
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
CARTPOLE_BOUNDS = np.array([4.8, np.inf, 0.41887903, np.inf], np.float32)
CARTPOLE: dict[str, Space[Any]] = {
    "observation_space": Box(-CARTPOLE_BOUNDS, CARTPOLE_BOUNDS),
    "action_space": Discrete(2),
}
SCORES = {"ref_min_score": 10.0, "ref_max_score": 500.0}

names_no_environment = pytest.mark.filterwarnings(
    "ignore:`eval_env` is set to None", "ignore:env_spec is None"
)


def fetch(minari_id: str = ID, **asked: Any) -> Dataset:
    """The dataset, as `obdbench data fetch` brings it with these options."""
    name = DatasetName.parse(f"minari/{minari_id}")
    return build_dataset(name, source=MinariSource(minari_id, **asked))


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


def test_names_are_those_of_the_local_store() -> None:
    make(ID, "Hopper-v5", **HOPPER)
    fetch()
    assert [name for name in dataset_names() if name.startswith("minari/")] == [f"minari/{ID}"]


def test_an_id_without_its_prefix_is_answered_with_it() -> None:
    with pytest.raises(UnknownName, match=f"Perhaps it is 'minari/{ID}'"):
        DatasetName.parse(ID)
    with pytest.raises(UnknownName, match="expected minari/ID with an id and its version"):
        DatasetName.parse("minari/mujoco/hopper/medium")


# --- the environment that the data were collected in ----------------------------------------------
def play(
    env: gymnasium.Env[Any, Any], *, episodes: int = 2, eval_env: Any = None, **more: Any
) -> None:
    """Write random episodes in an environment by minari's own writer, which keeps the wrappers."""
    env.action_space.seed(0)
    buffers = []
    for seed in range(episodes):
        observations, actions, outcomes = [env.reset(seed=seed)[0]], [], []
        while not (outcomes and any(outcomes[-1][1:])):
            actions.append(env.action_space.sample())
            observation, *outcome, _ = env.step(actions[-1])
            observations.append(observation)
            outcomes.append(outcome)
        rewards, *ends = map(np.array, zip(*outcomes, strict=True))
        columns = np.array(observations), np.array(actions), rewards, *ends
        buffers.append(EpisodeBuffer(seed, None, None, *columns))
    minari.create_dataset_from_buffers(
        ID,
        buffers,
        env=env,
        eval_env=eval_env or env,
        algorithm_name="random",
        author="tests",
        author_email="none",
        code_permalink="none",
        description="random actions",
        **more,
    )
    env.close()


WRAPPED: dict[str, Any] = {
    "NormalizeObservation(epsilon=1e-08)": gymnasium.wrappers.NormalizeObservation,
    "RescaleAction(min_action=0.0, max_action=1.0": lambda env: gymnasium.wrappers.RescaleAction(
        env, 0.0, 1.0
    ),
    "ClipReward": lambda env: gymnasium.wrappers.ClipReward(env, -1.0, 1.0),
    "StickyAction": lambda env: gymnasium.wrappers.StickyAction(env, 0.5),
    "NormalizeReward": gymnasium.wrappers.NormalizeReward,
}


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")
@pytest.mark.parametrize("name", WRAPPED)
def test_data_from_under_a_wrapper_are_refused_by_its_name(name: str) -> None:
    play(WRAPPED[name](gymnasium.make("InvertedPendulum-v5")), **SCORES)
    with pytest.raises(UnknownEnvironment) as refused:
        fetch()
    assert f"InvertedPendulum-v5 has other wrappers ({name}" in str(refused.value)
    assert "name that with --environment" in str(refused.value)


def test_wrappers_that_only_record_are_none() -> None:
    made = gymnasium.make("InvertedPendulum-v5", render_mode="rgb_array")
    play(gymnasium.wrappers.RecordEpisodeStatistics(made), **SCORES)
    dataset = fetch()
    assert (dataset.env_id, dataset.provenance["warnings"]) == ("InvertedPendulum-v5", [])


def test_the_environment_that_a_user_registered_with_the_wrapper_can_be_named() -> None:
    wrapper = gymnasium.wrappers.ClipReward.wrapper_spec(min_reward=-1.0, max_reward=1.0)
    gymnasium.register(
        "Clipped-v0",
        entry_point=gymnasium.spec("InvertedPendulum-v5").entry_point,
        additional_wrappers=(wrapper,),
        max_episode_steps=1000,
    )
    try:
        play(WRAPPED["ClipReward"](gymnasium.make("InvertedPendulum-v5")), **SCORES)
        dataset = fetch(environment="Clipped-v0", reference=ReferenceReturns(0.0, 9.0))
    finally:
        del gymnasium.registry["Clipped-v0"]
    assert dataset.env_id == "Clipped-v0"
    (warning,) = dataset.provenance["warnings"]
    assert "ClipReward" in warning and "scored in Clipped-v0, as asked for" in warning


def test_another_time_limit_and_other_arguments_are_honoured() -> None:
    """The limit ends the episodes of a score as it ended those of the data."""
    play(gymnasium.make("Hopper-v5", max_episode_steps=7, reset_noise_scale=0.1), **SCORES)
    dataset = fetch()
    assert dataset.env_id == 'Hopper-v5{"max_episode_steps": 7, "reset_noise_scale": 0.1}'
    assert dataset_card(DatasetName.parse(f"minari/{ID}"))["environment"] == dataset.env_id
    kept = minari.load_dataset(f"obdbench/minari/{ID}-v0").env_spec
    assert (kept.max_episode_steps, kept.kwargs) == (7, {"reset_noise_scale": 0.1})
    stand = np.zeros((1, 2, 3), np.float32)
    seeds = [0, 1]
    played = rollout(dataset.env_id, lambda _: stand, policies=1, episodes=2, seeds=seeds)
    assert played.lengths.tolist() == [[7, 7]]
    for seed, found in zip(seeds, played.returns[0], strict=True):
        env = gymnasium.make("Hopper-v5", reset_noise_scale=0.1)
        env.reset(seed=seed)
        assert found == sum(float(env.step(stand[0, 0])[1]) for _ in range(7))


def test_the_environment_for_evaluation_is_scored_in_and_said() -> None:
    play(
        gymnasium.make("InvertedPendulum-v5", max_episode_steps=5),
        eval_env=gymnasium.make("InvertedPendulum-v5"),
        **SCORES,
    )
    dataset = fetch()
    assert dataset.env_id == "InvertedPendulum-v5"
    (warning,) = dataset.provenance["warnings"]
    assert 'was collected in InvertedPendulum-v5{"max_episode_steps": 5}, to be eval' in warning


@names_no_environment
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("hopper_v5", "hopper_v4"), "has other entry point"),
        (lambda text: text.replace('"Hopper-v5"', '"Hopper-v2"'), "has other|cannot be made"),
        (lambda text: text.replace('"kwargs": {}', '"kwargs": {"nope": 1}'), "arguments.*nope"),
    ],
)
def test_an_environment_that_is_another_here_is_refused(change: Any, message: str) -> None:
    make(ID, None, **HOPPER, **SCORES)
    changed = change(gymnasium.spec("Hopper-v5").to_json())
    minari.load_dataset(ID).storage.update_metadata({"env_spec": changed})
    with pytest.raises(UnknownEnvironment, match=message):
        fetch()


def test_packages_in_another_version_than_the_data_ask_for_are_said() -> None:
    asked = ["gymnasium>=1.0", "mujoco<2", "no-such-package", "numpy >> 1"]
    make(ID, "Hopper-v5", **HOPPER, **SCORES, requirements=asked)
    found = fetch().provenance["warnings"]
    said = [f"{ID} asks for {text!r}, so that" for text in asked[1:]]
    for warning, start in zip(found, said, strict=True):
        assert warning.startswith(start)
    assert found[0].endswith(f"the version here is {mujoco.__version__}.")
    assert found[1].endswith("the version here is none.")


def test_an_environment_without_time_limit_is_refused_before_any_score() -> None:
    make(ID, gymnasium.make("Hopper-v5", max_episode_steps=-1).spec, **HOPPER)
    with pytest.raises(NoTimeLimit, match=r"--environment 'Hopper-v5\{\"max_episode_steps\": 1000"):
        fetch()
    limited = 'Hopper-v5{"max_episode_steps": 9}'
    dataset = fetch(environment=limited, reference=ReferenceReturns(0.0, 1.0))
    assert dataset.env_id == limited


def test_its_own_reference_returns_are_not_taken_to_another_environment() -> None:
    make(ID, "CartPole-v1", **CARTPOLE, **SCORES)
    other = 'CartPole-v1{"max_episode_steps": 200}'
    with pytest.raises(DatasetProblem, match="There are no reference returns for CartPole-v1"):
        fetch(environment=other)
    assert fetch(environment="CartPole-v1").reference.expert == 500.0


def test_episodes_above_the_time_limit_are_refused() -> None:
    make(ID, gymnasium.make("Hopper-v5", max_episode_steps=4).spec, **HOPPER, **SCORES)
    with pytest.raises(DatasetProblem, match=r"up to 5 steps.*\{\"max_episode_steps\": 5\}'"):
        fetch()


PENDULUM = {
    "observation_space": Box(np.float32([-1, -1, -8]), np.float32([1, 1, 8])),
    "action_space": Box(-2, 2, (1,), np.float32),
}


@pytest.mark.parametrize(
    ("env_id", "spaces", "message"),
    [
        (
            "Pendulum-v1",
            {**PENDULUM, "action_space": Box(-1, 1, (1,), np.float32)},
            r"actions of the .* are of Box\(-1.0, 1.0.*Pendulum-v1 are of Box\(-2.0, 2.0",
        ),
        (
            "Pendulum-v1",
            {**PENDULUM, "observation_space": Box(-1, 1, (3,), np.float32)},
            r"observations of the .* are of Box\(-1.0",
        ),
        (
            "Pendulum-v1",
            {**PENDULUM, "observation_space": Box(0, 255, (3,), np.uint8)},
            r"observations of the .* are of Box\(0, 255",
        ),
        ("Hopper-v5", {**HOPPER, "action_space": Discrete(3)}, r"actions of .* are of Discrete"),
        ("CartPole-v1", {**CARTPOLE, "action_space": Discrete(2, start=1)}, r"Discrete\(2, start"),
        (
            "Pendulum-v1",
            {**PENDULUM, "observation_space": Box(-np.inf, np.inf, (3,), np.float32)},
            r"of 10 observations are outside the space of Pendulum-v1.*other units",
        ),
        (
            "Hopper-v5",
            {**HOPPER, "action_space": Box(-np.inf, np.inf, (3,), np.float32)},
            r"of 8 actions are outside the space of Hopper-v5.*expected -1 to 1",
        ),
    ],
)
def test_data_in_other_units_or_spaces_are_refused(
    env_id: str, spaces: dict[str, Space[Any]], message: str
) -> None:
    make(ID, env_id, **spaces, **SCORES)
    with pytest.raises(DatasetProblem, match=message):
        fetch()


# --- reference returns ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "env_id",
    [
        "Acrobot-v1",
        "Ant-v5",
        "CartPole-v1",
        "Humanoid-v5",
        "HumanoidStandup-v5",
        "InvertedDoublePendulum-v5",
        "InvertedPendulum-v5",
        "MountainCarContinuous-v0",
        "Pendulum-v1",
        "Pusher-v5",
        "Reacher-v5",
        "Swimmer-v5",
    ],
)
def test_any_environment_can_be_used_with_references_given(env_id: str) -> None:
    play(gymnasium.make(env_id, max_episode_steps=12), episodes=1)
    with pytest.raises(DatasetProblem, match=r"no reference returns.*--measure-references"):
        fetch()
    dataset = fetch(reference=ReferenceReturns(-1.0, 5.0))
    assert dataset.env_id == f'{env_id}{{"max_episode_steps": 12}}'
    assert (dataset.reference.random, dataset.reference.expert) == (-1.0, 5.0)
    assert dataset.provenance["reference_returns"] == "given"
    assert load_dataset(DatasetName.parse(f"minari/{ID}")).sha256 == dataset.sha256


def test_measured_references_are_random_actions_and_the_best_tenth_of_the_data() -> None:
    specification = gymnasium.make("InvertedPendulum-v5", max_episode_steps=30)
    play(specification, episodes=20)
    dataset = fetch(reference="measured")
    returns = sorted(dataset.episode_returns)
    assert dataset.reference.expert == np.mean(returns[-2:])
    env = gymnasium.make("InvertedPendulum-v5", max_episode_steps=30)
    chance = []
    for seed in range(200):  # the same mean by gymnasium's own means, other draws
        env.reset(seed=seed)
        env.action_space.seed(seed)
        steps, ended = 0, False
        while not ended:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            steps, ended = steps + 1, terminated or truncated
        chance.append(steps - terminated)  # 1 for every step but the last
    error = np.std(chance) * np.sqrt(1 / 200 + 1 / 100)
    assert abs(dataset.reference.random - np.mean(chance)) < 4 * error
    assert "mean of 100 episodes of uniformly random" in dataset.provenance["reference_returns"]
    assert "best 2 of the 20 episodes" in dataset.provenance["reference_returns"]
    assert dataset.reference == fetch(reference="measured").reference


def test_best_episodes_below_chance_are_no_reference() -> None:
    make(ID, "CartPole-v1", **CARTPOLE)
    with pytest.raises(DatasetProblem, match=r"better than chance\. Give --reference-random"):
        fetch(reference="measured")


@pytest.mark.parametrize("scores", [(3.0, 3.0), (5.0, 1.0), (0.0, float("nan"))])
def test_references_that_normalise_nothing_are_refused(scores: tuple[float, float]) -> None:
    make(ID, "Hopper-v5", **HOPPER, ref_min_score=scores[0], ref_max_score=scores[1])
    with pytest.raises(DatasetProblem, match="expected two finite numbers, the expert's above"):
        fetch()


def test_the_command_in_a_message_asks_for_the_same_references(own_folders: Path) -> None:
    make(ID, "CartPole-v1", **CARTPOLE)
    fetch(reference=ReferenceReturns(-1.0, 5.0), environment='CartPole-v1{"max_episode_steps": 9}')
    name = DatasetName.parse(f"minari/{ID}")
    (name.folder / "transitions.safetensors").unlink()
    with pytest.raises(DatasetProblem) as damaged:
        load_dataset(name)
    assert (
        f"`obdbench data fetch minari/{ID} --force --environment "
        "'CartPole-v1{\"max_episode_steps\": 9}' --reference-random -1.0 --reference-expert 5.0`"
    ) in str(damaged.value)


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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("observations", np.zeros((1, 4), np.float32)),  # numpy would take it for every step
        ("observations", np.zeros((6, 1), np.float32)),
        ("rewards", np.zeros(1)),
        ("terminations", np.zeros(1, bool)),
        ("actions", np.int64([0, 1, -1, 0, 1])),  # numpy would take -1 for the last action
        ("actions", np.int64([0, 1, 2, 0, 1])),
        ("actions", np.float32([0, 1, 0.5, 0, 1])),
    ],
)
def test_episodes_that_do_not_fit_are_refused_not_stretched(
    own_folders: Path, key: str, value: NDArray[Any]
) -> None:
    make(ID, "CartPole-v1", **CARTPOLE, **SCORES)
    main = own_folders / "datasets" / ID / "data" / "main_data.hdf5"
    with h5py.File(main, "a") as file:
        del file[f"episode_1/{key}"]
        file[f"episode_1/{key}"] = value
    with pytest.raises(
        DatasetProblem, match=rf"Episode 1 of .* does not fit its \d.*\({key}|\(obs"
    ):
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
