"""Sets that another run distilled are scored again: the same numbers, and nothing is hidden."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.obd import DBC
from benchmark import evaluation
from benchmark.environments.rollout import Episodes
from benchmark.method import METHODS
from benchmark.monitor import STATE
from benchmark.packing import make_packs
from benchmark.record import FILE, BadRecord, ConvertedFrom, Record, read_record, write_record
from benchmark.run import WorkerDied, record_death, run_folder
from benchmark.same_sets import FOLDER, SameSets
from benchmark.spec import RunSpec
from benchmark.state import load_state
from benchmark.stopping import Stopped, StopRequest
from benchmark.synthetic_set import load_synthetic_set
from tests.tiny_runs import (
    PROTOCOL,
    STUDENT,
    altered,
    execute,
    execute_pack,
    numbers,
    tiny_spec,
)


@pytest.fixture(scope="module")
def spec(small_dataset_name: str) -> RunSpec:
    return tiny_spec("dbc", small_dataset_name)


@pytest.fixture(scope="module")
def deeper(spec: RunSpec) -> RunSpec:
    return replace(spec, evaluation_student=replace(STUDENT, depth=3))


@pytest.fixture(scope="module")
def alone(deeper: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The run by itself, with its own distillation."""
    return execute(deeper, tmp_path_factory.mktemp("alone"))


