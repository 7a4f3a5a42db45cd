"""The flow's density and its written-out gradient, against autograd and against zuko's own flow."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
import zuko
from torch import Tensor, nn

from benchmark.density.flow import EPSILON, RATE, BatchNorm, MaskedAutoregressiveFlow
from benchmark.density.flow_gradient import FlowGradient
from benchmark.density.maf import FlowDensity, PublishedMAF


@pytest.fixture(params=[(8,), (8, 6)], ids=["one hidden layer", "two"])
def flow(request: pytest.FixtureRequest) -> MaskedAutoregressiveFlow:
    """In float64, with parameters and statistics far from where they begin."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    flow = MaskedAutoregressiveFlow(4, 3, request.param).double()
    for tensor in flow.parameters():
        tensor.data += 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    for norm in flow.norms:
        assert isinstance(norm, BatchNorm)
        norm.running_mean += torch.randn(4, generator=generator, dtype=torch.float64)
        norm.running_variance *= torch.rand(4, generator=generator, dtype=torch.float64) + 0.5
    return flow


def states(count: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(count, 4, generator=generator, dtype=torch.float64)


def through(flow: MaskedAutoregressiveFlow, x: Tensor) -> Tensor:
    """The flow's map to the base, without any log determinant."""
    for block, norm in zip(flow.blocks, flow.norms, strict=True):
        x = norm(block()(x))[0]
    return x


def test_log_prob_is_change_of_variables_with_autograds_jacobian(
    flow: MaskedAutoregressiveFlow,
) -> None:
    flow.eval()
    for x in states():
        jacobian = torch.autograd.functional.jacobian(lambda x: through(flow, x[None])[0], x)
        base = torch.distributions.Normal(0.0, 1.0).log_prob(through(flow, x[None])[0]).sum()
        expected = base + torch.linalg.slogdet(jacobian).logabsdet
        assert flow.log_prob(x[None])[0].item() == pytest.approx(expected.item(), abs=1e-10)


def test_batch_norms_log_determinant_is_that_of_its_jacobian() -> None:
    norm = BatchNorm(3).double().eval()
    norm.log_gain.data = torch.tensor([0.3, -1.0, 2.0]).double()
    norm.running_variance = torch.tensor([0.1, 4.0, 1e-8]).double()
    x = torch.randn(3, dtype=torch.float64)

    jacobian = torch.autograd.functional.jacobian(lambda x: norm(x[None])[0][0], x)

    assert torch.allclose(norm(x[None])[1], torch.linalg.slogdet(jacobian).logabsdet)


def test_batch_norm_standardises_in_training_and_runs_after_the_batches() -> None:
    norm, x = BatchNorm(4).double(), states(50)
    y, _ = norm(x)
    assert torch.allclose(y.mean(0), torch.zeros(4).double(), atol=1e-12)
    assert torch.allclose(y.var(0, correction=0), torch.ones(4).double(), rtol=1e-4)
    assert torch.allclose(norm.running_mean, RATE * x.mean(0))
    expected = (1 - RATE) + RATE * x.var(0, correction=0)
    assert torch.allclose(norm.running_variance, expected)


def made_masks(features: int, width: int, hidden_layers: int) -> list[Tensor]:
    """The masks of MADE (Germain et al. 2015, eq. 8 and 9) by degrees, for inputs in order."""
    inner = [torch.arange(width) % (features - 1)] * hidden_layers
    degrees = [torch.arange(features), *inner, torch.arange(features) - 1]
    pairs = itertools.pairwise(degrees)
    return [(above[:, None] >= below[None]).double() for below, above in pairs]


def test_published_flow_is_two_relu_layers_per_made_written_out_by_hand() -> None:
    recipe = PublishedMAF(epochs=1, width=9)
    fitted = recipe.fit(states(200), seed=0)
    assert isinstance(fitted, FlowDensity)
    flow = fitted.flow.double().eval()
    x, total = states(), torch.zeros(12, dtype=torch.float64)
    assert len(flow.blocks) == 5
    for index, (block, norm) in enumerate(zip(flow.blocks, flow.norms, strict=True)):
        layers = [m for m in block.modules() if isinstance(m, nn.Linear)]
        first, second, last = made_masks(4, 9, hidden_layers=2)
        if index % 2:  # the order of the features is reversed
            first, last = first.flip(1), last.flip(0)
        masks = [first, second, last.repeat_interleave(2, 0)]
        hidden = x
        for layer, mask in zip(layers, masks, strict=True):
            hidden = hidden @ (layer.weight * mask).T + layer.bias
            hidden = hidden if layer is layers[-1] else hidden.clamp(min=0)
        shift, raw = hidden[:, 0::2], hidden[:, 1::2]
        log_scale = raw / (1 + raw.abs() / math.log(1e3))
        x = x * log_scale.exp() + shift
        assert isinstance(norm, BatchNorm)
        factor = norm.log_gain.exp() / (norm.running_variance + EPSILON).sqrt()
        x = (x - norm.running_mean) * factor + norm.bias
        total = total + log_scale.sum(1) + factor.log().sum()
    expected = total + torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)

    assert torch.allclose(fitted.log_prob(states()), expected, atol=1e-10)


@pytest.mark.parametrize("hidden", [(8,), (8, 6)], ids=["one hidden layer", "two"])
def test_without_batch_norm_it_is_zukos_own_flow(hidden: tuple[int, ...]) -> None:
    reference = zuko.flows.MAF(4, transforms=3, hidden_features=hidden).double()
    flow = MaskedAutoregressiveFlow(4, 3, hidden).double().eval()
    for block, other in zip(flow.blocks, reference.transform.transforms, strict=True):
        block.load_state_dict(other.state_dict())
    for norm in flow.norms:
        assert isinstance(norm, BatchNorm)
        norm.running_variance.fill_(1 - EPSILON)  # makes it the identity

    assert torch.allclose(flow.log_prob(states()), reference().log_prob(states()), atol=1e-12)


def test_written_out_gradient_is_autograds(flow: MaskedAutoregressiveFlow) -> None:
    reference = copy.deepcopy(flow).train()
    (-reference.log_prob(states()).mean()).backward()

    FlowGradient(flow, len(states())).compute(states().T.contiguous())

    for (name, parameter), other in zip(
        flow.named_parameters(), reference.parameters(), strict=True
    ):
        assert torch.allclose(parameter.grad, other.grad, rtol=1e-9, atol=1e-12), name
    for (name, buffer), other in zip(flow.named_buffers(), reference.buffers(), strict=True):
        assert torch.allclose(buffer.double(), other.double(), atol=1e-12), name


def test_steps_on_the_vector_are_adams_steps_on_zukos_parameters(
    flow: MaskedAutoregressiveFlow,
) -> None:
    """Masked weights too: they are zeros without a gradient, so weight decay leaves them alone."""
    reference = copy.deepcopy(flow).train()
    plain = torch.optim.Adam(reference.parameters(), 0.01, weight_decay=1e-3)
    gradient = FlowGradient(flow, len(states()))
    ours = torch.optim.Adam([gradient.vector], 0.01, weight_decay=1e-3, fused=True)

    for _ in range(5):
        plain.zero_grad()
        (-reference.log_prob(states()).mean()).backward()
        plain.step()
        gradient.compute(states().T.contiguous())
        ours.step()

    flow.eval()
    reference.eval()
    assert torch.allclose(flow.log_prob(states()), reference.log_prob(states()), atol=1e-9)
