"""Executing one run: load, distil, score, record - and go on where a killed attempt stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil

from benchmark.datasets.dataset import Dataset
from benchmark.datasets.store import DatasetName, load_dataset
from benchmark.environments import make_batched
from benchmark.errors import ObdBenchError
from benchmark.evaluation import score
from benchmark.files import write_atomic
from benchmark.method import Assignment, Policy, Problem, State
from benchmark.provenance import provenance
from benchmark.record import FILE, SCHEMA, Record, read_record, write_record
from benchmark.scaling import Scaling
from benchmark.spec import RunSpec
from benchmark.state import load_state, save_state
from benchmark.synthetic_set import SyntheticSet, save_synthetic_set
from benchmark.teachers.store import find_teacher
from benchmark.teachers.teacher import NetworkTeacher

SAVE_EVERY_SECONDS = 30.0
HEARTBEAT_SECONDS = 1.0
ALIVE = "alive.json"

OnProgress = Callable[[str, int, int], None]
"""Called with (run id, outer step, of how many)."""


def run_folder(store: Path, spec: RunSpec) -> Path:
    """Where a run's record, sets and saved state are kept."""
    return store / spec.cell_id / f"seed{spec.seed}"


def execute(
    spec: RunSpec,
    store: Path,
    on_progress: OnProgress | None = None,
    *,
    save_every: float = SAVE_EVERY_SECONDS,
) -> Record:
    """Does one run and leaves its record, whatever happens; a complete record is returned as it is.

    A run that raises leaves a failed record with the error. A run that is killed leaves its saved
    state, from which the next call goes on to the same numbers.

    Args:
        spec: The run.
        store: Folder of records.
        on_progress: Called as the method goes on.
        save_every: Seconds of work that a killed run may lose.
    """
    folder = run_folder(store, spec)
    if (record := existing_record(folder)) is not None and record["status"] == "complete":
        return record
    run = _Run(spec, folder, on_progress, save_every)
    with run.heartbeat():
        try:
            method, problem, monitor = run.prepare()
            method.distill(problem, monitor)
            record = run.complete_record()
        except Exception as error:  # whatever a method raises is a row of the table, never a gap
            record = run.record("failed", error)
        write_record(folder / FILE, record)
    if record["status"] == "complete":
        run.forget_state()
    return record


def execute_pack(
    specs: Sequence[RunSpec],
    store: Path,
    on_progress: OnProgress | None = None,
    *,
    save_every: float = SAVE_EVERY_SECONDS,
) -> None:
    """Does several runs that may be advanced together, in one batch; each leaves its own record.

    The numbers are those of the runs one by one, and a run's seconds are its share of the pack's.
    Where the pack raises, its runs are done one by one instead, from their saved states: an error
    is the record of the run that it belongs to, and costs the others nothing but time.
    """
    todo = [spec for spec in specs if not _is_complete(run_folder(store, spec))]
    if len(todo) < 2 or not _advance_together(todo, store, on_progress, save_every):
        for spec in todo:
            execute(spec, store, on_progress, save_every=save_every)


def _advance_together(
    specs: Sequence[RunSpec], store: Path, on_progress: OnProgress | None, save_every: float
) -> bool:
    """Whether all runs of a pack were completed in one batch."""
    runs = [_Run(spec, run_folder(store, spec), on_progress, save_every) for spec in specs]
    stopwatch = Stopwatch([run.cost for run in runs])
    with contextlib.ExitStack() as beating:
        for run in runs:
            run.stopwatch = stopwatch
            beating.enter_context(run.heartbeat())
        try:
            assignments = [run.prepare() for run in runs]
            assignments[0].method.distill_packed(assignments)
            records = [run.complete_record() for run in runs]
        except Exception as error:  # whose it is shows when the runs are done one by one
            logging.getLogger(__name__).warning(
                "%d packed runs go on one by one: %s: %s", len(runs), type(error).__name__, error
            )
            return False
        for run, record in zip(runs, records, strict=True):
            write_record(run.folder / FILE, record)
    for run in runs:
        run.forget_state()
    return True


