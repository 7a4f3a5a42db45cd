"""What a study is, and how one is done: item by item, each kept as soon as it is measured."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmark.errors import ObdBenchError
from benchmark.provenance import provenance
from benchmark.registry import Registry
from results.study_results import (
    StudyResult,
    put_aside_all_but,
    read_result,
    result_path,
    write_result,
)

Row = dict[str, Any]
"""One measurement: plain JSON values by column."""


class NothingToStudy(ObdBenchError):
    """A study whose runs or datasets are not there."""


@dataclass(frozen=True)
class Study(ABC):
    """A measurement that is not a run of a method. Subclasses are frozen dataclasses of settings.

    Attributes:
        shows: What it measures, in a sentence, with its source.
        version: Of how it measures: raised with every change that gives other rows, so that what
            was measured before is measured again.
    """

    shows: ClassVar[str]
    version: ClassVar[int] = 1

    @abstractmethod
    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """What is measured one by one: a name, and what the measurement is of (ids, sha256).

        Raises:
            NothingToStudy: With the command that makes what is missing.
        """

    @abstractmethod
    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """The measurements of one item. The same settings, item and source give the same rows."""


STUDIES: Registry[type[Study]] = Registry(
    "study",
    "obdbench.studies",
    Study,  # type: ignore[arg-type]
)


def perform(
    name: str, store: Path, on_item: Callable[[int, int, str], None] | None = None
) -> tuple[int, int]:
    """Measures every item of a study that has no result yet in the store.

    A result of other settings or another version, or of another set or dataset, is measured again;
    one of an item that is no more is put aside. A study that is killed loses the item it was at.

    Args:
        name: Of the study.
        store: Where its runs are, and where its results go.
        on_item: Called with (items done, of how many, the next one's name).

    Returns:
        Items measured now, and items in all.

    Raises:
        NothingToStudy: It has no item.
        BadStudyResult: It measured something that is no number.
    """
    study = STUDIES[name]()
    items = study.items(store)
    if not items:
        raise NothingToStudy(f"{store} holds nothing that the study {name} could measure.")
    put_aside_all_but(store, name, items)
    measured = 0
    for done, (item, source) in enumerate(items.items()):
        if on_item is not None:
            on_item(done, len(items), item)
        if _is_current(result_path(store, name, item), study, source):
            continue
        began = time.process_time()
        rows = study.measure(item, source, store)
        write_result(
            store,
            StudyResult(
                study=name,
                item=item,
                source=dict(source),
                settings=asdict(study),
                version=study.version,
                rows=rows,
                cpu_seconds=time.process_time() - began,
                provenance=provenance("cpu"),
            ),
        )
        measured += 1
    return measured, len(items)


def _is_current(path: Path, study: Study, source: Mapping[str, Any]) -> bool:
    """Whether a result is there, of these settings and of the same things."""
    if not path.exists():
        return False
    found = read_result(path)
    now = json.loads(json.dumps([study.version, asdict(study), dict(source)]))  # no tuples
    return bool([found.version, found.settings, found.source] == now)
