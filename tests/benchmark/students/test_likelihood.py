"""HaDES's heads: closed forms and autograd for their losses, counts and moments for their draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import cross_entropy

from benchmark.errors import ObdBenchError
from benchmark.students.likelihood import CategoricalHead, GaussianHead

RUNS, PAIRS, ACTION_DIM = 2, 7, 3
GAUSSIAN, CATEGORICAL = GaussianHead(), CategoricalHead()


def draw(outputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, targets and weights `[R, N, ...]`, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (RUNS, PAIRS)
    normal = [
        torch.randn(*shape, n, generator=generator, dtype=torch.float64)
        for n in (outputs, ACTION_DIM, ACTION_DIM)
    ]
    return normal[0], normal[1], normal[2].abs()


@pytest.mark.parametrize("weighted", [None, "pairs", "numbers"])
def test_the_gaussian_gradient_is_that_of_torchs_log_probability(weighted: str | None) -> None:
    outputs, targets, drawn = draw(2 * ACTION_DIM)
    outputs.requires_grad_()
    mean, log_std = outputs.chunk(2, -1)
    losses = -Normal(mean, log_std.exp()).log_prob(targets)  # type: ignore[no-untyped-call]
    weights = {None: None, "pairs": drawn[..., 0], "numbers": drawn}[weighted]
    if weights is not None:
        losses = losses * (weights if weights.ndim == 3 else weights[..., None])
    (expected,) = torch.autograd.grad(losses.sum(-1).mean(-1).sum(), outputs)
    found = GAUSSIAN.loss_gradient(outputs.detach(), targets, None, weights)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)


def test_the_gaussian_gradient_vanishes_at_the_best_fit() -> None:
    """One pair per action, and a deviation equal to the error: both derivatives are 0."""
    targets = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    at_best = torch.zeros(1, 2, 2, dtype=torch.float64)  # mean 0, deviation 1
    gradient = GAUSSIAN.loss_gradient(at_best, targets, None, None)
    assert gradient.sum(1).tolist() == [[0.0, 0.0]]
    assert gradient[0, :, 0].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_categorical_gradient_is_that_of_torchs_cross_entropy(weighted: bool) -> None:
    outputs, targets, drawn = draw(ACTION_DIM)
    outputs.requires_grad_()
    weights = drawn[..., 0] if weighted else None
    losses = torch.stack(
        [cross_entropy(outputs[r], targets[r].argmax(-1), reduction="none") for r in range(RUNS)]
    )
    if weights is not None:
        losses = losses * weights
    (expected,) = torch.autograd.grad(losses.mean(-1).sum(), outputs)
    found = CATEGORICAL.loss_gradient(outputs.detach(), targets, None, weights)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)


def test_a_one_hot_row_teaches_its_action_whatever_its_units() -> None:
    outputs, *_ = draw(ACTION_DIM)
    rows = torch.eye(ACTION_DIM, dtype=torch.float64)[torch.arange(PAIRS) % ACTION_DIM]
    of_data, in_unit_box = rows.expand(RUNS, -1, -1), (2 * rows - 1).expand(RUNS, -1, -1)
    first, second = (
        CATEGORICAL.loss_gradient(outputs, targets, None, None)
        for targets in (of_data, in_unit_box)
    )
    assert torch.equal(first, second)


def test_a_categorical_loss_has_no_weight_per_number_of_an_action() -> None:
    outputs, targets, weights = draw(ACTION_DIM)
    with pytest.raises(ObdBenchError, match=r"one weight per pair; got .* \[2, 7, 3\]"):
        CATEGORICAL.loss_gradient(outputs, targets, None, weights)


def test_gaussian_draws_have_the_mean_and_the_deviation() -> None:
    outputs = torch.tensor([0.2, -0.1, -2.0, -3.0]).expand(200_000, -1)
    noise = torch.from_numpy(GAUSSIAN.draw(np.random.default_rng(0), (200_000, 2)))
    drawn = GAUSSIAN.sample(outputs, noise)
    errors = torch.exp(torch.tensor([-2.0, -3.0]))
    np.testing.assert_allclose(drawn.mean(0), [0.2, -0.1], atol=2e-3)
    np.testing.assert_allclose(drawn.std(0), errors, rtol=0.01)


def test_gaussian_actions_are_clipped_and_not_squashed() -> None:
    outputs = torch.tensor([3.0, -0.4, 0.0, 0.0])
    assert GAUSSIAN.mode(outputs).tolist() == pytest.approx([1.0, -0.4])
    assert GAUSSIAN.sample(outputs, torch.tensor([0.5, -2.0])).tolist() == [1.0, -1.0]


def test_categorical_draws_come_as_often_as_their_probabilities() -> None:
    logits = torch.tensor([0.3, -1.0, 1.5])
    noise = torch.from_numpy(CATEGORICAL.draw(np.random.default_rng(0), (200_000, 3)))
    drawn = CATEGORICAL.sample(logits.expand(200_000, -1), noise)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert bool((drawn.sum(-1) == -1).all())  # one action each
    np.testing.assert_allclose((drawn == 1).float().mean(0), logits.softmax(-1), atol=5e-3)


def test_a_categorical_draws_no_action_from_logits_that_are_nan() -> None:
    outputs = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
    drawn = CATEGORICAL.sample(outputs, torch.zeros(2, 2))
    assert drawn[0].tolist() == [-1, 1]
    assert bool(drawn[1].isnan().all())


def test_the_mode_of_a_categorical_is_its_probabilities_as_scores() -> None:
    logits = torch.tensor([0.3, -1.0, 1.5])
    scores = CATEGORICAL.mode(logits)
    torch.testing.assert_close((scores + 1) / 2, logits.softmax(-1))
    assert int(scores.argmax()) == 2
