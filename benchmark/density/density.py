"""Density recipes, what they give, and operations on log densities of any origin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
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


RULE = "NaN and -inf became the smallest finite value, +inf the largest"


def finite_log_density(values: Tensor) -> tuple[Tensor, int]:
    """Log densities in float64 without NaN and infinities, and how many there were.

    A state that a model can give no density is one that it has not seen: NaN and -inf become the
    smallest finite value, +inf (k neighbours at distance 0, say) the largest.

    Raises:
        DensityProblem: No value is finite.
    """
    values = values.double()
    finite = values.isfinite()
    bad = int((~finite).sum())
    if bad == len(values):
        raise DensityProblem(f"None of {bad} log densities is finite; the density is of no use.")
    smallest, largest = values[finite].aminmax()
    clean = values.clone()
    clean[~finite] = smallest
    clean[values == torch.inf] = largest
    return clean, bad


def floored(log_density: Tensor, quantile: float) -> Tensor:
    """Log densities `[M]` in float64, those below this quantile raised to it."""
    values = log_density.double()
    return values.clamp(min=float(np.quantile(values.numpy(), quantile)))


def effective_support(
    log_density: Tensor, exponent: float = 1.0, *, floor_quantile: float | None = None
) -> float:
    """Effective sample size, as a fraction of M, of the weights w = exp(-exponent * log p).

    (sum w)^2 / (M sum w^2): 1 where all weights are equal, 1 / M where one state has it all.
    Sums are taken of logarithms, so densities hundreds of nats apart neither overflow nor vanish.

    Args:
        log_density: Finite values `[M]`.
        exponent: tau of state-density weighting (arXiv 2512.06692).
        floor_quantile: Values below this quantile are raised to it: a handful of far-off states
            would hold nearly all weight otherwise.
    """
    values = log_density.double()
    if floor_quantile is not None:
        values = floored(values, floor_quantile)
    logs = -exponent * values
    log_fraction = 2 * logs.logsumexp(0) - (2 * logs).logsumexp(0)
    return float(log_fraction.exp()) / len(values)
