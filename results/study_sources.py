"""Sources of studies: whether a store still has the runs that results were measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.record import FILE, Summary, read_record, record_folder
from results.stores import store_option
from results.study_results import BadStudyResult, StudyResult


class _Source(NamedTuple):
    """Run that a result was measured on, with digests of its last set and of its dataset."""

    run: str
    last: str | None
    dataset: str | None


def last_digest(record: Summary) -> str | None:
    """Digest of a run's last set, or of the teacher that it is a score of; None without either."""
    if record.checkpoints and (digest := record.checkpoints[-1].sha256):
        return digest
    return record.teacher.sha256 if record.teacher else None


def check_sources(store: Path, results: Iterable[StudyResult]) -> None:
    """Hold the runs that results were measured on against their records in a store.

    A run that has no record there is not held against anything: results are kept without runs too.

    Raises:
        BadStudyResult: A run has been done again since, with another set or on other data.
        BadRecord: A record cannot be read.
    """
    for result in results:
        for one in _sources(result.source):
            path = store / record_folder(one.run) / FILE
            if not path.exists():
                continue
            record = read_record(path)
            data = record.provenance.dataset_sha256
            for what, then, found in (
                ("last set or teacher", one.last, last_digest(record)),
                ("dataset", one.dataset or data, data),  # not every source names it
            ):
                if then != found:
                    raise BadStudyResult(
                        f"{result.item} of the study {result.study} was measured on a run that "
                        f"has been done again since: the {what} of {one.run} had sha256 "
                        f"{str(then)[:16]} then, and has {str(found)[:16]} now. Measure it again: "
                        f"obdbench study {result.study}{store_option(store)}"
                    )


def _sources(source: Any, dataset: str | None = None) -> Iterator[_Source]:
    """Find every run in a source; the digest of a dataset counts for all runs below it."""
    if isinstance(source, Mapping):
        dataset = source.get("dataset_sha256", dataset)
        if isinstance(source.get("run"), str):
            yield _Source(source["run"], source.get("sha256"), dataset)
        source = list(source.values())
    if isinstance(source, list | tuple):
        for inner in source:
            yield from _sources(inner, dataset)
