"""The start of a job: SLURM's warning waits until the program that heeds it is loaded.

python -m slurm.start FOLDER    in a job of the array whose work lies in that folder

Loading takes seconds, on a busy file system a minute, and SLURM may warn half a minute early. A
warning that nobody heeds ends the process, and its runs would fail.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmark.stopping import hold_back_warnings


def main(folder: Path) -> None:
    """Do the work that lies in a folder; a warning comes through once the work listens."""
    hold_back_warnings()
    from slurm import job

    job.main(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
