"""Runs that others made and submit to the leaderboard: checked, kept, and made.

A submission is a folder: `submission.toml` says who made the runs and when, and each run lies in
`<cell id>/seed<k>/` as in a store, its record next to the sets that its score counts. Nothing of it
is executed or imported: a method of the submitter's own is a name here. What is accepted lies in
`<store>/submissions/<id>/`, where no exhibit looks.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
import stat
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from benchmark.errors import ObdBenchError
from benchmark.files import file_sha256, json_sha256, read_small, write_atomic
from benchmark.locks import FileLock
from benchmark.names import check_inside
from benchmark.record import FILE, Record, check_set, read_record, record_folder
from results.leaderboard_rules import (
    ABOUT,
    SET_NAME,
    About,
    BadSubmission,
    check_cells,
    check_known,
    check_record,
    check_sets,
    is_built_in,
    naming,
)

FOLDER = "submissions"
"""Folder of a store that holds what was accepted."""
ACCEPTED = "accepted.json"
"""What was found when a submission was accepted, in its folder."""
INCOMING = ".incoming-"
"""Beginning of the folder that an acceptance writes, and that one which was killed leaves."""

MOST_FILES = 20_000
MOST_BYTES = {ABOUT: 2**14, FILE: 2**24, ".safetensors": 2**25}
"""Bytes of a file by its name, or the name's ending."""
MOST_OF_ALL = 2**30
LONGEST_MESSAGE = 2000
_RUN_FILE = re.compile(rf"[\w.+@-]+/seed\d+/({re.escape(FILE)}|{SET_NAME.pattern})", re.ASCII)
_RUN_FOLDER = re.compile(r"[\w.+@-]+(/seed\d+)?", re.ASCII)


class Rescored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run's sets, scored again by whoever accepted it.

    Args:
        recorded: Normalized return of the record.
        found: Normalized return of the same sets here.
        tolerance: Points within which the two had to agree.
    """

    recorded: float
    found: float
    tolerance: float


class Acceptance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a submission was accepted, and what was found.

    Args:
        accepted: Day, UTC.
        content: Digest of all files of the submission.
        rescored: What scoring again gave, by run id.
    """

    accepted: datetime.date
    content: str
    rescored: dict[str, Rescored]


@dataclass(frozen=True, eq=False)
class Submission:
    """A submission whose files have been checked; its numbers not yet, unless it was accepted.

    Args:
        folder: Folder that holds its files.
        about: Who and when.
        records: Complete records, by run id.
        pairs: Number of pairs of each run's largest set, by run id.
        accepted: Set where it is one of a store's.
    """

    folder: Path
    about: About
    records: Sequence[Record]
    pairs: Mapping[str, int]
    accepted: Acceptance | None = None

    @cached_property
    def content(self) -> str:
        """Digest of all files but what was added when it was accepted."""
        paths = sorted(_files(self.folder))
        return json_sha256({name: file_sha256(self.folder / name) for name in paths})

    @property
    def name(self) -> str:
        """Name of its folder in a store."""
        return f"{self.about.date}-{self.content[:12]}"

    @property
    def by(self) -> str:
        """Who and when, as tables mark every row of it."""
        return f"submitted by {self.about.who}, {self.about.date}"


# --- reading -------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_copy(folder: Path) -> Iterator[Path]:
    """Copy a submission to a folder of this process, so that what is checked cannot change.

    Messages of errors in this block name the file in the submission.

    Args:
        folder: Folder that somebody else made.

    Raises:
        BadSubmission: A file is none of a submission, or too large; nothing is read through links.
    """
    if not folder.is_dir():
        raise BadSubmission(f"{folder} is not a folder; expected one with {ABOUT} and runs.")
    with tempfile.TemporaryDirectory() as away:
        copy, total = Path(away) / "submission", 0
        try:
            for name in _files(folder):
                content = _read(folder / name)
                if (total := total + len(content)) > MOST_OF_ALL:
                    raise BadSubmission(
                        f"{folder} holds more than {MOST_OF_ALL:,} bytes up to {name}. Submit "
                        f"fewer runs at a time."
                    )
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(content)
            yield copy
        except ObdBenchError as error:
            message = str(error)[:LONGEST_MESSAGE]  # whatever a file says at length
            raise BadSubmission(message.replace(str(copy), str(folder))) from error


