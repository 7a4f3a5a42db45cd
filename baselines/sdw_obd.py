"""State-density-weighted OBD (arXiv 2512.06692): rare states count more.

The outer loss of OBD is an average over the dataset's states, so a student is held to where the
data happen to be dense. SDW-OBD weights every state by a power of its reciprocal density:

    w(s) = exp(-tau * max(log p(s), floor)),  mean 1 over the dataset
    H(theta_T) = E_{s ~ D_off} w(s) * (PBC or Av-PBC loss at s)

The paper's exponent, floor, normalisation and base objective are not known from its sources, so
they are parameters. Without a floor a handful of far-off states would hold nearly all weight:
densities of one dataset lie 80 nats and more apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from baselines.obd import PBC, AvPBC
from baselines.outer_loop import Targets
from benchmark.density.density import effective_support, floored
from benchmark.method import BadParameter, Problem

LARGEST_TAU = 16.0


@dataclass(frozen=True)
class SDWOBD(AvPBC):
    """OBD whose states are weighted by their reciprocal density to the power tau.

    Args:
        base: Objective that is weighted: "av_pbc" or "pbc".
        tau: Exponent; 0 is the base objective bit for bit. "auto" takes the largest one whose
            effective sample size stays above `effective_sample`.
        floor_quantile: Log densities below this quantile are raised to it.
        effective_sample: Smallest effective sample size under "auto", as a fraction of the states
            in (0, 1].
        weighting: "loss" multiplies the loss; "sampling" draws states with probability
            proportional to the weight instead, which is the same in expectation.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"dataset", "teacher", "log_density"})
    base: Literal["av_pbc", "pbc"] = "av_pbc"
    tau: float | Literal["auto"] = 0.25
    floor_quantile: float = 0.01
    effective_sample: float = 0.5
    weighting: Literal["loss", "sampling"] = "loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.tau == "auto" or (isinstance(self.tau, int | float) and self.tau >= 0)):
            raise BadParameter(f"tau is {self.tau!r}; expected a number of 0 or more, or 'auto'.")
        if self.base == "pbc" and self.beta != SDWOBD.beta:
            raise BadParameter(
                f"beta is {self.beta:g} and base is 'pbc', whose states have no action values that "
                f"beta would scale; expected base = 'av_pbc', or no beta."
            )
        if self.weights == "mean":
            raise BadParameter(
                "weights is 'mean', under which every state would count the same and the density "
                "nothing; expected 'raw' or 'mean_one'."
            )
        if not 0 < self.effective_sample <= 1:
            raise BadParameter(f"effective_sample is {self.effective_sample}; expected (0, 1].")
        if not 0 <= self.floor_quantile < 1:
            raise BadParameter(f"floor_quantile is {self.floor_quantile}; expected [0, 1).")

    def _raw_targets(self, problem: Problem) -> Targets:
        """The base objective's targets, weighted or sampled by reciprocal density."""
        plain = self.base == "pbc"
        base = PBC.targets(self, problem) if plain else super()._raw_targets(problem)
        log_density = problem.log_density
        tau = self.chosen_tau(log_density)
        base = base._replace(facts={"tau": tau})
        if tau == 0:
            return base
        weights = density_weights(log_density, tau, self.floor_quantile)
        if not bool(weights.isfinite().all()):
            raise BadParameter(
                f"tau is {tau:g}, at which the weights of states are not finite; expected less."
            )
        if self.weighting == "sampling":  # E_{s ~ w p} loss = E_{s ~ p} w loss, since mean w = 1
            return base._replace(probabilities=weights / weights.sum())
        combined = weights.float() if base.weights is None else base.weights * weights.float()
        return base._replace(weights=combined)

    def chosen_tau(self, log_density: Tensor) -> float:
        """`tau`, or the largest exponent that "auto" allows."""
        if self.tau != "auto":
            return float(self.tau)
        return largest_tau(log_density, self.effective_sample, self.floor_quantile)


def density_weights(log_density: Tensor, tau: float, floor_quantile: float) -> Tensor:
    """Weights w = exp(-tau * max(log p, floor)) `[M]`, float64, normalised to mean 1."""
    # In logarithms, since densities 80 nats apart overflow a quotient of exponentials.
    logs = -tau * floored(log_density, floor_quantile)
    return (logs - logs.logsumexp(0)).exp() * len(logs)


def largest_tau(log_density: Tensor, effective_sample: float, floor_quantile: float) -> float:
    """The largest exponent up to 16 that keeps this effective sample size, by bisection."""
    low, high = 0.0, LARGEST_TAU
    values = floored(log_density, floor_quantile)
    if effective_support(values, high) >= effective_sample:
        return high
    # The effective sample size falls as the exponent grows; 40 halvings of 16 leave 1.5e-11.
    for _ in range(40):
        middle = (low + high) / 2
        enough = effective_support(values, middle) >= effective_sample
        low, high = (middle, high) if enough else (low, middle)
    return low
