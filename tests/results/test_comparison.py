"""The papers' numbers as they are kept, and the rule that holds records against them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmark.datasets.d4rl import d4rl_reference
from benchmark.datasets.dataset import ReferenceReturns
from benchmark.datasets.source import DatasetName
from benchmark.method import METHODS
from benchmark.protocol import PROTOCOLS
from benchmark.record import Record
from benchmark.spec import RunSpec
from benchmark.teachers.cal_ql import CalQL, CORLCalQL
from benchmark.teachers.teacher_files import AUTHORS
from results import comparison
from results.author_files import published_files
from results.comparison import (
    FOLDER,
    MARGIN,
    Comparison,
    PublishedCell,
    compare,
    own_analogue,
    published_cells,
    settings_of,
)
from results.statistics import Estimate
from tests.results.conftest import STUDENT, build_record, build_spec
from tests.tiny_runs import altered

D4RL = "d4rl/hopper-medium-v2"
OWN = "hopper/medium"
PLAIN: dict[str, Any] = {"protocol.ensemble": 1}


def cell(
    value: float = 20.0,
    *,
    method: str = "av_pbc",
    dataset: str = D4RL,
    wanted: Mapping[str, Any] = PLAIN,
    settings: Mapping[str, Any] | None = None,
) -> PublishedCell:
    unit: Any = "normalized return" if dataset.startswith("d4rl/") else "return"
    given = {**build_spec().parameters, **(settings or {})}
    return PublishedCell(
        "obd", "arXiv", "table1", method, dataset, method, value, unit, wanted, given
    )


def group(
    scores: Sequence[float] = (20.0,) * 5, *, dataset: str = D4RL, **other: Any
) -> list[Record]:
    """The complete records of one cell, a seed a score."""
    method = other.pop("method", "av_pbc")
    environment = "Hopper-v4" if dataset == D4RL else "Hopper-v5"
    records = [
        build_record(method, dataset, seed, score, environment=environment, **other)
        for seed, score in enumerate(scores)
    ]
    return [in_d4rls_unit(record) for record in records] if dataset == D4RL else records


def in_d4rls_unit(record: Record) -> Record:
    """The record with the return that its normalized return is on D4RL's scale."""
    reference = d4rl_reference("hopper-medium-v2")
    if (score := record.score) is None:
        return altered(record, normalisation=reference)
    span = reference.expert - reference.random
    returned = reference.random + score.normalized_return * span / 100
    return altered(record, normalisation=reference, score__return_=returned)


def of_spec(record: Record, spec: RunSpec) -> Record:
    """The record as one of another spec's runs."""
    spec = spec.with_seed(record.spec.seed)
    return msgspec.structs.replace(
        record,
        spec=spec,
        run_id=spec.run_id,
        cell_id=spec.cell_id,
        parameters=spec.resolved_parameters,
    )


def held_against(published: PublishedCell, *groups: Sequence[Record]) -> Comparison:
    (comparison,) = compare([published], [record for records in groups for record in records])
    return comparison


