"""Records: what a run leaves behind, one typed JSON file each, written in one piece.

A reader may trust a record that `read_record` gives: its ids follow from its spec, its folder from
its ids, and its score from its returns. `json_schema` describes the file for other languages.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from benchmark.clocks import Cost
from benchmark.datasets.dataset import ReferenceReturns
from benchmark.environments.contacts import adds_margins, contact_rule
from benchmark.errors import ObdBenchError, did_you_mean, short
from benchmark.files import (
    MOST_BYTES,
    UnfitFile,
    file_sha256,
    json_sha256,
    read_small,
    write_atomic,
)
from benchmark.names import check_name
from benchmark.protocol import Protocol
from benchmark.spec import RunSpec

SCHEMA = "obdbench.record/2"
FILE = "record.json"

Status = Literal["complete", "failed"]
Need = Literal["dataset", "teacher", "log_density", "environment"]
MethodFact = float | int | str | None
OuterStep = Annotated[int, Meta(ge=0)]
MOST_THREADS = 1024
Threads = Annotated[int, Meta(ge=1, le=MOST_THREADS)]
Time = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)$")]
"""Time in UTC, ISO 8601."""
MOST_OF_A_SET = 2**30
"""Bytes that the file of a synthetic set may have: hashing more would look like hanging."""
MOST_SAID = 500
"""Characters of what msgspec says of a file."""
DIGEST = "sha256"
"""Key of a record's file that holds the digest of all others; older records have none."""

ORIGIN_OF_A_TEACHER = ("dataset", "dataset_sha256", "checkpoint_sha256")
"""Keys that are written only where they are known; older records have none of them."""


class BadRecord(ObdBenchError):
    """A record that does not follow the schema, or that contradicts itself."""


