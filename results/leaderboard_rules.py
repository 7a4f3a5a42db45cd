"""What a record, a set or a text of somebody else must be to stand on the leaderboard.

`read_record` checks that a record does not contradict itself. Here is what it may claim: scores
under a protocol of which nothing was left out, sets that are small enough to be scored again, and
texts that are shown and never obeyed.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmark.config import LARGEST_INTEGER
from benchmark.datasets.source import DatasetName
from benchmark.errors import ObdBenchError, did_you_mean, short
from benchmark.method import METHODS
from benchmark.protocol import PROTOCOLS
from benchmark.record import FILE, Checkpoint, Record, check_set, read_record
from benchmark.spec import NONE, OtherVersion, RunSpec
from benchmark.students.network import STUDENTS
from benchmark.synthetic_set import load_synthetic_set
from results.frames import declared_pairs, made_of_several

ABOUT = "submission.toml"
MOST = {
    "layers of a student": 64,
    "units of a layer": 4096,
    "episodes of a set": 10_000,
    "activations of a layer, over students and pairs": 1e9,
    "products to train all students": 1e13,
}
"""What scoring a run again may take: far more than the paper's size, an hour or so of a core."""
LONGEST_EPISODE = 10**6
LARGEST_RETURN = 1e9
LARGEST_NUMBER = float(LARGEST_INTEGER)
"""Numbers lie below, so that the integers of a table hold them."""
LONGEST_TEXT, MOST_SETTINGS = 1000, 2**13
"""Characters of a text in a record, and of all settings of a run together."""

SET_NAME = re.compile(r"set-\d{1,20}\.safetensors", re.ASCII)
_METHOD = re.compile(r"[a-zA-Z]([a-zA-Z0-9_]{0,58}[a-zA-Z0-9])?")
_CONTACT = re.compile(r"[\w.+-]+@[\w.-]+|https?://[\w./~%?=&#:+-]+", re.ASCII)
_SETTING = re.compile(r"[\w .,:;@/+=()'\"{}-]*", re.ASCII)
"""Texts of a run's settings, which tables show: nothing that is markup."""
_PUNCTUATION = " .,:;'&()/%+=-"


class BadSubmission(ObdBenchError):
    """A submission that is not accepted; the message names the file."""


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `submission.toml` says.

    Args:
        who: Who made the runs, as the table shows it.
        date: Day on which the submission was put together.
        what: One sentence on what it is.
        contact: E-mail address or URL; may be left out.
        methods: Methods of the submitter's own, each with one sentence.
    """

    who: str
    date: datetime.date
    what: str
    contact: str = ""
    methods: dict[str, str] = {}

    def check(self) -> None:
        """Check every text: they are shown in tables and on terminals.

        Raises:
            BadSubmission: One holds more than words, or the day has not come yet.
        """
        _check_words("who", self.who, 60)
        _check_words("what", self.what, 200)
        if self.contact and not (len(self.contact) <= 200 and _CONTACT.fullmatch(self.contact)):
            raise BadSubmission(
                f"contact is {self.contact[:200]!r}; expected an e-mail address or a URL that "
                f"begins with https://, or leave it out."
            )
        for name, sentence in self.methods.items():
            _check_method(name)
            _check_words(f"the sentence on {name}", sentence, 200)
        if self.date > datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1):
            raise BadSubmission(f"date is {self.date}, which has not come yet; expected its day.")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Begin the message of an error with the file that it is about."""
    try:
        yield
    except ObdBenchError as error:
        named = str(path.parent if path.name == FILE else path) in str(error)
        raise BadSubmission(f"{error}" if named else f"{path}: {error}") from error


