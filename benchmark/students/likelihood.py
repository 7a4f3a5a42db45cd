"""The heads of HaDES (arXiv 2406.15042): policies whose training loss is a negative log likelihood.

Both losses are means over the N samples of a batch. With network outputs o, they are

    Gaussian       sum over dimensions of z^2 / 2 + l + log(2 pi) / 2, o = (m, l), z = (t - m) / e^l
    categorical    - log softmax(o)[k] for the action k of a sample

The derivatives in the outputs are written out; autograd is needed nowhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from benchmark.errors import ObdBenchError


class GaussianHead:
    """A normal distribution around the network's outputs; actions are not squashed by tanh.

    The logarithm of the standard deviation is one parameter per action dimension, the same in every
    state. It starts at 0 and is trained with the network. Actions are clipped to [-1, 1], as HaDES
    clips them to the bounds of the environment; the likelihood is that of the unclipped ones.
    """

    noisy = False
    stochastic = True
    trained_scalars = False
    log_std = True
    space: type[Any] | None = Box

    def outputs(self, act_dim: int) -> int:
        """One output of the last layer per dimension: the mean."""
        return act_dim

    def mode(self, outputs: Tensor) -> Tensor:
        """The clipped mean."""
        return outputs.chunk(2, dim=-1)[0].clamp(-1, 1)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Compute mean + deviation * noise, clipped."""
        mean, log_std = outputs.chunk(2, dim=-1)
        return (mean + log_std.exp() * noise).clamp(-1, 1)

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw standard normal numbers."""
        return generator.standard_normal(shape, dtype=np.float32)

    def loss_gradient(
        self, outputs: Tensor, targets: Tensor, noise: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        """Compute the derivative in means and log deviations; weights multiply each dimension's."""
        mean, log_std = outputs.chunk(2, dim=-1)
        # dloss/dm = -z / e^l and dloss/dl = 1 - z^2, over N
        z = (targets - mean) * (-log_std).exp()
        in_mean, in_log_std = -z * (-log_std).exp(), 1 - z.square()
        if weights is not None:
            weights = weights if weights.ndim == z.ndim else weights.unsqueeze(-1)
            in_mean, in_log_std = in_mean * weights, in_log_std * weights
        return torch.cat((in_mean, in_log_std), dim=-1) / targets.shape[-2]


class CategoricalHead:
    """Probabilities of discrete actions, softmax of the outputs, under the cross-entropy.

    A target is a row of scores, as the suite's data and sets hold discrete actions; what it teaches
    is the action of its highest score, which for a one-hot row is the action taken.
    """

    noisy = False
    stochastic = True
    trained_scalars = False
    log_std = False
    space: type[Any] | None = Discrete

    def outputs(self, act_dim: int) -> int:
        """One logit per action."""
        return act_dim

    def mode(self, outputs: Tensor) -> Tensor:
        """The probabilities as scores, 1 at probability 1 and -1 at 0."""
        return 2 * outputs.softmax(-1) - 1

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Draw an action: the largest logit after Gumbel noise; 1 for it, -1 for the others.

        Logits that are NaN draw none: all are NaN.
        """
        drawn = (outputs + noise).argmax(-1)
        scores = 2.0 * one_hot(drawn, outputs.shape[-1]).to(outputs.dtype) - 1
        return scores.masked_fill(outputs.isnan().any(-1, keepdim=True), torch.nan)

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw standard Gumbel numbers."""
        return generator.gumbel(size=shape).astype(np.float32)

    def loss_gradient(
        self, outputs: Tensor, targets: Tensor, noise: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        """Compute the derivative in the logits, softmax(o) less the target's one-hot row, over N.

        Raises:
            ObdBenchError: There are weights per number of an action, which has only one label.
        """
        taken = one_hot(targets.argmax(-1), targets.shape[-1]).to(outputs.dtype)
        gradient = (outputs.softmax(-1) - taken) / targets.shape[-2]
        if weights is None:
            return gradient
        if weights.ndim == targets.ndim:
            raise ObdBenchError(
                f"The loss of a categorical head has one weight per pair; got one per number of an "
                f"action, {list(weights.shape)}. Take a student with another head."
            )
        return gradient * weights.unsqueeze(-1)