class OtherVersion(BadRecord):
    """A whole record of another version of the suite; it is never put aside or replaced."""


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a record."""


class Point(_Part, frozen=True, kw_only=True):
    """A point of a run's curve.

    Args:
        outer_step: Outer step after which it was scored.
        mean_return: Mean of the undiscounted returns of all episodes.
        normalized_return: Normalisation of `mean_return`.
        synthetic_set: File next to the record; None where policies were scored.
        sha256: Digest of that file.
    """

    outer_step: OuterStep
    mean_return: float
    normalized_return: float
    synthetic_set: str | None
    sha256: str | None


class Checkpoint(Point, frozen=True, kw_only=True):
    """A scored result of one outer step, with every episode.

    Args:
        returns: Undiscounted returns, one row per policy, one entry per episode.
        lengths: Environment steps of the same episodes.
    """

    returns: Annotated[list[Annotated[list[float], Meta(min_length=1)]], Meta(min_length=1)]
    lengths: list[list[Annotated[int, Meta(ge=1)]]]


class Score(_Part, frozen=True, kw_only=True, rename={"return_": "return"}):
    """The score of a run: means over the last checkpoints that the protocol names.

    Args:
        normalized_return: 0 is the random policy, 100 the expert.
        return_: Undiscounted return.
        outer_steps_used: Outer steps of the checkpoints that the means are over.
    """

    normalized_return: float
    return_: float
    outer_steps_used: Annotated[list[OuterStep], Meta(min_length=1)]


class TeacherFacts(_Part, frozen=True, kw_only=True, rename={"return_": "return"}):
    """The teacher that a method used, and its measured mean return; None where not measured.

    Args:
        name: Recipe and seed, or `cal_ql_authors`.
        sha256: Digest of its file.
        return_: Mean return of its deterministic policy.
        normalized_return: The same, normalised.
        episodes: Count of episodes of that measurement.
        parameters: Every setting of the recipe that it was trained with; empty where imported.
        dataset: Name of the data that it learned from.
        dataset_sha256: Digest of their content, which may differ from that of the run's dataset;
            None where it was imported.
        checkpoint_sha256: Digest of the file that it was imported from; None where it was trained.
            All three are None in records of earlier versions.
    """

    name: str
    sha256: str
    return_: float | None
    normalized_return: float | None
    episodes: int | None
    parameters: dict[str, Any] = {}
    dataset: str | None = None
    dataset_sha256: str | None = None
    checkpoint_sha256: str | None = None


class DensityFacts(_Part, frozen=True, kw_only=True):
    """The log densities that a method used.

    Args:
        name: Recipe.
        sha256: Digest of the values, `[M]` float64.
        held_out_log_likelihood: Nats per state, mean over held-out episodes.
        held_out_standard_error: Standard error of that mean, over episodes.
        not_finite: Values that were replaced.
    """

    name: str
    sha256: str
    held_out_log_likelihood: float | None
    held_out_standard_error: float | None
    not_finite: Annotated[int, Meta(ge=0)]


class Seeds(_Part, frozen=True, kw_only=True):
    """What seeds derive from: `derive_seed(**axes, purpose=..., ...)`."""

    seed: int
    distillation: dict[str, str | int]
    scoring: dict[str, str | int]


class ConvertedFrom(_Part, frozen=True, kw_only=True):
    """The format and the run id that a record had when it was made."""

    schema: str
    run_id: str


class Origin(_Part, frozen=True, kw_only=True):
    """Where numbers come from: code, packages and machine.

    Args:
        commit: Commit of the suite's checkout; None where there is none.
        dirty: Whether the checkout was changed since.
        packages: Versions of the packages that numbers depend on.
        python: Version of Python.
        device: Torch device and its name.
        host: Name of the machine.
        threads: Threads of torch; rounding depends on it.
    """

    commit: str | None
    dirty: bool | None
    packages: dict[str, str]
    python: str
    device: str
    host: str
    threads: Threads


class Provenance(Origin, frozen=True, kw_only=True):
    """Where a run's numbers come from, with its data and seeds.

    Args:
        engine: What computed the method's heavy part ("torch", or a name that the method gives);
            rounding depends on it.
        environment: Gymnasium id of the environment that was scored in.
        contacts: Rule of its contacts (`benchmark.environments.contacts`); None where the installed
            MuJoCo decides.
        dataset_sha256: Digest of the dataset's content.
        seeds: What every seed derives from.
        resumed_from: What was other in an earlier attempt that this run went on from, such as
            "threads 1"; empty where all attempts were alike.
        converted_from: Set where the record was converted from an older format.
    """

    environment: str | None
    contacts: str | None = None
    dataset_sha256: str | None
    seeds: Seeds
    engine: str = "torch"
    resumed_from: list[str] = []
    converted_from: ConvertedFrom | None = None


class Failure(_Part, frozen=True, kw_only=True):
    """The error that ended a run."""

    type: str
    message: str
    traceback: str


class Summary(_Part, frozen=True, kw_only=True):
    """What tables and figures take of a record: all but the single episodes.

    Args:
        schema: Format of the file.
        run_id: Cell and seed.
        cell_id: Dataset, method, and a digest of the spec without its seed.
        status: Whether the method ended, or an error ended the run.
        spec: What was asked for.
        parameters: Every hyper-parameter of the method, those at their default included.
        needs: What the method declared that it uses.
        reference: True for a row to compare with, which is not distillation.
        checkpoints: Curve of the run, by outer step.
        score: Score of the run; None for a failed one.
        cost: Seconds, bytes and steps over all attempts.
        teacher: The teacher, where the method used one.
        density: The log densities, where the method used them.
        normalisation: Returns that normalisation stands on; None where no dataset was loaded.
        provenance: Where the numbers come from.
        method_facts: What the method noted of itself, such as the norms of its gradients; None
            where a number was not finite.
        sets_of: The run that distilled the sets, where this one only scored them
            (`benchmark.same_sets`); what the distillation cost, its engine, its device and the
            facts of the method are that run's, commit and host those of the scoring.
        error: The error of a failed run.
        started: Time at which the first attempt began, UTC.
        finished: Time at which the record was written, UTC.
    """

    schema: Literal["obdbench.record/2"] = "obdbench.record/2"
    run_id: str
    cell_id: str
    status: Status
    spec: RunSpec
    parameters: dict[str, Any]
    needs: list[Need]
    reference: bool
    checkpoints: Sequence[Point]
    score: Score | None
    cost: Cost
    teacher: TeacherFacts | None
    density: DensityFacts | None
    normalisation: ReferenceReturns | None
    provenance: Provenance
    method_facts: dict[str, MethodFact] = {}
    sets_of: str | None = None
    error: Failure | None
    started: Time
    finished: Time

    def as_dict(self) -> dict[str, Any]:
        """Plain values (JSON)."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values

    @property
    def mean_score(self) -> Score:
        """The score of a complete run.

        Raises:
            BadRecord: The run failed.
        """
        if self.score is None:
            raise BadRecord(f"{self.run_id} failed ({self.failure.type}): it has no score.")
        return self.score

    @property
    def failure(self) -> Failure:
        """The error of a failed run.

        Raises:
            BadRecord: The run is complete.
        """
        if self.error is None:
            raise BadRecord(f"{self.run_id} is complete: it has no error.")
        return self.error


