"""One method under trial: runs of it on toy problems, in memory, and all that it did in them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.contract.tiny import CannotBeMade, require_parameters, tiny_method
from benchmark.contract.toy import CONTINUOUS, STUDENT, TRANSITIONS, Toy, toy
from benchmark.environments.lookup import find_specification, make_environment
from benchmark.environments.mujoco_batch import MujocoBatch
from benchmark.errors import ObdBenchError
from benchmark.method import Assignment, Method, Policy, Problem, State
from benchmark.protocol import Protocol
from benchmark.synthetic_set import SyntheticSet

PROTOCOL = Protocol("check", students=2, episodes=1, checkpoint_every=2, last=1)


class DoesNotRun(Exception):
    """The method raised in a plain run, so that whatever needs one cannot be looked at."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Killed(BaseException):
    """Stands for the end of a process; nothing that a method catches."""


@dataclass
class Recorder:
    """A monitor that keeps what it is handed, and can end the run between two saves.

    Args:
        total: Outer steps of the method, where it has a parameter of that name.
        saved: What `resume` gives.
        keep: Number of the offer of state that is taken; the run is killed at the next one.
    """

    total: int | None = None
    saved: State | None = None
    keep: int | None = None
    results: dict[int, SyntheticSet | Policy] = field(default_factory=dict)
    kept: State | None = None
    steps_at_kept: int = 0
    offers: int = 0
    asked_to_resume: bool = False
    furthest: int = 0
    environment_steps: int = 0

    def due(self, step: int) -> bool:
        """As the protocol says."""
        return PROTOCOL.due(step, self.total or 0)

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        """Keeps a copy: the method may go on changing the tensors."""
        if step in self.results:
            raise ObdBenchError(
                f"It handed in two results for outer step {step}; a step is scored once."
            )
        if isinstance(result, SyntheticSet):
            result = replace(
                result, observations=result.observations.clone(), actions=result.actions.clone()
            )
        self.results[step] = result

    def resume(self) -> State | None:
        """The state that this recorder was made with."""
        self.asked_to_resume = True
        return self.saved

    def save(self, step: int, state: Callable[[], State]) -> None:
        """Takes one of the offers, and ends the run at the one after it."""
        if self.keep is not None and self.offers > self.keep:
            raise Killed
        if self.offers == self.keep:
            self.kept, self.steps_at_kept = _as_stored(state()), self.environment_steps
        self.offers += 1

    def progress(self, step: int, total: int) -> None:
        """Keeps how far the method says that it is."""
        self.total = total
        self.furthest = max(self.furthest, step)

    def count_environment_steps(self, steps: int) -> None:
        """Adds them up."""
        self.environment_steps += steps


class WatchedProblem(Problem):
    """A problem that knows what was asked of it, also where the method caught the answer."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.touched: set[str] = set()
        self.drawn_from = False

    def generator(self, purpose: str, step: int = 0) -> torch.Generator:
        """A generator for one purpose at one step."""
        self.drawn_from = True
        return super().generator(purpose, step)

    def _get(self, need: str) -> Any:
        self.touched.add(need)
        return super()._get(need)


@dataclass(frozen=True)
class Observed:
    """What one run did.

    Args:
        toy: What it was given; the method may have written into it.
        problem: What it asked for.
        recorder: What it handed in and said.
        stepped: Steps that environments of the toy's id took in this process.
    """

    toy: Toy
    problem: WatchedProblem
    recorder: Recorder
    stepped: int

    @property
    def results(self) -> dict[int, SyntheticSet | Policy]:
        """Everything handed in, by outer step."""
        return self.recorder.results

    @property
    def final(self) -> SyntheticSet | Policy:
        """What was handed in last."""
        return list(self.results.values())[-1]


class Trial:
    """A method class at tiny settings, and runs of it.

    Args:
        method_class: The method.
        settings: Hyper-parameters that go before the tiny ones.

    Raises:
        BadConfiguration: A setting is not one of its hyper-parameters.
    """

    def __init__(self, method_class: type[Method], settings: Mapping[str, Any]) -> None:
        require_parameters(method_class, settings)
        self.method_class, self.settings = method_class, settings
        self._runs = 0
        self._failure: Exception | None = None

    @cached_property
    def method(self) -> Method:
        """With its tiny hyper-parameters.

        Raises:
            DoesNotRun: It refuses them.
        """
        try:
            return tiny_method(self.method_class, self.settings)
        except CannotBeMade as error:
            raise DoesNotRun(error) from error

    @cached_property
    def whole(self) -> Observed:
        """A plain run from beginning to end, done once.

        Raises:
            DoesNotRun: Every time, where it raises.
        """
        if self._failure is None:
            try:
                found = self.run()
                if found.results:
                    return found
                raise ObdBenchError(
                    "It ended without a result. Hand one to monitor.checkpoint(step, result)."
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
        recorder: Recorder | None = None,
        during: AbstractContextManager[object] | None = None,
        **changed: Any,
    ) -> Observed:
        """One run.

        Args:
            seed: All that names it.
            env_id: Of the toy problem.
            transitions: Of the toy problem.
            recorder: Where it reports; one that was killed ends the run without an error.
            during: Entered while the method works, and not before.
            changed: Hyper-parameters of this run.
        """
        method = replace(self.method, **changed)
        given = toy(env_id, transitions)
        problem = self.problem(given, seed)
        recorder = recorder or self.recorder(method)
        with (
            suppress(Killed),
            self._another_process(),
            environment_steps(env_id) as stepped,
            during or nullcontext(),
        ):
            method.distill(problem, recorder)
        return Observed(given, problem, recorder, sum(stepped))

    def run_packed(self, seeds: Sequence[int]) -> list[Recorder]:
        """These seeds as one pack."""
        recorders = [self.recorder(self.method) for _ in seeds]
        assignments = [
            Assignment(self.method, self.problem(toy(), seed), recorder)
            for seed, recorder in zip(seeds, recorders, strict=True)
        ]
        with self._another_process():
            self.method.distill_packed(assignments)
        return recorders

    def recorder(self, method: Method, **arguments: Any) -> Recorder:
        """A fresh monitor for a run of this method."""
        return Recorder(total=getattr(method, "outer_steps", None), **arguments)

    def problem(self, given: Toy, seed: int) -> WatchedProblem:
        """What the method sees of a toy."""
        return WatchedProblem(
            needs=self.method.needs,
            student=STUDENT,
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
        """Global random states that no other run of this trial began with."""
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
    """Steps taken in an environment meanwhile, by whatever means, so long as in this process."""
    steps: list[int] = []
    environment = make_environment(find_specification(env_id))
    kind = type(environment.unwrapped)
    environment.close()

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


def actions_of(policy: Policy, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each of the P policies does in `[B, obs_dim]` states `[P, B, act_dim]`."""
    return policy(np.broadcast_to(observations, (policy.count, *observations.shape)).copy())


def values_of(result: SyntheticSet | Policy, observations: NDArray[np.float32]) -> list[Tensor]:
    """All that a result is, as tensors: a set's own, or the actions of the policies."""
    if isinstance(result, SyntheticSet):
        return [value for value in vars(result).values() if isinstance(value, Tensor)]
    return [torch.from_numpy(np.asarray(actions_of(result, observations)))]


def _as_stored(state: State) -> State:
    """As it comes back from the disk."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in state.tensors.items()}
    return State(tensors, json.loads(json.dumps(dict(state.facts))))
