"""From an environment id to an environment or a batch, or to an error that says what to install."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from benchmark.environments.batch import BatchedEnvironment
from benchmark.environments.contacts import contact_rule, scale_margins
from benchmark.environments.gymnasium_batch import GymnasiumBatch
from benchmark.environments.jax_tasks import SPECIFICATIONS, make_task, missing, simulated_actions
from benchmark.environments.mujoco_tasks import has_task
from benchmark.environments.physics import UNCHANGED, Physics
from benchmark.errors import ObdBenchError

# Families that gymnasium does not ship, by the package that does: the starts of their ids.
_PACKAGES = {
    "ale-py": ("ALE/",),
    "gymnasium-robotics": (
        "Adroit", "AntMaze", "Fetch", "FrankaKitchen", "HandManipulate", "HandReach", "PointMaze",
    ),
    "minigrid": ("MiniGrid",),
}  # fmt: skip
# gymnasium's own families, by the package of their entry points: the extra that installs them.
_EXTRAS = {
    "benchmark.environments.jax_batch": "obdbench[jax]",
    "gymnasium.envs.box2d": "gymnasium[box2d]",
    "gymnasium.envs.mujoco": "gymnasium[mujoco]",
    "gymnasium.envs.phys2d": "gymnasium[jax]",
}


_TIME_LIMIT = "max_episode_steps"
# Wrappers of gymnasium (and stable-baselines3's Monitor) that pass every number on as it is.
_RECORDERS = {
    "HumanRendering", "Monitor", "RecordEpisodeStatistics", "RecordVideo", "RenderCollection",
}  # fmt: skip


class UnknownEnvironment(ObdBenchError):
    """The environment id is not registered, or what it needs is not installed."""


def find_specification(env_id: str) -> EnvSpec:
    """Find the specification of an exact environment id, or of a variant of it.

    An id without its version is unknown, although gymnasium would take the newest: the environment
    behind a score must not change with the gymnasium that is installed. A variant is the id with
    what differs as JSON: `Hopper-v5{"max_episode_steps": 500, "reset_noise_scale": 0.1}` has
    another time limit and another constructor argument.

    Raises:
        UnknownEnvironment: The id is not registered, the module in `module:id` is missing, or what
            follows the id is not JSON.
    """
    plain, brace, rest = env_id.partition("{")
    specification = _registered(plain)
    if not brace:
        return specification
    try:
        arguments = json.loads(brace + rest, parse_constant=_constant)
    except ValueError as error:
        raise UnknownEnvironment(
            f"What follows the id in {env_id!r} is not JSON ({error}); expected arguments such as "
            f'{plain}{{"{_TIME_LIMIT}": 500}}.'
        ) from error
    limit = arguments.pop(_TIME_LIMIT, specification.max_episode_steps)
    if not (limit is None or (type(limit) is int and limit > 0)):
        raise UnknownEnvironment(
            f"{_TIME_LIMIT} in {env_id!r} is {limit!r}; expected a positive whole number."
        )
    return replace(
        specification, max_episode_steps=limit, kwargs={**specification.kwargs, **arguments}
    )


def _constant(text: str) -> float:
    """Infinity, as in Hopper's `healthy_z_range`; NaN, which no argument can mean, is refused."""
    if text == "NaN":
        raise ValueError("NaN is not a number")
    return float(text)


def variant_id(specification: EnvSpec) -> str:
    """The id of a specification: the registered one's, or a variant's (see `find_specification`).

    What changes no number of an episode is left out: the render mode, wrappers that only record,
    the reward threshold.

    Raises:
        UnknownEnvironment: The id is not registered here, or what is registered under it differs by
            more than a time limit and constructor arguments.
    """
    registered = _registered(specification.id)
    given, known = _arguments(specification), _arguments(registered)
    for what, found, expected in (
        ("wrappers", _wrappers(specification), _wrappers(registered)),
        ("entry point", specification.entry_point, registered.entry_point),
        ("arguments left out", sorted(known.keys() - given.keys()), []),
    ):
        if found != expected:
            raise UnknownEnvironment(
                f"{specification.id} has other {what} ({_listed(found)}) than the environment that "
                f"is registered here under this id ({_listed(expected)})."
            )
    differing = {key: given[key] for key in given if given[key] != known.get(key, ...)}
    if specification.max_episode_steps != registered.max_episode_steps:
        differing[_TIME_LIMIT] = specification.max_episode_steps
    return f"{specification.id}{json.dumps(differing, sort_keys=True) if differing else ''}"


