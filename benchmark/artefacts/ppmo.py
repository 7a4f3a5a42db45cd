"""The sets that the authors of PPMO published (arXiv 2508.09283).

Each file holds 64 states, the mean actions and the log standard deviations that a fresh actor is
trained on, by one step of SGD at a learned rate. The states are in the units of running observation
statistics, which were not published: without them the set cannot be scored as its authors did.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.artefacts.artefact import Artefact, ArtefactProblem, Found, clone_files
from benchmark.torch_files import TorchFile, shown

PAPER = "Distilling RL into Single-Batch Datasets, ECAI 2025, arXiv 2508.09283"
DIMENSIONS = {"hopper": (11, 3), "walker2d": (17, 6)}
"""Numbers in an observation and an action of each environment."""
_NAME = re.compile(r"(?:.*/)?ppmo_(\w+)\.ckpt")
_FORMAT = TorchFile(ArtefactProblem, "'distiller'", "Copy it from the authors' repository again.")
SETTINGS = {
    "hidden_layers": [64, 64],
    "activation": "tanh",
    "inner_steps": 1,
    "inner_optimizer": "SGD",
    "inner_loss": "MSE of the mean action plus MSE of the log standard deviation",
    "observation_clip": 10,
}
"""Settings of the actor and of its training in the authors' code; the files do not hold them."""


def find_ppmo(folder: Path) -> Found:
    """Read and check every set of a clone; nothing is run or stored.

    Raises:
        ArtefactProblem: There is none, or one is damaged, hostile or of other dimensions.
    """
    found = Found()
    for path, name in clone_files(folder, "**/*.ckpt", "ppmo_ENVIRONMENT.ckpt"):
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in DIMENSIONS:
            found.left_out["files of other names than ppmo_hopper and ppmo_walker2d"].append(name)
            continue
        found.artefacts.append(_artefact(path, name, match[1]))
    names = [artefact.name for artefact in found.artefacts]
    if len(set(names)) < len(names):
        raise ArtefactProblem(f"{folder} has a set twice: {', '.join(names)}. Name one folder.")
    found.notes.append(
        "The observation statistics that these sets need were not published with them."
    )
    return found


def _artefact(path: Path, name: str, environment: str) -> Artefact:
    content, sha256 = _FORMAT.read(path)
    state = content.get("distiller")
    if not isinstance(state, dict) or state.keys() != {"x", "y_mean", "y_logstd", "inner_lr"}:
        keys = shown(list(state if isinstance(state, dict) else content))
        raise ArtefactProblem(
            f"{path} has {keys}, expected 'distiller' with 'x', 'y_mean', 'y_logstd' and "
            f"'inner_lr': a file of another version. Copy it from the authors' repository again."
        )
    inputs, outputs = DIMENSIONS[environment]
    pairs = len(state["x"]) if isinstance(state["x"], Tensor) and state["x"].dim() == 2 else 0
    tensors = {
        new: _tensor(path, old, state[old], shape)
        for new, old, shape in (
            ("observations", "x", (pairs, inputs)),
            ("actions", "y_mean", (pairs, outputs)),
            ("log_std", "y_logstd", (1, outputs)),
            ("inner_learning_rate", "inner_lr", ()),
        )
    }
    card: dict[str, Any] = {
        "kind": "set",
        "paper": PAPER,
        "file": name,
        "file_sha256": sha256,
        "environment": f"mujoco/{environment}",
        "observation_dim": inputs,
        "action_dim": outputs,
        "labels": "evolved",
        "pairs": pairs,
        "normalization": {"kind": "running", "statistics": "not published"},
        "published": None,
        "settings": {**SETTINGS, "inner_learning_rate": float(tensors["inner_learning_rate"])},
    }
    return Artefact(f"ppmo/{environment}", card, tensors)


def _tensor(path: Path, key: str, value: object, shape: tuple[int, ...]) -> Tensor:
    """A copy of a tensor of this shape, its numbers float32 and finite."""
    if not (
        isinstance(value, Tensor)
        and tuple(value.shape) == shape
        and value.numel()
        and value.dtype == torch.float32
        and value.is_contiguous()
        and bool(value.isfinite().all())
    ):
        found = f"a {type(value).__name__}"
        if isinstance(value, Tensor):
            found = f"of shape {list(value.shape)}, {value.dtype}"
        raise ArtefactProblem(
            f"{path}: {key!r} is {found}; expected finite torch.float32 numbers of shape "
            f"{list(shape)}: a set for another environment, or a damaged one. Nothing was imported."
        )
    return value.detach().clone()
