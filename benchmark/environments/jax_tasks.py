"""The environments of HaDES's paper in JAX: eight of Brax, four of gymnax's MinAtar.

They come with the extra `jax`. JAX steps and draws initial states; policies stay in torch.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

BRAX = {
    "ant": 8, "halfcheetah": 6, "hopper": 3, "humanoid": 17, "humanoidstandup": 17,
    "inverted_double_pendulum": 1, "reacher": 2, "walker2d": 6,
}  # fmt: skip
"""Numbers in an action, each in [-1, 1]."""
MINATAR = {
    "asterix": ("Asterix-MinAtar", 5),
    "breakout": ("Breakout-MinAtar", 3),
    "freeway": ("Freeway-MinAtar", 3),
    "space_invaders": ("SpaceInvaders-MinAtar", 4),
}
"""gymnax's names, and the sizes of its minimal action sets."""
VERSIONS = {"brax": "0.14", "gymnax": "1"}
"""The versions that the suite knows: another one may step otherwise."""
INSTALL = "Run `pip install 'obdbench[jax]'`, or `make jax` in a checkout."
_STEPS = {"freeway": 2_500}  # 1,000 for all others
_ENTRY_POINT = "benchmark.environments.jax_batch:JaxEnvironment"


def _specification(env_id: str, steps: int, **arguments: str) -> EnvSpec:
    kwargs = {"task": env_id, **arguments}
    return EnvSpec(env_id, _ENTRY_POINT, max_episode_steps=steps, kwargs=kwargs)


SPECIFICATIONS = {
    specification.id: specification
    for specification in (
        *(_specification(f"brax/{name}", 1_000, backend="positional") for name in BRAX),
        *(_specification(f"minatar/{name}", _STEPS.get(name, 1_000)) for name in MINATAR),
    )
}
"""The environments by id. Time limits are the paper's and gymnax's own; `JaxBatch` keeps them."""


@dataclass(frozen=True)
class JaxTask:
    """One environment as two functions over all slots of a batch, compiled once per size of it.

    Args:
        reset: Function from seeds `[n]` to the first (states, observations).
        step: Function from (states, actions) to (states, observations, rewards, terminated).
        observation_space: Box of one observation, flat.
        action_space: Box of [-1, 1], which Brax's actions are clipped to, or Discrete.
    """

    reset: Callable[[NDArray[np.uint32]], tuple[Any, Any]]
    step: Callable[[Any, NDArray[Any]], tuple[Any, Any, Any, Any]]
    observation_space: Box
    action_space: Space[Any]


def simulated_actions(env_id: str) -> Space[Any]:
    """The action space of one of the environments above, known without JAX."""
    simulator, _, name = env_id.partition("/")
    if simulator == "brax":
        return Box(-1.0, 1.0, (BRAX[name],))
    return Discrete(MINATAR[name][1])


def simulator_packages(env_id: str) -> tuple[str, ...]:
    """The packages that step one of the environments above; none for any other."""
    if env_id.partition("{")[0] not in SPECIFICATIONS:
        return ()
    return ("brax" if env_id.startswith("brax/") else "gymnax", "jax", "jaxlib")


def missing(specification: EnvSpec) -> str | None:
    """A sentence on what has to be installed for an environment; None where it is."""
    package = simulator_packages(specification.id)[0]
    expected = VERSIONS[package]
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"{specification.id} needs {package}, which is not installed. {INSTALL}"
    if f"{found}.".startswith(f"{expected}."):
        return None
    return f"{specification.id} needs {package} {expected}, and {found} is installed. {INSTALL}"


def make_task(task: str, **arguments: Any) -> JaxTask:
    """Make the task of one of the specifications above, or of a variant, from its arguments.

    Raises:
        TypeError, ValueError: The environment takes no such argument.
    """
    if "XLA_FLAGS" not in os.environ:  # before JAX is imported: one thread per process
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    simulator, _, name = task.partition("/")
    return {"brax": _brax, "minatar": _minatar}[simulator](name, json.dumps(arguments))


@cache
def _brax(name: str, arguments: str) -> JaxTask:
    """The task of one Brax environment, made with arguments in JSON."""
    import jax
    from jax import numpy as jnp

    with warnings.catch_warnings():
        for said in ("Brax System", "JAXopt is no longer maintained"):  # always, and known
            warnings.filterwarnings("ignore", said)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it does without Warp
            from brax.envs import get_environment
        environment = get_environment(name, **json.loads(arguments))

    def reset(key: Any) -> tuple[Any, Any]:
        state = environment.reset(key)
        return _settled(state), state.obs

    def step(state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        state = environment.step(state, jnp.clip(action, -1.0, 1.0))
        return _settled(state), state.obs, state.reward, state.done > 0

    dim = jax.eval_shape(reset, jax.random.PRNGKey(0))[1].shape[0]
    observations = Box(float("-inf"), float("inf"), (dim,))
    return _compiled(reset, step, observations, simulated_actions(f"brax/{name}"))


@cache
def _minatar(name: str, arguments: str) -> JaxTask:
    """The task of one MinAtar game of gymnax, made with arguments in JSON.

    Every step draws from a key of its own, which follows from the episode's seed.
    """
    import gymnax
    import jax

    environment, parameters = gymnax.make(MINATAR[name][0], **json.loads(arguments))
    shape = environment.observation_space(parameters).shape

    def reset(key: Any) -> tuple[Any, Any]:
        key, first = jax.random.split(key)
        observation, state = environment.reset_env(first, parameters)
        return _settled((key, state)), observation.ravel()

    def step(state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        key, now = jax.random.split(state[0])
        now = jax.random.split(now)[0]  # as `environment.step`, whose other half is for a reset
        observation, game, reward, terminated, _ = environment.step_env(
            now, state[1], action, parameters
        )
        return _settled((key, game)), observation.ravel(), reward, terminated

    flat = Box(0.0, 1.0, (int(np.prod(shape)),))
    return _compiled(reset, step, flat, simulated_actions(f"minatar/{name}"))


def _compiled(
    reset: Callable[..., Any], step: Callable[..., Any], observations: Box, actions: Space[Any]
) -> JaxTask:
    """The task whose slots are reset, from a key, and stepped by these functions."""
    import jax

    def from_seed(seed: Any) -> Any:
        return reset(jax.random.PRNGKey(seed))

    return JaxTask(jax.jit(jax.vmap(from_seed)), jax.jit(jax.vmap(step)), observations, actions)


def _settled(state: Any) -> Any:
    """A state whose types are the same after a reset and after a step: it is compiled for once."""
    import jax
    from jax import numpy as jnp

    def settle(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return jnp.asarray(leaf, dtype=leaf.dtype)  # no longer "weak", as Python numbers are

    return jax.tree.map(settle, state)
