"""The suite from Python: runs, sweeps, results, datasets, teachers and sets, in one call each."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.config import BadConfiguration, build, plain
from benchmark.datasets.catalog import build_dataset, is_stored
from benchmark.datasets.catalog import load_dataset as load_stored
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.errors import ObdBenchError, did_you_mean, short
from benchmark.local import default_jobs, execute_here, execute_in_processes
from benchmark.protocol import Protocol, protocol_named
from benchmark.record import FILE, Record, check_set, read_record, record_folder
from benchmark.registry import load_plugin
from benchmark.run import Conditions, execute
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec
from benchmark.sweep import Sweep, build_sweep
from benchmark.synthetic_set import load_synthetic_set, scoring_student
from benchmark.teachers.teacher import NetworkTeacher
from benchmark.teachers.teacher_files import find_teacher
from obdbench.policies import DistilledSet, html_rows
from obdbench.sweep_status import sweep_status
from obdbench.sweeps import find_sweep
from paper_figures import Table
from paper_figures.sweep_table import sweep_table
from results import runs_frame
from results.comparison import published_cells
from results.record_store import (
    SHIPPED,
    all_records,
    readable_records,
    reports_folder,
    save_sweep,
)
from results.stores import DEFAULT_STORE

LONGEST_NAME = 255
"""Characters of a file's name, at most, on the usual disks."""
RESULT_COLUMNS = {
    "source": "str",
    "method": "str",
    "dataset": "str",
    "seed": "Int64",
    "normalized_return": "float64",
    "return": "float64",
    "accuracy": "float64",
    "status": "str",
    "synthetic_size": "Int64",
    "outer_steps": "Int64",
    "student": "str",
    "protocol": "str",
    "teacher": "str",
    "wall_seconds": "float64",
    "environment_steps": "Int64",
    "error": "str",
    "run_id": "str",
    "paper": "str",
    "table": "str",
    "row": "str",
}
"""Columns of `results`, with their pandas types."""

StoreFolder = str | os.PathLike[str] | None


class RunFailed(ObdBenchError):
    """A run that ended with an error. Its record, with the traceback, is in `run`."""

    def __init__(self, run: Run) -> None:
        error = run.record.failure
        super().__init__(f"{error.type}: {error.message} (record: {run.folder / FILE})")
        self.run = run


@dataclass(frozen=True)
class Run:
    """A run that is done.

    Args:
        record: All that the run left behind, as in its `record.json`.
        folder: Where the record and the run's synthetic sets are.
    """

    record: Record = field(repr=False)
    folder: Path = field(repr=False)

    @property
    def run_id(self) -> str:
        """Cell and seed: `hopper-medium.av_pbc.1a2b3c4d5e6f.seed0`."""
        return self.record.run_id

    @property
    def normalized_return(self) -> float:
        """Score under the protocol: 0 the random policy, 100 the expert; nan of a failed run."""
        score = self.record.score
        return score.normalized_return if score else math.nan

    @property
    def seconds(self) -> float:
        """Wall seconds of the method; scoring is left out."""
        return self.record.cost.wall_seconds

    def __repr__(self) -> str:
        return f"Run({self.run_id}, normalized return {self.normalized_return:.2f})"

    def _repr_html_(self) -> str:
        return html_rows(
            {
                "run": self.run_id,
                "normalized return": f"{self.normalized_return:.2f}",
                "seconds": f"{self.seconds:.1f}",
                "folder": str(self.folder),
            }
        )


