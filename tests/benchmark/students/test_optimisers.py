"""Optimisers of students next to torch's: the same numbers to the last bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmark.students.spec import StudentSpec

SPECS = {
    "sgd": StudentSpec(optimizer="sgd", momentum=0.0),
    "sgd with momentum": StudentSpec(optimizer="sgd", momentum=0.9),
    "adam": StudentSpec(optimizer="adam", adam_epsilon=1e-5),
    "adam under the likelihood": StudentSpec(optimizer="adam", head="gaussian"),
    "adamw": StudentSpec(optimizer="adamw", weight_decay=0.1),
    "adamw without decay": StudentSpec(optimizer="adamw", weight_decay=0.0),
}


def torch_optimiser(spec: StudentSpec, tensors: Sequence[Tensor]) -> torch.optim.Optimizer:
    if spec.optimizer == "sgd":
        return torch.optim.SGD(tensors, spec.learning_rate, momentum=spec.momentum)
    if spec.optimizer == "adam":
        fused = spec.head == "gaussian"
        return torch.optim.Adam(tensors, spec.learning_rate, eps=spec.adam_epsilon, fused=fused)
    return torch.optim.AdamW(
        tensors, spec.learning_rate, eps=spec.adam_epsilon, weight_decay=spec.weight_decay
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_steps_are_torchs_to_the_last_bit(spec: StudentSpec, dtype: torch.dtype) -> None:
    """A hundred steps under a falling rate, on gradients of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 3), (2, 1, 5), (2, 1, 1)]
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    others = [tensor.clone() for tensor in tensors]
    spec = replace(spec, schedule="linear")
    mine, theirs = spec.optimiser(tensors), torch_optimiser(spec, others)
    for step in range(100):
        gradients = [
            torch.randn(shape, generator=generator, dtype=dtype) * 10.0 ** (step % 7 - 5)
            for shape in shapes
        ]
        mine.step(gradients, spec.rate(step, 100))
        for other, gradient in zip(others, gradients, strict=True):
            other.grad = gradient.clone()
        theirs.param_groups[0]["lr"] = spec.rate(step, 100)
        theirs.step()
        assert all(map(torch.equal, tensors, others)), step


def test_training_a_student_does_not_import_torchs_compiler() -> None:
    """The import took one and a half of a worker's processor seconds."""
    code = (
        "import sys, torch\n"
        "from benchmark.students.spec import StudentSpec\n"
        "optimiser = StudentSpec(optimizer='adam').optimiser([torch.zeros(1)])\n"
        "optimiser.step([torch.ones(1)], 0.1)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
