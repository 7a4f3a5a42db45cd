"""Environments stepped as a batch: the fast path for MuJoCo, gymnasium for everything else."""

from benchmark.environments.batch import (
    BatchedEnvironment,
    StepResult,
    UnknownEnvironment,
    UnsupportedSpace,
    action_space,
    make_batched,
)
from benchmark.environments.discrete import highest, one_hot
from benchmark.environments.rollout import Episodes, NoTimeLimit, rollout

__all__ = [
    "BatchedEnvironment",
    "Episodes",
    "NoTimeLimit",
    "StepResult",
    "UnknownEnvironment",
    "UnsupportedSpace",
    "action_space",
    "highest",
    "make_batched",
    "one_hot",
    "rollout",
]