def run(
    method: str,
    dataset: str,
    *,
    seed: int = 0,
    protocol: str | Protocol | Mapping[str, Any] = "obd",
    teacher: str = "td3_bc",
    density: str = "maf",
    student: StudentSpec | Mapping[str, Any] | None = None,
    store: StoreFolder = None,
    device: str = "cpu",
    **parameters: Any,
) -> Run:
    """Do one run in this process; one that is done already is returned as it is.

    A dataset that is not on this machine yet is collected or fetched first. A call that is
    interrupted goes on from its saved state when it is made again.

    Args:
        method: Registered method; `obdbench list` shows them.
        dataset: Registered dataset, e.g. "hopper/medium-expert", with `@size` for another size.
        seed: Seed of the run, an integer.
        protocol: How the result is scored: a name, or a protocol of your own, which may be its
            settings by name.
        teacher: Teacher recipe, or `recipe:seed`; ignored by methods that need none.
        density: Density recipe; ignored by methods that need none.
        student: What the method distils for and is scored with: a specification, or settings by
            name, of which `recipe` may be "hades". What is left out is the method's own student's:
            OBD's but for the presets of HaDES.
        store: Folder of records; `OBDBENCH_STORE` or `obdbench-runs` by default.
        device: Torch device of the method's heavy products.
        parameters: Hyper-parameters of the method; `obdbench list METHOD` shows them.

    Raises:
        RunFailed: The method raised an error; its record is kept.
        ObdBenchError: A name or a setting is unknown, with the nearest valid ones, or has a value
            that does not fit.
    """
    words = {"method": method, "dataset": dataset, "teacher": teacher, "density": density}
    for what, name in words.items():
        _check_name(what, name)
    spec = RunSpec.create(
        method=method,
        dataset=dataset,
        parameters=parameters,
        where=f"the settings of {method}",
        seed=seed,
        protocol=_protocol(protocol, method),
        teacher=teacher,
        density=density,
        student={} if student is None else student,
    )
    load_dataset(dataset)
    folder = store_folder(store)
    (record,) = execute([spec], Conditions(folder, device=device))
    done = Run(record, folder / record_folder(record.run_id))
    if record.status == "failed":
        raise RunFailed(done)
    return done


def sweep(
    sweep: str | os.PathLike[str] | Mapping[str, Any],
    *,
    jobs: int | None = None,
    store: StoreFolder = None,
    device: str = "cpu",
    retry: bool = False,
    plugins: Sequence[str | os.PathLike[str]] = (),
) -> Table:
    """Do every run of a sweep that is not done yet, nor under way elsewhere.

    Args:
        sweep: Name of a shipped sweep, a TOML file, or the same content as a dictionary.
        jobs: Processes at a time, all cores by default, 1 on a GPU. With 1 the runs are done in
            this process, which is what methods that are defined in a notebook need.
        store: Folder of records; `OBDBENCH_STORE` or `obdbench-runs` by default.
        device: Torch device of the methods' heavy products.
        retry: Take up runs that failed before, too. A record of another version of the suite is
            left as it is.
        plugins: Files that register methods or datasets.

    Returns:
        The main table, with the unrounded numbers in `table.data`. A run that failed is counted in
        it, and its error is in `results(store)`.

    Raises:
        ObdBenchError: `jobs` is less than 1, or a name or a setting of the sweep does not fit.
    """
    if (jobs := plain(jobs)) is not None and (not isinstance(jobs, int) or jobs < 1):
        raise BadConfiguration(
            f"sweep got jobs={jobs!r}; expected 1 or more, an integer, or None for all cores."
        )
    if isinstance(plugins, str | os.PathLike):
        raise BadConfiguration(
            f"plugins is {str(plugins)!r}, one file; expected a list: [{str(plugins)!r}]."
        )
    files = tuple(str(Path(plugin).resolve()) for plugin in plugins)
    for file in files:
        load_plugin(file)
    folder = store_folder(store)
    plan = _sweep(sweep, folder)
    if replaced := save_sweep(folder, plan):
        logging.getLogger(__name__).warning(replaced)
    datasets = dict.fromkeys(run.dataset for run in plan.runs)
    check_same_data(folder, plan, [load_dataset(name) for name in datasets])
    states = sweep_status(folder, plan)
    if states.unknown:
        logging.getLogger(__name__).warning(states.unknown)
    todo = states.runs_to_do(plan, retry=retry)
    conditions, processes = Conditions(folder, files, device=device), jobs or default_jobs(device)
    if todo and processes > 1:
        execute_in_processes(todo, conditions, processes)
    elif todo:
        execute_here(todo, conditions)
    result = sweep_table(folder, plan)
    for message in result.damaged:
        logging.getLogger(__name__).warning("A record cannot be read: %s", message)
    result.write(reports_folder(folder, plan))
    return result.table


