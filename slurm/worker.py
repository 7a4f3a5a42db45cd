"""What an executor's process does: a list of packs of runs, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark.attempt import OnProgress
from benchmark.clocks import SAVE_EVERY_SECONDS
from benchmark.registry import load_plugin
from benchmark.run import execute_pack
from benchmark.spec import RunSpec
from benchmark.stopping import StopRequest

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What bounds the threads of BLAS and OpenMP in a process that begins."""


def work(
    packs: Sequence[Sequence[Mapping[str, Any]]],
    store: str,
    plugins: Sequence[str],
    threads: int,
    on_progress: OnProgress | None = None,
    save_every: float = SAVE_EVERY_SECONDS,
    device: str = "cpu",
    stop: StopRequest | None = None,
) -> None:
    """Executes packs of runs given as `RunSpec.as_dict`; each run leaves its own record.

    Only plain values are passed, so that a job can be read, and started again, from its file.
    """
    torch.set_num_threads(threads)
    for plugin in plugins:
        load_plugin(plugin)
    for pack in packs:
        runs = [RunSpec.from_dict(run) for run in pack]
        execute_pack(
            runs, Path(store), on_progress, save_every=save_every, device=device, stop=stop
        )
