"""Orthogonal matching pursuit on last-layer gradients, against its definition by autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from baselines.matching import RealPairs
from baselines.selection_by_gradient import GradientOMP, last_layer, matching_pursuit
from benchmark.method import BadParameter
from benchmark.students.spec import StudentSpec
from tests.baselines.toy import STATES, LinearTeacher, Recorder, distil, toy_problem

STUDENT = StudentSpec(width=8, depth=3, steps=4)


def tiny(**parameters: Any) -> GradientOMP:
    values = {"synthetic_size": 6, "probes": 2, "probe_steps": 3, "probe_batch": 8, **parameters}
    return GradientOMP(**values)


def gradients(method: GradientOMP, student: StudentSpec) -> np.ndarray:
    """Gradient of each transition's loss in the probes' last layers `[M, D]`, by autograd."""
    given = toy_problem(method, student=student)
    real = RealPairs(method, given)
    probes = method.trained_probes(given, real)
    found = []
    for state, action in zip(real.observations, real.actions, strict=True):
        parts = []
        for probe in range(method.probes):
            layers = [(w[probe], b[probe, 0]) for w, b in probes.parameters]
            last = [tensor.clone().requires_grad_() for tensor in layers[-1]]
            hidden = state
            for weight, bias in layers[:-1]:
                hidden = (weight @ hidden + bias).relu()
            mean = (last[0] @ hidden + last[1])[: len(action)]
            loss = (mean.tanh() - action).square().mean()
            parts += torch.autograd.grad(loss, last)
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found).double().numpy()


@pytest.mark.parametrize("head", ["mean", "sampled"])
def test_it_is_the_pursuit_read_aloud(head: Any) -> None:
    method, student = tiny(), replace(STUDENT, head=head)
    g = gradients(method, student)
    target = g.mean(0)
    rows: list[int] = []
    weights, residual = np.zeros(0), target
    for _ in range(6):
        fit = g @ residual
        fit[rows] = -np.inf
        rows.append(int(fit.argmax()))
        weights = lsq_linear(g[rows].T, target, bounds=(0, np.inf), tol=1e-12).x
        residual = target - weights @ g[rows]
    recorder = distil(method, toy_problem(method, student=student))
    chosen = recorder.results[0]
    given = toy_problem(method, student=student)
    assert method.rows(given).tolist() == rows
    np.testing.assert_allclose(chosen.weights, weights, rtol=1e-3, atol=1e-4)
    apart = np.linalg.norm(residual) / np.linalg.norm(target)
    assert recorder.facts["gradient_error"] == pytest.approx(apart, rel=1e-3)
    assert chosen.observations.equal(torch.from_numpy(given.dataset.observations)[rows])


def test_more_pairs_come_nearer_to_the_gradient_than_a_uniform_draw() -> None:
    errors = []
    for size in (2, 6, 20):
        method = tiny(synthetic_size=size)
        errors.append(distil(method, toy_problem(method, student=STUDENT)).facts["gradient_error"])
    g = gradients(tiny(), STUDENT)
    drawn = np.random.default_rng(0).integers(STATES, size=(200, 20))
    uniform = np.linalg.norm(g[drawn].mean(1) - g.mean(0), axis=1) / np.linalg.norm(g.mean(0))
    assert errors[0] > errors[1] > errors[2]  # type: ignore[operator]
    assert errors[2] < 0.5 * np.median(uniform)  # type: ignore[operator]


def test_the_teachers_labels_are_those_of_the_gradients_and_the_pairs() -> None:
    method = tiny(labels="teacher", teacher_samples=1)
    given = toy_problem(method, student=STUDENT)
    assert RealPairs(method, given).actions.equal(
        LinearTeacher().act(torch.from_numpy(given.dataset.observations))
    )
    chosen = distil(method, given).results[0]
    expected = 3 + 2 * LinearTeacher().act(chosen.observations)
    torch.testing.assert_close(chosen.actions, expected)
    assert (tiny(labels="teacher").version, tiny().version) == (2, 1)


def test_blocks_and_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = distil(tiny(), toy_problem(tiny(), student=STUDENT)).results[0]
    monkeypatch.setattr("baselines.selection_by_gradient.BLOCK", 7)
    blocks = distil(tiny(), toy_problem(tiny(), student=STUDENT)).results[0]
    assert blocks.observations.equal(whole.observations)
    few = tiny(candidates=6)
    chosen = few.rows(toy_problem(few, student=STUDENT))
    assert len(set(chosen.tolist())) == 6
    with pytest.raises(BadParameter, match="candidates is 5; expected at least 6, the pairs"):
        tiny(candidates=5)


def test_copies_of_one_pair_are_weighted_without_a_failure() -> None:
    method = tiny()
    given = toy_problem(method, student=STUDENT)
    real = RealPairs(method, given)
    probes = method.trained_probes(given, real)
    same = last_layer(probes, real.observations[[0] * 9], real.actions[[0] * 9])
    rows, weights = matching_pursuit(same, same.only([0]).combined(torch.ones(1)), 6)
    assert sorted(set(rows)) == sorted(rows)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-3)
    assert bool((weights >= 0).all())


def test_a_student_that_cannot_be_cloned_here_is_refused() -> None:
    student = replace(STUDENT, head="gaussian")
    method = tiny()
    with pytest.raises(BadParameter, match="head is 'gaussian'"):
        distil(method, toy_problem(method, student=student), Recorder())
