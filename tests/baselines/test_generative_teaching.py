"""Generative teaching: the chained gradient, the size chosen afterwards, and resuming."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.generative_teaching import GenerativeTeaching
from baselines.meta_gradient import MetaGradient, OuterBatch, Pairs
from baselines.outer_loop import inner_loop
from baselines.pair_generator import PairGenerator
from benchmark.method import BadParameter
from benchmark.outer_steps import OuterSteps
from benchmark.students.spec import StudentSpec
from tests.baselines.test_meta_gradient import cloning_loss
from tests.baselines.toy import ACTION_DIM, OBSERVATION_DIM, STUDENT, Recorder, distil, toy_problem


def tiny(**parameters: Any) -> GenerativeTeaching:
    sizes = {"synthetic_size": 4, "outer_batch": 8, "outer_steps": 6}
    small = {"code_dim": 3, "generator_width": 5, "generator_depth": 2}
    return GenerativeTeaching(**{**sizes, **small, **parameters})


def test_the_gradient_goes_through_training_and_generator_as_autograds() -> None:
    """H(theta_T) of the generator's pairs, unrolled by autograd, differentiated in phi and z."""
    given = toy_problem(tiny())
    make = PairGenerator(4, (3, 5), given)
    loop = inner_loop(given)
    generator = torch.Generator().manual_seed(0)
    initial = loop.network.initialise(generator)
    noise = torch.randn(loop.steps, 1, 4, ACTION_DIM, generator=generator)
    outer_noise = torch.randn(1, 8, ACTION_DIM, generator=generator)
    states = torch.randn(1, 8, OBSERVATION_DIM, generator=generator)
    targets = torch.randn(1, 8, ACTION_DIM, generator=generator).tanh()

    pairs = make(make.learned[0])
    gradient = loop.gradient(
        initial,
        Pairs(*(part.detach()[None] for part in pairs)),
        OuterBatch(states, targets, None, outer_noise),
        noise,
    )
    found = make.gradient(gradient)

    flat = [t.detach().reshape(t.shape[1:] if i % 2 == 0 else t.shape[2:])
            for layer in initial for i, t in enumerate(layer)]  # fmt: skip
    flat = [tensor.requires_grad_() for tensor in flat]
    observations, actions = make(make.learned[0])
    for step in range(loop.steps):
        loss = cloning_loss(loop, flat, observations, actions, noise[step, 0])
        parts = torch.autograd.grad(loss, flat, create_graph=True)
        flat = [t - loop.learning_rate * part for t, part in zip(flat, parts, strict=True)]
    outer = cloning_loss(loop, flat, states[0], targets[0], outer_noise[0])
    expected = torch.autograd.grad(outer, make.learned)
    torch.testing.assert_close(gradient.loss[0], outer.detach())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_an_update_is_adams_on_the_clipped_gradient() -> None:
    method = tiny(outer_gradient_clip=0.01, outer_learning_rate=0.05, outer_momentum=0.8)
    recorder = distil(method, toy_problem(method), Recorder())
    assert recorder.facts["gradient_clipped_share"] == 1
    first, second = (recorder.states[step].tensors for step in (0, 1))
    # Adam's first step is its rate, whatever the gradient's size.
    for name in first:
        if name.startswith("learned"):
            moved = (second[name] - first[name]).abs()
            sizes = moved[moved > 1e-3]
            torch.testing.assert_close(sizes, torch.full_like(sizes, 0.05), rtol=0.05, atol=0)
            moment = second[name.replace("learned", "exp_avg")]
            squares = second[name.replace("learned", "exp_avg_sq")]
            torch.testing.assert_close((moment / 0.2).square(), squares / 0.001)
    total = sum(
        float(v.square().sum()) for k, v in second.items()
        if k.startswith("exp_avg_") and not k.startswith("exp_avg_sq")
    )  # fmt: skip
    assert total**0.5 / 0.2 == pytest.approx(0.01, rel=1e-3)


def test_the_outer_loss_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    chain = PairGenerator.gradient

    def watched(self: PairGenerator, of_pairs: MetaGradient) -> tuple[Tensor, ...]:
        losses.append(float(of_pairs.loss[0]))
        return chain(self, of_pairs)

    monkeypatch.setattr(PairGenerator, "gradient", watched)
    method = tiny(synthetic_size=16, outer_steps=60, outer_batch=60)
    student = StudentSpec(width=16, depth=2, steps=20, head="mean")
    distil(method, toy_problem(method, student=student), Recorder(every=1000))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_the_size_is_chosen_after_the_distillation() -> None:
    sets = {}
    for size in (2, 4, 9):
        method = tiny(synthetic_size=size, training_size=4, generator_width=32)
        recorder = distil(method, toy_problem(method))
        sets[size] = recorder.results[6]
        assert len(sets[size]) == size
        states = recorder.states[6].tensors
        if size == 2:
            first = states
        assert all(states[name].equal(value) for name, value in first.items())
    for smaller, larger in ((2, 4), (4, 9)):
        found = sets[larger].observations[:smaller]
        torch.testing.assert_close(found, sets[smaller].observations)
    assert len(set(map(tuple, sets[9].observations.tolist()))) == 9
    one = tiny(synthetic_size=3, training_size=1)
    assert len(distil(one, toy_problem(one)).results[6]) == 3
    alone = tiny(synthetic_size=4, generator_width=32)
    same = distil(alone, toy_problem(alone)).results[6]
    assert same.observations.equal(sets[4].observations)


def test_actions_stay_in_the_box_and_a_resumed_run_goes_on_to_the_same_bits() -> None:
    method = tiny(outer_learning_rate=1.0)
    whole = distil(method, toy_problem(method))
    assert float(((whole.results[6].actions - 3) / 2).abs().max()) <= 1
    for step in (0, 3):
        again = distil(method, toy_problem(method), Recorder(saved=whole.states[step]))
        assert min(again.results) == step
        assert again.results[6].observations.equal(whole.results[6].observations)


def test_a_work_is_that_of_the_trained_pairs() -> None:
    small, large = tiny(synthetic_size=4), tiny(synthetic_size=100, training_size=4)
    for method in (small, large):
        work = method.work(OBSERVATION_DIM, ACTION_DIM, STUDENT)
        assert isinstance(work, OuterSteps)
        assert (work.count, work.few.trained_pairs) == (method.outer_steps, 4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"training_size": 0}, "training_size of GenerativeTeaching is 0"),
        ({"code_dim": 0}, "code_dim of GenerativeTeaching is 0"),
        ({"rate_rule": "proportional"}, "rate_rule is 'proportional'; a generator takes only"),
    ],
)
def test_settings_that_a_generator_cannot_have_are_refused(
    parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadParameter, match=message):
        tiny(**parameters)
