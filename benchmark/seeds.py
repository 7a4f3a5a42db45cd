"""Seeds derived from named axes, so that a run's numbers never depend on what ran before it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch


def derive_seed(**axes: str | int) -> int:
    """Derive a 63-bit seed, e.g. `derive_seed(run="...", purpose="evaluation", step=100)`.

    The same axes give the same seed in any order, process or version: it is the first eight bytes
    of the sha256 of their canonical JSON, less one bit, so that it fits a signed 64-bit integer.
    numpy's generators take all of it, torch's on a CPU only the low 32 bits (`torch_generator`).
    """
    text = json.dumps(axes, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(**axes: str | int) -> torch.Generator:
    """A CPU generator seeded from named axes.

    torch's Mersenne Twister takes the low 32 bits of a seed: two generators of different axes have
    the same stream with probability 2^-32.
    """
    return torch.Generator().manual_seed(derive_seed(**axes))


def numpy_generator(**axes: str | int) -> np.random.Generator:
    """A numpy generator seeded from named axes."""
    return np.random.default_rng(derive_seed(**axes))


def episode_seeds(count: int, **axes: str | int) -> list[int]:
    """Reset seeds of `count` episodes, in 31 bits, as gymnasium expects them."""
    return [int(s) for s in numpy_generator(**axes).integers(0, 2**31, size=count)]