def results(store: StoreFolder = None) -> pd.DataFrame:
    """Every number at hand as one table: shipped runs, your own runs, and the papers' cells.

    Args:
        store: Folder of your own records; `OBDBENCH_STORE` or `obdbench-runs` by default. A folder
            that does not exist adds no rows.

    Returns:
        One row per run, or per published cell, with these columns; what a row does not have is
        missing there.

        - source: "shipped", "own" or "published".
        - method, dataset: In the suite's names; a Brax environment is `brax/...`.
        - seed: Of a run; a published cell is a mean over the paper's seeds and has none.
        - normalized_return: 0 is the random policy, 100 the expert (of runs in Brax what the
          published 64 pairs reach); missing for failed runs and for published numbers that are in
          another unit.
        - return: Mean return of an episode, undiscounted; of published numbers in Brax and MinAtar.
        - accuracy: Of published numbers on images.
        - status: "complete", "failed" or "published".
        - synthetic_size: Pairs in the set.
        - outer_steps: Updates of the set.
        - student, protocol, teacher: What was trained, how it was scored, and which teacher helped.
        - wall_seconds, environment_steps: Cost of the method, scoring left out.
        - error: Type of a failed run's error.
        - run_id: With it `load_set` finds the run's set.
        - paper, table, row: Where a published cell stands.
    """
    frames = [
        _runs("shipped", all_records(SHIPPED)),
        _runs("own", all_records(store_folder(store))),
    ]
    return pd.concat([*frames, _published()], ignore_index=True)


def load_dataset(name: str) -> Dataset:
    """A dataset by name, from the local store; collected or fetched first where it is not there.

    Args:
        name: E.g. "hopper/medium", "hopper/medium@50000" or "d4rl/hopper-medium-v2".

    Raises:
        ObdBenchError: No dataset is called so, or the stored one was altered.
    """
    _check_name("dataset", name)
    parsed = DatasetName.parse(name)
    if is_stored(parsed):
        return load_stored(parsed)
    return build_dataset(parsed, threads=os.cpu_count() or 1)


def load_teacher(dataset: str | Dataset, recipe: str = "td3_bc") -> NetworkTeacher:
    """The teacher of a dataset: one that was trained or imported here, or a shipped one.

    Args:
        dataset: Dataset, or its name.
        recipe: Recipe, or `recipe:seed`.

    Raises:
        TeacherProblem: There is none; with the command that trains one.
    """
    _check_name("recipe", recipe)
    data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset)
    return find_teacher(data, recipe)


def load_set(source: Run | Record | str | os.PathLike[str]) -> DistilledSet:
    """A synthetic set to train on.

    Args:
        source: A run or its record, the id of a run in your store or among the shipped ones, a
            run's folder, or a safetensors file. Of a run, the last set is loaded.

    Raises:
        ObdBenchError: There is no such run, or it has no set, or that of a record is another.
    """
    if isinstance(source, str | os.PathLike) and str(source).endswith(".safetensors"):
        path = Path(source)
    else:
        found = source if isinstance(source, Run) else find_run(_name_of(source))
        path = last_set(found)
        if isinstance(source, Record):
            _check_same_set(source, found)
    pairs, scaling, card = load_synthetic_set(path)
    return DistilledSet(pairs, scaling, scoring_student(card), card)


def find_run(run: str, store: StoreFolder = None) -> Run:
    """A run that has a record: in the store, among the shipped ones, or by its path.

    Raises:
        ObdBenchError: There is none; with the nearest ids.
    """
    folder, path = store_folder(store), Path(run)
    try:
        candidates = [path, path.parent] if path.exists() else []
    except OSError:  # longer than a file's name can be
        candidates = []
    if "." in run and "/" not in run and len(run) <= LONGEST_NAME:
        candidates += [folder / record_folder(run), SHIPPED / record_folder(run)]
    for candidate in candidates:
        if (candidate / FILE).is_file():
            return Run(read_record(candidate / FILE), candidate)
    known = [
        f"{record.parent.parent.name}.{record.parent.name}"
        for place in (folder, SHIPPED)
        for record in place.glob(f"*/seed*/{FILE}")
    ]
    nearest = did_you_mean(run, known, f"ls -d {folder}/*/seed*, as FOLDER.seedN")
    raise ObdBenchError(f"No run {run!r} has a record in {folder}. {nearest}")


