"""The meta-gradient in C++ (`baselines/native`): the same numbers, up to rounding, in less time.

The extension is built where the suite is installed next to torch and a C++ compiler, and left out
elsewhere: `baselines.meta_gradient` then computes everything in torch, which stays the reference.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.students.heads import LOG_STD_MAX, LOG_STD_MIN, LOG_STD_OFFSET

if TYPE_CHECKING:
    from baselines.meta_gradient import InnerLoop, OuterBatch, Pairs
    from benchmark.students.network import Parameters

Precision = Literal["float32", "bf16-adjoint"]
"""float32 is that of the tensors; "bf16-adjoint" keeps the values of the inner steps in bf16 and
multiplies them in bf16, with float32 sums, in the adjoint only: the students' own training, and
with it the outer loss, stays as in float32."""

_TENSORS = (
    "observations", "actions", "noise", "adjoint_noise",
    "outer_observations", "outer_actions", "outer_weights", "outer_noise",
    "loss", "observations_gradient", "actions_gradient",
)  # fmt: skip


class _Call(ctypes.Structure):
    """The arguments of one call, field by field as `Call` in meta_gradient.cpp.

    Fields that are not given are zero, and null where they are addresses.
    """

    _fields_ = (
        *[
            (name, ctypes.c_int64)
            for name in (
                "runs", "pairs", "steps", "batch", "depth", "action_dim",
                "skip_from", "skip_to", "noisy", "trained_scalars",
            )
        ],
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        *[
            (name, ctypes.c_double)
            for name in ("learning_rate", "momentum", "offset", "log_std_min", "log_std_max")
        ],
        ("initial", ctypes.POINTER(ctypes.c_void_p)),
        *[(name, ctypes.c_void_p) for name in _TENSORS],
        ("trained", ctypes.POINTER(ctypes.c_void_p)),
    )  # fmt: skip


X86 = ("x86_64", "AMD64")
ENGINE = "OBDBENCH_ENGINE"
"""Environment variable: "torch" leaves the extension aside, "native" (the default) takes it."""


def wanted() -> bool:
    """Whether the environment leaves the extension in use.

    Raises:
        ObdBenchError: The variable has another value than the two.
    """
    name = os.environ.get(ENGINE, "native")
    if name not in ("native", "torch"):
        raise ObdBenchError(f"{ENGINE} is {name!r}; expected 'native' or 'torch'.")
    return name == "native"


@cache
def library() -> ctypes.CDLL | None:
    """The built extension; None where there is none, or one for another torch or processor."""
    found = importlib.util.find_spec("baselines.native.engine")
    if found is None or found.origin is None:
        return None
    if platform.machine() in X86 and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return None  # it is built for AVX2
    try:
        loaded = ctypes.CDLL(found.origin)  # torch is imported: its libraries are found
    except OSError:  # a torch with other symbols
        return None
    loaded.last_failure.restype = loaded.built_for.restype = ctypes.c_char_p
    return loaded if torch.__version__.startswith(loaded.built_for().decode()) else None


def serves(tensor: Tensor) -> bool:
    """Whether the extension is here, is wanted, and takes tensors such as this one."""
    return (
        wanted()
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.float64)
        and type(tensor) is Tensor
        and library() is not None
    )


def name(device: str) -> str:
    """What computes meta-gradients on a torch device here: "native" or "torch"."""
    return "native" if serves(torch.empty(0, device="cpu")) and device == "cpu" else "torch"


def require_bf16(device: str) -> None:
    """Raise ObdBenchError where there are no bf16 products on a device."""
    loaded = library()
    if loaded is None or name(device) == "torch":
        raise ObdBenchError(
            f'precision is "bf16-adjoint", which only the C++ engine has: it runs on the CPU, and '
            f"is built where the suite is installed next to torch and a C++ compiler (here the "
            f"device is {device!r}, and the engine {'built' if loaded else 'not built'}). Use "
            f'precision = "float32".'
        )
    if not loaded.bf16_products():
        raise ObdBenchError(
            'precision is "bf16-adjoint", but this processor has no bf16 products (AMX). Use '
            'precision = "float32", or another machine.'
        )


def gradient(
    loop: InnerLoop,
    initial: Parameters,
    pairs: Pairs,
    outer: OuterBatch,
    noise: Tensor | None,
    adjoint_noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The parts of `InnerLoop.gradient` of the same arguments; `serves` holds for all of them."""
    runs, size, action_dim = pairs.actions.shape
    batch, noisy = outer.actions.shape[1], loop.head.noisy
    if noisy and outer.noise is None:
        raise ValueError("a noisy head needs noise for the outer batch")
    drawn = (runs, batch, action_dim)
    found = (
        pairs.actions.new_empty(runs),
        torch.empty(pairs.observations.shape, dtype=pairs.actions.dtype),
        torch.empty(pairs.actions.shape, dtype=pairs.actions.dtype),
    )
    wanted = {
        "adjoint_noise": (adjoint_noise if noisy else None, (loop.steps, runs, size, action_dim)),
        "outer_observations": (outer.observations, (runs, batch, loop.network.sizes[0])),
        "outer_actions": (outer.actions, drawn),
        "outer_weights": (outer.weights, (runs, batch)),
        "outer_noise": (outer.noise if noisy else None, drawn),
        "loss": (found[0], (runs,)),
        "observations_gradient": (found[1], pairs.observations.shape),
        "actions_gradient": (found[2], pairs.actions.shape),
    }
    _run(loop, loop.precision, initial, pairs, noise, batch, wanted)
    return found