class Record(Summary, frozen=True, kw_only=True):
    """What one run leaves behind, whether it is complete or failed.

    Args:
        checkpoints: Scored results by outer step.
    """

    checkpoints: list[Checkpoint]

    @property
    def counted(self) -> list[Checkpoint]:
        """The checkpoints that the score of a complete run is a mean over."""
        used = set(self.mean_score.outer_steps_used)
        return [c for c in self.checkpoints if c.outer_step in used]


def score_of(checkpoints: Sequence[Point], protocol: Protocol) -> Score:
    """The score over the last checkpoints that the protocol counts.

    The set that a method starts from is scored too, but is not a result of a method that went on.
    Where a run has no more results than the protocol leaves out, as references have, none is.
    """
    results = [c for c in checkpoints if c.outer_step > 0] or checkpoints
    kept = len(results) - protocol.leave_out
    used = (results[:kept] if kept > 0 else results)[-protocol.last :]
    return Score(
        normalized_return=float(np.mean([c.normalized_return for c in used])),
        return_=float(np.mean([c.mean_return for c in used])),
        outer_steps_used=[c.outer_step for c in used],
    )


def write_record(path: Path, record: Record) -> None:
    """Check and write a record; no reader ever sees half of it.

    Raises:
        BadRecord: It holds a number that is not finite, contradicts itself, or is too large.
    """
    values = record.as_dict()
    if record.sets_of is None:
        del values["sets_of"]  # versions that do not know it refuse only what has it
    if not record.provenance.resumed_from:
        del values["provenance"]["resumed_from"]
    if record.teacher is not None:
        for key in ORIGIN_OF_A_TEACHER:
            if values["teacher"][key] is None:
                del values["teacher"][key]
    if (where := _not_finite(values)) is not None:
        raise BadRecord(f"{path} would hold a value that is not finite at {where}.")
    _check(_convert(values, path), path)
    values[DIGEST] = json_sha256(values)
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    if len(text) > MOST_BYTES:  # characters are of ASCII
        raise BadRecord(
            f"{path} would have {len(text):,} bytes; at most {MOST_BYTES:,} are read. Score fewer "
            f"checkpoints: raise protocol.checkpoint_every."
        )
    write_atomic(path, text)


def read_record(path: Path) -> Record:
    """A record that follows the schema and does not contradict itself.

    Raises:
        OtherVersion: The file is of another version of the suite.
        BadRecord: The file is not JSON, does not follow the schema, or says two different things.
    """
    values = _decode(path)
    said = values.pop(DIGEST, None)
    try:
        return _checked(values, said, path)
    except RecursionError as error:  # less deep than what JSON's reader refuses
        raise BadRecord(
            f"{path} is nested deeper than any record. Move it away and run its sweep again."
        ) from error


def _checked(values: Mapping[str, Any], said: object, path: Path) -> Record:
    """The record of a file's values, `said` being the digest that it names."""
    try:
        record = _convert(values, path)
    except BadRecord as error:
        if said is not None and said == json_sha256(values):  # as it was written, by whomever
            raise OtherVersion(f"{error} Another version of the suite wrote it so.") from error
        raise
    _check(record, path)
    if said is not None and said != (found := json_sha256(values)):
        raise BadRecord(
            f"{path} was altered: its content has sha256 {found[:16]}, it says {str(said)[:16]}. "
            f"Put it back, or run this run again."
        )
    return record


def put_aside_damaged(folder: Path) -> Path | None:
    """Rename a run's record that cannot be read, so that a new one does not replace it.

    Returns:
        Its new path, `record.json.damaged` or with a number after it; None where nothing was wrong,
        or where another version wrote it.
    """
    path = folder / FILE
    try:
        if path.exists():
            read_record(path)
        return None
    except OtherVersion:
        return None
    except BadRecord:
        names = (f"{FILE}.damaged{number or ''}" for number in itertools.count())
        aside = next(folder / name for name in names if not (folder / name).exists())
        path.rename(aside)
        return aside