def last_set(run: Run) -> Path:
    """File of the last synthetic set of a run.

    Raises:
        ObdBenchError: The run has no set, or its file is not the one that was scored.
    """
    record = run.record
    sets = [checkpoint for checkpoint in record.checkpoints if checkpoint.synthetic_set]
    if not sets:
        raise ObdBenchError(
            f"{run.run_id} has no synthetic set: {record.spec.method} "
            f"{'failed' if record.status == 'failed' else 'gives a policy, not a set'}."
        )
    return check_set(record, sets[-1], run.folder)


def _check_same_set(record: Record, found: Run) -> None:
    """Check that a run was found by its record, not by only the name of its record.

    Raises:
        ObdBenchError: The last set of the run that was found is another.
    """
    here, there = (
        [str(c.sha256) for c in one.checkpoints if c.synthetic_set][-1:]
        for one in (found.record, record)
    )
    if here != there:
        raise ObdBenchError(
            f"{found.folder} has another set of {record.run_id} (sha256 {here[0][:16]}) than the "
            f"record, which was made elsewhere: sha256 {(there or ['none'])[0][:16]} in the record."
            f" Give the folder that the record is in, in place of the record."
        )


def check_sets(run: Run) -> None:
    """Check that the sets next to a record are those that were scored; some may be left out.

    Raises:
        ObdBenchError: One is another.
    """
    for checkpoint in run.record.checkpoints:
        if checkpoint.synthetic_set and (run.folder / checkpoint.synthetic_set).exists():
            check_set(run.record, checkpoint, run.folder)


def check_same_data(store: Path, plan: Sweep, datasets: Sequence[Dataset]) -> None:
    """Refuse to put runs next to records of the sweep that were made on other content.

    Raises:
        ObdBenchError: A record in the store was made on other content of a dataset.
    """
    held = {dataset.name: dataset.sha256 for dataset in datasets}
    for record in readable_records(store, plan)[0]:
        name, found = record.spec.dataset, record.provenance.dataset_sha256
        if found not in (None, held[name]):
            raise ObdBenchError(
                f"{record.run_id} in {store} was done on {name} with sha256 {found[:16]}; it "
                f"now holds {held[name][:16]}. Build that data again, or give another store."
            )


def store_folder(store: StoreFolder = None) -> Path:
    """The folder of records that is meant: the one given, `OBDBENCH_STORE`, or the default."""
    return Path(store or os.environ.get("OBDBENCH_STORE") or DEFAULT_STORE)


def _protocol(protocol: str | Protocol | Mapping[str, Any], method: str) -> Protocol:
    if isinstance(protocol, str):
        return protocol_named(protocol)
    if isinstance(protocol, Mapping):
        return build(Protocol, protocol, f"the protocol of {method}")
    if not isinstance(protocol, Protocol):
        _check_name("protocol", protocol)
    return protocol


def _check_name(what: str, name: object) -> None:
    """Raise BadConfiguration for a name that is not a text, such as None."""
    if not isinstance(name, str):
        raise BadConfiguration(
            f"{what} is {short(name)} ({type(name).__name__}); expected a name, which `obdbench "
            f"list` shows."
        )


def _sweep(sweep: str | os.PathLike[str] | Mapping[str, Any], store: Path) -> Sweep:
    if isinstance(sweep, Mapping):
        return build_sweep(sweep, "the sweep")
    return find_sweep(str(sweep), store)


def _name_of(source: Record | str | os.PathLike[str]) -> str:
    return source.run_id if isinstance(source, Record) else str(source)


def _runs(source: str, records: Iterable[Record]) -> pd.DataFrame:
    """Rows of records; the columns that only published cells have stay empty."""
    frame = runs_frame(records, mixed=True).assign(source=source)  # each has a row of its own
    return frame.reindex(columns=list(RESULT_COLUMNS)).astype(RESULT_COLUMNS)


def _published() -> pd.DataFrame:
    rows = []
    for cell in published_cells():
        settings = {**cell.settings, **cell.wanted}
        rows.append(
            {
                "source": "published",
                "status": "published",
                "method": cell.method,
                "dataset": cell.dataset,
                cell.unit.replace(" ", "_"): cell.value,
                "synthetic_size": settings.get("synthetic_size"),
                "outer_steps": settings.get("outer_steps"),
                "teacher": settings.get("teacher"),
                "paper": cell.source,
                "table": f"{cell.paper} {cell.table}",
                "row": cell.row,
            }
        )
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS)).astype(RESULT_COLUMNS)