def read_submission(folder: Path) -> Submission:
    """A submission whose files hold what they say: texts, records, their scores, their sets.

    Whether its methods are known, and its numbers come back, are questions of their own.

    Raises:
        ObdBenchError: Naming the first file that is wrong.
    """
    about = _read_about(folder / ABOUT)
    records, pairs = [], {}
    for path in sorted(folder.glob(f"*/seed*/{FILE}")):
        record = read_record(path)
        with naming(path):
            check_record(record, about)
            pairs[record.run_id] = check_sets(record, path.parent)
        records.append(record)
    if not records:
        raise BadSubmission(f"{folder} holds no run; expected CELL/seed0/{FILE} and its sets.")
    for name in _files(folder):
        if name.endswith(".safetensors") and not (folder / name).with_name(FILE).exists():
            raise BadSubmission(
                f"{folder / name} has no {FILE} next to it. Add it, or remove both."
            )
    with naming(folder):
        check_cells(records)
    return Submission(folder, about, records, pairs)


def _files(folder: Path) -> Iterator[str]:
    """Names of a submission's files under its folder.

    Raises:
        BadSubmission: Something there is not a file of a submission, or there are too many.
    """
    waiting, count = [""], 0
    while waiting:
        inside = waiting.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}".lstrip("/")
                if (count := count + 1) > MOST_FILES:
                    raise BadSubmission(
                        f"{folder} holds more than {MOST_FILES:,} files and folders. Submit fewer "
                        f"runs at a time."
                    )
                if entry.is_symlink():
                    raise BadSubmission(f"{folder / name} is a link. Replace it by the file.")
                if entry.is_dir(follow_symlinks=False) and _RUN_FOLDER.fullmatch(name):
                    waiting.append(name)
                elif entry.is_file(follow_symlinks=False) and (
                    name == ABOUT or _RUN_FILE.fullmatch(name)
                ):
                    yield name
                elif name != ACCEPTED:
                    raise BadSubmission(
                        f"{str(folder / name)!r} is not a file of a submission; expected {ABOUT}, "
                        f"CELL/seed<k>/{FILE} and CELL/seed<k>/set-<step>.safetensors only. "
                        f"Nothing else is read, programs and pickles least of all. Remove it."
                    )


def _read(path: Path) -> bytes:
    """Read a file of a submission; one that was replaced by a link or a pipe is refused."""
    most = next(size for ending, size in MOST_BYTES.items() if path.name.endswith(ending))
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        fits = stat.S_ISREG(os.fstat(handle).st_mode)
        content = stream.read(most + 1) if fits else b""
    if not fits or len(content) > most:
        raise BadSubmission(
            f"{path} has {path.stat().st_size:,} bytes; expected a file of at most {most:,}."
        )
    return content


def _read_about(path: Path) -> About:
    if not path.exists():
        raise BadSubmission(
            f"{path} does not exist. Write it: who, date, what (docs/leaderboard.md)."
        )
    with naming(path):
        try:
            text = read_small(path, MOST_BYTES[ABOUT]).decode("utf-8")
            about = msgspec.convert(tomllib.loads(text), About)
        except (ValueError, RecursionError, msgspec.ValidationError) as error:
            raise BadSubmission(
                f"it does not say who, date and what as TOML: {type(error).__name__}: {error}."
            ) from error
        about.check()
    return about


def check_methods(submission: Submission, shipped: Path) -> None:
    """Hold the methods that a submission names against those that are known here.

    Args:
        submission: One that was read.
        shipped: Store of the suite's own runs.

    Raises:
        ObdBenchError: One is not what it claims to be; the message names the file.
    """
    for name in submission.about.methods:
        if is_built_in(name):
            raise BadSubmission(
                f"{submission.folder / ABOUT}: [methods] describes {name!r}, a method of the "
                f"suite. Take another name for yours, or leave it out."
            )
    for record in submission.records:
        with naming(submission.folder / record_folder(record.run_id) / FILE):
            check_known(record, shipped)


# --- keeping -------------------------------------------------------------------------------------


def check_new(submission: Submission, store: Path) -> None:
    """Check that no run of a submission was accepted before.

    Raises:
        BadSubmission: One was; or what was accepted before cannot be read.
    """
    accepted, damaged = accepted_submissions(store)
    if damaged:
        raise BadSubmission(f"{damaged[0]} Move its folder away before others are accepted.")
    known = {record.run_id: other for other in accepted for record in other.records}
    for record in submission.records:
        if (other := known.get(record.run_id)) is not None:
            raise BadSubmission(
                f"{submission.folder / record_folder(record.run_id) / FILE}: the run was accepted "
                f"before, {other.by} ({other.folder}). A run is shown once; take another name for "
                f"another method."
            )


