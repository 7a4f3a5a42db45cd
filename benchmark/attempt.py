"""One attempt at a run: what its method sees, how it reports, and the record that it leaves."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.clocks import Cost, SaveClock, Stopwatch
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.store import DatasetName, load_dataset
from benchmark.density.log_densities import Fit, LogDensity, find_or_fit
from benchmark.environments import action_space
from benchmark.errors import ObdBenchError
from benchmark.evaluation import score
from benchmark.heartbeat import Heartbeat, last_sign
from benchmark.method import METHODS, Assignment, Method, Policy, Problem, State
from benchmark.provenance import provenance
from benchmark.record import FILE, SCHEMA, Record, read_record
from benchmark.scaling import Scaling
from benchmark.spec import RunSpec
from benchmark.state import load_state, save_state
from benchmark.synthetic_set import SyntheticSet, save_synthetic_set
from benchmark.teachers.teacher import NetworkTeacher
from benchmark.teachers.teacher_files import find_teacher

OnProgress = Callable[[str, int, int], None]
"""Called with (run id, outer step, of how many)."""


@dataclass
class Attempt:
    """One attempt at a run; it is the method's monitor."""

    spec: RunSpec
    folder: Path
    on_progress: OnProgress | None = None
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    save_clock: SaveClock = field(default_factory=SaveClock)
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = _now()
        self.cost.attempts = _earlier_attempts(self.folder) + 1
        self.dataset: Dataset | None = None
        self.loaded_teacher: NetworkTeacher | None = None
        self.loaded_density: LogDensity | None = None
        self._total: int | None = None
        self._handed_in: set[int] = set()
        self.heartbeat = Heartbeat(self.folder, self.cost.attempts)
        self.stopwatch = Stopwatch([self.cost])

    def prepare(self) -> Assignment:
        """The method, what it may see, and this run as its monitor."""
        method = self.spec.build_method()
        self._total = getattr(method, "outer_steps", None)
        self.dataset = load_dataset(DatasetName.parse(self.spec.dataset))
        self.scaling = Scaling.of(self.dataset, action_space(self.dataset.env_id))
        problem = Problem(
            needs=method.needs,
            student=self.spec.student,
            scaling=self.scaling,
            axes={"run": self.spec.distillation_id},
            loaders={
                "dataset": lambda: self.dataset,
                "teacher": self._teacher,
                "environment": lambda: self.dataset.env_id if self.dataset else None,
                "log_density": lambda: self._log_density().values,
            },
            device=self.device,
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
        if step in self._handed_in:
            raise ObdBenchError(
                f"The method handed in two results for outer step {step}; a step is scored once."
            )
        self._handed_in.add(step)
        if self._scored(step):  # by an earlier attempt
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
            axes={**self._axes, "step": step},
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
        self._check_unchanged(facts)
        self.checkpoints = facts["checkpoints"]
        vars(self.cost).update({**facts["cost"], "attempts": self.cost.attempts})
        self.started = facts["started"]
        return State(tensors, facts["method"])

    def save(self, step: int, state: Callable[[], State]) -> None:
        """Writes the state if one is due at this step."""
        if not self.save_clock.due(step):
            return
        self.stopwatch.lap()
        now = state()
        facts = {
            "method": dict(now.facts),
            "checkpoints": self.checkpoints,
            "cost": vars(self.cost),
            "started": self.started,
            "dataset_sha256": self.dataset.sha256 if self.dataset else None,
            "teacher_sha256": self.loaded_teacher and self.loaded_teacher.facts["sha256"],
            "density_sha256": self.loaded_density and self.loaded_density.facts["sha256"],
        }
        save_state(self._state_path, now.tensors, facts)

    def progress(self, step: int, total: int) -> None:
        """Passes progress on, and lets `status` see that this run is alive."""
        self._total = self.heartbeat.total = total
        self.heartbeat.step = step
        if self.on_progress:
            self.on_progress(self.spec.run_id, step, total)

    def count_environment_steps(self, steps: int) -> None:
        """Adds steps that the method took in an environment."""
        self.cost.environment_steps += steps

    # --- the record -------------------------------------------------------------------------

    def record(self, status: str, error: Exception | None = None) -> Record:
        """This run's record as it stands."""
        self.stopwatch.lap()
        kind = self._kind()
        return {
            "schema": SCHEMA,
            "run_id": self.spec.run_id,
            "cell_id": self.spec.cell_id,
            "status": status,
            "spec": self.spec.as_dict(),
            "needs": sorted(getattr(kind, "needs", ())),
            "reference": getattr(kind, "reference", False),
            "checkpoints": self.checkpoints,
            "score": self._score() if status == "complete" else None,
            "cost": vars(self.cost),
            "teacher": self._teacher_facts(),
            "density": self._density_facts(),
            "provenance": {
                **provenance(self.device),
                "environment": self.dataset.env_id if self.dataset else None,
                "dataset_sha256": self.dataset.sha256 if self.dataset else None,
                "seeds": {
                    "seed": self.spec.seed,
                    "distillation": {"run": self.spec.distillation_id},
                    "axes": self._axes,
                },
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

    def _score(self) -> dict[str, Any]:
        # What a method starts from is scored too, but is no result of a method that went on.
        results = [c for c in self.checkpoints if c["outer_step"] > 0] or self.checkpoints
        used = results[-self.spec.protocol.last :]
        return {
            "normalized_return": float(np.mean([c["normalized_return"] for c in used])),
            "return": float(np.mean([c["mean_return"] for c in used])),
            "outer_steps_used": [c["outer_step"] for c in used],
        }

    def _kind(self) -> type[Method] | None:
        try:
            return METHODS[self.spec.method]
        except ObdBenchError:
            return None  # the method does not load, which is what the record's error says

    def _check_unchanged(self, facts: Mapping[str, Any]) -> None:
        """Refuses to go on from a state that was saved on other data than are here now."""
        dataset, teacher, density = self.dataset, self.loaded_teacher, self.loaded_density
        for what, saved, now in (
            ("the data", facts["dataset_sha256"], dataset and dataset.sha256),
            ("the teacher", facts["teacher_sha256"], teacher and teacher.facts["sha256"]),
            ("the log densities", facts["density_sha256"], density and density.facts["sha256"]),
        ):
            if now and saved not in (None, now):
                raise ObdBenchError(
                    f"{self._state_path} was saved with {what} of sha256 {saved}; those of "
                    f"{self.spec.dataset} found now have {now}. Put back what it was saved with, "
                    f"or remove the file to start this run anew."
                )

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

    def _log_density(self) -> LogDensity:
        """Fitted by the first run that asks; like the teacher's training, it is not its cost."""
        if self.loaded_density is None:
            assert self.dataset is not None
            self.stopwatch.lap()
            self.loaded_density = find_or_fit(self.dataset, Fit.of(self.spec.density))
            self.stopwatch.skip()
        return self.loaded_density

    def _density_facts(self) -> dict[str, Any] | None:
        if self.loaded_density is None:
            return None
        facts = self.loaded_density.facts
        return {
            "name": self.spec.density,
            "sha256": facts["sha256"],
            "held_out_log_likelihood": (facts["held_out"] or {}).get("mean"),
            "held_out_standard_error": (facts["held_out"] or {}).get("standard_error"),
            "not_finite": facts["not_finite"]["count"],
        }

    def _card(self, step: int) -> dict[str, Any]:
        assert self.dataset is not None
        return {
            "run_id": self.spec.run_id,
            "outer_step": step,
            "spec": self.spec.as_dict(),
            "environment": self.dataset.env_id,
            "dataset_sha256": self.dataset.sha256,
        }

    @property
    def _axes(self) -> dict[str, str | int]:
        """What every seed of the scoring derives from, beside its purpose and step."""
        return {"run": self.spec.run_id}

    def _scored(self, step: int) -> bool:
        return any(c["outer_step"] == step for c in self.checkpoints)

    @property
    def _state_path(self) -> Path:
        return self.folder / "state.safetensors"


def existing_record(folder: Path) -> Record | None:
    """The record in a run's folder, if it has one."""
    path = folder / FILE
    return read_record(path) if path.exists() else None


def is_complete(folder: Path) -> bool:
    """Whether a run's folder holds a complete record."""
    record = existing_record(folder)
    return record is not None and record["status"] == "complete"


def _earlier_attempts(folder: Path) -> int:
    """Processes that worked on a run before, from its last sign of life or its failed record."""
    sign, record = last_sign(folder), existing_record(folder)
    return max(
        sign["attempt"] if sign else 0,
        int(record["cost"]["attempts"]) if record else 0,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
