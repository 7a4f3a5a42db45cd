"""Changed physics: held to a model that MuJoCo compiles from a changed file, and to gymnasium."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.environments.lookup import (
    UnknownEnvironment,
    _without_deprecation_warnings,
    make_batched,
)
from benchmark.environments.mujoco_batch import MujocoBatch
from benchmark.environments.physics import UNCHANGED, Physics
from benchmark.errors import ObdBenchError

ENVIRONMENTS = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"]
CHANGES = [Physics(mass=0.8), Physics(friction=2.0), Physics(mass=1.2, friction=0.5)]
# HalfCheetah's file says its total mass, which MuJoCo 4 still takes.
pytestmark = pytest.mark.filterwarnings("ignore:compiler attribute 'settotalmass':UserWarning")
CASES = list(itertools.product(ENVIRONMENTS, CHANGES))
CONSTANTS = (
    "body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0",
    "geom_friction", "tendon_invweight0", "actuator_acc0", "dof_armature", "dof_damping",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere_and_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # MuJoCo 4 calls an attribute of HalfCheetah's file deprecated, in a log file where it runs.
    monkeypatch.chdir(tmp_path)
    with _without_deprecation_warnings():
        yield


def compiled(env_id: str, physics: Physics) -> Any:
    """The model of other densities and frictions, which MuJoCo compiles from the environment's."""
    with contextlib.closing(gymnasium.make(env_id)) as environment:
        original: Any = environment.unwrapped
        specification = mujoco.MjSpec.from_file(original.fullpath)
    if specification.compiler.settotalmass > 0:  # HalfCheetah's densities count only relatively
        specification.compiler.settotalmass *= physics.mass
    for geom in specification.geoms:
        geom.density *= physics.mass
        geom.friction *= physics.friction
    return specification.compile()


def actions(env_id: str, steps: int) -> NDArray[np.float32]:
    size = 3 if env_id.startswith("Hopper") else 6
    drawn = np.random.default_rng(7).uniform(-1, 1, (steps, size))
    return drawn.astype(np.float32)


def gymnasium_steps(environment: Any, seed: int, taken: NDArray[np.float32]) -> list[Any]:
    environment.reset(seed=seed)
    found = []
    for action in taken:
        observation, reward, terminated, truncated, _ = environment.step(action)
        found.append((observation, reward, terminated))
        if terminated or truncated:
            break
    environment.close()
    return found


def batch_steps(
    env_id: str, physics: Physics, seed: int, taken: NDArray[np.float32], threads: int = 1
) -> list[Any]:
    batch = make_batched(env_id, 2, threads, physics)
    batch.reset([0, 1], [seed, seed + 1])
    found, running = [], np.arange(2)
    for action in taken:
        result = batch.step(running, np.stack([action] * len(running)))
        found.append((result.observations[0], result.rewards[0], result.terminated[0]))
        ended = result.terminated | result.truncated
        if ended[0]:
            break
        running = running[~ended]
    batch.close()
    return found


@pytest.mark.parametrize(("env_id", "physics"), CASES)
def test_the_changed_model_is_the_one_that_mujoco_compiles(env_id: str, physics: Physics) -> None:
    expected = compiled(env_id, physics)
    batch = make_batched(env_id, 1, 1, physics)
    assert isinstance(batch, MujocoBatch)
    for name in CONSTANTS:
        found = getattr(batch._model, name)
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-9, err_msg=name)
    batch.close()


@pytest.mark.parametrize(("env_id", "physics"), CASES)
def test_steps_are_those_of_gymnasium_on_the_compiled_model(env_id: str, physics: Physics) -> None:
    environment, taken = gymnasium.make(env_id), actions(env_id, 25)
    plain: Any = environment.unwrapped
    plain.model = compiled(env_id, physics)
    plain.data = mujoco.MjData(plain.model)
    found = batch_steps(env_id, physics, 3, taken)
    for mine, theirs in zip(found, gymnasium_steps(environment, 3, taken), strict=True):
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(mine[1], theirs[1], rtol=1e-6, atol=1e-6)
    unchanged = batch_steps(env_id, UNCHANGED, 3, taken)
    assert max(np.abs(a[0] - b[0]).max() for a, b in zip(found, unchanged, strict=False)) > 1e-2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("env_id", "physics"), CASES)
def test_steps_are_gymnasiums_to_the_last_bit_on_a_model_that_is_changed_alike(
    env_id: str, physics: Physics, threads: int
) -> None:
    environment: Any = gymnasium.make(env_id)
    model, taken = environment.unwrapped.model, actions(env_id, 300)
    model.body_mass[:] = model.body_mass * physics.mass
    model.body_inertia[:] = model.body_inertia * physics.mass
    model.geom_friction[:] = model.geom_friction * physics.friction
    if physics.mass != 1:
        mujoco.mj_setConst(model, mujoco.MjData(model))
    found = batch_steps(env_id, physics, 3, taken, threads)
    expected = gymnasium_steps(environment, 3, taken)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert np.array_equal(mine[0], theirs[0])
        assert mine[1:] == theirs[1:]


def test_a_changed_model_is_a_copy() -> None:
    taken = actions("Hopper-v5", 20)
    before = batch_steps("Hopper-v5", UNCHANGED, 3, taken)
    changed = make_batched("Hopper-v5", 1, 1, Physics(mass=2.0, friction=0.1))
    after = batch_steps("Hopper-v5", UNCHANGED, 3, taken)
    changed.close()
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_no_model_can_have_is_refused(factor: float) -> None:
    with pytest.raises(ObdBenchError, match=r"factor of friction is .*expected a number above 0"):
        Physics(friction=factor)


def test_other_environments_are_refused_and_keep_their_physics_otherwise() -> None:
    with pytest.raises(UnknownEnvironment, match=r"CartPole-v1.*HalfCheetah, Hopper and Walker2d"):
        make_batched("CartPole-v1", 1, 1, Physics(mass=0.8))
    make_batched("CartPole-v1", 1, 1, UNCHANGED).close()
