"""The battery: what the suite's own methods keep, and that each check can fail."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch

from baselines.hades import HaDES
from baselines.obd import DBC
from baselines.references import TeacherReference
from baselines.selection import RandomSelection
from benchmark.config import BadConfiguration
from benchmark.contract.tiny import CONTINUOUS
from benchmark.contract.trial import environment_steps
from benchmark.environments.lookup import make_batched
from benchmark.environments.rollout import rollout
from benchmark.method import METHODS, Assignment
from benchmark.registry import load_plugin
from obdbench import (
    CHECKS,
    Method,
    Monitor,
    ObdBenchError,
    Problem,
    State,
    SyntheticSet,
    check_method,
)
from tests.tiny_runs import PLUGIN

CHECK = {check.name: check for check in CHECKS}


OWN = [name for name in METHODS if METHODS.origin(name) == "obdbench"]


@pytest.mark.parametrize("name", OWN)
def test_the_suites_own_methods_keep_the_contract(name: str) -> None:
    broken = [str(result) for result in check_method(METHODS[name]) if not result.ok]
    assert not broken


# --- methods that break one rule each ---------------------------------------------------------


@dataclass(frozen=True)
class First(Method):
    """Keeps every rule: the first pairs, moved by noise. What is broken is made from it."""

    synthetic_size: int = 256
    outer_steps: int = 100

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        observations, actions = self.pairs(problem)
        start = 0
        if (state := monitor.resume()) is not None:
            start, observations = self.restored(state)
        for step in range(start, self.outer_steps + 1):
            monitor.progress(step, self.outer_steps)
            if monitor.due(step):
                monitor.checkpoint(step, self.made(observations, actions))
            monitor.save(step, lambda step=step, now=observations: self.state(step, now))
            observations = observations + 0.1 * self.noise(problem, step, observations)

    def pairs(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        dataset = problem.dataset
        if not 1 <= self.synthetic_size <= len(dataset):
            raise ObdBenchError(f"{self.synthetic_size} of {len(dataset)} in {dataset.name}.")
        rows = slice(self.synthetic_size)
        return (
            torch.from_numpy(dataset.observations)[rows].clone(),
            torch.from_numpy(dataset.actions)[rows].clone(),
        )

    def noise(self, problem: Problem, step: int, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=problem.generator("noise", step))

    def made(self, observations: torch.Tensor, actions: torch.Tensor) -> SyntheticSet:
        return SyntheticSet(observations, actions)

    def state(self, step: int, observations: torch.Tensor) -> State:
        return State({"observations": observations}, {"step": step})

    def restored(self, state: State) -> tuple[int, torch.Tensor]:
        return int(state.facts["step"]), state.tensors["observations"]


class NotADataclass(First):
    rate: float = 0.1


@dataclass(frozen=True)
class ParameterThatIsNoValue(First):
    rates: Any = frozenset({0.1})


@dataclass(frozen=True)
class TupleParameter(First):
    rates: tuple[float, ...] = (0.1, 0.2)


@dataclass(frozen=True)
class NamedAsAKeyOfSweeps(First):
    seeds: int = 1


@dataclass(frozen=True)
class Raises(First):
    def pairs(self, problem: Problem) -> Any:
        raise ZeroDivisionError("on its way")


@dataclass(frozen=True)
class Silent(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.progress(1, 1)


@dataclass(frozen=True)
class TwiceAtOneStep(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        for _ in range(2):
            monitor.checkpoint(0, self.made(*self.pairs(problem)))


@dataclass(frozen=True)
class Backwards(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        for step in (2, 1):
            monitor.checkpoint(step, self.made(*self.pairs(problem)))


@dataclass(frozen=True)
class WrongShape(First):
    def made(self, observations: torch.Tensor, actions: torch.Tensor) -> SyntheticSet:
        return SyntheticSet(observations[:, 1:], actions)


@dataclass(frozen=True)
class Float64(First):
    def made(self, observations: torch.Tensor, actions: torch.Tensor) -> SyntheticSet:
        return SyntheticSet(observations.double(), actions)


@dataclass(frozen=True)
class NotANumber(First):
    def made(self, observations: torch.Tensor, actions: torch.Tensor) -> SyntheticSet:
        return SyntheticSet(observations / 0 * 0, actions)


@dataclass(frozen=True)
class NotAPolicy(TeacherReference):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.checkpoint(0, _NaNs())


class _NaNs:
    count = 1

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return np.full((1, observations.shape[1], 3), np.nan, dtype=np.float32)


@dataclass(frozen=True)
class Huge(First):
    def made(self, observations: torch.Tensor, actions: torch.Tensor) -> SyntheticSet:
        return SyntheticSet(observations, actions * 1e30)


@dataclass(frozen=True)
class IgnoresSize(First):
    def made(self, observations: torch.Tensor, actions: torch.Tensor) -> SyntheticSet:
        return SyntheticSet(observations[:3], actions[:3])


@dataclass(frozen=True)
class WithoutSize(Method):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        First(synthetic_size=4, outer_steps=2).distill(problem, monitor)


@dataclass(frozen=True)
class GlobalRandomness(First):
    def noise(self, problem: Problem, step: int, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape)


@dataclass(frozen=True)
class GlobalNumpyRandomness(First):
    def noise(self, problem: Problem, step: int, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.random.standard_normal(like.shape).astype(np.float32))


@dataclass(frozen=True)
class OwnSeed(First):
    def noise(self, problem: Problem, step: int, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(step))


@dataclass(frozen=True)
class OwnNumpySeed(First):
    def noise(self, problem: Problem, step: int, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(
            np.random.default_rng(step).standard_normal(like.shape, dtype=np.float32)
        )


@dataclass(frozen=True)
class UnusedGenerator(First):
    def noise(self, problem: Problem, step: int, like: torch.Tensor) -> torch.Tensor:
        problem.generator("noise", step)
        return torch.ones_like(like)


@dataclass(frozen=True)
class ForgetsTheStep(First):
    def state(self, step: int, observations: torch.Tensor) -> State:
        return State({"observations": observations}, {"step": 0})


@dataclass(frozen=True)
class ForgetsTensors(First):
    def restored(self, state: State) -> tuple[int, torch.Tensor]:
        return int(state.facts["step"]), torch.zeros_like(state.tensors["observations"])


@dataclass(frozen=True)
class FactsThatAreNotPlain(First):
    def state(self, step: int, observations: torch.Tensor) -> State:
        return State({"observations": observations}, {"step": {step}})


@dataclass(frozen=True)
class NeverAsks(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        super().distill(problem, _Deaf(monitor))  # type: ignore[arg-type]


class _Deaf:
    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.monitor, name)

    def resume(self) -> None:
        return None


@dataclass(frozen=True)
class ForgetsTheBest(First):
    """Submits at the end what it had a step before, which a resumed run no longer has."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        observations, actions = self.pairs(problem)
        start = 0
        if (state := monitor.resume()) is not None:
            start, observations = self.restored(state)
        before = observations
        for step in range(start, self.outer_steps + 1):
            if monitor.due(step):
                ended = step == self.outer_steps
                monitor.checkpoint(step, self.made(before if ended else observations, actions))
            monitor.save(step, lambda step=step, now=observations: self.state(step, now))
            before = observations
            observations = observations + 0.1 * self.noise(problem, step, observations)


