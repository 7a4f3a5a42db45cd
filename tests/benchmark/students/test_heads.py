"""Policy heads: actions, and the written-out first and second derivatives against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.students.heads import HEADS as ALL_HEADS
from benchmark.students.heads import SQUARED_ERROR_HEADS as HEADS
from benchmark.students.heads import bc_loss_gradient, bc_loss_tangent, squared_error_head

RUNS, PAIRS, ACTION_DIM = 2, 7, 3
heads = pytest.mark.parametrize("name", list(HEADS))
seeds = pytest.mark.parametrize("seed", [0, 1, 2])


def draw(name: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """Outputs, targets, noise, weights and a direction in the outputs, in float64.

    The first pairs of a sampled head lie on either side of its clamp.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(RUNS, PAIRS, *shape, generator=generator, dtype=torch.float64)

    outputs, direction = (normal(HEADS[name].outputs(ACTION_DIM)) for _ in range(2))
    noise = normal(ACTION_DIM) if HEADS[name].noisy else None
    if HEADS[name].noisy:
        outputs[:, 0, ACTION_DIM:] = torch.tensor([3.5, 2.9, 40.0], dtype=torch.float64)
        outputs[:, 1, ACTION_DIM:] = torch.tensor([-19.5, -18.5, -40.0], dtype=torch.float64)
    return outputs, normal(ACTION_DIM).tanh(), noise, normal().abs(), direction


OFFSETS = {"mean": 0.0, "sampled": -1.0, "sampled_trained": 0.0}  # the last one is the network's


def plain_loss(
    name: str, outputs: Tensor, targets: Tensor, noise: Tensor | None, weights: Tensor | None = None
) -> Tensor:
    """Mean squared error of every run, as one would write it for autograd."""
    if noise is None:
        action = torch.tanh(outputs)
    else:
        mean, raw = outputs[..., :ACTION_DIM], outputs[..., ACTION_DIM:]
        action = torch.tanh(mean + torch.exp(torch.clamp(raw + OFFSETS[name], -20, 2)) * noise)
    error = (action - targets) ** 2
    return (error if weights is None else error * weights[..., None]).mean((-2, -1))


@heads
@seeds
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_loss_and_gradient_equal_autograd(name: str, seed: int, weighted: bool) -> None:
    outputs, targets, noise, drawn, _ = draw(name, seed)
    weights = drawn if weighted else None
    outputs.requires_grad_()
    loss = plain_loss(name, outputs, targets, noise, weights)
    (expected,) = torch.autograd.grad(loss.sum(), outputs)

    found = bc_loss_gradient(HEADS[name], outputs.detach(), targets, noise, weights)

    assert found.loss.shape == (RUNS,)
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.outputs, expected, rtol=1e-11, atol=1e-14)


@heads
@seeds
def test_tangent_equals_autograd(name: str, seed: int) -> None:
    outputs, targets, noise, _, direction = draw(name, seed)

    def gradients(at: Tensor) -> tuple[Tensor, Tensor]:
        inputs = at, targets.clone().requires_grad_()
        loss = plain_loss(name, inputs[0], inputs[1], noise).sum()
        one, other = torch.autograd.grad(loss, inputs, create_graph=True)
        return one, other

    _, (in_outputs, in_targets) = torch.autograd.functional.jvp(  # type: ignore[no-untyped-call]
        gradients, outputs, direction
    )

    gradient = bc_loss_gradient(HEADS[name], outputs, targets, noise)
    found = bc_loss_tangent(HEADS[name], gradient, direction)

    torch.testing.assert_close(found[0], in_outputs, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(found[1], in_targets, rtol=1e-11, atol=1e-14)


@heads
def test_the_loss_of_a_run_is_the_mean_over_its_pairs_and_action_dimensions(name: str) -> None:
    outputs, targets, noise, weights, _ = draw(name)
    action = HEADS[name].squash(outputs, noise).action
    error = (action - targets).square()
    unweighted = bc_loss_gradient(HEADS[name], outputs, targets, noise)
    weighted = bc_loss_gradient(HEADS[name], outputs, targets, noise, weights)
    torch.testing.assert_close(unweighted.loss, error.mean((-2, -1)))
    torch.testing.assert_close(weighted.loss, (error.mean(-1) * weights).mean(-1))


@pytest.mark.parametrize(
    ("raw", "log_std"),
    [(-100.0, -20.0), (-19.0, -20.0), (-18.0, -19.0), (0.0, -1.0), (2.5, 1.5), (3.0, 2.0), (9, 2)],
)
def test_log_std_is_the_raw_output_less_one_between_minus_20_and_2(
    raw: float, log_std: float
) -> None:
    outputs = torch.tensor([0.5, raw], dtype=torch.float64)
    noise = torch.tensor([0.25], dtype=torch.float64)
    action = HEADS["sampled"].squash(outputs, noise).action
    assert action.item() == pytest.approx(math.tanh(0.5 + math.exp(log_std) * 0.25), rel=1e-12)


@pytest.mark.parametrize(
    ("raw", "moves"), [(-20.0, False), (-18.5, True), (2.5, True), (4.0, False)]
)
def test_no_gradient_reaches_a_clamped_log_std(raw: float, moves: bool) -> None:
    outputs = torch.tensor([[[0.1, raw]]], dtype=torch.float64)
    noise, target = torch.full((1, 1, 1), 0.5).double(), torch.zeros(1, 1, 1).double()
    gradient = bc_loss_gradient(HEADS["sampled"], outputs, target, noise).outputs[0, 0]
    assert gradient[0] != 0
    assert bool(gradient[1] != 0) is moves


@heads
def test_the_mode_is_the_action_without_noise(name: str) -> None:
    outputs, *_ = draw(name)
    expected = torch.tanh(outputs[..., :ACTION_DIM])
    assert torch.equal(HEADS[name].mode(outputs), expected)
    silent = torch.zeros_like(expected) if HEADS[name].noisy else None
    assert torch.equal(HEADS[name].squash(outputs, silent).action, expected)


def test_a_sample_differs_from_the_mode() -> None:
    outputs, _, noise, *_ = draw("sampled")
    sample = HEADS["sampled"].squash(outputs, noise).action
    assert not torch.allclose(sample, HEADS["sampled"].mode(outputs))
    assert sample.abs().max() <= 1


def test_a_sample_needs_noise() -> None:
    outputs, *_ = draw("sampled")
    with pytest.raises(ValueError, match="sampled head needs noise"):
        HEADS["sampled"].squash(outputs, None)


@pytest.mark.parametrize(("name", "outputs"), [("mean", 3), ("sampled", 6), ("sampled_trained", 6)])
def test_outputs_an_action_of_three_dimensions_needs(name: str, outputs: int) -> None:
    assert HEADS[name].outputs(3) == outputs


@pytest.mark.parametrize("name", ["gaussian", "categorical"])
def test_a_head_of_a_likelihood_is_none_of_the_squared_error(name: str) -> None:
    with pytest.raises(ObdBenchError, match=r"is a likelihood.*one of mean, sampled, sampled_tra"):
        squared_error_head(ALL_HEADS[name])
    assert squared_error_head(ALL_HEADS["mean"]) is HEADS["mean"]
