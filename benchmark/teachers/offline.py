"""The common part of the offline RL recipes: the loop, its state, data as tensors, networks.

The algorithm itself is in the recipe's file: which networks there are, and what one gradient step
does.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from benchmark.datasets.dataset import Dataset
from benchmark.environments.lookup import action_space
from benchmark.scaling import Scaling
from benchmark.seeds import torch_generator
from benchmark.state import load_state, save_state
from benchmark.teachers.teacher import (
    ActionNoise,
    Layers,
    NetworkTeacher,
    TeacherProblem,
    TeacherRecipe,
    TrainingProgress,
)

Draws = dict[str, Tensor]
"""The random numbers of one gradient step, by name."""


Initialisation = Literal["uniform", "orthogonal"]
"""Initial weights: torch's own, uniform; or orthogonal with gain sqrt(2), biases zero."""

Optimised = dict[str, tuple[list[nn.Parameter], float]]
"""The parameters that each optimiser advances, with its learning rate, by the loss's name."""


class Transitions(NamedTuple):
    """B transitions of a dataset, scaled for the networks."""

    observations: Tensor  # normalised [B, obs_dim]
    actions: Tensor  # in the unit box [B, act_dim]
    rewards: Tensor  # [B]
    continues: Tensor  # 0 where the episode terminated, so that nothing is bootstrapped; else 1 [B]
    next_observations: Tensor  # normalised [B, obs_dim]


FRACTIONS = ("discount", "target_rate", "decay_from", "expectile")
"""Settings that are at most 1."""


@dataclass(frozen=True)
class OfflineRecipe(TeacherRecipe):
    """Gradient steps on minibatches of a dataset, with target networks.

    Args:
        steps: Gradient steps. The papers take 1,000,000; at this length the return of the last
            policy swings by tens of points unless the learning rate falls at the end.
        batch_size: Transitions per gradient step.
        learning_rate: Adam's learning rate, for every network without a rate of its own.
        discount: Factor of the reward per step into the future.
        target_rate: Polyak rate of the target networks: the fraction of the way to the trained
            network that they move per step.
        width: Units per hidden layer; a network has two, where a recipe says nothing else.
        decay_from: Fraction of the steps after which the learning rates fall linearly to zero;
            1.0 keeps them constant, as the papers do.
    """

    steps: int = 150_000
    batch_size: int = 256
    learning_rate: float = 3e-4
    discount: float = 0.99
    target_rate: float = 0.005
    width: int = 256
    decay_from: float = 2 / 3

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            if isinstance(value, int) and value < 1:  # every whole number is a count
                raise TeacherProblem(
                    f"{field} of the recipe {self.name} is {value}; expected 1 or more."
                )
            most = 1.0 if field in FRACTIONS else math.inf
            if isinstance(value, float) and not 0 <= value <= most:
                raise TeacherProblem(
                    f"{field} of the recipe {self.name} is {value:g}; expected 0 to {most:g}."
                )

    @abstractmethod
    def learner(self, dataset: Dataset, seed: int, device: str) -> Learner:
        """Build the algorithm's training, ready for its first step."""

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
        """Train from the start, or from `state` if that file exists.

        Raises:
            TeacherProblem: The training diverged, or the state is of another training.
        """
        learner = self.learner(dataset, seed, device)
        step = learner.restore(state) if state is not None and state.exists() else 0
        advance = learner.advance if device == "cpu" else CapturedSteps(learner)
        while step < self.steps:
            learner.set_learning_rates(self._decay(step))
            advance(step, learner.draw(step))
            step += 1
            if step % self.report_every == 0 or step == self.steps:
                losses = learner.losses(step)
                if progress:
                    score = evaluate(learner.teacher(step)) if evaluate else None
                    progress(step, self.steps, losses, score)
                if state is not None:
                    learner.save(state, step)
        return learner.teacher(step)

    def _decay(self, step: int) -> float:
        """The factor of the learning rates at a step: 1, then linearly to 0 at the last step."""
        left = 1 - step / self.steps
        return min(1.0, left / max(1 - self.decay_from, 1e-12))