def tables(paper: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{paper}.json").read_text())
    return dict(content["tables"])


def every_table() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in sorted(FOLDER.glob("*.json")):
        for name, table in tables(path.stem).items():
            yield path.stem, name, table


# --- the rule ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([20.0, 20.5, 21.0, 21.5, 22.0], "reproduced"),
        ([25.0] * 5, "reproduced"),  # on the margin: equal scores, an interval of no width
        ([15.0] * 5, "reproduced"),
        ([25.1] * 5, "differs"),
        ([14.9] * 5, "differs"),
        ([40.0, 42.0, 45.0, 48.0, 50.0], "differs"),
        ([20.0, 23.0, 26.0, 29.0, 32.0], "inconclusive"),  # reaches out of the margin above
        ([8.0, 11.0, 14.0, 17.0, 20.0], "inconclusive"),  # and below
        ([0.0, 10.0, 20.0, 30.0, 40.0], "inconclusive"),  # wider than the margin on both sides
        ([20.0] * 4, "inconclusive"),  # too few seeds, however near
        ([90.0] * 4, "inconclusive"),  # or far
        ([20.0], "inconclusive"),
    ],
)
def test_verdicts_on_comparable_records(scores: list[float], verdict: str) -> None:
    found = held_against(cell(20.0), group(scores))
    assert (found.verdict, found.reasons, found.dataset) == (verdict, (), D4RL)
    assert found.reproduced is not None
    assert found.reproduced.value == pytest.approx(np.mean(scores))
    assert found.reproduced.n == len(scores)
    assert found.difference == pytest.approx(np.mean(scores) - 20.0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (15.0, 25.0, "reproduced"),
        (14.99, 25.0, "inconclusive"),
        (15.0, 25.01, "inconclusive"),
        (25.0, 30.0, "inconclusive"),
        (25.01, 30.0, "differs"),
        (10.0, 15.0, "inconclusive"),
        (10.0, 14.99, "differs"),
    ],
)
def test_an_interval_that_touches_the_margin_from_outside_does_not_differ(
    low: float, high: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate = Estimate((low + high) / 2, low, high, 5, 0.95, "t")
    monkeypatch.setattr(comparison, "mean", lambda scores, *, seed: estimate)
    assert MARGIN == 5.0
    assert held_against(cell(20.0), group()).verdict == verdict


def test_failed_runs_count_neither_as_seeds_nor_as_scores() -> None:
    failed = build_record("av_pbc", D4RL, 2, error="OSError")
    found = held_against(cell(), [*group([20.0, 22.0]), failed])
    assert found.reproduced is not None
    assert (found.reproduced.value, found.reproduced.n) == (21.0, 2)
    assert found.verdict == "inconclusive"
    assert held_against(cell(), [failed]).reasons == ("no record",)


@pytest.mark.parametrize(
    "records",
    [
        [],
        group(method="pbc"),
        group(dataset="d4rl/hopper-medium-expert-v2"),
        group(dataset="hopper/medium-expert"),
        group(dataset="walker2d/medium"),
    ],
    ids=["none", "method", "kind", "own kind", "environment"],
)
def test_records_of_something_else_are_no_record(records: list[Record]) -> None:
    found = held_against(cell(), records)
    assert found == Comparison(cell(), None, None, "not tested", ("no record",))
    assert found.difference is None


def test_the_own_dataset_is_shown_in_the_papers_unit_and_never_tests_it() -> None:
    found = held_against(cell(20.0), group([20.0, 21.0, 22.0, 23.0, 24.0], dataset=OWN))
    assert (found.verdict, found.dataset) == ("not tested", OWN)
    assert found.reasons == ("the suite's own hopper/medium (Hopper-v5), not D4RL",)
    returns = [
        record.mean_score.return_ for record in group([20.0, 21.0, 22.0, 23.0, 24.0], dataset=OWN)
    ]
    expected = 100 * (np.mean(returns) + 20.272305) / (3234.3 + 20.272305)  # D4RL's references
    assert found.reproduced is not None
    assert found.reproduced.value == pytest.approx(expected)
    assert found.difference is None
    assert abs(expected - 22.0) > 0.5  # another number than on the suite's own scale


def test_d4rls_data_count_on_d4rls_scale_whatever_they_were_imported_with() -> None:
    """Returns of 19.2 are 19.2 on a scale from 0 to 100, and 1.2 on D4RL's."""
    records = [
        altered(record, normalisation=ReferenceReturns(0.0, 100.0), score__return_=19.2)
        for record in group([19.2] * 5)
    ]
    found = held_against(cell(19.2), records)
    assert found.verdict == "differs"
    assert found.reproduced.value == pytest.approx(100 * (19.2 + 20.272305) / (3234.3 + 20.272305))


def test_a_stand_in_is_like_the_paper_and_never_reproduces_it() -> None:
    standin = group(dataset="standin/hopper-medium-v2")
    score = np.mean([record.mean_score.return_ for record in standin])
    near = 100 * (score + 20.272305) / (3234.3 + 20.272305)
    found = held_against(cell(near), standin, group(dataset=OWN))
    assert (found.verdict, found.dataset) == ("like", "standin/hopper-medium-v2")
    assert found.reasons == ("stand-in data; by itself reproduced",)
    assert held_against(cell(near + 9), standin).reasons == ("stand-in data; by itself differs",)
    assert held_against(cell(near), standin, group()).dataset == D4RL


def test_a_run_is_never_held_against_a_number_that_is_no_score_of_a_set() -> None:
    cells = [c for c in published_cells() if c.paper == "hades"]
    assert cells and all(c.statistic for c in cells)
    asterix = next(c for c in cells if (c.table, c.dataset) == ("minatar", "minatar/asterix"))
    records = group(method=asterix.method, dataset=asterix.dataset)
    found = held_against(replace(asterix, wanted={}, settings={}, artefacts=()), records)
    assert found.verdict == "not tested" and "population" in found.reasons[0]


def test_the_margin_of_a_return_is_a_share_of_it() -> None:
    records = group(dataset="minatar/asterix")
    (score,) = {record.mean_score.return_ for record in records}
    for value, verdict in ((score * 1.05, "reproduced"), (score * 1.2, "differs")):
        published = replace(cell(value, dataset="minatar/asterix"), unit="return")
        assert held_against(published, records).verdict == verdict
    assert score * 0.2 > MARGIN  # points of a normalized return are something else


def test_failed_seeds_leave_no_verdict() -> None:
    records = group()
    failed = [
        build_record("av_pbc", D4RL, seed, environment="Hopper-v4", error="NotFinite")
        for seed in range(5, 8)
    ]
    found = held_against(cell(), [*records, *failed])
    assert (found.verdict, found.reasons) == ("inconclusive", ("3 of 8 runs failed",))


@pytest.mark.parametrize("order", [1, -1])
def test_seeds_of_two_teachers_are_not_one_number(order: int) -> None:
    records = group()
    assert records[0].teacher is not None
    other = altered(records[0], teacher__sha256="1" * 64)
    found = held_against(cell(), [other, *records[1:]][::order])
    assert found.verdict == "not tested"
    assert found.reasons == ("its seeds have 2 teachers of one name",)


def test_a_protocol_that_leaves_checkpoints_out_is_not_the_papers() -> None:
    settings = {"protocol.students": 10}

    def left_out(method: str) -> list[Record]:
        return [of_spec(record, replace(record.spec, protocol=PROTOCOLS["obd_official"]))
                for record in group(method=method)]  # fmt: skip

    found = held_against(cell(settings=settings), left_out("av_pbc"))
    assert found.reasons == ("protocol.leave_out 2, not the default",)
    assert held_against(cell(settings=settings), left_out("av_pbc_published")).reasons == ()


def test_a_teacher_trained_on_a_stand_in_is_not_the_papers() -> None:
    records = [of_spec(record, replace(record.spec, teacher="cal_ql_corl"))
               for record in group(dataset="standin/hopper-medium-v2")]  # fmt: skip
    found = held_against(cell(settings={"teacher": "cal_ql_corl"}), records)
    assert found.verdict == "not tested"
    assert "trained on standin/hopper-medium-v2" in found.reasons[0]


@pytest.mark.parametrize("method", ["random", "dbc", "bc_whole"])
def test_a_stand_in_tells_nothing_of_a_method_that_reads_actions(method: str) -> None:
    records = group(dataset="standin/hopper-medium-v2", method=method)
    found = held_against(cell(method=method), records)
    assert found.verdict == "not tested"
    assert found.reasons[0] == (
        f"{method} reads actions or rewards, and standin/hopper-medium-v2 has others than D4RL"
    )
    assert held_against(cell(method=method), group(method=method)).verdict == "reproduced"


def test_the_published_preset_stands_for_the_method_before_the_corrected_one() -> None:
    corrected = group([25.0] * 5)
    published = group([20.0] * 5, method="av_pbc_published", student={"head": "sampled_trained"})
    settings = {"student.head": "sampled"}
    for given in ([corrected, published], [published, corrected]):
        found = held_against(cell(20.0, settings=settings), *given)
        assert (found.method, found.verdict, found.reasons) == (
            "av_pbc_published", "reproduced", (),
        )  # fmt: skip
    found = held_against(cell(20.0, settings=settings), corrected)
    assert (found.method, found.verdict) == ("av_pbc", "reproduced")  # on the margin
    assert held_against(cell(method="random"), published).reasons == ("no record",)


def test_a_parameter_that_the_paper_does_not_state_must_have_its_default() -> None:
    records = group(parameters={**build_spec().parameters, "beta": 0.5})
    found = held_against(cell(), records)
    assert (found.verdict, found.reasons) == ("not tested", ("beta 0.5, not the default",))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"student": replace(STUDENT, activation="tanh")}, "student.activation tanh, not the"),
        ({"student": replace(STUDENT, gradient_clip=0.5)}, "student.gradient_clip 0.5, not the"),
        ({"student": replace(STUDENT, name="residual")}, "student.name residual, not the default"),
        ({"protocol": replace(build_spec().protocol, actions="sampled")},
         "protocol.actions sampled, not the default"),
    ],
)  # fmt: skip
def test_a_student_or_scoring_that_a_table_does_not_state_must_be_the_default(
    changes: dict[str, Any], reason: str
) -> None:
    stated = cell(settings={"student.width": STUDENT.width, "protocol.students": 2})
    spec = replace(build_spec(), dataset=D4RL, **changes)
    records = [of_spec(record, spec) for record in group()]
    found = held_against(stated, records)
    assert found.verdict == "not tested"
    assert any(r.startswith(reason) for r in found.reasons)
    # A table that states nothing of the kind leaves it open.
    assert not any(r.startswith(reason) for r in held_against(cell(), records).reasons)


