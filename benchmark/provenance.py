"""The origin of a number: code, packages, machine."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import ObdBenchError

PACKAGES = (
    "obdbench", "torch", "gymnasium", "mujoco", "minari", "numpy", "scipy", "safetensors", "zuko",
)  # fmt: skip


def provenance(device: str) -> dict[str, Any]:
    """Describe this process: commit, package versions, Python, device, host and threads.

    Args:
        device: A torch device, e.g. "cpu" or "cuda:0".
    """
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": _device_name(device),
        "host": platform.node(),
        "threads": torch.get_num_threads(),
    }


def checked_device(name: str) -> torch.device:
    """Look up a device: the CPU, or a CUDA device of this machine.

    Raises:
        ObdBenchError: The name is that of neither.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ObdBenchError(f"{name!r} is not a torch device; expected 'cpu' or 'cuda'.") from error
    if device.type not in ("cpu", "cuda"):
        raise ObdBenchError(f"The device {name!r} is not supported; expected 'cpu' or 'cuda'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ObdBenchError(
            f"The device {name!r} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here. Use 'cpu', or install a CUDA build."
        )
    return device


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
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
    )
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()})"
