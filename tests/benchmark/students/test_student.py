"""Students: batched training against plain modules under torch.optim, policies, and bad specs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.errors import ObdBenchError
from benchmark.scaling import Scaling
from benchmark.students.heads import HEADS
from benchmark.students.network import stack
from benchmark.students.spec import RECIPES as STUDENTS
from benchmark.students.spec import StudentSpec
from benchmark.students.student import (
    ActionStreams,
    Batch,
    SampledStudents,
    StudentPolicy,
    clip_by_norm,
    train_on_set,
    train_students,
    training,
)
from benchmark.synthetic_set import LearnedTraining, SyntheticSet

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
    "brax": replace(
        SPEC, activation="tanh", optimizer="adam", learning_rate=5e-3, adam_epsilon=1e-5,
        gradient_clip=0.3, output_gain=0.01,
    ),
    "minatar": replace(
        SPEC, optimizer="adam", learning_rate=0.01, adam_epsilon=1e-3, schedule="linear",
        gradient_clip=0.3,
    ),
}  # fmt: skip
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


def clip_as_optax(parameters: Sequence[Tensor], largest: float) -> None:
    """optax.clip_by_global_norm, as its documentation has it: g if |g| < c, else g / |g| * c."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
    if norm >= largest:
        for gradient in gradients:
            gradient.copy_(gradient / norm * largest)


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
        layers += [linear, nn.Tanh() if spec.activation == "tanh" else nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    trained = [tensor for linear in linears for tensor in (linear.weight, linear.bias)]
    log_std = torch.zeros(ACTION_DIM, dtype=dtype, requires_grad=True)
    if spec.head == "gaussian":
        trained += [torch.zeros(ACTION_DIM, 0, dtype=dtype), log_std]
    multiplier, offset = (torch.tensor(start, dtype=dtype) for start in (1.0, -1.0))
    if spec.head == "sampled_trained":
        trained += [multiplier.requires_grad_(), offset.requires_grad_()]
    optimiser: torch.optim.Optimizer
    if spec.optimizer == "sgd":
        optimiser = torch.optim.SGD(trained, spec.learning_rate, spec.momentum)
    elif spec.optimizer == "adam":
        optimiser = torch.optim.Adam(trained, spec.learning_rate, eps=spec.adam_epsilon)
    else:
        optimiser = torch.optim.AdamW(trained, spec.learning_rate, weight_decay=spec.weight_decay)
    observations, actions = (tensor[index].to(dtype) for tensor in pairs)
    for step in range(spec.steps):
        outputs = model(observations)
        if spec.head.startswith("sampled"):
            noise = torch.randn(actions.shape, generator=generator).to(dtype)
            mean, raw = outputs.chunk(2, -1)
            outputs = mean + (multiplier * raw + offset).clamp(-20, 2).exp() * noise
        optimiser.zero_grad()
        if spec.head == "gaussian":
            likelihood = torch.distributions.Normal(outputs, log_std.exp())  # type: ignore[no-untyped-call]
            loss = -likelihood.log_prob(actions).sum(-1).mean()  # type: ignore[no-untyped-call]
        elif spec.head == "categorical":
            loss = nn.functional.cross_entropy(outputs, actions.argmax(-1))
        else:
            loss = nn.functional.mse_loss(outputs.tanh(), actions)
        loss.backward()
        if spec.gradient_clip is not None:
            clip_as_optax(trained, spec.gradient_clip)
        if spec.schedule == "linear":
            optimiser.param_groups[0]["lr"] = spec.learning_rate * (spec.steps - step) / spec.steps
        optimiser.step()
    return list(zip(trained[::2], trained[1::2], strict=True))


@recipes
@heads
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.float64, 1e-4)], ids=["f32", "f64"]
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
                assert (found[index] - other).norm() <= tolerance * other.norm()


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
            value = value.relu() if layer < depth else value[..., :ACTION_DIM]
        if head == "gaussian":
            value = value.clamp(-1, 1)
        elif head == "categorical":
            value = 2 * value.softmax(-1) - 1
        else:
            value = value.tanh()
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
        (
            "head",
            "sample",
            r"head in the student is 'sample' .*'sampled'.*Available: categorical, gaussian, mean",
        ),
        ("optimizer", "adan", r"optimizer in the student is 'adan' .* Did you mean 'adam'.*sgd"),
        ("activation", "tan", r"activation in the student is 'tan' .* Did you mean 'tanh'.*relu"),
        (
            "schedule",
            "cosine",
            r"schedule in the student is 'cosine'.*constant, learned, linear",
        ),
        ("optimizer", "lbfgs", r"optimizer in the student is 'lbfgs'.*Available: adam, adamw, sgd"),
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


