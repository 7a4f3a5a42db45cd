"""Whatever lies in a store follows the schema and itself: checked when written and when read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from benchmark.clocks import Cost
from benchmark.datasets.dataset import ReferenceReturns
from benchmark.environments.contacts import FORMER
from benchmark.protocol import Protocol
from benchmark.record import (
    BadRecord,
    Checkpoint,
    Failure,
    Provenance,
    Record,
    Score,
    Seeds,
    TeacherFacts,
    check_set,
    json_schema,
    read_record,
    record_folder,
    score_of,
    write_record,
)
from benchmark.spec import RunSpec
from tests.tiny_runs import altered

SPEC = RunSpec(
    method="random",
    dataset="hopper/medium",
    protocol=Protocol("smoke", students=2, episodes=2, checkpoint_every=5, last=1),
    seed=3,
    teacher="none",
    density="none",
    parameters={"synthetic_size": 16},
)


def complete_record(**changes: Any) -> Record:
    """What a run of one checkpoint, two students and two episodes leaves."""
    values: dict[str, Any] = {
        "run_id": SPEC.run_id,
        "cell_id": SPEC.cell_id,
        "status": "complete",
        "spec": SPEC,
        "parameters": {"synthetic_size": 16},
        "needs": ["dataset"],
        "reference": False,
        "checkpoints": [
            Checkpoint(
                outer_step=0,
                returns=[[10.0, 12.0], [8.0, 9.5]],
                lengths=[[11, 12], [9, 10]],
                mean_return=9.875,
                normalized_return=9.375,
                synthetic_set="set-00000000.safetensors",
                sha256="00",
            )
        ],
        "score": Score(normalized_return=9.375, return_=9.875, outer_steps_used=[0]),
        "cost": Cost(
            wall_seconds=1.5,
            cpu_seconds=1.4,
            peak_memory_bytes=1_000_000,
            evaluation_environment_steps=11 + 12 + 9 + 10,
        ),
        "teacher": None,
        "density": None,
        "normalisation": ReferenceReturns(random=0.5, expert=100.5),
        "provenance": Provenance(
            commit=None,
            dirty=None,
            packages={"torch": "2.13.0"},
            python="3.11",
            device="cpu",
            host="here",
            threads=1,
            environment="Hopper-v5",
            dataset_sha256="00",
            seeds=Seeds(seed=3, distillation=SPEC.distillation_axes, scoring=SPEC.scoring_axes),
        ),
        "error": None,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:00:01+00:00",
    }
    return Record(**values | changes)


def failed_record() -> Record:
    error = Failure(type="BadParameter", message="too large", traceback="...")
    return complete_record(status="failed", error=error, score=None, checkpoints=[])


def path_of(folder: Path) -> Path:
    return folder / record_folder(SPEC.run_id) / "record.json"


FAILURE = {"type": "BadParameter", "message": "too large", "traceback": "..."}
CHECKPOINT = "checkpoints[0]"

BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no cost": (lambda r: r.pop("cost"), "missing required field `cost`"),
    "unknown key": (lambda r: r.update(colour="red"), "unknown field `colour`"),
    "unknown key of a checkpoint": (
        lambda r: r["checkpoints"][0].update(colour="red"),
        f"unknown field `colour` - at `$.{CHECKPOINT}`",
    ),
    "integer beyond 64 bits": (
        lambda r: r.update(method_facts={"big": 2**70}),
        "an integer in it is beyond 64 bits",
    ),
    "misspelt key of the student": (
        lambda r: r["spec"]["student"].update(widht=3),
        "unknown key 'widht' at `$.spec.student`. Did you mean 'width'",
    ),
    "unknown status": (lambda r: r.update(status="done"), "'done' - at `$.status`"),
    "text for a return": (
        lambda r: r["checkpoints"][0]["returns"][1].__setitem__(0, "8"),
        f"Expected `float`, got `str` - at `$.{CHECKPOINT}.returns[1][0]`",
    ),
    "negative cost": (lambda r: r["cost"].update(wall_seconds=-1.0), "at `$.cost.wall_seconds`"),
    "unknown need": (lambda r: r.update(needs=["oracle"]), "'oracle' - at `$.needs[0]`"),
    "seed as text": (lambda r: r["spec"].update(seed="3"), "at `$.spec.seed`"),
    "truth for a number": (lambda r: r["score"].update({"return": True}), "at `$.score.return`"),
    "complete without a score": (lambda r: r.update(score=None), "its score is None"),
    "complete without checkpoints": (
        lambda r: r.update(checkpoints=[]),
        "lack of checkpoints is True",
    ),
    "complete with an error": (lambda r: r.update(error=FAILURE), "its error is"),
    "failed without an error": (
        lambda r: r.update(status="failed", score=None),
        "lack of an error is True",
    ),
    "failed with a score": (lambda r: r.update(status="failed", error=FAILURE), "its score is"),
    "other run id": (lambda r: r.update(run_id="x.seed3"), "its run_id is 'x.seed3'"),
    "other cell id": (lambda r: r.update(cell_id="x"), "its cell_id is 'x'"),
    "other hyper-parameter": (
        lambda r: r["spec"]["parameters"].update(synthetic_size=17),
        "its cell_id is",
    ),
    "other seed": (lambda r: r["spec"].update(seed=4), "its run_id is"),
    "other seeds of the distillation": (
        lambda r: r["provenance"]["seeds"]["distillation"].update(student_spec="00"),
        "its origin of the distillation's seeds is {",
    ),
    "other seeds of the scoring": (
        lambda r: r["provenance"]["seeds"]["scoring"].update(protocol="00"),
        "its origin of the scoring's seeds is {",
    ),
    "other lengths than were counted": (
        lambda r: r["checkpoints"][0]["lengths"][0].__setitem__(0, 1000),
        "its environment steps of the evaluation is 42, but 1031 follows",
    ),
    "a checkpoint beyond the run's outer steps": (
        lambda r: r["checkpoints"][0].update(outer_step=5),
        "its count of outer steps as at least the last checkpoint's is False",
    ),
    "other seed of the provenance": (
        lambda r: r["provenance"]["seeds"].update(seed=4),
        "its seed in provenance is 4, but 3 follows",
    ),
    "better return": (
        lambda r: r["checkpoints"][0]["returns"][0].__setitem__(0, 11.0),
        "its mean return at outer step 0 is 9.875, but 10.125 follows",
    ),
    "better mean": (
        lambda r: r["checkpoints"][0].update(mean_return=20.0),
        "its mean return at outer step 0 is 20.0",
    ),
    "better normalized return": (
        lambda r: r["checkpoints"][0].update(normalized_return=20.0),
        "its normalized return at outer step 0 is 20.0",
    ),
    "better score": (
        lambda r: r["score"].update(normalized_return=20.0),
        "its score is 20.0, but 9.375 follows",
    ),
    "score of other steps": (
        lambda r: r["score"].update(outer_steps_used=[5]),
        "its steps of the score is [5]",
    ),
    "other normalisation": (
        lambda r: r["normalisation"].update(expert=50.0),
        "its normalized return at outer step 0",
    ),
    "checkpoint twice": (
        lambda r: r["checkpoints"].append(r["checkpoints"][0]),
        "its order of outer steps is [0, 0]",
    ),
    "seconds of another number of checkpoints": (
        lambda r: r["cost"].update(checkpoint_cpu_seconds=[0.5, 1.0]),
        "its count of checkpoints' seconds is 2, but 1 follows",
    ),
    "a checkpoint after the run": (
        lambda r: r["cost"].update(checkpoint_cpu_seconds=[1.5]),
        "its order of checkpoints' seconds is [1.5, 1.4]",
    ),
    "more environment steps at a checkpoint than in the run": (
        lambda r: r["cost"].update(checkpoint_environment_steps=[10**9]),
        "its order of checkpoints' environment steps is [1000000000, ",
    ),
    "one set of two checkpoints": (
        lambda r: r["checkpoints"].append({**r["checkpoints"][0], "outer_step": 5}),
        "its list of synthetic sets is ['set-00000000.safetensors', 'set-00000000.safetensors']",
    ),
    "an episode without length": (
        lambda r: r["checkpoints"][0]["lengths"][0].pop(),
        "its count of lengths at outer step 0",
    ),
    "an episode of no steps": (
        lambda r: r["checkpoints"][0]["lengths"][1].__setitem__(0, 0),
        f"Expected `int` >= 1 - at `$.{CHECKPOINT}.lengths[1][0]`",
    ),
    "fewer students than the protocol's": (
        lambda r: [r["checkpoints"][0][name].pop() for name in ("returns", "lengths")],
        "its count of episodes at outer step 0 is [2], but [2, 2] follows",
    ),
    "fewer episodes than the protocol's": (
        lambda r: [
            row.pop() for name in ("returns", "lengths") for row in r["checkpoints"][0][name]
        ],
        "its count of episodes at outer step 0 is [1, 1], but [2, 2] follows",
    ),
    "complete without a normalisation": (
        lambda r: r.update(normalisation=None),
        "its lack of a normalisation is True",
    ),
    "other hyper-parameter than asked for": (
        lambda r: r["parameters"].update(synthetic_size=64),
        "its parameter synthetic_size is 64, but 16 follows",
    ),
    "no hyper-parameter where one was asked for": (
        lambda r: r["parameters"].clear(),
        "its parameter synthetic_size is None, but 16 follows",
    ),
    "set without sha256": (
        lambda r: r["checkpoints"][0].update(sha256=None),
        "synthetic set without sha256 at outer step 0",
    ),
    "older version": (lambda r: r.update(schema="obdbench.record/1"), "results.conversion"),
    "newer version": (lambda r: r.update(schema="obdbench.record/3"), "this version reads"),
    "no version": (lambda r: r.pop("schema"), "has schema None"),
}


@pytest.mark.parametrize("record", [complete_record(), failed_record()], ids=["complete", "failed"])
def test_record_comes_back_as_it_was(tmp_path: Path, record: Record) -> None:
    write_record(path_of(tmp_path), record)

    assert read_record(path_of(tmp_path)) == record
    assert path_of(tmp_path).read_text().endswith("}\n")


def scored_policies(count: int, episodes: int) -> Record:
    """A run that gave policies, which are scored as they are; only students are the protocol's."""
    (one,) = complete_record().checkpoints
    policies = msgspec.structs.replace(
        one,
        returns=[[9.875] * episodes] * count,
        lengths=[[5] * episodes] * count,
        synthetic_set=None,
        sha256=None,
    )
    record = complete_record(checkpoints=[policies])
    return altered(record, cost__evaluation_environment_steps=5 * episodes * count)


