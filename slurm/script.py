"""The batch script of an array: what sbatch is asked for, and the job's command."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmark.local import THREAD_VARIABLES
from benchmark.stopping import WARNING
from slurm.profile import Array, JobShape

HANDED_ON = ("MINARI_DATASETS_PATH", "OBDBENCH_CACHE")
"""Variables that jobs need, whatever the site does with the submitting shell's environment."""


def batch_script(name: str, folder: Path, array: Array, threads: int) -> str:
    """The text of the script that sbatch is given.

    Args:
        name: Name of the array.
        folder: Where its jobs find their work and write their logs.
        array: Its jobs.
        threads: Threads of torch in each.
    """
    shape, size = array.shape, len(array.jobs)
    # `%` begins one of SLURM's own symbols in a name of a file.
    log = f"{str(folder).replace('%', '%%')}/{'%A_%a' if size > 1 else '%j'}_0_log"
    options = {
        "job-name": name,
        "partition": shape.partition,
        "account": shape.account,
        "qos": shape.qos,
        "constraint": shape.constraint,
        "nodes": 1,
        "gpus-per-node": shape.gpus or None,
        "cpus-per-task": shape.cpus,
        "mem": shape.memory,
        "time": shape.minutes,
        "signal": f"{WARNING.name.removeprefix('SIG')}@{shape.grace}",
        "array": f"0-{size - 1}%{min(size, array.parallelism)}" if size > 1 else None,
        "output": f"{log}.out",
        "error": f"{log}.err",
        "open-mode": "append",
        "requeue": True,
        **{key.replace("_", "-"): value for key, value in shape.sbatch.items()},
    }
    # srun gets the variables that this script exports and the cores of the job, which it does
    # not take from sbatch since SLURM 22.05. It prints to this script's logs: names of its own
    # with a `%%` stop it.
    step = {"unbuffered": True, "export": "ALL", "cpus-per-task": shape.cpus}
    command = shlex.join([sys.executable, "-u", "-m", "slurm.job", str(folder)])
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {flag}" for flag in _flags(options)),
            *setup_lines(shape, threads),
            f"srun {' '.join(_flags(step))} {command}",
            "",
        ]
    )


def setup_lines(shape: JobShape, threads: int) -> list[str]:
    """The shell lines before the work."""
    exported = {
        **{key: os.environ[key] for key in HANDED_ON if key in os.environ},
        **dict.fromkeys(THREAD_VARIABLES, threads),
        **shape.environment,
    }
    return [
        *shape.setup,
        *(f"export {key}={shlex.quote(str(value))}" for key, value in exported.items()),
    ]


def _flags(options: Mapping[str, object]) -> list[str]:
    """Options of a command; True stands for one without a value, None and False for none."""
    return [
        f"--{key}" if value is True else f"--{key}={shlex.quote(str(value))}"
        for key, value in options.items()
        if value is not None and value is not False
    ]
