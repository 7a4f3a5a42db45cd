"""Synthetic sets to train on, and policies that any gymnasium loop can use."""

from __future__ import annotations

import html
import math
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import ArrayLike, NDArray

from benchmark.config import plain
from benchmark.datasets.d4rl_facts import d4rl_environment, d4rl_names, d4rl_reference
from benchmark.datasets.dataset import DatasetProblem, ReferenceReturns
from benchmark.datasets.own import ScriptedMixture
from benchmark.datasets.snapshots import suite_reference
from benchmark.datasets.source import DATASETS
from benchmark.environments.batch import highest
from benchmark.environments.contacts import contact_rule
from benchmark.environments.lookup import (
    UnknownEnvironment,
    action_space,
    find_specification,
    make_environment,
    variant_id,
)
from benchmark.errors import ObdBenchError, short
from benchmark.scaling import Scaling
from benchmark.students.spec import StudentSpec, build_student
from benchmark.students.student import StudentPolicy, train_on_set
from benchmark.synthetic_set import SyntheticSet


class Acts(typing.Protocol):
    """Anything that gives an action for an observation, in the environment's own units."""

    def predict(self, observation: NDArray[Any]) -> Any:
        """The action for one observation `[obs_dim]`."""
        ...


@dataclass(frozen=True)
class TrainedPolicy:
    """A student that was trained on a synthetic set, with its deterministic action.

    Args:
        student: One trained student.
        environment: Gymnasium id of the environment that the set was distilled for.
        space: Action space of that environment.
    """

    student: StudentPolicy = field(repr=False)
    environment: str
    space: gymnasium.Space[Any]

    def predict(self, observation: ArrayLike) -> Any:
        """The action for an observation, in the environment's own units.

        Args:
            observation: One, `[obs_dim]`, or a batch, `[N, obs_dim]`.

        Returns:
            `[act_dim]` or `[N, act_dim]` float32; for a Discrete space an integer, or `[N]`.

        Raises:
            ObdBenchError: The observation has another shape or is not an array of numbers, or an
                action is not a number: the training diverged, or the observation has none.
        """
        try:
            observations = np.asarray(observation, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ObdBenchError(
                f"predict got a {type(observation).__name__} that is not an array of numbers; "
                f"expected an observation, as {self.environment} gives them (reset and step give "
                f"others next to it)."
            ) from error
        dim = self.student.scaling.mean.shape[0]
        if observations.ndim not in (1, 2) or observations.shape[-1] != dim:
            raise ObdBenchError(
                f"predict got an observation of shape {list(observations.shape)}; expected "
                f"[{dim}] or [N, {dim}], as {self.environment} gives them."
            )
        actions = self.student(observations.reshape(1, -1, dim))[0]
        if undefined := int(np.isnan(actions).any(-1).sum()):
            raise ObdBenchError(
                f"The actions for {undefined} of {len(actions)} observations are not numbers. "
                f"Either an observation has none itself, or is huge, or the training diverged: "
                f"train with a lower learning rate or fewer steps."
            )
        chosen = highest(actions, self.space) if isinstance(self.space, Discrete) else actions
        return chosen[0] if observations.ndim == 1 else chosen


@dataclass(frozen=True)
class DistilledSet:
    """A synthetic set with all that is needed to train a policy on it.

    Args:
        pairs: The set.
        scaling: What students' inputs and outputs are scaled with.
        student: What is trained on it, and for how many steps.
        card: Where the set comes from: run, spec, environment, sha256 of the data.
    """

    pairs: SyntheticSet
    scaling: Scaling
    student: StudentSpec
    card: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def observations(self) -> NDArray[np.float32]:
        """Observations in the environment's units `[N, obs_dim]`."""
        return self.pairs.observations.numpy()

    @property
    def actions(self) -> NDArray[np.float32]:
        """Actions in the environment's units `[N, act_dim]`; scores where actions are discrete."""
        return self.pairs.actions.numpy()

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """Weights of the pairs' losses `[N]`, 0 or more; None where all weigh the same."""
        return None if self.pairs.weights is None else self.pairs.weights.numpy()

    @property
    def environment(self) -> str:
        """Gymnasium id of the environment that the set was distilled for."""
        return str(self.card["environment"])

    def train(
        self,
        steps: int | None = None,
        seed: int = 0,
        student: StudentSpec | Mapping[str, Any] | None = None,
    ) -> TrainedPolicy:
        """Train one policy on the set, from scratch.

        Args:
            steps: Gradient steps on the whole set; the student's own number by default.
            seed: Seed of the initial parameters and the action noise.
            student: Another student than the one that the set was scored with: a specification, or
                the settings by name in which it differs from that one.

        Raises:
            ObdBenchError: There are fewer than 1 step, a number is not an integer, a setting of the
                student is unknown, or its head is not made for the environment's actions.
        """
        if steps is not None:
            steps = _integer("train got steps", steps, 1)
        seed = _integer("train got seed", seed)
        spec = self.student if student is None else student
        if not isinstance(spec, StudentSpec):
            spec = build_student(spec, "the student of train", self.student)
        space = action_space(self.environment)
        spec.check_space(space, self.environment)
        generator = torch.Generator().manual_seed(seed)
        trained = train_on_set(spec, self.pairs, self.scaling, [generator], steps)
        return TrainedPolicy(trained, self.environment, space)

    def __repr__(self) -> str:
        return f"DistilledSet({len(self)} pairs for {self.environment}, of {self.card['run_id']})"

    def _repr_html_(self) -> str:
        return html_rows(
            {
                "synthetic set": f"{len(self)} pairs for {self.environment}",
                "run": self.card["run_id"],
            }
        )


@dataclass(frozen=True)
class Evaluation:
    """Episodes that a policy played.

    Args:
        returns: Undiscounted return of each episode `[episodes]`; nan where an action was nan.
        lengths: Environment steps of each episode `[episodes]`.
        normalized: Normalized return of each episode (0 the random policy, 100 the expert); None
            where the suite has no reference returns of the environment.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    normalized: NDArray[np.float64] | None

    def __repr__(self) -> str:
        return "Evaluation(" + ", ".join(f"{k}: {v}" for k, v in self._rows().items()) + ")"

    def _rows(self) -> dict[str, str]:
        rows = {"episodes": str(len(self.returns)), "mean return": f"{self.returns.mean():.1f}"}
        if self.normalized is not None:
            rows["mean normalized return"] = f"{self.normalized.mean():.1f}"
        return rows

    def _repr_html_(self) -> str:
        return html_rows(self._rows())


def evaluate(
    policy: Acts,
    env: str | gymnasium.Env[Any, Any],
    episodes: int = 10,
    seed: int = 0,
    reference: ReferenceReturns | None = None,
) -> Evaluation:
    """Play episodes with a policy.

    Args:
        policy: Anything with `predict(observation)`.
        env: A gymnasium id, or an environment, which is left open. One of gymnasium's own v4 with
            margins, such as Hopper-v4, has other contacts than the suite makes by that id.
        episodes: How many, one after the other.
        seed: Seed of the first episode's reset; the next episode has the next seed.
        reference: Returns that count as 0 and 100; those that the suite knows by default.

    Raises:
        ObdBenchError: There is less than 1 episode, no environment has that id, or an argument is
            of another kind.
    """
    episodes = _integer("evaluate got episodes", episodes, 1)
    seed = _integer("evaluate got seed", seed, 0)
    if not hasattr(policy, "predict"):
        raise ObdBenchError(
            f"evaluate got a {type(policy).__name__}; expected a policy with predict(observation), "
            f"such as the train() of a distilled set gives."
        )
    if isinstance(env, gymnasium.vector.VectorEnv) or not (
        isinstance(env, str) or hasattr(env, "step")
    ):
        raise ObdBenchError(
            f"evaluate got env={short(env)}; expected the id of a gymnasium environment, or one "
            f"such environment."
        )
    if not isinstance(reference, ReferenceReturns | None):
        raise ObdBenchError(
            f"evaluate got reference={short(reference)}; expected obdbench.ReferenceReturns(random,"
            f" expert)."
        )
    made = make_environment(find_specification(env)) if isinstance(env, str) else env
    try:
        played = [_episode(policy, made, seed + number) for number in range(episodes)]
    finally:
        if isinstance(env, str):
            made.close()
    returns = np.array([total for total, _ in played])
    if reference is None and made.spec is not None:
        with suppress(UnknownEnvironment):  # a wrapped one: its returns are others
            if isinstance(env, str) or contact_rule(made.spec.id) is None:
                reference = known_reference(variant_id(made.spec))
    normalized = None if reference is None else np.asarray(reference.normalise(returns))
    return Evaluation(returns, np.array([length for _, length in played]), normalized)


def known_reference(environment: str) -> ReferenceReturns | None:
    """Returns of the random policy and the expert in an environment, where the suite has them.

    Those of datasets that others registered count only where the suite has none of its own.
    """
    for name in d4rl_names():
        if d4rl_environment(name) == environment:
            return d4rl_reference(name)
    broken = DATASETS.broken()  # entries of others may not load
    scripted = [
        (DATASETS.origin(name) == "obdbench", source.reference)
        for name in DATASETS
        if name not in broken
        and isinstance(source := DATASETS[name], ScriptedMixture)
        and source.env_id == environment
    ]
    for own, reference in scripted:
        if own:
            return reference
    with suppress(DatasetProblem):
        return suite_reference(environment)
    return scripted[0][1] if scripted else None


def _integer(what: str, value: object, least: int = -(2**63)) -> int:
    """An integer of Python, NumPy or torch as Python's, as torch's and gymnasium's seeds must be.

    Raises:
        ObdBenchError: It is something else, less than `least`, or beyond 64 bits.
    """
    number = plain(value)
    if type(number) is not int or not least <= number < 2**64:
        expected = f"{least} or more, an integer" if least >= 0 else "an integer of 64 bits"
        raise ObdBenchError(f"{what}={short(value)}; expected {expected}.")
    return number


def html_rows(rows: Mapping[str, str]) -> str:
    """A small table for notebooks: a name and a value in each row."""
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _has_nan(action: object) -> bool:
    if not isinstance(action, np.ndarray | np.floating | float):
        return False
    numbers = np.asarray(action)
    return numbers.dtype.kind == "f" and bool(np.isnan(numbers).any())


def _episode(policy: Acts, env: gymnasium.Env[Any, Any], seed: int) -> tuple[float, int]:
    """Return and length of one episode; no return where an action is nan, as in `rollout`."""
    observation, _ = env.reset(seed=seed)
    total, length, ended = 0.0, 0, False
    while not ended:
        action = policy.predict(observation)
        if _has_nan(action):
            total = math.nan  # some environments play on
        observation, reward, terminated, truncated, _ = env.step(action)
        total, length, ended = total + float(reward), length + 1, terminated or truncated
    return total, length
