"""The students' architectures: entries of the student registry."""

from __future__ import annotations

from abc import ABC, abstractmethod

from benchmark.errors import ObdBenchError
from benchmark.registry import Registry
from benchmark.students.network import Network


class Architecture(ABC):
    """Builds a network for given dimensions."""

    @abstractmethod
    def network(self, observation_dim: int, outputs: int, depth: int, width: int) -> Network:
        """A network of `depth` linear layers with hidden width `width`."""


class Mlp(Architecture):
    """Multi-layer perceptron with ReLU; OBD's default has 4 layers of width 256."""

    def network(self, observation_dim: int, outputs: int, depth: int, width: int) -> Network:
        """Sizes `(observation_dim, width, ..., width, outputs)`."""
        return Network((observation_dim, *[width] * (depth - 1), outputs))


class Residual(Architecture):
    """The MLP whose last hidden layer adds the first one's output (OBD, Table 2)."""

    def network(self, observation_dim: int, outputs: int, depth: int, width: int) -> Network:
        """As `Mlp`, with a skip connection from the first to the last hidden layer."""
        if depth < 3:
            raise ObdBenchError(
                f"A residual student needs at least 3 layers to skip over one; got depth {depth}."
            )
        return Network((observation_dim, *[width] * (depth - 1), outputs), skip=(1, depth - 1))


STUDENTS: Registry[type[Architecture]] = Registry(
    "student",
    "obdbench.students",
    Architecture,  # type: ignore[arg-type]
)
