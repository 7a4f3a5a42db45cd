"""What a log-density recipe of the registry is, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.registry import Registry

FitProgress = Callable[[int, int, float | None], None]
"""Called with (epoch, of how many, mean log-likelihood of the held-out states or None)."""


class DensityProblem(ObdBenchError):
    """States that no density can be fitted on, or a stored density that cannot be used."""


class Density(Protocol):
    """A fitted model of the density of normalised states."""

    def log_prob(self, observations: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """log p `[B]` in float64 of normalised `observations [B, obs_dim]`; memory is bounded.

        A value may be infinite where the model says so.

        Args:
            observations: States to score.
            rows: For states that the density was fitted on, their rows in what it was fitted on,
                -1 for any other `[B]`. A model that keeps states leaves the state itself out of
                its own density, which would be too high by its own share otherwise.

        Raises:
            DensityProblem: They have another width than the fit's, or values that are not finite.
        """
        ...


@dataclass(frozen=True)
class DensityRecipe(ABC):
    """A way to a density of states. Subclasses are frozen dataclasses of settings."""

    @abstractmethod
    def fit(
        self,
        observations: Tensor,
        seed: int,
        *,
        held_out: Tensor | None = None,
        state: Path | None = None,
        progress: FitProgress | None = None,
    ) -> Density:
        """Fits a density; the same states, settings and seed give the same density.

        Args:
            observations: Normalised states `[M, obs_dim]`.
            seed: Of all that is drawn.
            held_out: States whose likelihood is reported; the fit does not depend on them.
            state: File that the state of a long fit is kept in: a killed one goes on from there.
            progress: Called as the fit goes on.

        Raises:
            DensityProblem: There are values that are not finite, or too few states.
        """


DENSITIES: Registry[type[DensityRecipe]] = Registry(
    "density recipe",
    "obdbench.densities",
    DensityRecipe,  # type: ignore[arg-type]
)


def check_states(observations: Tensor, width: int | None = None) -> None:
    """Raises DensityProblem unless these are finite states `[B, width]`."""
    if observations.ndim != 2 or observations.shape[1] != (width or observations.shape[1]):
        raise DensityProblem(
            f"States have shape {list(observations.shape)}; expected [B, {width or 'obs_dim'}]."
        )
    if not (finite := observations.isfinite().all(1)).all():
        first = int((~finite).nonzero()[0])
        raise DensityProblem(
            f"{int((~finite).sum())} of {len(finite)} states hold values that are not finite, the "
            f"first in row {first}. Remove them, or mend what made them."
        )


def subsample(count: int, size: int, seed: int) -> Tensor:
    """Rows of a random subset of `count` states, sorted `[min(size, count)]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:size].sort().values


def places_of(rows: Tensor | None, chosen: Tensor, count: int) -> Tensor:
    """Where fitted-on states stand among those that a model keeps, -1 where it does not `[B]`.

    Args:
        rows: As in `Density.log_prob`; None where every state is new.
        chosen: Rows that the model keeps.
        count: B.
    """
    if rows is None:
        return torch.full((count,), -1)
    place = torch.searchsorted(chosen, rows).clamp_(max=len(chosen) - 1)
    return torch.where(chosen[place] == rows, place, -1)
