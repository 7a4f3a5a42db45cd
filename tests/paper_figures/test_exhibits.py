"""Every table and figure by name: which records it takes, and what becomes of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from benchmark.datasets.d4rl_facts import d4rl_reference
from benchmark.protocol import Protocol
from benchmark.record import FILE, read_record, write_record
from benchmark.run import run_folder
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep, read_sweep
from obdbench import sweeps as shipped_sweeps
from obdbench.sweeps import find_sweep
from paper_figures.exhibits import EXHIBITS, Exhibit, NoRecords, StoredResults, gather, write
from paper_figures.figure import FigureError, words
from paper_figures.studies.study import source_of
from paper_figures.table import Table
from results.comparison import JUDGED, published_cells
from results.record_store import SHIPPED, all_records, save_sweep
from results.shipping import ship_study
from results.study_results import BadStudyResult, StudyResult, write_result
from tests.results.conftest import build_record
from tests.tiny_runs import altered, consistent

DATASETS = ["halfcheetah/medium-expert", "hopper/medium-expert"]
METHODS = ["av_pbc", "pbc", "teacher"]
NAMES = [*METHODS, "bc_whole", "pbc_scaled", "av_pbc_mean_one"]
REFERENCES = ["teacher", "bc_whole"]
PROTOCOL = Protocol("tiny", students=2, episodes=2, checkpoint_every=2, last=2)
TABLE = next(exhibit for exhibit in EXHIBITS if exhibit.name == "obd-table-1")
FAIRNESS = next(exhibit for exhibit in EXHIBITS if exhibit.name == "axes-fairness")
SIZES = next(exhibit for exhibit in EXHIBITS if exhibit.name == "obd-table-5-figure")
REPRODUCTION = next(exhibit for exhibit in EXHIBITS if exhibit.name == "reproduction")


def spec(method: str, dataset: str, seed: int, size: int = 64) -> RunSpec:
    parameters = {} if method in REFERENCES else {"synthetic_size": size}
    return RunSpec.create(
        method=method,
        dataset=dataset,
        parameters=parameters,
        where="a test",
        seed=seed,
        protocol=PROTOCOL,
    )


def runs(
    methods: Sequence[str] = METHODS,
    datasets: Sequence[str] = DATASETS,
    seeds: int = 2,
    sizes: Sequence[int] = (64,),
) -> tuple[RunSpec, ...]:
    return tuple(
        spec(method, dataset, seed, size)
        for dataset in datasets
        for method in methods
        for size in sizes
        for seed in range(seeds)
    )


def invented_score(run: RunSpec) -> float:
    """Higher for a later name, for more pairs, and for a higher seed."""
    place = NAMES.index(run.method) if run.method in NAMES else len(NAMES)
    return 10.0 * place + run.parameters.get("synthetic_size", 0) + run.seed


def leave_record(store: Path, run: RunSpec, *, error: str | None = None) -> None:
    """The record that a run might have left."""
    score = invented_score(run)
    curve = [score / 2, score]
    episodes = {"episodes": run.protocol.episodes}
    record = build_record(
        run.method, run.dataset, run.seed, score, curve=curve, error=error, protocol=episodes
    )
    costs = {"cost__checkpoint_cpu_seconds": [0.0, 19.0], "cost__environment_steps": 900,
             "cost__checkpoint_environment_steps": [0, 900]}  # fmt: skip
    failed = {} if error is None else {"checkpoints": []}
    record = altered(record, **(costs if error is None else {}))
    record = altered(record, spec=run, run_id=run.run_id, cell_id=run.cell_id, **failed)
    record = consistent(altered(record, parameters=run.resolved_parameters))
    write_record(run_folder(store, run) / FILE, record)


def do(store: Path, name: str, wanted: Sequence[RunSpec]) -> None:
    """A sweep of that name whose runs have all been done."""
    save_sweep(store, Sweep(name, "", tuple(wanted)))
    for run in wanted:
        leave_record(store, run)


# --- what there is ----------------------------------------------------------------------------


def test_every_exhibit_has_a_name_of_its_own_and_takes_a_sweep_that_the_suite_ships() -> None:
    names = [exhibit.name for exhibit in EXHIBITS]
    assert len(set(names)) == len(names)
    folder = Path(shipped_sweeps.__file__).parent
    for exhibit in EXHIBITS:
        if exhibit.sweep:
            assert read_sweep(folder / f"{exhibit.sweep}.toml").name == exhibit.sweep


def test_every_exhibit_can_be_made_from_complete_sweeps(tmp_path: Path) -> None:
    store = tmp_path / "store"
    two_settings = {"sizes", "hades_hopper", "precision"}
    names = {exhibit.sweep for exhibit in EXHIBITS if exhibit.sweep}
    for name in names - two_settings - {"pruning"}:
        do(store, name, runs(NAMES))
    do(store, "pruning", [run for run in find_sweep("pruning", store).runs if run.seed < 2])
    for name in two_settings:
        do(store, name, runs(["av_pbc"], DATASETS[:1], sizes=(16, 64)))
    for exhibit in EXHIBITS:
        # Invented records have no synthetic sets, and studies are measured on such.
        needs_sets = exhibit.study or exhibit.name == "hades-cartpole-pairs"
        if exhibit.study and not (SHIPPED / "studies" / exhibit.study).is_dir():
            continue  # docs/paper.md says that it is not yet measured
        made = exhibit.make(gather(exhibit, SHIPPED if needs_sets else store))
        if isinstance(made, Table):
            assert sum(map(len, made.groups)), exhibit.name
        else:
            assert any(axes.has_data() for axes in made.axes), exhibit.name
            made.draw_without_rendering()
            assert all(words(made)), exhibit.name
            for text in made.texts:  # title and caption
                box = text.get_window_extent()
                assert 0 <= box.x0 <= box.x1 <= made.bbox.width, (exhibit.name, text.get_text())


# --- which records ----------------------------------------------------------------------------


@pytest.mark.parametrize("started", [False, True])
def test_a_sweep_without_records_is_named_with_the_command_that_does_it(
    tmp_path: Path, started: bool
) -> None:
    if started:
        save_sweep(tmp_path, Sweep("main_table", "", runs()))
    message = f"{tmp_path} holds no record of the sweep main_table: obdbench sweep main_table"
    with pytest.raises(NoRecords, match=rf"{message} --store {tmp_path}$"):
        gather(TABLE, tmp_path)


def test_an_exhibit_takes_the_records_of_its_sweep_alone_and_knows_what_is_missing(
    tmp_path: Path,
) -> None:
    wanted = runs(["pbc"], DATASETS[1:], seeds=3)
    save_sweep(tmp_path, Sweep("main_table", "", wanted))
    leave_record(tmp_path, wanted[0])
    leave_record(tmp_path, wanted[1], error="MemoryError")
    do(tmp_path, "all_methods", runs(["av_pbc"]))
    found = gather(TABLE, tmp_path)
    assert [record.run_id for record in found.records] == [run.run_id for run in wanted[:2]]
    assert found.asked == wanted
    caption = found.table().caption
    assert (
        "Missing: pbc on hopper/medium-expert has 1 of 3 seeds (1 failed: MemoryError, 1 without "
        "a record)"
    ) in caption


def test_the_reproduction_takes_every_record_of_a_store_and_needs_none(tmp_path: Path) -> None:
    assert not gather(REPRODUCTION, tmp_path / "nowhere").records
    for run in runs(["pbc"]):  # of no sweep that was started here
        leave_record(tmp_path, run)
    assert len(gather(REPRODUCTION, tmp_path).records) == 4


def test_a_papers_number_stands_next_to_the_data_that_stand_in_for_its_own() -> None:
    """OBD's Table 1: sets of 256 pairs, students as distilled for, one policy at a time."""
    standin = spec("av_pbc", "standin/hopper-medium-v2", 0, size=256)
    record = build_record("av_pbc", standin.dataset, 0, 30.0)
    record = altered(record, spec=standin, parameters=standin.resolved_parameters)
    of_standin = StoredResults([record]).published("obd", "av_pbc")
    assert of_standin == {"standin/hopper-medium-v2": {"published: 32.5": 32.5}}
    small = altered(record, parameters={**record.parameters, "synthetic_size": 64})
    sizes_of_table_5 = StoredResults([small]).published("obd", "av_pbc")
    assert sizes_of_table_5 == {}  # it has them for other data
    assert StoredResults([record]).published("hades", "av_pbc") == {}


