"""TD3+BC (Fujimoto & Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning").

TD3 on the dataset, with a behavioural-cloning term in the actor's loss:

    actor loss = -Q(s, pi(s)) * alpha / mean |Q| + mean (pi(s) - a)^2
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.datasets.dataset import Dataset
from benchmark.seeds import torch_generator
from benchmark.state import load_state, save_state
from benchmark.teachers.recipe import TeacherRecipe, TrainingProgress
from benchmark.teachers.teacher import NetworkTeacher, TeacherProblem


@dataclass(frozen=True)
class TD3BC(TeacherRecipe):
    """TD3+BC; the defaults are the paper's, but for the number of steps.

    Args:
        steps: Gradient steps (the paper: 1,000,000).
        alpha: Weight of the action value against cloning (paper, eq. 5).
        discount: Of future reward.
        target_rate: Polyak rate of the target networks.
        policy_noise: Standard deviation of the target policy's smoothing noise.
        noise_clip: Its bound.
        policy_delay: Critic steps between actor steps.
        width: Of both hidden layers.
        decay_from: Fraction of the steps after which the learning rate falls linearly to zero.
            The paper keeps it constant (1.0) over ten times as many steps; at this length the
            return of the last policy swings by tens of points without it.
    """

    steps: int = 150_000
    batch_size: int = 256
    learning_rate: float = 3e-4
    alpha: float = 2.5
    discount: float = 0.99
    target_rate: float = 0.005
    policy_noise: float = 0.2
    noise_clip: float = 0.5
    policy_delay: int = 2
    width: int = 256
    decay_from: float = 2 / 3

    def train(
        self,
        dataset: Dataset,
        seed: int,
        *,
        state: Path | None = None,
        progress: TrainingProgress | None = None,
        evaluate: Callable[[NetworkTeacher], float] | None = None,
        device: str = "cpu",
    ) -> NetworkTeacher:
        """Trains from the start, or from `state` if that file is there."""
        learner = _Learner(self, dataset, seed, device)
        step = learner.restore(state) if state is not None and state.exists() else 0
        while step < self.steps:
            learner.set_learning_rate(self.learning_rate * self._decay(step))
            learner.step(actor=step % self.policy_delay == 0)
            step += 1
            if step % self.report_every == 0 or step == self.steps:
                if progress:
                    score = evaluate(learner.teacher(step)) if evaluate else None
                    progress(step, self.steps, learner.losses(), score)
                if state is not None:
                    learner.save(state, step)
        return learner.teacher(step)

    def _decay(self, step: int) -> float:
        """Factor of the learning rate at a step."""
        left = 1 - step / self.steps
        return min(1.0, left / max(1 - self.decay_from, 1e-12))


class _Critics(nn.Module):
    """Two Q networks advanced as one batch of products."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        pair = [_mlp(inputs, width, 1) for _ in range(2)]
        linear = [[m for m in net if isinstance(m, nn.Linear)] for net in pair]
        self.weights = nn.ParameterList(
            torch.stack([layer.weight.detach() for layer in layers])
            for layers in zip(*linear, strict=True)
        )
        self.biases = nn.ParameterList(
            torch.stack([layer.bias.detach() for layer in layers])
            for layers in zip(*linear, strict=True)
        )

    def forward(self, observations: Tensor, actions: Tensor, count: int = 2) -> Tensor:
        """Values `[count, B]` of the first `count` critics."""
        hidden = torch.cat((observations, actions), dim=1).expand(count, -1, -1)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias[:count].unsqueeze(1), hidden, weight[:count].mT)
            if index + 1 < len(self.weights):
                hidden = hidden.relu()
        return hidden[..., 0]


