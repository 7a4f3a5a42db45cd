"""This machine's processor: its name, and sums of products that do not depend on the company."""

from __future__ import annotations

import contextlib
import os
import platform
from functools import cache
from pathlib import Path

PRODUCTS = "MKL_CBWR"
"""Environment variable that MKL, torch's library of matrix products, reads at its first one."""


def processor() -> str:
    """Name of this machine's processor, with the vector instructions that torch uses on it.

    Processors of one name may have others, and then round in another order.
    """
    import torch  # after `round_alike`

    name = _described("model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def round_alike() -> None:
    """Let MKL add up a product in one order wherever its factors lie in memory.

    On Intel's processors it does. On others the order depends on their addresses unless it is asked
    for one, so that the bits of a student's action would depend on which others are asked with it.
    It is no slower. Whoever has set the variable has decided; after a first product it is too late.
    """
    if _described("vendor_id") not in ("", "GenuineIntel"):
        os.environ.setdefault(PRODUCTS, "AUTO")


@cache
def _described(key: str) -> str:
    """What Linux says of the first core; "" where it says nothing, or there is no Linux."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:  # line by line: what it says of all cores of a large machine takes time
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
