"""A dataset is written, taken in, loaded and used within three times its own size.

At a million transitions the factors are smaller than here (`tests/benchmarks/dataset_memory.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.d4rl_files import write_file

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tests" / "benchmarks" / "dataset_memory.py"
TRANSITIONS = 200_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory as Linux counts it")


def measure(*arguments: str | Path) -> dict[str, Any]:
    """What a process of its own measured."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def test_writing_and_loading(own_folders: Path) -> None:
    assert measure("write", str(TRANSITIONS))["peak"] < 3
    loaded = measure("load")
    assert loaded["peak_with_both_observations"] < 3
    assert loaded["seconds"] < 5


def test_taking_in_a_file(own_folders: Path) -> None:
    generator, rows = np.random.default_rng(0), TRANSITIONS + TRANSITIONS // 1000
    observations = generator.standard_normal((rows, 17))
    timeouts = np.zeros(rows, dtype=bool)
    timeouts[1000::1001] = True
    file = write_file(
        own_folders / "large.hdf5",
        {
            "observations": observations,
            "next_observations": np.roll(observations, -1, axis=0),
            "actions": generator.random((rows, 6)),
            "rewards": generator.random(rows),
            "terminals": np.zeros(rows, dtype=bool),
            "timeouts": timeouts,
        },
    )
    assert measure("import", file)["peak"] < 3
