"""Clones of authors' repositories, made up: small files in the layouts that they published."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

RESULTS = "results/ICLR"
HOPPER = "brax/distill/hopper/D2/seed0"
BREAKOUT = "minatar/overfit/Breakout-MinAtar/D7/greedy_actFalse/seed1"
IMAGES = "mnist/MNIST/D10/seed0"
POLICY = "baselines/minatar/Breakout-MinAtar/half_width/seed2"
POLICY_WIDTH = 2
GENERATIONS, POPULATION = 30, 4


def _reconstruct_array(*_: Any) -> None:
    """JAX's function of this name; never called."""


class Jax:
    """An array that is pickled as JAX pickles its own."""

    def __init__(self, values: Any, dtype: str = "f4") -> None:
        self.values: NDArray[Any] = np.array(values, dtype=dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_array, (*self.values.__reduce__(), {"weak_type": False})


class EvoState:
    """evosax's state, which holds what it is given."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


def dumps(content: Any, **protocol: int) -> bytes:
    """Pickle an object whose classes are those of JAX and evosax, which are not installed here."""
    homes = {"jax._src.array": _reconstruct_array, "evosax.strategies.open_es": EvoState}
    modules = {}
    for home, value in homes.items():
        for end in range(home.count(".") + 1):
            parent = ".".join(home.split(".")[: end + 1])
            modules.setdefault(parent, ModuleType(parent))
        setattr(modules[home], value.__name__, value)
        value.__module__ = home
    with mock.patch.dict(sys.modules, modules):
        return pickle.dumps(content, **{"protocol": 4, **protocol})


def hades_content(name: str) -> dict[str, Any]:
    """What a file of HaDES holds: a set or a policy, of counted numbers."""
    images, minatar = name == IMAGES, name in (BREAKOUT, POLICY)
    pairs = {HOPPER: 2, BREAKOUT: 7, IMAGES: 10, POLICY: None}[name]
    weights = 401 * POLICY_WIDTH + (POLICY_WIDTH + 1) * (POLICY_WIDTH + 3)
    size = {HOPPER: 2 * (3 + 11), BREAKOUT: 7 * 400, IMAGES: 7840, POLICY: weights}[name]
    environment = {HOPPER: "hopper", IMAGES: "MNIST"}.get(name, "Breakout-MinAtar")
    observations = {HOPPER: 11, IMAGES: 784}.get(name, 400)
    numbers = np.arange(size)
    sigma = Jax(0.5 + numbers) if minatar else Jax(0.03)
    config = {"SEED": int(name[-1]), "OVERFIT": minatar, "OVERFIT_SEED": 420, "LR": 0.005}
    if images:
        config |= {"DATASET": environment}
    else:
        config |= {
            "ENV_NAME": environment, "ENV_PARAMS": {}, "NORMALIZE_OBS": False,
            "CONST_NORMALIZE_OBS": True,
            "OBS_MEAN": Jax(np.arange(observations)), "OBS_VAR": Jax(np.ones(observations)),
        }  # fmt: skip
    if name == POLICY:
        config |= {"WIDTH": POLICY_WIDTH}
    content = {
        "state": EvoState(
            mean=Jax(numbers),
            sigma=sigma,
            best_member=Jax(-numbers),
            best_fitness=Jax(99.0),
            gen_counter=Jax(GENERATIONS, "i4"),
        ),
        "fitness_over_gen": [Jax(float(g)) for g in range(GENERATIONS)],
        "fitness": Jax(np.arange(POPULATION)),
        "config": config,
        "es_config": {"dataset_size": pairs, "popsize": POPULATION, "learn_labels": False},
    }
    if images:
        content["MNIST:train_accuracy"] = Jax(0.9)
    else:
        content["max_fitness_over_gen"] = [Jax(2.0 * g) for g in range(GENERATIONS)]
    return content


def write_hades(folder: Path, name: str = HOPPER, content: Any = None) -> Path:
    """Write a file of HaDES under the name of its folder, and return its path."""
    path = folder / RESULTS / name / "data_final.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dumps(hades_content(name) if content is None else content))
    return path


def ppmo_content(observations: int = 11, actions: int = 3) -> dict[str, Any]:
    """What a file of PPMO holds."""
    return {
        "distiller": {
            "x": torch.arange(4.0 * observations).view(4, observations),
            "y_mean": torch.ones(4, actions),
            "y_logstd": torch.full((1, actions), -5.0),
            "inner_lr": torch.tensor(1.5),
        }
    }


def write_ppmo(folder: Path, content: Any = None, name: str = "ppmo_hopper.ckpt") -> Path:
    """Write a file of PPMO, and return its path."""
    path = folder / name
    torch.save(ppmo_content() if content is None else content, path)
    return path
