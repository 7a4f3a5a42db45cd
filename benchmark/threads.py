"""The number of threads that torch computes with, set for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads while this is open, and with as many as before after.

    One is best for many small products: they gain nothing from a second thread, lose by far where
    another process needs the core, and do not depend on the number of threads then.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
