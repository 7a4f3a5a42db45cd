"""A toy dataset: the algorithms do not care where data come from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmark.datasets.dataset import Dataset, ReferenceReturns


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products of width 8 gain nothing from a second thread, which spins while it waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def toy() -> Dataset:
    """Three random episodes of 20 steps with Hopper's dimensions; the last one is truncated."""
    rng = np.random.default_rng(0)
    terminations, truncations = np.zeros((2, 60), dtype=bool)
    terminations[[19, 39]] = truncations[59] = True
    return Dataset(
        name="toy",
        env_id="Hopper-v5",
        states=rng.normal(size=(63, 11)).astype(np.float32),
        actions=rng.uniform(-1, 1, (60, 3)).astype(np.float32),
        rewards=rng.normal(size=60).astype(np.float32),
        terminations=terminations,
        truncations=truncations,
        lengths=np.array([20, 20, 20]),
        reference=ReferenceReturns(0.0, 1.0),
    )