class Learner(nn.Module, ABC):
    """One training of a recipe; its networks are submodules, so `state_dict` holds all of them.

    A step has two parts, so that it can be captured as a CUDA graph: `draw` draws all random
    numbers on the CPU, the same on every device; `advance` has none and never waits for a device.

    Args:
        recipe: The settings; a subclass narrows the type of the attribute to its own recipe.
        dataset: The transitions.
        seed: Seed of initialisation and minibatches.
        device: Torch device of the networks and transitions.
    """

    recipe: OfflineRecipe

    def __init__(
        self, recipe: OfflineRecipe, dataset: Dataset, seed: int, device: str = "cpu"
    ) -> None:
        super().__init__()
        self.dataset, self.seed, self.device = dataset, seed, device
        self.recipe = recipe
        self.scaling = Scaling.of(dataset, action_space(dataset.env_id))
        self._check_actions()
        self.transitions = self._transitions()
        self.generator = torch_generator(
            teacher=recipe.name, dataset=dataset.name, seed=seed, purpose="training"
        )
        # torch's layers draw their initial weights from the global generator only.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.generator.initial_seed())
            optimised = self.build(dataset.observation_dim, dataset.action_dim)
        self.to(device)
        self.optimizers = {
            name: _adam(parameters, rate, device) for name, (parameters, rate) in optimised.items()
        }
        self._rates = {name: rate for name, (_, rate) in optimised.items()}
        self.last_losses: dict[str, Tensor] = {}

    @abstractmethod
    def build(self, observation_dim: int, action_dim: int) -> Optimised:
        """Build the networks."""

    @abstractmethod
    def draw(self, step: int) -> Draws:
        """Draw all random numbers of a step on the CPU, among them `rows [B]`."""

    @abstractmethod
    def advance(self, step: int, draws: Draws) -> None:
        """Do one gradient step of every network."""

    @abstractmethod
    def teacher(self, step: int) -> NetworkTeacher:
        """Copy the current networks to a teacher on the CPU."""

    def scaled_teacher(
        self,
        step: int,
        actor: Layers,
        critics: Layers,
        noise: ActionNoise,
        log_std_scalars: tuple[float, float] = (1.0, -1.0),
    ) -> NetworkTeacher:
        """Build a teacher of these layers that normalises observations as the training does."""
        mean, std, facts = self.scaling.mean, self.scaling.std, self.facts(step)
        return NetworkTeacher(actor, critics, mean, std, noise, facts, *log_std_scalars)

    def phase(self, step: int) -> int:
        """The kind of a step; steps of the same phase launch the same operations."""
        return 0

    def rows(self) -> Tensor:
        """Draw the rows of a minibatch `[B]`, with replacement."""
        size = (self.recipe.batch_size,)
        return torch.randint(len(self.dataset), size, generator=self.generator)

    def noise(self, *shape: int) -> Tensor:
        """Draw standard normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def batch(self, rows: Tensor) -> Transitions:
        """The transitions of these rows `[B]`."""
        return Transitions(*(values[rows] for values in self.transitions))

    def update(self, name: str, loss: Tensor) -> None:
        """Do one step of an optimiser down its loss; only its parameters receive gradients."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward(inputs=optimizer.param_groups[0]["params"])  # type: ignore[no-untyped-call]
        optimizer.step()
        self.last_losses[name] = loss.detach()

    @torch.no_grad()
    def follow(self, target: nn.Module, source: nn.Module) -> None:
        """Move a target network towards its source: target += rate * (source - target)."""
        torch._foreach_lerp_(
            list(target.parameters()), list(source.parameters()), self.recipe.target_rate
        )

    def set_learning_rates(self, factor: float) -> None:
        """Multiply every optimiser's initial learning rate by a factor, from the next step on."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # captured graphs read it from the device
                    group["lr"].fill_(self._rates[name] * factor)
                else:
                    group["lr"] = self._rates[name] * factor

    def losses(self, step: int) -> dict[str, float]:
        """The losses of the last step by name; reading them waits for the device.

        Raises:
            TeacherProblem: A loss is not finite.
        """
        losses = {name: loss.item() for name, loss in self.last_losses.items()}
        if not all(map(math.isfinite, losses.values())):
            raise TeacherProblem(
                f"{self.recipe.name} on {self.dataset.name} diverged before step {step}: its "
                f"losses are {losses}. Lower its learning rate."
            )
        return losses

    def facts(self, step: int) -> dict[str, Any]:
        """The provenance that a teacher of this training carries."""
        return {
            "recipe": self.recipe.name,
            "parameters": {**asdict(self.recipe), "steps": step},
            "dataset": self.dataset.name,
            "dataset_sha256": self.dataset.sha256,
            "environment": self.dataset.env_id,
            "seed": self.seed,
        }

    def save(self, path: Path, step: int) -> None:
        """Write everything that the next step depends on: networks, Adam's slots, generator."""
        tensors = {f"networks/{key}": value for key, value in self.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}/{index}/{key}": value for key, value in slots.items()}
        tensors["generator"] = self.generator.get_state()
        save_state(path, tensors, self.facts(self.recipe.steps) | {"step": step})

    def restore(self, path: Path) -> int:
        """Load a saved state and return the number of steps done.

        Raises:
            TeacherProblem: The state belongs to another training.
        """
        tensors, facts = load_state(path)
        step = int(facts.pop("step"))
        expected = self.facts(self.recipe.steps)
        if differing := [key for key in expected if facts.get(key) != expected[key]]:
            raise TeacherProblem(
                f"{path} is the state of another training: its {differing[0]} is "
                f"{facts.get(differing[0])!r}, here {expected[differing[0]]!r}. Finish that one "
                f"with its own settings, or remove the file to start this one from the beginning."
            )
        self.load_state_dict(_under(tensors, "networks"))
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(tensors, name).items():
                index, slot = key.split("/")
                state.setdefault(int(index), {})[slot] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.generator.set_state(tensors["generator"])
        return step

    def _transitions(self) -> Transitions:
        """Scale the whole dataset once and put it on the device; `batch` takes rows from it."""
        data = self.dataset
        scale = self.scaling
        arrays = (
            scale.observations_in(torch.from_numpy(data.observations)),
            scale.actions_in(torch.from_numpy(data.actions)),
            torch.from_numpy(data.rewards),
            1 - torch.from_numpy(data.terminations).float(),
            scale.observations_in(torch.from_numpy(data.next_observations)),
        )
        return Transitions(*(values.to(self.device) for values in arrays))

    def _check_actions(self) -> None:
        actions = self.scaling.actions_in(torch.from_numpy(self.dataset.actions))
        if (largest := actions.abs().max().item()) > 1 + 1e-5:
            raise TeacherProblem(
                f"{self.dataset.name} has actions up to {largest:.3g} times the bounds of "
                f"{self.dataset.env_id}, which teachers cannot learn. Clip them when the dataset "
                f"is collected."
            )


