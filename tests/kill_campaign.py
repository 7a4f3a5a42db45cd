"""Kill runs at random moments, and hold what they come to against runs that nothing disturbed.

    python -m tests.kill_campaign [--seed 0] [--count 1000] [--minutes M] [--slurm N]

Runs are done in one process, packed, in two worker processes (forked, so that a kill costs less
than a second, or new interpreters as they really are) and, with `--slurm`, on a SLURM of this
machine (root), whose jobs are killed N times. What is killed is the whole group of processes, a
worker, the parent, or the process at its k-th file operation, for all k; it is killed outright or
asked to end by a signal. The same call then goes on until every run is complete. Numbers, sets and
digests must be those of the undisturbed runs to the last bit, and no file and no process may be
left. The exit status is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import msgspec
import psutil
import safetensors.torch
import torch

from benchmark import local, local_worker
from benchmark.datasets.catalog import build_dataset
from benchmark.datasets.source import DatasetName
from benchmark.record import FILE, Record, read_record
from benchmark.run import Conditions, is_complete, run_folder, tidy
from benchmark.spec import RunSpec
from benchmark.stopping import Stopped, ended_by_signals, stopped_by_signals
from slurm.cluster import Cluster
from slurm.profile import build_profile
from tests.one_node_cluster import OneNodeCluster
from tests.tiny_runs import sets, tiny_spec

DATASET = "hopper/medium-expert@2000"
MOST_KILLS = 4
"""Kills of the same runs before they are left to end."""
PATIENCE = 60.0
"""Seconds after which a process that should have ended is called left."""
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux's prctl: orphans become ours, and are noticed


@dataclass(frozen=True)
class Kind:
    """A way of doing runs, and of killing what does them.

    Args:
        executor: How the runs are done.
        target: Which processes are killed.
        signals: One of them is sent.
        share: Weight among the kinds.
        begins: Seconds that its processes take to begin, which are as good a time to die.
    """

    executor: str
    target: str
    signals: tuple[int, ...] = (signal.SIGKILL,)
    share: float = 1.0
    begins: float = 0.0

    def __str__(self) -> str:
        how = "killed" if self.signals == (signal.SIGKILL,) else "asked to end"
        return f"{self.executor}, {self.target} {how}"


ASKED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
KINDS = (
    Kind("inline", "process"),
    Kind("inline", "process", ASKED),
    Kind("packed", "process"),
    Kind("packed", "process", ASKED),
    Kind("two workers", "group"),
    Kind("two workers", "worker"),
    Kind("two workers", "parent"),
    Kind("two workers", "parent", ASKED),
    Kind("two workers", "group", ASKED),
    Kind("two interpreters", "group", share=0.05, begins=4.0),
    Kind("two interpreters", "worker", share=0.05, begins=4.0),
    Kind("two interpreters", "parent", share=0.05, begins=4.0),
)
JOB_LOGS = "jobs"
"""Folder of what died jobs on SLURM wrote, which is kept to be read."""
ON_SLURM = "SLURM, job killed"
FILE_OPERATIONS = "inline, killed at each file operation"


@dataclass
class Tally:
    """What came of one kind, and the seconds in which a kill finds something to kill."""

    span: float = 0.0
    kills: int = 0
    records: int = 0
    differences: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """Runs that nothing disturbed: their store, and the seconds that they took."""

    runs: list[RunSpec]
    store: Path
    seconds: float


def undisturbed(runs: list[RunSpec], store: Path) -> Reference:
    """Do runs one by one in this process, twice: the second time nothing has to be imported."""
    local.execute_here(runs, Conditions(store / "warm", pack=1))
    began = time.monotonic()
    local.execute_here(runs, Conditions(store / "runs", save_every=0, pack=1))
    return Reference(runs, store / "runs", time.monotonic() - began)


def kill_at_random(
    reference: Reference, kind: Kind, rng: random.Random, store: Path, tally: Tally
) -> None:
    """Kill runs a few times, let them end, and compare."""

    def work() -> None:
        _work(reference.runs, store, kind.executor, kind.signals == ASKED)

    for _ in range(rng.randint(1, MOST_KILLS)):
        main = forked(work)
        time.sleep(rng.uniform(0.0, tally.span))
        killed = _kill(main, kind, rng)
        # How long the runs take depends on the kind, the machine, and what was done before.
        tally.span *= 1.1 if killed else 0.8
        tally.kills += killed
        tally.left += [f"{kind}: {process}" for process in _ended(main)]
    finish_and_compare(reference, str(kind), store, tally)


def kill_at_file_operations(
    reference: Reference, store: Path, tally: Tally, every: int = 1
) -> None:
    """Kill the runs at their first file operation, in a new store at the next one, and so on."""
    for operation in range(0, sys.maxsize, every):
        fresh = store / str(operation)

        def dies(at: int = operation, fresh: Path = fresh) -> None:
            _die_at(at, fresh)
            _work(reference.runs, fresh, "inline", False)

        main = forked(dies)
        killed = os.waitstatus_to_exitcode(os.waitpid(main, 0)[1]) == -signal.SIGKILL
        if not killed:
            return  # there are no more
        tally.kills += 1
        finish_and_compare(reference, f"file operation {operation}", fresh, tally)


def kill_on_slurm(
    reference: Reference, machine: OneNodeCluster, rng: random.Random, store: Path, tally: Tally
) -> None:
    """Submit runs to a real SLURM, kill or cancel a job a few times, and compare."""
    cluster, profile = Cluster(store), build_profile({"memory": "500M"}, "test", "the campaign")
    for kill in (*[True] * rng.randint(1, MOST_KILLS), False):
        todo = [run for run in reference.runs if not is_complete(run_folder(store, run))]
        cluster.submit("campaign", todo, profile, Conditions(store, save_every=0, pack=1))
        time.sleep(rng.uniform(0.0, tally.span) if kill else 0.0)
        jobs = machine.command("squeue", "-h", "-r", "-t", "R", "-o", "%A").split()
        if kill and jobs:
            how = rng.choice([(), ("--signal=KILL",), ("--signal=KILL", "--full")])
            machine.command("scancel", *how, rng.choice(jobs))
            tally.kills += 1
        deadline = time.monotonic() + 4 * PATIENCE
        while cluster.settle().live and time.monotonic() < deadline:
            time.sleep(0.3)
    finish_and_compare(reference, "SLURM", store, tally)


def finish_and_compare(reference: Reference, what: str, store: Path, tally: Tally) -> None:
    """Do the runs to their end and hold records, sets and files against the undisturbed ones."""
    for _ in range(2):  # the first call may only find the death of a worker
        _ended(forked(lambda: _work(reference.runs, store, "inline", False)))
    tally.records += len(reference.runs)
    tally.differences += [f"{what}: {text}" for text in _differences(reference, store)]
    tally.left += [f"{what}: {name}" for name in sorted(_files(store) ^ _files(reference.store))]


def forked(work: Callable[[], None]) -> int:
    """Do something in a process of its own group, which has imported all that this one has."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)  # what arrives too early is not lost
    if not (number := os.fork()):
        os.setpgid(0, 0)  # here too: whoever is first
        _leave_with(work)
    os.setpgid(number, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
    return number


def _leave_with(work: Callable[[], None]) -> NoReturn:
    """End this process when the work has ended, with what a command would end with."""
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
        work()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except (KeyboardInterrupt, Stopped):
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _work(runs: Sequence[RunSpec], store: Path, executor: str, asked: bool) -> None:
    """What `obdbench sweep --retry failed` does with the runs that are not complete."""
    # Who is asked has saved nothing before, so that what it goes on from is what it saved then.
    save_every = 3600.0 if asked else 0.0
    conditions = Conditions(store, save_every=save_every, pack=4 if executor == "packed" else 1)
    tidy(runs, store)
    todo = [run for run in runs if not is_complete(run_folder(store, run))]
    if executor == "two workers":
        local.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
            Popen=ForkedWorker, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
        )
    with ended_by_signals(), stopped_by_signals(conditions.stop, PATIENCE):
        if executor.startswith("two"):
            local.execute_in_processes(todo, conditions, 2)
        else:
            local.execute_here(todo, conditions)