@dataclass(frozen=True)
class SavesBeforeTheEnd(First):
    """A run that is killed between its last state and its last result never gives that."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        observations, actions = self.pairs(problem)
        start = 0
        if (state := monitor.resume()) is not None:
            start, observations = self.restored(state)
        for step in range(start, self.outer_steps):
            observations = observations + 0.1 * self.noise(problem, step, observations)
            now = self.state(step + 1, observations)
            monitor.save(step + 1, lambda now=now: now)
            if monitor.due(step + 1):
                monitor.checkpoint(step + 1, self.made(observations, actions))


@dataclass(frozen=True)
class NotesAList(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.note(norms=[1.0, 2.0])  # type: ignore[arg-type]
        super().distill(problem, monitor)


@dataclass(frozen=True)
class ResultOfHalfAStep(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.checkpoint(0.5, self.made(*self.pairs(problem)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class StumblesOverTheStudent(First):
    def require_student(self, student: Any) -> None:
        _ = student.layers


@dataclass(frozen=True)
class NamesNoEngine(First):
    def engine(self, device: str) -> Any:
        return None


@dataclass(frozen=True)
class CannotSayItsWork(First):
    def work(self, *sizes: Any) -> Any:
        return 3.0


@dataclass(frozen=True)
class Peeks(First):
    """Looks at what `peeks_at` names."""

    peeks_at: str = "teacher"

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        getattr(problem, self.peeks_at)
        super().distill(problem, monitor)


@dataclass(frozen=True)
class PeeksInSecret(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        try:
            _ = problem.log_density
        except ObdBenchError:
            super().distill(problem, monitor)


@dataclass(frozen=True)
class OpensTheEnvironmentItself(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        environment = gymnasium.make(problem.dataset.env_id)
        environment.reset(seed=0)
        environment.step(environment.action_space.sample())
        environment.close()
        super().distill(problem, monitor)


@dataclass(frozen=True)
class Acts(First):
    """Takes environment steps as it should."""

    needs: ClassVar[frozenset[str]] = frozenset({"dataset", "environment"})

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        width = problem.action_dim
        episodes = rollout(
            problem.environment,
            lambda observations: np.zeros((*observations.shape[:2], width), np.float32),
            policies=1,
            episodes=1,
            seeds=[0],
            max_steps=3,
        )
        self.count(monitor, episodes.environment_steps)
        super().distill(problem, monitor)

    def count(self, monitor: Monitor, steps: int) -> None:
        monitor.count_environment_steps(steps)


@dataclass(frozen=True)
class DoesNotCount(Acts):
    def count(self, monitor: Monitor, steps: int) -> None:
        pass


@dataclass(frozen=True)
class CountsTwice(Acts):
    def count(self, monitor: Monitor, steps: int) -> None:
        monitor.count_environment_steps(2 * steps)


@dataclass(frozen=True)
class CountsHalves(Acts):
    def count(self, monitor: Monitor, steps: int) -> None:
        monitor.count_environment_steps(steps / 1)  # type: ignore[arg-type]


@dataclass(frozen=True)
class NeverActs(First):
    needs: ClassVar[frozenset[str]] = frozenset({"dataset", "environment"})


@dataclass(frozen=True)
class CountsNoOuterSteps(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        monitor.progress(self.outer_steps, self.outer_steps)
        monitor.checkpoint(0, self.made(*self.pairs(problem)))


@dataclass(frozen=True)
class CountsAgainOnResume(HaDES):
    """Counts all of its steps anew after a resume."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        if monitor.resume() is not None:
            monitor.count_environment_steps(1)
        super().distill(problem, monitor)