def _arguments(specification: EnvSpec) -> dict[str, Any]:
    """The constructor arguments as JSON gives them, where tuples are lists, but the render mode."""
    arguments: dict[str, Any] = json.loads(json.dumps(specification.kwargs, default=repr))
    arguments.pop("render_mode", None)
    return arguments


def _wrappers(specification: EnvSpec) -> list[str]:
    """Names and arguments of the wrappers around an environment, but those that only record."""
    return [
        f"{wrapper.name}({', '.join(f'{k}={v!r}' for k, v in (wrapper.kwargs or {}).items())})"
        for wrapper in specification.additional_wrappers
        if wrapper.name not in _RECORDERS
    ]


def _listed(found: Any) -> str:
    return (", ".join(found) or "none") if isinstance(found, list) else str(found)


def _registered(env_id: str) -> EnvSpec:
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UnknownEnvironment(
                f"Environment {env_id!r} asks to import {module!r} first, which fails: {error}. "
                "Install the package that provides this module."
            ) from error
    specification = gymnasium.registry.get(name, SPECIFICATIONS.get(name))
    if specification is None:
        raise UnknownEnvironment(_unknown_message(name))
    return specification


def check_stored_id(env_id: str, file: Path | str) -> str:
    """Check an environment id that was read from a file, and give it back.

    Files come from others. None decides which code is imported, nor what an environment opens.

    Args:
        env_id: Id as it was read.
        file: Where, for the message.

    Raises:
        UnknownEnvironment: The id would import a module that is not loaded, or names a file.
    """
    plain, _, arguments = env_id.partition("{")
    module = plain.rpartition(":")[0]
    if module and module not in sys.modules:
        raise UnknownEnvironment(
            f"{file} names the environment {env_id!r}, which would import {module!r}; a file "
            f"imports nothing. If you trust it, load that module yourself: write `import {module}` "
            f"into a .py file and give that with --plugin."
        )
    if "/" in arguments or "\\" in arguments:
        raise UnknownEnvironment(
            f"{file} names the environment {env_id!r}, which would read a file of this machine. "
            f"Register it under an id of its own, in a plug-in."
        )
    return env_id


def make_environment(specification: EnvSpec) -> gymnasium.Env[Any, Any]:
    """Make an environment from its specification.

    Not from its id, which gymnasium answers with a deprecation warning for v4: scores on D4RL data
    need v4, so here it is a choice and not an oversight. Its contacts are those that D4RL's data
    and public policies know (`benchmark.environments.contacts`), whatever MuJoCo is installed.

    Raises:
        UnknownEnvironment: The environment cannot be made with the packages that are installed, or
            with its arguments.
    """
    _require_simulator(specification)
    try:
        with _without_deprecation_warnings():
            environment = gymnasium.make(specification)
    except (TypeError, ValueError) as error:
        raise UnknownEnvironment(
            f"Environment {specification.id!r} cannot be made with the arguments "
            f"{specification.kwargs}: {error}. Give those that its constructor takes."
        ) from error
    except (ImportError, gymnasium.error.Error) as error:
        raise UnknownEnvironment(
            f"Environment {specification.id!r} is registered but cannot be made: {error} "
            f"{_install_hint(specification)}"
        ) from error
    if contact_rule(specification.id) and "xml_file" not in specification.kwargs:
        scale_margins(environment, 0.5)
    return environment


