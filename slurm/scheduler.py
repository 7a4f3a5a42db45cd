"""SLURM through its commands: one query for all jobs, and sbatch."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import ObdBenchError
from slurm.answers import (
    HISTORY_FORMAT,
    LARGEST,
    QUEUE_FORMAT,
    Answer,
    Job,
    read_history_entry,
    read_history_line,
    read_json,
    read_lines,
    read_queue_entry,
    read_queue_line,
)

SECONDS: float = 60
SBATCH_SECONDS = 180
"""A busy controller lets sbatch ask again for two minutes."""
USUAL_ARRAY_SIZE = 1001
"""SLURM's default, where nothing else is known."""

OF_SLURM = re.compile("(SLURM|SBATCH|SALLOC|SRUN|SQUEUE|SACCT|SCANCEL|SCONTROL)_")
WHERE_SLURM_IS = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"})


class Unreachable(ObdBenchError):
    """SLURM does not answer: nothing is known of its jobs now."""


class NoSlurm(Unreachable):
    """SLURM's commands are not on this machine."""


class CommandFailed(Unreachable):
    """A command of SLURM ended with an error; the message is what it said.

    Args:
        said: What it said.
    """

    def __init__(self, command: str, said: str) -> None:
        super().__init__(f"`{command}` failed: {said or 'it said nothing'}")
        self.said = said


class UnreadableAnswer(ObdBenchError):
    """A command of SLURM went well, but nobody can tell what it did."""


@dataclass
class Scheduler:
    """SLURM through its commands.

    Args:
        skipped: Lines of each command's last answer that could not be read, where there are any.
        silent: Why the accounting could not be asked; "" where it could.
    """

    skipped: dict[str, int] = field(default_factory=dict, init=False)
    silent: str = field(default="", init=False)
    _without_json: set[str] = field(default_factory=set, init=False)

    def queue(self, names: Sequence[str], cluster: str = "") -> Answer:
        """The jobs of these arrays that the controller holds: live ones, and those ended lately.

        Args:
            names: Names of arrays.
            cluster: Cluster that they were sent to; "" for the one of this machine.

        Raises:
            Unreachable: The controller does not answer.
        """
        if not names:
            return Answer()
        return self._ask(
            ["squeue", "--noheader", "--array", "--states=all", f"--name={','.join(names)}",
             *_at(cluster)],
            f"--format={QUEUE_FORMAT}", names, read_queue_entry, read_queue_line,
        )  # fmt: skip

    def history(self, names: Sequence[str], cluster: str = "") -> Answer:
        """Jobs of these arrays in the accounting; none where it does not answer or there is none.

        Args:
            names: Names of arrays.
            cluster: Cluster that they were sent to; "" for the one of this machine.
        """
        if not names:
            return Answer()
        try:
            return self._ask(
                ["sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-30days",
                 f"--name={','.join(names)}", *_at(cluster)],
                f"--format={HISTORY_FORMAT}", names, read_history_entry, read_history_line,
            )  # fmt: skip
        except Unreachable as error:
            self.silent = str(error)
            return Answer()

    def submit(self, script: Path) -> str:
        """Give a batch script to sbatch.

        Returns:
            Name of the cluster that took it, where sbatch says one; else "".

        Raises:
            CommandFailed: sbatch refused it.
            UnreadableAnswer: sbatch went well, but told no job's number.
            Unreachable: sbatch is not on this machine, or does not end.
        """
        printed = _run("sbatch", str(script), seconds=SBATCH_SECONDS)
        for line in reversed(printed.splitlines()):
            if found := re.search(r"Submitted batch job \d+(?: on cluster (\S+))?", line):
                return found[1] or ""
            if found := re.fullmatch(r"\d+(?:;(\S+))?", line.strip()):  # --parsable
                return found[1] or ""
        raise UnreadableAnswer(f"sbatch printed no job's number, but {printed.strip()!r}")

    def cancel(self, names: Sequence[str], cluster: str = "") -> None:
        """End every job of these arrays.

        Raises:
            Unreachable: The controller does not answer.
        """
        for name in names:
            _run("scancel", f"--name={name}", *_at(cluster))

    def end(self, numbers: Sequence[str], cluster: str = "") -> None:
        """End single jobs; one that is gone by now needs no end.

        Raises:
            Unreachable: The controller does not answer.
        """
        if not numbers:
            return
        try:
            _run("scancel", *_at(cluster), *numbers)
        except CommandFailed as error:
            if "invalid job id" not in error.said.lower():
                raise

    def max_array_size(self) -> int:
        """Largest number of jobs that an array may hold here; 1 where the site has arrays off.

        Raises:
            Unreachable: The controller does not answer.
        """
        config = _run("scontrol", "show", "config")
        sizes = {
            key: LARGEST if not value.isdigit() else int(value)
            for key, value in re.findall(
                r"^\s*(MaxArraySize|MaxJobCount)\s*=\s*(\S+)", config, re.M
            )
        }
        size = sizes.get("MaxArraySize", USUAL_ARRAY_SIZE)
        # sbatch asks again for two minutes, in vain, for an array of MaxJobCount jobs.
        return max(1, min(size, sizes.get("MaxJobCount", LARGEST + 1) - 1))

    def remarks(self) -> list[str]:
        """A sentence per kind of thing that could not be read or asked."""
        said = [
            f"{count} {'line' if count == 1 else 'lines'} of `{command}` could not be read and "
            f"{'was' if count == 1 else 'were'} skipped."
            for command, count in self.skipped.items()
        ]
        if self.silent:
            said.append(
                f"The accounting does not answer, so causes come from the queue and the logs "
                f"({self.silent})."
            )
        return said

    def _ask(
        self,
        words: Sequence[str],
        text_format: str,
        names: Sequence[str],
        read_entry: Callable[[Mapping[str, Any]], Job],
        read_line: Callable[[str], Job],
    ) -> Answer:
        """The answer as JSON where the command has it, else as text."""
        command, answer = words[0], None
        if command not in self._without_json and not _has_sound_json(command):
            self._without_json.add(command)
        if command not in self._without_json:
            try:
                answer = read_json(_run(*words, "--json"), names, read_entry)
            except (CommandFailed, ValueError):
                self._without_json.add(command)
        if answer is None:
            answer = read_lines(_run(*words, text_format), names, read_line)
        self.skipped.pop(command, None)
        if answer.skipped:
            self.skipped[command] = answer.skipped
        return answer


