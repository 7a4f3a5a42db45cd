"""Clocks that the runs of a pack share: the cost of a run, and when its state is to be saved."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from benchmark.stopping import StopRequest

SAVE_EVERY_SECONDS = 30.0

Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]


@dataclass
class Cost:
    """Seconds, bytes and steps of a run over all attempts, as its record keeps them.

    `checkpoint_cpu_seconds` and `checkpoint_environment_steps` are the `cpu_seconds` and
    `environment_steps` that each checkpoint's result had taken, in their order, its scoring left
    out; empty in records of earlier versions.
    """

    wall_seconds: Seconds = 0.0
    cpu_seconds: Seconds = 0.0
    peak_memory_bytes: Count = 0
    outer_steps: Count = 0
    environment_steps: Count = 0
    evaluation_wall_seconds: Seconds = 0.0
    evaluation_environment_steps: Count = 0
    attempts: Annotated[int, Meta(ge=1)] = 1
    checkpoint_cpu_seconds: list[Seconds] = field(default_factory=list)
    checkpoint_environment_steps: list[Count] = field(default_factory=list)


class Stopwatch:
    """A stopwatch that divides the time of one process between its runs."""

    def __init__(self, costs: Sequence[Cost]) -> None:
        self.costs = costs
        self.skip()

    def lap(self) -> None:
        """Add the time since the last lap to every run's cost, in equal shares."""
        wall, cpu = self._wall, self._cpu
        self.skip()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
        for cost in self.costs:
            cost.wall_seconds += (self._wall - wall) / len(self.costs)
            cost.cpu_seconds += (self._cpu - cpu) / len(self.costs)
            cost.peak_memory_bytes = max(cost.peak_memory_bytes, peak)

    def skip(self) -> None:
        """Begin a lap without adding the last one."""
        self._wall, self._cpu = time.monotonic(), time.process_time()


class SaveClock:
    """A clock that says at which steps state is saved, the same for all runs of a pack.

    Args:
        every: Seconds between saves; 0 saves at every step.
        stop: Request to stop; once it is made, the next step is saved and the one after it is not
            begun.
    """

    def __init__(self, every: float = SAVE_EVERY_SECONDS, stop: StopRequest | None = None) -> None:
        self.every, self.stop = every, stop or StopRequest()
        self._step: int | None = None
        self._due = self._last = False
        self._at = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether state is to be saved at this step; the first call for a step decides for all.

        Raises:
            Stopped: Every run has saved the step before, as it was asked to.
        """
        if step != self._step:
            if self._last:
                self.stop.check()
            self._step, self._last = step, self.stop.asked
            self._due = self._last or time.monotonic() - self._at >= self.every
            if self._due:
                self._at = time.monotonic()
        return self._due