def _check_words(what: str, text: str, most: int) -> None:
    """Check a text that is shown: words of scripts that run from left to right, and no markup.

    Raises:
        BadSubmission: It holds something else, or too much of it.
    """
    for character in text:
        turns = unicodedata.bidirectional(character) in ("R", "AL", "AN")
        if turns or not (character.isalnum() or character in _PUNCTUATION):
            raise BadSubmission(
                f"{what} holds the character U+{ord(character):04X}; expected letters that are "
                f"written from left to right, digits, spaces and {_PUNCTUATION.strip()} only."
            )
    if (
        not 0 < len(text) <= most
        or not (text[0].isalnum() and text == text.strip())
        or re.search(r"www\.|://", text, re.IGNORECASE)
        or unicodedata.normalize("NFKC", text) != text
    ):
        raise BadSubmission(
            f"{what} is {text[:most]!r} ({len(text)} characters); expected 1 to {most} that begin "
            f"with a letter or digit, without an address (use contact) or look-alike characters."
        )


def _check_method(name: str) -> None:
    if not _METHOD.fullmatch(name):
        raise BadSubmission(
            f"the method is called {name[:60]!r}; expected up to 60 of a-z, A-Z, 0-9 and '_', the "
            f"first a letter, the last not '_'. Rename it in the records and in {ABOUT}."
        )


def _check_values(value: Any, where: str, *, shown: bool) -> None:
    """Check plain values of a record, however deep: finite numbers and short, plain texts.

    Args:
        value: Value as the record has it.
        where: Its place, for the message.
        shown: Whether tables show it.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_values(key, f"a key of {where}", shown=shown)
            _check_values(inner, f"{where}.{key}", shown=shown)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_values(inner, f"{where}.{index}", shown=shown)
    elif isinstance(value, str):
        plain = value.isascii() and value.isprintable() and len(value) <= LONGEST_TEXT
        if not plain or (shown and not _SETTING.fullmatch(value)):
            raise BadSubmission(
                f"{where} is {value[:60]!r} ({len(value)} characters); expected at most "
                f"{LONGEST_TEXT} printable characters of ASCII, and no markup in settings."
            )
    elif isinstance(value, int | float) and not abs(value) < LARGEST_NUMBER:
        raise BadSubmission(f"{where} is {short(value)}; expected a number that a run can have.")


def is_built_in(method: str) -> bool:
    """Whether a method is the suite's own, not one that somebody installed or a plug-in adds."""
    return method in METHODS and METHODS.origin(method) == "obdbench"


def check_record(record: Record, about: About) -> None:
    """Check what a record of somebody else claims beyond what `read_record` checks.

    Raises:
        BadSubmission: It could not come of a run under its protocol.
    """
    _ = record.mean_score  # a failed run is none to show
    spec, protocol = record.spec, record.spec.protocol
    _check_method(spec.method)
    values = record.as_dict()
    for key in ("spec", "parameters", "needs", "run_id"):
        _check_values(values.pop(key), key, shown=True)
    for checkpoint in record.checkpoints:
        _check_checkpoint(record, checkpoint)
    del values["checkpoints"], values["score"]  # which follows from them
    _check_values(values, "the record", shown=False)
    settings = len(json.dumps([record.parameters, spec.as_dict()]))
    if settings > MOST_SETTINGS:
        raise BadSubmission(
            f"its settings take {settings:,} characters; expected at most {MOST_SETTINGS:,}."
        )
    named = PROTOCOLS.get(protocol.name, protocol)
    if named != protocol:
        raise BadSubmission(
            f"the protocol {protocol.name!r} has other numbers than the suite's ({named}). Score "
            f"under the suite's, or give yours another name."
        )
    steps = [c.outer_step for c in record.checkpoints if c.outer_step]
    every = protocol.checkpoint_every
    due = [every * (place + 1) for place in range(len(steps))]
    if steps[:-1] != due[:-1] or (steps and not 0 <= due[-1] - steps[-1] < every):
        raise BadSubmission(
            f"it has results of outer steps {short(steps)}; by its protocol one is due every "
            f"{every} and at the end. No result may be left out."
        )
    if not is_built_in(spec.method) and spec.method not in about.methods:
        raise BadSubmission(
            f"its method {spec.method!r} is neither the suite's nor described under [methods] of "
            f"{ABOUT}. {did_you_mean(spec.method, [*METHODS, *about.methods])}"
        )
    try:
        finished = datetime.date.fromisoformat(record.finished[:10])
    except ValueError as error:
        raise BadSubmission(
            f"it was finished on {record.finished!r}, which is not a day."
        ) from error
    if finished > about.date + datetime.timedelta(days=1):
        raise BadSubmission(
            f"it was finished on {finished}, after the day of the submission ({about.date}). "
            f"Correct the date in {ABOUT}."
        )