class ForkedWorker:
    """What `benchmark.local` uses of `subprocess.Popen`, for a worker that need not import."""

    pipes: list[int] = []  # noqa: RUF012 - of one process, which ends with its workers

    def __init__(self, command: list[str], *, stdout: Any, **rest: Any) -> None:
        read, write = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
        if not (number := os.fork()):
            for other in (*self.pipes, write):  # the parent's ends, or none would ever end
                os.close(other)
            os.dup2(read, 0)
            os.dup2(stdout.fileno(), 1)
            os.dup2(stdout.fileno(), 2)
            sys.stdin = io.TextIOWrapper(os.fdopen(0, "rb", closefd=False))
            for restored in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(restored, signal.SIG_DFL)
            _leave_with(local_worker.main)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
        os.close(read)
        self.pid, self.returncode = number, None
        self.stdin, self.handle = os.fdopen(write, "wb"), write
        self.pipes.append(write)

    def poll(self) -> int | None:
        if self.returncode is None:
            number, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if number else None
        if self.returncode is not None and self.handle in self.pipes:
            self.pipes.remove(self.handle)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (PATIENCE if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked worker", timeout or PATIENCE)
            time.sleep(0.005)
        return self.poll() or 0

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _kill(main: int, kind: Kind, rng: random.Random) -> bool:
    """Send the signal; whether there was someone to get it."""
    number = rng.choice(kind.signals)
    if os.waitid(os.P_PID, main, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        return False  # all was done already
    if kind.target == "group":
        os.killpg(main, number)
    elif kind.target == "worker":
        workers = psutil.Process(main).children()
        if not workers:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers).pid, number)
    else:
        os.kill(main, number)
    return True


