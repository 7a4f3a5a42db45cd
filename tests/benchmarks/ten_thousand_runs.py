"""What the bookkeeping of 10,000 runs takes: submission, status and collection, without a cluster.

    python -m tests.benchmarks.ten_thousand_runs [RUNS]
    python -m tests.benchmarks.ten_thousand_runs RUNS --calls       needs strace

The scheduler is a stand-in that takes everything and remembers it; the records are written by a
stand-in for the jobs. Everything else is what `obdbench` does. Prints seconds and files by folder;
with --calls the calls of the file system that name a path (open, stat, rename, ...) by step.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmark.datasets.catalog import build_dataset
from benchmark.datasets.source import DatasetName
from benchmark.protocol import Protocol
from benchmark.record import FILE, Record, score_of
from benchmark.run import Conditions, run_folder
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec
from benchmark.sweep import Sweep
from obdbench.sweep_status import SweepStatus, sweep_status
from paper_figures.sweep_table import sweep_table
from results.record_store import save_sweep
from slurm.cluster import Cluster
from slurm.profile import JobShape, Profile
from tests.slurm.fake_scheduler import FakeScheduler, fake_sbatch, taken
from tests.tiny_runs import altered, execute

SEEDS = 5
MARK = "/a-step-begins/"
SMALL = "hopper/medium@2000"


def ten_thousand(count: int) -> Sweep:
    """Cells of five seeds, on the nine datasets."""
    kinds = ("medium-replay", "medium", "medium-expert")
    datasets = [f"{e}/{k}" for e in ("halfcheetah", "hopper", "walker2d") for k in kinds]
    runs = [
        RunSpec.create(
            method="random",
            dataset=datasets[cell % len(datasets)],
            parameters={"synthetic_size": 1 + cell // len(datasets)},
            where="the benchmark",
            protocol=Protocol("quick", students=2, episodes=2, checkpoint_every=100, last=1),
            student=StudentSpec(),
            seed=seed,
        )
        for cell in range(count // SEEDS)
        for seed in range(SEEDS)
    ]
    return Sweep("ten_thousand", "", tuple(runs))


def record_of(run: RunSpec, template: Record) -> str:
    """A complete record with returns of its own, as its job would have left it."""
    higher = random.Random(run.run_id).gauss(0.0, 300.0)
    checkpoints = []
    for checkpoint in template.checkpoints:
        returns = [[value + higher for value in row] for row in checkpoint.returns]
        mean = float(np.mean(returns))
        normalized = (
            float(template.normalisation.normalise(mean)) if template.normalisation else 0.0
        )
        checkpoints.append(
            msgspec.structs.replace(
                checkpoint, returns=returns, mean_return=mean, normalized_return=normalized
            )
        )
    seeds = msgspec.structs.replace(template.provenance.seeds, seed=run.seed)
    record = altered(
        template,
        spec=run,
        run_id=run.run_id,
        cell_id=run.cell_id,
        checkpoints=checkpoints,
        score=score_of(checkpoints, run.protocol),
        provenance__seeds=seeds,
    )
    return json.dumps(record.as_dict(), indent=1)


def timed(what: str, act: Callable[[], object]) -> None:
    os.access(f"{MARK}{what}", os.F_OK)  # seen by strace
    began = time.monotonic()
    act()
    os.access(f"{MARK}end", os.F_OK)
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        patch.setenv("MINARI_DATASETS_PATH", str(root / "datasets"))
        build_dataset(DatasetName.parse(SMALL))
        store = root / "runs"
        journal = fake_sbatch(root / "bin", patch)
        scheduler = FakeScheduler()
        cluster = Cluster(store, scheduler)
        patch.setattr("slurm.cluster.Cluster", lambda store: cluster)
        sweep = ten_thousand(count)
        profile = Profile("fake", JobShape(), parallelism=500)
        one = replace(sweep.runs[0], dataset=SMALL)
        template = execute(one, root / "one")
        print(f"{len(sweep.runs):,} runs, {len(sweep.cells):,} cells, a job each")

        def submit() -> None:
            save_sweep(store, sweep)
            sweep_status(store, sweep)
            cluster.submit(sweep.name, sweep.runs, profile, Conditions(store))

        timed("submit", submit)
        scheduler.jobs = taken(journal)
        timed("status, all queued", lambda: _expect(sweep_status(store, sweep), queued=count))
        for run in sweep.runs:
            path = run_folder(store, run) / FILE
            path.parent.mkdir(parents=True)
            path.write_text(record_of(run, template))
        print(f"files by folder: {_largest_folders(store)}")
        scheduler.jobs = {}
        timed("status, all done", lambda: _expect(sweep_status(store, sweep), done=count))
        timed("settle", cluster.settle)
        timed("table and figure", lambda: sweep_table(store, sweep).write(root))
        print(f"queries of the scheduler: {scheduler.asked}")


def _expect(states: SweepStatus, **counts: int) -> None:
    assert {s: n for s, n in states.counts.items() if n} == counts, states.counts


def _largest_folders(store: Path) -> str:
    sizes = Counter(
        {Path(folder).name: len(names) + len(files) for folder, names, files in os.walk(store)}
    )
    return ", ".join(f"{name} {size:,}" for name, size in sizes.most_common(3))


def count_calls(count: int) -> None:
    """Runs this file under strace and prints how many calls each step made."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "calls"
        strace = ["strace", "-f", "-qq", "-e", "trace=%file", "-e", "signal=none", "-o", str(log)]
        subprocess.run([*strace, sys.executable, "-m", __spec__.name, str(count)], check=True)
        calls: Counter[str] = Counter()
        step = "end"
        for line in log.open(errors="replace"):
            if found := re.search(f'"{MARK}([^"]*)"', line):
                step = found.group(1)
            elif step != "end" and "resumed>" not in line:
                calls[step] += 1
        for step, number in calls.items():
            print(f"calls, {step}: {number:,} ({number / count:.1f} a run)")


if __name__ == "__main__":
    runs = int(sys.argv[1]) if sys.argv[1:] else 10_000
    count_calls(runs) if "--calls" in sys.argv else main(runs)
