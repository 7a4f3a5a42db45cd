"""An environment that cannot be had is an error that says what to do."""

from __future__ import annotations

import importlib.util

import gymnasium
import pytest

from benchmark.environments.lookup import UnknownEnvironment, make_batched


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


@pytest.mark.skipif(importlib.util.find_spec("Box2D") is not None, reason="Box2D is installed")
def test_a_missing_extra_is_named() -> None:
    with pytest.raises(UnknownEnvironment, match=r"pip install 'gymnasium\[box2d\]'"):
        make_batched("LunarLander-v3", 1)


def test_v4_is_made_without_a_deprecation_warning() -> None:
    assert "Hopper-v4" in gymnasium.registry
    make_batched("Hopper-v4", 1).close()


@pytest.mark.parametrize(("size", "threads"), [(0, 1), (1, 0)])
def test_an_empty_batch_is_refused(size: int, threads: int) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        make_batched("Hopper-v5", size, threads)
