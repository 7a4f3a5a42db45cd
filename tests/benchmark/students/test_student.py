"""Students: batched training against plain modules under torch.optim, policies, and bad specs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import ObdBenchError
from benchmark.scaling import Scaling
from benchmark.students.heads import HEADS
from benchmark.students.spec import StudentSpec
from benchmark.students.student import Batch, StudentPolicy, train_students

OBSERVATION_DIM, ACTION_DIM, PAIRS = 5, 3, 12
SCALING = Scaling(
    mean=torch.linspace(-1, 1, OBSERVATION_DIM),
    std=torch.linspace(0.5, 2, OBSERVATION_DIM),
    center=torch.tensor([0.0, 1.0, -1.0]),
    half_range=torch.tensor([1.0, 2.0, 0.5]),
)
SPEC = StudentSpec(depth=3, width=16, steps=20)
RECIPES = {
    "sgd": replace(SPEC, optimizer="sgd", learning_rate=0.1),
    "momentum": replace(SPEC, optimizer="sgd", learning_rate=0.05, momentum=0.9),
    "adam": replace(SPEC, optimizer="adam", learning_rate=1e-3),
    "adamw": replace(SPEC, optimizer="adamw", learning_rate=1e-3, weight_decay=0.3),
}
recipes = pytest.mark.parametrize("recipe", list(RECIPES))
heads = pytest.mark.parametrize("head", list(HEADS))


def draw_pairs(students: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(students, PAIRS, OBSERVATION_DIM, generator=generator)
    return observations, torch.randn(students, PAIRS, ACTION_DIM, generator=generator).tanh()


def generators(students: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + index) for index in range(students)]


def train(spec: StudentSpec, pairs: Batch, drawn: list[torch.Generator]) -> StudentPolicy:
    return train_students(spec, lambda step: pairs, SCALING, drawn)


def plain_student(
    spec: StudentSpec, pairs: Batch, index: int, dtype: torch.dtype
) -> list[tuple[Tensor, Tensor]]:
    """Student `index` as the module and the training loop that a reader would write."""
    generator = generators(index + 1)[index]
    initial = spec.network(OBSERVATION_DIM, ACTION_DIM).initialise(generator)
    linears, layers = [], []
    for weight, bias in initial[: spec.depth]:
        linear = nn.Linear(weight.shape[2], weight.shape[1], dtype=dtype)
        linear.weight.data, linear.bias.data = weight[0].to(dtype), bias[0, 0].to(dtype)
        linears.append(linear)
        layers += [linear, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    trained = [tensor for linear in linears for tensor in (linear.weight, linear.bias)]
    multiplier, offset = (torch.tensor(start, dtype=dtype) for start in (1.0, -1.0))
    if spec.head == "sampled_trained":
        trained += [multiplier.requires_grad_(), offset.requires_grad_()]
    optimiser: torch.optim.Optimizer
    if spec.optimizer == "sgd":
        optimiser = torch.optim.SGD(trained, spec.learning_rate, spec.momentum)
    elif spec.optimizer == "adam":
        optimiser = torch.optim.Adam(trained, spec.learning_rate)
    else:
        optimiser = torch.optim.AdamW(trained, spec.learning_rate, weight_decay=spec.weight_decay)
    observations, actions = (tensor[index].to(dtype) for tensor in pairs)
    for _ in range(spec.steps):
        outputs = model(observations)
        if spec.head != "mean":
            noise = torch.randn(actions.shape, generator=generator).to(dtype)
            mean, raw = outputs.chunk(2, -1)
            outputs = mean + (multiplier * raw + offset).clamp(-20, 2).exp() * noise
        optimiser.zero_grad()
        nn.functional.mse_loss(outputs.tanh(), actions).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return list(zip(trained[::2], trained[1::2], strict=True))


@recipes
@heads
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-4)], ids=["f32", "f64"]
)
def test_training_equals_a_plain_module_under_torch_optim(
    recipe: str, head: str, dtype: torch.dtype, tolerance: float
) -> None:
    spec, pairs = replace(RECIPES[recipe], head=head), draw_pairs(2)
    policy = train(spec, pairs, generators(2))
    for index in range(2):
        expected = plain_student(spec, pairs, index, dtype)
        for layer, plain in zip(policy.parameters, expected, strict=True):
            for found, other in zip(layer, plain, strict=True):
                other = other.detach().reshape(found[index].shape)
                assert (found[index] - other).norm() / other.norm() < tolerance


@recipes
@heads
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_students_of_a_batch_equal_students_alone(recipe: str, head: str, name: str) -> None:
    spec, pairs = replace(RECIPES[recipe], head=head, name=name), draw_pairs(4)
    together = train(spec, pairs, generators(4))
    for index in range(4):
        own = (pairs[0][index : index + 1], pairs[1][index : index + 1])
        alone = train(spec, own, [generators(4)[index]])
        for layer, single in zip(together.parameters, alone.parameters, strict=True):
            for tensor, other in zip(layer, single, strict=True):
                torch.testing.assert_close(tensor[index : index + 1], other, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_loss() -> None:
    spec, pairs = replace(SPEC, head="mean", steps=300, width=64), draw_pairs(3)

    def loss(policy: StudentPolicy) -> Tensor:
        outputs = policy.network.forward(policy.parameters, pairs[0]).outputs
        return (policy.head.mode(outputs) - pairs[1]).square().mean((1, 2))

    before = loss(train(replace(spec, steps=1), pairs, generators(3)))
    after = loss(train(spec, pairs, generators(3)))
    assert bool((after < before / 4).all())


def test_steps_overrules_the_spec() -> None:
    pairs = draw_pairs(1)
    short = train_students(SPEC, lambda step: pairs, SCALING, generators(1), steps=3)
    expected = train(replace(SPEC, steps=3), pairs, generators(1))
    assert torch.equal(short.parameters[0][0], expected.parameters[0][0])


def test_every_step_may_see_other_pairs() -> None:
    seen: list[int] = []

    def batch(step: int) -> Batch:
        seen.append(step)
        return draw_pairs(1, seed=step)

    train_students(replace(SPEC, steps=3), batch, SCALING, generators(1))
    assert sorted(set(seen)) == [0, 1, 2]


@heads
@pytest.mark.parametrize("depth", range(1, 7))
def test_a_policy_gives_the_mode_in_the_environments_units(head: str, depth: int) -> None:
    spec, pairs = replace(SPEC, head=head, depth=depth, steps=5), draw_pairs(2)
    policy = train(spec, pairs, generators(2))
    observations = np.random.default_rng(0).normal(size=(2, 4, OBSERVATION_DIM)).astype(np.float32)

    actions = policy(observations)

    assert policy.count == 2
    assert actions.shape == (2, 4, ACTION_DIM)
    inputs = (torch.from_numpy(observations) - SCALING.mean) / SCALING.std
    for index in range(2):
        value = inputs[index]
        for layer, (weight, bias) in enumerate(policy.parameters[:depth], start=1):
            value = nn.functional.linear(value, weight[index], bias[index, 0])
            value = value.relu() if layer < depth else value[..., :ACTION_DIM].tanh()
        expected = value * SCALING.half_range + SCALING.center
        np.testing.assert_allclose(actions[index], expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(policy(observations), actions)  # nothing is drawn


def test_the_defaults_are_those_of_the_paper() -> None:
    spec = StudentSpec()
    assert (spec.depth, spec.width, spec.steps) == (4, 256, 100)
    assert (spec.optimizer, spec.learning_rate, spec.momentum) == ("sgd", 0.1, 0.0)
    assert spec.network(11, 3).sizes == (11, 256, 256, 256, 6)


def test_a_residual_student_skips_from_the_first_to_the_last_hidden_layer() -> None:
    assert StudentSpec(name="residual", depth=5).network(11, 3).skip == (1, 4)


def test_a_residual_student_needs_two_hidden_layers() -> None:
    with pytest.raises(ObdBenchError, match=r"at least 3 layers.* got depth 2"):
        StudentSpec(name="residual", depth=2).network(11, 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("head", "sample", r"student\.head is 'sample'. Did you mean 'sampled'.*Available: mean"),
        ("optimizer", "adan", r"student\.optimizer is 'adan'. Did you mean 'adam'.*sgd"),
        ("optimizer", "lbfgs", r"student\.optimizer is 'lbfgs'.*Available: adam, adamw, sgd"),
    ],
)
def test_an_unknown_choice_names_the_nearest_valid_one(
    field: str, value: str, message: str
) -> None:
    with pytest.raises(ObdBenchError, match=message):
        replace(SPEC, **{field: value})  # type: ignore[arg-type]


def test_an_unknown_architecture_names_the_nearest_valid_one() -> None:
    with pytest.raises(ObdBenchError, match=r"'residul'. Did you mean 'residual'.*mlp"):
        StudentSpec(name="residul").network(11, 3)


@pytest.mark.parametrize("field", ["depth", "width", "steps"])
@pytest.mark.parametrize("value", [0, -2])
def test_a_size_below_one_is_refused(field: str, value: int) -> None:
    with pytest.raises(ObdBenchError, match=rf"student\.{field} is {value}; expected 1 or more"):
        replace(SPEC, **{field: value})  # type: ignore[arg-type]


@heads
@pytest.mark.parametrize("width", [16, 64, 256])
@pytest.mark.parametrize("episodes", [1, 3, 10])
def test_a_student_acts_to_the_bit_alike_whichever_others_are_asked(
    head: str, width: int, episodes: int
) -> None:
    spec = replace(SPEC, head=head, width=width, steps=1)
    students = train(spec, draw_pairs(6), generators(6))
    drawn = np.random.default_rng(0).normal(size=(6, episodes, OBSERVATION_DIM))
    observations = drawn.astype(np.float32)
    acted = students(observations)
    for chosen in ([0], [5], [1, 4], [0, 2, 3, 5]):
        some = students.only(np.array(chosen))
        assert some.count == len(chosen)
        assert np.array_equal(some(observations[chosen]), acted[chosen])