@pytest.mark.parametrize("count", [1, 3])
def test_policies_are_any_number(count: int, tmp_path: Path) -> None:
    record = scored_policies(count, SPEC.protocol.episodes)
    write_record(path_of(tmp_path), record)
    assert read_record(path_of(tmp_path)) == record


def test_policies_play_the_protocols_episodes(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match=r"count of episodes .* is \[1\], but \[2\] follows"):
        write_record(path_of(tmp_path), scored_policies(1, 1))


def test_a_run_that_failed_without_its_data_needs_no_normalisation(tmp_path: Path) -> None:
    """A process that died has scores in its saved state, and nobody loaded the data again."""
    checkpoints = complete_record().checkpoints
    record = altered(failed_record(), checkpoints=checkpoints, normalisation=None)
    write_record(path_of(tmp_path), record)
    assert read_record(path_of(tmp_path)) == record


TEACHER = TeacherFacts(
    name="cal_ql_authors", sha256="00", return_=1.0, normalized_return=2.0, episodes=3
)


@pytest.mark.parametrize(
    "origin",
    [{}, {"checkpoint_sha256": "11"}, {"dataset": "hopper/medium", "dataset_sha256": "22"}],
)
def test_where_a_teacher_comes_from_is_written_where_it_is_known(
    origin: dict[str, str], tmp_path: Path
) -> None:
    """Earlier versions know no such key, and read every record that lacks it."""
    record = complete_record(teacher=msgspec.structs.replace(TEACHER, **origin))
    write_record(path_of(tmp_path), record)
    assert read_record(path_of(tmp_path)) == record
    written = json.loads(path_of(tmp_path).read_text())["teacher"]
    former = {"name", "sha256", "return", "normalized_return", "episodes", "parameters"}
    assert written.keys() == former | origin.keys()


