"""Changed physics of an environment: heavier or lighter bodies, other friction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmark.errors import ObdBenchError


@dataclass(frozen=True)
class Physics:
    """Factors of a MuJoCo model's constants, 1 for its own.

    Args:
        mass: Factor of every body's mass and inertia, as of a density.
        friction: Factor of the friction of every geom: sliding, torsional and rolling.
    """

    mass: float = 1.0
    friction: float = 1.0

    def __post_init__(self) -> None:
        for name, factor in asdict(self).items():
            if not 0 < factor < float("inf"):
                raise ObdBenchError(
                    f"The factor of {name} is {factor}; expected a number above 0, 1 for no change."
                )

    def apply(self, environment: Any) -> None:
        """Change an environment's own model in place; it has been reset before it is stepped.

        Args:
            environment: Unwrapped gymnasium environment of MuJoCo.
        """
        model = environment.model
        model.geom_friction[:] *= self.friction  # of a contact: the larger of its two geoms
        if self.mass != 1:
            import mujoco  # here: MuJoCo is slow to import

            model.body_mass[:] *= self.mass
            model.body_inertia[:] *= self.mass
            # Constraints are scaled by inverse weights, which MuJoCo derives from the masses.
            mujoco.mj_setConst(model, environment.data)


UNCHANGED = Physics()
