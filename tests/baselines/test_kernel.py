"""FRePo and its parts: closed forms, real training by autograd, torch's optimisers, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.adaptive_pairs import OBJECTIVES, AdaptiveRun, Rule, direction, trust_ratio
from baselines.frepo import FRePo
from baselines.kernel_then_unrolled import KernelThenUnrolled
from baselines.last_layer import Link, act, last_layer, ridge_fit
from baselines.meta_gradient import MetaGradient, OuterBatch, Pairs
from baselines.obd import AvPBC
from baselines.student_pool import StudentPool
from benchmark.method import BadParameter, Problem, State
from benchmark.students.network import Parameters
from benchmark.students.spec import StudentSpec
from benchmark.students.student import train_students
from benchmark.synthetic_set import NotFinite
from tests.baselines.toy import ACTION_DIM, OBSERVATION_DIM, STATES, Recorder, distil, toy_problem

SMALL: dict[str, Any] = {
    "synthetic_size": 4, "outer_batch": 8, "outer_steps": 6, "pool": 3, "turns": 2,
}  # fmt: skip
STUDENT = StudentSpec(width=8, depth=3, steps=5)
LOG_DENSITY = torch.linspace(-90, 3, STATES, dtype=torch.float64)

solvers = pytest.mark.parametrize("solver", ["ridge", "descent"])
links = pytest.mark.parametrize("link", ["tanh", "identity"])
heads = pytest.mark.parametrize("head", ["mean", "sampled", "sampled_trained"])
networks = pytest.mark.parametrize(("name", "depth"), [("mlp", 1), ("mlp", 3), ("residual", 4)])


def problem_of(method: FRePo, **student: Any) -> Problem:
    return toy_problem(method, student=replace(STUDENT, **student), log_density=LOG_DENSITY)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pool_of(method: FRePo, problem: Problem) -> StudentPool:
    return method.pool_of(AdaptiveRun(method, method.rule, problem, Recorder()))


def double(parameters: Parameters) -> Parameters:
    return [(weight.double(), bias.double()) for weight, bias in parameters]


# --- the last layer -----------------------------------------------------------------------------


def test_ridge_is_the_regression_in_the_weights_where_actions_are_outputs() -> None:
    inputs, actions = normal(7, 4), normal(7, 2, seed=1)
    found = ridge_fit("identity", inputs, normal(4, 2, seed=2), actions, 0.1)
    f, a = inputs.numpy(), actions.numpy()
    penalty = 0.1 * np.trace(f @ f.T) / 7
    expected = np.linalg.solve(f.T @ f + penalty * np.eye(4), f.T @ a)
    np.testing.assert_allclose(found.layer, expected, rtol=1e-9)
    assert float(found.penalty) == pytest.approx(penalty)


def test_ridge_minimises_the_penalised_error_of_linearised_actions() -> None:
    inputs, start, actions = normal(7, 9), normal(9, 2, seed=2), normal(7, 2, seed=1)
    layer = ridge_fit("tanh", inputs, start, actions, 0.1).layer.requires_grad_()
    outputs = inputs @ start
    acted = outputs.tanh() + (1 - outputs.tanh() ** 2) * (inputs @ layer - outputs)
    penalty = 0.1 * inputs.square().sum() / 7
    loss = (acted - actions).square().sum() + penalty * layer.square().sum()
    (slope,) = torch.autograd.grad(loss, layer)
    assert float(slope.detach().abs().max()) < 1e-9
    assert float(loss.detach()) > 0.01


def test_an_almost_singular_kernel_is_solved_in_double_precision() -> None:
    # Twice the same observation, and the published ridge: float32 alone would lose all digits.
    inputs = normal(6, 30)[[0, 0, 1, 2, 3, 4]]
    actions = normal(6, 2, seed=1)
    exact = ridge_fit("identity", inputs, normal(30, 2), actions, 1e-6)
    single = ridge_fit("identity", inputs.float(), normal(30, 2).float(), actions.float(), 1e-6)
    torch.testing.assert_close(single.layer.double(), exact.layer, rtol=1e-2, atol=1e-3)


@networks
@heads
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_descent_is_the_students_training_with_its_body_held(
    name: str, depth: int, head: str, momentum: float
) -> None:
    method = FRePo(**SMALL, solver="descent")
    spec = {"name": name, "depth": depth, "head": head, "momentum": momentum}
    problem = problem_of(method, **spec)
    pool = pool_of(method, problem)
    parameters = double(pool.student(0))
    pairs = Pairs(normal(1, 6, OBSERVATION_DIM), normal(1, 6, ACTION_DIM, seed=1).tanh())
    found = method.fit(pool, parameters, pairs).layer

    # The mean's part of the real last layer, by autograd and torch's own SGD.
    weight = parameters[depth - 1][0][0, :ACTION_DIM].clone().requires_grad_()
    bias = parameters[depth - 1][1][0, 0, :ACTION_DIM].clone().requires_grad_()
    hidden = pool.network.forward(parameters, pairs.observations).inputs[depth - 1][0]
    student = problem.student
    optimiser = torch.optim.SGD([weight, bias], student.learning_rate, momentum)
    for _ in range(student.steps):
        optimiser.zero_grad()
        torch.autograd.backward(
            ((hidden @ weight.T + bias).tanh() - pairs.actions[0]).square().mean()
        )
        optimiser.step()
    torch.testing.assert_close(found, torch.cat((weight.T, bias[None])).detach())
    start = last_layer(pool.network, parameters, ACTION_DIM)
    assert float((found - start).abs().max()) > 1e-3


# --- the gradient -------------------------------------------------------------------------------


def loss_written_out(
    method: FRePo,
    pool: StudentPool,
    parameters: Parameters,
    pairs: tuple[Tensor, Tensor],
    outer: OuterBatch,
) -> Tensor:
    """The outer loss of one student, in the weights of its last layer; without the kernel."""

    def body(observations: Tensor) -> Tensor:
        value, kept = observations, []
        for layer in range(pool.network.depth - 1):
            value = torch.relu(value @ parameters[layer][0][0].T + parameters[layer][1][0])
            if pool.network.skip and layer + 1 == pool.network.skip[1]:
                value = value + kept[pool.network.skip[0] - 1]
            kept.append(value)
        return torch.cat((value, torch.ones(len(value), 1, dtype=value.dtype)), 1)

    observations, actions = pairs
    inputs, last = body(observations), parameters[pool.network.depth - 1]
    start = torch.cat((last[0][0].T, last[1][0]))[:, :ACTION_DIM]
    fitted = []
    for j in range(ACTION_DIM):
        u, a = inputs @ start[:, j], actions[:, j]
        if method.solver == "descent":
            layer = start[:, j]
            for _ in range(STUDENT.steps):
                value, slope = act(method.link, inputs @ layer)
                push = inputs.T @ (slope * (a - value)) * 2 / actions.numel()
                layer = layer + STUDENT.learning_rate * push
        else:
            value, slope = act(method.link, u)
            scaled = inputs * slope[:, None]
            penalty = method.ridge * inputs.square().sum() / len(inputs)
            normal_matrix = scaled.T @ scaled + penalty * torch.eye(inputs.shape[1]).double()
            layer = torch.linalg.solve(normal_matrix, scaled.T @ (slope * u + a - value))
        fitted.append(layer)
    acted = act(method.link, body(outer.observations[0]) @ torch.stack(fitted, 1))[0]
    error = (acted - outer.actions[0]) ** 2
    assert outer.weights is not None
    return (outer.weights[0, :, None] * error).mean()


@solvers
@links
@heads
@networks
def test_the_gradient_is_that_of_the_loss_written_out(
    solver: Any, link: Link, head: str, name: str, depth: int
) -> None:
    method = FRePo(**SMALL, solver=solver, link=link, ridge=0.05)
    pool = pool_of(method, problem_of(method, head=head, name=name, depth=depth))
    parameters = double(pool.student(1))
    pairs = Pairs(normal(1, 6, OBSERVATION_DIM), normal(1, 6, ACTION_DIM, seed=1).tanh())
    outer = OuterBatch(
        normal(1, 9, OBSERVATION_DIM, seed=2),
        normal(1, 9, ACTION_DIM, seed=3).tanh(),
        normal(1, 9, seed=4).abs(),
    )
    found = method.gradient(pool, parameters, pairs, outer)
    at = tuple(part[0].clone().requires_grad_() for part in pairs)
    loss = loss_written_out(method, pool, parameters, (at[0], at[1]), outer)
    expected = torch.autograd.grad(loss, at)
    torch.testing.assert_close(found.loss[0], loss.detach())
    torch.testing.assert_close(found.observations[0], expected[0], rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(found.actions[0], expected[1], rtol=1e-6, atol=1e-10)


def test_objectives_are_those_of_obd() -> None:
    for name, kind in OBJECTIVES.items():
        method = FRePo(**SMALL, objective=name)  # type: ignore[arg-type]
        assert method.needs == kind.needs
        problem = problem_of(method)
        run = AdaptiveRun(method, method.rule, problem, Recorder())
        expected = kind().targets(problem)
        assert run.targets.actions.equal(expected.actions)
        batch = run.batch(3)
        chosen = torch.randint(STATES, (8,), generator=problem.generator("outer batch", 3))
        assert batch.actions[0].equal(expected.actions[chosen])
        assert batch.observations[0].equal(problem.observations[chosen])
        if expected.weights is None:
            assert batch.weights is None
        else:
            assert batch.weights is not None
            assert batch.weights[0].equal(expected.weights[chosen])


# --- the rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["adam", "adabelief", "lamb"])
def test_a_rule_is_its_papers_written_as_sums(rule: Rule) -> None:
    gradients = [normal(3, 2, seed=seed) for seed in range(5)]
    first, second = torch.zeros(3, 2).double(), torch.zeros(3, 2).double()
    values = normal(3, 2, seed=9)
    means: list[Tensor] = []
    spread = torch.zeros(3, 2).double()
    for count, gradient in enumerate(gradients, start=1):
        found = direction(rule, gradient, first, second, count)
        means.append(sum(0.1 * 0.9 ** (count - 1 - i) * g for i, g in enumerate(gradients[:count])))  # type: ignore[arg-type]
        centred = [g - m for g, m in zip(gradients, means, strict=False)]
        parts = [p.square() for p in (centred if rule == "adabelief" else gradients)]
        spread = sum(0.001 * 0.999 ** (count - 1 - i) * p for i, p in enumerate(parts[:count]))  # type: ignore[assignment]
        epsilon = {"adam": 1e-8, "adabelief": 1e-16, "lamb": 1e-6}[rule]
        expected = means[-1] / (1 - 0.9**count)
        expected = expected / ((spread / (1 - 0.999**count)).sqrt() + epsilon)
        torch.testing.assert_close(found, expected)
    ratio = float(values.square().sum().sqrt() / found.square().sum().sqrt())
    assert trust_ratio(values, found) == pytest.approx(ratio)
    assert trust_ratio(torch.zeros(2), found) == trust_ratio(values, torch.zeros(2)) == 1


def test_adam_is_torchs() -> None:
    mine, theirs = normal(4), normal(4)
    moments = torch.zeros(2, 4).double()
    optimiser = torch.optim.Adam([theirs], lr=0.01)
    for count in range(1, 6):
        theirs.grad = normal(4, seed=count)
        optimiser.step()
        mine -= 0.01 * direction("adam", normal(4, seed=count), moments[0], moments[1], count)
    torch.testing.assert_close(mine, theirs)


def test_pairs_follow_lamb_under_a_cosine_to_a_tenth() -> None:
    method = FRePo(**SMALL, outer_learning_rate=0.1)
    assert [method.rate(step) for step in (0, 3, 6)] == pytest.approx([0.1, 0.055, 0.01])
    run = AdaptiveRun(method, "lamb", problem_of(method), Recorder())
    run.step = 3
    before = run.observations.clone()
    part = normal(1, 4, OBSERVATION_DIM).float()
    gradient = MetaGradient(torch.zeros(1), part, torch.zeros(1, 4, ACTION_DIM))
    held = run.actions.clone()
    run.update(gradient)
    # The step has the length of the pairs times the rate, whatever the gradient's.
    moved = (run.observations - before).norm()
    assert float(moved) == pytest.approx(0.055 * float(before.norm()), rel=1e-4)
    assert run.actions.equal(held)
    assert float(run.norms[3]) == pytest.approx(float(part.norm()))
    run.step = 4
    with pytest.raises(NotFinite, match="outer step 4"):
        run.update(gradient._replace(observations=part * float("nan")))


# --- the pool -----------------------------------------------------------------------------------


@heads
def test_a_student_of_the_pool_is_trained_by_adam(head: str) -> None:
    method = FRePo(**{**SMALL, "turns": 9})
    problem = problem_of(method, head=head)
    pool = pool_of(method, problem)
    pairs = (problem.observations[None, :7], problem.actions[None, :7])

    spec = replace(problem.student, optimizer="adam", learning_rate=3e-4)
    if head == "mean":
        for turn in range(4):
            pool.take_turn(0, *pairs, turn)
        again = problem.generator("first student", 0)
        policy = train_students(spec, lambda step: pairs, problem.scaling, [again], steps=4)
        for one, other in zip(pool.student(0), policy.parameters, strict=True):
            torch.testing.assert_close(one, other)
    else:  # one turn: the generator of its noise is one that no student of `train_students` has
        before = pool.parameters.clone()
        pool.take_turn(0, *pairs, 0)
        moved = (pool.parameters[0] - before[0]).abs()
        assert float(moved.max()) == pytest.approx(3e-4, rel=1e-2)
        assert pool.parameters[1:].equal(before[1:])


def test_students_are_replaced_at_staggered_steps() -> None:
    method = FRePo(**{**SMALL, "turns": 6})
    problem = problem_of(method)
    pool = pool_of(method, problem)
    pairs = (problem.observations[None, :7], problem.actions[None, :7])
    lives = []
    for index in range(3):
        turns = 0
        while True:
            pool.take_turn(index, *pairs, 10 * index + turns)
            turns += 1
            if int(pool.taken[index, 0]) == 0:
                break
        lives.append(turns)
        fresh = problem.generator("next student", 10 * index + turns - 1)
        expected = pool.network.initialise(fresh)
        for one, other in zip(pool.student(index), expected, strict=True):
            torch.testing.assert_close(one, other)
        assert not pool.first[index].any()
        assert not pool.second[index].any()
    assert lives == [6, 4, 2]


@solvers
@heads
def test_a_run_resumes_at_every_step_to_the_same_bits(solver: Any, head: str) -> None:
    method = FRePo(**SMALL, solver=solver, objective="sdw_obd")
    problem = problem_of(method, head=head)
    whole = distil(method, problem)
    assert not whole.results[5].observations.equal(whole.results[6].observations)
    for step in range(6):
        resumed = distil(method, problem, Recorder(saved=whole.states[step]))
        assert resumed.results[6].observations.equal(whole.results[6].observations)
        assert resumed.results[6].actions.equal(whole.results[6].actions)
    assert "gradient_clipped_share" not in whole.facts
    assert whole.facts["gradient_norm_median"] > 0  # type: ignore[operator]


# --- what it is for -----------------------------------------------------------------------------


@solvers
@links
def test_the_loss_of_fresh_students_falls(solver: Any, link: Link) -> None:
    student = {"width": 32, "depth": 2, "steps": 20, "head": "mean"}
    method = FRePo(
        synthetic_size=4, objective="pbc", outer_batch=STATES, outer_steps=150,
        outer_learning_rate=0.02, solver=solver, link=link, ridge=0.05, pool=3,
    )  # fmt: skip
    problem = problem_of(method, **student)
    sets = distil(method, problem, Recorder(every=150)).results
    wanted = problem.scaling.actions_out(OBJECTIVES["pbc"]().targets(problem).actions).numpy()
    losses = []
    for step in (0, 150):
        pairs = (
            problem.scaling.observations_in(sets[step].observations).expand(8, -1, -1),
            problem.scaling.actions_in(sets[step].actions).expand(8, -1, -1),
        )
        generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
        policy = train_students(problem.student, lambda _: pairs, problem.scaling, generators)  # noqa: B023
        states = problem.dataset.observations
        acted = policy(np.broadcast_to(states, (8, *states.shape)).copy())
        losses.append(float(np.square(acted - wanted).mean()))
    assert losses[1] < 0.85 * losses[0]


@pytest.mark.parametrize(
    ("name", "value"), [("pool", 0), ("turns", 0), ("ridge", 0.0), ("online_learning_rate", 0.0)]
)
def test_a_parameter_outside_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(BadParameter, match=f"{name} of FRePo is {value}; expected"):
        FRePo(**{**SMALL, name: value})


def test_students_that_it_cannot_distil_for_are_refused() -> None:
    descent, ridge = FRePo(**SMALL, solver="descent"), FRePo(**SMALL)
    adam = replace(STUDENT, optimizer="adam")
    with pytest.raises(BadParameter, match=r"optimizer is 'adam'.*\[evaluation_student\]"):
        descent.require_student(adam)
    ridge.require_student(adam)  # its students' own training does not enter
    with pytest.raises(BadParameter, match="head is 'gaussian'"):
        distil(ridge, problem_of(ridge, head="gaussian"))


# --- the kernel, then unrolling -----------------------------------------------------------------


@heads
def test_both_parts_are_the_methods_whose_gradients_they_follow(head: str) -> None:
    method = KernelThenUnrolled(**SMALL, kernel_share=0.5, unrolled_learning_rate=0.3)
    problem = problem_of(method, head=head)
    mixed = distil(method, problem)
    kernel = distil(FRePo(**{**SMALL, "outer_steps": 3}), problem)
    at = mixed.states[3].tensors
    assert kernel.states[3].tensors["observations"].equal(at["observations"])

    still = {f"{name}_velocity": torch.zeros_like(at[name]) for name in ("observations", "actions")}
    state = State({**at, **still}, {"step": 3})
    unrolled = AvPBC(synthetic_size=4, outer_batch=8, outer_steps=6, outer_learning_rate=0.3)
    rest = distil(unrolled, problem, Recorder(saved=state))
    for name in ("observations", "actions"):
        found = getattr(mixed.results[6], name)
        torch.testing.assert_close(found, getattr(rest.results[6], name))
        assert not found.equal(getattr(mixed.results[3], name))
    for step in range(6):
        resumed = distil(method, problem, Recorder(saved=mixed.states[step]))
        assert resumed.results[6].observations.equal(mixed.results[6].observations)


def test_a_share_of_0_or_1_is_one_of_the_two() -> None:
    none, whole = (KernelThenUnrolled(**SMALL, kernel_share=share) for share in (0, 1))
    problem = problem_of(none)
    unrolled = distil(AvPBC(synthetic_size=4, outer_batch=8, outer_steps=6), problem)
    torch.testing.assert_close(
        distil(none, problem).results[6].actions, unrolled.results[6].actions
    )
    kernel = distil(FRePo(**SMALL), problem).results[6]
    assert distil(whole, problem).results[6].actions.equal(kernel.actions)
    with pytest.raises(BadParameter, match=r"kernel_share is 1.5; expected 0 to 1"):
        KernelThenUnrolled(**SMALL, kernel_share=1.5)
    with pytest.raises(BadParameter, match="activation is 'tanh'"):
        distil(none, problem_of(none, activation="tanh"))
