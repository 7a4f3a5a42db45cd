"""Methods: each does what its formula says, held to torch's own optimisers and to autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from baselines.meta_gradient import MetaGradient
from baselines.obd import AV_PBC_PUBLISHED, DBC, DBC_PUBLISHED, PBC, PBC_PUBLISHED, AvPBC
from baselines.outer_loop import OBD, OuterRun
from baselines.references import BCWhole, TeacherReference
from baselines.selection import RandomSelection
from benchmark.datasets.dataset import Dataset
from benchmark.method import Assignment, BadParameter, Problem
from benchmark.students.student import StudentPolicy, train_students
from benchmark.synthetic_set import SyntheticSet
from tests.baselines.toy import (
    ACTION_DIM,
    OBSERVATION_DIM,
    SMALL,
    STATES,
    STUDENT,
    LinearTeacher,
    Recorder,
    distil,
    toy_dataset,
    toy_problem,
)

OBJECTIVES = (DBC, PBC, AvPBC)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return toy_dataset()


@pytest.fixture
def problem() -> Callable[..., Problem]:
    return toy_problem


# --- the objectives ---------------------------------------------------------------------------


def test_dbc_holds_students_to_the_actions_of_the_data(
    problem: Callable[..., Problem], dataset: Dataset
) -> None:
    targets = DBC().targets(problem(DBC))
    torch.testing.assert_close(targets.actions, (torch.from_numpy(dataset.actions) - 3) / 2)
    assert targets.weights is None


def test_pbc_holds_students_to_the_teachers_actions(
    problem: Callable[..., Problem], dataset: Dataset
) -> None:
    targets = PBC().targets(problem(PBC))
    expected = LinearTeacher().act(torch.from_numpy(dataset.observations))
    torch.testing.assert_close(targets.actions, expected)
    assert targets.weights is None


def test_av_pbc_weights_every_state_by_beta_times_the_value_of_the_teachers_action(
    problem: Callable[..., Problem], dataset: Dataset
) -> None:
    targets = AvPBC(beta=0.5).targets(problem(AvPBC))
    teacher, observations = LinearTeacher(), torch.from_numpy(dataset.observations)
    actions = teacher.act(observations)
    torch.testing.assert_close(targets.actions, actions)
    expected = 0.5 * (50 + 10 * observations[:, 0] + actions.sum(1))
    torch.testing.assert_close(targets.weights, expected)


def test_sampled_teacher_actions_scatter_about_the_mean_ones(
    problem: Callable[..., Problem],
) -> None:
    mean = PBC().targets(problem(PBC)).actions
    sampled = PBC(teacher_action="sampled").targets(problem(PBC)).actions
    assert 0.02 < (sampled - mean).abs().mean() < 0.2
    assert sampled.equal(PBC(teacher_action="sampled").targets(problem(PBC)).actions)


def test_dbc_cannot_see_a_teacher(problem: Callable[..., Problem]) -> None:
    assert {m: m.needs for m in OBJECTIVES} == {
        DBC: frozenset({"dataset"}),
        PBC: frozenset({"dataset", "teacher"}),
        AvPBC: frozenset({"dataset", "teacher"}),
    }


@pytest.mark.parametrize("preset", [DBC_PUBLISHED, PBC_PUBLISHED, AV_PBC_PUBLISHED])
def test_published_presets_draw_new_noise_in_the_backward_pass(
    preset: OBD, problem: Callable[..., Problem]
) -> None:
    assert preset.adjoint_noise == "fresh"
    theirs = distil(replace(preset, **SMALL), problem(preset)).results
    ours = replace(preset, **SMALL, adjoint_noise="reused")
    reused = distil(ours, problem(preset)).results
    assert theirs[0].actions.equal(reused[0].actions)
    assert not theirs[6].actions.equal(reused[6].actions)


# --- the outer loop ---------------------------------------------------------------------------


def test_obd_starts_from_the_pairs_that_random_selection_draws(
    problem: Callable[..., Problem],
) -> None:
    start = distil(DBC(**SMALL), problem(DBC)).results[0]
    drawn = distil(RandomSelection(4), problem(RandomSelection(4))).results[0]
    torch.testing.assert_close(start.observations, drawn.observations)
    torch.testing.assert_close(start.actions, drawn.actions)


@pytest.mark.parametrize("clip", [1e-2, 0.5, 1e6])
def test_the_pairs_follow_torchs_sgd_with_momentum_and_clipped_norm(
    clip: float, problem: Callable[..., Problem]
) -> None:
    method = DBC(**SMALL, outer_learning_rate=0.3, outer_momentum=0.8, outer_gradient_clip=clip)
    run = _outer_run(method, problem(method))
    pairs = [run.observations.clone(), run.actions.clone()]
    optimiser = torch.optim.SGD(pairs, lr=0.3, momentum=0.8)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        gradients = [torch.randn(p.shape, generator=generator) for p in pairs]
        for pair, gradient in zip(pairs, gradients, strict=True):
            pair.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(pairs, clip)
        optimiser.step()
        run.update(MetaGradient(torch.zeros(1), *(part[None] for part in gradients)))
    torch.testing.assert_close([run.observations, run.actions], pairs)


@pytest.mark.parametrize("head", ["mean", "sampled"])
@pytest.mark.parametrize("method", OBJECTIVES)
def test_one_outer_step_follows_autograd_through_the_students_training(
    method: type[OBD], head: str, problem: Callable[..., Problem]
) -> None:
    # The whole step written in plain torch: train by autograd, unrolled, then torch's own SGD.
    student = replace(STUDENT, head=head)
    made = method(**{**SMALL, "outer_steps": 1})
    given = problem(method, student=student)
    monitor = distil(made, given)
    before, after = monitor.states[0].tensors, monitor.states[1].tensors

    run = _outer_run(made, problem(method, student=student))
    targets = made.targets(given)
    network = student.network(OBSERVATION_DIM, ACTION_DIM)
    generator = given.generator("outer step", 0)
    initial = network.initialise(generator)
    chosen = torch.randint(STATES, (8,), generator=generator)
    noise = torch.randn(4, 4, ACTION_DIM, generator=generator) if head == "sampled" else None
    last = torch.randn(8, ACTION_DIM, generator=generator) if head == "sampled" else None

    def act(
        layers: list[tuple[torch.Tensor, ...]], inputs: torch.Tensor, drawn: torch.Tensor | None
    ) -> torch.Tensor:
        hidden = torch.relu(inputs @ layers[0][0].T + layers[0][1])
        outputs = hidden @ layers[1][0].T + layers[1][1]
        if drawn is None:
            return outputs.tanh()
        mean, raw = outputs.chunk(2, -1)
        return (mean + (raw - 1).clamp(-20, 2).exp() * drawn).tanh()

    pairs = [run.observations.requires_grad_(), run.actions.requires_grad_()]
    layers = [tuple(t[0].clone().requires_grad_() for t in layer) for layer in initial]
    for t in range(student.steps):
        loss = (act(layers, pairs[0], None if noise is None else noise[t]) - pairs[1]).square()
        flat = [t for layer in layers for t in layer]
        slopes = torch.autograd.grad(loss.mean(), flat, create_graph=True)
        moved = [w - student.learning_rate * g for w, g in zip(flat, slopes, strict=True)]
        layers = [(moved[0], moved[1]), (moved[2], moved[3])]
    error = (act(layers, given.observations[chosen], last) - targets.actions[chosen]).square()
    if targets.weights is not None:
        error = error * targets.weights[chosen, None]
    torch.autograd.backward(error.mean())
    torch.nn.utils.clip_grad_norm_(pairs, made.outer_gradient_clip)
    torch.optim.SGD(pairs, made.outer_learning_rate, momentum=made.outer_momentum).step()

    for name, pair in zip(("observations", "actions"), pairs, strict=True):
        assert not after[name].equal(before[name])
        torch.testing.assert_close(after[name], pair.detach(), atol=1e-5, rtol=1e-4)


def test_the_outer_loss_falls(problem: Callable[..., Problem]) -> None:
    # The loss of fresh students on the whole data, trained on the first and on the last set.
    student = replace(STUDENT, width=32, steps=20)
    method = PBC(synthetic_size=4, outer_batch=STATES, outer_steps=60)
    given = problem(method, student=student)
    sets = distil(method, given, Recorder(every=20)).results
    observations = given.dataset.observations
    wanted = given.scaling.actions_out(method.targets(given).actions)

    def loss(synthetic: SyntheticSet) -> float:
        pairs = (
            given.scaling.observations_in(synthetic.observations).expand(8, -1, -1),
            given.scaling.actions_in(synthetic.actions).expand(8, -1, -1),
        )
        generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
        policy = train_students(student, lambda step: pairs, given.scaling, generators)
        acted = policy(np.broadcast_to(observations, (8, *observations.shape)).copy())
        return float(np.square(acted - wanted.numpy()).mean())

    losses = [loss(sets[step]) for step in (0, 20, 60)]
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] < 0.6 * losses[0]


def packed(assignments: list[Assignment]) -> list[Recorder]:
    """Distil them as one batch."""
    assert len({assignment.method.pack_key() for assignment in assignments}) == 1
    assignments[0].method.distill_packed(assignments)
    return [cast(Recorder, assignment.monitor) for assignment in assignments]


@pytest.mark.parametrize("head", ["mean", "sampled"])
def test_packed_runs_are_the_runs_alone(head: str, problem: Callable[..., Problem]) -> None:
    student = replace(STUDENT, head=head)
    # Three objectives, of which one is weighted, and two seeds of one of them.
    runs = [(AvPBC, 0), (DBC, 0), (PBC, 0), (DBC, 1)]
    together = packed(
        [Assignment(m(**SMALL), problem(m, seed, student), Recorder()) for m, seed in runs]
    )
    for (method, seed), recorder in zip(runs, together, strict=True):
        alone = distil(method(**SMALL), problem(method, seed, student))
        assert list(recorder.results) == list(alone.results) == list(range(7))
        for step, result in alone.results.items():
            for name in ("observations", "actions"):
                torch.testing.assert_close(
                    getattr(recorder.results[step], name),
                    getattr(result, name),
                    atol=1e-5,
                    rtol=1e-5,
                )


@pytest.mark.parametrize(
    "other",
    [{"synthetic_size": 5}, {"outer_batch": 9}, {"outer_steps": 7}, {"adjoint_noise": "fresh"}],
)
def test_runs_whose_loops_differ_are_not_packed(other: dict[str, Any]) -> None:
    assert DBC(**SMALL).pack_key() is not None
    assert DBC(**SMALL).pack_key() == AvPBC(**SMALL, beta=0.5).pack_key()
    assert DBC(**SMALL).pack_key() != DBC(**{**SMALL, **other}).pack_key()
    assert RandomSelection().pack_key() is None


def test_packed_runs_saved_at_different_steps_are_refused(problem: Callable[..., Problem]) -> None:
    state = distil(DBC(**SMALL), problem(DBC)).states[3]
    monitors = [Recorder(saved=state), Recorder()]
    with pytest.raises(BadParameter, match=r"lock-step.*\[3, 0\]"):
        packed([Assignment(DBC(**SMALL), problem(DBC), monitor) for monitor in monitors])


def test_a_student_that_is_not_trained_by_sgd_is_refused_with_the_way_out(
    problem: Callable[..., Problem],
) -> None:
    with pytest.raises(BadParameter, match=r"optimizer is 'adam'.*\[evaluation_student\]"):
        distil(DBC(**SMALL), problem(DBC, student=replace(STUDENT, optimizer="adam")))


# --- the references ---------------------------------------------------------------------------


def test_bc_whole_refuses_its_own_learning_rate_by_its_own_name() -> None:
    with pytest.raises(BadParameter, match=r"^learning_rate of BCWhole is -1\.0; expected above 0"):
        BCWhole(learning_rate=-1.0)


def test_bc_whole_learns_the_data_and_is_scored_once(problem: Callable[..., Problem]) -> None:
    student = replace(STUDENT, width=64, head="mean")
    method = BCWhole(steps=500, batch_size=32, learning_rate=3e-3)
    given = problem(method, student=student)
    results = distil(method, given).results
    assert list(results) == [500]
    policy = results[500]
    assert isinstance(policy, StudentPolicy)
    assert policy.count == 1
    acted = policy(given.dataset.observations[None])[0]
    spread = given.dataset.actions.var()
    assert np.square(acted - given.dataset.actions).mean() < 0.25 * spread
    assert method.reference

    own = replace(student, optimizer="adam", learning_rate=3e-3)
    same = distil(replace(method, optimizer="student"), problem(method, student=own)).results[500]
    np.testing.assert_array_equal(same(given.dataset.observations[None])[0], acted)


def test_the_teacher_row_plays_the_teachers_actions_in_the_environments_units(
    problem: Callable[..., Problem], dataset: Dataset
) -> None:
    results = distil(TeacherReference(), problem(TeacherReference)).results
    assert list(results) == [0]
    policy = results[0]
    acted = policy(dataset.observations[None])
    assert (policy.count, acted.shape) == (1, (1, STATES, ACTION_DIM))
    expected = 3 + 2 * LinearTeacher().act(torch.from_numpy(dataset.observations)).numpy()
    np.testing.assert_allclose(acted[0], expected, rtol=1e-6)
    assert TeacherReference().reference


def _outer_run(method: OBD, problem: Problem) -> OuterRun:
    return OuterRun(method, method.targets(problem), problem, Recorder())


@pytest.mark.parametrize("name", ["outer_steps", "outer_batch"])
def test_a_loop_of_nothing_is_refused_before_it_starts(name: str) -> None:
    with pytest.raises(BadParameter, match=f"{name} of DBC is -3; expected 1 or more"):
        DBC(**{name: -3})