def test_another_setting_is_a_reason_that_names_both_values() -> None:
    settings = {"synthetic_size": 256, "student.width": 64, "protocol.last": 5, "student.depth": 4}
    found = held_against(cell(settings=settings), group())
    assert found.verdict == "not tested"
    assert found.reasons == ("synthetic_size 64, not 256", "protocol.last 3, not 5")


def test_a_setting_that_a_method_does_not_have_keeps_nothing_from_being_comparable() -> None:
    teacher = group(method="teacher", parameters={})
    found = held_against(cell(method="teacher", settings={"synthetic_size": 256}), teacher)
    assert (found.verdict, found.reasons) == ("reproduced", ())


def test_the_records_that_differ_in_the_fewest_settings_are_taken() -> None:
    settings = {"student.width": 256, "student.depth": 4, "protocol.last": 5}
    far = group([1.0] * 6, student={"depth": 2})
    near = group([2.0] * 2, protocol={"last": 5})
    middle = group([3.0] * 4)
    for given in ([far, near, middle], [middle, near, far]):
        found = held_against(cell(settings=settings), *given)
        assert found.reasons == ("student.width 64, not 256",)
        assert found.reproduced is not None
        assert found.reproduced.value == 2.0


def test_of_equally_near_records_those_with_the_most_seeds_are_taken() -> None:
    few, many = group([1.0] * 3, student={"head": "mean"}), group([2.0] * 4)
    for given in ([few, many], [many, few]):
        found = held_against(cell(), *given)
        assert found.reproduced is not None
        assert (found.reproduced.value, found.reproduced.n) == (2.0, 4)