@pytest.mark.parametrize("case", BROKEN)
def test_broken_record_is_refused_when_read(tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    values = complete_record().as_dict()
    change(values)
    path_of(tmp_path).parent.mkdir(parents=True)
    path_of(tmp_path).write_text(json.dumps(values))

    with pytest.raises(BadRecord) as error:
        read_record(path_of(tmp_path))
    assert str(path_of(tmp_path)) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("depth", [500, 900, 5000])
def test_a_record_of_endless_nesting_is_refused_without_a_traceback(
    depth: int, tmp_path: Path
) -> None:
    text = json.dumps(complete_record().as_dict())
    deep = '{"a": ' * depth + "1" + "}" * depth
    path_of(tmp_path).parent.mkdir(parents=True)
    path_of(tmp_path).write_text(
        text.replace('"parameters": {', f'"parameters": {{"deep": {deep}, ')
    )
    with pytest.raises(BadRecord, match=r"record\.json") as error:
        read_record(path_of(tmp_path))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": None}, "its score is None, but Score("),
        ({"cell_id": "x"}, "its cell_id is 'x'"),
        ({"seed": 3, "started": 5}, "at `$.started`"),
        ({"score": Score(normalized_return=math.nan, return_=1.0, outer_steps_used=[0])},
         "not finite at $.score.normalized_return"),
        ({"spec": replace(SPEC, parameters={"rates": (0.1, math.inf)})},
         "not finite at $.spec.parameters.rates.1"),
    ],
)  # fmt: skip
def test_broken_record_is_never_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    changes = {key: value for key, value in changes.items() if key != "seed"}
    write_record(path_of(tmp_path), failed_record())

    with pytest.raises(BadRecord, match=re.escape(message)):
        write_record(path_of(tmp_path), complete_record(**changes))

    assert read_record(path_of(tmp_path)) == failed_record()  # what was there stays