def train(loop: InnerLoop, initial: Parameters, pairs: Pairs, noise: Tensor | None) -> Parameters:
    """`InnerLoop.train` of the same arguments; `serves` holds for all of them."""
    trained = [(torch.empty_like(weight), torch.empty_like(bias)) for weight, bias in initial]
    _run(loop, "float32", initial, pairs, noise, 0, {}, trained)
    return trained


def _run(
    loop: InnerLoop,
    precision: Precision,
    initial: Parameters,
    pairs: Pairs,
    noise: Tensor | None,
    batch: int,
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]],
    trained: Parameters | None = None,
) -> None:
    """Call the extension; `wanted` are fields of the call with the shapes that they must have."""
    network, noisy = loop.network, loop.head.noisy
    runs, size, action_dim = pairs.actions.shape
    dtype = pairs.actions.dtype
    if noisy and noise is None:
        raise ValueError("a noisy head needs noise for the inner steps")
    wanted = wanted | {
        "observations": (pairs.observations, (runs, size, network.sizes[0])),
        "actions": (pairs.actions, (runs, size, action_dim)),
        "noise": (noise if noisy else None, (loop.steps, runs, size, action_dim)),
    }
    held: list[Tensor] = []  # what the addresses below belong to

    def address(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> int | None:
        if tensor is None:
            return None
        if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
            raise ValueError(
                f"{name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; expected "
                f"{dtype} {list(shape)} on the CPU"
            )
        held.append(tensor.contiguous())
        return held[-1].data_ptr()

    def addresses(parameters: Parameters) -> Any:
        found = [
            address(f"a parameter of layer {index}", tensor, (runs, *expected))
            for index, ((fan_in, fan_out), layer) in enumerate(
                zip(network.layer_sizes, parameters, strict=True)
            )
            for tensor, expected in zip(layer, ((fan_out, fan_in), (1, fan_out)), strict=True)
        ]
        return (ctypes.c_void_p * len(found))(*found)

    skip = network.skip or (0, 0)
    call = _Call(
        runs=runs, pairs=size, steps=loop.steps, batch=batch, depth=network.depth,
        action_dim=action_dim, skip_from=skip[0], skip_to=skip[1],
        noisy=noisy, trained_scalars=network.scalars,
        sizes=(ctypes.c_int64 * len(network.sizes))(*network.sizes),
        learning_rate=loop.learning_rate, momentum=loop.momentum,
        offset=0.0 if network.scalars else LOG_STD_OFFSET,
        log_std_min=LOG_STD_MIN, log_std_max=LOG_STD_MAX,
        initial=addresses(initial),
        **{name: address(name, *given) for name, given in wanted.items()},
    )  # fmt: skip
    if trained is not None:
        call.trained = addresses(trained)
    loaded = library()
    assert loaded is not None, "`serves` holds"
    if precision == "bf16-adjoint":
        failed = loaded.inner_loop_bf16_adjoint(ctypes.byref(call))
    elif dtype == torch.float64:
        failed = loaded.inner_loop_float64(ctypes.byref(call))
    else:
        failed = loaded.inner_loop_float32(ctypes.byref(call))
    if failed:
        raise RuntimeError(f"the C++ engine failed: {loaded.last_failure().decode()}")