def leave_study(store: Path, run: RunSpec) -> None:
    """The result that a study of that run, as it is now, might have left."""
    record = read_record(run_folder(store, run) / FILE)
    source = {"dataset_sha256": record.provenance.dataset_sha256, "sets": [source_of(record)]}
    rows = [{"error": 0.5}]
    result = StudyResult("fairness", run.dataset, source, {}, 1, rows, 0.1, {"dirty": False})
    write_result(store, result)


@pytest.mark.parametrize("changed", ["last set or teacher", "dataset"])
def test_a_study_is_refused_once_its_runs_have_been_done_again(
    tmp_path: Path, changed: str
) -> None:
    (run,) = runs(["pbc"], DATASETS[1:], seeds=1)
    leave_record(tmp_path, run)
    path = run_folder(tmp_path, run) / FILE
    record = read_record(path)
    leave_study(tmp_path, run)
    assert len(gather(FAIRNESS, tmp_path).measured) == 1
    if changed == "dataset":
        again = altered(record, provenance__dataset_sha256="b" * 64)
    else:
        last = record.checkpoints[-1]
        students = record.spec.protocol.students
        last = msgspec.structs.replace(
            last,
            synthetic_set="set-00000200.safetensors",
            sha256="a" * 64,
            returns=last.returns * students,
            lengths=last.lengths * students,
        )
        again = consistent(altered(record, checkpoints=[*record.checkpoints[:-1], last]))
    write_record(path, again)
    message = f"{run.dataset} of the study fairness .* the {changed} of {run.run_id} had sha256"
    with pytest.raises(BadStudyResult, match=f"{message}.* obdbench study fairness --store"):
        gather(FAIRNESS, tmp_path)
    with pytest.raises(BadStudyResult, match=message):
        ship_study(tmp_path, "fairness", tmp_path / "shipped")


