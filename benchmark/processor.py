"""This machine's processor: its name, and sums of products that do not depend on the company."""

from __future__ import annotations

import os
import platform
from pathlib import Path

PRODUCTS = "MKL_CBWR"
"""Environment variable that MKL, torch's library of matrix products, reads at its first one."""


def processor() -> str:
    """Name of this machine's processor."""
    return _described("model name") or platform.processor() or platform.machine()


def round_alike() -> None:
    """Let MKL add up a product in one order wherever its factors lie in memory.

    On Intel's processors it does. On others the order depends on their addresses unless it is asked
    for one, so that the bits of a student's action would depend on which others are asked with it.
    It is no slower. Whoever has set the variable has decided; after a first product it is too late.
    """
    if _described("vendor_id") not in ("", "GenuineIntel"):
        os.environ.setdefault(PRODUCTS, "AUTO")


def _described(key: str) -> str:
    """What Linux says of the first core; "" where it says nothing, or there is no Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    found = [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
    return found[0] if found else ""