def check_set(record: Summary, checkpoint: Point, folder: Path) -> Path:
    """The file of a checkpoint's synthetic set, once it is known to be the one that was scored.

    Raises:
        BadRecord: The file is missing, or its content is not what the record names.
    """
    if checkpoint.synthetic_set is None:
        raise BadRecord(f"{record.run_id} scored policies at {checkpoint.outer_step}, not a set.")
    path = folder / check_name(f"A synthetic set of {record.run_id}", checkpoint.synthetic_set)
    if not path.is_file():
        raise BadRecord(f"{path} does not exist, but {record.run_id} names it.")
    if (size := path.stat().st_size) > MOST_OF_A_SET:
        raise BadRecord(
            f"{path} has {size:,} bytes; expected a synthetic set of at most {MOST_OF_A_SET:,}. "
            f"Put the file back, or run this run again."
        )
    if (found := file_sha256(path)) != checkpoint.sha256:
        raise BadRecord(
            f"{path} has sha256 {found[:16]}; {record.run_id} was scored on a set of sha256 "
            f"{str(checkpoint.sha256)[:16]}. Put the file back, or run this run again."
        )
    return path


@cache
def json_schema() -> dict[str, Any]:
    """JSON schema of a record's file, generated from the types above."""
    schema: dict[str, Any] = msgspec.json.schema(Record)
    digest = {"type": "string", "description": "Digest of all other keys, in canonical JSON."}
    schema["$defs"]["Record"]["properties"][DIGEST] = digest
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _decode(path: Path) -> dict[str, Any]:
    try:
        values = msgspec.json.decode(read_small(path))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UnfitFile) as error:
        raise BadRecord(
            f"{path} is not JSON ({error}). Move it away and run its sweep again."
        ) from error
    version = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(values, dict) or version != SCHEMA:
        ours = isinstance(version, str) and version.startswith(SCHEMA.rpartition("/")[0])
        raise (OtherVersion if ours else BadRecord)(
            f"{path} has schema {short(version)}; this version reads {SCHEMA!r}. Records of "
            f"obdbench.record/1 are converted by: python -m results.conversion OLD NEW"
        )
    return values


def _convert(values: Mapping[str, Any], path: Path) -> Record:
    try:
        record = msgspec.convert(values, Record)
    except (msgspec.ValidationError, ObdBenchError) as error:
        said = str(error)[:MOST_SAID]  # it repeats names from the file
        raise BadRecord(f"{path} does not follow {SCHEMA}: {said}.") from error
    try:
        msgspec.msgpack.encode(values)  # as indexes of records hold it
    except OverflowError as error:
        raise BadRecord(
            f"{path} does not follow {SCHEMA}: an integer in it is beyond 64 bits."
        ) from error
    if (unread := _unread_key(values, record.as_dict())) is not None:
        raise BadRecord(f"{path} does not follow {SCHEMA}: {unread}")
    return record


def _check(record: Record, path: Path) -> None:
    """Hold what a record says in two places against each other, and its contacts against ours."""
    _check_contacts(record, path)
    with np.errstate(all="ignore"):  # means of huge numbers overflow, and then differ
        pairs = _pairs(record, path)
    for what, found, expected in pairs:
        same = found == expected
        if isinstance(found, float) and isinstance(expected, float):
            same = math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
        if not same:
            raise BadRecord(
                f"{path} contradicts itself: its {what} is {short(found)}, but {short(expected)} "
                f"follows from the rest. It was altered or moved; put it back, or run this run "
                f"again."
            )


def _check_contacts(record: Record, path: Path) -> None:
    """Refuse scores of an environment whose contacts were others when it was scored."""
    origin = record.provenance
    rule, mujoco = contact_rule(origin.environment), origin.packages.get("mujoco", "unknown")
    if origin.contacts == rule or not record.checkpoints:
        return
    if origin.contacts is None and not adds_margins(mujoco):
        return  # they were the same without being named
    raise BadRecord(
        f"{path} was scored in {origin.environment} with the contacts of MuJoCo {mujoco} "
        f"({origin.contacts or 'no rule named'}); here they have the rule "
        f"{rule or 'of the installed MuJoCo'}, and scores of the two are not comparable. Run this "
        f"run again."
    )