def test_a_study_of_runs_that_are_not_there_is_shown(tmp_path: Path) -> None:
    (run,) = runs(["pbc"], DATASETS[1:], seeds=1)
    leave_record(tmp_path, run)
    leave_study(tmp_path, run)
    (run_folder(tmp_path, run) / FILE).unlink()
    assert len(gather(FAIRNESS, tmp_path).measured) == 1


# --- what is written --------------------------------------------------------------------------


def test_a_tables_csv_has_the_means_over_the_records(tmp_path: Path) -> None:
    wanted = runs(["pbc", "av_pbc"], DATASETS, seeds=3)
    do(tmp_path, "main_table", wanted)
    paths = write(TABLE, tmp_path, tmp_path / "paper")
    data = pd.read_csv(io.StringIO(paths[1].read_text()))
    assert len(data) == 4
    for _, row in data.iterrows():
        scores = [
            invented_score(run)
            for run in wanted
            if (run.method, run.dataset) == (row["method"], row["dataset"])
        ]
        assert (row["n"], row["n_expected"]) == (3, 3)
        assert row["value"] == pytest.approx(np.mean(scores))


def test_the_reproductions_csv_holds_these_records_against_the_papers(tmp_path: Path) -> None:
    do(tmp_path, "main_table", runs(["pbc"], DATASETS[1:]))
    paths = write(REPRODUCTION, tmp_path, tmp_path / "paper")
    data = pd.read_csv(paths[1])
    assert len(data) == len(published_cells())
    # The authors' files have shipped scores, which stand next to any store's records.
    (row,) = (row for _, row in data.iterrows() if row["n"] and row["verdict"] not in JUDGED)
    assert (row["table"], row["row"]) == ("table1", "pbc")
    assert (row["dataset"], row["reproduced_on"]) == (
        "d4rl/hopper-medium-expert-v2",
        "hopper/medium-expert",
    )
    found = [r.mean_score.return_ for r in all_records(tmp_path)]
    reference = d4rl_reference("hopper-medium-expert-v2")  # the paper's unit
    assert row["reproduced"] == pytest.approx(reference.normalise(np.mean(found)))


def test_records_that_do_not_suffice_leave_no_file(tmp_path: Path) -> None:
    do(tmp_path, "sizes", runs(["av_pbc"], sizes=(64,)))
    with pytest.raises(FigureError, match="two synthetic sizes"):
        write(SIZES, tmp_path, tmp_path / "paper")
    assert not (tmp_path / "paper").exists()


@pytest.mark.parametrize("exhibit", [TABLE, SIZES, REPRODUCTION], ids=lambda exhibit: exhibit.name)
def test_the_same_records_give_the_same_bytes(exhibit: Exhibit, tmp_path: Path) -> None:
    wanted = runs(["av_pbc", "pbc"], DATASETS[:1], sizes=(16, 64))
    do(tmp_path / "first", exhibit.sweep or "any", wanted)
    do(tmp_path / "second", exhibit.sweep or "any", wanted[::-1])
    first, second = (
        write(exhibit, tmp_path / store, tmp_path / store / "paper")
        for store in ("first", "second")
    )
    endings = ("pdf", "png", "svg") if exhibit is SIZES else ("md", "csv", "tex")
    names = [f"{exhibit.name}.{ending}" for ending in endings]
    assert [path.name for path in first] == [path.name for path in second] == names
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
