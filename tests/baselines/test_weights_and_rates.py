"""Step and weighting: what Av-PBC's weights, and the size of a set, do to the pairs' movement."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from baselines.obd import DBC, PBC, AvPBC
from baselines.outer_loop import OBD
from baselines.progressive_obd import ProgressiveAvPBC
from baselines.sdw_obd import SDWOBD, density_weights
from baselines.truncated_obd import TruncatedAvPBC
from benchmark.method import METHODS, BadParameter, Problem, State
from benchmark.synthetic_set import NotFinite
from tests.baselines.toy import (
    SMALL,
    STATES,
    STUDENT,
    LinearTeacher,
    Recorder,
    distil,
    toy_problem,
)

LOG_DENSITY = torch.linspace(-4, 3, STATES, dtype=torch.float64)
MakeProblem = Callable[..., Problem]


@pytest.fixture
def problem() -> MakeProblem:
    return lambda method, **rest: toy_problem(method, log_density=LOG_DENSITY, **rest)


def weights_of(method: OBD, problem: Problem) -> torch.Tensor:
    weights = method.targets(problem).weights
    assert weights is not None
    return weights.double()


def first_velocity(method: OBD, problem: Problem) -> torch.Tensor:
    """The clipped gradient of the first outer step, over observations and actions."""
    state = distil(method, problem).states[1]
    names = ("observations_velocity", "actions_velocity")
    return torch.cat([state.tensors[name].flatten() for name in names])


def test_weights_of_mean_one_have_the_ratios_of_the_raw_ones(problem: MakeProblem) -> None:
    given = problem(AvPBC)
    raw, one = (weights_of(AvPBC(**SMALL, weights=w), given) for w in ("raw", "mean_one"))
    assert float(raw.mean()) == pytest.approx(0.02 * 50, rel=0.5)  # the toy teacher's values
    assert float(one.mean()) == pytest.approx(1.0, rel=1e-6)
    torch.testing.assert_close(one / one[0], raw / raw[0], rtol=1e-5, atol=0)


def test_density_weights_times_values_are_scaled_together(problem: MakeProblem) -> None:
    given = problem(SDWOBD)
    one = weights_of(SDWOBD(**SMALL, weights="mean_one", tau=0.5), given)
    values = weights_of(AvPBC(**SMALL), problem(AvPBC))
    expected = values * density_weights(LOG_DENSITY, 0.5, 0.01)
    torch.testing.assert_close(one, expected / expected.mean(), rtol=1e-5, atol=0)


def test_sampled_states_of_mean_one_have_it_as_they_are_drawn(problem: MakeProblem) -> None:
    method = SDWOBD(**SMALL, weights="mean_one", tau=0.5, weighting="sampling")
    targets = method.targets(problem(SDWOBD))
    assert targets.weights is not None and targets.probabilities is not None
    drawn = (targets.weights.double() * targets.probabilities).sum()
    assert float(drawn) == pytest.approx(1.0, rel=1e-6)
    assert targets.mean_weight == pytest.approx(1.0, rel=1e-6)


def test_pbc_at_av_pbcs_step_is_pbc_times_the_mean_weight(problem: MakeProblem) -> None:
    free: dict[str, Any] = {**SMALL, "outer_steps": 1, "outer_gradient_clip": 1e9}
    plain = first_velocity(PBC(**free), problem(PBC))
    scaled = first_velocity(AvPBC(**free, weights="mean"), problem(AvPBC))
    mean = weights_of(AvPBC(**SMALL), problem(AvPBC)).mean().float()
    torch.testing.assert_close(scaled, plain * mean, rtol=1e-4, atol=1e-7)


def test_the_2_by_2_of_step_and_weighting_is_registered() -> None:
    kinds = {name: METHODS[name] for name in ("pbc_scaled", "av_pbc_mean_one", "av_pbc")}
    assert {name: getattr(m, "weights", None) for name, m in kinds.items()} == {
        "pbc_scaled": "mean",
        "av_pbc_mean_one": "mean_one",
        "av_pbc": "raw",
    }


@pytest.mark.parametrize("weights", ["mean_one", "mean"])
def test_values_without_a_positive_mean_cannot_be_scaled(
    weights: Any, problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinearTeacher, "q", lambda self, s, a: -1 + 0 * s[:, 0])
    with pytest.raises(BadParameter, match=r"mean weight beta \* q is -0.02.*more than 0"):
        AvPBC(**SMALL, weights=weights).targets(problem(AvPBC))


def test_the_share_of_states_that_drive_students_away_is_noted(
    problem: MakeProblem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def values(self: LinearTeacher, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(states)) % 4 == 0, -1.0, 1.0)

    monkeypatch.setattr(LinearTeacher, "q", values)
    facts = AvPBC(**SMALL).targets(problem(AvPBC)).facts
    count = len(problem(AvPBC).dataset)
    assert facts == {"negative_weights_share": -(-count // 4) / count}
    monkeypatch.setattr(LinearTeacher, "q", lambda self, s, a: -1 + 0 * s[:, 0])
    assert not caplog.text
    assert AvPBC(**SMALL).targets(problem(AvPBC)).facts == {"negative_weights_share": 1.0}
    assert "mean weight beta * q is -0.02: below 0 it drives students away" in caplog.text
    monkeypatch.undo()
    assert "negative_weights_share" not in AvPBC(**SMALL).targets(problem(AvPBC)).facts
    with pytest.raises(BadParameter, match="beta of AvPBC is -1"):
        AvPBC(**SMALL, beta=-1.0)


def test_sdw_cannot_give_every_state_the_same_weight() -> None:
    with pytest.raises(BadParameter, match="density nothing; expected 'raw' or 'mean_one'"):
        SDWOBD(**SMALL, weights="mean")


@pytest.mark.parametrize(("rule", "moved"), [("fixed", 1.0), ("proportional", 4 / 256)])
def test_the_rate_follows_the_size_where_it_is_asked_to(
    rule: Any, moved: float, problem: MakeProblem
) -> None:
    method = DBC(**{**SMALL, "outer_steps": 1}, rate_rule=rule)
    before, after = (distil(method, problem(DBC)).states[step] for step in (0, 1))
    velocity = after.tensors["actions_velocity"]
    change = before.tensors["actions"] - after.tensors["actions"]
    torch.testing.assert_close(change, 0.1 * moved * velocity, rtol=1e-3, atol=1e-7)
    assert DBC(synthetic_size=256, rate_rule=rule).rate == 0.1  # the papers' size


# --- what a method notes of itself ------------------------------------------------------------


def test_gradient_norms_are_noted_before_they_are_clipped(problem: MakeProblem) -> None:
    free = Recorder()
    distil(DBC(**SMALL, outer_gradient_clip=1e9), problem(DBC), free)
    first = first_velocity(
        DBC(**{**SMALL, "outer_steps": 1}, outer_gradient_clip=1e9), problem(DBC)
    )
    norms = free.states[6].tensors["gradient_norms"]
    assert float(norms[0]) == pytest.approx(float(first.norm()), rel=1e-5)
    assert free.facts["gradient_norm_largest"] == pytest.approx(float(norms.max()))
    assert free.facts["gradient_clipped_share"] == 0.0

    clip = float(norms.sort().values[3])  # at most three of six lie above
    clipped = distil(DBC(**SMALL, outer_gradient_clip=clip / 10), problem(DBC))
    assert clipped.facts["gradient_clipped_share"] == 1.0
    assert clipped.states[1].tensors["gradient_norms"][0] == norms[0]


def test_a_resumed_run_notes_what_an_unbroken_one_does(problem: MakeProblem) -> None:
    whole = distil(AvPBC(**SMALL), problem(AvPBC))
    rest = distil(AvPBC(**SMALL), problem(AvPBC), Recorder(saved=whole.states[3]))
    assert rest.facts == whole.facts
    assert len(rest.states[6].tensors["gradient_norms"]) == 6


def test_a_factor_of_action_values_is_refused_where_there_are_none() -> None:
    assert SDWOBD(base="av_pbc", beta=0.1).beta == 0.1 and SDWOBD(base="pbc").base == "pbc"
    with pytest.raises(BadParameter, match=r"beta is 0\.1 and base is 'pbc'"):
        SDWOBD(base="pbc", beta=0.1)


def test_weights_and_chosen_tau_are_noted(problem: MakeProblem) -> None:
    method = SDWOBD(**SMALL, tau="auto", effective_sample=0.7, base="pbc")
    facts = distil(method, problem(SDWOBD)).facts
    weights = density_weights(LOG_DENSITY, float(facts["tau"]), 0.01)
    kish = float(weights.sum() ** 2 / (len(weights) * weights.square().sum()))
    assert facts["effective_sample"] == pytest.approx(kish, rel=1e-5)
    assert kish == pytest.approx(0.7, abs=1e-3)
    assert facts["mean_weight"] == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        DBC(**SMALL),
        AvPBC(**SMALL),
        SDWOBD(**SMALL),
        ProgressiveAvPBC(**SMALL, stages=2),
        TruncatedAvPBC(**SMALL, window=2),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_run_whose_students_saturate_fails_instead_of_giving_its_first_pairs(
    method: OBD, problem: MakeProblem
) -> None:
    """Two layers at an absurd rate give actions of 1 and -1, and gradients of 0, without a NaN."""
    student = replace(STUDENT, learning_rate=1e10)
    with pytest.raises(NotFinite, match=r"exactly zero, or .* at 6 of 6 outer steps: .* saturated"):
        distil(method, problem(method, student=student))


@pytest.mark.parametrize("norm", [0.0, math.inf])
def test_single_gradients_that_move_nothing_are_noted_and_go_on(
    norm: float, problem: MakeProblem
) -> None:
    """A run that resumes after two steps without movement, as if they had saturated by chance."""
    saved = distil(DBC(**SMALL), problem(DBC)).states[2]
    still = State({**saved.tensors, "gradient_norms": torch.full((2,), norm).double()}, saved.facts)
    assert distil(DBC(**SMALL), problem(DBC), Recorder(saved=still)).facts[
        "gradient_zero_share"
    ] == pytest.approx(2 / 6)
    assert "gradient_zero_share" not in distil(DBC(**SMALL), problem(DBC)).facts


def test_the_step_that_is_named_is_that_from_which_on_nothing_was_finite(
    problem: MakeProblem,
) -> None:
    run = DBC(**SMALL).outer_run(problem(DBC), Recorder())
    run.norms[:] = torch.tensor([1.0, math.inf, 1.0, math.nan, math.nan, 0.0])
    run.observations[0, 0] = math.nan
    with pytest.raises(NotFinite, match="after the update of outer step 3: 1 of"):
        run.require_finite()