def test_every_cell_is_answered_in_its_order() -> None:
    cells = [cell(20.0), cell(method="pbc"), cell(60.0), cell(dataset="brax/hopper")]
    comparisons = compare(cells, group())
    assert [comparison.published for comparison in comparisons] == cells
    verdicts = [comparison.verdict for comparison in comparisons]
    assert verdicts == ["reproduced", "not tested", "differs", "not tested"]


def test_a_number_from_brax_is_held_against_returns_of_brax_alone() -> None:
    brax = cell(1781, method="hades", dataset="brax/hopper")
    found = held_against(brax, group(method="hades", dataset=OWN))
    assert found == Comparison(brax, None, None, "not tested", ("no record",))
    there = group(method="hades", dataset="brax/hopper")
    returned = np.mean([record.mean_score.return_ for record in there])
    assert held_against(brax, there).difference == pytest.approx(returned - 1781)


# --- rows -------------------------------------------------------------------------------------

RESIDUAL = {"name": "residual"}


def scored_by(**changes: Any) -> list[Record]:
    return group(evaluation_student=replace(STUDENT, **changes))


@pytest.mark.parametrize(
    ("wanted", "records", "belongs"),
    [
        (PLAIN, group(), True),
        (PLAIN, scored_by(), True),  # the same student, written out
        (PLAIN, scored_by(depth=2), False),
        (PLAIN, group(protocol={"ensemble": 10}), False),
        (PLAIN | {"evaluation_student.depth": 2}, scored_by(depth=2), True),
        (PLAIN | {"evaluation_student.depth": 2}, scored_by(depth=3), False),
        (PLAIN | {"evaluation_student.depth": 2}, scored_by(depth=2, optimizer="adam"), False),
        (PLAIN | {"evaluation_student.depth": 2}, scored_by(name="residual"), False),
        (PLAIN | {"evaluation_student.depth": 2}, group(student={"depth": 2}), False),
        (PLAIN | {"evaluation_student.name": "residual"}, scored_by(**RESIDUAL), True),
        (PLAIN | {"evaluation_student.name": "residual"}, group(student=RESIDUAL), False),
        ({"protocol.ensemble": 10}, group(protocol={"ensemble": 10}), True),
        ({"protocol.ensemble": 10}, group(protocol={"ensemble": 5}), False),
        ({"protocol.ensemble": 10}, group(), False),
        (PLAIN | {"synthetic_size": 64}, group(), True),
        (PLAIN | {"synthetic_size": 64}, group(parameters={"synthetic_size": 16}), False),
    ],
)
def test_records_belong_to_the_row_they_were_made_as(
    wanted: dict[str, Any], records: list[Record], belongs: bool
) -> None:
    found = held_against(cell(wanted=wanted), records)
    assert found.verdict == ("reproduced" if belongs else "not tested")


