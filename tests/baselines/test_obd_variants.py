"""SDW-OBD, progressive and truncated OBD: what each changes, and where it is OBD itself."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.meta_gradient import OuterBatch, Pairs
from baselines.obd import PBC, AvPBC
from baselines.outer_loop import OBD, OuterRun, inner_loop
from baselines.progressive_obd import ProgressiveAvPBC
from baselines.sdw_obd import SDWOBD, density_weights, largest_tau
from baselines.truncated_obd import TruncatedAvPBC
from benchmark.density.density import effective_support
from benchmark.method import BadParameter, Problem
from benchmark.students.network import stack
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet
from tests.baselines.toy import SMALL, STATES, STUDENT, Recorder, distil, toy_problem

MakeProblem = Callable[..., Problem]
TINY: dict[str, Any] = {**SMALL, "outer_steps": 6}
LOG_DENSITY = torch.linspace(-90, 3, STATES, dtype=torch.float64)


@pytest.fixture
def problem() -> MakeProblem:
    return lambda method, **rest: toy_problem(method, log_density=LOG_DENSITY, **rest)


def same(one: SyntheticSet, other: SyntheticSet) -> bool:
    return torch.equal(one.observations, other.observations) and torch.equal(
        one.actions, other.actions
    )


# --- state-density weighting ------------------------------------------------------------------


@pytest.mark.parametrize(("base", "plain"), [("av_pbc", AvPBC), ("pbc", PBC)])
@pytest.mark.parametrize("weighting", ["loss", "sampling"])
def test_tau_0_is_the_base_objective_bit_for_bit(
    base: Any, plain: type[OBD], weighting: Any, problem: MakeProblem
) -> None:
    weighted = distil(SDWOBD(**TINY, base=base, tau=0, weighting=weighting), problem(SDWOBD))
    expected = distil(plain(**TINY), problem(plain))
    assert same(weighted.results[6], expected.results[6])


def test_weights_are_the_reciprocal_density_floored_with_mean_1() -> None:
    weights = density_weights(LOG_DENSITY, 0.25, 0.01)
    floor = np.quantile(LOG_DENSITY.numpy(), 0.01)
    expected = np.exp(-0.25 * np.maximum(LOG_DENSITY.numpy(), floor))
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-10)
    assert weights.mean().item() == pytest.approx(1.0)


def test_weights_survive_densities_that_floats_cannot_hold() -> None:
    weights = density_weights(torch.tensor([-3000.0, -2.0, 800.0]), 4.0, 0.0)
    assert torch.isfinite(weights).all()
    assert weights.mean().item() == pytest.approx(1.0)


def test_both_ways_of_weighting_agree_in_expectation(problem: MakeProblem) -> None:
    """The mean gradient of many sampled batches is that of the weighted loss on all states."""
    settings = {**TINY, "base": "pbc", "tau": 0.02, "outer_batch": 64}
    sampled = SDWOBD(**settings, weighting="sampling")
    given = problem(SDWOBD, student=dataclasses.replace(STUDENT, head="mean"))
    run = OuterRun(sampled, sampled.targets(given), given, Recorder())
    loop = inner_loop(given)
    fixed = run.draw(loop, 0)
    count = 400
    batches = [run.draw(loop, step).outer for step in range(count)]
    outer = OuterBatch(
        torch.cat([batch.observations for batch in batches]),
        torch.cat([batch.actions for batch in batches]),
    )
    pairs = Pairs(run.observations.expand(count, -1, -1), run.actions.expand(count, -1, -1))
    found = loop.gradient(stack([fixed.initial] * count), pairs, outer)
    stacked = torch.cat((found.observations, found.actions), 2)

    weighted = SDWOBD(**{**settings, "outer_batch": STATES})
    targets = weighted.targets(given)
    assert targets.weights is not None
    whole_data = fixed.outer._replace(
        observations=given.observations[None],
        actions=targets.actions[None],
        weights=targets.weights[None],
    )
    draw = fixed._replace(outer=whole_data)
    whole = loop.gradient(draw.initial, run.pairs(), draw.outer, draw.noise)
    expected = torch.cat((whole.observations[0], whole.actions[0]), 1)
    error = stacked.std(0) / count**0.5
    assert ((stacked.mean(0) - expected).abs() < 4.5 * error + 1e-7).all()
    assert (expected.abs() > 5 * error).any()  # or the noise would hide a difference


def test_states_are_drawn_with_their_probabilities(problem: MakeProblem) -> None:
    method = SDWOBD(**{**TINY, "outer_batch": 40_000}, tau=0.02, weighting="sampling")
    given = problem(SDWOBD)
    targets = method.targets(given)
    run = OuterRun(method, targets, given, Recorder())
    rows = run._draw_states(40_000, torch.Generator().manual_seed(0))
    found = torch.bincount(rows, minlength=STATES) / 40_000
    assert targets.probabilities is not None
    torch.testing.assert_close(found.double(), targets.probabilities, atol=0.01, rtol=0)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_auto_takes_the_largest_tau_that_keeps_the_sample(fraction: float) -> None:
    tau = largest_tau(LOG_DENSITY, fraction, 0.01)
    kept, lost = (
        effective_support(LOG_DENSITY, value, floor_quantile=0.01) for value in (tau, tau * 1.01)
    )
    assert lost < fraction <= kept
    assert SDWOBD(tau="auto", effective_sample=fraction).chosen_tau(LOG_DENSITY) == tau


def test_equal_densities_leave_all_weights_equal() -> None:
    assert largest_tau(torch.zeros(9), 0.9, 0.01) == 16.0
    torch.testing.assert_close(density_weights(torch.zeros(9), 3.0, 0.01), torch.ones(9).double())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": -1}, "tau is -1; expected a number of 0 or more, or 'auto'"),
        ({"tau": "most"}, "tau is 'most'"),
        ({"effective_sample": 0}, "effective_sample is 0"),
        ({"floor_quantile": 1.0}, "floor_quantile is 1.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        SDWOBD(**settings)


# --- truncated back-propagation ---------------------------------------------------------------


def test_a_window_of_the_whole_training_is_av_pbc(problem: MakeProblem) -> None:
    whole = distil(TruncatedAvPBC(**TINY, window=STUDENT.steps), problem(TruncatedAvPBC))
    expected = distil(AvPBC(**TINY), problem(AvPBC))
    torch.testing.assert_close(whole.results[6].actions, expected.results[6].actions)
    torch.testing.assert_close(whole.results[6].observations, expected.results[6].observations)


@pytest.mark.parametrize("head", ["mean", "sampled"])
def test_the_gradient_is_autograds_through_the_window(head: str, problem: MakeProblem) -> None:
    """The lead without a graph, then the window unrolled by autograd."""
    student = dataclasses.replace(STUDENT, head=head, steps=6)
    method = TruncatedAvPBC(**TINY, window=2)
    given = problem(TruncatedAvPBC, student=student)
    run = OuterRun(method, method.targets(given), given, Recorder())
    loop = inner_loop(given)
    found = method._gradient(run, 3)

    draw = run.draw(loop, 3)
    end = int(torch.randint(2, 7, (), generator=given.generator("window", 3)))
    pairs = [run.observations[None].clone(), run.actions[None].clone()]
    layers = [(weight.clone(), bias.clone()) for weight, bias in draw.initial]
    for t in range(end):
        if t == end - 2:
            for pair in pairs:
                pair.requires_grad_()
        for layer in layers:
            for value in layer:
                value.requires_grad_() if value.is_leaf else value
        outputs = _forward(layers, pairs[0])
        noise = None if draw.noise is None else draw.noise[t]
        loss = (loop.head.squash(outputs, noise).action - pairs[1]).square().mean()
        flat = [value for layer in layers for value in layer]
        slopes = torch.autograd.grad(loss, flat, create_graph=t >= end - 2)
        moved = [w - loop.learning_rate * g for w, g in zip(flat, slopes, strict=True)]
        if t < end - 2:
            moved = [value.detach() for value in moved]
        layers = list(zip(moved[::2], moved[1::2], strict=True))
    acted = loop.head.squash(_forward(layers, draw.outer.observations), draw.outer.noise).action
    error = (acted - draw.outer.actions).square()
    assert draw.outer.weights is not None
    (error * draw.outer.weights[..., None]).mean().backward()  # type: ignore[no-untyped-call]
    for pair, gradient in zip(pairs, (found.observations, found.actions), strict=True):
        assert pair.grad is not None
        torch.testing.assert_close(gradient, pair.grad, rtol=1e-3, atol=1e-6)


def _forward(layers: list[tuple[Tensor, Tensor]], inputs: Tensor) -> Tensor:
    hidden = inputs
    for index, (weight, bias) in enumerate(layers):
        hidden = hidden @ weight.mT + bias
        if index + 1 < len(layers):
            hidden = hidden.relu()
    return hidden


def test_windows_differ_from_step_to_step_and_reach_every_end(problem: MakeProblem) -> None:
    given = problem(TruncatedAvPBC)
    ends = {
        int(torch.randint(1, 5, (), generator=given.generator("window", step)))
        for step in range(60)
    }
    assert ends == {1, 2, 3, 4}


def test_the_products_that_are_saved_are_counted() -> None:
    assert TruncatedAvPBC(window=100).expected_products(100) == 1
    assert TruncatedAvPBC(window=25).expected_products(100) == pytest.approx(0.375)


@pytest.mark.parametrize(
    "student",
    [dataclasses.replace(STUDENT, steps=3), dataclasses.replace(STUDENT, momentum=0.9)],
)
def test_a_window_that_does_not_fit_is_refused(student: StudentSpec, problem: MakeProblem) -> None:
    with pytest.raises(BadParameter, match="window is 4"):
        distil(TruncatedAvPBC(**TINY, window=4), problem(TruncatedAvPBC, student=student))


# --- progressive sets -------------------------------------------------------------------------


def test_one_stage_is_av_pbc(problem: MakeProblem) -> None:
    one = distil(ProgressiveAvPBC(**TINY, stages=1), problem(ProgressiveAvPBC))
    expected = distil(AvPBC(**TINY), problem(AvPBC))
    assert same(one.results[6], expected.results[6])


def test_each_stage_moves_its_own_pairs_and_leaves_the_others(problem: MakeProblem) -> None:
    recorder = Recorder(every=1)
    distil(ProgressiveAvPBC(**TINY, stages=2), problem(ProgressiveAvPBC), recorder)
    sets = [recorder.results[step].observations for step in range(7)]
    for before, after in itertools.pairwise(sets[:4]):
        assert torch.equal(before[2:], after[2:])
        assert not torch.equal(before[:2], after[:2])
    for before, after in itertools.pairwise(sets[3:]):
        assert torch.equal(before[:2], after[:2])
        assert not torch.equal(before[2:], after[2:])


def test_students_of_a_set_go_through_its_stages_in_order(problem: MakeProblem) -> None:
    result = distil(ProgressiveAvPBC(**TINY, stages=2), problem(ProgressiveAvPBC)).results[6]
    assert isinstance(result, SyntheticSet)
    assert result.stages is not None
    assert result.stages.tolist() == [0, 0, 1, 1]
    assert [result.rows(step, 4).tolist() for step in range(4)] == [[0, 1]] * 2 + [[0, 1, 2, 3]] * 2


def test_the_last_stages_gradient_follows_the_students_that_scoring_trains(
    problem: MakeProblem,
) -> None:
    """The parameters that the outer loss sees are those of a student trained as in scoring."""
    method = ProgressiveAvPBC(**TINY, stages=3)
    given = problem(ProgressiveAvPBC, student=dataclasses.replace(STUDENT, steps=7))
    loop = inner_loop(given)
    stages = method.stage_of_pairs()
    whole = SyntheticSet(torch.zeros(4, 5), torch.zeros(4, 2), stages)
    bounds = [-(-7 * k // 3) for k in range(4)]
    for stage in range(3):
        for step in range(bounds[stage], bounds[stage + 1]):
            assert (
                whole.rows(step, loop.steps).tolist()
                == torch.nonzero(stages <= stage)[:, 0].tolist()
            )


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"stages": 5}, "stages is 5; expected at most 4"), ({"stages": 0}, "stages .* is 0")],
)
def test_more_stages_than_pairs_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        ProgressiveAvPBC(**TINY, **settings)


def test_truncation_costs_what_its_window_implies(problem: MakeProblem) -> None:
    """Counted in products, not in seconds: forward and backward steps of the inner loop."""
    student = dataclasses.replace(STUDENT, steps=20)
    given = problem(TruncatedAvPBC, student=student)
    method = TruncatedAvPBC(**TINY, window=5)
    ends = [
        int(torch.randint(5, 21, (), generator=given.generator("window", step)))
        for step in range(2000)
    ]
    cost = statistics.mean(3 * (end - 5) + 9 * 5 for end in ends) / (9 * 20)
    assert cost == pytest.approx(method.expected_products(20), rel=0.02)
