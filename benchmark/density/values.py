"""What can be said of log densities whatever they came from: `[M]` numbers, some of them bad."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmark.density.density import DensityProblem

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
