"""A plug-in of methods that go wrong, each in its own way; loaded as a third party's would be."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from baselines.obd import DBC
from baselines.selection import draw_pairs
from benchmark.density.log_densities import LogDensity
from benchmark.method import Assignment
from benchmark.students.spec import StudentSpec
from benchmark.teachers.teacher import NetworkTeacher
from benchmark.work import Priced
from obdbench import METHODS, Method, Monitor, Problem, SyntheticSet


@dataclass(frozen=True)
class Raises(Method):
    """Hands in one checkpoint, then raises."""

    message: str = "the third step went wrong"

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.checkpoint(0, draw_pairs(problem, 4))
        raise ValueError(self.message)


@dataclass(frozen=True)
class NoEngine(Method):
    """Cannot name its engine, or names none."""

    message: str = "no engine here"

    def engine(self, device: str) -> str:
        if self.message:
            raise ValueError(self.message)
        return None  # type: ignore[return-value]

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.checkpoint(0, draw_pairs(problem, 4))


@dataclass(frozen=True)
class NoWork(Method):
    """Cannot say what it costs, or says a number."""

    message: str = "no work here"

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced | None:
        if self.message:
            raise ValueError(self.message)
        return 3.0  # type: ignore[return-value]

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.checkpoint(0, draw_pairs(problem, 4))


@dataclass(frozen=True)
class ReadsDevice(Method):
    """Asks for the device, as a method does that sends tensors there."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        assert problem.device
        monitor.checkpoint(0, draw_pairs(problem, 4))


@dataclass(frozen=True)
class Silent(Method):
    """Never hands in a result."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.progress(1, 1)


@dataclass(frozen=True)
class GoesBack(Method):
    """Gives a result for an outer step before the last one."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        for step in (2, 1):
            monitor.checkpoint(step, draw_pairs(problem, 4))


@dataclass(frozen=True)
class Diverges(Method):
    """Hands in a set with values that are not numbers."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        pairs = draw_pairs(problem, 4)
        monitor.checkpoint(0, SyntheticSet(pairs.observations, pairs.actions * torch.nan))


@dataclass(frozen=True)
class _NotANumber:
    act_dim: int
    count: int = 1

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return np.full((1, observations.shape[1], self.act_dim), np.nan, dtype=np.float32)


@dataclass(frozen=True)
class BadPolicy(Method):
    """Hands in a policy whose actions are not numbers."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            monitor.checkpoint(0, _NotANumber(problem.action_dim))


@dataclass(frozen=True)
class Peeks(Method):
    """Looks at the environment without having said so."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.checkpoint(0, draw_pairs(problem, len(problem.environment)))


@dataclass(frozen=True)
class DiesOnce(DBC):
    """DBC whose process is killed at an outer step, if `marker` is not there yet."""

    marker: str = ""
    dies_at: int = 4

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        super().distill(problem, cast(Monitor, _Deadly(monitor, Path(self.marker), self.dies_at)))


class _Deadly:
    """A monitor that kills its process once."""

    def __init__(self, monitor: Monitor, marker: Path, dies_at: int) -> None:
        self._monitor, self._marker, self._dies_at = monitor, marker, dies_at

    def __getattr__(self, name: str) -> object:
        return getattr(self._monitor, name)

    def progress(self, step: int, total: int) -> None:
        self._monitor.progress(step, total)
        if step == self._dies_at and not self._marker.exists():
            self._marker.touch()
            print("the last words of this process", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Slow(DBC):
    """DBC that takes its time: `pause` seconds for every outer step, by the environment.

    The pause is not a parameter, so that a quick run elsewhere is the same run.
    """

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        self.distill_packed([Assignment(self, problem, monitor)])

    @classmethod
    def distill_packed(cls, assignments: Sequence[Assignment]) -> None:
        pause = float(os.environ.get("OBDBENCH_TEST_PAUSE", "0")) / len(assignments)
        super().distill_packed(
            [
                Assignment(method, problem, cast(Monitor, _Sleepy(monitor, pause)))
                for method, problem, monitor in assignments
            ]
        )


class _Sleepy:
    """A monitor that sleeps at every step."""

    def __init__(self, monitor: Monitor, pause: float) -> None:
        self._monitor, self._pause = monitor, pause

    def __getattr__(self, name: str) -> object:
        return getattr(self._monitor, name)

    def progress(self, step: int, total: int) -> None:
        self._monitor.progress(step, total)
        time.sleep(self._pause)


@dataclass(frozen=True)
class Deaf(Method):
    """Hears no signal that it could answer, and never ends by itself."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(3600)


