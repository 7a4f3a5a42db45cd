"""An environment that cannot be had is an error that says what to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

from benchmark.environments.lookup import (
    UnknownEnvironment,
    find_specification,
    make_batched,
    make_environment,
    variant_id,
)
from benchmark.environments.rollout import require_time_limit


def test_a_typo_names_the_nearest_ids() -> None:
    with pytest.raises(UnknownEnvironment, match="'Hoper-v5' is not registered") as caught:
        make_batched("Hoper-v5", 1)
    assert "Nearest registered ids: Hopper-v5" in str(caught.value)


def test_an_id_without_its_version_is_not_guessed() -> None:
    with pytest.raises(UnknownEnvironment, match="version included"):
        make_batched("Hopper", 1)


def test_a_known_family_names_its_package() -> None:
    with pytest.raises(UnknownEnvironment, match="pip install gymnasium-robotics"):
        make_batched("AntMaze_UMaze-v99", 1)


def test_a_missing_module_is_named() -> None:
    with pytest.raises(UnknownEnvironment, match="import 'no_such_module' first"):
        make_batched("no_such_module:Some-v0", 1)


def test_a_module_prefix_imports_the_module() -> None:
    batch = make_batched("gymnasium:CartPole-v1", 1)
    assert batch.env_id == "CartPole-v1"
    batch.close()


def test_mujoco_py_versions_cannot_be_made() -> None:
    with pytest.raises(UnknownEnvironment, match="'Hopper-v2' is registered but cannot be made"):
        make_batched("Hopper-v2", 1)
    with pytest.raises(UnknownEnvironment, match=r"mujoco-py.* Name Hopper-v4 instead\.$"):
        make_batched("Hopper-v3", 1)


@pytest.mark.parametrize("env_id", ["Hopper-v2", "Hopper-v3", 'Hopper-v3{"max_episode_steps": 9}'])
def test_mujoco_py_versions_are_answered_with_v4_before_their_lack_of_a_limit(env_id: str) -> None:
    with pytest.raises(UnknownEnvironment, match=r"cannot be made\..* Name Hopper-v4 instead\.$"):
        require_time_limit(env_id)


def test_an_environment_of_ones_own_under_such_an_id_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = EnvSpec("Hopper-v3", entry_point=lambda: None, max_episode_steps=9)  # type: ignore[arg-type]
    monkeypatch.setitem(gymnasium.registry, "Hopper-v3", own)
    require_time_limit("Hopper-v3")


@pytest.mark.skipif(importlib.util.find_spec("Box2D") is not None, reason="Box2D is installed")
def test_a_missing_extra_is_named() -> None:
    with pytest.raises(UnknownEnvironment, match=r"pip install 'gymnasium\[box2d\]'"):
        make_batched("LunarLander-v3", 1)


def test_v4_is_made_without_a_deprecation_warning() -> None:
    assert "Hopper-v4" in gymnasium.registry
    make_batched("Hopper-v4", 1).close()


def test_an_unknown_simulated_task_names_those_there_are() -> None:
    with pytest.raises(UnknownEnvironment, match="'brax/hoper' is not registered") as caught:
        make_batched("brax/hoper", 1)
    assert "Nearest registered ids: brax/hopper" in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "installed", "message"),
    [
        ("brax/ant", None, "brax/ant needs brax, which is not installed. Run `pip install 'obd"),
        ("brax/ant", "0.13.0", "brax/ant needs brax 0.14, and 0.13.0 is installed. Run `pip"),
        ("brax/ant", "0.140.2", "needs brax 0.14, and 0.140.2 is installed"),
        ("minatar/freeway", None, "minatar/freeway needs gymnax, which is not installed."),
        ("minatar/freeway", "0.0.9", "needs gymnax 1, and 0.0.9 is installed"),
        ("minatar/freeway", "2.0", "needs gymnax 1, and 2.0 is installed"),
    ],
)
def test_a_missing_simulator_and_one_of_another_version_are_named(
    env_id: str, installed: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UnknownEnvironment, match=re.escape(message)):
        make_batched(env_id, 1)
    with pytest.raises(UnknownEnvironment, match=re.escape(message)):
        make_environment(find_specification(env_id))


def test_simulators_are_named_without_importing_jax() -> None:
    program = (
        "import sys; from benchmark.environments.lookup import action_space, find_specification;"
        "print(find_specification('brax/hopper').max_episode_steps, action_space('brax/ant').shape,"
        "action_space('minatar/freeway').n, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split(maxsplit=4) == ["1000", "(8,)", "3", "False"]


@pytest.mark.parametrize(("size", "threads"), [(0, 1), (1, 0)])
def test_an_empty_batch_is_refused(size: int, threads: int) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        make_batched("Hopper-v5", size, threads)


# --- variants ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_episode_steps": 7},
        {"reset_noise_scale": 0.1, "max_episode_steps": 2000},
        {"healthy_z_range": (0.7, float("inf"))},
    ],
)
def test_the_id_of_a_variant_finds_what_gymnasium_made(arguments: dict[str, Any]) -> None:
    made = gymnasium.make("Hopper-v5", render_mode="rgb_array", **arguments)
    env_id = variant_id(gymnasium.wrappers.RecordEpisodeStatistics(made).spec)
    assert (env_id == "Hopper-v5") == (not arguments)
    found = find_specification(env_id)
    assert variant_id(found) == env_id
    assert found.max_episode_steps == made.spec.max_episode_steps
    expected = {key: made.spec.kwargs[key] for key in made.spec.kwargs if key != "render_mode"}
    assert json.dumps(found.kwargs) == json.dumps(expected)
    assert gymnasium.registry["Hopper-v5"].kwargs == {}, "the registered one stays as it is"


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ('Hopper-v5{"max_episode_steps": 0}', "is 0; expected a positive whole number"),
        ('Hopper-v5{"max_episode_steps": "9"}', "is '9'; expected a positive whole number"),
        ('Hopper-v5{"max_episode', "is not JSON"),
        ('Hopper-v5{"reset_noise_scale": NaN}', r"is not JSON \(NaN is not a number\)"),
        ('Hopper-v5{"noise": 1}', "cannot be made with the arguments {'noise': 1}"),
        ('Hoper-v5{"max_episode_steps": 9}', "Nearest registered ids: Hopper-v5"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(env_id: str, message: str) -> None:
    with pytest.raises(UnknownEnvironment, match=message):
        make_batched(env_id, 1)


def test_an_environment_that_is_registered_otherwise_has_no_id() -> None:
    wrapped = gymnasium.wrappers.NormalizeObservation(gymnasium.make("CartPole-v1"))
    with pytest.raises(UnknownEnvironment, match=r"CartPole-v1 has other wrappers .NormalizeObs"):
        variant_id(wrapped.spec)
    other = replace(gymnasium.spec("CartPole-v1"), entry_point="elsewhere:CartPole")
    with pytest.raises(UnknownEnvironment, match=r"other entry point \(elsewhere:CartPole\)"):
        variant_id(other)
    without = replace(gymnasium.spec("FrozenLake8x8-v1"), kwargs={})
    with pytest.raises(UnknownEnvironment, match=r"other arguments left out \(map_name\)"):
        variant_id(without)
