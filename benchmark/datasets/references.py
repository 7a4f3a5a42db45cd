"""Reference returns of data from elsewhere: given, the data's own, the suite's own, or measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from benchmark.datasets.dataset import (
    AskedReference,
    Dataset,
    DatasetProblem,
    ReferenceReturns,
)
from benchmark.datasets.snapshots import suite_reference
from benchmark.environments.lookup import action_space
from benchmark.environments.rollout import rollout
from benchmark.seeds import episode_seeds, numpy_generator

RANDOM_EPISODES = 100
BEST_SHARE = 0.1
_NOT_YET = ReferenceReturns(0.0, 1.0)


def find_reference(
    env_id: str, asked: AskedReference, own: ReferenceReturns | None = None
) -> tuple[ReferenceReturns, str]:
    """Find the reference returns of a dataset before it is read, and say where they come from.

    Args:
        env_id: Environment that policies are scored in.
        asked: Returns that the user gave; "measured" ones follow by `measure_reference`.
        own: Returns that the data bring.

    Raises:
        DatasetProblem: None are given, and none are known.
    """
    if asked == "measured":
        return _NOT_YET, "measured"
    if asked is not None:
        return asked, "given"
    return (own, "the dataset's own") if own else (suite_reference(env_id), "the suite's own")


def reference_options(asked: AskedReference) -> str:
    """The options of `obdbench data fetch` and `import` that ask for these, with a space before."""
    if isinstance(asked, ReferenceReturns):
        return f" --reference-random {asked.random} --reference-expert {asked.expert}"
    return " --measure-references" if asked else ""


def measure_reference(dataset: Dataset, threads: int = 1) -> Dataset:
    """Give a dataset the returns of uniformly random actions and of its own best episodes.

    Args:
        dataset: The data, with any reference returns.
        threads: Threads that step the environments; the returns do not depend on it.

    Returns:
        The dataset with the measured returns, which its provenance explains.

    Raises:
        DatasetProblem: The best episodes are no better than random actions.
    """
    random = _random_returns(dataset.env_id, threads)
    count = max(1, round(BEST_SHARE * len(dataset.lengths)))
    best = np.sort(dataset.episode_returns)[-count:]
    said = (
        f"measured: random is the mean of {len(random)} episodes of uniformly random actions in "
        f"{dataset.env_id} ({random.mean():.6g}, sd {random.std():.3g}); expert is the mean of the "
        f"best {count} of the {len(dataset.lengths)} episodes of the dataset ({best.mean():.6g})"
    )
    if not random.mean() < best.mean():
        raise DatasetProblem(
            f"{dataset.name}: the reference returns cannot be {said}: an expert must be better "
            f"than chance. Give --reference-random and --reference-expert."
        )
    return replace(
        dataset,
        reference=ReferenceReturns(float(random.mean()), float(best.mean())),
        provenance={**dataset.provenance, "reference_returns": said},
    )


def _random_returns(env_id: str, threads: int) -> NDArray[np.float64]:
    """Returns of uniformly random actions `[RANDOM_EPISODES]`."""
    space = action_space(env_id)
    generator = numpy_generator(environment=env_id, purpose="random policy")

    def act(observations: NDArray[np.float32]) -> NDArray[Any]:
        shape = observations.shape[:2]
        if isinstance(space, Discrete):
            return generator.integers(space.start, space.start + space.n, shape)
        assert isinstance(space, Box), "others are refused with the environment"
        actions = generator.uniform(space.low, space.high, (*shape, *space.shape))
        return actions.astype(np.float32)

    seeds = episode_seeds(RANDOM_EPISODES, environment=env_id, purpose="random policy")
    played = rollout(
        env_id, act, policies=1, episodes=RANDOM_EPISODES, seeds=seeds, threads=threads
    )
    return played.returns.ravel()
