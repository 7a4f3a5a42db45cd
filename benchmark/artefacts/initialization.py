"""The initial parameters of HaDES's "fixed init" students, from the seed in the authors' settings.

flax draws them (its names of layers and orthogonal initializer decide the numbers), with the
random numbers of the JAX of that time, whose layout has another default now.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmark.artefacts.artefact import ArtefactProblem
from benchmark.environments.jax_tasks import INSTALL
from benchmark.students.network import HIDDEN_GAIN, Network, Parameters


def authors_parameters(seed: int, network: Network) -> Parameters:
    """The parameters that every student of a fixed-init set begins with (R = 1).

    Args:
        seed: Seed in the artefact's card.
        network: The students' network; its last pair of parameters may be constant outputs, from 0.

    Raises:
        ArtefactProblem: flax is not installed.
    """
    try:
        import flax.linen as nn
        import jax
    except ImportError as error:
        raise ArtefactProblem(
            f"The authors' initialization is drawn by flax, which is not installed. {INSTALL}"
        ) from error
    orthogonal = nn.initializers.orthogonal
    gains = [HIDDEN_GAIN] * (network.depth - 1) + [network.output_gain]

    class Actor(nn.Module):  # the names of its layers, Dense_0 and so on, are part of the seeds
        @nn.compact
        def __call__(self, values: jax.Array) -> jax.Array:
            for size, gain in zip(network.sizes[1:], gains, strict=True):
                values = nn.Dense(size, kernel_init=orthogonal(gain))(values)
            return values

    with jax.threefry_partitionable(False):
        drawn = Actor().init(jax.random.PRNGKey(seed), jax.numpy.zeros(network.sizes[0]))
    parameters = []
    for layer in range(network.depth):
        kernel = np.asarray(drawn["params"][f"Dense_{layer}"]["kernel"])
        weight = torch.from_numpy(kernel.T.copy())[None]
        parameters.append((weight, torch.zeros(1, 1, weight.shape[1])))
    if network.constants:
        parameters.append(network.initialise(torch.Generator())[-1])
    return parameters
