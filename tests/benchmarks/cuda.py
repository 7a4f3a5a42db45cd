"""What a GPU does with outer steps: verified against the CPU, then measured.

    python -m tests.benchmarks.cuda > gpu.md        # a few minutes on a GPU; exit status 1 without
    python -m tests.benchmarks.cuda --device cpu --tiny

First every head's gradient and three whole outer steps in float64 and float32, held to the CPU's;
the exit status is 1 where they differ. Then, per size and number of runs R, a gradient and a whole
outer step (draws, copies and update included), next to R runs one by one and to unrolled autograd.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from baselines import meta_gradient
from baselines.cuda_step import captured, cores, each_tensor, tensors
from baselines.meta_gradient import InnerLoop
from baselines.obd import DBC
from baselines.outer_loop import OuterRun, advance
from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.method import Problem
from benchmark.processor import processor
from benchmark.provenance import TF32, products_of
from benchmark.scaling import Scaling
from benchmark.students.spec import StudentSpec
from tests.baselines.test_meta_gradient import Setup, unrolled
from tests.baselines.toy import Recorder

OBSERVATION_DIM, ACTION_DIM, STATES = 11, 3, 20_000
RUN_STEPS, TABLE_STEPS = 50_000, 15.3e6
"""Outer steps of a run of OBD on Hopper, and of all runs of its Table 1."""
EXACT, ROUNDED = 1e-9, 1e-3
"""Relative differences that are allowed: float64 over all inner steps, float32 over the first ten.

Over all steps float32 pushes ReLUs over their kink, on a CPU too: shown, not judged."""
VIEWS = {"aten::transpose", "aten::t", "aten::select", "aten::split", "aten::unbind",
         "aten::narrow", "aten::view", "aten::unsqueeze", "aten::slice", "aten::detach",
         "aten::_unsafe_view", "aten::expand"}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A student and the sizes of its outer step."""

    name: str
    width: int
    pairs: int
    steps: int
    batch: int

    def setup(self, runs: int = 1, head: str = "sampled") -> Setup:
        """A gradient of this size, in float64 on the CPU."""
        return Setup.draw(
            observation_dim=OBSERVATION_DIM, width=self.width, pairs=self.pairs, steps=self.steps,
            batch=self.batch, runs=runs, head=head,
        )  # fmt: skip

    def runs(self, count: int, outer_steps: int, device: str) -> list[OuterRun]:
        """Runs of DBC on invented data; their monitors keep nothing but the last state."""
        method = DBC(synthetic_size=self.pairs, outer_batch=self.batch, outer_steps=outer_steps)
        student = StudentSpec(width=self.width, steps=self.steps)
        return [
            method.outer_run(invented(student, seed, device), Last(outer_steps))
            for seed in range(count)
        ]


PAPER = Size("paper", width=256, pairs=256, steps=100, batch=2560)
QUICK = Size("quick start", width=64, pairs=64, steps=50, batch=2560)
TINY = Size("tiny", width=8, pairs=8, steps=4, batch=16)


class Last(Recorder):
    """A monitor that keeps the last state, and asks for no score."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def due(self, step: int) -> bool:
        return False

    def save(self, step: int, state: Any) -> None:
        if step == self.step:
            super().save(step, state)


@cache
def invented_data() -> Dataset:
    """Invented transitions of Hopper's dimensions."""
    rng = np.random.default_rng(0)
    return Dataset(
        name="invented",
        env_id="Invented-v0",
        states=rng.normal(size=(STATES + 1, OBSERVATION_DIM)).astype(np.float32),
        actions=rng.uniform(-1, 1, (STATES, ACTION_DIM)).astype(np.float32),
        rewards=np.zeros(STATES, np.float32),
        terminations=np.zeros(STATES, bool),
        truncations=np.arange(STATES) == STATES - 1,
        lengths=np.array([STATES]),
        reference=ReferenceReturns(0.0, 1.0),
    )


def invented(student: StudentSpec, seed: int, device: str) -> Problem:
    """A problem on these transitions."""
    zero, one = torch.zeros, torch.ones
    scaling = Scaling(
        zero(OBSERVATION_DIM), one(OBSERVATION_DIM), zero(ACTION_DIM), one(ACTION_DIM)
    )
    return Problem(
        needs=DBC.needs,
        student=student,
        scaling=scaling,
        axes={"run": f"seed{seed}"},
        loaders={"dataset": invented_data},
        device=device,
    )


class Kernels(TorchDispatchMode):
    """Counts the operations that are a kernel each on a GPU: all but views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.count += func._schema.name not in VIEWS
        return func(*args, **(kwargs or {}))


def kernels(size: Size) -> int:
    """Kernels of one gradient, counted on the CPU at the smallest width."""
    setup = dataclasses.replace(size, width=4, pairs=4, batch=8).setup()
    with Kernels() as mode:
        setup.loop._gradient(setup.initial, setup.pairs, setup.outer, setup.noise, None)
    return mode.count


# --- verification -------------------------------------------------------------------------------


def differences(sizes: Sequence[Size], device: torch.device) -> Iterator[tuple[str, float, float]]:
    """What was compared, its relative difference to the CPU in float64, and what is allowed."""
    for size in sizes:
        first = dataclasses.replace(size, steps=min(10, size.steps))
        for head in ("mean", "sampled", "sampled_trained"):
            for steps, kind, allowed in (
                (size, torch.float64, EXACT),
                (first, torch.float32, ROUNDED),
                (size, torch.float32, math.inf),
            ):
                setup = steps.setup(runs=2, head=head)
                wanted = setup.gradient()
                name = f"{size.name}, {head}: gradient, {kind}, {steps.steps} inner steps"
                for precision in precisions(device) if kind == torch.float32 else ["cpu"]:
                    with products_of(precision):
                        found = gradient_on(setup.to(kind), device)
                    limit = math.inf if precision.endswith(TF32) else allowed
                    yield f"{name}, {precision}", relative(found[1:], wanted[1:]), limit
        expected, found = first.runs(2, 3, "cpu"), first.runs(2, 3, str(device))
        advance(expected)
        advance(found)
        for here, there in zip(expected, found, strict=True):
            start = here.settings.outer_run(here.problem, Last(0))
            moved = [
                [run.observations.cpu() - start.observations, run.actions.cpu() - start.actions]
                for run in (there, here)
            ]
            name = f"{size.name}: three outer steps, float32, {first.steps} inner steps"
            yield name, relative(*moved), ROUNDED


def precisions(device: torch.device) -> list[str]:
    """Names of the device with each precision of its products."""
    return ["cpu"] if device.type == "cpu" else ["cuda", f"cuda{TF32}"]


def gradient_on(setup: Setup, device: torch.device) -> Any:
    """The gradient of the device, back on the CPU."""
    moved = setup._each(lambda tensor, _: tensor.to(device))
    return each_tensor(Tensor.cpu, moved.gradient())


def relative(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Norm of the difference over that of what is expected, of several tensors together."""
    one, other = (torch.cat([t.double().flatten() for t in part]) for part in (found, expected))
    return float((one - other).norm() / other.norm())


# --- measurement --------------------------------------------------------------------------------


def seconds(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds of one of several calls, after one that is not timed."""
    call()
    wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - began) / calls


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of_gradient(size: Size, runs: int, device: torch.device, calls: int) -> float:
    """Seconds of a gradient of R runs in float32, replayed from a graph."""
    setup = size.setup(runs).to(torch.float32)
    arguments = (setup.initial, setup.pairs, setup.outer, setup.noise)
    loop: InnerLoop = setup.loop
    replay = captured(lambda given: loop.gradient(*given).loss, (), device)
    moved = each_tensor(lambda tensor: tensor.to(device), arguments)
    return seconds(lambda: replay(moved), calls, device)


def fused(
    size: Size, runs: int, device: torch.device, calls: int, compiler: Callable[[Any], Any]
) -> tuple[float, float]:
    """What compiling the heads' elementwise operations gains: a ratio of times, and the error.

    Both functions of `benchmark.students.heads` are compiled, 25 operations of an inner step. The
    error is relative to the gradient without it.
    """
    setup = size.setup(runs).to(torch.float32)
    plain, before = gradient_on(setup, device), seconds_of_gradient(size, runs, device, calls)
    names = ("bc_loss_gradient", "bc_loss_tangent")
    honest = [getattr(meta_gradient, name) for name in names]
    try:
        for name, function in zip(names, honest, strict=True):
            setattr(meta_gradient, name, compiler(function))
        found, after = gradient_on(setup, device), seconds_of_gradient(size, runs, device, calls)
    finally:
        for name, function in zip(names, honest, strict=True):
            setattr(meta_gradient, name, function)
    return before / after, relative(found[1:], plain[1:])


def seconds_of_step(size: Size, runs: int, device: torch.device, steps: int) -> float:
    """Seconds of a whole outer step of R runs: that of more steps less that of fewer."""

    def took(count: int) -> float:
        made = size.runs(runs, count, str(device))
        wait(device)
        began = time.perf_counter()
        advance(made)
        wait(device)
        return time.perf_counter() - began

    took(2)  # what is loaded at a first call
    return (took(2 + steps) - took(2)) / steps


def seconds_of_autograd(size: Size, device: torch.device) -> float:
    """Seconds of a gradient of one run by unrolled autograd."""
    setup = size.setup().to(torch.float32)._each(lambda tensor, _: tensor.to(device))
    return seconds(lambda: unrolled(setup), 2, device)


HEADER = (
    "| size | precision | R | gradient, ms | outer step, ms | a run's step, ms | R separate runs / "
    "pack | unrolled autograd / gradient | runs per GPU-hour | hours of Table 1 |\n" + "|---" * 10
    + "|"
)  # fmt: skip


def rows(size: Size, counts: Sequence[int], device: torch.device, steps: int) -> Iterator[str]:
    """A row of the table per precision and number of runs."""
    autograd = seconds_of_autograd(size, device)
    for precision in precisions(device):
        with products_of(precision):
            alone = seconds_of_step(size, 1, device, steps)
            for runs in counts:
                gradient = seconds_of_gradient(size, runs, device, steps)
                step = alone if runs == 1 else seconds_of_step(size, runs, device, steps)
                each = step / runs
                hours = f"{TABLE_STEPS * each / 3600:,.1f}" if size is PAPER else "-"
                yield (
                    f"| {size.name} | {precision} | {runs} | {1e3 * gradient:.2f} | "
                    f"{1e3 * step:.2f} | {1e3 * each:.3f} | {alone / each:.2f} | "
                    f"{autograd * runs / gradient:.2f} | {3600 / (RUN_STEPS * each):.2f} | "
                    f"{hours} |"
                )


def memory(size: Size, device: torch.device) -> str:
    """A sentence: memory of a gradient as counted and, on a GPU, as it was."""
    setup = size.setup().to(torch.float32)
    arguments = (setup.initial, setup.pairs, setup.outer, setup.noise)
    counted = setup.loop.stored_bytes(*arguments) + sum(t.nbytes for t in tensors(arguments))
    if device.type != "cuda":
        return f"{size.name}: {counted / 1e6:,.1f} MB a run by count"
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    gradient_on(setup, device)
    peak = torch.cuda.max_memory_allocated(device) - before
    return f"{size.name}: {counted / 1e6:,.1f} MB a run by count, {peak / 1e6:,.1f} MB at its peak"


def report(device: torch.device, sizes: Sequence[Size], counts: Sequence[int], steps: int) -> int:
    """Print what was verified and measured; give the number of comparisons that differ."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{name}, torch {torch.__version__}, {cores()} cores for draws\n")
    print("| compared with the CPU in float64 | relative difference | allowed |\n|---|---|---|")
    wrong = 0
    for what, found, allowed in differences(sizes, device):
        wrong += not found <= allowed
        verdict = "" if found <= allowed else " **differs**"
        print(f"| {what} | {found:.1e}{verdict} | {'-' if allowed == math.inf else allowed} |")
    print(f"\n{wrong} differ\n")
    for size in sizes:
        print(f"{memory(size, device)}; {kernels(size):,} kernels a gradient, whatever R")
    print(f"\n{HEADER}")
    for size in sizes:
        for row in rows(size, counts, device, steps):
            print(row, flush=True)
    if device.type == "cuda" and find_spec("triton"):
        for size in sizes:
            gain, error = fused(size, counts[-1], device, steps, torch.compile)
            print(f"{size.name}: compiled heads, R = {counts[-1]}: {gain:.2f} times, {error:.1e}")
    return wrong


def main(words: Sequence[str] | None = None) -> int:
    """Verify and measure; the exit status is 1 where a number differs, or there is no GPU."""
    parser = argparse.ArgumentParser(description="What a GPU does with outer steps.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--tiny", action="store_true", help="a size that takes seconds on a CPU")
    parser.add_argument("--runs", type=int, nargs="+", help="numbers of runs, 1 to 128 by default")
    options = parser.parse_args(words)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was verified or measured")
        return 1
    counts = options.runs or ([1, 2] if options.tiny else [1, 8, 32, 64, 128])
    sizes, steps = ([TINY], 2) if options.tiny else ([QUICK, PAPER], 10)
    return int(report(device, sizes, counts, steps) > 0)


if __name__ == "__main__":
    sys.exit(main())
