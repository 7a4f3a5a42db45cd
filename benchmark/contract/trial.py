"""Runs of one method on toy problems in memory, and a record of everything that it did in them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any
from unittest.mock import patch

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.contract.tiny import (
    CONTINUOUS,
    STUDENT,
    TRANSITIONS,
    CannotBeMade,
    Toy,
    require_parameters,
    tiny_method,
    toy,
)
from benchmark.density.log_densities import LogDensity
from benchmark.environments.lookup import find_specification, make_environment
from benchmark.environments.mujoco_batch import MujocoBatch
from benchmark.errors import ObdBenchError
from benchmark.method import Assignment, Method, Policy, Problem, State
from benchmark.monitor import count_of, fact_of
from benchmark.protocol import Protocol
from benchmark.record import MethodFact
from benchmark.synthetic_set import SyntheticSet
from benchmark.teachers.teacher import NetworkTeacher

PROTOCOL = Protocol("check", students=2, episodes=1, checkpoint_every=2, last=1)


class DoesNotRun(Exception):
    """An error of the method in a plain run, which stops every check that needs such a run."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Killed(BaseException):
    """The simulated end of a process; a BaseException, which a method does not catch."""


@dataclass
class Recorder:
    """A monitor that keeps all results, and can end the run between two saves.

    Args:
        total: Outer steps of the method; None where it has no parameter of that name.
        saved: State that `resume` gives.
        keep: Index of the offered state that is taken; the run is killed at the next offer. None
            takes no state and lets the run end.
    """

    total: int | None = None
    saved: State | None = None
    keep: int | None = None
    results: dict[int, SyntheticSet | Policy] = field(default_factory=dict)
    kept: State | None = None
    steps_at_kept: int = 0
    results_at_kept: dict[int, SyntheticSet | Policy] = field(default_factory=dict)
    offers: int = 0
    asked_to_resume: bool = False
    furthest: int = 0
    environment_steps: int = 0
    facts: dict[str, MethodFact] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        """Whether the protocol scores this step."""
        return PROTOCOL.due(step, self.total or 0)

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        """Keep a copy, since the method may go on changing the tensors."""
        step = count_of(step, "gave a result for outer step")
        if step in self.results:
            raise ObdBenchError(
                f"It submitted two results for outer step {step}; a step is scored once."
            )
        if isinstance(result, SyntheticSet):
            parts = vars(result).items()
            copies: dict[str, Any] = {k: v.clone() for k, v in parts if isinstance(v, Tensor)}
            result = replace(result, **copies)
        self.results[step] = result

    def resume(self) -> State | None:
        """The state that this recorder was made with."""
        self.asked_to_resume = True
        return self.saved

    def save(self, step: int, state: Callable[[], State]) -> None:
        """Take the state of offer `keep`, and end the run at the offer after it."""
        if self.keep is not None and self.offers > self.keep:
            raise Killed
        if self.offers == self.keep:
            self.kept, self.steps_at_kept = _as_stored(state()), self.environment_steps
            self.results_at_kept = dict(self.results)
        self.offers += 1

    def progress(self, step: int, total: int) -> None:
        """Keep the furthest step that the method reports."""
        self.total = total
        self.furthest = max(self.furthest, step)

    def count_environment_steps(self, steps: int) -> None:
        """Add the steps to the total."""
        self.environment_steps += count_of(steps, "counted environment steps:")

    def note(self, **facts: float | str) -> None:
        """Keep the facts, or refuse those that no record holds, as a run does."""
        self.facts |= {name: fact_of(name, value) for name, value in facts.items()}