def test_settings_of_a_spec_are_dotted_and_of_the_scoring_student_only_what_it_changes() -> None:
    spec = build_spec(parameters={"outer_steps": 9}, student={"depth": 3})
    plain = settings_of(spec)
    assert plain["outer_steps"] == 9
    assert (plain["student.depth"], plain["student.width"]) == (3, 64)
    assert (plain["protocol.students"], plain["protocol.ensemble"]) == (4, 1)
    assert not [key for key in plain if key.startswith("evaluation") or key.endswith("l.name")]
    scored = replace(
        spec,
        evaluation_student=replace(spec.student, optimizer="adam", momentum=0.9),
        protocol=replace(spec.protocol, ensemble=10),
    )
    changes = {
        "evaluation_student.optimizer": "adam",
        "evaluation_student.momentum": 0.9,
        "protocol.ensemble": 10,
    }
    assert settings_of(scored) == plain | changes


@pytest.mark.parametrize(
    ("dataset", "own"),
    [
        ("d4rl/hopper-medium-v2", "hopper/medium"),
        ("d4rl/walker2d-medium-replay-v2", "walker2d/medium-replay"),
        ("d4rl/halfcheetah-medium-expert-v2", "halfcheetah/medium-expert"),
        ("brax/hopper", None),
        ("hopper/medium", None),
    ],
)
def test_the_own_analogue_is_of_the_same_environment_and_kind(
    dataset: str, own: str | None
) -> None:
    assert own_analogue(dataset) == own


# --- reading papers ---------------------------------------------------------------------------

PAPER = {
    "source": "arXiv 1234",
    "tables": {
        "by_method": {
            "vary": "method",
            "settings": {
                "synthetic_size": 256,
                "student": {"depth": 4, "width": 256},
                "protocol": {"students": 10, "ensemble": 10},
            },
            "values": {"pbc": {"d4rl/a-b-v2": 1.5}},
        },
        "by_student": {
            "vary": "evaluation_student",
            "method": "av_pbc",
            "settings": {"student": {"depth": 4}},
            "rows": {"wide and deep": {"depth": 6, "width": 512}},
            "values": {"wide and deep": {"d4rl/a-b-v2": 2.5, "d4rl/a-c-v2": 3.5}},
        },
        "by_size": {
            "vary": "synthetic_size",
            "method": "hades",
            "settings": {"synthetic_size": 256, "student": {"depth": 4}},
            "values": {"16": {"brax/a": -4}},
        },
    },
}


def test_a_papers_cells_have_what_makes_their_row_and_what_makes_them_comparable(
    tmp_path: Path,
) -> None:
    (tmp_path / "paper.json").write_text(json.dumps(PAPER))
    ensemble, *wide, size = published_cells(tmp_path)
    assert ensemble == PublishedCell(
        paper="paper",
        source="arXiv 1234",
        table="by_method",
        row="pbc",
        dataset="d4rl/a-b-v2",
        method="pbc",
        value=1.5,
        unit="normalized return",
        wanted={"protocol.ensemble": 10},
        settings={
            "synthetic_size": 256,
            "student.depth": 4,
            "student.width": 256,
            "protocol.students": 10,
        },
    )
    assert [(c.row, c.method, c.dataset, c.value) for c in wide] == [
        ("wide and deep", "av_pbc", "d4rl/a-b-v2", 2.5),
        ("wide and deep", "av_pbc", "d4rl/a-c-v2", 3.5),
    ]
    changes = {"evaluation_student.depth": 6, "evaluation_student.width": 512}
    for found in wide:
        assert found.wanted == PLAIN | changes
        assert found.settings == {"student.depth": 4}
    # What the row says outranks what the table says.
    assert (size.row, size.method, size.value, size.unit) == ("16", "hades", -4, "return")
    assert size.wanted == PLAIN | {"synthetic_size": 16}
    assert size.settings == {"student.depth": 4}


