"""From an environment id to a gymnasium environment, or to an error that says what to install."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from benchmark.environments.batch import UnknownEnvironment

# Families that gymnasium does not ship, by the start of their ids.
_PACKAGES = {
    "ALE/": "ale-py",
    "Adroit": "gymnasium-robotics",
    "AntMaze": "gymnasium-robotics",
    "Fetch": "gymnasium-robotics",
    "FrankaKitchen": "gymnasium-robotics",
    "HandManipulate": "gymnasium-robotics",
    "HandReach": "gymnasium-robotics",
    "MiniGrid": "minigrid",
    "PointMaze": "gymnasium-robotics",
}
# gymnasium's own families, by the package of their entry points: the extra that installs them.
_EXTRAS = {
    "gymnasium.envs.box2d": "gymnasium[box2d]",
    "gymnasium.envs.mujoco": "gymnasium[mujoco]",
    "gymnasium.envs.phys2d": "gymnasium[jax]",
}


def find_specification(env_id: str) -> EnvSpec:
    """The registered specification of an exact environment id.

    An id without its version is unknown, although gymnasium would take the newest: the environment
    behind a score must not change with the gymnasium that is installed.

    Raises:
        UnknownEnvironment: the id is not registered, or the module in `module:id` is missing.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        _import_registering_module(env_id, module)
    specification = gymnasium.registry.get(name)
    if specification is None:
        raise UnknownEnvironment(_unknown_message(name))
    return specification


def make_environment(specification: EnvSpec) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make` of a specification.

    Made from the specification and not from its id, which gymnasium answers with a deprecation
    warning for v4: scores on D4RL data need v4, so here it is a choice and not an oversight.

    Raises:
        UnknownEnvironment: the environment cannot be made with the packages that are installed.
    """
    try:
        with _deprecated_attributes_unsaid():
            return gymnasium.make(specification)
    except (ImportError, gymnasium.error.Error) as error:
        raise UnknownEnvironment(
            f"Environment {specification.id!r} is registered but cannot be made: {error} "
            f"{_install_hint(specification)}"
        ) from error


@contextlib.contextmanager
def _deprecated_attributes_unsaid() -> Iterator[None]:
    """Gymnasium's HalfCheetah has an attribute that MuJoCo 4 warns of whenever it is made."""
    try:
        import mujoco
    except ImportError:  # other environments do without
        yield
        return
    if not hasattr(mujoco, "get_mju_user_warning"):  # before MuJoCo 3.3
        yield
        return
    before = mujoco.get_mju_user_warning()
    say = before or (lambda message: logging.getLogger(__name__).warning("MuJoCo: %s", message))
    mujoco.set_mju_user_warning(lambda message: None if "deprecated" in message else say(message))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _import_registering_module(env_id: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UnknownEnvironment(
            f"Environment {env_id!r} asks to import {module!r} first, which fails: {error}. "
            "Install the package that provides this module."
        ) from error


def _unknown_message(name: str) -> str:
    near = difflib.get_close_matches(name, list(gymnasium.registry), n=3, cutoff=0.4)
    nearest = f"Nearest registered ids: {', '.join(near)}. " if near else ""
    package = next((p for start, p in _PACKAGES.items() if name.startswith(start)), None)
    install = (
        f"Run `pip install {package}`"
        if package
        else "If it comes from another package, install that package"
    )
    return (
        f"Environment {name!r} is not registered in gymnasium (ids are exact, version included). "
        f"{nearest}{install}, and name it as 'module:{name}' if the package has to be imported."
    )


def _install_hint(specification: EnvSpec) -> str:
    entry_point = str(specification.entry_point)
    extra = next((e for start, e in _EXTRAS.items() if entry_point.startswith(start)), None)
    return f"Run `pip install '{extra}'`." if extra else "Install the packages it needs."