def _is_complete(folder: Path) -> bool:
    record = existing_record(folder)
    return record is not None and record["status"] == "complete"


def last_sign(folder: Path) -> dict[str, Any] | None:
    """What a run that left no record last said: host, pid, attempt, step, of how many."""
    try:
        sign: dict[str, Any] = json.loads((folder / ALIVE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return sign


def existing_record(folder: Path) -> Record | None:
    """The record in a run's folder, if it has one."""
    path = folder / FILE
    return read_record(path) if path.exists() else None


class WorkerDied(ObdBenchError):
    """The process that worked on a run ended without leaving a record."""


def record_death(spec: RunSpec, store: Path, log: str) -> None:
    """Leaves a failed record for a run whose process died; its saved state stays for a retry."""
    folder = run_folder(store, spec)
    run = _Run(spec, folder)
    run.cost.attempts = max(1, run.cost.attempts - 1)  # the one that died is the last one
    with contextlib.suppress(ObdBenchError):  # a state that cannot be read is the retry's to report
        run.resume()
    message = f"The process working on this run died. The end of its log:\n{log}"
    write_record(folder / FILE, run.record("failed", WorkerDied(message)))
    (folder / ALIVE).unlink(missing_ok=True)


@dataclass
class Cost:
    """Seconds and steps, over all attempts."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    outer_steps: int = 0
    environment_steps: int = 0
    evaluation_wall_seconds: float = 0.0
    evaluation_environment_steps: int = 0
    attempts: int = 1


class Stopwatch:
    """Shares the time of one process between the runs that it works on."""

    def __init__(self, costs: Sequence[Cost]) -> None:
        self.costs = costs
        self.skip()

    def lap(self) -> None:
        """Adds the time since the last lap to every run's cost, in equal shares."""
        wall, cpu = self._wall, self._cpu
        self.skip()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for cost in self.costs:
            cost.wall_seconds += (self._wall - wall) / len(self.costs)
            cost.cpu_seconds += (self._cpu - cpu) / len(self.costs)
            cost.peak_memory_bytes = max(cost.peak_memory_bytes, peak)

    def skip(self) -> None:
        """Begins a lap without adding the last one."""
        self._wall, self._cpu = time.monotonic(), time.process_time()


@dataclass
class _Run:
    """One attempt at a run; it is the method's monitor."""

    spec: RunSpec
    folder: Path
    on_progress: OnProgress | None = None
    save_every: float = SAVE_EVERY_SECONDS
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = _now()
        self.cost.attempts = _earlier_attempts(self.folder) + 1
        self.dataset: Dataset | None = None
        self.loaded_teacher: NetworkTeacher | None = None
        self._total: int | None = None
        self._step = 0
        self._saved_at = self._beat_at = time.monotonic()
        self.stopwatch = Stopwatch([self.cost])

    def prepare(self) -> Assignment:
        """The method, what it may see, and this run as its monitor."""
        method = self.spec.build_method()
        self._total = getattr(method, "outer_steps", None)
        self.dataset = load_dataset(DatasetName.parse(self.spec.dataset))
        with contextlib.closing(make_batched(self.dataset.env_id, 1)) as environment:
            space = environment.action_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise ObdBenchError(
                f"{self.dataset.env_id} has actions {space}; this version distils continuous "
                f"actions only."
            )
        self.scaling = Scaling.of(self.dataset, space)
        problem = Problem(
            needs=method.needs,
            student=self.spec.student,
            scaling=self.scaling,
            axes={"run": self.spec.run_id},
            loaders={
                "dataset": lambda: self.dataset,
                "teacher": self._teacher,
                "environment": lambda: self.dataset.env_id if self.dataset else None,
                "log_density": self._no_density,
            },
        )
        return Assignment(method, problem, self)

    def complete_record(self) -> Record:
        """The record of a run whose method has ended.

        Raises:
            ObdBenchError: The method handed nothing in.
        """
        if not self.checkpoints:
            raise ObdBenchError(
                f"The method {self.spec.method} ended without a checkpoint; it must hand its "
                f"result to monitor.checkpoint(step, synthetic_set)."
            )
        return self.record("complete")

    # --- the method's monitor ---------------------------------------------------------------

    def due(self, step: int) -> bool:
        """Whether the protocol scores at this outer step, and it has not been scored before."""
        return self.spec.protocol.due(step, self._total or 0) and not self._scored(step)

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        """Scores a result; its set and returns are on disk when this returns."""
        if self._scored(step):
            return
        self.stopwatch.lap()
        assert self.dataset is not None
        began = time.monotonic()
        episodes = score(
            result,
            protocol=self.spec.protocol,
            student=self.spec.scoring_student,
            scaling=self.scaling,
            environment=self.dataset.env_id,
            axes={"run": self.spec.run_id, "step": step},
            on_progress=lambda _: self._beat_if_due(step, self._total or step),
        )
        if not np.isfinite(episodes.returns).all():
            raise ObdBenchError(
                f"{int((~np.isfinite(episodes.returns)).sum())} of {episodes.returns.size} returns "
                f"at outer step {step} are not finite: the policies that were scored diverged. "
                f"Lower the learning rate that they are trained with."
            )
        name = digest = None
        if isinstance(result, SyntheticSet):
            name = f"set-{step:08d}.safetensors"
            digest = save_synthetic_set(result, self.scaling, self.folder / name, self._card(step))
        mean = float(episodes.returns.mean())
        self.checkpoints.append(
            {
                "outer_step": step,
                "returns": episodes.returns.tolist(),
                "lengths": episodes.lengths.tolist(),
                "mean_return": mean,
                "normalized_return": float(self.dataset.reference.normalise(mean)),
                "synthetic_set": name,
                "sha256": digest,
            }
        )
        self.cost.outer_steps = max(self.cost.outer_steps, step)
        self.cost.evaluation_wall_seconds += time.monotonic() - began
        self.cost.evaluation_environment_steps += episodes.environment_steps
        self.stopwatch.skip()

    def resume(self) -> State | None:
        """The saved state of an earlier attempt: the method's tensors, scores and cost so far."""
        if not self._state_path.exists():
            return None
        tensors, facts = load_state(self._state_path)
        self.checkpoints = facts["checkpoints"]
        vars(self.cost).update({**facts["cost"], "attempts": self.cost.attempts})
        self.started = facts["started"]
        return State(tensors, facts["method"])

    def save(self, step: int, state: Callable[[], State]) -> None:
        """Writes the state if the last one is older than `save_every`."""
        if time.monotonic() - self._saved_at < self.save_every:
            return
        self.stopwatch.lap()
        now = state()
        facts = {
            "method": dict(now.facts),
            "checkpoints": self.checkpoints,
            "cost": vars(self.cost),
            "started": self.started,
        }
        save_state(self._state_path, now.tensors, facts)
        self._saved_at = time.monotonic()

    def progress(self, step: int, total: int) -> None:
        """Passes progress on, and lets `status` see that this run is alive."""
        self._step, self._total = step, total
        self._beat_if_due(step, total)
        if self.on_progress:
            self.on_progress(self.spec.run_id, step, total)

    def count_environment_steps(self, steps: int) -> None:
        """Adds steps that the method took in an environment."""
        self.cost.environment_steps += steps

    # --- the record -------------------------------------------------------------------------

    def record(self, status: str, error: Exception | None = None) -> Record:
        """This run's record as it stands."""
        self.stopwatch.lap()
        return {
            "schema": SCHEMA,
            "run_id": self.spec.run_id,
            "cell_id": self.spec.cell_id,
            "status": status,
            "spec": self.spec.as_dict(),
            "needs": self._needs(),
            "checkpoints": self.checkpoints,
            "score": self._score() if status == "complete" else None,
            "cost": vars(self.cost),
            "teacher": self._teacher_facts(),
            "provenance": {
                **provenance("cpu"),
                "environment": self.dataset.env_id if self.dataset else None,
                "dataset_sha256": self.dataset.sha256 if self.dataset else None,
            },
            "error": None
            if error is None
            else {
                "type": type(error).__name__,
                "message": str(error),
                "traceback": "".join(traceback.format_exception(error)),
            },
            "started": self.started,
            "finished": _now(),
        }

    def forget_state(self) -> None:
        """Removes what only an unfinished run needs, and what killed attempts left half-written."""
        self._state_path.unlink(missing_ok=True)
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """While it is open, `alive` tells other processes that this run is being worked on."""
        self._beat(0, 0)
        try:
            yield
        except BaseException:  # interrupted without a record: what stays says how far it came
            self._beat(self._step, self._total or 0, alive=False)
            raise
        self._alive_path.unlink(missing_ok=True)

    def _score(self) -> dict[str, Any]:
        used = self.checkpoints[-self.spec.protocol.last :]
        return {
            "normalized_return": float(np.mean([c["normalized_return"] for c in used])),
            "return": float(np.mean([c["mean_return"] for c in used])),
            "outer_steps_used": [c["outer_step"] for c in used],
        }

    def _needs(self) -> list[str]:
        try:
            return sorted(self.spec.build_method().needs)
        except ObdBenchError:
            return []  # the method does not load, which is what the record's error says

    def _teacher(self) -> NetworkTeacher:
        if self.loaded_teacher is None:
            assert self.dataset is not None
            self.loaded_teacher = find_teacher(self.dataset, self.spec.teacher)
        return self.loaded_teacher

    def _teacher_facts(self) -> dict[str, Any] | None:
        if self.loaded_teacher is None:
            return None
        facts = self.loaded_teacher.facts
        measured = facts.get("evaluation") or {}
        return {
            "name": self.spec.teacher,
            "sha256": facts["sha256"],
            "return": measured.get("return"),
            "normalized_return": measured.get("normalized_return"),
            "episodes": measured.get("episodes"),
        }

    def _no_density(self) -> None:
        raise ObdBenchError("Log densities are not part of this version of the suite.")

    def _card(self, step: int) -> dict[str, Any]:
        assert self.dataset is not None
        return {
            "run_id": self.spec.run_id,
            "outer_step": step,
            "spec": self.spec.as_dict(),
            "environment": self.dataset.env_id,
            "dataset_sha256": self.dataset.sha256,
        }

    def _scored(self, step: int) -> bool:
        return any(c["outer_step"] == step for c in self.checkpoints)

    def _beat_if_due(self, step: int, total: int) -> None:
        if time.monotonic() - self._beat_at > HEARTBEAT_SECONDS:
            self._beat(step, total)

    def _beat(self, step: int, total: int, *, alive: bool = True) -> None:
        self._beat_at = time.monotonic()
        facts = {
            "host": platform.node(),
            "pid": os.getpid() if alive else None,
            "process_started": psutil.Process().create_time(),
            "attempt": self.cost.attempts,
            "step": step,
            "total": total,
        }
        write_atomic(self._alive_path, json.dumps(facts))

    @property
    def _state_path(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def _alive_path(self) -> Path:
        return self.folder / ALIVE


def _earlier_attempts(folder: Path) -> int:
    """Processes that worked on a run before, from its last sign of life or its failed record."""
    sign, record = last_sign(folder), existing_record(folder)
    return max(
        sign["attempt"] if sign else 0,
        int(record["cost"]["attempts"]) if record else 0,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
