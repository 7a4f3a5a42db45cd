"""A cell's name stands for everything that its numbers depend on, and for nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmark.config import BadConfiguration
from benchmark.method import METHODS
from benchmark.protocol import Protocol, protocol_named
from benchmark.registry import UnknownName
from benchmark.spec import OtherVersion, RunSpec, _chosen
from benchmark.students.spec import StudentSpec

OTHER_STUDENT: dict[str, Any] = {
    "name": "residual",
    "depth": 2,
    "width": 32,
    "head": "mean",
    "optimizer": "adam",
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "steps": 7,
    "activation": "tanh",
    "output_gain": 0.01,
    "adam_epsilon": 1e-5,
    "gradient_clip": 0.5,
    "schedule": "linear",
}
OTHER_PROTOCOL: dict[str, Any] = {
    "leave_out": 1,
    "name": "mine",
    "students": 3,
    "episodes": 3,
    "checkpoint_every": 7,
    "last": 2,
    "ensemble": 10,
    "actions": "sampled",
}


def make_spec(**changes: Any) -> RunSpec:
    values: dict[str, Any] = {
        "method": "random",
        "dataset": "hopper/medium@2000",
        "parameters": {"synthetic_size": 16},
        "where": "the test",
        "protocol": protocol_named("smoke"),
        "seed": 3,
    }
    return RunSpec.create(**(values | changes))


def test_cell_id_is_pinned() -> None:
    # Every stored record lies under such a name. Where this fails, a setting was renamed or given
    # another default: runs done before will be done again. Say so in the changelog.
    assert make_spec().run_id == "hopper-medium@2000.random.65bbb39fd757.seed3"


def test_cell_id_does_not_depend_on_the_order_of_parameters() -> None:
    spec = make_spec(method="av_pbc", parameters={"outer_steps": 10, "synthetic_size": 16})
    parameters = dict(reversed(list(spec.parameters.items())))
    assert list(parameters) != list(spec.parameters)

    assert dataclasses.replace(spec, parameters=parameters).cell_id == spec.cell_id


def test_seed_is_of_the_run_not_of_the_cell() -> None:
    spec, other = make_spec(seed=3), make_spec(seed=4)

    assert spec.cell_id == other.cell_id
    assert spec.run_id != other.run_id
    assert spec.with_seed(4) == other


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"synthetic_size": 17}},
        {"method": "dbc", "parameters": {"synthetic_size": 16}},
        {"dataset": "hopper/medium@2001"},
        {"dataset": "hopper/medium"},
        {"evaluation_student": StudentSpec(width=32)},
        *({"student": StudentSpec(**{k: v})} for k, v in OTHER_STUDENT.items()),
        *(
            {"protocol": dataclasses.replace(protocol_named("smoke"), **{k: v})}
            for k, v in OTHER_PROTOCOL.items()
        ),
    ],
    ids=str,
)
def test_any_other_setting_is_another_cell(changes: dict[str, Any]) -> None:
    assert make_spec(**changes).cell_id != make_spec().cell_id


@pytest.mark.parametrize("changes", [{"teacher": "cal_ql"}, {"density": "kde"}], ids=str)
def test_other_teacher_or_density_is_another_cell(changes: dict[str, Any]) -> None:
    spec = make_spec()
    assert dataclasses.replace(spec, **changes).cell_id != spec.cell_id


def test_recipes_that_a_method_does_not_declare_are_not_part_of_its_cell() -> None:
    spec = make_spec(density="knn", teacher="td3_bc")
    assert (spec.teacher, spec.density) == ("none", "none")
    assert make_spec(method="av_pbc").density == "none"


def test_table_of_other_settings_names_every_one() -> None:
    """So that a new field cannot miss the test above."""
    assert OTHER_STUDENT.keys() == {f.name for f in dataclasses.fields(StudentSpec)}
    assert OTHER_PROTOCOL.keys() == {f.name for f in dataclasses.fields(protocol_named("smoke"))}


def test_students_to_distil_for_and_to_score_with_do_not_trade_places() -> None:
    small, large = StudentSpec(width=32), StudentSpec(width=64)

    spec = make_spec(student=small, evaluation_student=large)

    assert spec.cell_id != make_spec(student=large, evaluation_student=small).cell_id
    assert spec.scoring_student == large
    assert make_spec(student=small).scoring_student == small


@pytest.mark.parametrize("method", ["dbc_published", "pbc_published", "av_pbc_published"])
def test_published_presets_train_the_heads_scalars_of_the_students(method: str) -> None:
    spec = make_spec(method=method, student=StudentSpec())
    assert (spec.student.head, spec.scoring_student) == ("sampled_trained", spec.student)
    assert make_spec(method=method, student=StudentSpec(head="mean")).student.head == "mean"
    assert make_spec(method="av_pbc", student=StudentSpec()).student.head == "sampled"
    # Another student that scores is taken as it is given.
    other = StudentSpec(depth=6)
    assert make_spec(method=method, evaluation_student=other).scoring_student == other


def test_published_presets_draw_the_numbers_of_the_methods_that_they_are_compared_with() -> None:
    published, ours = make_spec(method="av_pbc_published"), make_spec(method="av_pbc")
    assert published.distillation_axes == ours.distillation_axes
    assert published.scoring_axes == ours.scoring_axes
    other = StudentSpec(width=64)
    assert make_spec(method="av_pbc", student=other).distillation_axes != ours.distillation_axes


def test_one_cell_is_written_in_one_way() -> None:
    """Defaults written out, default sizes left out, whole numbers as the floats they stand for."""
    assert make_spec(parameters={}).cell_id == make_spec(parameters={"synthetic_size": 256}).cell_id
    assert make_spec(dataset="hopper/medium@200000") == make_spec(dataset="hopper/medium")
    ids = {
        make_spec(method="av_pbc", parameters={"outer_learning_rate": rate}).cell_id
        for rate in (1, 1.0)
    }
    assert len(ids) == 1


@pytest.mark.parametrize("evaluation_student", [None, StudentSpec(depth=2)])
def test_spec_comes_back_from_the_json_of_its_record(
    evaluation_student: StudentSpec | None,
) -> None:
    spec = make_spec(
        method="av_pbc",
        parameters={"outer_steps": 10, "outer_learning_rate": 0.3},
        student=StudentSpec(width=64, learning_rate=0.05),
        evaluation_student=evaluation_student,
    )

    back = RunSpec.from_dict(json.loads(json.dumps(spec.as_dict())))

    assert back == spec
    assert back.run_id == spec.run_id
    assert back.method_instance == spec.method_instance


def test_method_is_built_with_its_parameters() -> None:
    method = make_spec(method="av_pbc", parameters={"outer_steps": 10}).method_instance

    assert type(method).__name__ == "AvPBC"
    assert dataclasses.asdict(method)["outer_steps"] == 10
    assert dataclasses.asdict(method)["synthetic_size"] == 256


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "randm"}, UnknownName, "No method is called 'randm'. Did you mean 'random'"),
        (
            {"dataset": "hoper/medium"},
            UnknownName,
            "No dataset is called 'hoper/medium'. Did you mean 'hopper/medium'",
        ),
        ({"teacher": "td3bc"}, UnknownName, "No teacher recipe is called 'td3bc'. Did you mean"),
        ({"density": "mfa"}, UnknownName, "No density recipe is called 'mfa'. Did you mean 'maf'"),
        (
            {"parameters": {"syntetic_size": 16}},
            BadConfiguration,
            "Unknown key 'syntetic_size' in the test. Did you mean 'synthetic_size'",
        ),
        ({"parameters": {"synthetic_size": "16"}}, BadConfiguration, "expected int"),
    ],
)
def test_name_that_does_not_exist_is_answered_with_the_nearest(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        make_spec(**changes)
    assert message in str(raised.value)


@pytest.mark.parametrize("seed", [3.0, "3", True, None, np.float64(3), np.bool_(True)])
def test_seed_of_another_type_is_refused_before_any_work(seed: Any) -> None:
    with pytest.raises(BadConfiguration, match=r"has seed .*; expected an integer from 0"):
        make_spec(seed=seed)


def test_seed_of_numpy_becomes_an_integer_that_records_hold() -> None:
    spec = make_spec(seed=np.int64(3))

    assert type(spec.seed) is int
    assert (spec.run_id, json.dumps(spec.as_dict())) == (
        make_spec(seed=3).run_id,
        json.dumps(make_spec(seed=3).as_dict()),
    )


def test_a_new_hyper_parameter_with_a_default_changes_no_id() -> None:
    @dataclasses.dataclass(frozen=True)
    class Grown(type(METHODS["random"])):  # type: ignore[misc]
        colour: str = "red"

    before = make_spec()
    METHODS._entries["random"], kept = Grown(), METHODS["random"]
    try:
        assert make_spec().run_id == before.run_id
        other = make_spec(parameters={"synthetic_size": 16, "colour": "blue"})
        assert other.run_id != before.run_id
    finally:
        METHODS._entries["random"] = kept


def test_another_version_of_a_method_is_another_cell_and_cannot_be_run() -> None:
    spec = make_spec()
    other = dataclasses.replace(spec, version=2)
    assert other.cell_id != spec.cell_id
    with pytest.raises(OtherVersion, match="of version 2 of random; this suite has version 1"):
        _ = other.method_instance


def test_methods_share_their_random_numbers_and_protocols_share_the_distilled_set() -> None:
    dbc = make_spec(method="dbc")
    assert dbc.distillation_axes == make_spec().distillation_axes
    assert dbc.scoring_axes == make_spec().scoring_axes
    scored = make_spec(protocol=protocol_named("quick"), evaluation_student=StudentSpec(depth=2))
    assert scored.distillation_axes == make_spec().distillation_axes
    assert scored.scoring_axes != make_spec().scoring_axes
    for changes in ({"seed": 4}, {"dataset": "hopper/medium"}, {"student": StudentSpec(depth=2)}):
        assert make_spec(**changes).distillation_axes != make_spec().distillation_axes
        assert make_spec(**changes).scoring_axes != make_spec().scoring_axes


OUTPUT_GAINS: dict[str, Any] = {
    "integer": StudentSpec(output_gain=1),
    "float": StudentSpec(output_gain=1.0),
    "NumPy": StudentSpec(output_gain=np.float32(1)),
    "by name": {"output_gain": 1},
}


@pytest.mark.parametrize("first", OUTPUT_GAINS)
def test_a_student_has_one_id_and_one_set_of_seeds_however_it_is_written(first: str) -> None:
    _chosen.cache_clear()  # as in a process whose first student was written so
    for student in (OUTPUT_GAINS[first], *OUTPUT_GAINS.values()):
        spec = make_spec(student=student)
        assert spec.digest == "69577d1ce50c"
        assert spec.distillation_axes["student_spec"] == "9ea13e36741a"
        assert RunSpec.from_dict(json.loads(json.dumps(spec.as_dict()))).digest == spec.digest


def test_numbers_and_texts_of_numpy_are_those_of_python() -> None:
    given = make_spec(
        method=np.str_("av_pbc"),
        dataset=np.str_("hopper/medium"),
        parameters={"outer_steps": np.int64(10), "outer_learning_rate": np.array(0.5)},
        student=StudentSpec(width=np.int64(8), momentum=np.float32(0.5)),
        protocol=Protocol(np.str_("mine"), np.int64(2), *map(np.uint8, (3, 4, 5))),
    )
    plain = make_spec(
        method="av_pbc",
        dataset="hopper/medium",
        parameters={"outer_steps": 10, "outer_learning_rate": 0.5},
        student=StudentSpec(width=8, momentum=0.5),
        protocol=Protocol("mine", 2, 3, 4, 5),
    )
    assert json.dumps(given.as_dict()) == json.dumps(plain.as_dict())
    assert given.run_id == plain.run_id


def test_zeros_of_both_signs_are_one_setting() -> None:
    _chosen.cache_clear()
    digests = {make_spec(student=StudentSpec(weight_decay=zero)).digest for zero in (-0.0, 0.0)}
    assert len(digests) == 1
    runs = [make_spec(method="av_pbc", parameters={"outer_momentum": zero}) for zero in (-0.0, 0.0)]
    assert runs[0].run_id == runs[1].run_id


def test_a_preset_with_numbers_of_numpy_leaves_records_of_python() -> None:
    kept = METHODS["random"]
    METHODS._entries["random"] = dataclasses.replace(kept, synthetic_size=np.int64(16))  # type: ignore[type-var]
    try:
        spec = make_spec(parameters={})
        assert type(spec.resolved_parameters["synthetic_size"]) is int
        assert type(make_spec(parameters={"synthetic_size": 4}).parameters["synthetic_size"]) is int
    finally:
        METHODS._entries["random"] = kept


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudentSpec(width=True), "width in the student is True (bool); expected int."),
        (lambda: StudentSpec(depth=1.5), "depth in the student is 1.5 (float); expected int."),
        (lambda: StudentSpec(steps=[4]), "steps in the student is [4] (list); expected int."),
        (lambda: StudentSpec(momentum="0"), "momentum in the student is '0' (str); expected"),
        (lambda: StudentSpec(weight_decay=math.inf), "weight_decay in the student is inf;"),
        (lambda: StudentSpec(head="gausian"), "Did you mean 'gaussian'?"),
        (
            lambda: Protocol("mine", 2.0, 1, 1, 1),
            "students in the protocol 'mine' is 2.0 (float); expected int.",
        ),
        (lambda: Protocol("mine", 2, 1, 1, 1, actions="mod"), "Did you mean 'mode'?"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_where_a_student_or_protocol_is_made(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(BadConfiguration) as error:
        make()
    assert message in str(error.value)


def test_a_list_of_runs_with_an_integer_beyond_64_bits_is_refused() -> None:
    values = make_spec().as_dict()
    values["parameters"] = {"synthetic_size": 10**20}
    with pytest.raises(BadConfiguration, match=r"random on hopper/medium@2000 .* beyond 64 bits"):
        RunSpec.from_dicts([values])


def test_a_protocol_that_was_written_before_a_setting_existed_has_its_default() -> None:
    written = {"name": "x", "students": 10, "episodes": 3, "checkpoint_every": 500, "last": 1}
    assert msgspec.convert(written, Protocol) == Protocol("x", 10, 3, 500, 1)