@dataclass(frozen=True)
class IndexErrorAboveTheData(First):
    def pairs(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        observations = torch.from_numpy(problem.dataset.observations)
        rows = torch.arange(self.synthetic_size)
        return observations[rows], torch.from_numpy(problem.dataset.actions)[rows]


@dataclass(frozen=True)
class FewerThanAsked(First):
    def pairs(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        rows = slice(self.synthetic_size)
        return (
            torch.from_numpy(problem.dataset.observations)[rows],
            torch.from_numpy(problem.dataset.actions)[rows],
        )


@dataclass(frozen=True)
class SaysNothing(First):
    def pairs(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        if self.synthetic_size > len(problem.dataset):
            raise ObdBenchError("That does not work.")
        return super().pairs(problem)


@dataclass(frozen=True)
class InventsPairs(First):
    def pairs(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        size = self.synthetic_size
        _ = problem.dataset.observations
        return torch.zeros(size, problem.observation_dim), torch.zeros(size, problem.action_dim)


@dataclass(frozen=True)
class ThreeNumbersAnAction(First):
    def made(self, observations: torch.Tensor, actions: torch.Tensor) -> SyntheticSet:
        return SyntheticSet(observations, torch.zeros(len(actions), 3))


@dataclass(frozen=True)
class CannotCount(First):
    """Refuses an environment whose actions are discrete."""

    def pairs(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        if problem.action_dim == 2:
            raise ObdBenchError("Actions of CartPole-v1 are discrete.")
        return super().pairs(problem)


@dataclass(frozen=True)
class WritesIntoTheData(First):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        torch.from_numpy(problem.dataset.observations).sub_(1.0)
        super().distill(problem, monitor)


@dataclass(frozen=True)
class WritesIntoTheTeacher(TeacherReference):
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        problem.teacher.actor[0][0].mul_(2.0)  # type: ignore[attr-defined]
        super().distill(problem, monitor)


@dataclass(frozen=True)
class PacksWrongly(DBC):
    @classmethod
    def distill_packed(cls, assignments: Sequence[Assignment]) -> None:
        if len(assignments) == 1:
            super().distill_packed(assignments)
        for method, problem, monitor in assignments if len(assignments) > 1 else ():
            assert isinstance(method, PacksWrongly)
            RandomSelection(method.synthetic_size).distill(problem, monitor)


BROKEN: list[tuple[str, type[Method], str]] = [
    ("plain_parameters", NotADataclass, "rate of NotADataclass cannot be set: put @dataclass"),
    ("plain_parameters", ParameterThatIsNoValue, "frozenset is not JSON serializable"),
    ("plain_parameters", TupleParameter, "read again"),
    ("plain_parameters", NamedAsAKeyOfSweeps, "has a hyper-parameter 'seeds', by which a sweep"),
    ("distils", Raises, "ZeroDivisionError: on its way"),
    ("distils", Silent, "ended without a result"),
    ("distils", TwiceAtOneStep, "two results for outer step 0"),
    ("distils", Backwards, r"\[2, 1\]; they must rise"),
    ("shapes_types_and_values", WrongShape, "10 numbers per observation and 3 per action"),
    ("shapes_types_and_values", Float64, r"must be torch\.float32 .*; got torch\.float64"),
    ("shapes_types_and_values", NotANumber, "values are not finite. .*learning rate"),
    ("shapes_types_and_values", NotAPolicy, "720 values that are not finite"),
    ("students_act", Huge, "diverges on the set: its observations reach"),
    ("synthetic_size", IgnoresSize, "synthetic_size is 6, but the set at outer step 0 has 3 pairs"),
    ("synthetic_size", WithoutSize, "no parameter synthetic_size"),
    ("same_seed_same_bits", GlobalRandomness, "differ from outer step 2 on"),
    ("same_seed_same_bits", GlobalNumpyRandomness, "differ from outer step 2 on"),
    ("different_seeds_differ", OwnSeed, "two seeds give the same"),
    ("different_seeds_differ", OwnNumpySeed, "two seeds give the same"),
    ("different_seeds_differ", UnusedGenerator, "two seeds give the same"),
    ("resumes", ForgetsTheStep, "resumed differs from an unbroken one at outer step"),
    ("resumes", ForgetsTensors, "resumed differs from an unbroken one at outer step"),
    ("resumes", FactsThatAreNotPlain, "set is not JSON serializable"),
    ("resumes", NeverAsks, "never asks for them"),
    ("resumes", ForgetsTheBest, r"at outer step 4 \(from state 5 of the 5 that it saves\)"),
    ("resumes", SavesBeforeTheEnd, "at outer step 2 .*submit what is still to be submitted"),
    ("distils", NotesAList, "noted norms as list; a fact is one number or a text"),
    ("distils", ResultOfHalfAStep, r"a result for outer step 0\.5 \(float\); expected an integer"),
    ("distils", CountsHalves, r"counted environment steps: 3\.0 \(float\); expected an integer"),
    ("distils", StumblesOverTheStudent, "AttributeError: .*layers"),
    ("distils", NamesNoEngine, r"engine\(\"cpu\"\) is None; .*expected a string"),
    ("counts_its_cost", CannotSayItsWork, "Its work is 3.0; expected benchmark.work.Work"),
    ("resumes", CountsAgainOnResume, "environment steps, an unbroken one"),
    ("declares_what_it_touches", Peeks, "problem.teacher without declaring it"),
    ("declares_what_it_touches", PeeksInSecret, "used log_density without declaring"),
    ("declares_what_it_touches", OpensTheEnvironmentItself, "used environment without declaring"),
    ("counts_its_cost", DoesNotCount, "took 3 environment steps and counted 0"),
    ("counts_its_cost", CountsTwice, "took 3 environment steps and counted 6"),
    ("counts_its_cost", NeverActs, "took and counted no step"),
    ("counts_its_cost", CountsNoOuterSteps, "up to outer step 4, but its last result is of step 0"),
    ("size_above_the_data", IndexErrorAboveTheData, "raises IndexError.*Raise an ObdBenchError"),
    ("size_above_the_data", FewerThanAsked, "synthetic_size is 241, but the set of 240"),
    ("size_above_the_data", SaysNothing, "should name 241. It says: That does not work"),
    ("empty_dataset", IndexErrorAboveTheData, "raises IndexError.*Raise an ObdBenchError"),
    ("empty_dataset", InventsPairs, "made a result from a dataset without transitions"),
    ("discrete_actions", ThreeNumbersAnAction, "CartPole-v1 has 4 and 2"),
    ("leaves_its_inputs_alone", WritesIntoTheData, "dataset observations"),
    ("leaves_its_inputs_alone", WritesIntoTheTeacher, "teacher tensor 0"),
    ("packs", PacksWrongly, "seed 0 differs at outer step"),
]


@pytest.mark.parametrize(
    ("check", "method", "message"), BROKEN, ids=[f"{c}-{m.__name__}" for c, m, _ in BROKEN]
)
def test_a_broken_rule_is_found(check: str, method: type[Method], message: str) -> None:
    result = CHECK[check](method)
    assert result.outcome == "FAILED"
    assert re.search(message, result.message), result.message


# Methods of tests/misbehaving_methods.py by their names, with a setting of theirs.
MISBEHAVING: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "environment_units",
        "wrong_units",
        {"wrong": "observations"},
        "deviations from the.*ions_out",
    ),
    ("environment_units", "wrong_units", {"wrong": "raw taken for normalised"}, "standard deviat"),
    ("environment_units", "wrong_units", {"wrong": "actions"}, "outside the action space, up to"),
    ("environment_units", "wrong_units", {"wrong": "outside"}, "outside the action space, up to"),
    ("environment_units", "wrong_units", {"wrong": "policy"}, "outside the action space, up to"),
    ("uses_what_it_declares", "in_vain", {}, "declares teacher, but another one gives the same"),
    ("uses_what_it_declares", "in_vain", {"uses": "no more than a look"}, "declares teacher, but"),
    ("uses_what_it_declares", "in_vain", {"uses": "teacher"}, "declares log_density, but another"),
    ("declares_what_it_touches", "own_inputs", {}, "used teacher without declaring it"),
    (
        "declares_what_it_touches",
        "own_inputs",
        {"takes": "log_density"},
        "used log_density without",
    ),
    (
        "declares_what_it_touches",
        "own_inputs",
        {"takes": "the suite's log_density"},
        "used log_density without",
    ),
]


@pytest.mark.parametrize(("check", "name", "settings", "message"), MISBEHAVING)
def test_a_misbehaving_plug_in_fails_one_check_with_its_file_and_line(
    check: str, name: str, settings: dict[str, Any], message: str
) -> None:
    load_plugin(PLUGIN)
    results = {result.check: result for result in check_method(METHODS[name], settings)}
    failed = [result for result in results.values() if not result.ok]
    assert [result.check for result in failed] == [check], list(map(str, failed))
    assert re.search(message, failed[0].message), failed[0].message
    line = inspect.getsourcelines(type(METHODS[name]).distill)[1]
    assert failed[0].place == f"{PLUGIN}:{line}"


def test_every_check_has_a_method_that_fails_it() -> None:
    assert set(CHECK) == {check for check, *_ in [*BROKEN, *MISBEHAVING]}


def test_a_failure_names_the_line_that_raised() -> None:
    result = CHECK["distils"](Raises)
    line = inspect.getsourcelines(Raises.pairs)[1] + 1
    assert result.place == f"{__file__}:{line}"
    assert str(result).startswith(f"{__file__}:{line}: distils FAILED. A run ends without")
    inherited = CHECK["shapes_types_and_values"](WrongShape)  # fails after the run has ended
    assert inherited.place == f"{__file__}:{inspect.getsourcelines(WrongShape)[1]}"
    defined: dict[str, Any] = {"First": First, "__name__": "nowhere"}
    exec("class Interpreted(First):\n    silent = 1\n    made = None", defined)
    assert CHECK["distils"](dataclass(frozen=True)(defined["Interpreted"])).place.startswith(
        __file__
    )
    assert CHECK["distils"](First).place == ""


@pytest.mark.parametrize("need", ["teacher", "log_density", "environment"])
def test_every_need_must_be_declared(need: str) -> None:
    result = CHECK["declares_what_it_touches"](Peeks, {"peeks_at": need})
    assert result.outcome == "FAILED"
    assert f"problem.{need}" in result.message


# --- what is no failure -----------------------------------------------------------------------


def test_a_sound_method_passes_or_says_why_a_check_does_not_apply() -> None:
    results = {result.check: result for result in check_method(First)}
    assert all(result.ok for result in results.values()), list(map(str, results.values()))
    not_applicable = {name for name, r in results.items() if r.outcome == "not applicable"}
    assert not_applicable == {"packs", "uses_what_it_declares"}
    assert "no pack_key" in results["packs"].message


def test_environment_steps_that_are_counted_pass() -> None:
    result = CHECK["counts_its_cost"](Acts)
    assert (result.outcome, result.message) == ("passed", "3 environment steps.")


def test_a_refusal_of_discrete_actions_is_shown_and_no_failure() -> None:
    result = CHECK["discrete_actions"](CannotCount)
    assert result.outcome == "not applicable"
    assert "Actions of CartPole-v1 are discrete" in result.message


def test_a_need_that_is_declared_and_not_used_is_shown() -> None:
    result = CHECK["declares_what_it_touches"](TeacherReference)
    assert result.ok
    assert "not touched at these settings: dataset" in result.message


def test_a_method_without_randomness_is_told_from_one_that_seeds_itself() -> None:
    result = CHECK["different_seeds_differ"](TeacherReference)
    assert (result.outcome, result.ok) == ("not applicable", True)


def test_one_failure_is_reported_once() -> None:
    outcomes = [result.outcome for result in check_method(Raises)]
    assert outcomes.count("FAILED") == 1
    assert outcomes.count("not reached") == len(CHECKS) - 3  # parameters and pack_key need no run
    assert not next(r for r in check_method(Raises) if r.outcome == "not reached").ok


# --- settings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stepped(First):
    """Works with a stride above 10 alone, which the battery cannot know."""

    stride: int = 1

    def __post_init__(self) -> None:
        if self.stride <= 10:
            raise BadConfiguration(f"stride is {self.stride}; expected above 10.")


@dataclass(frozen=True)
class SteppedAndSaysSo(Stepped):
    tiny: ClassVar[dict[str, Any]] = {"stride": 11}


def test_a_method_states_its_own_tiny_settings() -> None:
    result = CHECK["plain_parameters"](Stepped)
    assert result.outcome == "FAILED"
    assert CHECK["distils"](Stepped).outcome == "not reached"
    assert "expected above 10" in result.message
    assert "tiny: ClassVar" in result.message
    assert CHECK["distils"](SteppedAndSaysSo).ok
    assert CHECK["distils"](Stepped, {"stride": 12}).ok


def test_a_setting_that_is_no_parameter_is_an_error_of_the_caller() -> None:
    with pytest.raises(BadConfiguration, match="Did you mean 'synthetic_size'"):
        check_method(First, {"syntetic_size": 3})


def test_the_battery_leaves_the_global_random_states_alone() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(2), np.random.rand(2)
    torch.manual_seed(3)
    np.random.seed(3)
    check_method(GlobalRandomness)
    check_method(GlobalNumpyRandomness)
    assert torch.rand(2).equal(expected[0])
    np.testing.assert_array_equal(np.random.rand(2), expected[1])


def test_steps_are_seen_by_whatever_means_they_are_taken() -> None:
    with environment_steps(CONTINUOUS) as steps:
        batch = make_batched(CONTINUOUS, 2)
        batch.reset([0, 1], [0, 1])
        batch.step(np.arange(2), np.zeros((2, 3)))
        batch.close()
        vector = gymnasium.make_vec(CONTINUOUS, num_envs=3, vectorization_mode="sync")
        vector.reset(seed=0)
        vector.step(np.zeros((3, 3)))
        vector.close()
    assert sum(steps) == 5
