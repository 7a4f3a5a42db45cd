"""The picture and the table of a dataset, from small data with known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.datasets.dataset import Dataset
from paper_figures.dataset_overview import DatasetDescription, dataset_overview, dataset_table
from paper_figures.figure import FigureError, write_figure


@pytest.fixture
def description(small_dataset: Dataset) -> DatasetDescription:
    log_density = torch.linspace(-100, 10, len(small_dataset), dtype=torch.float64)
    return DatasetDescription.of(small_dataset, "knn", log_density)


def test_every_episode_and_a_sample_of_the_states_are_drawn(
    description: DatasetDescription,
) -> None:
    returns, lengths, coverage, *_ = dataset_overview(description).axes
    episodes = len(description.dataset.lengths)
    for axes in (returns, lengths):
        assert sum(patch.get_height() for patch in axes.patches) == episodes
    dots = coverage.collections[0]
    assert len(dots.get_offsets()) == len(description.dataset)
    low, high = dots.get_clim()
    assert low == pytest.approx(np.quantile(description.log_density.numpy(), 0.01))
    assert high == pytest.approx(np.quantile(description.log_density.numpy(), 0.99))


def test_dense_states_are_drawn_last(description: DatasetDescription) -> None:
    dots = dataset_overview(description).axes[2].collections[0]
    assert (np.diff(np.asarray(dots.get_array())) >= 0).all()


def test_the_same_data_give_the_same_bytes(description: DatasetDescription, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_figure(dataset_overview(description), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_another_ending_is_refused(description: DatasetDescription, tmp_path: Path) -> None:
    with pytest.raises(FigureError, match=r"expected \.pdf, \.png, \.svg"):
        write_figure(dataset_overview(description), tmp_path / "a.jpg")


def test_the_table_has_the_datasets_numbers(description: DatasetDescription) -> None:
    table = dataset_table([description])
    returns = description.dataset.episode_returns
    row = table.data.iloc[0]
    assert row["transitions"] == 2000
    assert row["return"] == pytest.approx(returns.mean())
    assert row["normalized_return"] == pytest.approx(
        description.dataset.reference.normalise(float(returns.mean()))
    )
    assert "hopper/medium@2000" in table.markdown()
    assert "knn" in table.caption