class WatchedProblem(Problem):
    """A problem that records every access, also where the method caught the error."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.touched: set[str] = set()
        self.drawn_from = False
        self._loaders = {
            need: _noting(self.touched, need, load) for need, load in self._loaders.items()
        }

    def generator(self, purpose: str, step: int = 0) -> torch.Generator:
        """Record the call, and give the generator."""
        self.drawn_from = True
        return super().generator(purpose, step)

    def _get(self, need: str) -> Any:
        self.touched.add(need)
        return super()._get(need)


@dataclass(frozen=True)
class Observed:
    """Inputs, accesses and results of one run.

    Args:
        toy: Inputs of the run; the method may have written into them.
        problem: The problem, with a record of the accesses.
        recorder: The monitor, with all results and reports.
        stepped: Steps that environments of the toy's id took in this process.
    """

    toy: Toy
    problem: WatchedProblem
    recorder: Recorder
    stepped: int

    @property
    def results(self) -> dict[int, SyntheticSet | Policy]:
        """All submitted results, by outer step."""
        return self.recorder.results

    @property
    def final(self) -> SyntheticSet | Policy:
        """The result that was submitted last."""
        return list(self.results.values())[-1]


class Trial:
    """A method at tiny hyper-parameters, and runs of it.

    Args:
        prototype: The method: a class, or an instance such as a preset.
        settings: Hyper-parameters that override the tiny ones.

    Raises:
        BadConfiguration: A setting is not one of the method's hyper-parameters.
    """

    def __init__(self, prototype: Method | type[Method], settings: Mapping[str, Any]) -> None:
        self.kind = prototype if isinstance(prototype, type) else type(prototype)
        require_parameters(self.kind, settings)
        self.prototype, self.settings = prototype, settings
        self._runs = 0
        self._failure: Exception | None = None

    @cached_property
    def method(self) -> Method:
        """The method with its tiny hyper-parameters.

        Raises:
            DoesNotRun: The method refuses them.
        """
        try:
            return tiny_method(self.prototype, self.settings)
        except CannotBeMade as error:
            raise DoesNotRun(error) from error

    @cached_property
    def whole(self) -> Observed:
        """A plain run from beginning to end, done once for all checks.

        Raises:
            DoesNotRun: The run raised; every access raises it again.
        """
        if self._failure is None:
            try:
                found = self.run()
                if found.results:
                    return found
                raise ObdBenchError(
                    "It ended without a result. Submit one by monitor.checkpoint(step, result)."
                )
            except DoesNotRun as stop:
                self._failure = stop.error
            except Exception as error:  # a method may fail in any way; the checks say which
                self._failure = error
        raise DoesNotRun(self._failure)

    def run(
        self,
        *,
        seed: int = 0,
        env_id: str = CONTINUOUS,
        transitions: int = TRANSITIONS,
        given: Toy | None = None,
        recorder: Recorder | None = None,
        during: AbstractContextManager[object] | None = None,
        **changed: Any,
    ) -> Observed:
        """Do one run.

        Args:
            seed: The only axis of the run's random numbers.
            env_id: Environment of the toy problem.
            transitions: Size of the toy problem's dataset.
            given: Inputs of the run in place of those of `env_id` and `transitions`.
            recorder: Monitor of the run; where it kills the run, the run ends without an error.
            during: Context that is entered only while the method works.
            changed: Hyper-parameters that differ in this run.
        """
        method = replace(self.method, **changed)
        given = given or toy(env_id, transitions)
        problem = self.problem(given, seed)
        recorder = recorder or self.recorder(method)
        with (
            suppress(Killed),
            self._another_process(),
            environment_steps(env_id) as stepped,
            unseen_inputs(problem.touched),
            during or nullcontext(),
        ):
            method.distill(problem, recorder)
        return Observed(given, problem, recorder, sum(stepped))

    @cached_property
    def other_seed(self) -> Observed:
        """A run of seed 1, done once for all checks."""
        return self.run(seed=1)

    def run_packed(self, seeds: Sequence[int]) -> list[Recorder]:
        """Run these seeds as one pack."""
        recorders = [self.recorder(self.method) for _ in seeds]
        assignments = [
            Assignment(self.method, self.problem(toy(), seed), recorder)
            for seed, recorder in zip(seeds, recorders, strict=True)
        ]
        with self._another_process():
            self.method.distill_packed(assignments)
        return recorders

    def recorder(self, method: Method, **arguments: Any) -> Recorder:
        """Make a monitor for a run of this method."""
        return Recorder(total=method.total_outer_steps or None, **arguments)

    def problem(self, given: Toy, seed: int) -> WatchedProblem:
        """Make the problem that the method sees of a toy."""
        return WatchedProblem(
            needs=self.method.needs,
            student=self.method.student_for(STUDENT),
            scaling=given.scaling,
            axes={"run": f"check.seed{seed}"},
            loaders={
                "dataset": lambda: given.dataset,
                "teacher": lambda: given.teacher,
                "log_density": lambda: given.log_density,
                "environment": lambda: given.dataset.env_id,
            },
        )

    @contextmanager
    def _another_process(self) -> Iterator[None]:
        """Set global random states that no other run of this trial began with."""
        self._runs += 1
        numpy_state, python_state = np.random.get_state(), random.getstate()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._runs)
            np.random.seed(self._runs)
            random.seed(self._runs)
            try:
                yield
            finally:
                np.random.set_state(numpy_state)
                random.setstate(python_state)


@contextmanager
def environment_steps(env_id: str) -> Iterator[list[int]]:
    """Count steps in an environment by whatever means, as long as they are in this process."""
    steps: list[int] = []
    kind = _environment_class(env_id)

    def counting(step: Callable[..., Any], count: Callable[[Any], int]) -> Callable[..., Any]:
        def counted(self: Any, action: Any, *rest: Any) -> Any:
            steps.append(count(action))
            return step(self, action, *rest)

        return counted

    with (
        patch.object(kind, "step", counting(kind.step, lambda action: 1)),
        patch.object(MujocoBatch, "step", counting(MujocoBatch.step, len)),
    ):
        yield steps


@contextmanager
def unseen_inputs(touched: set[str]) -> Iterator[None]:
    """Note teachers and log densities that the method gets at by other ways than its problem."""

    teacher: type[Any] = NetworkTeacher
    with ExitStack() as stack:
        for need, kind, name in (
            *(("teacher", teacher, name) for name in ("act", "sample", "q")),
            ("log_density", LogDensity, "__init__"),
        ):
            noted = _noting(touched, need, getattr(kind, name))
            stack.enter_context(patch.object(kind, name, noted))
        yield


def _noting(touched: set[str], need: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which notes at every call that the need was touched."""

    def noted(*arguments: Any, **named: Any) -> Any:
        touched.add(need)
        return function(*arguments, **named)

    return noted


@cache
def _environment_class(env_id: str) -> type[gymnasium.Env[Any, Any]]:
    environment = make_environment(find_specification(env_id))
    environment.close()
    return type(environment.unwrapped)


def actions_of(policy: Policy, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Actions `[P, B, act_dim]` of each of the P policies in states `[B, obs_dim]`."""
    return policy(np.broadcast_to(observations, (policy.count, *observations.shape)).copy())


def values_of(result: SyntheticSet | Policy, observations: NDArray[np.float32]) -> list[Tensor]:
    """Contents of a result as tensors: those of a set, or the actions of the policies."""
    if isinstance(result, SyntheticSet):
        values = [value for value in vars(result).values() if isinstance(value, Tensor)]
        if (learned := result.training) is not None:
            values += [*learned.scaling.tensors().values(), torch.tensor(learned.learning_rate)]
        return values
    return [torch.from_numpy(np.asarray(actions_of(result, observations)))]


def _as_stored(state: State) -> State:
    """Copy a state as writing and reading it would."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in state.tensors.items()}
    return State(tensors, json.loads(json.dumps(dict(state.facts))))
