"""Records that are shipped with the suite: a small store next to this file, made from a full one.

    python -m results.shipping STORE NAME...

copies the complete records of sweeps with the last synthetic set of each run, which it checks
against the sha256 in the record, and the results of studies; by the name "artefacts", the scores of
the authors' artefacts. A run that diverged is an outcome, and goes along as a failed record. What
is left out (earlier sets, reports, logs) can be made again.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from benchmark.artefacts.score import FOLDER, score_path, stored_scores, write_score
from benchmark.errors import ObdBenchError
from benchmark.files import atomic_path
from benchmark.names import check_inside
from benchmark.record import FILE, check_set, read_record
from benchmark.run import run_folder
from benchmark.sweep import Sweep
from benchmark.synthetic_set import NotFinite
from results.record_store import SHIPPED, load_sweep, save_sweep
from results.study_results import put_aside_all_but, result_path, study_results, write_result
from results.study_sources import check_sources


def ship(store: Path, sweep: Sweep, target: Path = SHIPPED) -> int:
    """Copy a sweep's records and last sets into another store.

    Returns:
        The number of records.

    Raises:
        ObdBenchError: A run has no record, failed without having diverged, was made by uncommitted
            code, or its set is not the one that its record names; or a link leads out of the
            target.
    """
    files = {run.run_id: _files_to_ship(run_folder(store, run)) for run in sweep.runs}
    for run in sweep.runs:
        folder = check_inside(target, run_folder(target, run))
        for source in files[run.run_id]:
            with atomic_path(folder / source.name) as temporary:
                shutil.copyfile(source, temporary)
    save_sweep(target, sweep)
    return len(sweep.runs)


def ship_study(store: Path, study: str, target: Path = SHIPPED) -> int:
    """Copy a study's results into another store.

    Returns:
        The number of items.

    Raises:
        NoStudy: The study has no result.
        ObdBenchError: A result was measured by uncommitted code, or on runs that have been done
            again since.
    """
    results = study_results(store, study)
    check_sources(store, results)
    for result in results:
        _check_commit(result.provenance["dirty"], result_path(store, study, result.item))
    for result in results:
        write_result(target, result)
    put_aside_all_but(target, study, [result.item for result in results])
    return len(results)


def ship_scores(store: Path, target: Path = SHIPPED) -> int:
    """Copy the scores of the authors' artefacts into another store.

    Returns:
        The number of scores.

    Raises:
        ObdBenchError: There is none, one cannot be read, or was made by uncommitted code.
    """
    scores = list(stored_scores(store))
    if not scores:
        raise ObdBenchError(f"{store} has no scores of artefacts: obdbench artefacts score.")
    for score in scores:
        _check_commit(score.origin.dirty, score_path(store, score.artefact, score.variant))
    for score in scores:
        write_score(target, score)
    return len(scores)


def _check_commit(dirty: bool | None, path: Path) -> None:
    if dirty is not False:
        raise ObdBenchError(
            f"{path} was made by code with uncommitted changes or of an unknown commit; make it "
            f"again from a clean checkout."
        )


def _files_to_ship(folder: Path) -> list[Path]:
    """The last synthetic set of a run that may be shipped, if it has one, and then its record.

    In this order no copy has a record without its set, wherever the copying ends.
    """
    path = folder / FILE
    record = read_record(path) if path.exists() else None
    diverged = record and record.error and record.error.type == NotFinite.__name__
    if record is None or (record.status != "complete" and not diverged):
        raise ObdBenchError(
            f"{folder} has no complete record, nor one of a run that diverged; finish the sweep "
            f"first."
        )
    _check_commit(record.provenance.dirty, path)
    if diverged:
        return [path]
    last = record.checkpoints[-1]
    return [check_set(record, last, folder), path] if last.synthetic_set else [path]


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for name in sys.argv[2:]:
        if name == FOLDER:
            print(f"{name}: {ship_scores(source)} scores")
        elif (source / "studies" / name).is_dir():
            print(f"{name}: {ship_study(source, name)} items of a study")
        else:
            print(f"{name}: {ship(source, load_sweep(source, name))} records")
