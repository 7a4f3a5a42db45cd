"""Log densities that were made elsewhere, under the name that runs and sweeps ask for them by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmark.density.density import Density, DensityProblem, DensityRecipe, FitProgress


@dataclass(frozen=True)
class Imported(DensityRecipe):
    """Values taken in with `obdbench density import`; there is nothing to fit."""

    def fit(
        self,
        observations: Tensor,
        seed: int,
        *,
        held_out: Tensor | None = None,
        state: Path | None = None,
        progress: FitProgress | None = None,
    ) -> Density:
        """Raises DensityProblem: it is asked for where no import was found."""
        raise DensityProblem(
            f"No log densities were imported for these {len(observations)} states. Take a file in "
            f"with `obdbench density import FILE.npy --dataset NAME`."
        )