@pytest.mark.parametrize("field", ["output_gain", "adam_epsilon", "gradient_clip"])
def test_a_setting_that_must_be_above_zero_is_refused_at_zero(field: str) -> None:
    with pytest.raises(ObdBenchError, match=rf"student\.{field} is 0.0; expected above 0"):
        replace(SPEC, **{field: 0.0})  # type: ignore[arg-type]


def test_each_students_gradient_is_clipped_by_its_own_norm() -> None:
    """Closed form: norms 5, 1 and 0 over two tensors; at most 2.5 is left of each."""
    weight = torch.tensor([[[3.0, 0.0]], [[0.6, 0.0]], [[0.0, 0.0]]], dtype=torch.float64)
    bias = torch.tensor([[[4.0]], [[0.8]], [[0.0]]], dtype=torch.float64)
    clip_by_norm([weight, bias], 2.5)
    expected = [[[1.5, 0.0]], [[0.6, 0.0]], [[0.0, 0.0]]]
    torch.testing.assert_close(weight, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(bias, torch.tensor([[[2.0]], [[0.8]], [[0.0]]]).double())


@pytest.mark.parametrize("norm", [0.5 - 1e-9, 0.5, 0.5 + 1e-9, 1e-30, 1e12])
def test_the_clip_is_optaxs_at_its_edge_and_far_from_it(norm: float) -> None:
    drawn = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = drawn[:1] / drawn[:1].norm() * norm
    found = gradient.clone()
    clip_by_norm([found], 0.5)
    size = float(gradient.norm())
    expected = gradient if size < 0.5 else gradient / size * 0.5
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("head", "activation"), [("gaussian", "tanh"), ("categorical", "relu")])
def test_the_whole_gradient_of_hades_students_equals_autograd(head: str, activation: str) -> None:
    """In float64, of all parameters, the log standard deviations included."""
    spec = replace(SPEC, head=head, activation=activation, depth=4)  # type: ignore[arg-type]
    network = spec.network(OBSERVATION_DIM, ACTION_DIM)
    drawn = generators(2)
    parameters = stack([network.initialise(g, torch.float64) for g in drawn])
    for layer in parameters:
        for tensor in layer:
            tensor.add_(torch.randn(tensor.shape, generator=drawn[0], dtype=torch.float64) / 4)
    observations, actions = (tensor.double() for tensor in draw_pairs(2))

    levels = network.forward(parameters, observations)
    in_outputs = spec.policy_head.loss_gradient(levels.outputs, actions, None, None)
    found = network.gradients(levels, network.backward(parameters, levels, in_outputs))

    for index in range(2):
        leaves = [t[index].clone().requires_grad_() for layer in parameters for t in layer]
        value = observations[index]
        for layer in range(4):
            value = value @ leaves[2 * layer].T + leaves[2 * layer + 1][0]
            if layer < 3:
                value = value.tanh() if activation == "tanh" else value.relu()
        if head == "gaussian":
            log_std = leaves[-1][0]
            z = (actions[index] - value) / log_std.exp()
            loss = (z.square() / 2 + log_std + math.log(2 * math.pi) / 2).sum(-1).mean()
        else:
            loss = -value.log_softmax(-1)[torch.arange(PAIRS), actions[index].argmax(-1)].mean()
        expected = torch.autograd.grad(loss, leaves, allow_unused=True)
        flat = [tensor[index] for layer in found for tensor in layer]
        for one, other in zip(flat, expected, strict=True):
            if other is not None:
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
            else:
                assert one.numel() == 0  # the layer without inputs has no weights


