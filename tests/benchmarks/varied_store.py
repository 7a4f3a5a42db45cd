"""A store of many runs with scores of their own, written without doing any of them.

    python -m tests.benchmarks.varied_store FOLDER [RUNS] [SEEDS]

Scores differ by method, size, dataset, seed and checkpoint: a curve rises from the dataset's floor
to what the method and the size reach, a seed is above or below it, and every episode has noise. So
every interval and every comparison of a table is computed, as it is from real runs.
"""

from __future__ import annotations

import json
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np

import baselines  # noqa: F401  registers the methods
from benchmark.files import json_sha256
from benchmark.protocol import Protocol
from benchmark.record import DIGEST, FILE, Checkpoint, Record, read_record, score_of
from benchmark.run import run_folder
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec
from benchmark.sweep import Sweep
from results.record_store import SHIPPED, save_sweep
from tests.tiny_runs import altered, consistent

NAME = "varied"
SEEDS = 5
STEPS = range(0, 1001, 200)
PROTOCOL = Protocol("varied", students=4, episodes=5, checkpoint_every=200, last=3)
METHODS = (
    "random", "herding", "k_centre", "top_return", "top_q", "distribution_matching",
    "gradient_matching", "trajectory_matching", "dbc", "pbc", "av_pbc", "sdw_obd",
)  # fmt: skip
DATASETS = tuple(
    f"{environment}/{kind}"
    for environment in ("halfcheetah", "hopper", "walker2d")
    for kind in ("medium-replay", "medium", "medium-expert")
)


def varied_sweep(count: int, seeds: int = SEEDS) -> Sweep:
    """Cells of some seeds each: the methods at growing sizes, on the nine datasets."""
    cells = (
        RunSpec.create(
            method=method,
            dataset=dataset,
            parameters={"synthetic_size": size},
            where="the benchmark",
            protocol=PROTOCOL,
            student=StudentSpec(),
        )
        for size in range(1, count + 1)
        for method in METHODS
        for dataset in DATASETS
    )
    runs = (cell.with_seed(seed) for cell in cells for seed in range(seeds))
    return Sweep(NAME, "", tuple(run for _, run in zip(range(count), runs, strict=False)))


def varied_record(run: RunSpec, template: Record) -> Record:
    """A complete record of a run, with returns that follow from its spec alone."""
    method, dataset = METHODS.index(run.method), DATASETS.index(run.dataset)
    size = run.parameters.get("synthetic_size", 0)
    noise = np.random.default_rng([method, dataset, size, run.seed])
    task = np.random.default_rng([method, dataset])
    top = 100 * dataset % 700 + 200 * method + 150 * math.log2(1 + size) + task.normal(0, 150)
    seed = noise.normal(0, 120)
    assert template.normalisation is not None
    checkpoints = []
    for step in STEPS:
        level = 50 + (top + seed) * (1 - math.exp(-step / 300)) + noise.normal(0, 40)
        returns = level + noise.normal(0, 80, (run.protocol.students, run.protocol.episodes))
        mean = float(np.mean(returns.ravel().tolist()))
        checkpoints.append(
            Checkpoint(
                outer_step=step,
                returns=returns.tolist(),
                lengths=noise.integers(20, 1000, returns.shape).tolist(),
                mean_return=mean,
                normalized_return=float(template.normalisation.normalise(mean)),
                synthetic_set=f"set-{step:08d}.safetensors",
                sha256=f"{noise.integers(2**62):064x}",
            )
        )
    wall = float(30 + 5 * method + noise.random())
    varied = altered(
        template,
        spec=run,
        run_id=run.run_id,
        cell_id=run.cell_id,
        parameters=run.resolved_parameters,
        needs=sorted(run.method_instance.needs),
        reference=run.method_instance.reference,
        checkpoints=checkpoints,
        score=score_of(checkpoints, run.protocol),
        cost__wall_seconds=wall,
        cost__cpu_seconds=wall,
        cost__checkpoint_cpu_seconds=[],
        cost__checkpoint_environment_steps=[],
    )
    return consistent(varied)


def write_record_fast(store: Path, run: RunSpec, record: Record) -> None:
    """Write a record as `write_record` does, without the flush to disk."""
    path = run_folder(store, run) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    values = record.as_dict()
    path.write_text(json.dumps(values | {DIGEST: json_sha256(values)}, indent=1) + "\n")


@cache
def template() -> Record:
    """A shipped record, for all that does not matter here."""
    return read_record(min(SHIPPED.glob(f"hopper-medium.av_pbc.*/seed0/{FILE}")))


def fill(store: Path, sweep: Sweep) -> None:
    """Write a record of every run of a sweep."""
    shipped = template()
    for run in sweep.runs:
        write_record_fast(store, run, varied_record(run, shipped))


def write_varied_store(store: Path, count: int, seeds: int = SEEDS) -> Sweep:
    """Write a sweep and a record of each of its runs."""
    sweep = varied_sweep(count, seeds)
    save_sweep(store, sweep)
    fill(store, sweep)
    return sweep


if __name__ == "__main__":
    write_varied_store(Path(sys.argv[1]), *map(int, sys.argv[2:]))
