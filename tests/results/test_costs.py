"""Planned costs: from the nearest records, and unknown where there are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmark.record import Record
from benchmark.spec import RunSpec
from results.costs import Costs
from tests.tiny_runs import PROTOCOL, altered, execute, tiny_spec


@pytest.fixture(scope="module")
def spec(small_dataset_name: str) -> RunSpec:
    return tiny_spec("dbc", small_dataset_name)


@pytest.fixture(scope="module")
def record(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Six outer steps, four checkpoints of four episodes, with costs that are easy to reckon."""
    record = execute(spec, tmp_path_factory.mktemp("store"))
    return with_cost(record, wall_seconds=60.0, evaluation_wall_seconds=32.0)


def with_cost(record: Record, **cost: Any) -> Record:
    return altered(record, **{f"cost__{name}": value for name, value in cost.items()})


def test_a_cell_that_was_measured_costs_its_mean(spec: RunSpec, record: Record) -> None:
    other = with_cost(record, wall_seconds=80.0)
    estimate = Costs([record, other]).of(spec.with_seed(9))
    assert (estimate.seconds, estimate.source, estimate.records) == (102.0, "measured", 2)


def test_another_cell_is_reckoned_by_its_steps_and_episodes(spec: RunSpec, record: Record) -> None:
    """10 s a step; 2 s an episode (4 checkpoints of 2 x 2)."""
    longer = replace(spec, parameters={**spec.parameters, "outer_steps": 12})
    estimate = Costs([record]).of(longer)
    assert (estimate.seconds, estimate.source) == (12 * 10 + 7 * 4 * 2, "by the step")
    more = replace(spec, protocol=replace(PROTOCOL, students=4))
    assert Costs([record]).of(more).seconds == 60 + 2 * 32
    ensembles = replace(spec, protocol=replace(PROTOCOL, ensemble=3))
    assert Costs([record]).of(ensembles).seconds == 60 + 3 * 32


def test_records_of_another_dataset_or_student_are_rough(spec: RunSpec, record: Record) -> None:
    wide = replace(spec, student=replace(spec.student, width=64))
    assert Costs([record]).of(wide).source == "rough"
    elsewhere = replace(spec, dataset="walker2d/medium")
    assert Costs([record]).of(elsewhere).source == "rough"


@pytest.mark.parametrize("change", ["device", "failed", "method"])
def test_what_was_not_measured_is_unknown(spec: RunSpec, record: Record, change: str) -> None:
    device = "cuda" if change == "device" else "cpu"
    if change == "failed":
        record = altered(record, status="failed")
    run = replace(spec, method="pbc") if change == "method" else spec
    estimate = Costs([record], device).of(run)
    assert (estimate.seconds, estimate.source) == (None, "unknown")
