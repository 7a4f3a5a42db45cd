"""Networks: written-out forward and backward passes against autograd, and initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from benchmark.students.network import (
    Network,
    Parameters,
    relu_backward,
    stack,
    tanh_backward,
)

NETWORKS = [
    Network((5, 3)),
    Network((5, 8, 3)),
    Network((5, 8, 7, 6, 3)),
    Network((5, 8, 7, 8, 3), skip=(1, 3)),
    Network((5, 8, 8, 3), skip=(1, 2)),
    Network((5, 8, 7, 7, 6, 8, 3), skip=(2, 3)),
    Network((5, 4), scalars=True),
    Network((5, 8, 7, 8, 4), skip=(1, 3), scalars=True),
    Network((5, 8, 7, 6, 3), activation="tanh"),
    Network((5, 8, 7, 8, 3), skip=(1, 3), activation="tanh", constants=3),
    Network((5, 3), constants=2),
    Network((5, 8, 4), scalars=True, constants=2),
]
networks = pytest.mark.parametrize("network", NETWORKS, ids=repr)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(network: Network, runs: int = 3) -> tuple[Parameters, Tensor]:
    """Parameters with non-zero biases, and observations `[runs, 9, in]`, in float64."""
    source = generator()
    parameters = stack([network.initialise(source, torch.float64) for _ in range(runs)])
    for _, bias in parameters:
        bias.normal_(generator=source)
    if network.scalars:
        parameters[network.depth][0].normal_(generator=source)
    observations = torch.randn(runs, 9, network.sizes[0], generator=source, dtype=torch.float64)
    return parameters, observations


def plain_forward(network: Network, parameters: Parameters, observations: Tensor) -> Tensor:
    """The same network for every run in turn, with plain 2-D products."""
    outputs = []
    for run in range(len(observations)):
        value = observations[run]
        hidden: list[Tensor] = []
        layers = parameters[: network.depth]
        for layer, (weight, bias) in enumerate(layers[:-1], start=1):
            value = linear(value, weight[run], bias[run, 0])
            value = value.tanh() if network.activation == "tanh" else relu(value)
            if network.skip and layer == network.skip[1]:
                value = value + hidden[network.skip[0] - 1]
            hidden.append(value)
        weight, bias = layers[-1]
        value = linear(value, weight[run], bias[run, 0])
        if network.scalars:
            multiplier, offset = parameters[network.depth]
            mean, raw = value.chunk(2, -1)
            value = torch.cat((mean, multiplier[run] * raw + offset[run]), -1)
        if network.constants:
            value = torch.cat((value, parameters[-1][1][run].expand(len(value), -1)), -1)
        outputs.append(value)
    return torch.stack(outputs)


@networks
def test_forward_equals_plain_products_run_by_run(network: Network) -> None:
    parameters, observations = draw(network)
    expected = plain_forward(network, parameters, observations)
    levels = network.forward(parameters, observations)
    torch.testing.assert_close(levels.outputs, expected, rtol=1e-12, atol=1e-12)


@networks
def test_gradients_equal_autograd(network: Network) -> None:
    parameters, observations = draw(network)
    tensors = [tensor.requires_grad_() for layer in parameters for tensor in layer]
    outputs = plain_forward(network, parameters, observations)
    cotangent = torch.randn(outputs.shape, generator=generator(1), dtype=torch.float64)
    expected = torch.autograd.grad(outputs, tensors, cotangent, allow_unused=True)

    with torch.no_grad():
        levels = network.forward(parameters, observations)
        deltas = network.backward(parameters, levels, cotangent)
        gradients = network.gradients(levels, deltas)

    found = [tensor for layer in gradients for tensor in layer]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, _or_zeros(other, one), rtol=1e-11, atol=1e-12)


def _or_zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    """A gradient; the empty one of a layer without inputs, which autograd does not reach."""
    if gradient is None:
        assert like.numel() == 0
        return torch.zeros_like(like)
    return gradient


@networks
def test_autograd_can_follow_the_forward_pass(network: Network) -> None:
    parameters, observations = draw(network)
    tensors = [tensor.requires_grad_() for layer in parameters for tensor in layer]
    expected = torch.autograd.grad(
        plain_forward(network, parameters, observations).square().sum(),
        tensors,
        allow_unused=True,
    )
    found = torch.autograd.grad(
        network.forward(parameters, observations).outputs.square().sum(), tensors
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, _or_zeros(other, one), rtol=1e-11, atol=1e-12)


def test_a_pass_leaves_parameters_and_observations_as_they_were() -> None:
    network = Network((5, 8, 7, 8, 3), skip=(1, 3))
    parameters, observations = draw(network)
    before = [tensor.clone() for layer in parameters for tensor in layer]
    seen = observations.clone()
    levels = network.forward(parameters, observations)
    deltas = network.backward(parameters, levels, torch.ones_like(levels.outputs))
    network.gradients(levels, deltas)
    assert torch.equal(observations, seen)
    after = [tensor for layer in parameters for tensor in layer]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_relu_backward_is_zero_where_the_relu_is() -> None:
    gradient, output = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 0.5, 2.0])
    assert relu_backward(gradient, output) is gradient  # in place
    assert gradient.tolist() == [0.0, 2.0, 3.0]


def test_tanh_backward_is_the_slope_at_its_output() -> None:
    gradient, output = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 0.5, -1.0])
    assert tanh_backward(gradient, output) is gradient  # in place
    assert gradient.tolist() == [1.0, 1.5, 0.0]


@pytest.mark.parametrize("sizes", [(4, 16, 16, 3), (4, 3)])
def test_only_the_last_layer_has_the_output_gain(sizes: tuple[int, ...]) -> None:
    small = Network(sizes, output_gain=0.01).initialise(generator(), torch.float64)
    usual = Network(sizes).initialise(generator(), torch.float64)
    for (weight, _), (same, _) in zip(small[:-1], usual[:-1], strict=True):
        assert torch.equal(weight, same)
    torch.testing.assert_close(small[-1][0], usual[-1][0] * (0.01 / 2**0.5), rtol=1e-12, atol=0)


def test_constant_outputs_start_at_zero_and_draw_nothing() -> None:
    drawn, source, other = Network((5, 8, 3), constants=3), generator(), generator()
    *layers, (weight, bias) = drawn.initialise(source)
    assert (weight.shape, bias.tolist()) == ((1, 3, 0), [[[0.0] * 3]])
    expected = Network((5, 8, 3)).initialise(other)
    assert all(torch.equal(w, v) for (w, _), (v, _) in zip(layers, expected, strict=True))
    assert torch.equal(source.get_state(), other.get_state())


@pytest.mark.parametrize("sizes", [(11, 256, 256, 256, 6), (4, 4), (9, 3, 7)])
def test_initial_weights_are_orthogonal_with_gain_sqrt_2(sizes: tuple[int, ...]) -> None:
    parameters = Network(sizes).initialise(generator(), torch.float64)
    assert len(parameters) == len(sizes) - 1
    for (weight, bias), fan_in, fan_out in zip(parameters, sizes, sizes[1:], strict=False):
        assert weight.shape == (1, fan_out, fan_in)
        assert bias.shape == (1, 1, fan_out)
        assert not bias.any()
        short = weight[0] if fan_out <= fan_in else weight[0].T  # its rows are the shorter side
        torch.testing.assert_close(short @ short.T, 2 * torch.eye(len(short), dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(11, 64, 64, 6), (4, 4), (9, 3, 7)])
def test_initial_weights_of_runs_are_torchs_to_the_last_bit(
    sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    """All runs are factorised at once; `torch.nn.init.orthogonal_` makes one matrix after another.

    The generators stand where torch leaves them: what is drawn next is the same too.
    """
    mine, others = ([generator(seed) for seed in range(3)] for _ in range(2))
    parameters = Network(sizes, output_gain=0.01).initialise_runs(mine, dtype)
    for run, other in enumerate(others):
        for layer, (weight, _) in enumerate(parameters):
            expected = torch.empty(sizes[layer + 1], sizes[layer], dtype=dtype)
            gain = 0.01 if layer == len(sizes) - 2 else 2**0.5
            torch.nn.init.orthogonal_(expected, gain=gain, generator=other)
            assert weight.is_contiguous() and torch.equal(weight[run], expected)
        assert torch.equal(mine[run].get_state(), other.get_state())


def test_initial_weights_depend_on_the_generator_alone() -> None:
    network = Network((5, 8, 3))
    torch.manual_seed(0)
    one = network.initialise(generator(1))
    torch.manual_seed(1)
    same, other = network.initialise(generator(1)), network.initialise(generator(2))
    assert torch.equal(one[0][0], same[0][0])
    assert not torch.equal(one[0][0], other[0][0])


def test_stack_keeps_the_order_of_runs() -> None:
    network = Network((5, 8, 3))
    runs = [network.initialise(generator(seed)) for seed in range(3)]
    stacked = stack(runs)
    assert [tuple(weight.shape) for weight, _ in stacked] == [(3, 8, 5), (3, 3, 8)]
    for index, run in enumerate(runs):
        for (weight, bias), (its_weight, its_bias) in zip(stacked, run, strict=True):
            assert torch.equal(weight[index], its_weight[0])
            assert torch.equal(bias[index], its_bias[0])


def test_depth_counts_linear_layers() -> None:
    assert Network((11, 256, 256, 256, 6)).depth == 4


@pytest.mark.parametrize("sizes", [(), (5,), (5, 0), (5, -1, 3)])
def test_sizes_that_make_no_network_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sizes must hold at least an input and an output"):
        Network(sizes)


@pytest.mark.parametrize("skip", [(0, 1), (1, 1), (2, 1), (1, 3)])
def test_a_skip_that_joins_no_two_hidden_layers_is_refused(skip: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must join two of the 2 hidden layers"):
        Network((5, 8, 8, 3), skip=skip)
