"""Hopper-v4 has the contacts of MuJoCo before 3.5, held to steps that MuJoCo 3.4.0 made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import gymnasium.envs.mujoco
import mujoco
import numpy as np
import pytest

from benchmark.environments.contacts import FORMER, V4_WITH_MARGINS, adds_margins, contact_rule
from benchmark.environments.lookup import find_specification, make_batched, make_environment

STEPS = json.loads(Path(__file__).with_name("hopper_steps_mujoco_3_4.json").read_text("utf-8"))
NEW = pytest.mark.skipif(not adds_margins(mujoco.__version__), reason="margins do not add yet")


def largest_error(environment: Any, contact: str) -> float:
    """Error of the states after a step from each state with a kind of contact."""
    rows = [row for row in STEPS["steps"] if row["contact"] == contact]
    assert len(rows) > 1
    errors = []
    for row in rows:
        mujoco.mj_resetData(environment.model, environment.data)
        environment.set_state(np.array(row["position"]), np.array(row["velocity"]))
        environment.step(np.array(row["action"]))
        found = np.r_[environment.data.qpos, environment.data.qvel]
        errors.append(np.abs(found - [*row["next_position"], *row["next_velocity"]]).max())
    return float(max(errors))


@pytest.mark.parametrize("contact", ["none", "floor", "self"])
def test_steps_are_those_of_mujoco_3_4(contact: str) -> None:
    environment = make_environment(find_specification("Hopper-v4"))
    environment.reset(seed=0)
    assert largest_error(environment.unwrapped, contact) < 1e-10


@NEW
@pytest.mark.parametrize("contact", ["floor", "self"])
def test_gymnasiums_own_are_not(contact: str) -> None:
    environment = gymnasium.make(gymnasium.registry["Hopper-v4"])
    environment.reset(seed=0)
    assert largest_error(environment.unwrapped, contact) > 1e-3


@NEW
@pytest.mark.parametrize("env_id", V4_WITH_MARGINS)
def test_every_pair_has_the_margin_that_one_geom_has_in_the_file(env_id: str) -> None:
    own: Any = gymnasium.make(gymnasium.registry[env_id]).unwrapped
    (margin,) = set(own.model.geom_margin.tolist())
    model = make_environment(find_specification(env_id)).unwrapped.model  # type: ignore[attr-defined]
    assert margin > 0
    assert set((model.geom_margin[:, None] + model.geom_margin).ravel().tolist()) == {margin}


def test_the_rule_goes_by_the_id() -> None:
    variant = 'gymnasium:Hopper-v4{"max_episode_steps": 5}'
    assert [contact_rule(name) for name in ("Hopper-v4", variant)] == [FORMER, FORMER]
    for other in ("Hopper-v5", "Walker2d-v4", "HalfCheetah-v4", "CartPole-v1", "MyHopper-v4", None):
        assert contact_rule(other) is None


def test_mujoco_adds_margins_since_3_5() -> None:
    assert not any(map(adds_margins, ("2.3.7", "3.4.0", "3.4.0rc1")))
    assert all(map(adds_margins, ("3.5.0", "3.10.0", "4.0.0", "", "unknown")))


@NEW
def test_a_model_of_ones_own_keeps_its_margins(tmp_path: Path) -> None:
    text = (Path(gymnasium.envs.mujoco.__file__).parent / "assets" / "ant.xml").read_text("utf-8")
    assert text.count('margin="0.01" rgba') == 1
    path = tmp_path / "ant.xml"
    path.write_text(text.replace('margin="0.01" rgba', 'margin="0.03" rgba'), "utf-8")
    env_id = f'Ant-v4{{"xml_file": "{path}"}}'
    model = make_environment(find_specification(env_id)).unwrapped.model  # type: ignore[attr-defined]
    assert set(model.geom_margin.tolist()) == {0.03}
    assert contact_rule(env_id) is None


def test_all_of_gymnasiums_v4_with_margins_are_known() -> None:
    """Another one would be made with the contacts of the installed MuJoCo, without a word."""
    found = set()
    for env_id, specification in gymnasium.registry.items():
        known = "gymnasium.envs.mujoco" in str(specification.entry_point) and "-v4" in env_id
        if known and env_id != "Pusher-v4":  # which needs MuJoCo 2
            model = gymnasium.make(specification).unwrapped.model  # type: ignore[attr-defined]
            if model.geom_margin.any():
                found.add(env_id)
    assert found == set(V4_WITH_MARGINS)


def test_other_environments_are_as_gymnasium_makes_them() -> None:
    made = {
        name: make_environment(find_specification(name)).unwrapped.model  # type: ignore[attr-defined]
        for name in ("Hopper-v5", "Walker2d-v4", "HalfCheetah-v4")
    }
    assert {name: set(model.geom_margin.tolist()) for name, model in made.items()} == {
        "Hopper-v5": {0.001}, "Walker2d-v4": {0.0}, "HalfCheetah-v4": {0.0},
    }  # fmt: skip


@NEW
def test_an_id_of_ones_own_keeps_the_contacts_of_the_installed_mujoco() -> None:
    gymnasium.register(
        "OwnHopper-v4", entry_point="gymnasium.envs.mujoco.hopper_v4:HopperEnv", max_episode_steps=9
    )
    try:
        batch: Any = make_batched("OwnHopper-v4", 1)
        assert set(batch._model.geom_margin.tolist()) == {0.001}
        batch.close()
    finally:
        del gymnasium.registry["OwnHopper-v4"]
