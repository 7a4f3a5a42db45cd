"""What the bookkeeping of 10,000 runs takes: submission, status, tables, without a cluster.

    python -m tests.benchmarks.ten_thousand_runs [RUNS]
    python -m tests.benchmarks.ten_thousand_runs RUNS --calls       needs strace

The scheduler is a stand-in that takes everything and remembers it; the records are written by a
stand-in for the jobs, with scores of their own (`varied_store`). Everything else is what `obdbench`
does, the commands on finished runs as processes of their own. Prints wall seconds, of commands also
processor seconds (user and system; other work on the machine lengthens these less), and files by
folder; with --calls the calls of the file system that name a path (open, stat, rename, ...) by
step.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.run import Conditions
from obdbench.sweep_status import SweepStatus, sweep_status
from results.record_store import save_sweep
from slurm.cluster import Cluster
from slurm.profile import JobShape, Profile
from tests.benchmarks.varied_store import fill, varied_sweep
from tests.browser import visit
from tests.slurm.fake_scheduler import FakeScheduler, fake_sbatch, taken

MARK = "/a-step-begins/"
SQUEUE = """#!/bin/sh
# Every job of the journal of `fake_sbatch`, in lines.
case "$*" in *--json*) exit 1 ;; esac
awk '{{for (i = 0; i <= $2; i++) print $1 "|" i "|PENDING|Priority||" NR "_" i}}' "{journal}"
"""
PYTHON = [sys.executable, "-m", "obdbench"]


def timed(what: str, act: Callable[[], object]) -> None:
    os.access(f"{MARK}{what}", os.F_OK)  # seen by strace
    began = time.monotonic()
    act()
    os.access(f"{MARK}end", os.F_OK)
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)


def command(*words: str) -> None:
    """Run a command as a user does, and print its wall and processor seconds."""
    os.access(f"{MARK}{words[0]}", os.F_OK)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*PYTHON, *words], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    os.access(f"{MARK}end", os.F_OK)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"obdbench {words[0]}: {wall:.1f} s, processor {cpu:.1f} s", flush=True)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        store = root / "runs"
        journal = fake_sbatch(root / "bin", patch)
        scheduler = FakeScheduler()
        cluster = Cluster(store, scheduler)
        patch.setattr("slurm.cluster.Cluster", lambda store: cluster)
        patch.setattr("obdbench.sweep_status.LiveJobs", lambda store: cluster)
        sweep = varied_sweep(count)
        profile = Profile("fake", JobShape(), parallelism=500)
        print(f"{len(sweep.runs):,} runs, {len(sweep.cells):,} cells, a job each")

        def submit() -> None:
            save_sweep(store, sweep)
            sweep_status(store, sweep)
            cluster.submit(sweep.name, sweep.runs, profile, Conditions(store))

        timed("submit", submit)
        scheduler.jobs = taken(journal)
        timed("status, all queued", lambda: _expect(sweep_status(store, sweep), queued=count))
        (root / "bin" / "squeue").write_text(SQUEUE.format(journal=journal))
        (root / "bin" / "squeue").chmod(0o755)
        command("status", sweep.name, "--store", str(store))
        fill(store, sweep)
        print(f"files by folder: {_largest_folders(store)}")
        scheduler.jobs = {}
        timed("status, all done", lambda: _expect(sweep_status(store, sweep), done=count))
        timed("settle", cluster.settle)
        print(f"queries of the scheduler: {scheduler.asked}")
        (store / "sweeps" / f"{sweep.name}.index").unlink(missing_ok=True)
        time.sleep(2.1)  # an index takes no record that was just written
        table = ("table", sweep.name, "--store", str(store), "--to", str(root / "table"))
        page = root / "report.html"
        print("without an index:")
        command(*table)
        print("with it:")
        command(*table)
        command("status", sweep.name, "--store", str(store))
        command("collect", sweep.name, "--store", str(store))
        command("report", sweep.name, "--store", str(store), "--to", str(page))
        if "--calls" not in sys.argv:
            _open(page)


def _open(page: Path) -> None:
    """Open the report in a headless browser, and print how long that takes."""
    print(f"report: {page.stat().st_size / 1e6:.1f} MB")
    found = visit(page, 'await go("runs"); found.drawn = performance.now();')
    print(
        f"opened: {found['milliseconds']:.0f} ms until the results are drawn; the list of runs "
        f"{found['drawn'] - found['milliseconds']:.0f} ms later; problems: {found['problems']}"
    )


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