def test_papers_come_in_the_order_of_their_files(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(PAPER))
    assert [found.paper for found in published_cells(tmp_path)] == ["a"] * 4 + ["b"] * 4


# --- the papers' numbers ----------------------------------------------------------------------


def test_every_cell_of_the_papers_tables_is_there() -> None:
    """Rows times datasets, by the papers: six methods on nine sets, and so on."""
    counts = Counter((found.paper, found.table) for found in published_cells())
    assert counts == {
        ("obd", "table1"): 6 * 9,
        ("obd", "table2"): 8 * 9,
        ("obd", "table3"): 3 * 9,
        ("obd", "table5"): 5 * 3,
        ("hades", "size_64"): 2 * 8,
        ("hades", "size_4"): 2,
        ("hades", "sizes"): 4 * 3,
        ("hades", "minatar"): 2 * 4,
        ("hades", "minatar_es"): 4,
        ("hades", "supervised"): 2,
        ("sdw_obd", "main"): 3,
    }


def test_every_cell_is_of_a_registered_method_and_a_dataset_that_parses() -> None:
    for found in published_cells():
        assert found.method in METHODS
        if found.paper == "hades":
            assert found.dataset.startswith(("brax/", "minatar/", "images/"))
            assert own_analogue(found.dataset) is None
        else:
            assert str(DatasetName.parse(found.dataset)) == found.dataset
            own = own_analogue(found.dataset)
            assert own is not None
            assert str(DatasetName.parse(own)) == own


def test_every_setting_of_a_paper_is_one_that_runs_have() -> None:
    # One that no run has, for instance a misspelt one, would be compared with nothing.
    for found in published_cells():
        spec = RunSpec.create(
            method=found.method,
            dataset=OWN,
            parameters={},
            where="a test",
            protocol=PROTOCOLS["obd"],
        )
        has = settings_of(spec)
        wanted = {key.removeprefix("evaluation_") for key in found.wanted}
        missing = (wanted | found.settings.keys()) - has.keys()
        assert missing <= {"synthetic_size"}, f"{found.table}, {found.row}"
        assert not missing or found.method in ("bc_whole", "teacher")


def table_1_av_pbc() -> PublishedCell:
    (published,) = (
        found
        for found in published_cells()
        if (found.table, found.row, found.dataset) == ("table1", "av_pbc", D4RL)
    )
    return published


CORL = asdict(CORLCalQL())


def with_teacher(teacher: str, parameters: dict[str, Any], **facts: str) -> Comparison:
    """Av-PBC's number of Table 1 next to runs at its settings, whose teacher was trained so."""
    spec = RunSpec.create(
        method="av_pbc",
        dataset=D4RL,
        parameters={},
        where="a test",
        teacher=teacher,
        protocol=PROTOCOLS["obd"],
    )
    records = [
        altered(
            of_spec(record, spec),
            teacher__name=teacher,
            teacher__parameters=parameters,
            **{f"teacher__{key}": value for key, value in facts.items()},
        )
        for record in group([32.0, 32.5, 33.0, 33.5, 34.0])
    ]
    return held_against(table_1_av_pbc(), records)


@pytest.mark.parametrize(
    ("teacher", "parameters"),
    [
        ("cal_ql_authors", {}),
        ("cal_ql_corl", CORL),
        ("cal_ql_corl:1", {**CORL, "report_every": 7}),
    ],
)
def test_a_run_with_the_defaults_of_the_suite_is_comparable_with_obds_table_1(
    teacher: str, parameters: dict[str, Any]
) -> None:
    found = with_teacher(teacher, parameters)
    assert (found.published.value, found.verdict, found.reasons) == (32.5, "reproduced", ())


@pytest.mark.parametrize(
    ("teacher", "parameters", "reason"),
    [
        ("cal_ql", asdict(CalQL()), "teacher cal_ql, not cal_ql_corl"),
        ("cal_ql", {}, "teacher cal_ql, not cal_ql_corl"),  # an import of older versions, or not
        ("cal_ql_corl", {**CORL, "steps": 20_000}, "teacher.steps 20000, not 1000000"),
        ("cal_ql_corl", {}, "teacher cal_ql_corl of settings that the record does not tell"),
    ],
)
def test_a_teacher_trained_otherwise_than_the_papers_is_not_theirs(
    teacher: str, parameters: dict[str, Any], reason: str
) -> None:
    found = with_teacher(teacher, parameters)
    assert (found.verdict, found.reasons) == ("not tested", (reason,))