def test_hades_student_is_built_as_in_its_code() -> None:
    network = STUDENTS["hades"].network(11, 3)
    assert (network.sizes, network.activation, network.constants) == ((11, 512, 512, 3), "tanh", 3)
    *layers, (_, log_std) = network.initialise(torch.Generator().manual_seed(0), torch.float64)
    # Orthogonal weights: the gain is the root of the mean square of the rows' (or columns') norms.
    gains = [float(w.square().sum() / min(w.shape[1:])) ** 0.5 for w, _ in layers]
    assert gains == pytest.approx([2**0.5, 2**0.5, 0.01])
    assert not log_std.any()


# --- sampled actions --------------------------------------------------------------------------


def seeds(policies: int, episodes: int) -> list[list[int]]:
    return [[1000 * p + e for e in range(episodes)] for p in range(policies)]


def steps_of(
    policy: SampledStudents, observations: NDArray[np.float32], count: int
) -> NDArray[Any]:
    return np.array([policy(observations) for _ in range(count)])


@pytest.mark.parametrize("head", ["sampled", "sampled_trained", "gaussian", "categorical"])
def test_an_episode_draws_the_same_numbers_whoever_else_plays(head: str) -> None:
    spec = replace(SPEC, head=head, steps=3)  # type: ignore[arg-type]
    policy = train(spec, draw_pairs(3), generators(3))
    observations = np.ones((3, 4, OBSERVATION_DIM), dtype=np.float32)
    count = ActionStreams.BLOCK + 3  # into the second block
    together = steps_of(policy.sampled(seeds(3, 4)), observations, count)
    np.testing.assert_array_equal(
        together, steps_of(policy.sampled(seeds(3, 4)), observations, count)
    )
    # One student, and two of its episodes, without the others.
    single = replace(policy, parameters=[(w[1:2], b[1:2]) for w, b in policy.parameters])
    few = [[seeds(3, 4)[1][e] for e in (2, 0)]]
    alone = steps_of(single.sampled(few), observations[:1, :2], count)
    np.testing.assert_allclose(alone[:, 0], together[:, 1][:, [2, 0]], rtol=1e-5, atol=1e-6)
    # No two episodes or students draw the same, and no block repeats the one before it.
    rows = together.reshape(count, 12, ACTION_DIM)
    assert len({rows[:, slot].tobytes() for slot in range(12)}) == 12
    assert not np.array_equal(rows[:3], rows[ActionStreams.BLOCK :])


def test_sampled_actions_are_those_of_the_distribution_in_the_environments_units() -> None:
    policy = train(replace(SPEC, head="gaussian", steps=2), draw_pairs(1), generators(1))
    observations = np.zeros((1, 1, OBSERVATION_DIM), dtype=np.float32)
    *_, (_, log_std) = policy.parameters
    log_std -= 3  # so that nothing is clipped
    mean = (policy(observations)[0, 0] - SCALING.center.numpy()) / SCALING.half_range.numpy()
    drawn = steps_of(policy.sampled([[7]]), observations, 20)[:, 0, 0]
    unit = (drawn - SCALING.center.numpy()) / SCALING.half_range.numpy()
    noise = np.random.default_rng(7).standard_normal((64, ACTION_DIM), dtype=np.float32)[:20]
    expected = mean + np.exp(log_std[0, 0].numpy()) * noise
    np.testing.assert_allclose(unit, expected, atol=1e-5)


def test_with_fewer_streams_than_policies_they_are_taken_in_turn() -> None:
    policy = train(replace(SPEC, head="sampled", steps=2), draw_pairs(4), generators(4))
    observations = np.ones((4, 2, OBSERVATION_DIM), dtype=np.float32)
    own = steps_of(policy.sampled(seeds(2, 2) * 2), observations, 3)
    np.testing.assert_array_equal(own, steps_of(policy.sampled(seeds(2, 2)), observations, 3))


