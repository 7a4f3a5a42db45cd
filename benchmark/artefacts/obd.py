"""What the authors of OBD and of stepwise dual ranking (SDR) published: teachers and densities.

The repository of OBD (arXiv 2410.22728) holds a Cal-QL checkpoint per dataset, that of SDR the same
ones and log state densities, per dataset an array of one number per transition.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from benchmark.artefacts.artefact import (
    Artefact,
    ArtefactProblem,
    Found,
    clone_files,
    read_array,
)
from benchmark.datasets.d4rl_facts import statistics_names
from benchmark.density.density import finite_log_density
from benchmark.files import file_sha256

_TEACHER = re.compile(r"(?:.*/)?Cal-QL-([a-z0-9-]+)(?:\.pt|/checkpoint\.pt)")
_DENSITY = re.compile(r"(?:.*/)?log_density_maf_([a-z0-9-]+)\.npy")
SDR_PAPER = "stepwise dual ranking; the densities of State Diversity Matters, arXiv 2512.06692"
FLOW = {
    "density": "masked autoregressive flow",
    "made_blocks": 5,
    "hidden_units": 100,
    "hidden_layers": 1,
    "activation": "relu",
    "batch_norm": True,
    "optimizer": "Adam 1e-4, weight decay 1e-6, batch 100, 50 epochs",
}
"""Settings of the flow: the defaults of the authors' code; the files do not hold them."""


def find_teachers(folder: Path) -> tuple[dict[str, Path], Found]:
    """Checkpoints of a clone of OBD's repository by D4RL dataset, such as "hopper-medium-v2".

    The files are not read here; see `benchmark.teachers.corl`.

    Raises:
        ArtefactProblem: There is none.
    """
    expected = "Cal-QL-DATASET/checkpoint.pt"
    return _by_dataset(folder, "**/*.pt", _TEACHER, expected, statistics_names())


def find_sdr(folder: Path) -> Found:
    """Read and check the log densities of a clone of SDR's repository; nothing is stored.

    Raises:
        ArtefactProblem: There is none, or one of them is not an array of numbers.
    """
    names = [name.removesuffix("-v2") for name in statistics_names()]
    paths, found = _by_dataset(folder, "**/*.npy", _DENSITY, "log_density_maf_DATASET.npy", names)
    found.artefacts = [_density(path, dataset, folder) for dataset, path in paths.items()]
    return found


def _by_dataset(
    folder: Path, pattern: str, name: re.Pattern[str], expected: str, datasets: list[str]
) -> tuple[dict[str, Path], Found]:
    """Files by dataset, and what was left out or is missing."""
    found, paths = Found(), dict[str, Path]()
    for path, inside in clone_files(folder, pattern, expected):
        match = name.fullmatch(inside)
        if match is None or match[1] not in datasets:
            found.left_out[f"other files than {expected} of the paper's datasets"].append(inside)
        elif match[1] in paths:
            raise ArtefactProblem(
                f"{folder} has {paths[match[1]]} and {path} for {match[1]}; expected one. Name the "
                f"folder of one clone."
            )
        else:
            paths[match[1]] = path
    if not paths:
        raise ArtefactProblem(
            f"{folder} has no {expected} for any of {', '.join(datasets)}. Clone the authors' "
            f"repository again, and name the folder of the clone."
        )
    if missing := [dataset for dataset in datasets if dataset not in paths]:
        found.notes.append(f"Not there: {', '.join(missing)} ({len(paths)} of {len(datasets)}).")
    return paths, found


def _density(path: Path, dataset: str, folder: Path) -> Artefact:
    """The log densities of a dataset's states `[M]`, as published."""
    values = read_array(path)
    if values.dtype != np.float32 or values.ndim != 1 or not len(values):
        raise ArtefactProblem(
            f"{path} holds {values.dtype} numbers of shape {list(values.shape)}, expected a "
            f"float32 log density per transition. Clone the repository again."
        )
    log_density = torch.from_numpy(values.copy())
    finite, bad = finite_log_density(log_density)
    card = {
        "kind": "log density",
        "paper": SDR_PAPER,
        "file": path.relative_to(folder).as_posix(),
        "file_sha256": file_sha256(path),
        "dataset": f"d4rl/{dataset}-v2",
        "transitions": len(values),
        "not_finite": bad,
        "published": {"smallest": float(finite.min()), "median": float(finite.median())},
        "settings": FLOW,
    }
    return Artefact(f"sdr/{dataset}", card, {"log_density": log_density})