def scored_in(environment: str, mujoco: str, contacts: str | None = None) -> Record:
    return altered(
        complete_record(),
        provenance__environment=environment,
        provenance__packages={"mujoco": mujoco},
        provenance__contacts=contacts,
    )


@pytest.mark.parametrize(
    "record",
    [
        scored_in("Hopper-v4", "4.0.0", FORMER),
        scored_in("Hopper-v4", "3.4.0"),  # which had no other contacts
        scored_in("Hopper-v5", "4.0.0"),
        scored_in("Walker2d-v4", "4.0.0"),
        altered(failed_record(), provenance__environment="Hopper-v4"),  # without a score
    ],
)
def test_scores_with_the_contacts_that_an_environment_has_here_are_read(
    record: Record, tmp_path: Path
) -> None:
    write_record(path_of(tmp_path), record)
    assert read_record(path_of(tmp_path)) == record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (scored_in("Hopper-v4", "4.0.0"), "contacts of MuJoCo 4.0.0 (no rule named); here they"),
        (scored_in('Hopper-v4{"max_episode_steps": 5}', "3.5.0"), "contacts of MuJoCo 3.5.0"),
        (scored_in("Hopper-v4", "not installed"), "contacts of MuJoCo not installed"),
        (scored_in("Hopper-v4", ""), "with the contacts of MuJoCo  ("),
        (scored_in("Hopper-v5", "4.0.0", FORMER), "rule of the installed MuJoCo, and scores"),
    ],
)
def test_scores_with_other_contacts_are_refused(
    record: Record, message: str, tmp_path: Path
) -> None:
    """Else a cell could hold scores of one environment under two physics."""
    path = path_of(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record.as_dict()))
    with pytest.raises(BadRecord, match=re.escape(message)):
        read_record(path)


def test_record_that_was_moved_to_another_folder_is_refused(tmp_path: Path) -> None:
    write_record(path_of(tmp_path), complete_record())
    moved = tmp_path / SPEC.cell_id / "seed4"
    path_of(tmp_path).parent.rename(moved)

    with pytest.raises(BadRecord, match=r"its folder is '.*/seed4'"):
        read_record(moved / "record.json")


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_truncated_record_is_refused(tmp_path: Path, fraction: float) -> None:
    path = path_of(tmp_path)
    write_record(path, complete_record())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])

    with pytest.raises(BadRecord, match="run its sweep again") as error:
        read_record(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"3", b'"text"', b"NaN"])
def test_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)

    with pytest.raises(BadRecord, match=re.escape(str(path))):
        read_record(path)


def test_set_is_the_one_that_was_scored(tmp_path: Path) -> None:
    record = complete_record()
    checkpoint = msgspec.structs.replace(
        record.checkpoints[0],
        sha256="2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    )
    path = tmp_path / "set-00000000.safetensors"
    with pytest.raises(BadRecord, match="does not exist"):
        check_set(record, checkpoint, tmp_path)
    path.write_bytes(b"foo")
    assert check_set(record, checkpoint, tmp_path) == path
    path.write_bytes(b"fop")
    with pytest.raises(BadRecord, match="was scored on a set of sha256 2c26b46b68ffc68f"):
        check_set(record, checkpoint, tmp_path)


def test_generated_json_schema_accepts_what_is_written_and_refuses_wrong_types() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    refused = []
    for case, (change, message) in BROKEN.items():
        values = complete_record().as_dict()
        assert validator.is_valid(values)
        change(values)
        if "at `$" in message or "required field" in message or "unknown field" in message:
            refused.append(case)
            assert not validator.is_valid(values) or "unknown key" in message, case
    assert len(refused) == 11


@pytest.mark.parametrize(
    ("steps", "last", "leave_out", "used"),
    [
        ([0, 1, 2, 3, 4, 5], 2, 0, [4, 5]),
        ([0, 1, 2, 3, 4, 5], 2, 2, [2, 3]),  # the published code's way
        ([0, 1, 2], 5, 1, [1]),
        ([0, 1, 2], 1, 2, [2]),  # no more results than are left out: none is
        ([0], 5, 2, [0]),  # a reference
    ],
)
def test_the_score_is_over_the_last_results_before_those_left_out(
    steps: list[int], last: int, leave_out: int, used: list[int]
) -> None:
    (one,) = complete_record().checkpoints
    checkpoints = [
        msgspec.structs.replace(one, outer_step=s, normalized_return=10.0 * s) for s in steps
    ]
    score = score_of(checkpoints, replace(SPEC.protocol, last=last, leave_out=leave_out))
    assert score.outer_steps_used == used
    assert score.normalized_return == pytest.approx(10.0 * sum(used) / len(used))