def accept_submission(
    submission: Submission, store: Path, rescored: Mapping[str, Rescored]
) -> Path:
    """Add a checked submission to a store: all of it, or nothing, whenever this is killed.

    Args:
        submission: One that passed every check.
        store: Folder of records.
        rescored: What scoring some of its runs again gave, by run id.

    Returns:
        Its folder.

    Raises:
        BadSubmission: A run of it was accepted before.
    """
    place = check_inside(store, store / FOLDER)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".lock"):
        for left in place.glob(f"{INCOMING}*"):  # by one that was killed: this holds the lock
            shutil.rmtree(left)
        check_new(submission, store)
        incoming = Path(tempfile.mkdtemp(dir=place, prefix=INCOMING))
        incoming.chmod(0o755)
        for name in _files(submission.folder):
            write_atomic(incoming / name, (submission.folder / name).read_bytes())
        facts = Acceptance(
            accepted=datetime.datetime.now(datetime.UTC).date(),
            content=submission.content,
            rescored=dict(rescored),
        )
        write_atomic(incoming / ACCEPTED, msgspec.json.encode(facts) + b"\n")
        return incoming.rename(place / submission.name)


def accepted_submissions(store: Path) -> tuple[list[Submission], list[str]]:
    """Every submission that a store accepted, by date, in spite of damaged ones.

    Returns:
        The submissions, and for each that cannot be read a message.
    """
    found, damaged = [], []
    for folder in sorted((store / FOLDER).glob("[!.]*/")):
        try:
            found.append(_read_accepted(folder))
        except (ObdBenchError, OSError) as error:
            damaged.append(f"{folder} is left out: {error}")
    return found, damaged


def _read_accepted(folder: Path) -> Submission:
    try:
        facts = msgspec.json.decode(read_small(folder / ACCEPTED), type=Acceptance)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadSubmission(
            f"{folder / ACCEPTED} is not what an acceptance wrote: {error}."
        ) from error
    found = read_submission(folder)
    if facts.content != found.content or folder.name != found.name:
        raise BadSubmission(
            f"its files were altered since they were accepted: their digest is "
            f"{found.content[:12]}, not {facts.content[:12]}. Accept the submission again."
        )
    return Submission(folder, found.about, found.records, found.pairs, facts)


def write_submission(folder: Path, about: About, runs: Sequence[tuple[Record, Path]]) -> Submission:
    """Write runs as a submission: their records, and the sets that their scores count.

    Args:
        folder: Folder that does not exist yet.
        about: Who and when.
        runs: Complete records, each with its folder.

    Raises:
        BadSubmission: The folder exists, or a run cannot be submitted; nothing is left then.
    """
    if folder.exists():
        raise BadSubmission(f"{folder} exists already. Name a new folder.")
    double = [run for run, count in Counter(r.run_id for r, _ in runs).items() if count > 1]
    if double:
        raise BadSubmission(f"{double[0]} is given twice. Name each run once.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    incoming = Path(tempfile.mkdtemp(dir=folder.parent, prefix=INCOMING))
    try:
        incoming.chmod(0o755)
        write_atomic(incoming / ABOUT, _toml(about))
        for record, source in runs:
            target = incoming / record_folder(record.run_id)
            write_atomic(target / FILE, (source / FILE).read_bytes())
            for checkpoint in record.counted:
                path = check_set(record, checkpoint, source)
                write_atomic(target / path.name, path.read_bytes())
        try:
            read_submission(incoming)
        except ObdBenchError as error:
            raise BadSubmission(str(error).replace(str(incoming), str(folder))) from error
        incoming.rename(folder)
    except BaseException:
        shutil.rmtree(incoming)
        raise
    return read_submission(folder)


def _toml(about: About) -> str:
    """TOML of checked texts, none of which holds a quotation mark or backslash."""
    about.check()
    lines = [f'who = "{about.who}"', f"date = {about.date}", f'what = "{about.what}"']
    lines += [f'contact = "{about.contact}"'] if about.contact else []
    lines += ["", "[methods]"] if about.methods else []
    lines += [f'{name} = "{sentence}"' for name, sentence in about.methods.items()]
    return "\n".join(lines) + "\n"