def _check_checkpoint(record: Record, checkpoint: Checkpoint) -> None:
    """Check that a result has a set next to the record, and numbers that an episode can have.

    Raises:
        BadSubmission: It has none, or a return or a length is huge.
    """
    at = f"at outer step {short(checkpoint.outer_step)}"
    if checkpoint.synthetic_set is None:
        raise BadSubmission(
            f"its result {at} is policies, which cannot be scored again without the code of the "
            f"method. Submit runs that give sets."
        )
    if not SET_NAME.fullmatch(checkpoint.synthetic_set):
        raise BadSubmission(
            f"it names the set {short(checkpoint.synthetic_set)} {at}; expected a file next to "
            f"it, such as set-00000100.safetensors."
        )
    for value in (value for row in checkpoint.returns for value in row):
        if not abs(value) <= LARGEST_RETURN:
            raise BadSubmission(
                f"it has a return of {short(value)} {at}; expected at most {LARGEST_RETURN:.0e}."
            )
    for length in (length for row in checkpoint.lengths for length in row):
        if length > LONGEST_EPISODE:
            raise BadSubmission(
                f"it has an episode of {short(length)} steps {at}; expected at most "
                f"{LONGEST_EPISODE:,}."
            )


def check_sets(record: Record, folder: Path) -> int:
    """Check the sets of a run: those that count are there, and all are as the record says.

    Returns:
        The number of pairs of the largest.
    """
    named = {c.synthetic_set: c for c in record.checkpoints if c.synthetic_set}
    for path in sorted(folder.glob("set-*")):
        if path.name not in named:
            raise BadSubmission(f"{path} is a set that its record does not name. Remove it.")
    old, most = record.provenance.converted_from, declared_pairs(record.parameters)
    pairs = []
    for checkpoint in record.checkpoints:
        counts = checkpoint.outer_step in record.mean_score.outer_steps_used
        if not counts and not (folder / str(checkpoint.synthetic_set)).exists():
            continue
        path = check_set(record, checkpoint, folder)
        synthetic, _, card = load_synthetic_set(path)
        pairs.append(len(synthetic))
        for what, found, expected in (
            ("run", card.get("run_id"), old.run_id if old else record.run_id),
            ("outer step", card.get("outer_step"), checkpoint.outer_step),
        ):
            if found != expected:
                raise BadSubmission(
                    f"{path} is a set of {what} {str(found)[:100]!r}; its record says "
                    f"{str(expected)[:100]!r}. Put in the set that was scored."
                )
        if most is not None and len(synthetic) > most:
            raise BadSubmission(
                f"{path} holds {len(synthetic)} pairs; its record says synthetic_size = {most}."
            )
    _check_scoring(record, max(pairs))
    return max(pairs)


def _check_scoring(record: Record, pairs: int) -> None:
    """Check that scoring a run again ends in a reasonable time and fits into memory."""
    protocol, student = record.spec.protocol, record.spec.scoring_student
    count = protocol.students * protocol.ensemble
    units = float(count) * pairs * student.width
    products = units * student.width * student.depth * student.steps * len(record.counted)
    for what, found in (
        ("layers of a student", student.depth),
        ("units of a layer", student.width),
        ("episodes of a set", count * protocol.episodes),
        ("activations of a layer, over students and pairs", units),
        ("products to train all students", products),
    ):
        if found > MOST[what]:
            raise BadSubmission(
                f"scoring it again takes {found:.3g} {what}; expected at most {MOST[what]:.3g}."
            )


