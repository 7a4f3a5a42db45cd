"""Implicit gradients and RCIG: dense Hessians by autograd, and retraining, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines import native_engine
from baselines.adaptive_pairs import AdaptiveRun
from baselines.body_curvature import BodyCurvature
from baselines.frepo import FRePo
from baselines.implicit_gradient import ImplicitGradient, conjugate_gradients
from baselines.kernel_then_unrolled import KernelThenUnrolled
from baselines.last_layer import act, last_layer
from baselines.meta_gradient import MetaGradient, OuterBatch, Pairs
from baselines.outer_loop import inner_loop
from baselines.rcig import RCIG
from baselines.student_pool import StudentPool, flattened, unflattened
from benchmark.method import BadParameter
from benchmark.students.network import Parameters
from tests.baselines.test_kernel import (
    ACTION_DIM,
    OBSERVATION_DIM,
    STUDENT,
    double,
    heads,
    links,
    normal,
    pool_of,
    problem_of,
)
from tests.baselines.test_meta_gradient import NETWORKS, Setup, Skip, cloning_loss
from tests.baselines.toy import Recorder, distil

SMALL: dict[str, Any] = {"synthetic_size": 4, "outer_batch": 8, "outer_steps": 6}


def rows(setup: Setup) -> tuple[Tensor, Callable[..., Tensor]]:
    """The parameters of a setup of one run in a row, and the BC loss of such a row."""
    sizes = [tuple(w.shape[:0:-1]) for w, _ in setup.initial]

    def loss(row: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        layers = unflattened(row, sizes)  # type: ignore[arg-type]
        flat = [t[0] for w, b in layers[: setup.loop.network.depth] for t in (w, b[0])]
        if setup.loop.network.scalars:
            flat += [scalar[0, 0, 0] for scalar in layers[-1]]
        flat = [t if t.ndim != 2 or i % 2 == 0 else t[0] for i, t in enumerate(flat)]
        noise = None if setup.noise is None else setup.noise[-1, 0]
        return cloning_loss(setup.loop, flat, observations, actions, noise)

    return flattened(setup.initial), loss


@pytest.mark.parametrize(("depth", "skip"), NETWORKS)
@heads
def test_products_with_second_derivatives_are_those_of_the_dense_ones(
    depth: int, skip: Skip, head: str
) -> None:
    setup = Setup.draw(head=head, depth=depth, skip=skip, runs=1, width=4)
    row, loss = rows(setup)
    observations, actions = (part[0] for part in setup.pairs)
    along = normal(len(row), seed=3)
    noise = None if setup.noise is None else setup.noise[-1]
    inner = setup.loop.inner_step(setup.initial, setup.pairs, noise)
    sizes = setup.loop.network.layer_sizes
    product, mixed = setup.loop.second_derivatives(inner, unflattened(along, sizes))

    hessian = torch.autograd.functional.hessian(loss, (row, observations, actions), vectorize=True)
    torch.testing.assert_close(flattened(product), hessian[0][0] @ along)
    for found, part in zip((mixed.observations, mixed.actions), hessian[0][1:], strict=True):
        torch.testing.assert_close(found[0], torch.einsum("i,ijk->jk", along, part))


@pytest.mark.parametrize(
    ("solver", "steps", "rate"), [("neumann", 3000, 0.1), ("conjugate", 200, 1.0)]
)
@heads
def test_the_gradient_is_that_of_a_dense_inverse(
    solver: Any, steps: int, rate: float, head: str
) -> None:
    setup = Setup.draw(head=head, depth=3, runs=1, width=4, weighted=True)
    method = ImplicitGradient(
        **SMALL, solver=solver, solver_steps=steps, neumann_rate=rate, damping=4.0
    )
    noise = None if setup.noise is None else setup.noise[-1]
    inner = setup.loop.inner_step(setup.initial, setup.pairs, noise)
    found = method.gradient(setup.loop, inner, setup.outer)

    row, loss = rows(setup)
    observations, actions = (part[0] for part in setup.pairs)
    hessian = torch.autograd.functional.hessian(loss, (row, observations, actions), vectorize=True)
    outer_loss, outer_gradient = setup.loop.outer_gradient(setup.initial, setup.outer)
    damped = hessian[0][0] + 4 * torch.eye(len(row)).double()
    assert float(torch.linalg.eigvalsh(damped).min()) > 0
    along = torch.linalg.solve(damped, flattened(outer_gradient))
    assert found.loss.equal(outer_loss)
    for part, mixed in zip((found.observations, found.actions), hessian[0][1:], strict=True):
        expected = -torch.einsum("i,ijk->jk", along, mixed)
        torch.testing.assert_close(part[0], expected, rtol=1e-6, atol=1e-10)


def test_at_a_minimum_it_is_the_derivative_of_the_outer_loss_after_training_anew() -> None:
    # One layer and more pairs than weights: the loss has one minimum, which Newton's steps reach.
    setup = Setup.draw(head="mean", depth=1, runs=1, pairs=12)
    row, loss = rows(setup)
    sizes = setup.loop.network.layer_sizes

    def trained(observations: Tensor, actions: Tensor) -> Parameters:
        at = row * 0.1
        for _ in range(50):
            slope = torch.autograd.functional.jacobian(lambda r: loss(r, observations, actions), at)
            curved = torch.autograd.functional.hessian(
                lambda r: loss(r, observations, actions), at, vectorize=True
            )
            step = torch.linalg.solve(curved + 1e-3 * torch.eye(len(at)).double(), slope)
            at = at - step
        assert float(slope.norm()) < 1e-12
        return unflattened(at, sizes)

    observations, actions = setup.pairs.observations[0], setup.pairs.actions[0] * 0.5
    method = ImplicitGradient(**SMALL, solver="conjugate", solver_steps=100, damping=1e-12)
    reached = trained(observations, actions)
    inner = setup.loop.inner_step(reached, Pairs(observations[None], actions[None]), None)
    found = method.gradient(setup.loop, inner, setup.outer)
    for seed in range(3):
        along = normal(12, 5, seed=seed), normal(12, 3, seed=seed + 9)
        ends = []
        for h in (1e-5, -1e-5):
            moved = trained(observations + h * along[0], actions + h * along[1])
            ends.append(float(setup.loop.outer_gradient(moved, setup.outer)[0]))
        parts = zip((found.observations, found.actions), along, strict=True)
        expected = float(sum((part[0] * direction).sum() for part, direction in parts))
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(expected, rel=1e-5)


def test_conjugate_gradients_end_where_a_direction_is_not_curved_upwards() -> None:
    wanted = torch.tensor([1.0, 1.0])
    for curvature, expected in (((2.0, 4.0), [0.5, 0.25]), ((-2.0, 1.0), [0.0, 0.0])):
        found = conjugate_gradients(lambda v: torch.tensor(curvature) * v, wanted, 9)  # noqa: B023
        torch.testing.assert_close(found, torch.tensor(expected))
    # The first direction is curved upwards, the second is not: one step is taken.
    found = conjugate_gradients(lambda v: torch.tensor([3.0, -1.0]) * v, wanted, 9)
    torch.testing.assert_close(found, wanted * 2 / 2)
    assert conjugate_gradients(lambda v: v, torch.zeros(2), 9).equal(torch.zeros(2))


@heads
@pytest.mark.parametrize("lives", [1, 2, 3])
def test_a_student_is_trained_by_its_own_steps_divided_among_its_outer_steps(
    head: str, lives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = ImplicitGradient(**SMALL, outer_steps_per_student=lives, outer_learning_rate=1e-12)
    problem = problem_of(method, head=head)  # type: ignore[arg-type]
    monitor, reached = Recorder(), []
    gradient = ImplicitGradient.gradient

    def watched(self: ImplicitGradient, loop: Any, inner: Any, outer: Any) -> MetaGradient:
        reached.append(inner.parameters)
        return gradient(self, loop, inner, outer)

    with monkeypatch.context() as patched:
        patched.setattr(ImplicitGradient, "gradient", watched)
        distil(method, problem, monitor)
    loop = inner_loop(problem)
    run = AdaptiveRun(method, "adam", problem, Recorder())
    for step in range(6):
        born = step - step % lives
        steps = STUDENT.steps * (step % lives + 1) // lives
        parameters, done = run.draw(loop, born).initial, 0
        for turn in range(born, step + 1):  # the noise of each part is that of its outer step
            upto = STUDENT.steps * (turn - born + 1) // lives
            noise = run.draw(loop, turn).noise
            part = None if noise is None else noise[done:upto]
            training = replace(loop, steps=upto - done)
            parameters, done = training.train(parameters, run.pairs(), part), upto
        assert done == steps
        torch.testing.assert_close(flattened(reached[step]), flattened(parameters))
    for step in range(6):
        resumed = distil(method, problem, Recorder(saved=monitor.states[step]))
        assert resumed.results[6].observations.equal(monitor.results[6].observations)


def test_pairs_follow_adam_and_gradients_are_clipped() -> None:
    method = ImplicitGradient(**SMALL, outer_learning_rate=0.1, outer_gradient_clip=0.5)
    run = AdaptiveRun(method, "adam", problem_of(method), Recorder())  # type: ignore[arg-type]
    pairs = [run.observations.clone(), run.actions.clone()]
    optimiser = torch.optim.Adam(pairs, lr=0.1)
    for step in range(5):
        parts = [normal(*pair.shape, seed=step + 7 * i).float() for i, pair in enumerate(pairs)]
        for pair, part in zip(pairs, parts, strict=True):
            pair.grad = part.clone()
        torch.nn.utils.clip_grad_norm_(pairs, 0.5)
        optimiser.step()
        run.step = step
        run.update(MetaGradient(torch.zeros(1), *(part[None] for part in parts)))
    torch.testing.assert_close([run.observations, run.actions], pairs)
    run.step = 5
    assert run.facts()["gradient_clipped_share"] == 1


def test_a_record_names_the_engine_that_trains_or_unrolls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_engine, "name", lambda device: f"an engine on {device}")
    for method in (ImplicitGradient(), KernelThenUnrolled()):
        assert method.engine("cpu") == "an engine on cpu"
    assert FRePo().engine("cpu") == RCIG().engine("cpu") == "torch"


def test_what_it_cannot_work_with_is_refused() -> None:
    method = ImplicitGradient(**SMALL, outer_steps_per_student=6)
    with pytest.raises(BadParameter, match=r"outer_steps_per_student is 6, student.steps 5"):
        method.require_student(STUDENT)
    with pytest.raises(BadParameter, match="cut off its velocity"):
        replace(method, outer_steps_per_student=2).require_student(replace(STUDENT, momentum=0.5))
    with pytest.raises(BadParameter, match="optimizer is 'adam'"):
        method.require_student(replace(STUDENT, optimizer="adam"))
    with pytest.raises(BadParameter, match=r"damping of ImplicitGradient is 0.0; expected above"):
        replace(method, damping=0.0)
    with pytest.raises(BadParameter, match="solver is 'descent'; expected \"ridge\""):
        RCIG(**SMALL, solver="descent")


# --- RCIG ---------------------------------------------------------------------------------------


def regressed(method: RCIG, **student: Any) -> tuple[StudentPool, Parameters, Pairs, OuterBatch]:
    """A pool, one of its students, pairs and an outer batch in float64."""
    pool = pool_of(method, problem_of(method, **student))
    parameters = double(pool.student(1))
    pairs = Pairs(normal(1, 6, OBSERVATION_DIM), normal(1, 6, ACTION_DIM, seed=1).tanh())
    outer = OuterBatch(
        normal(1, 9, OBSERVATION_DIM, seed=2), normal(1, 9, ACTION_DIM, seed=3).tanh()
    )
    return pool, parameters, pairs, outer


def outputs_of(pool: StudentPool, body: Parameters, layer: Tensor, inputs: Tensor) -> Tensor:
    """Outputs of a network whose last layer is given `[h + 1, act_dim]`, written out."""
    value, hidden = inputs, []
    for number, (weight, bias) in enumerate(body, start=1):
        value = torch.relu(value @ weight[0].T + bias[0])
        if pool.network.skip and number == pool.network.skip[1]:
            value = value + hidden[pool.network.skip[0] - 1]
        hidden.append(value)
    return value @ layer[:-1] + layer[-1]


networks = pytest.mark.parametrize(("name", "depth"), [("mlp", 2), ("mlp", 3), ("residual", 4)])


@links
@networks
@heads
def test_the_curvature_is_the_schur_complement_of_the_linearised_problems(
    link: Any, name: str, depth: int, head: str
) -> None:
    method = RCIG(**SMALL, link=link, ridge=0.05)
    pool, parameters, pairs, _ = regressed(method, name=name, depth=depth, head=head, width=4)
    body, sizes = parameters[: depth - 1], pool.network.layer_sizes[: depth - 1]
    fit = method.fit(pool, parameters, pairs)
    theta, observations = flattened(body), pairs.observations[0]
    size = fit.layer.numel()

    def outputs(joint: Tensor) -> Tensor:
        return outputs_of(
            pool, unflattened(joint[size:], sizes), joint[:size].view_as(fit.layer), observations
        )

    # Linear in all weights: a = a(u) + a'(u) J (change), under the regression's penalty.
    at = torch.cat((fit.layer.flatten(), theta))
    jacobian = torch.autograd.functional.jacobian(outputs, at, vectorize=True)
    acted, slopes = act(link, outputs(at))

    def loss(change: Tensor) -> Tensor:
        error = acted + slopes * (jacobian @ change) - pairs.actions[0]
        penalty = fit.penalty * (fit.layer.flatten() + change[:size]).square().sum()
        return error.square().mean() + penalty / error.numel()

    dense = torch.autograd.functional.hessian(loss, torch.zeros_like(at), vectorize=True)
    ww, wt, tt = dense[:size, :size], dense[:size, size:], dense[size:, size:]
    reduced = tt - wt.T @ torch.linalg.solve(ww, wt)
    curvature = BodyCurvature(link, pool.network, parameters, fit, pairs)
    columns = [curvature.product(unit) for unit in torch.eye(len(theta)).double()]
    torch.testing.assert_close(torch.stack(columns, 1), reduced, rtol=1e-6, atol=1e-10)
    assert float(reduced.abs().max()) > 1e-4


def test_v_is_what_torchs_adam_makes_of_the_quadratic() -> None:
    method = RCIG(**SMALL, inverse_steps=15, inverse_learning_rate=0.01, ridge=0.05)
    pool, parameters, pairs, _ = regressed(method, width=4)
    fit = method.fit(pool, parameters, pairs)
    curvature = BodyCurvature("tanh", pool.network, parameters, fit, pairs)
    size = len(flattened(parameters[:2]))
    wanted = normal(size)
    found = method.inverse(curvature, wanted)
    dense = torch.stack([curvature.product(unit) for unit in torch.eye(size).double()])
    theirs = torch.zeros_like(wanted).requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.01)
    for _ in range(15):
        optimiser.zero_grad()
        torch.autograd.backward(theirs @ dense @ theirs / 2 - wanted @ theirs)
        optimiser.step()
    torch.testing.assert_close(found, theirs.detach())


@links
@networks
@heads
@pytest.mark.parametrize("length", [1e-3, 1e6])
def test_the_gradient_is_the_direct_part_and_the_clipped_implicit_one(
    link: Any, name: str, depth: int, head: str, length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = RCIG(**SMALL, link=link, ridge=0.05)
    pool, parameters, pairs, outer = regressed(method, name=name, depth=depth, head=head)
    sizes = pool.network.layer_sizes[: depth - 1]
    along = length * normal(sum((i + 1) * o for i, o in sizes), seed=5)
    seen = []

    def inverse(self: RCIG, curvature: BodyCurvature, wanted: Tensor) -> Tensor:
        seen.append(wanted)
        return along

    monkeypatch.setattr(RCIG, "inverse", inverse)
    found = method.gradient(pool, parameters, pairs, outer)
    direct = FRePo.gradient(method, pool, parameters, pairs, outer)

    # The regression in the weights, dimension by dimension, and its loss: no kernel.
    theta = flattened(parameters[: depth - 1]).requires_grad_()
    start = last_layer(pool.network, parameters, ACTION_DIM)
    at = [part[0].clone().requires_grad_() for part in pairs]
    identity = torch.eye(len(start)).double()
    hidden = outputs_of(pool, unflattened(theta, sizes), identity[:, :-1], at[0])
    inputs = torch.cat((hidden, torch.ones(6, 1).double()), 1)
    penalty, columns = 0.05 * inputs.square().sum() / 6, []
    for j in range(ACTION_DIM):
        u = inputs @ start[:, j]
        value, slope = act(link, u)
        scaled = inputs * slope[:, None]
        columns.append(
            torch.linalg.solve(
                scaled.T @ scaled + penalty * identity,
                scaled.T @ (slope * u + at[1][:, j] - value),
            )
        )
    layer = torch.stack(columns, 1)
    inner = (act(link, inputs @ layer)[0] - at[1]).square().sum() + penalty * layer.square().sum()
    (slopes,) = torch.autograd.grad(inner / at[1].numel(), theta, create_graph=True)
    implicit = torch.autograd.grad(slopes @ along, at, retain_graph=True)
    for name_, mixed in zip(("observations", "actions"), implicit, strict=True):
        one, whole = getattr(direct, name_)[0], getattr(found, name_)[0]
        scale = min(1.0, float(one.norm() / mixed.norm()))
        assert (scale == 1) == (length < 1)
        torch.testing.assert_close(whole, one - scale * mixed, rtol=1e-5, atol=1e-9)

    last = torch.cat((outer.observations[0],))
    outer_outputs = outputs_of(pool, unflattened(theta, sizes), layer, last)
    loss = (act(link, outer_outputs)[0] - outer.actions[0]).square().mean()
    (expected,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(seen[0], expected, rtol=1e-6, atol=1e-10)


def test_a_single_layer_has_the_direct_part_only() -> None:
    method = RCIG(**SMALL)
    pool, parameters, pairs, outer = regressed(method, depth=1)
    found = method.gradient(pool, parameters, pairs, outer)
    direct = FRePo.gradient(method, pool, parameters, pairs, outer)
    assert found.observations.equal(direct.observations)


@heads
def test_the_result_is_the_moving_average_of_the_pairs(head: str) -> None:
    method = RCIG(**SMALL, pool=2, turns=2, turn_steps=3, average=0.8)
    problem = problem_of(method, head=head)
    whole = distil(method, problem)
    average = whole.states[0].tensors["observations"]
    for step in range(1, 7):
        average = 0.8 * average + 0.2 * whole.states[step].tensors["observations"]
        found = problem.scaling.observations_in(whole.results[step].observations)
        torch.testing.assert_close(found, average, rtol=1e-4, atol=1e-5)
    for step in range(6):
        resumed = distil(method, problem, Recorder(saved=whole.states[step]))
        assert resumed.results[6].observations.equal(whole.results[6].observations)
        assert resumed.results[6].actions.equal(whole.results[6].actions)
    with pytest.raises(BadParameter, match="average of RCIG is 1; expected"):
        replace(method, average=1)
