"""Saved state of long work: tensors and plain facts in one safetensors file, never pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.files import atomic_path


def save_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts in one piece; a crash leaves the previous state.

    Tensors may share memory, which safetensors by itself refuses: each is written whole.
    """
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata={"facts": text, "sha256": content_sha256(whole, text)})


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote: the tensors and the facts.

    Raises:
        ObdBenchError: The file is not a saved state, or was altered: going on from it would give
            other numbers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text, said = (file.metadata()[key] for key in ("facts", "sha256"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if content_sha256(tensors, text) != said:
            raise ValueError("its content has another sha256 than it says")
        return tensors, json.loads(text)
    except (OSError, RuntimeError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise ObdBenchError(
            f"The saved state {path} cannot be read ({error}). Remove it to start that work anew."
        ) from error


def content_sha256(tensors: Mapping[str, Tensor], facts: str) -> str:
    """The sha256 of the facts and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