def make_batched(
    env_id: str, size: int, threads: int = 1, physics: Physics = UNCHANGED
) -> BatchedEnvironment:
    """Make a batch of `size` slots of a registered environment.

    HalfCheetah, Hopper and Walker2d (v4 and v5, default constructor arguments) are stepped in
    MuJoCo directly; any other environment through gymnasium.

    Args:
        env_id: Exact gymnasium id, version included, or `module:id` to import `module` first.
        size: Number of slots.
        threads: Threads that step the MuJoCo slots. Other environments are stepped on the calling
            thread, because gymnasium promises no thread safety.
        physics: Changed physics, only for environments that are stepped in MuJoCo directly; the
            batch has a model of its own.

    Raises:
        UnknownEnvironment: The id is not registered, its dependencies are not installed, or its
            physics cannot be changed.
        UnsupportedSpace: Observations are not a Box, or actions neither a bounded 1-D Box nor
            Discrete.
        ValueError: `size` or `threads` is below one.
    """
    for name, value in (("size", size), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1.")
    specification = find_specification(env_id)
    if physics != UNCHANGED and not has_task(specification):
        raise UnknownEnvironment(
            f"The physics of {env_id!r} cannot be changed to {physics}: only those of HalfCheetah, "
            f"Hopper and Walker2d (v4 and v5, default arguments) can."
        )
    if specification.id in SPECIFICATIONS:
        return _make_jax(specification, size)
    if has_task(specification):
        reference = make_environment(specification)
        physics.apply(reference.unwrapped)
        # Imported here: MuJoCo is slow to import, and finding a specification does not need it.
        from benchmark.environments.mujoco_batch import MujocoBatch

        return MujocoBatch(reference, size, threads)
    return GymnasiumBatch(partial(make_environment, specification), size)


def _require_simulator(specification: EnvSpec) -> None:
    if specification.id in SPECIFICATIONS and (lacking := missing(specification)) is not None:
        raise UnknownEnvironment(lacking)


def _make_jax(specification: EnvSpec, size: int) -> BatchedEnvironment:
    _require_simulator(specification)
    try:
        with _without_deprecation_warnings():
            task = make_task(**specification.kwargs)
    except (TypeError, ValueError) as error:
        raise UnknownEnvironment(
            f"{specification.id} cannot be made with the arguments {specification.kwargs}: {error}."
        ) from error
    from benchmark.environments.jax_batch import JaxBatch  # imports JAX, which is a choice

    return JaxBatch(specification, task, size)


def action_space(env_id: str) -> gymnasium.Space[Any]:
    """The action space of an environment: a bounded Box or a Discrete; raises as `make_batched`.

    JAX is not needed for it, so that a plan of runs is made without.
    """
    if (known := find_specification(env_id).id) in SPECIFICATIONS:
        return simulated_actions(known)
    with contextlib.closing(make_batched(env_id, 1)) as environment:
        return environment.action_space


@contextlib.contextmanager
def _without_deprecation_warnings() -> Iterator[None]:
    """Silence what MuJoCo 4 says of an attribute of HalfCheetah's model whenever it is made."""
    try:
        from mujoco import get_mju_user_warning, set_mju_user_warning
    except (
        ImportError
    ):  # before MuJoCo 3.3; or without MuJoCo, which other environments do not need
        yield
        return
    before = get_mju_user_warning()
    say = before or (lambda message: logging.getLogger(__name__).warning("MuJoCo: %s", message))
    set_mju_user_warning(lambda message: None if "deprecated" in message else say(message))
    try:
        yield
    finally:
        set_mju_user_warning(before)


def _unknown_message(name: str) -> str:
    near = difflib.get_close_matches(name, [*gymnasium.registry, *SPECIFICATIONS], n=3, cutoff=0.4)
    nearest = f"Nearest registered ids: {', '.join(near)}. " if near else ""
    package = next((p for p, starts in _PACKAGES.items() if name.startswith(starts)), None)
    install = (
        f"Run `pip install {package}`"
        if package
        else "If it comes from another package, install that package"
    )
    return (
        f"Environment {name!r} is not registered in gymnasium (ids are exact, version included). "
        f"{nearest}{install}, and name it as 'module:{name}' if the package has to be imported."
    )


def successor(specification: EnvSpec) -> str:
    """What to name in place of gymnasium's v2 and v3 of MuJoCo's tasks, or "" for other ids.

    They need mujoco-py, which gymnasium no longer runs: where their class was is a function that
    raises. A user's own environment under such an id is not meant.
    """
    task, _, version = specification.id.rpartition("-")
    later = gymnasium.registry.get(f"{task}-v4")
    if (
        version not in ("v2", "v3")
        or getattr(specification.entry_point, "__module__", "") != "gymnasium.envs"
        or later is None
        or not str(later.entry_point).startswith("gymnasium.envs.mujoco.")
    ):
        return ""
    return f"It needs mujoco-py, which gymnasium no longer runs. Name {later.id} instead."


def _install_hint(specification: EnvSpec) -> str:
    if later := successor(specification):
        return later
    entry_point = str(specification.entry_point)
    extra = next((e for start, e in _EXTRAS.items() if entry_point.startswith(start)), None)
    return f"Run `pip install '{extra}'`." if extra else "Install the packages it needs."
