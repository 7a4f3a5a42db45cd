"""Planned costs: measured here, else counted at this machine's rate, else unknown and never 0."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from baselines.kernel_then_unrolled import KernelThenUnrolled
from baselines.obd import AV_PBC_PUBLISHED, DBC, AvPBC
from baselines.progressive_obd import ProgressiveAvPBC
from baselines.trajectory_matching import TrajectoryMatching
from benchmark import work
from benchmark.contract.tiny import tiny_method
from benchmark.datasets.dataset import Dataset
from benchmark.density.knn import KNN
from benchmark.density.maf import MAF
from benchmark.method import METHODS, Method, Monitor, Problem
from benchmark.outer_steps import OuterSteps
from benchmark.protocol import Protocol
from benchmark.record import Record
from benchmark.registry import load_plugin
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import NotFinite
from benchmark.teachers.td3_bc import TD3BC
from benchmark.work import Rates, Work, training_work, weights_of
from results.costs import Costs, fitting_seconds, training_seconds
from tests.tiny_runs import PLUGIN, altered, execute, execute_pack, tiny_spec


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, so that every test measures."""
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def spec(small_dataset_name: str) -> RunSpec:
    return tiny_spec("dbc", small_dataset_name)


@pytest.fixture(scope="module")
def record(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Costs that are easy to reckon."""
    record = execute(spec, tmp_path_factory.mktemp("store"))
    return with_cost(record, cpu_seconds=60.0, evaluation_wall_seconds=32.0)


def with_cost(record: Record, **cost: Any) -> Record:
    return altered(record, **{f"cost__{name}": value for name, value in cost.items()})


def test_what_was_measured_here_costs_its_mean(spec: RunSpec, record: Record) -> None:
    other = with_cost(record, cpu_seconds=80.0)
    estimate = Costs([spec], [record, other]).of(spec.with_seed(9))
    assert (estimate.seconds, estimate.source, estimate.records) == (102.0, "measured here", 2)
    renamed = replace(spec, protocol=replace(spec.protocol, name="of another name", last=1))
    assert Costs([renamed], [record]).of(renamed).seconds == 92.0
    rarer = replace(spec, protocol=replace(spec.protocol, checkpoint_every=5))
    assert Costs([rarer], [record]).of(rarer).source == "counted"


def test_how_often_a_single_result_is_scored_costs_nothing(
    small_dataset_name: str, record: Record
) -> None:
    def run(every: int) -> RunSpec:
        return RunSpec.create(
            method="herding", dataset=small_dataset_name, parameters={"synthetic_size": 4},
            where="", protocol=Protocol("tiny", 2, 2, every, 2),
        )  # fmt: skip

    made = altered(record, spec=run(2), checkpoints=record.checkpoints[:1])
    assert Costs([run(3)], [made]).of(run(3)).seconds == 92.0


def test_records_of_other_sizes_data_and_machines_do_not_stand_for_a_run(
    spec: RunSpec, record: Record
) -> None:
    elsewhere = altered(record, provenance__host="another")
    wide = replace(spec, student=replace(spec.student, width=16))
    longer = replace(spec, parameters={**spec.parameters, "outer_steps": 12})
    on_other_data = replace(spec, dataset="walker2d/medium")
    for run in (wide, longer, on_other_data):
        estimate = Costs([run], [record]).of(run)
        assert estimate.source == "counted" and estimate.records == 0
        assert estimate.seconds is not None and 0 < estimate.seconds < 20
    assert Costs([spec], [elsewhere]).of(spec).source == "counted"


def test_what_a_method_does_not_say_is_unknown_or_measured_elsewhere(
    small_dataset_name: str, tmp_path: Path
) -> None:
    run = RunSpec.create(
        method="kmeans_pp", dataset=small_dataset_name, parameters={"synthetic_size": 4},
        where="", student=StudentSpec(width=8, depth=2, steps=4),
        protocol=Protocol("tiny", 2, 2, 2, 2),
    )  # fmt: skip
    estimate = Costs([run], []).of(run)
    assert (estimate.seconds, estimate.source) == (None, "unknown")
    made = altered(execute(run, tmp_path), provenance__host="another")
    estimate = Costs([run], [made]).of(run)
    assert estimate.source == "measured elsewhere" and estimate.seconds


@pytest.mark.parametrize(
    ("message", "says"),
    [("no work here", "ValueError: no work here"), ("", "it gives 3.0, which has no seconds()")],
)
def test_a_plug_in_that_cannot_say_its_work_is_planned_at_an_unknown_cost(
    message: str, says: str, small_dataset_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_plugin(PLUGIN)
    run = tiny_spec("no_work", small_dataset_name, message=message)
    estimate = Costs([run], []).of(run)
    assert (estimate.seconds, estimate.source) == (None, "unknown")
    assert says in caplog.text and "obdbench check-method no_work" in caplog.text


@pytest.mark.parametrize("change", ["device", "failed"])
def test_a_device_and_failures_are_not_this_machines_processor(
    spec: RunSpec, record: Record, change: str
) -> None:
    if change == "failed":
        found = Costs([spec], [altered(record, status="failed")]).of(spec)
        assert found.source == "counted"
    else:
        estimate = Costs([spec], [record], "cuda").of(spec)
        assert (estimate.seconds, estimate.source) == (None, "unknown")


# --- counted products -----------------------------------------------------------------------------
class Counted:
    """Counts the multiply-adds of torch's matrix products while it is open."""

    def __enter__(self) -> Counted:
        self.multiply_adds = 0
        self.mode = _CountingMode(self)
        self.mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.mode.__exit__(*error)


class _CountingMode(torch.overrides.TorchFunctionMode):
    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self.counted = counted

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        factors = {"bmm": (0, 1), "baddbmm": (1, 2), "baddbmm_": (1, 2)}.get(name)
        if factors:
            left, right = (args[place] for place in factors)
            runs, rows, inner = left.shape
            self.counted.multiply_adds += runs * rows * inner * right.shape[-1]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", [DBC(), AV_PBC_PUBLISHED, METHODS["sdw_obd"]])
@pytest.mark.parametrize("runs", [1, 3])
def test_the_products_of_an_outer_step_are_counted_as_they_are_done(
    method: Any, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a tenth: the first layer has no layer below it, which the count leaves out."""
    monkeypatch.setenv("OBDBENCH_ENGINE", "torch")  # whose products can be counted
    method = replace(method, synthetic_size=32, outer_batch=48, outer_steps=1)
    student = method.student_for(StudentSpec(width=48, steps=5))
    said = method.work(11, 3, student)
    with Counted() as counted:
        said.sample(runs)
    assert said.multiply_adds == said.sampled
    assert 1.0 <= runs * said.multiply_adds / counted.multiply_adds < 1.25


@pytest.mark.parametrize(
    "student",
    [StudentSpec(width=48), StudentSpec(width=48, head="gaussian", activation="tanh")],
    ids=["default", "gaussian"],
)
def test_the_products_of_training_are_counted_as_they_are_done(student: StudentSpec) -> None:
    said = training_work(student, 11, 3, pairs=32, students=4, steps=20)
    with Counted() as counted:
        said.sample(1)
    assert 1.0 <= said.multiply_adds / counted.multiply_adds < 1.25


# --- sampled outer steps --------------------------------------------------------------------------
@dataclass(frozen=True)
class Stubborn(Method):
    """Seven seconds before the first outer step, then each takes two seconds more than the last."""

    tiny: ClassVar[dict[str, int]] = {}
    outer_steps: int = 4
    diverges: bool = False

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        assert problem.observations.shape == (1000, 5) and problem.actions.shape == (1000, 2)
        monitor.progress(0, self.outer_steps)
        _passed.append(7.0)
        for step in range(self.outer_steps):
            monitor.progress(step, self.outer_steps)
            _passed.append(2.0 * step)
        monitor.progress(self.outer_steps, self.outer_steps)
        if self.diverges:
            raise NotFinite("The pairs are infinite.")


_passed: list[float] = []


def test_a_sample_has_outer_steps_only_and_costs_their_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmark.outer_steps.time.process_time", lambda: sum(_passed))
    steps = OuterSteps(100, Stubborn(), 5, 2, StudentSpec(), Work(0.0))
    assert steps.seconds(Rates()) == pytest.approx(100 * (0 + 2 + 4 + 6) / 4)
    more = OuterSteps(1, Stubborn(), 5, 2, StudentSpec(), others=steps)
    assert more.seconds(Rates()) == pytest.approx(303.0), "with what else there is to do"
    assert OuterSteps(1, Stubborn(outer_steps=2), 5, 2, StudentSpec()).seconds(Rates()) == 1.0


def test_a_rate_belongs_to_the_engine_the_settings_the_sizes_and_the_student(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = []
    monkeypatch.setattr(Rates, "measured", lambda self, key, measure: keys.append(repr(key)) or 1.0)
    monkeypatch.setenv("OBDBENCH_ENGINE", "torch")
    steps = OuterSteps(9, ProgressiveAvPBC(), 5, 2, StudentSpec())
    changes: list[dict[str, Any]] = [
        {}, {"count": 99}, {"few": ProgressiveAvPBC(stages=2)}, {"observation_dim": 6},
        {"action_dim": 3}, {"student": StudentSpec(width=9)},
    ]  # fmt: skip
    for change in changes:
        replace(steps, **change).seconds(Rates())
    assert keys[0] == keys[1] and len(set(keys)) == len(keys) - 1
    monkeypatch.setattr("baselines.native_engine.name", lambda device: "another")
    steps.seconds(Rates())
    assert keys[-1] not in keys[:-1]


@pytest.mark.parametrize("name", [n for n in METHODS if "environment" not in METHODS[n].needs])
def test_every_method_of_outer_steps_on_data_says_what_they_cost(name: str) -> None:
    method = tiny_method(METHODS[name], {})
    if not hasattr(method, "outer_steps"):
        return
    student = method.student_for(StudentSpec(width=8, depth=2, steps=8))
    found = [
        replace(method, outer_steps=steps).work(5, 2, student).seconds(Rates()) for steps in (8, 16)
    ]
    assert 0 < found[0] < found[1]


def test_both_kinds_of_steps_are_counted_at_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind by itself, and both together, at rates of 1 and of nothing."""

    def at(kind: str, share: float) -> float:
        monkeypatch.setattr(Rates, "measured", lambda self, key, measure: float(kind in str(key)))
        method = KernelThenUnrolled(outer_steps=100, kernel_share=share, synthetic_size=8)
        return method.work(5, 2, StudentSpec(width=8, steps=4)).seconds(Rates())

    assert [at("outer steps", share) for share in (0.0, 0.3, 1.0)] == [0, 30, 100]
    whole = AvPBC(outer_steps=1, synthetic_size=8, outer_batch=1024)
    one = whole.work(5, 2, StudentSpec(width=8, steps=4)).multiply_adds
    assert [at("outer step'", share) / one for share in (0.0, 0.3, 1.0)] == [100, 70, 0]


def test_experts_are_trained_before_the_first_outer_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rates, "measured", lambda self, key, measure: float("training" in str(key)))
    method = TrajectoryMatching(
        experts=2, start_epochs=3, expert_span=2, expert_epoch_steps=5, outer_batch=7
    )
    student = StudentSpec(width=8, depth=2)
    weights = weights_of(student.network(5, 2))
    assert method.work(5, 2, student).seconds(Rates()) == 3 * weights * 7 * 2 * (4 * 5)


def test_a_cost_is_unknown_where_the_sample_diverges(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(spec.method_instance), "work", lambda *_: OuterSteps(
        9, Stubborn(diverges=True), 5, 2, StudentSpec()
    ))  # fmt: skip
    assert Costs([spec], []).of(spec).source == "unknown"


# --- measured rates -------------------------------------------------------------------------------
def test_a_rate_is_measured_once_and_again_when_asked(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def sample() -> float:
        calls.append(1)
        time.sleep(0)
        return 2.0

    first = Rates().seconds(("a", 1), sample)
    measured = len(calls)
    assert measured > 1, "a first sample, which allocates memory, is not the measurement"
    assert Rates().seconds(("a", 1), sample) == first and len(calls) == measured
    Rates().seconds(("a", 2), sample)
    Rates(threads=2).seconds(("a", 1), sample)
    Rates(anew=True).seconds(("a", 1), sample)
    assert len(calls) > 3 * 1 + measured
    stored = json.loads((own_cache / "rates.json").read_text())
    machine = next(iter(stored))
    assert {f", {threads} threads, " in " ".join(stored) for threads in (1, 2)} == {True}
    for damage in ("{", "[3]", json.dumps({machine: dict.fromkeys(stored[machine], 0.0)})):
        (own_cache / "rates.json").write_text(damage)
        assert Rates().seconds(("a", 1), sample) > 0, "a damaged cache is measured again"
    monkeypatch.setenv("OBDBENCH_CACHE", str(own_cache / "rates.json"))  # no folder
    assert Rates().seconds(("a", 1), sample) > 0, "a cache that cannot be written is done without"


def within_a_factor_of_two(ratios: Callable[[int], list[float]]) -> None:
    """Hold plans to what was taken; at another moment again where the machine had other work."""
    found = []
    for attempt in range(4):
        found.append(ratios(attempt))
        if all(0.5 < ratio < 2.0 for ratio in found[-1]):
            return
    raise AssertionError(f"planned over taken, at every attempt: {found}")


@pytest.mark.parametrize(
    ("method", "width", "pairs", "steps", "outer"),
    [
        ("dbc_published", 64, 64, 50, 60),
        ("dbc", 128, 64, 20, 60),
        ("frepo", 64, 64, 20, 150),
        ("gradient_matching", 32, 32, 20, 2),
        ("bc_whole", 32, 0, 10, 0),
    ],
)
def test_a_counted_run_takes_what_was_planned_within_a_factor_of_two(
    method: str, width: int, pairs: int, steps: int, outer: int, small_dataset_name: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """CPU seconds, which other processes on the machine change little, but not nothing."""
    distils: dict[str, Any] = {"synthetic_size": pairs, "outer_steps": outer}
    if method == "frepo":
        distils["objective"] = "dbc"  # there is no teacher here
    parameters = {"steps": 800} if method == "bc_whole" else distils
    runs = [
        RunSpec.create(
            method=method, dataset=small_dataset_name, where="", seed=seed,
            parameters=parameters,
            student=StudentSpec(width=width, steps=steps),
            protocol=Protocol("planned", students=3, episodes=4, checkpoint_every=100, last=1),
        )
        for seed in range(2)
    ]  # fmt: skip
    # How long episodes are is a fact of earlier records, of whatever machine; by chance those of
    # another seed are twice as long.
    earlier = execute_pack(runs, tmp_path)
    warm = [altered(record, provenance__host="another") for record in earlier]

    def ratios(attempt: int) -> list[float]:
        monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path / f"cache{attempt}"))
        costs = Costs(runs, warm)
        estimates = [costs.of(run) for run in runs]
        assert {estimate.source for estimate in estimates} == {"counted"}
        planned = sum(estimate.seconds or 0.0 for estimate in estimates)
        began = time.process_time()
        execute_pack(runs, tmp_path / str(attempt))
        return [planned / (time.process_time() - began)]

    within_a_factor_of_two(ratios)


def test_a_training_and_a_fit_take_what_was_planned_within_a_factor_of_two(
    small_dataset: Dataset,
) -> None:
    recipe = TD3BC(steps=150, width=32, batch_size=64)
    fit = MAF(epochs=3)
    states = torch.from_numpy(small_dataset.observations)

    def ratios(_: int) -> list[float]:
        planned = [
            training_seconds(recipe, small_dataset.name, Rates(anew=True)),
            fitting_seconds(fit, small_dataset.name, Rates(anew=True)),
        ]
        taken = []
        for piece in (lambda: recipe.train(small_dataset, 0), lambda: fit.fit(states, 0)):
            began = time.process_time()
            piece()  # type: ignore[no-untyped-call]
            taken.append(time.process_time() - began)
        return [(expected or 0.0) / found for expected, found in zip(planned, taken, strict=True)]

    within_a_factor_of_two(ratios)


def test_trainings_and_fits_of_unknown_size_are_unknown(small_dataset: Dataset) -> None:
    unseen = "d4rl/walker2d-full-replay-v2"
    assert fitting_seconds(MAF(), unseen, Rates()) is None
    assert fitting_seconds(KNN(), small_dataset.name, Rates()) is None
    assert training_seconds(TD3BC(), "local/nowhere", Rates()) is None


def test_a_sample_is_short_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baselines.outer_loop.SAMPLE", 1e8)
    said = DBC().work(17, 6, StudentSpec())
    assert said is not None and said.sampled < 3e9 < said.multiply_adds / DBC().outer_steps
    assert work.SAMPLE < 5e10


def test_sets_that_several_runs_distil_are_counted_once(spec: RunSpec, record: Record) -> None:
    again = replace(spec, protocol=replace(spec.protocol, name="else"))
    measured = Costs([spec, again], [record])
    assert (measured.of(spec).seconds, measured.of(again).seconds) == (92.0, 32.0)
    rates = Rates()
    long = replace(spec, parameters={**spec.parameters, "outer_steps": 20_000})
    ensemble = replace(long, protocol=replace(long.protocol, ensemble=2, checkpoint_every=20_000))
    alone = replace(long, protocol=replace(long.protocol, checkpoint_every=20_000))
    both = Costs([alone, ensemble], [], rates=rates)
    only = Costs([ensemble], [], rates=rates)
    counted = [costs.of(ensemble).seconds for costs in (both, only)]
    assert counted[0] is not None and counted[1] is not None
    assert 0 < counted[0] < counted[1] / 2
