"""Saved state of long work: tensors and plain facts in one safetensors file, never pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.files import atomic_path


def save_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts in one piece; a crash leaves the previous state.

    Tensors may share memory, which safetensors by itself refuses: each is written whole.
    """
    with atomic_path(path) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            temporary,
            metadata={"facts": json.dumps(facts)},
        )


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote: the tensors and the facts.

    Raises:
        ObdBenchError: The file is not a saved state.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, RuntimeError, SafetensorError, KeyError, ValueError) as error:
        raise ObdBenchError(
            f"The saved state {path} cannot be read ({error}). Remove it to start that work anew."
        ) from error
