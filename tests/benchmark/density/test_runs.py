"""Runs of a method that needs log densities: they are made once, and the record names them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
import torch

from baselines.selection import draw_pairs
from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.source import DatasetName
from benchmark.density.kde import KDE
from benchmark.density.log_densities import Fit, find_or_fit, import_log_density
from benchmark.method import METHODS, Method, Monitor, Problem, State
from benchmark.spec import RunSpec
from tests.tiny_runs import PROTOCOL, STUDENT, execute, tiny_spec


@dataclass(frozen=True)
class Weighing(Method):
    """Looks at the log densities, saves its state and hands in a set; or fails before that."""

    needs: ClassVar[frozenset[str]] = frozenset({"dataset", "log_density"})

    fail: bool = False

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        values = problem.log_density
        assert values.shape == (len(problem.dataset),) and values.dtype == torch.float64
        monitor.resume()
        monitor.save(1, lambda: State({}, {}))
        if self.fail:
            raise ValueError("failed after its state was saved")
        monitor.checkpoint(0, draw_pairs(problem, 4))


@pytest.fixture(autouse=True)
def weighing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "random" in METHODS
    monkeypatch.setitem(METHODS._entries, "weighing", Weighing())  # type: ignore[arg-type]


@pytest.fixture
def dataset_name(small_dataset_name: str, own_datasets: Path) -> str:
    return small_dataset_name


def spec_with(dataset: str, density: str, **parameters: bool) -> RunSpec:
    return RunSpec.create(
        method="weighing",
        dataset=dataset,
        density=density,
        parameters=parameters,
        where="the test",
        protocol=PROTOCOL,
        student=STUDENT,
    )


def test_record_names_the_density_and_its_held_out_likelihood(
    dataset_name: str, tmp_path: Path
) -> None:
    record = execute(spec_with(dataset_name, "kde"), tmp_path)

    facts = find_or_fit(load_dataset(DatasetName.parse(dataset_name)), Fit.of("kde")).facts
    assert record.status == "complete", record.error
    assert record.needs == ["dataset", "log_density"]
    assert record.density is not None
    assert msgspec.to_builtins(record.density) == {
        "name": "kde",
        "sha256": facts["sha256"],
        "held_out_log_likelihood": facts["held_out"]["mean"],
        "held_out_standard_error": facts["held_out"]["standard_error"],
        "not_finite": 0,
    }
    assert record.provenance.packages["zuko"]


def test_method_without_the_need_has_no_density(small_dataset_name: str, tmp_path: Path) -> None:
    record = execute(tiny_spec("random", small_dataset_name), tmp_path)
    assert record.spec.density == "none"
    assert record.density is None


def test_density_that_was_never_imported_fails_the_run_with_the_command(
    dataset_name: str, tmp_path: Path
) -> None:
    record = execute(spec_with(dataset_name, "imported"), tmp_path)
    assert record.status == "failed"
    assert "obdbench density import" in record.error.message


def test_state_of_other_densities_is_not_gone_on_from(dataset_name: str, tmp_path: Path) -> None:
    dataset, file = load_dataset(DatasetName.parse(dataset_name)), tmp_path / "values.npy"
    np.save(file, np.linspace(-3.0, 2.0, len(dataset)))
    import_log_density(file, dataset)
    spec = spec_with(dataset_name, "imported", fail=True)
    assert execute(spec, tmp_path, save_every=0).error.type == "ValueError"
    assert execute(spec, tmp_path, save_every=0).error.type == "ValueError", "the same values"

    np.save(file, np.linspace(-3.0, 1.0, len(dataset)))
    import_log_density(file, dataset)
    record = execute(spec, tmp_path, save_every=0)

    assert "was saved with the log densities" in record.error.message


def test_fitting_is_not_the_methods_cost(
    dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = KDE.fit

    def slow(self: KDE, *arguments: object, **options: object) -> object:
        time.sleep(1.0)
        return fit(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(KDE, "fit", slow)
    record = execute(spec_with(dataset_name, "kde"), tmp_path)
    assert record.cost.wall_seconds < 0.9