@pytest.fixture
def distillations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs each distillation was of."""
    found: list[int] = []
    one, many = DBC.distill, DBC.distill_packed.__func__  # type: ignore[attr-defined]

    def distill(self: DBC, *args: Any) -> None:
        found.append(1)
        one(self, *args)

    def distill_packed(cls: type[DBC], work: Any) -> None:
        found.append(len(work))
        many(cls, work)

    monkeypatch.setattr(DBC, "distill", distill)
    monkeypatch.setattr(DBC, "distill_packed", classmethod(distill_packed))
    return found


def test_sets_of_the_store_are_scored_with_the_numbers_of_the_run_alone(
    spec: RunSpec, deeper: RunSpec, alone: Record, distillations: list[int], tmp_path: Path
) -> None:
    first = execute(spec, tmp_path)
    again = execute(deeper, tmp_path)
    assert sum(distillations) == 1
    assert alone.sets_of is None and again.sets_of == spec.run_id
    files = [(run_folder(tmp_path, run) / FILE).read_text() for run in (spec, deeper)]
    assert ['"sets_of"' in text for text in files] == [False, True]
    assert [c.returns for c in again.checkpoints] == [c.returns for c in alone.checkpoints]
    assert (again.score, again.method_facts) == (alone.score, alone.method_facts)
    for ours, theirs in zip(again.checkpoints, first.checkpoints, strict=True):
        (found, _, card), (expected, _, _) = (
            load_synthetic_set(run_folder(tmp_path, run) / str(point.synthetic_set))
            for run, point in ((deeper, ours), (spec, theirs))
        )
        assert card["run_id"] == deeper.run_id
        assert torch.equal(found.observations, expected.observations)
        assert torch.equal(found.actions, expected.actions)


def test_a_record_says_what_the_distillation_cost_and_by_what_it_was_done(
    spec: RunSpec, deeper: RunSpec, tmp_path: Path
) -> None:
    first = execute(spec, tmp_path)
    known = altered(first, cost__cpu_seconds=1e3, provenance__dirty=True)
    write_record(run_folder(tmp_path, spec) / FILE, known)
    again = execute(deeper, tmp_path)
    assert again.cost.cpu_seconds == 1e3
    assert again.cost.checkpoint_cpu_seconds == first.cost.checkpoint_cpu_seconds
    assert again.cost.outer_steps == first.cost.outer_steps == 6
    assert again.cost.evaluation_wall_seconds != first.cost.evaluation_wall_seconds > 0
    assert again.provenance.device == first.provenance.device
    same = SameSets(known, ())
    assert [same.origin(dirty)["dirty"] for dirty in (False, True)] == [True, True]
    assert SameSets(first, ()).origin(True)["dirty"] is True


@pytest.mark.parametrize("processor", ["AMD EPYC, AVX2", "Intel Xeon, AVX512"])
def test_sets_of_another_processor_are_distilled_anew(
    processor: str, spec: RunSpec, deeper: RunSpec, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("benchmark.provenance.processor", lambda: "AMD EPYC, AVX2")
    execute(spec, tmp_path)
    monkeypatch.setattr("benchmark.provenance.processor", lambda: processor)
    expected = spec.run_id if processor == "AMD EPYC, AVX2" else None
    assert execute(deeper, tmp_path).sets_of == expected


def test_a_third_run_names_the_one_that_distilled(
    spec: RunSpec, deeper: RunSpec, tmp_path: Path
) -> None:
    execute(spec, tmp_path)
    execute(deeper, tmp_path)
    (run_folder(tmp_path, spec) / FILE).unlink()
    third = replace(spec, protocol=replace(PROTOCOL, ensemble=2))
    assert execute(third, tmp_path).sets_of == spec.run_id


def test_a_pack_distils_every_set_once(
    spec: RunSpec, deeper: RunSpec, alone: Record, distillations: list[int], tmp_path: Path
) -> None:
    ensemble = replace(spec, protocol=replace(PROTOCOL, ensemble=2))
    runs = [run.with_seed(seed) for run in (spec, deeper, ensemble) for seed in (0, 1)]
    (pack,) = make_packs(runs, largest=2)
    records = {record.run_id: record for record in execute_pack(pack, tmp_path)}
    assert distillations == [2]
    assert numbers(records[deeper.run_id])["score"] == numbers(alone)["score"]
    named = [records[run.run_id].sets_of for run in runs]
    assert named == [None, None, *(spec.with_seed(seed).run_id for seed in (0, 1, 0, 1))]


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"parameters": {"synthetic_size": 4, "outer_batch": 8, "outer_steps": 7}},
        {"student": replace(STUDENT, steps=5)},
        {"protocol": replace(PROTOCOL, checkpoint_every=3)},
    ],
)
def test_other_sets_are_distilled(
    changed: dict[str, Any], spec: RunSpec, distillations: list[int], tmp_path: Path
) -> None:
    execute(spec, tmp_path)
    other = replace(spec, **changed)
    assert other.distillation_id != spec.distillation_id
    assert execute(other, tmp_path).sets_of is None
    assert sum(distillations) == 2


def without_a_set(folder: Path, record: Record) -> None:
    (folder / str(record.checkpoints[1].synthetic_set)).unlink()


def with_an_altered_set(folder: Path, record: Record) -> None:
    path = folder / str(record.checkpoints[1].synthetic_set)
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def of_other_data(folder: Path, record: Record) -> None:
    write_record(folder / FILE, altered(record, provenance__dataset_sha256="0" * 64))


def damaged(folder: Path, _: Record) -> None:
    (folder / FILE).write_text("{")


def by_other(**changes: Any) -> Callable[[Path, Record], None]:
    def spoil(folder: Path, record: Record) -> None:
        write_record(folder / FILE, altered(record, **changes))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        without_a_set,
        with_an_altered_set,
        of_other_data,
        damaged,
        by_other(provenance__engine="another"),
        by_other(provenance__threads=7),
        by_other(provenance__python="3.0.0"),
        by_other(provenance__packages={"torch": "1.0"}),
        by_other(provenance__device="cuda:0 (a GPU)"),
        by_other(provenance__converted_from=ConvertedFrom(schema="1", run_id="x")),
    ],
)
def test_sets_that_are_not_surely_the_same_are_distilled_anew(
    spoil: Callable[[Path, Record], None],
    spec: RunSpec,
    deeper: RunSpec,
    alone: Record,
    tmp_path: Path,
) -> None:
    record = execute(spec, tmp_path)
    spoil(run_folder(tmp_path, spec), record)
    again = execute(deeper, tmp_path)
    assert again.sets_of is None
    assert numbers(again) == numbers(alone)


def stopped_after_two(spec: RunSpec, store: Path, at: int = 2) -> None:
    """Score two of its four sets, or as many as there are until a step."""
    stop = StopRequest()

    def ask(_: str, step: int, __: int) -> None:
        if step == at:
            stop.ask()

    with pytest.raises(Stopped):
        execute(spec, store, on_progress=ask, stop=stop)
    assert not (run_folder(store, spec) / FILE).exists()


def test_a_stop_is_heeded_between_two_scores_and_none_is_made_twice(
    spec: RunSpec,
    deeper: RunSpec,
    alone: Record,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execute(spec, tmp_path)
    stopped_after_two(deeper, tmp_path)
    scored = []

    def counted(result: Any, **how: Any) -> Episodes:
        scored.append(result)
        return evaluation.score(result, **how)

    monkeypatch.setattr("benchmark.monitor.score", counted)
    assert numbers(execute(deeper, tmp_path)) == numbers(alone)
    assert len(scored) == 2


def test_a_method_does_not_go_on_from_a_state_that_only_scored(
    spec: RunSpec, deeper: RunSpec, alone: Record, tmp_path: Path
) -> None:
    execute(spec, tmp_path)
    stopped_after_two(deeper, tmp_path)
    (run_folder(tmp_path, spec) / FILE).unlink()
    again = execute(deeper, tmp_path)
    assert again.sets_of is None
    assert numbers(again) == numbers(alone)


@pytest.mark.parametrize("stopped", ["while it distilled", "while it scored another's"])
def test_a_record_never_has_scores_of_sets_of_two_origins(
    stopped: str, spec: RunSpec, deeper: RunSpec, alone: Record, tmp_path: Path
) -> None:
    other = replace(spec, protocol=replace(PROTOCOL, ensemble=2))
    if stopped == "while it distilled":
        stopped_after_two(deeper, tmp_path)
        execute(spec, tmp_path)
    else:
        execute(spec, tmp_path)
        stopped_after_two(deeper, tmp_path)
        (run_folder(tmp_path, spec) / FILE).unlink()
        shutil.rmtree(tmp_path / FOLDER)
        execute(other, tmp_path)
    state = load_state(run_folder(tmp_path, deeper) / STATE)[1]
    assert len(state["checkpoints"]) == 2
    again = execute(deeper, tmp_path)
    first = other if stopped == "while it scored another's" else spec
    assert again.sets_of == first.run_id and again.provenance.resumed_from == []
    assert numbers(again) == numbers(alone)
    assert again.cost.attempts == 2
    for point in again.checkpoints:  # each is of this attempt
        path = run_folder(tmp_path, deeper) / str(point.synthetic_set)
        assert path.stat().st_mtime >= (run_folder(tmp_path, first) / FILE).stat().st_mtime


@pytest.mark.parametrize(("dirty", "same"), [(False, True), (True, False)])
def test_sets_of_another_process_are_taken_only_where_its_code_is_known(
    dirty: bool, same: bool, spec: RunSpec, deeper: RunSpec, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("benchmark.provenance._commit", lambda: ("0" * 40, dirty))
    execute(spec, tmp_path)
    monkeypatch.setattr("benchmark.same_sets._made_here", set())
    assert (execute(deeper, tmp_path).sets_of == spec.run_id) is same


def test_sets_of_a_plug_in_of_another_process_are_distilled_anew(
    spec: RunSpec, deeper: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.provenance._commit", lambda: ("0" * 40, False))
    execute(spec, tmp_path)
    monkeypatch.setattr("benchmark.same_sets._made_here", set())
    monkeypatch.setitem(METHODS._origins, "dbc", "my_method.py")  # it may have been edited
    assert execute(deeper, tmp_path).sets_of is None


def test_a_run_that_goes_on_under_other_packages_says_so_and_gives_its_sets_to_none(
    spec: RunSpec, deeper: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after_two(spec, tmp_path)
    monkeypatch.setattr("benchmark.provenance._version", lambda name: "99.0")
    record = execute(spec, tmp_path)
    assert f"torch {torch.__version__}" in record.provenance.resumed_from
    assert read_record(run_folder(tmp_path, spec) / FILE) == record
    assert execute(deeper, tmp_path).sets_of is None


def test_a_run_that_goes_on_on_another_processor_says_so(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.provenance.processor", lambda: "Intel Xeon, AVX512")
    stopped_after_two(spec, tmp_path)
    monkeypatch.setattr("benchmark.provenance.processor", lambda: "AMD EPYC, AVX2")
    record = execute(spec, tmp_path)
    assert record.provenance.device == "cpu (AMD EPYC, AVX2)"
    assert record.provenance.resumed_from == ["device cpu (Intel Xeon, AVX512)"]


def test_scores_of_another_processor_are_not_taken_over(
    spec: RunSpec, deeper: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that scores another's sets, which is a matter of seconds."""
    execute(spec, tmp_path)
    stopped_after_two(deeper, tmp_path)
    monkeypatch.setattr("benchmark.provenance.processor", lambda: "another one")
    record = execute(deeper, tmp_path)
    assert record.provenance.resumed_from == [] and record.sets_of is None