@dataclass(frozen=True)
class WrongUnits(Method):
    """Random pairs in the units that students learn in, or otherwise out of place."""

    synthetic_size: int = 256
    wrong: str = "observations"

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        pairs, scaling = draw_pairs(problem, self.synthetic_size), problem.scaling
        observations, actions = pairs.observations, pairs.actions
        match self.wrong:
            case "observations":
                observations = scaling.observations_in(observations)
            case "raw taken for normalised":
                observations = scaling.observations_out(observations)
            case "actions":
                actions = scaling.actions_in(actions)
            case "outside":
                actions = scaling.actions_out(3 * scaling.actions_in(actions))
            case "policy":
                monitor.checkpoint(0, _Constant(1.1 * actions.max(0).values.numpy()))
                return
        monitor.checkpoint(0, SyntheticSet(observations, actions))


@dataclass(frozen=True)
class _Constant:
    """A policy that takes one action everywhere."""

    action: np.ndarray
    count: int = 1

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.action, (*observations.shape[:2], len(self.action))).copy()


@dataclass(frozen=True)
class InVain(Method):
    """Declares a teacher and log densities, and at most looks at them."""

    needs = frozenset({"dataset", "teacher", "log_density"})
    synthetic_size: int = 256
    uses: str = "nothing"

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        pairs = draw_pairs(problem, self.synthetic_size)
        if self.uses != "nothing":
            labels = problem.teacher.act(pairs.observations)
            if self.uses == "teacher":
                pairs = SyntheticSet(pairs.observations, problem.scaling.actions_out(labels))
            _ = problem.log_density.sum()
        monitor.checkpoint(0, pairs)


@dataclass(frozen=True)
class OwnInputs(Method):
    """Gets at a teacher or log densities without declaring them, by another way."""

    synthetic_size: int = 256
    takes: str = "teacher"

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        pairs = draw_pairs(problem, self.synthetic_size)
        match self.takes:
            case "teacher":
                layer = [(torch.ones(problem.action_dim, problem.observation_dim), torch.zeros(1))]
                mean, std = problem.scaling.mean, problem.scaling.std
                own = NetworkTeacher(layer, layer, mean, std, "exploration", {})
                own.act(pairs.observations)
            case "log_density":
                LogDensity(torch.zeros(len(problem.dataset)), {})
            case secret:
                problem._loaders[secret.removeprefix("the suite's ")]()
        monitor.checkpoint(0, pairs)


@dataclass(frozen=True)
class WaitsFor(Method):
    """Goes on when the file `marker` is there; raises where nobody makes it."""

    marker: str = ""
    seconds: float = 60.0

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        deadline = time.monotonic() + self.seconds
        while not Path(self.marker).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(self.marker)
            time.sleep(0.02)
        monitor.checkpoint(0, draw_pairs(problem, 4))


@dataclass(frozen=True)
class Leaves(Method):
    """Makes the file `marker`."""

    marker: str = ""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        Path(self.marker).touch()
        monitor.checkpoint(0, draw_pairs(problem, 4))


METHODS.register("waits_for", WaitsFor)
METHODS.register("leaves", Leaves)
METHODS.register("wrong_units", WrongUnits)
METHODS.register("in_vain", InVain)
METHODS.register("own_inputs", OwnInputs)
METHODS.register("slow", Slow)
METHODS.register("deaf", Deaf)
METHODS.register("raises", Raises)
METHODS.register("no_engine", NoEngine)
METHODS.register("no_work", NoWork)
METHODS.register("reads_device", ReadsDevice)
METHODS.register("silent", Silent)
METHODS.register("goes_back", GoesBack)
METHODS.register("diverges", Diverges)
METHODS.register("bad_policy", BadPolicy)
METHODS.register("peeks", Peeks)
METHODS.register("dies_once", DiesOnce)
