"""Density recipes, what they give, and operations on log densities of any origin."""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.registry import Registry

FitProgress = Callable[[int, int, float | None], None]
"""Called with (epochs done, all epochs, mean log-likelihood of held-out states or None)."""


class DensityProblem(ObdBenchError):
    """States that no density can be fitted to, or a stored density that cannot be used."""


class Density(typing.Protocol):
    """A fitted model of the density of normalised states."""

    def log_prob(self, observations: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Compute log p `[B]` in float64; a value may be infinite. Memory is bounded.

        Args:
            observations: Normalised states `[B, obs_dim]`.
            rows: Row `[B]` of each state among the states of the fit, -1 for a state that was not
                among them; None if none was. A model that stores states leaves a state out of its
                own density, which its own share would make too high.

        Raises:
            DensityProblem: The states have another width than the fit's, or are not finite.
        """


@dataclass(frozen=True)
class DensityRecipe(ABC):
    """A kind of density model with its settings; subclasses are frozen dataclasses."""

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
        """Fit a density; the same states, settings and seed give the same density.

        Args:
            observations: Normalised states `[M, obs_dim]`.
            seed: Seed of all random numbers.
            held_out: States whose likelihood is reported; the fit does not depend on them.
            state: File of a long fit's state, from which a killed fit goes on; None keeps no state.
            progress: Callback after every epoch.

        Raises:
            DensityProblem: There are values that are not finite, or too few states.
        """


DENSITIES: Registry[type[DensityRecipe]] = Registry(
    "density recipe",
    "obdbench.densities",
    DensityRecipe,  # type: ignore[arg-type]
)


def check_states(observations: Tensor, width: int | None = None) -> None:
    """Raise DensityProblem unless these are finite states `[B, width]`."""
    if observations.ndim != 2 or observations.shape[1] != (width or observations.shape[1]):
        raise DensityProblem(
            f"States have shape {list(observations.shape)}; expected [B, {width or 'obs_dim'}]."
        )
    if not (finite := observations.isfinite().all(1)).all():
        first = int((~finite).nonzero()[0])
        raise DensityProblem(
            f"{int((~finite).sum())} of {len(finite)} states hold values that are not finite, the "
            f"first in row {first}. Remove them, or fix the code that produced them."
        )


def subsample(count: int, size: int, seed: int) -> Tensor:
    """Draw a random subset of `count` rows, in ascending order `[min(size, count)]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:size].sort().values


def places_of(rows: Tensor | None, chosen: Tensor, count: int) -> Tensor:
    """Find each state among the states that a model stores `[B]`; -1 where it is not one of them.

    Args:
        rows: Rows of the states as in `Density.log_prob`; None where every state is new.
        chosen: Rows of the stored states, ascending.
        count: Number of states B.
    """
    if rows is None:
        return torch.full((count,), -1)
    place = torch.searchsorted(chosen, rows).clamp_(max=len(chosen) - 1)
    return torch.where(chosen[place] == rows, place, -1)


RULE = "NaN and -inf became the smallest finite value, +inf the largest"


def finite_log_density(values: Tensor) -> tuple[Tensor, int]:
    """Replace NaN and infinities by finite values in float64; count the values replaced.

    NaN and -inf become the smallest finite value, because a model that cannot give a state a
    density has not seen one like it; +inf (k neighbours at distance 0) becomes the largest.

    Raises:
        DensityProblem: No value is finite.
    """
    values = values.double()
    finite = values.isfinite()
    bad = int((~finite).sum())
    if bad == len(values):
        raise DensityProblem(f"None of {bad} log densities is finite; use another density.")
    smallest, largest = values[finite].aminmax()
    clean = values.clone()
    clean[~finite] = smallest
    clean[values == torch.inf] = largest
    return clean, bad


def floored(log_density: Tensor, quantile: float) -> Tensor:
    """Raise log densities `[M]` below this quantile to it, in float64."""
    values = log_density.double()
    return values.clamp(min=float(np.quantile(values.numpy(), quantile)))


def effective_support(
    log_density: Tensor, exponent: float = 1.0, *, floor_quantile: float | None = None
) -> float:
    """The effective sample size of the weights w = exp(-exponent * log p), as a fraction of M.

    It is (sum w)^2 / (M sum w^2): 1 where all weights are equal, 1 / M where one state has all.
    The sums are computed from logarithms, so that densities hundreds of nats apart neither
    overflow nor vanish.

    Args:
        log_density: Finite values `[M]`.
        exponent: Exponent tau of state-density weighting (arXiv 2512.06692).
        floor_quantile: Quantile that lower values are raised to; None leaves all as they are.
            Without it a few outlying states hold nearly all weight.
    """
    values = log_density.double()
    if floor_quantile is not None:
        values = floored(values, floor_quantile)
    logs = -exponent * values
    log_fraction = 2 * logs.logsumexp(0) - (2 * logs).logsumexp(0)
    return float(log_fraction.exp()) / len(values)