@pytest.mark.parametrize(
    ("published", "reason"),
    [
        ("obd/hopper-medium-v2", None),
        ("obd/hopper-medium-expert-v2", "teacher published for d4rl/hopper-medium-expert-v2"),
        (None, "teacher of a checkpoint (sha256 1111111111111111) that no author published"),
    ],
)
def test_an_imported_teacher_is_the_papers_where_they_published_it_for_the_dataset(
    published: str | None, reason: str | None
) -> None:
    sha256 = published_files()[published].sha256 if published else "1" * 64
    found = with_teacher(AUTHORS, {}, checkpoint_sha256=sha256)
    expected = ("not tested", (reason,)) if reason else ("reproduced", ())
    assert (found.verdict, found.reasons) == expected


def test_sdw_obd_is_tested_only_with_the_papers_density_and_teacher() -> None:
    published = next(found for found in published_cells() if found.method == "sdw_obd")
    assert published.settings["density"] == "maf_published"
    assert published.settings["teacher"] == "cal_ql_corl"


def test_printed_averages_are_those_of_their_rows_but_where_a_note_says_so() -> None:
    for paper, name, table in every_table():
        for row, printed in table.get("printed_averages", {}).items():
            average = np.mean(list(table["values"][row].values()))
            if abs(average - printed) > 0.05:
                assert (paper, name, row) == ("obd", "table1", "teacher")
                said = f"nine values of that row average {average:.1f}; the paper prints {printed}"
                assert any(said in note for note in table["notes"])


def test_every_row_has_the_same_datasets_in_the_papers_that_have_the_whole_table() -> None:
    for name, table in tables("obd").items():
        rows = {tuple(values) for values in table["values"].values()}
        assert len(rows) == 1, name


def test_obds_size_of_256_is_its_main_result() -> None:
    of = tables("obd")
    main, sizes = of["table1"]["values"]["av_pbc"], of["table5"]["values"]["256"]
    assert sizes == {dataset: main[dataset] for dataset in sizes}


def test_the_margin_holds_26_of_the_27_published_pairs_of_the_same_sets() -> None:
    """What `MARGIN` says of itself: Table 2's other optimisers against Table 1."""
    of = tables("obd")
    main, others = of["table1"]["values"]["av_pbc"], of["table2"]["values"]
    pairs = [
        (others[row][dataset], main[dataset])
        for row in ("adam", "adamw", "sgd_momentum_0.9")
        for dataset in main
    ]
    assert len(pairs) == 27
    assert sum(abs(other - value) < MARGIN for other, value in pairs) == 26


def test_hades_sizes_are_other_runs_than_its_main_table_as_a_note_says() -> None:
    of = tables("hades")
    main, sizes = of["size_64"]["values"]["hades"], of["sizes"]["values"]["64"]
    assert all(sizes[dataset] != main[dataset] for dataset in sizes)
    note, _ = of["sizes"]["notes"]
    assert "3,499 against 3,357" in note
    assert (sizes["brax/halfcheetah"], main["brax/halfcheetah"]) == (3499, 3357)


def test_records_on_the_papers_dataset_are_taken_before_nearer_ones_on_the_own() -> None:
    settings = {"student.width": 256, "protocol.last": 5}
    there = group([1.0] * 3)  # differs in two settings
    own = group([2.0] * 3, dataset=OWN, student={"width": 256}, protocol={"last": 5})
    found = held_against(cell(settings=settings), own, there)
    assert found.dataset == D4RL


def test_a_run_with_fewer_outer_steps_or_another_teacher_is_not_comparable() -> None:
    for changes, reason in (
        ({"parameters": {"outer_steps": 5}, "teacher": AUTHORS}, "outer_steps 5, not 20000"),
        ({"parameters": {}, "teacher": "td3_bc"}, "teacher td3_bc, not cal_ql_corl"),
    ):
        spec = RunSpec.create(
            method="av_pbc", dataset=D4RL, where="a test", protocol=PROTOCOLS["obd"], **changes
        )
        records = [of_spec(record, spec) for record in group([32.0, 32.5, 33.0, 33.5, 34.0])]
        found = held_against(table_1_av_pbc(), records)
        assert (found.verdict, found.reasons) == ("not tested", (reason,))
