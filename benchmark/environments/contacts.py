"""Contacts of gymnasium's v4 environments, as MuJoCo made them before version 3.5.

D4RL's data and the public policies for v4 are from a MuJoCo in which a contact had the larger
margin of its two geoms. Since 3.5.0 it has their sum (MuJoCo's changelog, breaking API changes),
so that Hopper's foot meets the floor 1 mm earlier. In each model below all geoms have one margin:
with half of it for each, the sum is the former margin, for every pair of geoms.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

V4_WITH_MARGINS = ("Ant-v4", "Hopper-v4", "Humanoid-v4", "HumanoidStandup-v4")
"""gymnasium's v4 environments whose models have margins: 10 mm for Ant, 1 mm for the others."""
FORMER = "larger margin of two geoms, as before MuJoCo 3.5"


def contact_rule(env_id: str | None) -> str | None:
    """The rule of an environment's contacts where the MuJoCo in use does not decide it.

    It does for a variant with a model of its own, which Ant-v4 may have.
    """
    plain, _, arguments = (env_id or "").partition("{")
    known = plain.rpartition(":")[2] in V4_WITH_MARGINS and '"xml_file"' not in arguments
    return FORMER if known else None


def adds_margins(mujoco_version: str) -> bool:
    """Whether a version of MuJoCo adds the margins of two geoms; an unknown one counts as such."""
    numbers = re.match(r"(\d+)\.(\d+)", mujoco_version)
    return numbers is None or (int(numbers[1]), int(numbers[2])) >= (3, 5)


def scale_margins(environment: Any, factor: float) -> bool:
    """Multiply the margins of an environment's geoms, where that is a change of rule.

    Returns:
        Whether it was done: MuJoCo adds margins, and all geoms have one, which is not zero.
    """
    model = getattr(environment.unwrapped, "model", None)
    if model is None:
        return False
    import mujoco  # here: MuJoCo is slow to import

    margins = model.geom_margin
    if not adds_margins(mujoco.__version__) or not margins.any() or np.ptp(margins):
        return False
    margins *= factor
    return True