COMMITS = {"first": "1" * 40, "second": "2" * 40}


@pytest.mark.parametrize(
    ("earlier", "later", "dirty", "named"),
    [
        (("first", False), ("first", False), False, []),
        (("first", True), ("first", False), True, []),
        (("first", False), ("first", True), True, []),
        (("first", True), ("second", False), True, [f"commit {COMMITS['first']}"]),
        (("first", False), ("second", False), False, [f"commit {COMMITS['first']}"]),
        ((None, None), ("second", False), None, ["commit unknown"]),
    ],
)
@pytest.mark.parametrize("scores_only", [False, True])
def test_uncommitted_code_of_an_earlier_attempt_stays_in_the_record(
    scores_only: bool, earlier: Any, later: Any, dirty: bool | None, named: list[str],
    spec: RunSpec, deeper: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def commit(name: str | None, changed: bool | None) -> None:
        code = (name and COMMITS[name], changed)
        monkeypatch.setattr("benchmark.provenance._commit", lambda: code)

    commit("second", False)
    if scores_only:
        execute(spec, tmp_path)
    commit(*earlier)
    for step in (2, 4):  # what the first of three attempts had is not forgotten by the second
        stopped_after_two(deeper, tmp_path, at=step)
        commit(*later)
    record = execute(deeper, tmp_path)
    assert record.cost.attempts == 3 and (record.sets_of is not None) is scores_only
    assert (record.provenance.dirty, record.provenance.resumed_from) == (dirty, named)
    assert record.provenance.commit == COMMITS[later[0]]


def test_a_recorded_death_says_that_its_code_was_uncommitted(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.provenance._commit", lambda: (COMMITS["first"], True))
    stopped_after_two(spec, tmp_path)
    monkeypatch.setattr("benchmark.provenance._commit", lambda: (COMMITS["first"], False))
    assert record_death(spec, tmp_path, WorkerDied("killed"))
    record = read_record(run_folder(tmp_path, spec) / FILE)
    assert record.status == "failed" and record.provenance.dirty is True


def test_sets_that_cannot_be_taken_do_not_break_up_a_pack(
    spec: RunSpec, deeper: RunSpec, distillations: list[int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    runs = [run.with_seed(seed) for run in (spec, deeper) for seed in (0, 1)]
    execute_pack(runs[:2], tmp_path)
    monkeypatch.setattr("benchmark.provenance._version", lambda name: "99.0")
    execute_pack(runs[2:], tmp_path)
    assert distillations == [2, 2]


def test_a_run_looks_at_the_records_of_its_own_distillation_only(
    spec: RunSpec, deeper: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(spec, tmp_path)
    for size in (5, 6, 7):
        parameters = {**spec.parameters, "synthetic_size": size}
        execute(replace(spec, parameters=parameters), tmp_path)
    read = []
    monkeypatch.setattr(
        "benchmark.same_sets.read_record", lambda path: read.append(path) or read_record(path)
    )
    assert execute(deeper, tmp_path).sets_of == spec.run_id
    assert set(read) == {run_folder(tmp_path, spec) / FILE}


def test_a_run_whose_record_is_gone_is_made_anew_and_not_of_the_runs_that_scored_its_sets(
    spec: RunSpec, deeper: RunSpec, tmp_path: Path
) -> None:
    first = execute(spec, tmp_path)
    execute(deeper, tmp_path)
    (run_folder(tmp_path, spec) / FILE).unlink()
    again = execute(spec, tmp_path)
    assert again.sets_of is None
    assert numbers(again) == numbers(first)


@pytest.mark.parametrize("named", ["itself", "hopper-medium.dbc.0123456789ab.seed1", "elsewhere"])
def test_a_record_that_names_no_such_run_is_refused(
    named: str, spec: RunSpec, tmp_path: Path
) -> None:
    record = execute(spec, tmp_path)
    named = spec.run_id if named == "itself" else named
    with pytest.raises(BadRecord, match="sets_of as another run of its method, dataset and seed"):
        write_record(run_folder(tmp_path, spec) / FILE, altered(record, sets_of=named))
    assert read_record(run_folder(tmp_path, spec) / FILE) == record


def test_policies_of_a_reference_are_not_taken_for_the_same_sets(small_dataset_name: str) -> None:
    spec = tiny_spec("bc_whole", small_dataset_name)
    runs = [spec, replace(spec, protocol=replace(PROTOCOL, episodes=3))]
    assert [len(pack) for pack in make_packs(runs, largest=8, workers=2)] == [1, 1]


@pytest.mark.parametrize("method", ["dbc", "random"])
def test_runs_of_the_same_sets_are_in_one_pack(method: str, small_dataset_name: str) -> None:
    spec = tiny_spec(method, small_dataset_name)
    ensemble = replace(spec, protocol=replace(PROTOCOL, ensemble=2))
    runs = [run.with_seed(seed) for run in (spec, ensemble) for seed in (0, 1, 2)]
    packs = make_packs(runs, largest=1, workers=2)
    assert [[run.seed for run in pack] for pack in packs] == [[0, 0], [1, 1], [2, 2]]
