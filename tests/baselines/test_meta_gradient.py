"""The meta-gradient engine against autograd and finite differences, in float64.

`unrolled` and `published` are written with plain 2-D tensors, one run at a time, and share no code
with the engine. `Setup` and both of them also serve the timings of
`tests/benchmarks/test_meta_gradient_speed.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from baselines import native_engine
from baselines.meta_gradient import InnerLoop, MetaGradient, OuterBatch, Pairs
from benchmark.students.heads import SQUARED_ERROR_HEADS as HEADS
from benchmark.students.network import Network, Parameters, stack

Skip = tuple[int, int] | None
GradientOfRun = Callable[["Setup"], tuple[Tensor, Tensor, Tensor]]

NETWORKS: list[tuple[int, Skip]] = [
    (1, None),
    (2, None),
    (3, None),
    (4, None),
    (5, None),
    (6, None),
    (3, (1, 2)),
    (4, (1, 3)),
    (5, (2, 3)),
    (6, (1, 5)),
]


@dataclass(frozen=True)
class Setup:
    """One distillation problem: an inner loop and everything its gradient is taken at."""

    loop: InnerLoop
    initial: Parameters
    pairs: Pairs
    outer: OuterBatch
    noise: Tensor | None
    adjoint_noise: Tensor | None

    @classmethod
    def draw(
        cls,
        *,
        head: str = "sampled",
        depth: int = 4,
        skip: Skip = None,
        momentum: float = 0.0,
        runs: int = 1,
        weighted: bool = False,
        observation_dim: int = 5,
        width: int = 8,
        pairs: int = 7,
        steps: int = 6,
        batch: int = 9,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Setup:
        """Normal pairs, outer batch and noise; actions of 3 dimensions."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype)

        action_dim = 3
        noisy = HEADS[head].noisy
        outputs = HEADS[head].outputs(action_dim)
        sizes = (observation_dim, *[width] * (depth - 1), outputs)
        network = Network(sizes, skip, HEADS[head].trained_scalars)
        return cls(
            loop=InnerLoop(network, HEADS[head], steps, learning_rate=0.1, momentum=momentum),
            initial=stack([network.initialise(generator, dtype) for _ in range(runs)]),
            pairs=Pairs(
                normal(runs, pairs, observation_dim), normal(runs, pairs, action_dim).tanh()
            ),
            outer=OuterBatch(
                normal(runs, batch, observation_dim),
                normal(runs, batch, action_dim).tanh(),
                normal(runs, batch).abs() if weighted else None,
                normal(runs, batch, action_dim) if noisy else None,
            ),
            noise=normal(steps, runs, pairs, action_dim) if noisy else None,
            adjoint_noise=normal(steps, runs, pairs, action_dim) if noisy else None,
        )

    def gradient(self, adjoint_noise: Tensor | None = None) -> MetaGradient:
        """The engine's answer."""
        return self.loop.gradient(self.initial, self.pairs, self.outer, self.noise, adjoint_noise)

    def to(self, dtype: torch.dtype) -> Setup:
        """The same problem in another precision."""
        return self._each(lambda tensor, _: tensor.to(dtype))

    def run(self, index: int) -> Setup:
        """The same problem of one run alone, still with a runs axis (of 1)."""
        return self._each(lambda tensor, axis: tensor.narrow(axis, index, 1))

    def _each(self, change: Callable[[Tensor, int], Tensor]) -> Setup:
        """Every tensor changed, given its runs axis."""

        def changed(tensor: Tensor | None, axis: int = 0) -> Tensor | None:
            return None if tensor is None else change(tensor, axis)

        outer = self.outer
        return replace(
            self,
            initial=[(change(weight, 0), change(bias, 0)) for weight, bias in self.initial],
            pairs=Pairs(*(change(tensor, 0) for tensor in self.pairs)),
            outer=OuterBatch(
                change(outer.observations, 0),
                change(outer.actions, 0),
                changed(outer.weights),
                changed(outer.noise),
            ),
            noise=changed(self.noise, 1),
            adjoint_noise=changed(self.adjoint_noise, 1),
        )


