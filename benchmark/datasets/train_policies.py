"""The recipe behind the shipped snapshots: one PPO training, snapshots on the way, roles by return.

It needs the extra `obdbench[policies]` (stable-baselines3). Run it again with

    obdbench data train-policies hopper --folder work/hopper

It is not part of the quick start: the result is shipped in `shipped/`.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from safetensors.numpy import save_file

from benchmark.datasets.snapshots import SnapshotPolicies
from benchmark.environments.lookup import action_space, make_batched
from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.files import atomic_path, file_sha256, write_atomic
from benchmark.scaling import action_bounds
from benchmark.seeds import episode_seeds, numpy_generator

LAYERS = ("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net")


@dataclass(frozen=True)
class PolicyRecipe:
    """How one environment's snapshots are made.

    Args:
        environment: Gymnasium id.
        algorithm: A stable-baselines3 algorithm with a Gaussian `MlpPolicy`: "PPO" or "A2C".
        steps: Environment steps of training.
        seed: Seed of the training.
        environments: Copies of the environment that are stepped at once.
        rollout_steps: Steps of each copy between two updates.
        batch_size: Transitions per minibatch (PPO).
        epochs: Passes over the transitions of an update (PPO).
        learning_rate: First learning rate; it falls linearly to zero.
        gamma: Discount of the rewards.
        initial_log_std: Log standard deviation of the untrained policy's actions.
        snapshot_every: Environment steps between snapshots.
        medium_fraction: Return of the medium policy, between the random (0) and the best one (1).
    """

    environment: str
    algorithm: str = "PPO"
    steps: int = 2_000_000
    seed: int = 0
    environments: int = 8
    rollout_steps: int = 256
    batch_size: int = 256
    epochs: int = 10
    learning_rate: float = 3e-4
    gamma: float = 0.99
    initial_log_std: float = -0.5
    snapshot_every: int = 10_240
    medium_fraction: float = 0.4

    @property
    def family(self) -> str:
        """Name of the snapshots: `hopper` for Hopper-v5."""
        return self.environment.partition("-")[0].lower()


RECIPES = {
    "halfcheetah": PolicyRecipe("HalfCheetah-v5"),
    "hopper": PolicyRecipe("Hopper-v5"),
    "walker2d": PolicyRecipe("Walker2d-v5"),
}


def recipe_for(environment: str) -> PolicyRecipe:
    """The recipe of a family (`hopper`), or the same one for any environment by its id (`Ant-v5`).

    Raises:
        ObdBenchError: There is no such recipe or environment, or its actions are not in [-1, 1].
    """
    if environment in RECIPES:
        return RECIPES[environment]
    if "-v" not in environment:
        raise ObdBenchError(
            f"There is no recipe for {environment!r}. {did_you_mean(environment, RECIPES)} Any "
            f"other environment is named by its id, e.g. Ant-v5."
        )
    space = action_space(environment)
    low, high = action_bounds(space)
    if not isinstance(space, Box) or not ((low == -1).all() and (high == 1).all()):
        raise ObdBenchError(
            f"{environment} has actions {space}; the snapshots act in [-1, 1]. Write a controller "
            f"for it instead (docs/adding_a_dataset.md)."
        )
    return PolicyRecipe(environment)


def train(recipe: PolicyRecipe, folder: Path) -> None:
    """Train on normalised observations and rewards; leave one `.npz` per snapshot in `folder`.

    Raises:
        ObdBenchError: stable-baselines3 is not installed, or the recipe's algorithm is unknown.
    """
    try:
        import stable_baselines3
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import VecNormalize
    except ImportError as error:
        raise ObdBenchError(
            "Training data policies needs stable-baselines3: pip install 'obdbench[policies]'."
        ) from error

    own_arguments = {"PPO": {"batch_size": recipe.batch_size, "n_epochs": recipe.epochs}, "A2C": {}}
    if recipe.algorithm not in own_arguments:
        raise ObdBenchError(
            f"The recipe cannot train with {recipe.algorithm!r}. "
            f"{did_you_mean(recipe.algorithm, own_arguments)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    env: Any = VecNormalize(
        make_vec_env(recipe.environment, n_envs=recipe.environments, seed=recipe.seed),
        gamma=recipe.gamma,
    )

    class Snapshots(BaseCallback):
        """Callback that saves policy and normalisation every `snapshot_every` steps."""

        due = 0

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.num_timesteps < self.due:
                return
            self.due += recipe.snapshot_every
            returns = [episode["r"] for episode in self.model.ep_info_buffer or []]
            tensors = {k: v.numpy() for k, v in self.model.policy.state_dict().items()}
            np.savez(
                folder / f"{self.num_timesteps:08d}.npz",
                mean=env.obs_rms.mean,
                var=env.obs_rms.var,
                ret=np.mean(returns) if returns else np.nan,
                **{k: v for k, v in tensors.items() if "value" not in k},
            )
            print(f"{self.num_timesteps} steps, training return {np.mean(returns or [0]):.0f}")

    model = getattr(stable_baselines3, recipe.algorithm)(
        "MlpPolicy",
        env,
        n_steps=recipe.rollout_steps,
        gamma=recipe.gamma,
        learning_rate=lambda remaining: recipe.learning_rate * remaining,
        policy_kwargs={"net_arch": [64, 64], "log_std_init": recipe.initial_log_std},
        seed=recipe.seed,
        device="cpu",
        **own_arguments[recipe.algorithm],
    )
    model.learn(recipe.steps, callback=Snapshots())


def pack(recipe: PolicyRecipe, folder: Path, target: Path, episodes: int = 100) -> None:
    """Evaluate the snapshots, give them their roles and write `target`.safetensors and .json.

    Every snapshot plays 20 episodes with sampled actions. `best` is the highest deterministic
    return among the ten highest; `medium` the first whose sampled return, random policy 0 and
    best 1, reaches `medium_fraction`. Kept are the snapshots up to `medium`, and `best`.

    Args:
        recipe: Recipe of the training.
        folder: Folder of the training's `.npz` files.
        target: Path of the two files, without ending.
        episodes: Episodes of each reference return: uniformly random actions, and the
            deterministic best snapshot.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise ObdBenchError(f"{folder} holds no snapshots (*.npz). Train the policies first.")
    policies = SnapshotPolicies(_stack(paths), {"environment": recipe.environment})
    count = len(paths)
    sampled = evaluate(policies, range(count), 20, sampled=True).mean(1)
    finalists = np.argsort(-sampled)[:10]
    deterministic = evaluate(policies, finalists, 20, sampled=False).mean(1)
    best = int(finalists[deterministic.argmax()])
    random_returns = evaluate(policies, None, episodes, sampled=False)[0]
    expert_returns = evaluate(policies, [best], episodes, sampled=False)[0]
    threshold = random_returns.mean() + recipe.medium_fraction * (
        expert_returns.mean() - random_returns.mean()
    )
    medium = int(np.argmax(sampled >= threshold))

    shipped = [*range(medium + 1), best]
    with atomic_path(target.with_suffix(".safetensors")) as temporary:
        save_file(
            {k: np.ascontiguousarray(v[shipped]) for k, v in policies.tensors.items()}, temporary
        )
    manifest = {
        "environment": recipe.environment,
        "recipe": asdict(recipe),
        "sha256": file_sha256(target.with_suffix(".safetensors")),
        "roles": {"medium": medium, "best": len(shipped) - 1},
        "reference_returns": {
            "random": _summary(random_returns),
            "expert": _summary(expert_returns),
        },
        "snapshots": [
            {"steps": int(paths[i].stem), "sampled_return": round(float(sampled[i]), 2)}
            for i in shipped
        ],
        "packages": {
            name: importlib.metadata.version(name)
            for name in ("stable-baselines3", "torch", "gymnasium", "mujoco", "numpy")
        },
    }
    write_atomic(target.with_suffix(".json"), json.dumps(manifest, indent=1) + "\n")