class _Learner:
    """The networks, their targets, optimisers and the dataset as tensors."""

    def __init__(self, recipe: TD3BC, dataset: Dataset, seed: int, device: str) -> None:
        if (largest := np.abs(dataset.actions).max()) > 1 + 1e-6:
            raise TeacherProblem(
                f"{dataset.name} has actions up to {largest:.3g}; TD3+BC here learns actions in "
                f"[-1, 1]. Rescale them when the dataset is made."
            )
        self.recipe, self.dataset, self.seed = recipe, dataset, seed
        self.generator = torch_generator(
            teacher="td3_bc", dataset=dataset.name, seed=seed, purpose="training"
        )
        observations = torch.from_numpy(dataset.observations).to(device)
        self.mean, self.std = observations.mean(0), observations.std(0, correction=0) + 1e-3
        self.observations = (observations - self.mean) / self.std
        self.next = (torch.from_numpy(dataset.next_observations).to(device) - self.mean) / self.std
        self.actions = torch.from_numpy(dataset.actions).to(device)
        self.rewards = torch.from_numpy(dataset.rewards).to(device)
        self.continues = 1 - torch.from_numpy(dataset.terminations).to(device).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.generator.initial_seed())
            self.actor = _mlp(dataset.observation_dim, recipe.width, dataset.action_dim).to(device)
            self.critics = _Critics(dataset.observation_dim + dataset.action_dim, recipe.width).to(
                device
            )
        self.target_actor, self.target_critics = map(copy.deepcopy, (self.actor, self.critics))
        self.actor_optimizer, self.critic_optimizer = (
            torch.optim.Adam(network.parameters(), recipe.learning_rate, fused=True)
            for network in (self.actor, self.critics)
        )
        self.critic_loss = self.actor_loss = torch.zeros(())

    def set_learning_rate(self, rate: float) -> None:
        """Of both optimisers, from the next step on."""
        for optimizer in (self.actor_optimizer, self.critic_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def step(self, actor: bool) -> None:
        """One critic step, and one of actor and targets if `actor`; nothing waits for a device."""
        recipe = self.recipe
        batch = torch.randint(len(self.actions), (recipe.batch_size,), generator=self.generator).to(
            self.actions.device
        )
        noise = torch.randn(recipe.batch_size, self.actions.shape[1], generator=self.generator)
        observations, actions = self.observations[batch], self.actions[batch]
        with torch.no_grad():
            noise = (noise.to(actions.device) * recipe.policy_noise).clamp_(
                -recipe.noise_clip, recipe.noise_clip
            )
            following = (self.target_actor(self.next[batch]).tanh() + noise).clamp_(-1, 1)
            value = self.target_critics(self.next[batch], following).amin(0)
            target = self.rewards[batch] + recipe.discount * self.continues[batch] * value
        self.critic_loss = (self.critics(observations, actions) - target).square().mean(1).sum()
        self.critic_optimizer.zero_grad()
        self.critic_loss.backward()  # type: ignore[no-untyped-call]
        self.critic_optimizer.step()
        if actor:
            self._actor_step(observations, actions)

    def _actor_step(self, observations: Tensor, actions: Tensor) -> None:
        policy = self.actor(observations).tanh()
        self.critics.requires_grad_(False)
        value = self.critics(observations, policy, count=1)[0]
        scale = self.recipe.alpha / value.abs().mean().detach()
        self.actor_loss = (policy - actions).square().mean() - scale * value.mean()
        self.actor_optimizer.zero_grad()
        self.actor_loss.backward()  # type: ignore[no-untyped-call]
        self.actor_optimizer.step()
        self.critics.requires_grad_(True)
        with torch.no_grad():
            for target, source in (
                (self.target_actor, self.actor),
                (self.target_critics, self.critics),
            ):
                torch._foreach_lerp_(
                    list(target.parameters()), list(source.parameters()), self.recipe.target_rate
                )

    def losses(self) -> dict[str, float]:
        return {"critic": self.critic_loss.item(), "actor": self.actor_loss.item()}

    def teacher(self, step: int) -> NetworkTeacher:
        """The teacher as it stands, on the CPU."""
        linear = [layer for layer in self.actor if isinstance(layer, nn.Linear)]
        return NetworkTeacher(
            actor=[
                (m.weight.detach().cpu().clone(), m.bias.detach().cpu().clone()) for m in linear
            ],
            critics=[
                (weight.detach().cpu().clone(), bias.detach().cpu().clone())
                for weight, bias in zip(self.critics.weights, self.critics.biases, strict=True)
            ],
            observation_mean=self.mean.cpu(),
            observation_std=self.std.cpu(),
            action_noise="exploration",
            facts={
                "recipe": "td3_bc",
                "parameters": {**asdict(self.recipe), "steps": step},
                "dataset": self.dataset.name,
                "dataset_sha256": self.dataset.sha256,
                "environment": self.dataset.env_id,
                "seed": self.seed,
            },
        )

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "actor": self.actor,
            "critics": self.critics,
            "target_actor": self.target_actor,
            "target_critics": self.target_critics,
        }

    def save(self, path: Path, step: int) -> None:
        """Everything that the next step depends on."""
        tensors = {
            f"{name}/{key}": value
            for name, module in self._modules().items()
            for key, value in module.state_dict().items()
        }
        for name, optimizer in (
            ("actor", self.actor_optimizer),
            ("critics", self.critic_optimizer),
        ):
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}_optimizer/{index}/{k}": v for k, v in slots.items()}
        tensors["generator"] = self.generator.get_state()
        save_state(path, tensors, {"step": step})

    def restore(self, path: Path) -> int:
        """Returns the step that the state was saved at."""
        tensors, facts = load_state(path)
        for name, module in self._modules().items():
            module.load_state_dict(_under(tensors, name))
        for name, optimizer in (
            ("actor", self.actor_optimizer),
            ("critics", self.critic_optimizer),
        ):
            slots = _under(tensors, f"{name}_optimizer")
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in slots.items():
                index, slot = key.split("/")
                state.setdefault(int(index), {})[slot] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.generator.set_state(tensors["generator"])
        return int(facts["step"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{prefix}/")}


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )
