"""What `python -m tests.benchmarks.cuda` will do on a GPU, at a tiny size and without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from baselines import outer_loop
from baselines.native_engine import ENGINE
from benchmark.students.network import Network
from tests.baselines.pretended_cuda import pretend
from tests.benchmarks import cuda

TINIEST = dataclasses.replace(cuda.TINY, steps=2)


def test_without_a_gpu_it_says_so_and_measures_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.main([]) == 1
    assert capsys.readouterr().out == "no CUDA device: nothing was verified or measured\n"


def test_on_a_pretended_gpu_nothing_differs_and_every_row_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = pretend(monkeypatch)
    honest = outer_loop.checked_device
    monkeypatch.setattr(
        outer_loop, "checked_device", lambda name: device if name == "cuda" else honest(name)
    )
    monkeypatch.setattr("benchmark.provenance.checked_device", lambda name: device)
    assert cuda.report(cast(torch.device, device), [TINIEST], [2], 1) == 0
    printed = capsys.readouterr().out
    assert "a pretended device" in printed and "\n0 differ\n" in printed
    for precision in ("cuda", "cuda+tf32"):
        assert f"| tiny, sampled: gradient, torch.float32, 2 inner steps, {precision} |" in printed
        assert f"| tiny | {precision} | 2 |" in printed


def test_a_wrong_gradient_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's own float32 is wrong by one part in a hundred, its float64 right."""
    monkeypatch.setenv(ENGINE, "torch")
    honest = Network.backward

    def wrong(self, parameters, levels, gradient):  # type: ignore[no-untyped-def]
        return honest(self, parameters, levels, gradient * (1.01 if _single(gradient) else 1))

    def _single(tensor: torch.Tensor) -> bool:
        return tensor.dtype == torch.float32

    monkeypatch.setattr(Network, "backward", wrong)
    found = [f for _, f, allowed in cuda.differences([TINIEST], torch.device("cpu")) if f > allowed]
    assert len(found) == 3


def test_a_compiler_serves_both_of_the_heads_functions_and_is_taken_away_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A compiler that gives a tenth too much is seen in the error; afterwards nothing is left."""
    monkeypatch.setenv(ENGINE, "torch")
    given = []

    def compiler(function: Callable[..., Any]) -> Callable[..., Any]:
        given.append(function.__name__)
        return lambda *arguments: cuda.each_tensor(lambda t: 1.1 * t, function(*arguments))

    gain, error = cuda.fused(TINIEST, 2, torch.device("cpu"), 1, compiler)
    assert gain > 0 and error > 0.01
    assert given == ["bc_loss_gradient", "bc_loss_tangent"]
    assert cuda.fused(TINIEST, 1, torch.device("cpu"), 1, lambda function: function)[1] == 0


def test_kernels_are_counted_without_views() -> None:
    """Two tensors and their product; what turns and cuts one of them is free."""
    with cuda.Kernels() as mode:
        torch.ones(2, 3).mT.unsqueeze(0).select(0, 0) @ torch.ones(2, 3)
    assert mode.count == 3
