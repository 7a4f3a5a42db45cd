"""Time and peak memory of writing, loading and using one dataset, or of taking in one HDF5 file.

    python tests/benchmarks/dataset_memory.py write TRANSITIONS
    python tests/benchmarks/dataset_memory.py load
    python tests/benchmarks/dataset_memory.py import FILE.hdf5

Each runs in a process of its own, because a process has one peak. The peak is over what the process
held before, in units of the dataset's own size, and printed as JSON. `MINARI_DATASETS_PATH` says
where the dataset is; it is called `local/large`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from benchmark.datasets.catalog import build_dataset, load_dataset, write_dataset
from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.datasets.local import FileSource
from benchmark.datasets.source import DatasetName

NAME = DatasetName("local/large", None)
ENVIRONMENT = "HalfCheetah-v5"
EPISODE = 1000


def made_up(transitions: int) -> Dataset:
    """Of HalfCheetah's dimensions, in episodes of 1000 transitions."""
    generator, episodes = np.random.default_rng(0), transitions // EPISODE
    truncations = np.zeros(transitions, dtype=bool)
    truncations[EPISODE - 1 :: EPISODE] = True
    return Dataset(
        name=str(NAME),
        env_id=ENVIRONMENT,
        states=generator.standard_normal((transitions + episodes, 17), dtype=np.float32),
        actions=generator.random((transitions, 6), dtype=np.float32),
        rewards=generator.standard_normal(transitions, dtype=np.float32),
        terminations=np.zeros(transitions, dtype=bool),
        truncations=truncations,
        lengths=np.full(episodes, EPISODE),
        reference=ReferenceReturns(0.0, 1.0),
    )


def size(dataset: Dataset) -> int:
    """Bytes of its arrays."""
    return sum(array.nbytes for array in dataset.arrays().values())


def peak() -> int:
    """Bytes that this process held at most, as the kernel counts them (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(action: str, argument: str = "") -> None:
    # What the libraries themselves take when first used is no part of the data.
    build_dataset(DatasetName.parse("hopper/medium@50"))
    before, began = peak(), time.perf_counter()
    if action == "write":
        dataset = made_up(int(argument))
        began = time.perf_counter()
        write_dataset(NAME, dataset, seed=None, description="made up")
    elif action == "load":
        dataset = load_dataset(NAME)
    else:
        source = FileSource(
            file=Path(argument), environment=ENVIRONMENT, reference=ReferenceReturns(0.0, 1.0)
        )
        dataset = build_dataset(NAME, force=True, source=source)
    seconds, data = time.perf_counter() - began, size(dataset)
    facts = {"action": action, "mib": data / 2**20, "seconds": seconds}
    facts["peak"] = (peak() - before) / data
    if action == "load":
        assert len(dataset.observations) == len(dataset.next_observations)
        facts["peak_with_both_observations"] = (peak() - before) / data
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