def evaluate(
    policies: SnapshotPolicies,
    snapshots: Sequence[int] | NDArray[np.int64] | None,
    episodes: int,
    *,
    sampled: bool,
) -> NDArray[np.float64]:
    """Returns `[K, episodes]` of K snapshots, all episodes stepped as one batch.

    Args:
        policies: All snapshots.
        snapshots: Indices of those that play; None for the uniformly random policy (K = 1).
        episodes: Episodes of each, from the same reset seeds.
        sampled: Whether actions are sampled, and not the mean.
    """
    chosen = np.repeat([0] if snapshots is None else np.asarray(snapshots), episodes)
    env = make_batched(policies.env_id, len(chosen), threads=2)
    seeds = episode_seeds(episodes, environment=policies.env_id, purpose="snapshot evaluation")
    generator = numpy_generator(environment=policies.env_id, purpose="snapshot actions")
    observations = env.reset(np.arange(len(chosen)), seeds * (len(chosen) // episodes))
    returns, alive = np.zeros(len(chosen)), np.arange(len(chosen))  # rows still in their episode
    while len(alive):
        if snapshots is None:
            actions = generator.uniform(-1, 1, (len(alive), policies.action_dim)).astype(np.float32)
        else:
            noise = generator.standard_normal((len(alive), policies.action_dim), dtype=np.float32)
            actions = policies.act(chosen[alive], observations[alive], noise if sampled else None)
        result = env.step(alive, actions)
        observations[alive] = result.observations
        returns[alive] += result.rewards
        alive = alive[~(result.terminated | result.truncated)]
    env.close()
    return returns.reshape(-1, episodes)


def _stack(paths: list[Path]) -> dict[str, NDArray[np.float32]]:
    """The tensors of every snapshot `[K, ...]`, named as in `SnapshotPolicies`."""
    loaded = [dict(np.load(path)) for path in paths]
    stacked = {
        f"{kind}_{i}": np.stack([s[f"{layer}.{kind}"] for s in loaded])
        for i, layer in enumerate(LAYERS)
        for kind in ("weight", "bias")
    }
    stacked["log_std"] = np.stack([s["log_std"] for s in loaded])
    stacked["observation_mean"] = np.stack([s["mean"] for s in loaded])
    # VecNormalize divides by sqrt(var + epsilon), epsilon = 1e-8.
    stacked["observation_std"] = np.sqrt(np.stack([s["var"] for s in loaded]) + 1e-8)
    return {name: array.astype(np.float32) for name, array in stacked.items()}


def _summary(returns: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "mean": round(float(returns.mean()), 4),
        "sd": round(float(returns.std(ddof=1)), 4),
        "episodes": len(returns),
    }