def cloning_loss(
    loop: InnerLoop,
    parameters: list[Tensor],
    observations: Tensor,
    actions: Tensor,
    noise: Tensor | None,
    weights: Tensor | None = None,
) -> Tensor:
    """The BC loss of one student: `parameters` are weight, bias, weight, bias, ..."""
    value = observations
    hidden: list[Tensor] = []
    layers = list(zip(parameters[::2], parameters[1::2], strict=True))
    multiplier, offset = layers.pop() if loop.network.scalars else (1.0, -1.0)
    *inner, last = layers
    for layer, (weight, bias) in enumerate(inner, start=1):
        value = relu(linear(value, weight, bias))
        if loop.network.skip and layer == loop.network.skip[1]:
            value = value + hidden[loop.network.skip[0] - 1]
        hidden.append(value)
    outputs = linear(value, *last)
    if noise is None:
        action = torch.tanh(outputs)
    else:
        mean, raw = outputs.chunk(2, dim=-1)
        log_std = torch.clamp(multiplier * raw + offset, -20, 2)
        action = torch.tanh(mean + torch.exp(log_std) * noise)
    error = (action - actions) ** 2
    return (error if weights is None else error * weights[:, None]).mean()


def unrolled(setup: Setup) -> MetaGradient:
    """Autograd through the whole training, run by run."""
    return _run_by_run(setup, _unrolled_run)


def published(setup: Setup) -> MetaGradient:
    """The published code's backward pass, run by run.

    Every inner step is differentiated again in the backward pass, under `adjoint_noise`.
    """
    return _run_by_run(setup, _published_run)


def _run_by_run(setup: Setup, gradient_of_run: GradientOfRun) -> MetaGradient:
    results = [gradient_of_run(setup.run(index)) for index in range(len(setup.outer.actions))]
    return MetaGradient(*(torch.stack(values) for values in zip(*results, strict=True)))


