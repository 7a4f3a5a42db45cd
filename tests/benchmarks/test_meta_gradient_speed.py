"""The C++ meta-gradient against torch's, autograd, the published scheme and plain products.

Times of two candidates are taken turn by turn, because other work on the machine then weighs on
both alike; ratios are recorded in `extra_info` and only agreement is asserted. Peak memory is
taken in a process of its own: `python -m tests.benchmarks.test_meta_gradient_speed engine`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines import native_engine
from baselines.meta_gradient import MetaGradient
from benchmark.students.network import Network
from tests.baselines.test_meta_gradient import Setup, assert_same, published, unrolled

REPOSITORY = Path(__file__).parents[2]
TOLERANCE = 1e-4  # relative, in float32
BF16_TOLERANCE = 0.02


def paper_size() -> Setup:
    """OBD's size (arXiv 2410.22728, Section 5) with Hopper's dimensions, in float64."""
    return Setup.draw(observation_dim=11, width=256, pairs=256, steps=100, batch=2560)


def quick_start_size(runs: int = 1) -> Setup:
    """The size of the first command, in float64."""
    return Setup.draw(observation_dim=11, width=64, pairs=64, steps=50, batch=2560, runs=runs)


def engine(setup: Setup) -> MetaGradient:
    """The C++ engine, where it is built."""
    os.environ[native_engine.ENGINE] = "native"
    return setup.gradient()


def torch_engine(setup: Setup) -> MetaGradient:
    os.environ[native_engine.ENGINE] = "torch"
    return setup.gradient()


def bf16_adjoint(setup: Setup) -> MetaGradient:
    """The C++ engine in bf16 on the way back; float64 is its own reference."""
    narrow = setup.pairs.actions.dtype == torch.float32
    precision: native_engine.Precision = "bf16-adjoint" if narrow else "float32"
    return engine(replace(setup, loop=replace(setup.loop, precision=precision)))


@torch.no_grad()
def dedicated(setup: Setup) -> MetaGradient:
    """The engine's algorithm for one run, on 2-D tensors: sampled head, plain SGD, no skip."""
    loop, rate = setup.loop, setup.loop.learning_rate
    observations, actions = (tensor[0] for tensor in setup.pairs)
    weights, biases = [w[0] for w, _ in setup.initial], [b[0, 0] for _, b in setup.initial]
    assert setup.noise is not None and setup.outer.noise is not None
    noise, depth, scale = setup.noise[:, 0], loop.network.depth, 2 / actions.numel()

    tape = []
    for t in range(loop.steps):
        inputs, outputs = _forward(weights, biases, observations)
        action, error, slope, deviation, inner = _head(outputs, actions, noise[t])
        deltas = _backward(weights, inputs, torch.cat((inner, inner * deviation), 1))
        tape.append((weights, inputs, deltas, action, error, slope, deviation, inner))
        weights = [
            torch.addmm(w, d.T, x, alpha=-rate)
            for w, d, x in zip(weights, deltas, inputs, strict=True)
        ]
        biases = [torch.sub(b, d.sum(0), alpha=rate) for b, d in zip(biases, deltas, strict=True)]

    inputs, outputs = _forward(weights, biases, setup.outer.observations[0])
    _, error, _, deviation, inner = _head(outputs, setup.outer.actions[0], setup.outer.noise[0])
    deltas = _backward(weights, inputs, torch.cat((inner, inner * deviation), 1))
    in_weights = [d.T @ x for d, x in zip(deltas, inputs, strict=True)]
    in_biases = [d.sum(0) for d in deltas]
    in_observations, in_actions = torch.zeros_like(observations), torch.zeros_like(actions)
    for weights, inputs, deltas, action, inner_error, slope, deviation, inner in reversed(tape):
        tangents: list[Tensor] = []
        for layer in range(depth):
            tangent = torch.addmm(in_biases[layer], inputs[layer], in_weights[layer].T)
            if layer > 0:
                tangent.addmm_(tangents[-1], weights[layer].T)
            if layer + 1 < depth:
                _mask(tangent, inputs[layer + 1])
            tangents.append(tangent)
        mean, raw = tangents[-1].chunk(2, 1)
        action_tangent = slope * torch.addcmul(mean, raw, deviation) * scale
        curvature = torch.addcmul(slope, action, inner_error, value=-2)
        inner_tangent = action_tangent * curvature
        in_actions.add_(action_tangent, alpha=rate)
        below = torch.cat((inner_tangent, (inner_tangent + inner * raw) * deviation), 1)
        for layer in reversed(range(depth)):
            above = below
            below = (above @ weights[layer]).addmm_(deltas[layer], in_weights[layer])
            in_weights[layer].addmm_(above.T, inputs[layer], alpha=-rate)
            in_biases[layer].sub_(above.sum(0), alpha=rate)
            if layer > 0:
                in_weights[layer].addmm_(deltas[layer].T, tangents[layer - 1], alpha=-rate)
                _mask(below, inputs[layer])
        in_observations.sub_(below, alpha=rate)
    loss = error.square().mean()
    return MetaGradient(loss[None], in_observations[None], in_actions[None])


def _forward(
    weights: list[Tensor], biases: list[Tensor], observations: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Every layer's input, and the outputs."""
    inputs = [observations]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        inputs.append(torch.addmm(bias, inputs[-1], weight.T).relu_())
    return inputs, torch.addmm(biases[-1], inputs[-1], weights[-1].T)


def _head(
    outputs: Tensor, targets: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Action tanh(u), error, d action / du, du / d raw log std, and the loss's derivative in u."""
    mean, raw = outputs.chunk(2, 1)
    log_std = raw - 1
    clamped = log_std.clamp(-20, 2)
    deviation = clamped.exp() * noise
    action = (mean + deviation).tanh()
    error, slope = action - targets, 1 - action.square()
    inner = error * slope * (2 / targets.numel())
    return action, error, slope, deviation * (clamped == log_std), inner


def _backward(weights: list[Tensor], inputs: list[Tensor], delta: Tensor) -> list[Tensor]:
    """The loss's derivative in every layer's value before its ReLU."""
    deltas = [delta]
    for layer in reversed(range(1, len(weights))):
        deltas.append(_mask(deltas[-1] @ weights[layer], inputs[layer]))
    return deltas[::-1]


def _mask(gradient: Tensor, output: Tensor) -> Tensor:
    """Zeroes the gradient, in place, where the ReLU's output is zero."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(
        gradient, output, 0, grad_input=gradient
    )
    return masked


CANDIDATES: dict[str, Callable[[Setup], MetaGradient]] = {
    "engine": engine,
    "torch engine": torch_engine,
    "bf16 adjoint": bf16_adjoint,
    "unrolled autograd": unrolled,
    "published scheme": published,
    "dedicated": dedicated,
}


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:  # candidates set the engine
        patch.setenv(native_engine.ENGINE, "native")
        yield
    torch.set_num_threads(threads)


def time_ratios(
    slow: Callable[[], object], fast: Callable[[], object], rounds: int, calls: int = 1
) -> list[float]:
    """Time of `slow` over that of `fast`, round by round, the order turning every round."""
    ratios = []
    for index in range(rounds):
        order = (slow, fast) if index % 2 else (fast, slow)
        seconds = dict.fromkeys(order, 0.0)
        for candidate in order:
            start = time.perf_counter()
            for _ in range(calls):
                candidate()
            seconds[candidate] = time.perf_counter() - start
        ratios.append(seconds[slow] / seconds[fast])
    return ratios


def record(benchmark: Any, name: str, ratios: list[float]) -> None:
    benchmark.extra_info[f"{name}: median"] = round(statistics.median(ratios), 3)
    benchmark.extra_info[f"{name}: all"] = [round(ratio, 3) for ratio in ratios]


OTHERS = [name for name in CANDIDATES if name != "engine"]


@pytest.mark.benchmark(group="meta-gradient, paper size")
@pytest.mark.parametrize("other", OTHERS)
def test_at_the_papers_size(benchmark: Any, other: str) -> None:
    """Goals: 1.5 times as fast as unrolled autograd, and not slower than a version without runs."""
    compare(benchmark, other, paper_size, rounds=6)


@pytest.mark.benchmark(group="meta-gradient, quick-start size")
@pytest.mark.parametrize("other", OTHERS)
def test_at_the_quick_start_size(benchmark: Any, other: str) -> None:
    compare(benchmark, other, quick_start_size, rounds=40)


def compare(benchmark: Any, other: str, size: Callable[[], Setup], rounds: int) -> None:
    """Times the engine against another in float32, and holds it to it.

    Agreement to 1e-4 is asserted in float32 over the first 10 inner steps, and to 1e-9 in float64
    over all of them. In float32 alone, rounding pushes a few ReLUs over their kink on the way, and
    any two orders of summation part by up to some percent; `extra_info` says by how much.
    """
    rival = CANDIDATES[other]
    exact, setup = _same_noise(size()), _same_noise(size().to(torch.float32))
    assert_same(engine(exact), rival(exact), 1e-9)
    short = _first_steps(setup, 10)
    tolerance = BF16_TOLERANCE if other == "bf16 adjoint" else TOLERANCE
    assert_same(engine(short), rival(short), tolerance)

    found = benchmark.pedantic(engine, args=(setup,), rounds=3, warmup_rounds=1)
    ratios = time_ratios(lambda: rival(setup), lambda: engine(setup), rounds=rounds)
    record(benchmark, f"time of {other} / engine", ratios)
    expected = engine(exact)
    for name, gradient in (("engine", found), (other, rival(setup))):
        error = (gradient.actions - expected.actions).norm() / expected.actions.norm()
        benchmark.extra_info[f"error in float32, {name}"] = float(error)


def one_by_one(candidate: Callable[[Setup], MetaGradient], setups: list[Setup]) -> None:
    for setup in setups:
        candidate(setup)


@pytest.mark.benchmark(group="meta-gradient, runs packed")
def test_eight_runs_at_once(benchmark: Any) -> None:
    """What a run costs beside seven others, against one alone."""
    exact = quick_start_size(runs=8)
    together = exact.to(torch.float32)
    alone = [together.run(index) for index in range(8)]
    benchmark.pedantic(engine, args=(together,), rounds=10, warmup_rounds=2)
    for name, packed in (("C++ engine", engine), ("torch engine", torch_engine)):
        ratios = time_ratios(
            partial(one_by_one, packed, alone), partial(packed, together), rounds=10
        )
        record(benchmark, f"cost of a run alone / packed by 8, {name}", ratios)
    for name, rival in (("C++ engine", engine), ("bf16 adjoint", bf16_adjoint)):
        ratios = time_ratios(partial(torch_engine, together), partial(rival, together), rounds=10)
        record(benchmark, f"packed by 8: time of the torch engine / {name}", ratios)
    found = engine(exact)
    for index in range(8):
        part = MetaGradient(*(tensor[index : index + 1] for tensor in found))
        assert_same(part, engine(exact.run(index)), 1e-9)


@pytest.mark.benchmark(group="meta-gradient, arithmetic")
@pytest.mark.parametrize("size", [paper_size, quick_start_size])
def test_share_of_the_machines_matrix_product(benchmark: Any, size: Callable[[], Setup]) -> None:
    """GFLOP/s of both precisions next to those of plain products of the hidden layers' size.

    The roofline of the bf16 adjoint is float32 products in the students' training and the outer
    loss, and bf16 ones for the rest.
    """
    setup = size().to(torch.float32)
    width, pairs = setup.loop.network.sizes[1], setup.pairs.actions.shape[1]
    left, right, out = torch.randn(pairs, width), torch.randn(width, width), torch.empty(0)
    products = floating_point_operations(setup) // (2 * pairs * width * width)

    def plain_products() -> None:
        for _ in range(products):
            torch.mm(left, right, out=out)

    narrow_left, narrow_right = left.bfloat16(), right.bfloat16()
    narrow_out = torch.empty(0, dtype=torch.bfloat16)
    narrow = adjoint_operations(setup) // (2 * pairs * width * width)

    def products_of_both_precisions() -> None:
        for _ in range(products - narrow):
            torch.mm(left, right, out=out)
        for _ in range(narrow):
            torch.mm(narrow_left, narrow_right, out=narrow_out)

    plain_products()
    result = benchmark.pedantic(engine, args=(setup,), rounds=3, warmup_rounds=1)
    for name, roof, candidate in (
        ("C++ engine", plain_products, engine),
        ("torch engine", plain_products, torch_engine),
        ("bf16 adjoint", products_of_both_precisions, bf16_adjoint),
    ):
        ratios = time_ratios(roof, partial(candidate, setup), rounds=7)
        record(benchmark, f"share of the speed of plain products, {name}", ratios)
    seconds = benchmark.stats.stats.min
    benchmark.extra_info["GFLOP"] = floating_point_operations(setup) / 1e9
    benchmark.extra_info["GFLOP/s at best"] = floating_point_operations(setup) / 1e9 / seconds
    assert all(part.isfinite().all() for part in result)


def floating_point_operations(setup: Setup) -> int:
    """Of the matrix products in one gradient of one run."""
    layers = _products_of_layers(setup)
    outer, pairs = setup.outer.actions.shape[1], setup.pairs.actions.shape[1]
    # A layer takes 3 products in a forward and backward pass; the first has nothing below it,
    # which saves one of the 3.
    passes = 2 * (3 * sum(layers) - layers[0])
    return (outer + setup.loop.steps * pairs) * passes + adjoint_operations(setup)


def adjoint_operations(setup: Setup) -> int:
    """Of the products of the adjoint: 6 a layer and step, 4 of the first layer."""
    layers = _products_of_layers(setup)
    rows = setup.loop.steps * setup.pairs.actions.shape[1]
    return rows * 2 * (6 * sum(layers) - 2 * layers[0])


def _products_of_layers(setup: Setup) -> list[int]:
    network: Network = setup.loop.network
    return [a * b for a, b in zip(network.sizes, network.sizes[1:], strict=False)]


def _same_noise(setup: Setup) -> Setup:
    """The published scheme is the gradient where its backward pass sees the same noise."""
    return replace(setup, adjoint_noise=setup.noise)


def _first_steps(setup: Setup, steps: int) -> Setup:
    """The same problem with fewer inner steps."""
    noise, adjoint_noise = (
        None if drawn is None else drawn[:steps] for drawn in (setup.noise, setup.adjoint_noise)
    )
    loop = replace(setup.loop, steps=steps)
    return replace(setup, loop=loop, noise=noise, adjoint_noise=adjoint_noise)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.benchmark(group="meta-gradient, peak memory")
def test_peak_memory_is_no_higher_than_of_unrolled_autograd(benchmark: Any) -> None:
    others = ("torch engine", "bf16 adjoint", "unrolled autograd", "published scheme")
    used = {name: _peak_of_process(name) for name in others}
    used["engine"] = benchmark.pedantic(_peak_of_process, args=("engine",), rounds=1)
    benchmark.extra_info["MiB above import"] = {name: round(mib) for name, mib in used.items()}
    assert used["engine"] <= used["unrolled autograd"]


def _peak_of_process(candidate: str) -> float:
    """MiB that two gradients of the paper's size add to a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.test_meta_gradient_speed", candidate]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _peak_mib() -> float:
    """Of this process since its start.

    Not `getrusage`: its `ru_maxrss` starts at the peak of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def main(candidate: str) -> None:
    """Prints the peak memory, in MiB, of a candidate at the paper's size."""
    torch.set_num_threads(1)
    setup = paper_size().to(torch.float32)
    CANDIDATES[candidate](Setup.draw(dtype=torch.float32))  # what is loaded at a first call
    before = _peak_mib()
    for _ in range(2):
        CANDIDATES[candidate](setup)
    print(_peak_mib() - before)


if __name__ == "__main__":
    main(sys.argv[1])
