"""HaDES and evolution on weights: what candidates earn, what it costs, and where a run goes on."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv

from baselines import evolution_loop
from baselines.evolution_loop import Evolution, EvolutionRun
from baselines.hades import FixedInitHaDES, HaDES
from baselines.meta_gradient import Pairs
from baselines.references import EvolutionStrategies, flatten, unflatten
from baselines.synthetic_environment import SyntheticEnvironment
from benchmark.datasets.catalog import build_dataset
from benchmark.datasets.source import DatasetName
from benchmark.environments.rollout import Episodes
from benchmark.errors import ObdBenchError
from benchmark.method import BadParameter, Policy, Problem, State
from benchmark.protocol import Protocol, protocol_named
from benchmark.record import record_folder
from benchmark.scaling import Scaling
from benchmark.spec import RunSpec
from benchmark.students.spec import RECIPES, StudentSpec
from benchmark.students.student import StudentPolicy, train_students
from benchmark.synthetic_set import SyntheticSet
from obdbench.face import load_set
from results.frames import runs_frame
from tests.tiny_runs import PROTOCOL, execute, numbers, sets

ENV_ID = "CartPole-v1"
STUDENT = StudentSpec(width=8, depth=2, steps=4, head="mean")
SMALL: dict[str, Any] = {"population": 6, "outer_steps": 4, "episodes_per_policy": 2}
OF_SETS: dict[str, Any] = {**SMALL, "synthetic_size": 3}
METHODS: dict[str, Evolution] = {
    "hades": HaDES(**OF_SETS),
    "hades, SNES": HaDES(**OF_SETS, strategy="snes", learning_rate=1.0, sigma=0.5),
    "hades, fixed labels": HaDES(**OF_SETS, labels="fixed"),
    "hades_fixed_init": FixedInitHaDES(**OF_SETS),
    "synthetic_environment": SyntheticEnvironment(**OF_SETS, hidden=4),
    "evolution_strategies": EvolutionStrategies(**SMALL),
}


@dataclass
class Recorder:
    """A monitor that keeps what it is handed."""

    total: int
    every: int = 1
    saved: State | None = None
    results: dict[int, Any] = field(default_factory=dict)
    states: dict[int, State] = field(default_factory=dict)
    environment_steps: dict[int, int] = field(default_factory=dict)
    counted: int = 0
    facts: dict[str, float | str] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.total

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        self.results[step] = result

    def resume(self) -> State | None:
        return self.saved

    def save(self, step: int, state: Callable[[], State]) -> None:
        now = state()
        self.states[step] = State({k: v.clone() for k, v in now.tensors.items()}, dict(now.facts))
        self.environment_steps[step] = self.counted

    def progress(self, step: int, total: int) -> None:
        assert step <= total == self.total

    def count_environment_steps(self, steps: int) -> None:
        self.counted += steps

    def note(self, **facts: float | str) -> None:
        self.facts |= facts


def make_problem(
    method: Evolution, seed: int = 0, student: StudentSpec = STUDENT, env_id: str = ENV_ID
) -> Problem:
    """With the environment alone: anything else that a method touches raises."""
    return Problem(
        needs=method.needs,
        student=student,
        scaling=Scaling(
            mean=torch.tensor([0.1, -0.2, 0.0, 0.05]),
            std=torch.tensor([0.5, 0.6, 0.1, 0.8]),
            center=torch.full((2,), 0.5),
            half_range=torch.full((2,), 0.5),
        ),
        axes={"run": f"seed{seed}"},
        loaders={"environment": lambda: env_id},
    )


def distil(method: Evolution, problem: Problem | None = None, **recorder: Any) -> Recorder:
    monitor = Recorder(method.outer_steps, **recorder)
    method.distill(problem or make_problem(method), monitor)
    return monitor


def new_run(method: Evolution, problem: Problem) -> EvolutionRun:
    """A run whose mean is handed in as a set of one pair."""
    monitor = Recorder(method.outer_steps)
    return EvolutionRun(
        method, torch.zeros(5), problem, monitor, lambda m: SyntheticSet(m[None], m[None])
    )


def random_sets(method: HaDES, problem: Problem, seed: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    shape = (method.population, method.synthetic_size * 6)
    return method.sets(torch.randn(shape, generator=generator), problem, None)


@pytest.fixture
def taken_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Steps that CartPole itself was asked for."""
    steps = [0]
    step = CartPoleEnv.step

    def counted(self: CartPoleEnv, action: Any) -> Any:
        steps[0] += 1
        return step(self, action)

    monkeypatch.setattr(CartPoleEnv, "step", counted)
    yield steps


