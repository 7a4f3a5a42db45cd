"""Kernel density estimate: a Gaussian on each of a random subset of the states."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmark.density.density import (
    Density,
    DensityProblem,
    DensityRecipe,
    FitProgress,
    check_states,
    places_of,
    subsample,
)
from benchmark.seeds import derive_seed

CHUNK_ENTRIES = 2_000_000
"""Squared distances in memory at once: 16 MB in float64."""


@dataclass(frozen=True)
class KDE(DensityRecipe):
    """Gaussian kernel density estimate with Scott's rule: `scipy.stats.gaussian_kde` in chunks.

    The kernels' covariance is that of the centres times n^(-2 / (obs_dim + 4)) for n centres
    (Scott 1992, "Multivariate Density Estimation").

    Args:
        centres: Number of states n, drawn at random, that carry a kernel.
    """

    centres: int = 10_000

    def fit(
        self,
        observations: Tensor,
        seed: int,
        *,
        held_out: Tensor | None = None,
        state: Path | None = None,
        progress: FitProgress | None = None,
    ) -> Density:
        """Draw the centres; nothing is trained, so there is no state and no progress."""
        check_states(observations)
        count, width = observations.shape
        if min(self.centres, count) <= width:
            raise DensityProblem(
                f"{min(self.centres, count)} centres have no covariance in {width} dimensions; "
                f"expected more centres than that."
            )
        purpose = derive_seed(density="kde", seed=seed, purpose="centres")
        chosen = subsample(count, self.centres, purpose)
        centres = observations[chosen].double()
        # Scott's bandwidth n^(-1 / (d + 4)) scales lengths, so its square scales the covariance.
        covariance = centres.T.cov() * len(chosen) ** (-2 / (width + 4))
        cholesky, failed = torch.linalg.cholesky_ex(covariance)
        if failed or cholesky.diagonal().min() < 1e-6 * cholesky.diagonal().max():
            raise DensityProblem(
                f"The {len(chosen)} centres lie in fewer than {width} dimensions (a constant or "
                f"dependent observation): a kernel density does not exist. Use the recipe 'maf'."
            )
        return KernelDensity(_whiten(centres, cholesky), cholesky, chosen)


@dataclass(frozen=True)
class KernelDensity:
    """A mean of n equal Gaussian kernels.

    Args:
        centres: Whitened centres L^-1 c `[n, obs_dim]`, in which the kernel is a standard normal.
        cholesky: Lower factor L of the kernel's covariance `[obs_dim, obs_dim]`.
        chosen: Rows of the centres among the states of the fit, ascending `[n]`.
    """

    centres: Tensor = field(repr=False)
    cholesky: Tensor = field(repr=False)
    chosen: Tensor = field(repr=False)

    def log_prob(self, observations: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Compute log p `[B]`; for a state that is a centre, from the other n - 1 kernels.

        log p(x) = log sum_i exp(-|L^-1 (x - c_i)|^2 / 2) - log n - log det L - d / 2 log 2 pi
        """
        check_states(observations, self.centres.shape[1])
        whitened = _whiten(observations.double(), self.cholesky)
        places = places_of(rows, self.chosen, len(observations))
        size = max(1, CHUNK_ENTRIES // len(self.centres))
        sums = [
            self._log_sum(x, place)
            for x, place in zip(torch.split(whitened, size), torch.split(places, size), strict=True)
        ]
        kernels = len(self.centres) - (places >= 0).double()
        width = self.centres.shape[1]
        log_volume = self.cholesky.diagonal().log().sum() + 0.5 * width * math.log(2 * math.pi)
        return torch.cat(sums) - kernels.log() - log_volume

    def _log_sum(self, x: Tensor, place: Tensor) -> Tensor:
        """Compute the log of the sum of unnormalised kernels `[b]` at whitened states `[b, d]`."""
        # -|x - c|^2 / 2 = x c - |c|^2 / 2 - |x|^2 / 2 for all pairs by one product [b, n]
        squares = 0.5 * self.centres.square().sum(1)
        exponents = torch.addmm(-squares, x, self.centres.T)
        exponents -= 0.5 * x.square().sum(1, keepdim=True)
        own = (place >= 0).nonzero()[:, 0]
        exponents[own, place[own]] = -torch.inf
        largest = exponents.amax(1, keepdim=True)
        # A kernel 700 nats below the largest adds nothing, and exp is slow where it underflows.
        exponents.sub_(largest).clamp_(min=-700)
        return largest[:, 0] + exponents.exp_().sum(1).log()


def _whiten(states: Tensor, cholesky: Tensor) -> Tensor:
    whitened: Tensor = torch.linalg.solve_triangular(cholesky, states.T, upper=False)
    return whitened.T.contiguous()
