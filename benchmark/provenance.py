"""The origin of a number: code, packages, machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import ObdBenchError
from benchmark.processor import processor

PACKAGES = (
    "obdbench", "torch", "gymnasium", "mujoco", "minari", "numpy", "scipy", "safetensors", "zuko",
)  # fmt: skip
TF32 = "+tf32"
"""Ending of a CUDA device's name that lets it round the factors of a product to 10 bits."""


def provenance(device: str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Describe this process: commit, package versions, Python, device, host and threads.

    Args:
        device: A device, e.g. "cpu", "cuda:0" or "cuda+tf32".
        packages: Packages to name besides those of every run: its simulator's.
    """
    return {
        **code(),
        "packages": {name: _version(name) for name in (*PACKAGES, *packages)},
        "python": platform.python_version(),
        "device": _device_name(device),
        "host": platform.node(),
        "threads": torch.get_num_threads(),
    }


def code() -> dict[str, Any]:
    """The commit that this process runs, and whether files were changed since (`dirty`)."""
    commit, dirty = _commit()
    return {"commit": commit, "dirty": dirty}


def either_dirty(*states: bool | None) -> bool | None:
    """Whether any of several codes had uncommitted changes; None where that is unknown."""
    return True if True in states else None if None in states else False


def makings(origin: Mapping[str, Any]) -> dict[str, str]:
    """What the bits of a distillation depend on besides its inputs, in words by name.

    Processors of two names round in other orders; the number of a device says nothing.

    Args:
        origin: The fields of a provenance.
    """
    words = {name: str(origin[name]) for name in ("python", "threads", "engine") if name in origin}
    kind, _, name = origin["device"].partition(" ")
    return words | dict(origin["packages"]) | {"device": f"{kind_of(kind)} {name}".strip()}


def checked_device(name: str) -> torch.device:
    """Look up a device: the CPU, or a CUDA device of this machine, its precision left out.

    Raises:
        ObdBenchError: The name is that of neither.
    """
    try:
        device = torch.device(name.removesuffix(TF32))
    except RuntimeError as error:
        raise ObdBenchError(f"{name!r} is not a torch device; expected 'cpu' or 'cuda'.") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and name.endswith(TF32)):
        raise ObdBenchError(
            f"The device {name!r} is not supported; expected 'cpu' or 'cuda', or 'cuda{TF32}'."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ObdBenchError(
            f"The device {name!r} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here. Use 'cpu', or install a CUDA build."
        )
    return device


def kind_of(device: str) -> str:
    """The device without its number and what follows: "cuda" of "cuda:1 (NVIDIA H200)"."""
    return re.sub(r":\d+", "", device.split(" ")[0])


@contextlib.contextmanager
def products_of(device: str) -> Iterator[None]:
    """Let CUDA products have the precision that the device's name says while this is open.

    Nothing else decides it: neither torch's own setting nor its environment variable.
    """
    matmul = torch.backends.cuda.matmul
    # torch < 2.9 has only the second; where the first was used, reading the second raises.
    newer = hasattr(matmul, "fp32_precision")
    name, values = ("fp32_precision", ("ieee", "tf32")) if newer else ("allow_tf32", (False, True))
    before = getattr(matmul, name)
    setattr(matmul, name, values[device.endswith(TF32)])
    try:
        yield
    finally:
        setattr(matmul, name, before)


@cache
def _commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout that the suite runs from, and whether files were changed since.

    Both are None where there is no checkout.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None  # no git here, or no commit yet: the record says so


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(root), *arguments],  # a lock outlives a kill
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
    )
    return done.stdout.strip()


@cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(checked_device(device))})"
    return f"{device} ({processor()})"
