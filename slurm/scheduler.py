"""What SLURM knows of jobs, asked in one query for all of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmark.errors import ObdBenchError

SECONDS = 60
ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
"""States that a job stays in; all others may still work."""


class Unreachable(ObdBenchError):
    """SLURM does not answer: nothing is known of its jobs now."""


class JobKey(NamedTuple):
    """A job by its array's name, which is unique, and its place in the array."""

    name: str
    place: int


@dataclass(frozen=True)
class JobState:
    """A job as SLURM has it.

    Args:
        state: One word, e.g. PENDING, RUNNING, TIMEOUT.
        reason: Why it waits, or "".
        node: Where it is or was, or "".
        exit_code: "code:signal" of one that has ended, or "".
        number: The scheduler's own, "12_3", where it is known.
    """

    state: str
    reason: str = ""
    node: str = ""
    exit_code: str = ""
    number: str = ""

    @property
    def held(self) -> bool:
        """Whether SLURM holds it because it could not be launched: it waits until somebody acts."""
        return self.state == "PENDING" and "launch failed" in self.reason.lower().replace("_", " ")

    @property
    def ended(self) -> bool:
        """Whether it will not work any more by itself."""
        return self.state in ENDED or self.held


class Scheduler:
    """SLURM through its commands."""

    def queue(self, names: Sequence[str]) -> dict[JobKey, JobState]:
        """The jobs of these arrays that the controller holds: live ones, and those ended lately.

        Raises:
            Unreachable: The controller does not answer.
        """
        if not names:
            return {}
        printed = _run(
            "squeue", "--noheader", "--array", "--states=all", f"--name={','.join(names)}",
            "--format=%j|%K|%T|%r|%N|%i",
        )  # fmt: skip
        jobs = {}
        for line in printed.splitlines():
            name, index, state, reason, node, number = map(str.strip, line.split("|"))
            key = JobKey(name, int(index) if index.isdigit() else 0)
            jobs[key] = JobState(state, "" if reason == "None" else reason, node, number=number)
        return jobs

    def history(self, names: Sequence[str]) -> dict[JobKey, JobState]:
        """Jobs of these arrays in the accounting; nothing where the site keeps none."""
        if not names:
            return {}
        try:
            printed = _run(
                "sacct", "--noheader", "--parsable2", "--allocations", f"--name={','.join(names)}",
                "--starttime=now-30days", "--format=JobName,JobID,State,ExitCode,NodeList",
            )  # fmt: skip
        except Unreachable:
            return {}
        jobs = {}
        for line in printed.splitlines():
            name, number, state, exit_code, node = line.split("|")[:5]
            place = re.fullmatch(r"\d+(?:_(\d+))?", number)
            if place:  # not the waiting rest of an array, "12_[3-9]": the queue has those
                key = JobKey(name, int(place.group(1) or 0))
                jobs[key] = JobState(state.split()[0], "", node, exit_code)
        return jobs

    def cancel(self, names: Sequence[str]) -> None:
        """Ends every job of these arrays.

        Raises:
            Unreachable: The controller does not answer.
        """
        for name in names:
            _run("scancel", f"--name={name}")

    def end(self, numbers: Sequence[str]) -> None:
        """Ends single jobs.

        Raises:
            Unreachable: The controller does not answer.
        """
        if numbers:
            _run("scancel", *numbers)

    def max_array_size(self) -> int:
        """Most jobs that an array may hold here.

        Raises:
            Unreachable: The controller does not answer.
        """
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run("scontrol", "show", "config"), re.M)
        return int(found.group(1)) if found else 1001


def _run(*words: str) -> str:
    """What a command prints."""
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=SECONDS,
        )
    except FileNotFoundError as error:
        raise Unreachable(
            f"{words[0]} is not on this machine. Work from a login node of the cluster."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(
            f"`{words[0]}` gave no answer in {SECONDS} s. Try again later."
        ) from error
    except subprocess.CalledProcessError as error:
        raise Unreachable(f"`{words[0]}` failed: {error.stderr.strip()}") from error
    return done.stdout