@pytest.fixture(scope="module")
def cartpole(session_folders: Path) -> str:
    name = "cartpole/mixed@500"
    build_dataset(DatasetName.parse(name))
    return name


def spec_of(method: str, dataset: str, **parameters: Any) -> RunSpec:
    return RunSpec.create(
        method=method,
        dataset=dataset,
        parameters=parameters,
        where="the test",
        protocol=PROTOCOL,
        student=STUDENT,
    )


# --- a generation -----------------------------------------------------------------------------


def test_the_search_starts_at_zero_in_the_students_units() -> None:
    method = HaDES(**OF_SETS)
    problem = make_problem(method)
    start = distil(method, problem).results[0]
    torch.testing.assert_close(start.observations, problem.scaling.mean.expand(3, -1))
    torch.testing.assert_close(start.actions, torch.full((3, 2), 0.5))


@pytest.mark.parametrize("head", ["mean", "sampled"])  # the second draws noise at every step
def test_a_candidates_policies_are_trained_on_its_own_set_from_common_initialisations(
    head: Any,
) -> None:
    method = HaDES(**OF_SETS, policies_per_candidate=2)
    student = dataclasses.replace(STUDENT, head=head)
    problem = make_problem(method, student=student)
    candidates = random_sets(method, problem)
    policies = method.clone(candidates, problem, generation=1)
    assert policies.count == 12
    observations = np.random.default_rng(0).normal(size=(12, 5, 4)).astype(np.float32)
    acted = policies(observations)
    for candidate in range(6):
        batch = candidates.observations[candidate][None], candidates.actions[candidate][None]
        for k in range(2):
            alone = train_students(
                student,
                lambda step, batch=batch: batch,  # type: ignore[misc]
                problem.scaling,
                [problem.generator(f"student {k}", 1)],
            )
            row = 2 * candidate + k
            expected = alone(observations[row : row + 1])[0]
            np.testing.assert_allclose(acted[row], expected, atol=1e-5)


def test_random_initialisations_change_with_the_generation_and_fixed_ones_do_not() -> None:
    observations = np.ones((6, 1, 4), dtype=np.float32)

    def acted(method: HaDES, generation: int) -> Any:
        problem = make_problem(method)
        return method.clone(random_sets(method, problem), problem, generation)(observations)

    changing = HaDES(**OF_SETS, policies_per_candidate=1)
    assert not np.array_equal(acted(changing, 0), acted(changing, 1))
    fixed = FixedInitHaDES(**OF_SETS)
    assert np.array_equal(acted(fixed, 0), acted(fixed, 1))


def test_fitness_is_the_mean_return_of_plain_episodes_from_common_states() -> None:
    method = HaDES(**OF_SETS, policies_per_candidate=2)
    problem = make_problem(method)
    policies = method.clone(random_sets(method, problem), problem, generation=0)
    run = new_run(method, problem)
    fitness = run.mean_returns(policies)

    environment = gymnasium.make(ENV_ID)
    seeds = torch.randint(2**31, (2,), generator=problem.generator("episodes", 0)).tolist()
    returns = np.zeros((12, 2))
    for row in range(12):
        single = [(w[row : row + 1], b[row : row + 1]) for w, b in policies.parameters]
        policy = StudentPolicy(policies.network, policies.head, single, problem.scaling)
        for episode, seed in enumerate(seeds):
            observation, _ = environment.reset(seed=seed)
            over = False
            while not over:
                scores = policy(np.asarray(observation, np.float32)[None, None])[0, 0]
                observation, reward, ended, cut, _ = environment.step(int(scores.argmax()))
                returns[row, episode] += float(reward)
                over = ended or cut
    environment.close()
    np.testing.assert_array_equal(fitness, returns.reshape(6, 4).mean(1))
    assert run.environment_steps == returns.sum()  # CartPole pays 1 a step


def test_episodes_start_elsewhere_in_the_next_generation() -> None:
    method = EvolutionStrategies(**{**SMALL, "episodes_per_policy": 8})
    problem = make_problem(method)
    run = new_run(method, problem)
    network = STUDENT.network(4, 2)
    students = [network.initialise(torch.Generator().manual_seed(s)) for s in range(6)]
    vectors = torch.cat([flatten(student) for student in students])
    policies = StudentPolicy(
        network, STUDENT.policy_head, unflatten(network, vectors), problem.scaling
    )
    first, again = run.mean_returns(policies), run.mean_returns(policies)
    run.generation = 1
    assert first.equal(again)
    assert not first.equal(run.mean_returns(policies))


@pytest.mark.filterwarnings("ignore:.*The reward is a NaN value")
def test_returns_that_are_not_finite_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    step = CartPoleEnv.step

    def broken(self: CartPoleEnv, action: Any) -> Any:
        observation, _, *rest = step(self, action)
        return observation, float("nan"), *rest

    monkeypatch.setattr(CartPoleEnv, "step", broken)
    with pytest.raises(ObdBenchError, match=r"Candidates \[0, 1, .*generation 0.*not finite"):
        distil(HaDES(**OF_SETS))


# --- labels -----------------------------------------------------------------------------------


def test_fixed_labels_are_one_hot_and_stay() -> None:
    results = distil(HaDES(**OF_SETS, labels="fixed")).results
    one_hot = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert results[0].actions.equal(one_hot)
    assert results[4].actions.equal(one_hot)
    assert not results[4].observations.equal(results[0].observations)


def test_fixed_labels_need_discrete_actions() -> None:
    method = HaDES(**OF_SETS, labels="fixed")
    with pytest.raises(BadParameter, match=r"discrete actions.*Pendulum-v1.*Box.*evolved"):
        distil(method, make_problem(method, env_id="Pendulum-v1"))


# --- the authors' student, and sampled actions ------------------------------------------------

SAMPLING = dataclasses.replace(STUDENT, head="categorical")


def test_fitness_under_sampled_actions_is_that_of_plain_episodes_of_common_streams() -> None:
    """Each of a candidate's K policies has a stream per episode, the same for all candidates."""
    method = HaDES(**OF_SETS, policies_per_candidate=2, actions="sampled")
    problem = make_problem(method, student=SAMPLING)
    policies = method.clone(random_sets(method, problem), problem, generation=0)
    fitness = new_run(method, problem).mean_returns(policies)

    starts = torch.randint(2**31, (2,), generator=problem.generator("episodes", 0)).tolist()
    drawn = problem.generator("sampled actions", 0)
    streams = torch.randint(2**62, (2, 2), generator=drawn).tolist()
    environment = gymnasium.make(ENV_ID)
    returns = np.zeros((6, 2, 2))
    for candidate, k, episode in itertools.product(range(6), range(2), range(2)):
        row = 2 * candidate + k
        single = [(w[row : row + 1], b[row : row + 1]) for w, b in policies.parameters]
        policy = dataclasses.replace(policies, parameters=single)
        stream = np.random.default_rng(streams[k][episode])
        noise = np.concatenate([stream.gumbel(size=(64, 2)) for _ in range(8)])
        observation, _ = environment.reset(seed=starts[episode])
        over, step = False, 0
        while not over:
            logits = policy.outputs(np.asarray(observation, np.float32)[None, None])[0, 0]
            action = int((logits.numpy() + noise[step].astype(np.float32)).argmax())
            observation, reward, ended, cut, _ = environment.step(action)
            returns[candidate, k, episode] += float(reward)
            over, step = ended or cut, step + 1
    environment.close()
    np.testing.assert_array_equal(fitness, returns.mean((1, 2)))
    still = dataclasses.replace(method, actions="mode")
    assert not fitness.equal(new_run(still, problem).mean_returns(policies))


def test_sampled_actions_are_drawn_anew_in_the_next_generation() -> None:
    method = EvolutionStrategies(**SMALL, actions="sampled")
    problem = make_problem(method, student=SAMPLING)
    run = new_run(method, problem)
    network = SAMPLING.network(4, 2)
    weights = network.initialise(torch.Generator().manual_seed(0))
    same = [(w.expand(6, -1, -1), b.expand(6, -1, -1)) for w, b in weights]
    policies = StudentPolicy(network, SAMPLING.policy_head, same, problem.scaling)
    first = run.mean_returns(policies)
    assert len(first.unique()) == 1, "equal candidates draw equal numbers"
    assert first.equal(run.mean_returns(policies))
    run.generation = 1
    assert not first.equal(run.mean_returns(policies))


@pytest.mark.parametrize("labels", ["evolved", "fixed"])
def test_hades_trains_the_student_that_it_is_given(labels: Any) -> None:
    method = HaDES(**OF_SETS, labels=labels, actions="sampled")
    student = dataclasses.replace(SAMPLING, gradient_clip=0.5, schedule="linear", steps=20)
    problem = make_problem(method, student=student)
    sets = random_sets(method, problem)
    policies = method.clone(sets, problem, generation=0)
    observations = sets.observations.repeat_interleave(2, 0)
    taught = sets.actions.repeat_interleave(2, 0).argmax(-1)
    before = method.clone(
        sets, make_problem(method, student=dataclasses.replace(student, steps=1)), 0
    )

    def loss(students: StudentPolicy) -> float:
        outputs = students.network.forward(students.parameters, observations).outputs
        return float(torch.nn.functional.cross_entropy(outputs.flatten(0, 1), taught.flatten()))

    assert loss(policies) < loss(before)
    assert distil(method, problem).results[4] is not None


@pytest.mark.parametrize("name", ["hades_published", "hades_fixed_init_published"])
def test_the_published_presets_take_the_authors_student_where_the_sweep_leaves_it(
    name: str,
) -> None:
    def student_of(**settings: Any) -> StudentSpec:
        spec = RunSpec.create(
            method=name, dataset="hopper/medium", parameters={}, where="the test",
            protocol=protocol_named("hades"), student=settings,
        )  # fmt: skip
        assert spec.scoring_student == spec.student
        return spec.student

    assert student_of() == RECIPES["hades"]
    expected = dataclasses.replace(RECIPES["hades"], width=64, steps=200)
    assert student_of(width=64, steps=200) == expected
    # Also a setting that is the suite's default, where it is named.
    assert student_of(steps=100, width=256).steps == 100
    assert student_of(recipe="obd") == StudentSpec()
    own = RunSpec.create(
        method="hades", dataset="hopper/medium", parameters={}, where="the test",
        protocol=protocol_named("hades"),
    )  # fmt: skip
    assert own.student == StudentSpec()