def check_cells(records: Sequence[Record]) -> None:
    """Check that the records of a cell can be averaged, and none of its seeds is left out.

    Raises:
        BadSubmission: They are of two methods, data, teachers or scales, or a seed is missing.
    """
    cells: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        cells[record.cell_id].append(record)
    for cell, runs in cells.items():
        for run in runs[1:]:
            _require_same(runs[0], run, "the submission")
        for what, count in made_of_several(runs).items():
            raise BadSubmission(
                f"{cell} has seeds of {count} {what}, so that a mean over them would be of none. "
                f"Run those that differ again."
            )
        seeds = sorted(run.spec.seed for run in runs)
        if seeds != list(range(len(seeds))):
            raise BadSubmission(
                f"{cell} has seeds {short(seeds)}; expected 0 to {len(seeds) - 1} without a gap, "
                f"so that none was chosen by its score. Add the others."
            )


def _require_same(one: Record, other: Record, where: str) -> None:
    """Refuse two different methods under one cell id."""
    for key in ("spec", "parameters", "needs", "reference"):
        found, known = getattr(other, key), getattr(one, key)
        if key == "spec":
            found, known = found.with_seed(0), known.with_seed(0)
        if found != known:
            raise BadSubmission(
                f"{other.run_id} has another {key} than {one.run_id} of {where}, under the same "
                f"cell id: two methods cannot have one id. Give yours a name of its own."
            )


def check_known(record: Record, shipped: Path) -> None:
    """Hold the method that a record names against those that are known here.

    Args:
        record: Record of a submission.
        shipped: Store of the suite's own runs.

    Raises:
        ObdBenchError: It claims a built-in method with settings or facts that are not its, or the
            cell id of a shipped run of another method.
    """
    known = [read_record(path) for path in sorted((shipped / record.cell_id).glob(f"seed*/{FILE}"))]
    if known:  # of an older version of the method, perhaps
        _require_same(known[0], record, "the suite")
        _check_whole(record, known)
    elif is_built_in(record.spec.method):
        _check_built_in(record)
        _check_whole(record)
    elif record.reference:
        raise BadSubmission(
            "it calls itself a reference, which no method of others is. Set reference to false."
        )
    STUDENTS[record.spec.scoring_student.name]
    record.spec.check_heads(DatasetName.parse(record.spec.dataset))


def _check_built_in(record: Record) -> None:
    spec = record.spec
    method = spec.method_instance  # of this version, with settings that it has
    named = {"teacher": spec.teacher, "density": spec.density}
    expected = RunSpec.create(
        method=spec.method,
        dataset=spec.dataset,
        parameters=spec.parameters,
        where=f"the parameters of {spec.method}",
        protocol=spec.protocol,
        seed=spec.seed,
        student=spec.student,
        evaluation_student=spec.evaluation_student,
        **{key: name for key, name in named.items() if name != NONE},
    )
    for what, found, known in (
        ("settings", spec, expected),
        ("parameters", record.parameters, spec.resolved_parameters),
        ("needs", sorted(record.needs), sorted(method.needs)),
        ("reference", record.reference, method.reference),
    ):
        if found != known:
            raise BadSubmission(
                f"it claims the suite's method {spec.method} with {what} {short(found)}; the "
                f"suite's has {short(known)}. Give a changed method a name of its own."
            )


def _check_whole(record: Record, shipped: Sequence[Record] = ()) -> None:
    """Check that a run of the suite's method went on to its last outer step, or spent its budget.

    Args:
        record: Record of a submission; its parameters have been checked.
        shipped: The suite's own runs of its cell. Where it is of an older version of its method,
            which no longer says how long a run is, the longest of these does.
    """
    last = record.checkpoints[-1].outer_step
    try:
        steps = record.spec.method_instance.total_outer_steps
    except OtherVersion:
        steps = max((c.outer_step for run in shipped for c in run.checkpoints), default=0)
    budget = record.parameters.get("environment_steps")
    spent = budget is not None and record.cost.environment_steps >= budget
    if steps not in (0, last) and not spent:
        raise BadSubmission(
            f"it ended at outer step {last}, and its outer_steps are {steps}. Submit whole runs."
        )
