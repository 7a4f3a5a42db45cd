"""The batch script of an array, which submitit composes: what sbatch is asked for, and the command.

Sending is not submitit's here (`slurm.scheduler`): it takes sbatch's answer by position, hands the
variables of an enclosing job on, and learns where a job's work lies only after SLURM has the job.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from submitit import SlurmExecutor

from benchmark.local import THREAD_VARIABLES
from slurm.profile import Array, JobShape

HANDED_ON = ("MINARI_DATASETS_PATH", "OBDBENCH_CACHE")
"""Variables that jobs need, whatever the site does with the submitting shell's environment."""


class _Composer(SlurmExecutor):
    """submitit's executor, to compose a script: that needs no SLURM on this machine."""

    @classmethod
    def affinity(cls) -> int:
        """Say that SLURM is there; whether it is shows when the script is sent."""
        return 2


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
    executor = _Composer(folder)
    executor.update_parameters(
        job_name=name,
        partition=shape.partition,
        account=shape.account,
        qos=shape.qos,
        constraint=shape.constraint,
        gpus_per_node=shape.gpus or None,
        cpus_per_task=shape.cpus,
        mem=shape.memory,
        time=shape.minutes,
        signal_delay_s=shape.grace,
        array_parallelism=array.parallelism,
        wckey=None,
        setup=setup_lines(shape, threads),
        use_srun=False,  # submitit's srun gets a name of a log with symbols, which `%%` breaks
        additional_parameters={
            "output": f"{log}.out", "error": f"{log}.err", "requeue": True, **shape.sbatch,
        },
    )  # fmt: skip
    if size > 1:
        executor.parameters["map_count"] = size
    # srun gets the variables that the script exports and the cores of the job, which it does not
    # take from sbatch since SLURM 22.05, and prints to the script's logs.
    step = ["srun", "--unbuffered", "--export=ALL", f"--cpus-per-task={shape.cpus}"]
    command = [*step, sys.executable, "-u", "-m", "slurm.start", str(folder)]
    return executor._make_submission_file_text(shlex.join(command), uid="")


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