def test_hades_with_the_authors_student_runs_on_hopper(tmp_path: Path) -> None:
    dataset = "hopper/medium@2000"
    build_dataset(DatasetName.parse(dataset))
    spec = RunSpec.create(
        method="hades_published",
        dataset=dataset,
        parameters={**OF_SETS, "outer_steps": 2, "max_steps": 20},
        where="the test",
        protocol=Protocol(
            "t", students=2, episodes=2, checkpoint_every=2, last=1, actions="sampled"
        ),
        student={"width": 16, "steps": 10},
    )
    assert (spec.student.head, spec.student.activation) == ("gaussian", "tanh")
    record = execute(spec, tmp_path)
    assert (record.status, record.error) == ("complete", None)
    assert len(np.unique(record.checkpoints[-1].returns)) == 4
    described = runs_frame([record]).iloc[0]
    assert described.student == "mlp 3x16 tanh, gaussian head, adam clipped at 0.5, 10 steps"
    assert described.protocol_detail == (
        "t: 2 students x 2 episodes, last 1 checkpoint, sampled actions"
    )
    trained = load_set(tmp_path / record_folder(spec.run_id)).train()
    assert np.abs(trained.predict(np.zeros(11))).max() <= 1
    with pytest.raises(ObdBenchError, match="'categorical', for actions of a Discrete"):
        load_set(tmp_path / record_folder(spec.run_id)).train(student=SAMPLING)


def test_a_run_whose_head_is_for_other_actions_fails_before_it_begins(
    cartpole: str, tmp_path: Path
) -> None:
    """Also where the environment was not known when the run was asked for."""
    gaussian = dataclasses.replace(STUDENT, head="gaussian")
    spec = dataclasses.replace(spec_of("hades", cartpole, **OF_SETS), evaluation_student=gaussian)
    record = execute(spec, tmp_path)
    assert record.status == "failed"
    said = "student.head is 'gaussian', for actions of a Box; those of CartPole-v1 are Discrete"
    assert said in record.failure.message
    assert record.checkpoints == []


@pytest.mark.parametrize("skip", [None, (1, 2)])
def test_evolution_on_weights_evolves_log_deviations_too(skip: tuple[int, int] | None) -> None:
    spec = StudentSpec(
        name="residual" if skip else "mlp", width=8, depth=3, head="gaussian", activation="tanh"
    )
    network = spec.network(4, 2)
    size = 4 * 8 + 8 + 8 * 8 + 8 + 8 * 2 + 2
    vectors = torch.randn(3, size + 2, generator=torch.Generator().manual_seed(0))
    parameters = unflatten(network, vectors)
    assert flatten(parameters).equal(vectors)
    outputs = network.forward(parameters, torch.zeros(3, 5, 4)).outputs
    assert outputs[..., 2:].equal(vectors[:, None, size:].expand(3, 5, 2))


# --- what is handed in, and what it costs -----------------------------------------------------


def test_a_run_of_two_generations_is_complete_and_says_what_it_took(
    cartpole: str, tmp_path: Path, taken_steps: list[int]
) -> None:
    spec = spec_of("hades", cartpole, **{**OF_SETS, "outer_steps": 2})
    record = execute(spec, tmp_path)
    assert (record.status, record.error) == ("complete", None)
    assert record.needs == ["environment"]
    assert [c.outer_step for c in record.checkpoints] == [0, 2]
    cost = record.cost
    played = sum(np.sum(c.lengths) for c in record.checkpoints)
    assert cost.evaluation_environment_steps == played
    assert cost.environment_steps == taken_steps[0] - played
    assert cost.checkpoint_environment_steps == [0, cost.environment_steps]


@pytest.mark.parametrize("name", METHODS)
def test_the_budget_ends_the_search_with_the_generation_that_reaches_it(name: str) -> None:
    method = METHODS[name]
    whole = distil(method)
    after = whole.environment_steps
    for budget, last in ((after[2] - 1, 2), (after[2], 2), (after[2] + 1, 3)):
        settings = {**vars(method), "environment_steps": budget}
        monitor = distil(type(method)(**settings), every=100)
        assert sorted(monitor.results) == [0, last], "the end is scored wherever it comes"
        assert monitor.counted == after[last]


