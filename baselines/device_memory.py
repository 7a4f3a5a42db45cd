"""How many runs of a pack a CUDA device's memory holds at once.

The adjoint reads values of every inner step: per run and inner step about

    4 bytes * (parameters + pairs * (2 * sum of hidden widths + 9 * action dimensions))

2.1 MB at OBD's size. `InnerLoop.stored_bytes` counts them exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from benchmark.errors import ObdBenchError

SHARE = 0.8
"""Share of the free memory that stored values may take: an allocator leaves gaps, and products
need space to work in."""

Run = TypeVar("Run")


def groups_that_fit(
    runs: Sequence[Run], bytes_of_run: Callable[[], int], device: torch.device
) -> list[Sequence[Run]]:
    """Cut a pack into groups, as equal as can be, that the device's memory holds one at a time.

    Args:
        runs: Runs of equal size.
        bytes_of_run: Counts the memory of one of them; not asked for on a CPU, which takes all.
        device: Where they are to advance.

    Raises:
        ObdBenchError: The device cannot hold a single run.
    """
    if device.type == "cpu":
        return [runs]
    needed, free = bytes_of_run(), free_bytes(device)
    if not (largest := int(SHARE * free) // needed):
        raise ObdBenchError(
            f"One run needs {needed / 2**30:.2f} GiB on {device}, for the values of its inner "
            f"steps, and {SHARE:.0%} of the {free / 2**30:.2f} GiB that are free there are to "
            f"hold them. End what else uses the device, take a larger one, or --device cpu."
        )
    pieces = -(-len(runs) // largest)
    return [runs[start::pieces] for start in range(pieces)]


def free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that nothing uses, this process's unused reserve included."""
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserve
