"""The teacher: the near-expert policy and action-value function extracted from a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.files import atomic_path, file_sha256

FORMAT = "obdbench.teacher/1"


Layers = list[tuple[Tensor, Tensor]]
"""Weight and bias of every layer, first to last."""


class TeacherProblem(ObdBenchError):
    """A teacher that is missing, malformed or does not fit its dataset."""


class Teacher(Protocol):
    """A policy and its action value, on raw observations and actions in the unit box [-1, 1]."""

    observation_dim: int
    action_dim: int

    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions `[B, act_dim]` for raw observations `[B, obs_dim]`."""
        ...

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions `[B, act_dim]` drawn from the policy."""
        ...

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Action value `[B]`, in undiscounted reward units per step discounted by the recipe."""
        ...


@dataclass(frozen=True)
class NetworkTeacher:
    """A ReLU actor with tanh actions and one or more ReLU critics, on normalised observations.

    Args:
        actor: `(weight [out, in], bias [out])` of every layer. A Gaussian actor's last layer gives
            means and raw log standard deviations.
        critics: `(weight [C, out, in], bias [C, out])` of every layer, for C critics; `q` is the
            first one's, which is the one the published OBD code weights with.
        observation_mean: Subtracted from observations `[obs_dim]`.
        observation_std: Divides them afterwards `[obs_dim]`.
        action_noise: "gaussian" draws tanh(mean + std * noise) with the actor's own std;
            "additive" tanh(mean) + std * noise, clipped; "exploration" adds clipped N(0, 0.1^2)
            to the deterministic action, as TD3 does.
        facts: What is known of it: recipe, dataset, seed, steps, returns. JSON values.
    """

    actor: Layers = field(repr=False)
    critics: Layers = field(repr=False)
    observation_mean: Tensor = field(repr=False)
    observation_std: Tensor = field(repr=False)
    action_noise: Literal["gaussian", "additive", "exploration"]
    facts: Mapping[str, Any]
    log_std_multiplier: float = 1.0
    log_std_offset: float = -1.0

    EXPLORATION_STD = 0.1

    @property
    def observation_dim(self) -> int:
        return int(self.observation_mean.shape[0])

    @property
    def action_dim(self) -> int:
        outputs = int(self.actor[-1][1].shape[0])
        return outputs if self.action_noise == "exploration" else outputs // 2

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions `[B, act_dim]` for raw observations `[B, obs_dim]`."""
        return self._actor_outputs(observations)[:, : self.action_dim].tanh()

    @torch.no_grad()
    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions `[B, act_dim]` drawn from the policy."""
        outputs = self._actor_outputs(observations)
        mean = outputs[:, : self.action_dim]
        noise = torch.randn(mean.shape, generator=generator)
        if self.action_noise == "exploration":
            return (mean.tanh() + self.EXPLORATION_STD * noise).clamp(-1, 1)
        raw = outputs[:, self.action_dim :]
        log_std = (self.log_std_multiplier * raw + self.log_std_offset).clamp(-20, 2)
        if self.action_noise == "additive":
            return (mean.tanh() + log_std.exp() * noise).clamp(-1, 1)
        return (mean + log_std.exp() * noise).tanh()

    @torch.no_grad()
    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Action value `[B]` of the first critic."""
        hidden = torch.cat((self._normalise(observations), actions), dim=1)
        return _mlp([(weight[0], bias[0]) for weight, bias in self.critics], hidden)[:, 0]

    def _actor_outputs(self, observations: Tensor) -> Tensor:
        return _mlp(self.actor, self._normalise(observations))

    def _normalise(self, observations: Tensor) -> Tensor:
        return (observations - self.observation_mean) / self.observation_std


def _mlp(layers: Layers, hidden: Tensor) -> Tensor:
    for index, (weight, bias) in enumerate(layers):
        hidden = torch.nn.functional.linear(hidden, weight, bias)
        if index + 1 < len(layers):
            hidden = hidden.relu()
    return hidden


def save_teacher(teacher: NetworkTeacher, path: Path) -> None:
    """Writes a teacher as safetensors; its facts travel as JSON in the file's metadata."""
    tensors = {
        "observation_mean": teacher.observation_mean,
        "observation_std": teacher.observation_std,
    }
    for name, layers in (("actor", teacher.actor), ("critics", teacher.critics)):
        for index, (weight, bias) in enumerate(layers):
            tensors[f"{name}.{index}.weight"] = weight.contiguous()
            tensors[f"{name}.{index}.bias"] = bias.contiguous()
    facts = {
        "format": FORMAT,
        "action_noise": teacher.action_noise,
        "log_std_multiplier": teacher.log_std_multiplier,
        "log_std_offset": teacher.log_std_offset,
        "facts": dict(teacher.facts),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"teacher": json.dumps(facts, sort_keys=True)})


def load_teacher(path: Path) -> NetworkTeacher:
    """Reads a teacher file.

    Raises:
        TeacherProblem: The file is missing, not safetensors, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise TeacherProblem(
            f"{path} cannot be read as a teacher ({error}). A teacher is a safetensors file; "
            f"a CORL checkpoint (.pt) is taken in with `obdbench teacher import`."
        ) from error
    try:
        facts = json.loads(metadata["teacher"])
        known = facts["format"] == FORMAT
    except (KeyError, json.JSONDecodeError) as error:
        raise TeacherProblem(f"{path} is a safetensors file but not a teacher: {error}.") from error
    if not known:
        raise TeacherProblem(f"{path} has format {facts['format']!r}, expected {FORMAT!r}.")
    return NetworkTeacher(
        actor=_layers(tensors, "actor"),
        critics=_layers(tensors, "critics"),
        observation_mean=tensors["observation_mean"],
        observation_std=tensors["observation_std"],
        action_noise=facts["action_noise"],
        log_std_multiplier=facts["log_std_multiplier"],
        log_std_offset=facts["log_std_offset"],
        facts={**facts["facts"], "sha256": file_sha256(path)},
    )


def _layers(tensors: dict[str, Tensor], name: str) -> Layers:
    count = sum(key.startswith(f"{name}.") for key in tensors) // 2
    return [(tensors[f"{name}.{i}.weight"], tensors[f"{name}.{i}.bias"]) for i in range(count)]