@pytest.mark.parametrize("name", METHODS)
def test_a_search_that_its_generations_end_says_which_share_of_the_budget_it_took(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    method = METHODS[name]
    taken = distil(method).counted
    settings = {**vars(method), "environment_steps": 2 * taken}
    assert distil(type(method)(**settings)).facts["budget_taken"] == 0.5
    assert f"with 50 % of its budget of {2 * taken} environment steps" in caplog.text
    caplog.clear()
    settings["environment_steps"] = taken
    assert distil(type(method)(**settings)).facts["budget_taken"] == 1.0
    assert not caplog.text
    assert "budget_taken" not in distil(method).facts


def test_fixed_init_hands_in_the_policy_of_its_one_initialisation() -> None:
    method = FixedInitHaDES(**OF_SETS)
    problem = make_problem(method)
    monitor = distil(method, problem)
    assert method.reference and not HaDES.reference
    policy = monitor.results[4]
    assert isinstance(policy, StudentPolicy)
    assert policy.count == 1
    evolved = method.sets(monitor.states[4].tensors["mean"][None], problem, None)
    batch = evolved.observations, evolved.actions
    expected = train_students(
        STUDENT,
        lambda step: batch,
        problem.scaling,
        [problem.generator("fixed initialisation")],
    )
    observations = np.random.default_rng(0).normal(size=(1, 9, 4)).astype(np.float32)
    np.testing.assert_array_equal(policy(observations), expected(observations))


# --- evolution on weights ---------------------------------------------------------------------


@pytest.mark.parametrize("skip", [None, (1, 2)])
def test_vectors_of_weights_are_the_networks_own(skip: tuple[int, int] | None) -> None:
    spec = StudentSpec(name="residual" if skip else "mlp", width=8, depth=3)
    network = spec.network(4, 2)
    drawn = [network.initialise(torch.Generator().manual_seed(seed)) for seed in range(3)]
    vectors = torch.cat([flatten(parameters) for parameters in drawn])
    inputs = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(9))
    together = network.forward(unflatten(network, vectors), inputs).outputs
    for row, parameters in enumerate(drawn):
        alone = network.forward(parameters, inputs[row : row + 1]).outputs[0]
        torch.testing.assert_close(together[row], alone)


def test_evolution_on_weights_starts_from_a_students_own_initialisation() -> None:
    method = EvolutionStrategies(**SMALL)
    problem = make_problem(method)
    results = distil(method, problem).results
    initial = STUDENT.network(4, 2).initialise(problem.generator("student"))
    assert flatten(results[0].parameters).equal(flatten(initial))
    assert not flatten(results[4].parameters).equal(flatten(initial))
    assert method.reference


# --- going on where it was --------------------------------------------------------------------


def test_a_resumed_run_of_snes_ends_with_an_unbroken_ones_bits() -> None:
    method = METHODS["hades, SNES"]  # the contract resumes the default, OpenES
    whole = distil(method)
    rest = distil(method, saved=whole.states[2])
    assert sorted(rest.results) == [2, 3, 4]
    for key, value in whole.states[4].tensors.items():
        assert value.equal(rest.states[4].tensors[key]), key
    assert rest.states[4].facts == whole.states[4].facts


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_killed_run_leaves_the_record_of_an_unkilled_one(cartpole: str, tmp_path: Path) -> None:
    spec = spec_of("hades", cartpole, **OF_SETS)

    def kill(run_id: str, step: int, total: int) -> None:
        if step == 3:
            raise Killed

    whole = execute(spec, tmp_path / "whole")
    assert execute(spec, tmp_path / "killed", kill, save_every=0).status == "failed"
    resumed = execute(spec, tmp_path / "killed")
    assert numbers(resumed) == numbers(whole)
    assert sets(tmp_path / "killed", spec) == sets(tmp_path / "whole", spec)
    assert resumed.cost.environment_steps == whole.cost.environment_steps
    assert resumed.cost.attempts == 2


