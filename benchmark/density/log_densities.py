"""Log densities of a dataset's states: fitted once and stored next to the dataset.

A file is `log_density.<recipe>.<digest>.safetensors` in the dataset's folder of the Minari store,
or in `OBDBENCH_CACHE` where others share that folder and it can only be read.
The digest covers the dataset's content, the recipe, its settings and the seed, so that a change of
any of them gives another file. The measurements of the fit are JSON in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.config import build
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.density.density import (
    DENSITIES,
    RULE,
    Density,
    DensityProblem,
    DensityRecipe,
    FitProgress,
    finite_log_density,
)
from benchmark.files import atomic_path, cache_folder, file_sha256
from benchmark.locks import FileLock
from benchmark.scaling import STD_FLOOR
from benchmark.seeds import numpy_generator

FORMAT = "obdbench.log_density/1"
HELD_OUT_FRACTION = 0.1
IMPORTED = "imported"
PREFIX, SUFFIX = "log_density", ".safetensors"


@dataclass(frozen=True)
class Imported(DensityRecipe):
    """The recipe name of values imported with `obdbench density import`; nothing is fitted."""

    def fit(
        self,
        observations: Tensor,
        seed: int,
        *,
        held_out: Tensor | None = None,
        state: Path | None = None,
        progress: FitProgress | None = None,
    ) -> Density:
        """Raise DensityProblem: a fit is asked for only where no import was found."""
        raise DensityProblem(
            f"No log densities were imported for these {len(observations)} states. Import a file "
            f"with `obdbench density import FILE.npy --dataset NAME`."
        )


@dataclass(frozen=True)
class LogDensity:
    """Log densities of a dataset's states, with their provenance.

    Args:
        values: Finite log p of every observation `[M]` float64, in nats, of states normalised to
            zero mean and unit deviation (in raw units, all differ by the same constant).
        facts: JSON values: recipe, settings, dataset, seed, likelihoods, seconds, and the sha256
            of the values.
    """

    values: Tensor = field(repr=False)
    facts: Mapping[str, Any]


class Fit(NamedTuple):
    """A recipe with its settings and a seed: together they determine a dataset's log densities."""

    recipe: str
    parameters: dict[str, Any]
    seed: int

    @classmethod
    def of(cls, recipe: str, parameters: Mapping[str, Any] | None = None, seed: int = 0) -> Fit:
        """Check a recipe and its settings; write every default out.

        Raises:
            UnknownName: The recipe is not registered.
            BadConfiguration: The recipe has no such setting.
        """
        built = build(DENSITIES[recipe], parameters or {}, f"the density recipe {recipe}")
        return cls(recipe, asdict(built), seed)

    def built(self) -> DensityRecipe:
        """The recipe with these settings."""
        return build(DENSITIES[self.recipe], self.parameters, f"the density recipe {self.recipe}")

    def path(self, dataset: Dataset) -> Path:
        """The file of these log densities, also where there is none yet."""
        return self.path_for(DatasetName.parse(dataset.name), dataset.sha256)

    def path_for(self, name: DatasetName, sha256: str) -> Path:
        """The same, by the dataset's name and the digest of its content."""
        key = json.dumps([FORMAT, sha256, *self], sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        path = name.folder / f"{PREFIX}.{self.recipe}.{digest}{SUFFIX}"
        if path.exists() or os.access(path.parent, os.W_OK):
            return path
        return _own_folder() / path.name


def find_or_fit(dataset: Dataset, fit: Fit, progress: FitProgress | None = None) -> LogDensity:
    """Load a dataset's log densities from the store, or fit and store them first.

    Processes that ask at the same time wait for one of them to fit. A fit that is killed leaves
    its state, from which the next one goes on, and never half a result.

    Raises:
        DensityProblem: The stored file was altered, or nothing can be fitted.
    """
    path = fit.path(dataset)
    if path.exists():  # without a lock, which a read-only folder could not hold
        return load_log_density(path, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            state = path.with_suffix(".state")
            _write(path, _fit(dataset, fit, state, progress))
            state.unlink(missing_ok=True)
        return load_log_density(path, dataset)


def load_log_density(path: Path, dataset: Dataset) -> LogDensity:
    """Load the log densities of a file; check them against the dataset and their own digest.

    Raises:
        DensityProblem: The file is unreadable, belongs to other data, or was altered.
    """
    facts, values = _read(path)
    advice = f"Remove {path}, and it is made again."
    if facts["dataset_sha256"] != dataset.sha256 or values.shape != (len(dataset),):
        raise DensityProblem(
            f"{path} holds {list(values.shape)} log densities of data with sha256 "
            f"{facts['dataset_sha256']}; {dataset.name} has {len(dataset)} transitions, sha256 "
            f"{dataset.sha256}. {advice}"
        )
    if (found := _sha256(values)) != facts["sha256"]:
        raise DensityProblem(
            f"{path} holds values with sha256 {found}, expected {facts['sha256']}: it was "
            f"altered. {advice}"
        )
    return LogDensity(values, facts)


def stored_densities(
    names: Sequence[DatasetName],
) -> list[tuple[str, Path, dict[str, Any] | DensityProblem]]:
    """List every file of log densities of datasets: dataset, file, and facts or what is wrong.

    Files of datasets whose own folder can only be read share one; what is damaged there may be of
    any dataset, and stands once, with "" for the dataset.
    """
    known = {name.folder: str(name) for name in names} | {_own_folder(): ""}
    found: list[tuple[str, Path, dict[str, Any] | DensityProblem]] = []
    for folder, dataset in known.items():
        for path in sorted(folder.glob(f"{PREFIX}.*{SUFFIX}")):
            try:
                facts, _ = _read(path)
            except DensityProblem as error:
                found.append((dataset, path, error))
                continue
            if facts["dataset"] in ([dataset] if dataset else known.values()):
                found.append((facts["dataset"], path, facts))
    return found


def _own_folder() -> Path:
    """Folder of log densities of datasets whose own folder cannot be written to."""
    return cache_folder() / "densities"


def import_log_density(file: Path, dataset: Dataset) -> LogDensity:
    """Import a numpy array of log densities `[M]` under the recipe name "imported".

    An earlier import for the same data is replaced. No code of the file is run.

    Raises:
        DensityProblem: It is not an array of numbers, or not one per transition.
    """
    try:
        # Mapped, so that it is no larger than the file, whatever its head says.
        array = np.load(file, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DensityProblem(
            f"{file} cannot be read as a numpy array ({error}); expected a .npy file of plain "
            f"numbers."
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise DensityProblem(f"{file} does not hold an array of floating-point numbers.")
    if array.shape != (len(dataset),):
        raise DensityProblem(
            f"{file} has shape {list(array.shape)}; {dataset.name} has {len(dataset)} transitions, "
            f"expected one log density per transition, in their order."
        )
    values, bad = finite_log_density(torch.from_numpy(array.astype(np.float64)))
    fit = Fit.of(IMPORTED)
    source = {"file": file.name, "sha256": file_sha256(file)}
    facts = _facts(dataset, fit, values, bad) | {"source": source}
    path = fit.path(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        _write(path, LogDensity(values, facts))
    return load_log_density(path, dataset)


def held_out_episodes(dataset: Dataset, seed: int) -> NDArray[np.bool_]:
    """Draw a tenth of the episodes at random: `[E]`, true for those held out of the fit.

    Whole episodes, because a state and the next one are nearly the same: with single states held
    out, a model that repeats the states of its fit would score well. A single episode is not held
    out.
    """
    episodes = len(dataset.lengths)
    count = max(1, round(HELD_OUT_FRACTION * episodes)) if episodes > 1 else 0
    generator = numpy_generator(density="held-out", seed=seed)
    held_out = np.zeros(episodes, dtype=bool)
    held_out[generator.permutation(episodes)[:count]] = True
    return held_out


def _fit(dataset: Dataset, fit: Fit, state: Path, progress: FitProgress | None) -> LogDensity:
    began = time.monotonic()
    recipe = fit.built()
    states = _normalised(dataset)
    episode_is_out = held_out_episodes(dataset, fit.seed)
    is_out = torch.from_numpy(np.repeat(episode_is_out, dataset.lengths))
    density = recipe.fit(
        states[~is_out],
        fit.seed,
        held_out=states[is_out] if is_out.any() else None,
        state=state,
        progress=progress,
    )
    # The row of each state among those that the density was fitted to, -1 for held-out states.
    rows = torch.where(is_out, -1, (~is_out).cumsum(0) - 1)
    values, bad = finite_log_density(density.log_prob(states, rows=rows))
    facts = _facts(dataset, fit, values, bad) | {
        "held_out": _likelihood(values, dataset, episode_is_out),
        "train": _likelihood(values, dataset, ~episode_is_out),
        "seconds": time.monotonic() - began,
    }
    return LogDensity(values, facts)


def _normalised(dataset: Dataset) -> Tensor:
    """Normalise observations `[M, obs_dim]` as for students: zero mean, divided by sd + 1e-3."""
    observations = torch.from_numpy(dataset.observations).double()
    std = observations.std(0, correction=0) + STD_FLOOR
    return ((observations - observations.mean(0)) / std).float()


def _likelihood(
    values: Tensor, dataset: Dataset, episodes: NDArray[np.bool_]
) -> dict[str, Any] | None:
    """The mean log-likelihood of the states of some episodes, in nats per state.

    The standard error is over episodes, because the states of one episode are correlated: it is
    that of the ratio of two sums, log-likelihood and length.
    """
    if not episodes.any():
        return None
    starts = np.cumsum(dataset.lengths) - dataset.lengths
    sums, sizes = np.add.reduceat(values.numpy(), starts)[episodes], dataset.lengths[episodes]
    mean, count = sums.sum() / sizes.sum(), len(sums)
    error = None
    if count > 1:
        spread = np.square(sums - mean * sizes).sum() * count / (count - 1)
        error = float(np.sqrt(spread) / sizes.sum())
    states = int(sizes.sum())
    return {"mean": float(mean), "standard_error": error, "states": states, "episodes": count}


def _facts(dataset: Dataset, fit: Fit, values: Tensor, bad: int) -> dict[str, Any]:
    return {
        "recipe": fit.recipe,
        "parameters": fit.parameters,
        "seed": fit.seed,
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "held_out": None,
        "train": None,
        "not_finite": {"count": bad, "rule": RULE},
        "seconds": None,
        "sha256": _sha256(values),
    }


def _sha256(values: Tensor) -> str:
    """The digest of only the values: a second fit takes other seconds and gives the same values."""
    return hashlib.sha256(np.ascontiguousarray(values.numpy()).data).hexdigest()


def _write(path: Path, density: LogDensity) -> None:
    metadata = {"format": FORMAT, "facts": json.dumps(dict(density.facts), sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file({"log_density": density.values.contiguous()}, temporary, metadata=metadata)


def _read(path: Path) -> tuple[dict[str, Any], Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata, values = file.metadata() or {}, file.get_tensor("log_density")
        if metadata["format"] != FORMAT:
            raise DensityProblem(
                f"{path} has format {metadata['format']!r}, expected {FORMAT!r}. Remove it, and it "
                f"is made again."
            )
        return json.loads(metadata["facts"]), values
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise DensityProblem(
            f"{path} cannot be read as log densities ({error}). Remove it, and it is made again."
        ) from error
