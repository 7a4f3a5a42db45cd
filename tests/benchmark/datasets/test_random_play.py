"""Random play is uniform, and its datasets are named by their environments."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from gymnasium.spaces import Box, Discrete

from benchmark.datasets.dataset import ReferenceReturns
from benchmark.datasets.random_play import BRAX, MINATAR, RandomPlay, RandomPolicy
from benchmark.datasets.source import DatasetName, find_source
from benchmark.environments.batch import highest
from benchmark.environments.jax_tasks import SPECIFICATIONS
from benchmark.registry import UnknownName

ROWS = 20_000
NOISE = np.random.default_rng(0).standard_normal((ROWS, 3), dtype=np.float32)
NOBODY, NOTHING = np.zeros(ROWS, np.int64), np.zeros((ROWS, 2))


def test_continuous_actions_are_uniform_between_their_bounds() -> None:
    space = Box(np.array([-1, 0, 2], np.float32), np.array([1, 3, 2.5], np.float32))
    policy = RandomPolicy("any", ReferenceReturns(0, 1), space)
    assert policy.action_dim == 3
    actions = policy.act(NOBODY, NOTHING, NOISE)
    for column, (low, high) in enumerate(zip(space.low, space.high, strict=True)):
        found = scipy.stats.kstest(actions[:, column], "uniform", (low, high - low))
        assert found.pvalue > 0.01
        assert low <= actions[:, column].min() < actions[:, column].max() <= high


def test_discrete_actions_are_equally_frequent() -> None:
    space = Discrete(3)
    scores = RandomPolicy("any", ReferenceReturns(0, 1), space).act(NOBODY, NOTHING, NOISE)
    counts = np.bincount(highest(scores, space), minlength=3)
    assert scipy.stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("family", [BRAX, MINATAR])
def test_a_dataset_is_named_by_its_environment(family: object) -> None:
    assert isinstance(family, type(BRAX))
    for name in family.names():
        source = find_source(name)
        assert isinstance(source, RandomPlay)
        assert source.environment_id == name
        assert name in SPECIFICATIONS
        assert str(DatasetName.parse(f"{name}@300")) == f"{name}@300"


def test_an_unknown_one_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'brax/hopper'"):
        find_source("brax/hoper")