@pytest.mark.jax
def test_hades_runs_on_minatar_from_random_play_and_names_the_simulator(tmp_path: Path) -> None:
    dataset = "minatar/breakout@300"
    data = build_dataset(DatasetName.parse(dataset))
    assert (data.states.shape[1], data.actions.shape) == (400, (300, 3))
    assert set(np.unique(data.actions)) == {0, 1}
    assert 60 < data.actions[:, 0].sum() < 140, "actions are uniform"
    spec = RunSpec.create(
        method="hades_minatar_published",
        dataset=dataset,
        parameters={"population": 4, "outer_steps": 2, "episodes_per_policy": 2},
        where="the test",
        protocol=Protocol(
            "t", students=2, episodes=2, checkpoint_every=2, last=1, actions="sampled"
        ),
        student=StudentSpec(width=16, steps=10),
    )
    first, second = (execute(spec, tmp_path / name) for name in ("a", "b"))
    assert (first.status, first.error) == ("complete", None)
    returns = [record.checkpoints[-1].returns for record in (first, second)]
    np.testing.assert_array_equal(*returns)
    assert first.provenance.environment == "minatar/breakout"
    versions = first.provenance.packages
    for package in ("gymnax", "jax", "jaxlib"):
        assert versions[package] == importlib.metadata.version(package)
    assert "brax" not in versions
    made = load_set(tmp_path / "a" / record_folder(spec.run_id))
    assert made.observations.shape == (16, 400)
    assert made.actions.tolist() == np.eye(3)[np.arange(16) % 3].tolist()


# --- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        (HaDES, {"population": 7}, "population of HaDES is 7.*even"),
        (HaDES, {"population": 1, "strategy": "snes"}, "population of HaDES is 1"),
        (HaDES, {"synthetic_size": 0}, "synthetic_size of HaDES is 0"),
        (HaDES, {"sigma": 0.0}, "sigma of HaDES is 0.0"),
        (HaDES, {"max_steps": 0}, "max_steps of HaDES is 0"),
        (HaDES, {"strategy": "snes", "fitness_shaping": "raw"}, "its own utilities"),
        (HaDES, {"temperature": 20.0}, "temperature is 20.0.*set strategy = .snes."),
        (HaDES, {"strategy": "snes", "temperature": 0.0}, "temperature of HaDES is 0.0"),
        (FixedInitHaDES, {"policies_per_candidate": 2}, "same policy.*episodes_per_policy"),
        (
            EvolutionStrategies,
            {"environment_steps": 0},
            "environment_steps of EvolutionStrategies is 0",
        ),
    ],
)
def test_parameters_that_cannot_work_are_refused(
    method: type[Evolution], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadParameter, match=message):
        method(**parameters)


def test_snes_takes_an_odd_population() -> None:
    assert distil(HaDES(**{**OF_SETS, "population": 5}, strategy="snes")).results[4] is not None


@pytest.mark.parametrize("method", [HaDES(population=4), EvolutionStrategies(population=4)])
def test_candidates_whose_policies_diverge_are_named_with_the_rates_that_can_be_lowered(
    method: Evolution, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(*_: object, policies: int, episodes: int, **__: object) -> Episodes:
        returns = np.zeros((policies, episodes))
        returns[1] = np.nan
        return Episodes(returns, np.ones((policies, episodes), dtype=np.int64))

    monkeypatch.setattr(evolution_loop, "rollout", diverged)
    run = new_run(method, make_problem(method))
    said = (
        r"Candidates \[1\] of generation 0 earned returns that are not finite: their policies "
        rf"diverged\. The distillation diverged: lower sigma \({method.sigma:g}\) or learning_rate "
        rf"\({method.learning_rate:g}\) or student\.learning_rate \({STUDENT.learning_rate:g}\)\."
    )
    with pytest.raises(ObdBenchError, match=said):
        run.mean_returns(SimpleNamespace(count=4))  # type: ignore[arg-type]
