"""Job states in what `squeue` and `sacct` print, as JSON or as lines.

Sites put banners before it, versions add states and change how JSON says a number. What cannot be
read is skipped and counted; where it names an array, a missing job is not taken to be gone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
"""States that a job stays in; all others may still work."""
NO_VALUE = 0xFFFFFFFE
"""How some versions print a number that is not set."""
LARGEST = 4_000_001
"""SLURM's own limit on the size of an array."""

QUEUE_FORMAT = "%j|%K|%T|%r|%N|%i"
QUEUE_LINE = re.compile(r"([^|]*)\|([^|]*)\|([A-Z_]+)\|(.*)\|([^|]*)\|(\d+)(_\S+)?")
HISTORY_FORMAT = "JobName,JobID,State,ExitCode,NodeList"
HISTORY_LINE = re.compile(
    r"([^|]*)\|\d+(?:_(\d+)|(_\[.*\]))?\|([A-Z_]+)\+?(?: by \d+)?\|(\d+:\d+)?\|(.*)"
)
TASKS = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")


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


@dataclass
class Answer:
    """What could be read of an answer.

    Args:
        jobs: The jobs of the arrays that were asked for.
        skipped: Number of lines, or JSON entries, that could not be read.
        doubtful: Arrays that unreadable lines name: a missing job of theirs may be there.
    """

    jobs: dict[JobKey, JobState] = field(default_factory=dict)
    skipped: int = 0
    doubtful: set[str] = field(default_factory=set)


Job = tuple[str, Iterable[tuple[int, JobState]]]
"""A line's array, and the places that it tells of, each with its state."""


def read_queue_line(line: str) -> Job:
    """A line of `squeue --format=QUEUE_FORMAT`.

    Raises:
        ValueError: It is none.
    """
    if (found := QUEUE_LINE.fullmatch(line.strip())) is None:
        raise ValueError("not a job")
    name, places, state, reason, node, number = map(str.strip, found.groups()[:6])
    each = [0] if places in ("N/A", "") else _places(places)
    return name, (_queued(p, state, reason, node, number, found[7]) for p in each)


def read_queue_entry(entry: Mapping[str, Any]) -> Job:
    """An entry of `squeue --json`: a job, or the waiting rest of an array.

    Raises:
        KeyError, TypeError, ValueError: It is neither.
    """
    array, place = _number(entry.get("array_job_id")), _number(entry.get("array_task_id"))
    rest = _text(entry.get("array_task_string")) if place is None else ""
    each = _places(rest) if rest else [place or 0]
    state, reason = _state(entry["job_state"]), _text(entry.get("state_reason"))
    node, number = _text(entry.get("nodes")), str(array or _number(entry.get("job_id")) or "")
    return _text(entry["name"]), (_queued(p, state, reason, node, number, array) for p in each)


def read_history_line(line: str) -> Job:
    """A line of `sacct --parsable2 --format=HISTORY_FORMAT`.

    Raises:
        ValueError: It is none.
    """
    if (found := HISTORY_LINE.fullmatch(line.strip())) is None:
        raise ValueError("not a job")
    name, place, rest, state, exit_code, node = found.groups()
    # The waiting rest of an array, "12_[3-9]", is in the queue, which knows more of it.
    return name, [] if rest else [(int(place or 0), JobState(state, "", node, exit_code or ""))]


def read_history_entry(entry: Mapping[str, Any]) -> Job:
    """An entry of `sacct --json`.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    array, code = _table(entry.get("array")), _table(entry.get("exit_code"))
    signal = _table(code.get("signal"))
    place = _number(array.get("task_id"))
    number = _number(signal["signal_id"] if "signal_id" in signal else signal.get("id"))
    state = JobState(
        _state(_table(entry["state"])["current"]),
        "",
        _text(entry.get("nodes")),
        f"{_number(code.get('return_code')) or 0}:{number or 0}",
    )
    waiting = place is None and array.get("task")
    return _text(entry["name"]), [] if waiting else [(place or 0, state)]


def read_lines(printed: str, names: Sequence[str], read: Callable[[str], Job]) -> Answer:
    """Job states from lines of text."""
    return _collect(printed.splitlines(), names, read)


def read_json(
    printed: str, names: Sequence[str], read: Callable[[Mapping[str, Any]], Job]
) -> Answer:
    """Job states from JSON, which may stand between other lines.

    Raises:
        ValueError: There is no JSON, it lists no jobs, or it tells of an error.
    """
    before, brace, _ = printed.partition("{")
    value, end = json.JSONDecoder().raw_decode(printed, len(before))
    if not brace or not isinstance(value.get("jobs"), list) or value.get("errors"):
        raise ValueError("no list of jobs")
    answer = _collect(value["jobs"], names, read)
    answer.skipped += sum(bool(line.strip()) for line in (before + printed[end:]).splitlines())
    return answer


def _collect(entries: Iterable[Any], names: Sequence[str], read: Callable[[Any], Job]) -> Answer:
    answer, wanted = Answer(), set(names)
    for entry in entries:
        try:
            name, jobs = read(entry)
            if name in wanted:
                answer.jobs.update({JobKey(name, place): state for place, state in jobs})
        except (AttributeError, KeyError, TypeError, ValueError):
            answer.skipped += 1
            answer.doubtful |= {name for name in names if name in str(entry)}
    return answer


def _queued(
    place: int, state: str, reason: str, node: str, number: str, in_array: object
) -> tuple[int, JobState]:
    """One place of the queue; its job's number is "12_3" in an array."""
    number = f"{number}_{place}" if in_array else number
    return place, JobState(state, "" if reason == "None" else reason, node, number=number)


def _places(text: str) -> Iterator[int]:
    """The places of "3", "0-5%2", "[0-8:2,11]".

    Raises:
        ValueError: It is something else, or was cut off.
    """
    for part in text.split("%")[0].strip("[]").split(","):
        if (found := TASKS.fullmatch(part)) is None:
            raise ValueError(f"{part!r} is not a range of places")
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if not first <= last <= LARGEST:
            raise ValueError(f"{part!r} is not a range of an array's places")
        yield from range(first, last + 1, step)


def _state(value: object) -> str:
    """A state that may be a list of a state and flags, of which any sign of life counts."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise ValueError(f"{value!r} is not a state")
    for word in words:
        if not isinstance(word, str) or not re.fullmatch("[A-Z_]+", word):
            raise ValueError(f"{word!r} is not a state")
    return str(next((word for word in words if word not in ENDED), words[0]))


def _number(value: object) -> int | None:
    """A number that may be {"set", "infinite", "number"}; None where it is not set."""
    if isinstance(value, Mapping):
        value = value["number"] if value.get("set", True) and not value.get("infinite") else None
    if value is None or value == NO_VALUE:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not a number")
    return int(value) if value != "" else None


def _text(value: object) -> str:
    if not isinstance(value, str | None):
        raise ValueError(f"{value!r} is not a text")
    return value or ""


def _table(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping | None):
        raise ValueError(f"{value!r} is not a table")
    return value or {}