def _pairs(record: Record, path: Path) -> list[tuple[str, object, object]]:
    """What is written, and what must be there by the rest of the record."""
    spec, protocol = record.spec, record.spec.protocol
    seeds = record.provenance.seeds
    pairs: list[tuple[str, object, object]] = [
        ("cell_id", record.cell_id, spec.cell_id),
        ("run_id", record.run_id, spec.run_id),
        ("folder", f"{path.parent.parent.name}/{path.parent.name}", record_folder(spec.run_id)),
        ("seed in provenance", seeds.seed, spec.seed),
    ]
    if record.provenance.converted_from is None:  # in older formats seeds derive from run ids
        pairs += [
            ("origin of the distillation's seeds", seeds.distillation, spec.distillation_axes),
            ("origin of the scoring's seeds", seeds.scoring, spec.scoring_axes),
        ]
    for name, value in spec.parameters.items():
        pairs.append((f"parameter {name}", record.parameters.get(name), value))
    if record.sets_of is not None:
        begins = record.sets_of.startswith(spec.task_prefix)
        ends = record.sets_of.endswith(f".seed{spec.seed}")
        another = begins and ends and record.sets_of != record.run_id
        pairs.append(("sets_of as another run of its method, dataset and seed", another, True))
    steps = [checkpoint.outer_step for checkpoint in record.checkpoints]
    pairs.append(("order of outer steps", steps, sorted(set(steps))))
    names = [one.synthetic_set for one in record.checkpoints if one.synthetic_set is not None]
    pairs.append(("list of synthetic sets", names, list(dict.fromkeys(names))))
    cost = record.cost
    for what, spent, whole in (
        ("seconds", cost.checkpoint_cpu_seconds, cost.cpu_seconds),
        ("environment steps", cost.checkpoint_environment_steps, cost.environment_steps),
    ):
        if spent:
            pairs.append((f"count of checkpoints' {what}", len(spent), len(steps)))
            until = [*spent, whole]
            pairs.append((f"order of checkpoints' {what}", until, sorted(until)))
    for checkpoint in record.checkpoints:
        at, returns = f"at outer step {checkpoint.outer_step}", checkpoint.returns
        shapes = [[len(row) for row in rows] for rows in (returns, checkpoint.lengths)]
        mean = float(np.mean([value for row in returns for value in row]))
        # Students are trained by the protocol; policies, which some methods give, are any number.
        rows = len(returns) if checkpoint.synthetic_set is None else protocol.students
        pairs.append((f"count of episodes {at}", shapes[0], [protocol.episodes] * rows))
        pairs.append((f"count of lengths {at}", shapes[1], shapes[0]))
        pairs.append((f"mean return {at}", checkpoint.mean_return, mean))
        if record.normalisation is not None:
            normalized = record.normalisation.normalise(checkpoint.mean_return)
            pairs.append((f"normalized return {at}", checkpoint.normalized_return, normalized))
        named = checkpoint.synthetic_set is None
        pairs.append((f"synthetic set without sha256 {at}", checkpoint.sha256 is None, named))
    if record.status == "failed":
        pairs.append(("score", record.score, None))
        pairs.append(("lack of an error", record.error is None, False))
        return pairs
    pairs.append(("error", record.error, None))
    pairs.append(("lack of checkpoints", not record.checkpoints, False))
    pairs.append(("lack of a normalisation", record.normalisation is None, False))
    if record.checkpoints:
        if record.provenance.converted_from is None:
            scored = "environment steps of the evaluation"
            lengths = sum(sum(row) for one in record.checkpoints for row in one.lengths)
            reached = cost.outer_steps >= steps[-1]
            pairs += [
                (scored, cost.evaluation_environment_steps, lengths),
                ("count of outer steps as at least the last checkpoint's", reached, True),
            ]
        expected, score = score_of(record.checkpoints, protocol), record.score
        if score is None:
            return [*pairs, ("score", score, expected)]
        pairs += [
            ("steps of the score", score.outer_steps_used, expected.outer_steps_used),
            ("score", score.normalized_return, expected.normalized_return),
            ("return of the score", score.return_, expected.return_),
        ]
    return pairs


def record_folder(run_id: str) -> str:
    """Folder of a run's record under its store: `cell id/seed<k>`."""
    return "/".join(run_id.rsplit(".", 1))


def _unread_key(raw: Any, read: Any, where: str = "$") -> str | None:
    """A message about the first key of `raw` that no type has read, with the nearest valid ones."""
    if isinstance(raw, Mapping) and isinstance(read, Mapping):
        for key, value in raw.items():
            if key not in read:
                return f"unknown key {short(key)} at `{where}`. {did_you_mean(str(key), read)}"
            if (found := _unread_key(value, read[key], f"{where}.{key}")) is not None:
                return found
    return None


def _not_finite(value: Any, where: str = "$") -> str | None:
    """The place of the first number that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return where
    children: Any = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, (list, tuple)):
        children = enumerate(value)
    for key, child in children:
        if (found := _not_finite(child, f"{where}.{key}")) is not None:
            return found
    return None
