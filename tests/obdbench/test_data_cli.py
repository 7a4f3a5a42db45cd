"""`obdbench data`: published data, files of one's own, and the suite's own all at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from filelock import FileLock
from minari.data_collector import EpisodeBuffer

import obdbench
from benchmark.datasets import catalog
from benchmark.datasets.catalog import dataset_card, load_dataset
from benchmark.datasets.source import DATASETS, DatasetName
from obdbench.cli import console
from tests.d4rl_files import made_up, write_file
from tests.file_server import FileServer, serve

NAME = "d4rl/hopper-random-v2"
FILE = "hopper_random-v2.hdf5"


@pytest.fixture
def cli(cli: Any) -> Any:
    """Runs `obdbench data ...` in this process, errors and all."""
    return lambda *arguments: cli("data", *arguments)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty dataset store and an empty cache."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """In D4RL's format, 58 transitions of Hopper's dimensions."""
    return write_file(tmp_path / "mine.hdf5", made_up([20, 30, 10], "ton"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, file: Path) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as state:
        state.content = file.read_bytes()
        yield state


# --- fetch ---------------------------------------------------------------------------------------
def test_fetch_brings_a_dataset_that_info_and_list_know(cli: Any, server: FileServer) -> None:
    assert re.search(rf"│ {NAME} .*│ fetch +│", cli("list").out)
    fetched = cli("fetch", NAME, "--mirror", server.url)
    assert fetched.code == 0
    assert f"{NAME}: 58 transitions, sha256 " in fetched.err
    assert server.requests[0]["path"] == f"/{FILE}"

    assert re.search(rf"│ {NAME} +│ 58 .*│ yes ", cli("list").out)
    info = cli("info", NAME).out
    assert re.search(r"^environment +Hopper-v4$", info, re.M)
    assert re.search(r"^transitions +58 in 3 episodes$", info, re.M)
    assert re.search(rf"^url +{server.url}/{FILE}$", info, re.M)
    assert re.search(r"^reference returns  random -20.3, expert 3234.3$", info, re.M)


def test_a_second_fetch_says_that_it_only_checks(cli: Any, server: FileServer) -> None:
    assert "in the store already" not in cli("fetch", NAME, "--mirror", server.url).err
    again = cli("fetch", NAME)
    assert again.code == 0
    assert f"{NAME} is in the store already and is only checked. With --force it is" in again.err
    forced = cli("fetch", NAME, "--mirror", server.url, "--force")
    assert forced.code == 0 and "in the store already" not in forced.err
    other = cli("fetch", NAME, "--mirror", "http://other")
    assert other.code == 1
    assert "is in the store already, so nothing would be fetched from http://other" in other.err
    assert "Give --force to replace it, or leave --mirror out." in other.err


@pytest.mark.parametrize("damaged", ["card.json", "data/main_data.hdf5"])
def test_the_command_in_the_message_mends_a_fetched_dataset(
    cli: Any, server: FileServer, damaged: str
) -> None:
    cli("fetch", NAME, "--mirror", server.url)
    path = DatasetName.parse(NAME).folder / damaged
    path.write_bytes(path.read_bytes()[:-9])
    (command,) = re.findall("`obdbench data (.*?)`", cli("info", NAME).err)
    assert command == f"fetch {NAME} --force"
    assert cli(*command.split()).code == 0
    assert cli("info", NAME).code == 0


def test_the_mirror_may_be_a_setting(
    cli: Any, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBDBENCH_D4RL_MIRROR", f"{server.url}/d4rl")
    assert cli("fetch", NAME).code == 0
    assert server.requests[0]["path"] == f"/d4rl/{FILE}"


def test_a_server_that_refuses_is_one_message(
    cli: Any, server: FileServer, own_folders: Path
) -> None:
    server.plan = [403]
    refused = cli("fetch", NAME, "--mirror", server.url)
    assert refused.code == 1
    assert refused.err.startswith("Error: ")
    assert "403 Forbidden" in refused.err and f"import FILE --as {NAME}" in refused.err
    left = [path for path in own_folders.rglob(f"*{FILE}*") if path.suffix != ".lock"]
    assert left == []
    assert "is not in the local store" in cli("info", NAME).err


# --- Minari --------------------------------------------------------------------------------------
MINARI = "minari/reacher/random-v0"


@pytest.fixture
def reacher() -> None:
    """Ten episodes of Reacher in the local Minari store, without reference returns."""
    env = gymnasium.make("Reacher-v5", max_episode_steps=5)
    env.action_space.seed(0)
    buffers = []
    for seed in range(10):
        observations, rewards = [env.reset(seed=seed)[0]], []
        actions = [env.action_space.sample() for _ in range(5)]
        for action in actions:
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        ends = [False] * 5, [False] * 4 + [True]
        buffers.append(EpisodeBuffer(seed, None, None, observations, actions, rewards, *ends))
    minari.create_dataset_from_buffers(
        MINARI.removeprefix("minari/"),
        buffers,
        env=env,
        eval_env=env,
        algorithm_name="random",
        author="tests",
        author_email="none",
        code_permalink="none",
        description="random actions",
    )


def test_data_without_reference_returns_are_fetched_by_the_options_in_the_message(
    cli: Any, reacher: None
) -> None:
    refused = cli("fetch", MINARI)
    assert refused.code == 1
    for option in ("--reference-random", "--reference-expert", "--measure-references"):
        assert option in refused.err
    given = ("--reference-random", "-9.5", "--reference-expert", "-1")
    assert cli("fetch", MINARI, *given).code == 0
    info = cli("info", MINARI).out
    assert re.search(r'^environment +Reacher-v5\{"max_episode_steps": 5\}$', info, re.M)
    assert re.search(r"^reference returns  random -9.5, expert -1.0$", info, re.M)
    again = cli("fetch", MINARI, "--measure-references")
    assert again.code == 1 and "in the store already. Give --force" in again.err
    assert cli("fetch", MINARI, "--measure-references", "--force").code == 0
    found = re.search(r"^reference returns  measured: (.*)$", cli("info", MINARI).out, re.M)
    assert found is not None
    assert "100 episodes of uniformly random actions in Reacher-v5" in found[1]
    assert "best 1 of the 10 episodes" in found[1]


def test_the_environment_can_be_named(cli: Any, reacher: None) -> None:
    named = ("--environment", "Reacher-v5", "--measure-references")
    fetched = cli("fetch", MINARI, *named)
    assert fetched.code == 0
    assert "Warning: reacher/random-v0 was collected in Reacher-v5{" in fetched.err
    assert load_dataset(DatasetName.parse(MINARI)).env_id == "Reacher-v5"


def test_a_run_on_fetched_data_is_scored_in_its_environment(cli: Any, reacher: None) -> None:
    assert cli("fetch", MINARI, "--measure-references").code == 0
    tiny = obdbench.Protocol("tiny", students=2, episodes=2, checkpoint_every=2, last=2)
    student = {"width": 8, "depth": 2, "steps": 4}
    done = obdbench.run("random", MINARI, protocol=tiny, student=student, synthetic_size=4)
    assert done.record.provenance.environment == 'Reacher-v5{"max_episode_steps": 5}'
    assert done.record.checkpoints[-1].lengths == [[5, 5], [5, 5]]


# --- import --------------------------------------------------------------------------------------
LOCAL = ("--as", "local/mine", "--environment", "Hopper-v4")


def test_a_file_is_taken_in_under_a_name_of_its_own(cli: Any, file: Path) -> None:
    references = ("--reference-random", "1.5", "--reference-expert", "20")
    taken = cli("import", file, *LOCAL, *references)
    assert (taken.code, taken.out) == (0, "")
    dataset = load_dataset(DatasetName.parse("local/mine"))
    assert (len(dataset), dataset.env_id) == (58, "Hopper-v4")
    assert (dataset.reference.random, dataset.reference.expert) == (1.5, 20.0)
    assert dataset.provenance["file"] == "mine.hdf5"
    assert re.search(r"│ local/mine +│ 58 .*│ yes ", cli("list").out)


def test_a_d4rl_file_is_taken_in_as_what_it_is(cli: Any, file: Path) -> None:
    assert cli("import", file, "--as", NAME).code == 0
    card = dataset_card(DatasetName.parse(NAME))
    assert card["environment"] == "Hopper-v4"
    assert card["reference_returns"] == {"random": -20.272305, "expert": 3234.3}


def test_what_is_there_is_replaced_by_force_alone(cli: Any, file: Path) -> None:
    references = ("--reference-random", "0", "--reference-expert", "20")
    assert cli("import", file, *LOCAL, *references).code == 0
    again = cli("import", file, *LOCAL, *references)
    assert again.code == 1
    assert "local/mine is in the store already. Give --force to replace it" in again.err
    assert cli("import", file, *LOCAL, *references, "--force").code == 0


def test_of_two_imports_at_once_the_second_is_refused(
    cli: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_file(file.with_name("other.hdf5"), made_up([7, 8], "tn"))
    references = ("--reference-random", "0", "--reference-expert", "20")

    def while_the_first_imports(path: str) -> FileLock:
        """The second has looked into the store, and waits for the lock of the first."""
        monkeypatch.setattr(catalog, "FileLock", FileLock)
        assert cli("import", other, *LOCAL, *references).code == 0
        return FileLock(path)

    monkeypatch.setattr(catalog, "FileLock", while_the_first_imports)
    second = cli("import", file, *LOCAL, *references)
    assert second.code == 1
    assert "local/mine is in the store already" in second.err
    assert len(load_dataset(DatasetName.parse("local/mine"))) == 14


def test_references_may_be_measured(cli: Any, tmp_path: Path) -> None:
    columns = made_up([20, 30, 10], "ton")
    columns["rewards"] += 1.0  # better than falling at once
    file = write_file(tmp_path / "mine.hdf5", columns)
    variant = 'Hopper-v4{"max_episode_steps": 40}'
    taken = cli(
        "import", file, "--as", "local/mine", "--environment", variant, "--measure-references"
    )
    assert taken.code == 0
    card = dataset_card(DatasetName.parse("local/mine"))
    assert card["environment"] == variant
    assert card["reference_returns"]["expert"] == card["returns"]["max"]
    assert "best 1 of the 3 episodes" in card["provenance"]["reference_returns"]


def test_a_log_of_whole_number_actions_is_taken_and_said_once(cli: Any, tmp_path: Path) -> None:
    arrays = made_up([20, 30, 10], "ton")
    arrays |= {
        "observations": arrays["observations"][:, :4] / 100,
        "actions": np.arange(60)[:, None] % 2,
    }
    path = write_file(tmp_path / "log.hdf5", arrays)
    references = ("--reference-random", "22", "--reference-expert", "500")
    taken = cli("import", path, "--as", "local/c", "--environment", "CartPole-v1", *references)
    said = "Actions were converted: whole numbers 0 to 1 to one-hot rows of 2."
    assert taken.code == 0
    assert taken.err.count(said) == 1
    info = cli("info", "local/c").out
    assert re.search(r"^actions converted  whole numbers 0 to 1 to one-hot rows of 2$", info, re.M)
    dataset = load_dataset(DatasetName.parse("local/c"))
    assert dataset.actions[:2].tolist() == [[1, 0], [0, 1]]


def test_observations_outside_a_bounded_space_are_said_of_a_file_of_ones_own(
    cli: Any, tmp_path: Path
) -> None:
    arrays = made_up([20, 30, 10], "ton")
    arrays |= {"observations": arrays["observations"][:, :4], "actions": np.arange(60)[:, None] % 2}
    path = write_file(tmp_path / "log.hdf5", arrays)
    references = ("--reference-random", "22", "--reference-expert", "500")
    taken = cli("import", path, "--as", "local/far", "--environment", "CartPole-v1", *references)
    assert taken.code == 0
    assert "observations are outside the space of CartPole-v1, the first in row 0" in taken.err
    assert "outside the space" in cli("info", "local/far").out.replace("\n", " ")


def test_references_may_be_the_suites_own(cli: Any, file: Path) -> None:
    taken = cli("import", file, "--as", "local/mine", "--environment", "Hopper-v5")
    assert taken.code == 0
    provenance = dataset_card(DatasetName.parse("local/mine"))["provenance"]
    assert provenance["reference_returns"] == "the suite's own"


def test_what_a_user_should_know_is_said_and_kept(cli: Any, tmp_path: Path) -> None:
    file = write_file(tmp_path / "long.hdf5", made_up([1200, 5], "to"))
    taken = cli("import", file, "--as", NAME)
    assert taken.code == 0
    assert "Warning: 1 episodes of long.hdf5 are longer than the 1000 steps" in taken.err
    assert re.search(r"^warning +1 episodes of long.hdf5", cli("info", NAME).out, re.M)


def test_a_replay_says_how_many_states_after_terminals_it_leaves_out(
    cli: Any, tmp_path: Path
) -> None:
    env, rows = gymnasium.make("CartPole-v1"), []
    for seed in range(3):
        observation, ended = env.reset(seed=seed)[0], False
        while not ended:
            following, reward, ended, *_ = env.step(0)
            rows.append((observation, 0, reward, ended))
            observation = following
    keys = ("observations", "actions", "rewards", "terminals")
    arrays = {
        key: np.array(values) for key, values in zip(keys, zip(*rows, strict=True), strict=True)
    }
    file = tmp_path / "rows.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type]
    replayed = cli("replay", file, "--environment", "CartPole-v1")
    assert replayed.code == 0, replayed.err
    said = "2 not compared, as the file has the next episode's first observation after a terminal"
    assert re.search(rf"^next states +100.0% within .*; {said}$", replayed.out, re.M)


def test_rollouts_are_taken_in_by_one_command_and_replayed(cli: Any, tmp_path: Path) -> None:
    """Real steps of Hopper-v5, with some actions outside its bounds."""
    env = gymnasium.make("Hopper-v5")
    env.action_space.seed(0)
    rollouts: dict[str, list[Any]] = {"obs": [], "acts": [], "rews": [], "terminal": []}
    for seed in range(3):
        rollouts["obs"].append(env.reset(seed=seed)[0])
        ended = False
        while not ended:
            rollouts["acts"].append(1.2 * env.action_space.sample())
            observation, reward, ended, *_ = env.step(rollouts["acts"][-1])
            rollouts["obs"].append(observation)
            rollouts["rews"].append(reward)
            rollouts["terminal"].append(ended)
    file = tmp_path / "rollouts.npz"
    np.savez(file, **{key: np.array(values) for key, values in rollouts.items()})  # type: ignore[arg-type]
    outside = int((np.abs(rollouts["acts"]) > 1).any(1).sum())
    total = len(rollouts["acts"])
    assert 0 < outside < total

    taken = cli("import", file, "--as", "local/mine", "--environment", "Hopper-v5")
    assert taken.code == 0
    said = f"{outside} of {total} actions are outside the action space of Hopper-v5"
    assert taken.err.count(said) == 1
    info = cli("info", "local/mine").out
    assert said in info and re.search(rf"^transitions +{total} in 3 episodes$", info, re.M)

    stored = cli("replay", "local/mine", "--episodes", "3")
    assert stored.code == 0
    assert re.search(rf"^rewards +100.0% within .*; {outside} not compared", stored.out, re.M)
    whole = cli("replay", file, "--environment", "Hopper-v5")
    assert whole.code == 0
    assert re.search(rf"^transitions +{total} replayed, 0 skipped$", whole.out, re.M)
    assert re.search(
        r"^rewards +100.0% within 0.001, largest error \S+ at transition", whole.out, re.M
    )
    assert "not compared" not in whole.out

    other = cli("replay", file, "--environment", "Hopper-v4")
    # v4 pays the healthy reward in the step that ends an episode too, v5 does not; and v4 has other
    # contacts, where MuJoCo adds margins.
    assert other.code == 1 and f"of {total} transitions of {file} do not come back" in other.err
    others = re.search(r"(\d+) of the (\d+) come back where a contact has the sum", other.err)
    assert others is not None and int(others[2]) - int(others[1]) == 3
    assert re.search(
        r"^contacts +larger margin of two geoms, as before MuJoCo 3.5$", other.out, re.M
    )


# --- build --all ---------------------------------------------------------------------------------
def test_build_all_builds_the_suites_own_and_sums_up(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hopper's and CartPole's pass for the suite's own, and all others for somebody else's."""
    origin = DATASETS.origin
    slow = ("halfcheetah/", "walker2d/")  # episodes of a thousand steps
    monkeypatch.setattr(
        DATASETS, "origin", lambda name: "another" if name.startswith(slow) else origin(name)
    )
    first = cli("build", "hopper/medium@40", "--seed", "3")
    assert first.code == 0
    built = cli("build", "--all", "--size", "40")
    assert built.code == 0
    rows = re.findall(r"│ (\S+)@40 +│ 40 +(?:│ +-?[\d,]+\.\d +){4}│", built.out)
    qualities = ("medium", "medium-expert", "medium-replay")
    assert set(rows) == {"cartpole/mixed", *(f"hopper/{quality}" for quality in qualities)}
    assert dataset_card(DatasetName.parse("hopper/medium@40"))["seed"] == 3, "kept as it was"