def test_students_with_one_action_per_state_cannot_be_sampled() -> None:
    policy = train(replace(SPEC, head="mean", steps=1), draw_pairs(1), generators(1))
    with pytest.raises(ObdBenchError, match="a MeanHead has only one per state"):
        policy.sampled([[0]])


@pytest.mark.parametrize(
    ("head", "space", "message"),
    [
        ("categorical", Box(-1, 1, (3,)), "for actions of a Discrete; those of Hopper-v5 are Box"),
        ("gaussian", Discrete(3), "for actions of a Box; those of Hopper-v5 are Discrete"),
    ],
)
def test_a_head_for_other_actions_is_refused(head: str, space: Any, message: str) -> None:
    spec = replace(SPEC, head=head)  # type: ignore[arg-type]
    other = {"categorical": "gaussian", "gaussian": "categorical"}[head]
    with pytest.raises(ObdBenchError, match=f'{message}.*Set head = "{other}"'):
        spec.check_space(space, "Hopper-v5")
    for fine in ("mean", "sampled", other):
        replace(SPEC, head=fine).check_space(space, "Hopper-v5")  # type: ignore[arg-type]


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


@pytest.mark.parametrize("head", ["mean", "gaussian", "categorical"])
def test_a_weight_of_two_is_the_pair_twice(head: Any) -> None:
    spec = replace(SPEC, head=head, steps=5)
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(3, OBSERVATION_DIM, generator=generator)
    actions = torch.rand(3, ACTION_DIM, generator=generator) * 2 - 1
    weighted = SyntheticSet(observations, actions, weights=torch.tensor([0.5, 0.0, 1.0]))
    twice = SyntheticSet(observations[[0, 2, 2]], actions[[0, 2, 2]])
    plain = SyntheticSet(observations, actions)
    one, other, without = (
        train_on_set(spec, pairs, SCALING, generators(2)) for pairs in (weighted, twice, plain)
    )
    inputs = np.random.default_rng(0).normal(size=(2, 4, OBSERVATION_DIM)).astype(np.float32)
    np.testing.assert_allclose(one(inputs), other(inputs), rtol=1e-5, atol=1e-6)
    assert not np.allclose(one(inputs), without(inputs), rtol=1e-3)