class CapturedSteps:
    """A learner's steps as CUDA graphs, one per phase: one launch in place of one per operation.

    The first steps run as they are, on a side stream as capture requires; then each phase is
    captured once and replayed with new draws.

    Args:
        learner: The training, on a CUDA device.
    """

    WARM_UP = 4

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.static: dict[int, Draws] = {}
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.done = 0

    def __call__(self, step: int, draws: Draws) -> None:
        """Do one gradient step."""
        phase = self.learner.phase(step)
        if self.done < self.WARM_UP:
            self.done += 1
            with torch.cuda.stream(self.stream):
                self.learner.advance(step, self._moved(draws))
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if phase not in self.graphs:
            self._capture(phase, step, draws)
        for name, values in draws.items():
            self.static[phase][name].copy_(values.pin_memory(), non_blocking=True)
        self.graphs[phase].replay()

    def _capture(self, phase: int, step: int, draws: Draws) -> None:
        """Record the operations of a phase; recording does not run them."""
        self.static[phase] = self._moved(draws)
        self.graphs[phase] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graphs[phase]):
            self.learner.advance(step, self.static[phase])

    def _moved(self, draws: Draws) -> Draws:
        return {name: values.to(self.learner.device) for name, values in draws.items()}


class Critics(nn.Module):
    """Two Q networks of two hidden layers, computed as one batch of products.

    Args:
        inputs: obs_dim + act_dim.
        width: Units per hidden layer.
        initialisation: Initial weights, as in `mlp`.
    """

    def __init__(self, inputs: int, width: int, initialisation: Initialisation = "uniform") -> None:
        super().__init__()
        pair = [mlp(inputs, width, 1, initialisation=initialisation) for _ in range(2)]
        linear = [[m for m in network if isinstance(m, nn.Linear)] for network in pair]
        layers = list(zip(*linear, strict=True))
        self.weights = nn.ParameterList(torch.stack([m.weight.detach() for m in c]) for c in layers)
        self.biases = nn.ParameterList(torch.stack([m.bias.detach() for m in c]) for c in layers)

    def forward(self, observations: Tensor, actions: Tensor, count: int = 2) -> Tensor:
        """Values `[count, B]` of the first `count` critics."""
        # [count, B, obs_dim + act_dim]: both critics read the same inputs, without a copy
        hidden = torch.cat((observations, actions), dim=1).expand(count, -1, -1)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias[:count].unsqueeze(1), hidden, weight[:count].mT)
            if index + 1 < len(self.weights):
                hidden = hidden.relu()
        return hidden[..., 0]

    def layers(self, scale: float = 1.0) -> Layers:
        """Copy weights `[2, out, in]` and biases `[2, out]` to the CPU, for Q times `scale`."""
        layers = [
            (weight.detach().cpu().clone(), bias.detach().cpu().clone())
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        weight, bias = layers[-1]
        return [*layers[:-1], (weight * scale, bias * scale)]


def mlp(
    inputs: int,
    width: int,
    outputs: int,
    hidden_layers: int = 2,
    initialisation: Initialisation = "uniform",
) -> nn.Sequential:
    """A network with hidden ReLU layers of one width."""
    sizes = itertools.pairwise((inputs, *[width] * hidden_layers, outputs))
    linear = [nn.Linear(*size) for size in sizes]
    if initialisation == "orthogonal":
        for layer in linear:
            nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
            nn.init.zeros_(layer.bias)
    modules = [module for layer in linear for module in (layer, nn.ReLU())]
    return nn.Sequential(*modules[:-1])


def layers_of(network: nn.Sequential) -> Layers:
    """Copy weight `[out, in]` and bias `[out]` of every linear layer to the CPU."""
    return [
        (layer.weight.detach().cpu().clone(), layer.bias.detach().cpu().clone())
        for layer in network
        if isinstance(layer, nn.Linear)
    ]


def _adam(parameters: Iterable[nn.Parameter], rate: float, device: str) -> torch.optim.Adam:
    if device == "cpu":
        return torch.optim.Adam(parameters, rate, fused=True)
    # A captured step reads its learning rate from the device.
    lr = torch.tensor(rate, device=device)
    return torch.optim.Adam(parameters, lr, fused=True, capturable=True)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{prefix}/")}