@pytest.mark.parametrize("content", ["5", '{"name": "local/mine"}', "{"])
def test_a_broken_card_is_a_row_of_the_list(
    cli: Any, file: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = ("--reference-random", "0", "--reference-expert", "20")
    for name in ("local/mine", "local/other"):
        arguments = ("--as", name, "--environment", "Hopper-v4", *references)
        assert cli("import", file, *arguments).code == 0
    (DatasetName.parse("local/mine").folder / "card.json").write_text(content)
    listed = cli("list")
    assert listed.code == 0
    assert re.search(r"│ local/mine +│ .*│ broken +│ \S", listed.out)
    assert re.search(r"│ local/other +│ 58 .*│ yes ", listed.out)
    monkeypatch.setattr(console.out, "width", 80)
    narrow = cli("list").out
    assert re.search(r"│ local/mine +│ .*│ broken +│$", narrow, re.M)
    assert "\nlocal/mine is broken: " in narrow


def test_a_narrow_list_cuts_nothing(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 80)
    listed = cli("list").out
    assert "…" not in listed and max(map(len, listed.splitlines())) <= 80
    assert re.search(r"│ hopper/medium-replay +│ [\d,]+0 +│ ", listed)
    assert "source" not in listed


# --- mistakes ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fetch", "d4rl/hoper-medium-v2"], "Did you mean 'd4rl/hopper-medium-v2'"),
        (["fetch", "hopper-medium-v2"], "Did you mean 'd4rl/hopper-medium-v2'"),
        (["fetch", "mujoco/hopper/medium-v0"], "Perhaps it is 'minari/mujoco/hopper/medium-v0'"),
        (["fetch", "d4rl/hopper-medium-v2@9"], "the size that it was published with"),
        (["fetch", "hopper/medium"], "not fetched. Use `obdbench data build hopper/medium`"),
        (["fetch", "local/mine"], "Use `obdbench data import FILE --as local/mine"),
        (["fetch", "minari/their/set-v0", "--mirror", "http://x"], "--mirror is for D4RL's files"),
        (["fetch", NAME, "--measure-references"], "are for Minari's"),
        (["fetch", NAME, "--environment", "Hopper-v5"], "are for Minari's"),
        (
            ["fetch", MINARI, "--measure-references", "--reference-random", "3"],
            "or only --measure-references",
        ),
        (
            ["fetch", MINARI, "--reference-random=-inf", "--reference-expert", "3"],
            "expected two finite numbers",
        ),
        (["fetch", NAME, "--mirror", "/a/folder"], "expected http:// or https://"),
        (["info", "local/mine"], "Build it with `obdbench data import FILE --as local/mine"),
        (["info", "local/my mine"], "expected local/NAME of letters"),
        (["import", "{file}", "--as", "mine"], "a name that begins with local/, or d4rl/"),
        (
            ["import", "{file}", "--as", "minari/their/set-v0"],
            "a name that begins with local/, or d4rl/",
        ),
        (["import", "{file}", "--as", "local/mine"], "Name it with --environment"),
        (
            ["import", "{file}", "--as", "local/mine", "--environment", "Hoper-v4"],
            "Nearest registered ids: Hopper-v4",
        ),
        (
            ["import", "{file}", "--as", "local/mine", "--environment", "Hopper-v4"],
            "There are no reference returns for Hopper-v4",
        ),
        (
            ["import", "{file}", *LOCAL, "--reference-random", "3"],
            "--reference-random is 3.0 and --reference-expert None; give both",
        ),
        (
            ["import", "{file}", *LOCAL, "--reference-random", "3", "--reference-expert", "3"],
            "with the expert's return above",
        ),
        (
            ["import", "{file}", "--as", NAME, "--environment", "Hopper-v5"],
            "is scored on Hopper-v4 with D4RL's reference returns",
        ),
        (["import", "{file}", "--as", "d4rl/hopper-v2"], "Did you mean"),
        (
            ["import", "{file}", "--as", "d4rl/walker2d-random-v2"],
            "Walker2d-v4 has 17 and 6. Name the environment",
        ),
        (["import", "nowhere.hdf5", "--as", NAME], "nowhere.hdf5 cannot be read as HDF5"),
        (["replay", "{file}"], "Name the environment with --environment"),
        (["replay", "{file}", "--environment", "Walker2d-v4"], "Walker2d-v4 has 17 and 6"),
        (["replay", "local/mine"], "is not in the local store"),
        (["replay", "{file}", "--environment", "Hopper-v4", "--episodes", "9"], "9 were asked for"),
        (["import", "nowhere.npz", *LOCAL, "--measure-references"], "nowhere.npz cannot be read"),
        (["build"], "Give the name of one dataset, or --all"),
        (["build", "hopper/medium", "--all"], "Give the name of one dataset, or --all"),
    ],
)
def test_a_mistake_is_answered_with_one_message_that_helps(
    arguments: list[str], says: str, cli: Any, file: Path
) -> None:
    result = cli(*(argument.format(file=file) for argument in arguments))
    assert result.code == 1
    assert result.err.startswith("Error: ")
    assert says in result.err
    assert result.out == ""


def test_who_builds_data_imports_nothing_that_draws() -> None:
    """`run` takes `build_if_missing` from here, which must not cost seconds."""
    program = (
        "import sys, obdbench.cli.data\n"
        "print([name for name in ('pandas', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