def _unrolled_run(setup: Setup) -> tuple[Tensor, Tensor, Tensor]:
    loop = setup.loop
    observations, actions = (tensor[0].clone().requires_grad_() for tensor in setup.pairs)
    parameters = _initial_parameters(setup)
    velocity = [torch.zeros_like(tensor) for tensor in parameters]
    for t in range(loop.steps):
        noise = None if setup.noise is None else setup.noise[t, 0]
        loss = cloning_loss(loop, parameters, observations, actions, noise)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        if loop.momentum:
            velocity = [loop.momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
        else:
            velocity = list(gradients)
        parameters = [p - loop.learning_rate * v for p, v in zip(parameters, velocity, strict=True)]
    loss = _outer_loss(setup, parameters)
    in_observations, in_actions = torch.autograd.grad(loss, [observations, actions])
    return loss.detach(), in_observations, in_actions


def _published_run(setup: Setup) -> tuple[Tensor, Tensor, Tensor]:
    loop = setup.loop
    observations, actions = (tensor[0].clone().requires_grad_() for tensor in setup.pairs)
    parameters = _initial_parameters(setup)
    velocity = [torch.zeros_like(tensor) for tensor in parameters]
    visited = []
    for t in range(loop.steps):
        visited.append(parameters)
        noise = None if setup.noise is None else setup.noise[t, 0]
        loss = cloning_loss(loop, parameters, observations, actions, noise)
        gradients = torch.autograd.grad(loss, parameters)
        velocity = [loop.momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
        parameters = [
            (p - loop.learning_rate * v).detach().requires_grad_()
            for p, v in zip(parameters, velocity, strict=True)
        ]
    outer_loss = _outer_loss(setup, parameters)

    dL_dw = [g.clone() for g in torch.autograd.grad(outer_loss, parameters)]
    dL_dv = [torch.zeros_like(g) for g in dL_dw]
    dL_dobs, dL_dact = torch.zeros_like(observations), torch.zeros_like(actions)
    for t in reversed(range(loop.steps)):
        for dv, dw in zip(dL_dv, dL_dw, strict=True):
            dv.add_(dw, alpha=-loop.learning_rate)
        noise = None if setup.adjoint_noise is None else setup.adjoint_noise[t, 0]
        loss = cloning_loss(loop, visited[t], observations, actions, noise)
        gradients = torch.autograd.grad(loss, visited[t], create_graph=True)
        hvp_obs, hvp_act, *hvp = torch.autograd.grad(
            gradients, [observations, actions, *visited[t]], grad_outputs=dL_dv, allow_unused=True
        )
        dL_dobs += hvp_obs
        dL_dact += hvp_act
        for dw, dv, change in zip(dL_dw, dL_dv, hvp, strict=True):
            if change is not None:
                dw += change
            dv *= loop.momentum
    return outer_loss.detach(), dL_dobs, dL_dact


def _initial_parameters(setup: Setup) -> list[Tensor]:
    """Weight `[out, in]`, bias `[out]`, and so on; then the scalars that are trained."""
    network = setup.loop.network
    layers = [(weight[0], bias[0, 0]) for weight, bias in setup.initial[: network.depth]]
    if network.scalars:
        multiplier, offset = setup.initial[-1]
        layers.append((multiplier[0, 0, 0], offset[0, 0, 0]))
    return [tensor.clone().requires_grad_() for layer in layers for tensor in layer]


def _outer_loss(setup: Setup, parameters: list[Tensor]) -> Tensor:
    observations, actions, weights, noise = (None if t is None else t[0] for t in setup.outer)
    assert observations is not None and actions is not None
    return cloning_loss(setup.loop, parameters, observations, actions, noise, weights)


def assert_same(found: MetaGradient, expected: MetaGradient, tolerance: float = 1e-9) -> None:
    """Relative error of every part of every run, in the Euclidean norm."""
    for name, one, other in zip(MetaGradient._fields, found, expected, strict=True):
        assert one.shape == other.shape, f"{name} is {tuple(one.shape)}, not {tuple(other.shape)}"
        one, other = (part.reshape(len(part), -1) for part in (one, other))
        error = (one - other).norm(dim=1) / other.norm(dim=1)
        assert bool((error < tolerance).all()), f"relative error of {name}: {error.tolist()}"


@pytest.fixture(autouse=True, params=["torch", "native"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every test runs on both engines."""
    if request.param == "native" and native_engine.library() is None:
        pytest.skip("the C++ engine is not built here")
    monkeypatch.setenv(native_engine.ENGINE, request.param)
    assert native_engine.name("cpu") == request.param
    yield request.param


networks = pytest.mark.parametrize(
    ("depth", "skip"), NETWORKS, ids=[f"depth{d}" + ("-skip" if s else "") for d, s in NETWORKS]
)
heads = pytest.mark.parametrize("head", list(HEADS))
momenta = pytest.mark.parametrize("momentum", [0.0, 0.9], ids=["plain", "momentum"])


@networks
@heads
@momenta
def test_equals_unrolled_autograd(depth: int, skip: Skip, head: str, momentum: float) -> None:
    # Three runs with weights: a single run is held to a stack by another test below.
    setup = Setup.draw(head=head, depth=depth, skip=skip, momentum=momentum, runs=3, weighted=True)
    assert_same(setup.gradient(), unrolled(setup))


@heads
@momenta
def test_equals_unrolled_autograd_without_weights(head: str, momentum: float) -> None:
    setup = Setup.draw(head=head, skip=(1, 3), momentum=momentum)
    assert_same(setup.gradient(), unrolled(setup))


@pytest.mark.parametrize("seed", [1, 2, 3])
@momenta
def test_equals_unrolled_autograd_where_the_log_std_is_clamped(seed: int, momentum: float) -> None:
    setup = Setup.draw(seed=seed, momentum=momentum, weighted=True, pairs=30)
    bias = setup.initial[-1][1]
    bias[..., 3:] = torch.tensor([3.0, -19.0, 0.0], dtype=bias.dtype)  # clamps above 3, below -19

    assert_same(setup.gradient(), unrolled(setup))


@pytest.mark.parametrize(("depth", "skip"), [(1, None), (4, None), (5, (2, 3))])
@heads
@momenta
def test_is_the_gradient_of_its_own_loss_by_finite_differences(
    depth: int, skip: Skip, head: str, momentum: float
) -> None:
    setup = Setup.draw(head=head, depth=depth, skip=skip, momentum=momentum, weighted=True)
    gradient = setup.gradient()
    generator = torch.Generator().manual_seed(1)
    epsilon = 1e-7  # so small that no ReLU changes side
    for _ in range(3):
        along = [
            torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in setup.pairs
        ]
        above, below = (
            replace(
                setup,
                pairs=Pairs(*(t + s * d for t, d in zip(setup.pairs, along, strict=True))),
            ).gradient()
            for s in (epsilon, -epsilon)
        )
        expected = (above.loss - below.loss) / (2 * epsilon)
        parts = zip((gradient.observations, gradient.actions), along, strict=True)
        found = sum((part * direction).sum() for part, direction in parts)
        torch.testing.assert_close(found, expected[0], rtol=1e-6, atol=1e-9)


@heads
@momenta
@pytest.mark.parametrize("skip", [None, (1, 3)], ids=["mlp", "skip"])
@pytest.mark.parametrize("seed", [0, 1])
def test_stacked_runs_equal_separate_runs(
    head: str, momentum: float, skip: Skip, seed: int
) -> None:
    setup = Setup.draw(head=head, momentum=momentum, skip=skip, runs=4, weighted=True, seed=seed)
    together = setup.gradient()
    for index in range(4):
        alone = setup.run(index).gradient()
        assert_same(MetaGradient(*(part[index : index + 1] for part in together)), alone, 1e-12)


@networks
@momenta
@pytest.mark.parametrize("head", ["sampled", "sampled_trained"])
def test_fresh_adjoint_noise_equals_the_published_backward_pass(
    depth: int, skip: Skip, momentum: float, head: str
) -> None:
    setup = Setup.draw(head=head, depth=depth, skip=skip, momentum=momentum, runs=3, weighted=True)
    assert_same(setup.gradient(setup.adjoint_noise), published(setup))


@heads
@momenta
def test_the_published_backward_pass_under_the_same_noise_is_the_gradient(
    head: str, momentum: float
) -> None:
    setup = Setup.draw(head=head, momentum=momentum)
    same = replace(setup, adjoint_noise=setup.noise)
    assert_same(published(same), unrolled(setup))
    assert_same(setup.gradient(setup.noise), setup.gradient(), 1e-12)


def test_fresh_adjoint_noise_is_another_estimate() -> None:
    setup = Setup.draw()
    fresh, reused = setup.gradient(setup.adjoint_noise), setup.gradient()
    assert torch.equal(fresh.loss, reused.loss)
    assert (fresh.actions - reused.actions).norm() > 0.01 * reused.actions.norm()


@momenta
@pytest.mark.parametrize("skip", [None, (1, 3)], ids=["mlp", "skip"])
def test_leaves_its_arguments_as_they_were(momentum: float, skip: Skip) -> None:
    setup, untouched = (Setup.draw(momentum=momentum, skip=skip, weighted=True) for _ in range(2))
    setup.gradient(setup.adjoint_noise)
    for layer, before in zip(setup.initial, untouched.initial, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layer, before, strict=True))
    for tensors, expected in ((setup.pairs, untouched.pairs), (setup.outer, untouched.outer)):
        for now, was in zip(tensors, expected, strict=True):
            assert now is not None and was is not None and torch.equal(now, was)
    assert setup.noise is not None and untouched.noise is not None
    assert torch.equal(setup.noise, untouched.noise)


@momenta
def test_a_later_call_leaves_an_earlier_result_as_it_was(momentum: float) -> None:
    first = Setup.draw(momentum=momentum)
    second = replace(Setup.draw(momentum=momentum, seed=1), loop=first.loop)
    smaller = replace(Setup.draw(momentum=momentum, pairs=4, runs=2), loop=first.loop)

    result = first.gradient()
    kept = MetaGradient(*(part.clone() for part in result))
    second.gradient()
    smaller.gradient()

    assert all(torch.equal(a, b) for a, b in zip(result, kept, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.gradient(), kept, strict=True))


def test_float32_agrees_with_float64() -> None:
    exact = Setup.draw(weighted=True)
    found = exact.to(torch.float32).gradient()
    assert all(part.dtype == torch.float32 for part in found)
    assert_same(MetaGradient(*(part.double() for part in found)), exact.gradient(), 1e-4)


def test_a_network_whose_second_derivatives_it_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="adjoint is that of ReLU networks; got one with tanh"):
        InnerLoop(Network((3, 4, 2), activation="tanh"), HEADS["mean"], 2, learning_rate=0.1)