def test_students_of_a_set_that_learned_its_training_take_its_units_and_its_rate() -> None:
    own = Scaling(
        torch.full((OBSERVATION_DIM,), 2.0), torch.full((OBSERVATION_DIM,), 0.5),
        torch.zeros(ACTION_DIM), torch.ones(ACTION_DIM),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(3, OBSERVATION_DIM, generator=generator)
    plain = SyntheticSet(observations, torch.rand(3, ACTION_DIM, generator=generator))
    carrying = replace(plain, training=LearnedTraining(own, 0.7))
    learned = replace(SPEC, optimizer="sgd", schedule="learned", learning_rate=99.0, steps=2)
    inputs = np.random.default_rng(0).normal(size=(2, 4, OBSERVATION_DIM)).astype(np.float32)

    def acted(spec: StudentSpec, pairs: SyntheticSet, scaling: Scaling) -> Any:
        return train_on_set(spec, pairs, scaling, generators(2))(inputs)

    constant = replace(learned, schedule="constant", learning_rate=0.7)
    expected = acted(constant, plain, own)
    assert np.array_equal(acted(learned, carrying, SCALING), expected)
    usual = replace(constant, learning_rate=0.1)  # a student with a rate of its own keeps it
    assert np.array_equal(acted(usual, carrying, SCALING), acted(usual, plain, own))
    assert not np.allclose(acted(usual, plain, SCALING), acted(usual, plain, own))
    with pytest.raises(ObdBenchError, match=r'"learned": .* these pairs carry none. Set schedule'):
        acted(learned, plain, SCALING)


def test_weighted_students_descend_the_weighted_mean_by_autograd() -> None:
    spec = replace(SPEC, head="sampled", optimizer="sgd", learning_rate=0.1, steps=4)
    drawn = torch.Generator().manual_seed(0)
    observations = torch.randn(3, OBSERVATION_DIM, generator=drawn)
    actions = torch.rand(3, ACTION_DIM, generator=drawn) * 2 - 1
    weights = torch.tensor([0.2, 3.0, 1.0])
    pairs = SyntheticSet(observations, actions, weights=weights)
    found = train_on_set(spec, pairs, SCALING, generators(1))

    (generator,) = generators(1)
    flat = [
        t
        for layer in spec.network(OBSERVATION_DIM, ACTION_DIM).initialise(generator)
        for t in layer
    ]
    inputs, targets = SCALING.observations_in(observations), SCALING.actions_in(actions)
    for _ in range(4):
        flat = [tensor.detach().requires_grad_() for tensor in flat]
        hidden = inputs
        for weight, bias in zip(flat[::2], flat[1::2], strict=True):
            last = hidden @ weight[0].T + bias[0]
            hidden = last.relu()
        mean, raw = last.chunk(2, dim=-1)
        acted = (mean + (raw - 1).exp() * torch.randn(3, ACTION_DIM, generator=generator)).tanh()
        losses = (acted - targets).square().mean(1)
        loss = (weights * losses).sum() / weights.sum()
        gradients = torch.autograd.grad(loss, flat)
        flat = [tensor - 0.1 * g for tensor, g in zip(flat, gradients, strict=True)]
    trained = [tensor for layer in found.parameters for tensor in layer]
    torch.testing.assert_close(trained, [tensor.detach() for tensor in flat])


@recipes
def test_each_student_of_a_training_is_that_of_a_training_of_as_many_steps(recipe: str) -> None:
    spec = replace(RECIPES[recipe], schedule="constant")
    pairs = draw_pairs(2)
    seen = [
        [tensor.clone() for layer in students.parameters for tensor in layer]
        for students in training(spec, lambda step: pairs, SCALING, generators(2), 4)
    ]
    assert len(seen) == 5
    for steps, found in enumerate(seen):
        alone = train_students(spec, lambda step: pairs, SCALING, generators(2), steps)
        expected = [tensor for layer in alone.parameters for tensor in layer]
        assert all(map(torch.equal, found, expected))


def test_students_go_on_from_parameters_of_their_own_which_stay() -> None:
    """Plain SGD keeps nothing but the parameters, so that two halves are a whole."""
    spec, pairs = replace(RECIPES["sgd"], head="mean"), draw_pairs(3)
    whole = train_students(spec, lambda step: pairs, SCALING, generators(3), 8)
    half = train_students(spec, lambda step: pairs, SCALING, generators(3), 4)
    before = [tensor.clone() for layer in half.parameters for tensor in layer]
    on = train_students(
        spec, lambda step: pairs, SCALING, generators(3), 4, initial=half.parameters
    )
    for mine, theirs in zip(on.parameters, whole.parameters, strict=True):
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])
    after = [tensor for layer in half.parameters for tensor in layer]
    assert all(map(torch.equal, before, after))
    with pytest.raises(ObdBenchError, match="2 students cannot begin with the parameters of 3"):
        train_students(spec, lambda step: pairs, SCALING, generators(2), 4, initial=half.parameters)


@heads
def test_autograd_goes_through_the_mode_that_students_act_by(head: str) -> None:
    policy = train(replace(SPEC, head=head), draw_pairs(2), generators(2))
    states = torch.randn(2, 4, OBSERVATION_DIM)
    unit = policy.mode(states.requires_grad_())
    np.testing.assert_array_equal(
        policy(states.detach().numpy()), SCALING.actions_out(unit).detach().numpy()
    )
    (gradient,) = torch.autograd.grad(unit.square().sum(), states)
    assert gradient.abs().sum() > 0