def _ended(main: int) -> list[str]:
    """Wait for a process and all that it started; name and kill what does not end."""
    deadline, left = time.monotonic() + PATIENCE, []
    while True:
        try:
            number, _ = os.waitpid(-main, os.WNOHANG)
        except ChildProcessError:
            return left
        if number:
            continue
        if time.monotonic() > deadline:
            left.append("a process was left")
            os.killpg(main, signal.SIGKILL)
            deadline += PATIENCE
        time.sleep(0.003)


def _die_at(wanted: int, store: Path) -> None:
    """Let this process be killed at the given file operation below the store, counted from 0."""
    count = iter(range(sys.maxsize))

    def operation(torn: Callable[[], object] = lambda: None) -> None:
        if next(count) == wanted:
            torn()
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes or isinstance(path, int):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"):
            return
        if str(arguments[0]).startswith(str(store)):
            operation()

    fsync, serialize, write_bytes = os.fsync, safetensors.torch.serialize_file, Path.write_bytes

    def flush(handle: Any) -> None:
        operation()
        fsync(handle)

    def write_tensors(tensors: Any, path: Any, *rest: Any, **more: Any) -> None:
        serialize(tensors, path, *rest, **more)
        whole = Path(path).read_bytes()
        operation(lambda: write_bytes(Path(path), whole[: len(whole) // 2]))

    def write(path: Path, content: Any) -> int:
        operation(lambda: write_bytes(path, content[: len(content) // 2]))
        return write_bytes(path, content)

    os.fsync, safetensors.torch.serialize_file = flush, write_tensors
    Path.write_bytes = write  # type: ignore[method-assign]
    sys.addaudithook(heard)


def _differences(reference: Reference, store: Path) -> Iterator[str]:
    for run in reference.runs:
        try:
            wanted = read_record(run_folder(reference.store, run) / FILE)
            found = read_record(run_folder(store, run) / FILE)
        except Exception as error:  # torn, missing: whatever keeps a record from being read
            yield f"{run.run_id}: {error}"
            continue
        for key, value in lasting(wanted).items():
            if lasting(found)[key] != value:
                yield f"{run.run_id}: {key} differs"
        if sets(store, run) != sets(reference.store, run):
            yield f"{run.run_id}: the bytes of its sets differ"


def lasting(record: Record) -> dict[str, Any]:
    """Everything in a record but times, memory, attempts, and the commit of a checkout.

    New interpreters read the commit, which changes while somebody works on the checkout.
    """
    values: dict[str, Any] = msgspec.to_builtins(record)
    values["provenance"] = {
        key: value for key, value in values["provenance"].items() if key not in ("commit", "dirty")
    }
    cost = values.pop("cost")
    kept = ("outer_steps", "environment_steps", "evaluation_environment_steps")
    times = ("started", "finished")
    return {key: value for key, value in values.items() if key not in times} | {
        f"cost.{key}": cost[key] for key in kept
    }


def _files(store: Path) -> set[str]:
    paths = {str(path.relative_to(store)) for path in store.rglob("*")}
    return {path for path in paths if not path.startswith(JOB_LOGS)}


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """Folders, one thread, and a process to which orphans go."""
    names = {"MINARI_DATASETS_PATH": "datasets", "OBDBENCH_CACHE": "cache", "TMPDIR": "tmp"}
    (folder / "tmp").mkdir(parents=True)
    tempfile.tempdir = None
    os.environ.update({name: str(folder / part) for name, part in names.items()})
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    # Packs whose states are at different steps go on one by one, and say so each time.
    logging.getLogger("benchmark").setLevel(logging.ERROR)
    prctl(SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(SUBREAPER, 0)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process.

    Raises:
        OSError: The system refused.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def several(steps: int = 6) -> list[RunSpec]:
    """Two seeds that may be packed, a second method with another state, and a selection."""
    return [
        tiny_spec("dbc", DATASET, seed=0, outer_steps=steps),
        tiny_spec("dbc", DATASET, seed=1, outer_steps=steps),
        tiny_spec("random", DATASET),
    ]


def campaign(
    folder: Path, tallies: dict[str, Tally], seed: int, count: int, seconds: float = float("inf")
) -> None:
    """Kill so often, or for so long; the file operations come first and are not counted."""
    deadline = time.monotonic() + seconds
    reference = undisturbed(several(), folder / "reference")
    one = undisturbed(several()[:1], folder / "one")
    tallies[FILE_OPERATIONS] = Tally()
    kill_at_file_operations(one, folder / "operations", tallies[FILE_OPERATIONS])
    rng, kills = random.Random(seed), 0
    tallies |= {str(kind): Tally(reference.seconds + kind.begins) for kind in KINDS}
    for number in range(sys.maxsize):
        if kills >= count or time.monotonic() > deadline:
            break
        (kind,) = rng.choices(KINDS, [kind.share for kind in KINDS])
        tally = tallies[str(kind)]
        kills -= tally.kills
        kill_at_random(reference, kind, rng, folder / "killed" / str(number), tally)
        kills += tally.kills


def campaign_on_slurm(folder: Path, tally: Tally, seed: int, count: int) -> None:
    """Kill jobs of a SLURM that is started for it."""
    reference, rng = undisturbed(several(), folder / "reference"), random.Random(seed)
    machine = OneNodeCluster(folder / "machine")
    os.environ |= machine.environment
    machine.start()
    try:
        while tally.kills < count:
            kill_on_slurm(reference, machine, rng, folder / f"store{tally.kills}", tally)
    finally:
        machine.stop()


def show(tallies: dict[str, Tally]) -> bool:
    """Print a table, and what differs or was left; whether nothing did and was."""
    print(f"{'kind':44} {'kills':>6} {'records':>8} {'differences':>12} {'left':>6}")
    rows = {**tallies, "all": _sum(tallies.values())}
    for name, tally in rows.items():
        print(
            f"{name:44} {tally.kills:6} {tally.records:8} {len(tally.differences):12} "
            f"{len(tally.left):6}"
        )
    problems = rows["all"].differences + rows["all"].left
    for problem in problems:
        print(f"- {problem}")
    return not problems


def _sum(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.kills += tally.kills
        whole.records += tally.records
        whole.differences += tally.differences
        whole.left += tally.left
    return whole


def main() -> None:
    """The campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the kinds")
    parser.add_argument("--count", type=int, default=1000, help="kills at random moments")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for those kills")
    parser.add_argument("--slurm", type=int, default=0, help="kills on a SLURM of this machine")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, surroundings(Path(name)):
        build_dataset(DatasetName.parse(DATASET))
        began = time.monotonic()
        tallies: dict[str, Tally] = {}
        try:
            campaign(Path(name), tallies, given.seed, given.count, 60 * given.minutes)
            if given.slurm:
                tallies[ON_SLURM] = Tally(span=6.0)
                campaign_on_slurm(Path(name) / "slurm", tallies[ON_SLURM], given.seed, given.slurm)
        finally:  # what was seen before an interrupt counts
            print(f"seed {given.seed}, count {given.count}, {time.monotonic() - began:.0f} s")
            whole = show(tallies)
        sys.exit(not whole)


if __name__ == "__main__":
    main()