def environment() -> dict[str, str]:
    """This process's variables without those that change what SLURM's commands do.

    Inside a job these are the enclosing job's: its cores, its memory, its partition. Outside,
    sbatch would follow `SBATCH_PARTITION` against the profile, and `SQUEUE_PARTITION` would hide
    live jobs. What says where SLURM is stays.
    """
    return {
        key: value
        for key, value in os.environ.items()
        if key in WHERE_SLURM_IS or not OF_SLURM.match(key)
    }


def _at(cluster: str) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []


def _has_sound_json(command: str) -> bool:
    """Whether a command's JSON can be used: it can since 23.02, and where no version is told.

    Before, squeue printed the jobs of everybody, and sacct exit code 0 for jobs that failed.
    """
    try:
        version = re.search(r"slurm\D*(\d+)\.(\d+)", _run(command, "--version"))
    except CommandFailed:
        return True
    return version is None or (int(version[1]), int(version[2])) >= (23, 2)


def _run(*words: str, seconds: float | None = None) -> str:
    """What a command prints."""
    seconds = seconds or SECONDS
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=seconds,
            env=environment(),
            stdin=subprocess.DEVNULL,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise NoSlurm(
            f"No SLURM was found: `{words[0]}` is not on this machine. Work from a login node of "
            f"the cluster, or do the runs here: obdbench sweep."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(
            f"`{words[0]}` gave no answer in {seconds:g} s. Try again later."
        ) from error
    except subprocess.CalledProcessError as error:
        said = " ".join((error.stderr.strip() or error.stdout.strip()).splitlines())
        raise CommandFailed(words[0], said) from error
    return done.stdout
