"""Where the suite keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`OBDBENCH_CACHE` where it is set, else `~/.cache/obdbench`."""
    root = os.environ.get("OBDBENCH_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "obdbench"
