"""The monitor of a run: scores what its method hands over, and keeps the state that it saves."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import Tensor

from benchmark.clocks import Cost, SaveClock, Stopwatch
from benchmark.config import in_64_bits, plain
from benchmark.environments.contacts import contact_rule
from benchmark.errors import ObdBenchError, encodable, short
from benchmark.evaluation import score
from benchmark.heartbeat import Heartbeat
from benchmark.materials import Materials
from benchmark.method import Policy, State, advice_on_divergence
from benchmark.provenance import either_dirty
from benchmark.record import Checkpoint, MethodFact
from benchmark.state import load_state, save_state
from benchmark.synthetic_set import SyntheticSet, save_synthetic_set

STATE = "state.safetensors"
SCORED_ONLY = "sets_of"
"""Fact in the saved state of a run that scores another's sets: no method can go on from it."""

OnProgress = Callable[[str, int, int], None]
"""Called with (run id, outer step, number of outer steps)."""


def now() -> str:
    """The time in UTC, to the second, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Outcome:
    """What all attempts at a run have come to so far.

    Args:
        cost: Seconds, bytes and steps.
        checkpoints: Scored results by outer step.
        started: Time at which the first attempt began.
        method_facts: What the method noted of itself.
        resumed_from: What was other in an earlier attempt, as the record has it.
        commit: Commit of this attempt's code.
        dirty: Whether the code of any attempt had uncommitted changes; None where unknown.
    """

    cost: Cost = field(default_factory=Cost)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    started: str = field(default_factory=now)
    method_facts: dict[str, MethodFact] = field(default_factory=dict)
    resumed_from: list[str] = field(default_factory=list)
    commit: str | None = None
    dirty: bool | None = None

    def as_facts(self) -> dict[str, Any]:
        """Plain values (JSON), kept with the saved state."""
        facts: dict[str, Any] = msgspec.to_builtins(asdict(self))
        return facts

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take over what an earlier attempt kept by `as_facts`; the count of attempts stays."""
        self.checkpoints = msgspec.convert(facts["checkpoints"], list[Checkpoint])
        vars(self.cost).update({**facts["cost"], "attempts": self.cost.attempts})
        self.started = facts["started"]
        self.method_facts = dict(facts["method_facts"])
        self.resumed_from = list(facts.get("resumed_from", ()))
        if (earlier := facts.get("commit")) != self.commit:
            self.name_other(f"commit {earlier or 'unknown'}")
        self.dirty = either_dirty(self.dirty, facts.get("dirty"))

    def name_other(self, text: str) -> None:
        """Note what was other in an earlier attempt, once."""
        if text not in self.resumed_from:
            self.resumed_from.append(text)

    def forget_results(self) -> None:
        """Drop what a method gave and said: what it cost stays."""
        self.checkpoints, self.method_facts = [], {}
        self.cost.checkpoint_cpu_seconds, self.cost.checkpoint_environment_steps = [], []


class RunMonitor:
    """Where the method of one run reports; a call is cheap when nothing is due.

    Args:
        materials: What the run works with.
        folder: Folder of the run.
        outcome: Scores and cost of the run, added to.
        stopwatch: Shares the process's time between the runs of a pack.
        save_clock: Says when state is due; one for a pack.
        heartbeat: The run's sign of life.
        origin: What the bits of this attempt depend on, in words by name; kept with the state.
        on_progress: Called as the method goes on.
    """

    def __init__(
        self,
        materials: Materials,
        folder: Path,
        *,
        outcome: Outcome,
        stopwatch: Stopwatch,
        save_clock: SaveClock,
        heartbeat: Heartbeat,
        origin: Mapping[str, str],
        on_progress: OnProgress | None = None,
    ) -> None:
        self.materials, self.folder, self.outcome = materials, folder, outcome
        self.stopwatch, self.save_clock = stopwatch, save_clock
        self.heartbeat, self.origin, self.on_progress = heartbeat, origin, on_progress
        self.spec = materials.spec
        self._total: int = self.spec.method_instance.total_outer_steps
        self._reported: set[int] = set()

    def due(self, step: int) -> bool:
        """Whether the protocol scores at this outer step, and it has not been scored before."""
        return self.spec.protocol.due(step, self._total) and not self._scored(step)

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        """Score a result; its set and returns are on disk when this returns.

        Raises:
            ObdBenchError: The step is not a count, has a result already, or lies before one that
                has; or the scored policies diverged.
        """
        step = count_of(step, "gave a result for outer step")
        if step in self._reported:
            raise ObdBenchError(
                f"The method gave two results for outer step {step}; a step is scored once."
            )
        self._reported.add(step)
        if self._scored(step):  # by an earlier attempt
            return
        if self.outcome.checkpoints and step < (last := self.outcome.checkpoints[-1].outer_step):
            raise ObdBenchError(
                f"The method gave a result for outer step {step} after one for {last}; outer steps "
                f"must rise, because the last results make the score."
            )
        self.stopwatch.lap()
        began = time.monotonic()
        episodes = score(
            result,
            protocol=self.spec.protocol,
            student=self.spec.scoring_student,
            scaling=self.materials.scaling,
            environment=self.materials.dataset.env_id,
            axes=self.spec.scoring_axes,
        )
        if not np.isfinite(episodes.returns).all():
            raise ObdBenchError(
                f"{int((~np.isfinite(episodes.returns)).sum())} of {episodes.returns.size} returns "
                f"at outer step {step} are not finite: the policies that were scored diverged. "
                f"{self._advice(result)}"
            )
        name = digest = None
        if isinstance(result, SyntheticSet):
            name = f"set-{step:08d}.safetensors"
            path = self.folder / name
            digest = save_synthetic_set(result, self.materials.scaling, path, self._card(step))
        mean = float(episodes.returns.mean())
        self.outcome.checkpoints.append(
            Checkpoint(
                outer_step=step,
                returns=episodes.returns.tolist(),
                lengths=episodes.lengths.tolist(),
                mean_return=mean,
                normalized_return=float(self.materials.dataset.reference.normalise(mean)),
                synthetic_set=name,
                sha256=digest,
            )
        )
        cost = self.outcome.cost
        so_far: tuple[tuple[list[Any], float], ...] = (
            (cost.checkpoint_cpu_seconds, cost.cpu_seconds),
            (cost.checkpoint_environment_steps, cost.environment_steps),
        )
        for known, spent in so_far:
            # One that resumed from a state of an earlier version stays without.
            if len(known) + 1 == len(self.outcome.checkpoints):
                known.append(spent)
        cost.outer_steps = max(cost.outer_steps, step)
        cost.evaluation_wall_seconds += time.monotonic() - began
        cost.evaluation_environment_steps += episodes.environment_steps
        self.stopwatch.skip()

    def resume(self) -> State | None:
        """The saved state of an earlier attempt: the method's tensors, scores and cost so far.

        Raises:
            ObdBenchError: It cannot be read, or was saved on other data or with other contacts than
                are here now.
        """
        found = self._saved()
        if found is None or SCORED_ONLY in (facts := found[1])["method"]:
            return None
        self.outcome.restore(facts)
        for text in self._changed(facts):
            self.outcome.name_other(text)
        return State(found[0], facts["method"])

    def resume_scores(self, sets_of: str) -> None:
        """Take over the scores of an earlier attempt, if it scored the sets of the same run here.

        Others are made again: scores of sets of two origins would share one record.

        Raises:
            ObdBenchError: The state cannot be read, or was saved on other data or contacts.
        """
        found = self._saved()
        if found is None or self._changed(facts := found[1]):
            return
        if facts["method"].get(SCORED_ONLY) == sets_of:
            self.outcome.restore(facts)

    def _changed(self, facts: Mapping[str, Any]) -> list[str]:
        """What a saved state was made with, where that is other now."""
        saved: Mapping[str, str] = facts.get("origin", self.origin)
        return [
            f"{name} {saved.get(name, 'unknown')}"
            for name in sorted({*saved, *self.origin})
            if saved.get(name) != self.origin.get(name)
        ]

    def _saved(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        path = self.folder / STATE
        if not path.exists():
            return None
        tensors, facts = load_state(path)
        self._check_unchanged(path, facts["digests"])
        if facts.get("contacts") != (rule := contact_rule(self.materials.dataset.env_id)):
            raise ObdBenchError(
                f"{path} was saved with other contacts in {self.materials.dataset.env_id} "
                f"({facts.get('contacts') or 'no rule named'}) than it has here ({rule}). Remove "
                f"the file to start this run anew."
            )
        return tensors, facts

    def save(self, step: int, state: Callable[[], State]) -> None:
        """Write the state if one is due at this step.

        A full disk loses only this save, and the run goes on; where the run is to end, it says so.

        Raises:
            OSError: The run was asked to end, and its state cannot be written.
        """
        if not self.save_clock.due(step):
            return
        self.stopwatch.lap()
        current = state()
        facts = {
            "method": dict(current.facts),
            "digests": self.materials.digests,
            "contacts": contact_rule(self.materials.dataset.env_id),
            "origin": dict(self.origin),
            **self.outcome.as_facts(),
        }
        try:
            save_state(self.folder / STATE, current.tensors, facts)
        except OSError as error:
            if self.save_clock.stop.asked:
                raise
            text = "The state of %s was not saved at outer step %d, and the run goes on: %s"
            logging.getLogger(__name__).warning(text, self.spec.run_id, step, error)

    def progress(self, step: int, total: int) -> None:
        """Pass progress on, and let `status` see that this run is alive."""
        self._total = self.heartbeat.total = total
        self.heartbeat.step = step
        if self.on_progress:
            self.on_progress(self.spec.run_id, step, total)

    def count_environment_steps(self, steps: int) -> None:
        """Add steps that the method took in an environment.

        Raises:
            ObdBenchError: It is not a count.
        """
        self.outcome.cost.environment_steps += count_of(steps, "counted environment steps:")

    def note(self, **facts: float | str) -> None:
        """Keep facts of the method's own for the record; a number that is not finite as None.

        Raises:
            ObdBenchError: A fact is neither a number that a record holds nor a text.
        """
        for name, given in facts.items():
            self.outcome.method_facts[name] = fact_of(name, given)

    def _advice(self, result: SyntheticSet | Policy) -> str:
        """A sentence: what to change where scored policies diverged."""
        advice = advice_on_divergence(self.spec.method_instance, self.spec.student)
        if not isinstance(result, SyntheticSet):
            return (
                f"They are the method's own. If it trains a student, lower student.learning_rate "
                f"({self.spec.student.learning_rate:g}); else: {advice}"
            )
        reach = [float(values.abs().max()) for values in (result.observations, result.actions)]
        return (
            f"Lower the learning rate of the student that is scored "
            f"({self.spec.scoring_student.learning_rate:g}), unless the set itself is far outside "
            f"the data (its observations reach {reach[0]:.3g}, its actions {reach[1]:.3g}). Then: "
            f"{advice}"
        )

    def _scored(self, step: int) -> bool:
        return any(checkpoint.outer_step == step for checkpoint in self.outcome.checkpoints)

    def _card(self, step: int) -> dict[str, Any]:
        return {
            "run_id": self.spec.run_id,
            "outer_step": step,
            "spec": self.spec.as_dict(),
            "environment": self.materials.dataset.env_id,
            "dataset_sha256": self.materials.dataset.sha256,
        }

    def _check_unchanged(self, path: Path, saved: Mapping[str, str | None]) -> None:
        for what, now in self.materials.digests.items():
            if now and saved.get(what) not in (None, now):
                raise ObdBenchError(
                    f"{path} was saved with {what} of sha256 {saved[what]}; those of "
                    f"{self.spec.dataset} found now have {now}. Put back what it was saved with, "
                    f"or remove the file to start this run anew."
                )


def fact_of(name: str, given: object) -> MethodFact:
    """A fact that a method notes, as records have it; a number that is not finite is None.

    Raises:
        ObdBenchError: It is neither a number that a record holds nor a text.
    """
    value = plain(given)
    value = int(value) if isinstance(value, bool) else value
    if not isinstance(value, int | float | str):
        raise ObdBenchError(
            f"The method noted {name} as {type(value).__name__}; a fact is one number or "
            f"a text, e.g. float({name})."
        )
    if isinstance(value, int) and not in_64_bits(value):
        raise ObdBenchError(
            f"The method noted {name} = {short(value)}, which is beyond 64 bits; note "
            f"float({name})."
        )
    if isinstance(value, str):
        return encodable(value)
    return value if math.isfinite(value) else None


def count_of(given: int, what: str) -> int:
    """A count that a method gives, of Python's, NumPy's or torch's integers.

    Raises:
        ObdBenchError: It is something else, negative, or beyond 64 bits.
    """
    value = plain(given)
    if not isinstance(value, int) or value < 0 or not in_64_bits(value):
        raise ObdBenchError(
            f"The method {what} {short(given)} ({type(given).__name__}); expected an integer, 0 or "
            f"more."
        )
    return value
