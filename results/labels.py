"""Short display names that tell the cells of one dataset apart."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from benchmark.errors import ObdBenchError
from benchmark.names import visible
from benchmark.protocol import Protocol
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec

_ABSENT = object()


Cells = Mapping[str, tuple[RunSpec, Mapping[str, Any]]]
"""Cell id -> its spec, and its settings as `cell_settings` gives them."""


def labels(cells: Cells) -> dict[str, str]:
    """Map each cell id to its display label: the method's name and what tells its cells apart.

    A setting appears when it differs between two cells of the same method and dataset, and then in
    all labels of that method, so that one method keeps one label over datasets. Settings are the
    method's parameters, the student, the teacher, the density and the protocol. For example
    "av_pbc (student.width=256, synthetic_size=16)". Should two cells of one dataset still share a
    label, the last part of their cell ids is added: two cells are never shown as one. A setting
    that differs only between datasets is in no label; `settings_of_datasets` has it.
    """
    shown = _distinguishing(cells)
    plain = {
        cell: _label(spec.method, settings, shown[spec.method])
        for cell, (spec, settings) in cells.items()
    }
    return _disambiguate(plain, cells)


def settings_of_datasets(cells: Cells, names: Mapping[str, str]) -> dict[str, str]:
    """Map each cell id to the settings in which cells of its label differ between datasets.

    For example "synthetic_size=16"; "" where all are the same. Teachers are not among them: tables
    have a column of them.

    Args:
        cells: The cells.
        names: Their labels.
    """
    sharing: dict[str, list[str]] = defaultdict(list)
    for cell, name in names.items():
        sharing[name].append(cell)
    found = {}
    for same in sharing.values():
        keys = _differing([cells[cell][1] for cell in same]) - {"teacher"}
        for cell in same:
            parts = (f"{_shown(key)}={cells[cell][1].get(key)}" for key in _drop_implied(keys))
            found[cell] = visible(", ".join(parts), one_line=True)
    return found


@cache
def natural_order(label: str) -> tuple[tuple[float, str], ...]:
    """A sorting key that puts "synthetic_size=16" before "synthetic_size=128"."""
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)", label)
    # Text and numbers alternate, so two keys compare text with text and number with number.
    return tuple((float(part), "") if i % 2 else (0.0, part) for i, part in enumerate(parts))


PAPERS_ORDER = ("random", "medium-replay", "medium", "medium-expert", "full-replay", "expert")


@cache
def dataset_order(name: str) -> tuple[str, int, str]:
    """Sorting key for datasets as the papers' tables have them.

    Environments in alphabetic order, and of each medium-replay, medium, medium-expert.
    """
    longest_first = sorted(PAPERS_ORDER, key=len, reverse=True)
    found = re.search("|".join(longest_first), name)
    if found is None:
        return name, -1, ""
    return name[: found.start()], PAPERS_ORDER.index(found[0]), name[found.end() :]


def cell_settings(spec: RunSpec, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything but the dataset and the seed that makes a cell, as one flat mapping.

    Args:
        spec: Any run of the cell. Of its scoring student only what differs from the student is
            listed.
        parameters: Every hyper-parameter, as a record has them. Where they are not given, they are
            those of the registered method, or those of the spec where it is not registered.
    """
    if parameters is None:
        try:
            parameters = spec.resolved_parameters
        except ObdBenchError:
            parameters = spec.parameters
    shared = _scoring_settings(spec.student, spec.scoring_student, spec.protocol)
    return {**parameters, **shared, "teacher": spec.teacher, "density": spec.density}


@cache
def _scoring_settings(
    student: StudentSpec, scoring: StudentSpec, protocol: Protocol
) -> Mapping[str, Any]:
    """Settings that many cells share, as `cell_settings` lists them."""
    same = asdict(student)
    return (
        flat("student.", same)
        | {f"evaluation_student.{k}": v for k, v in asdict(scoring).items() if v != same[k]}
        | flat("protocol.", asdict(protocol))
    )


def flat(prefix: str, nested: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(f"{prefix}{key}.", value)
        else:
            found[f"{prefix}{key}"] = value
    return found


def _distinguishing(cells: Cells) -> dict[str, list[str]]:
    """Method -> names of the settings that differ between its cells on some dataset."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for spec, settings in cells.values():
        groups[spec.method, spec.dataset].append(settings)
    found: dict[str, set[str]] = defaultdict(set)
    for (method, _), same in groups.items():
        found[method] |= _differing(same)
    return {method: _drop_implied(keys) for method, keys in found.items()}


def _differing(cells: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the settings that differ between any two of these cells."""
    return {
        key
        for key in {key for settings in cells for key in settings}
        if any(settings.get(key, _ABSENT) != cells[0].get(key, _ABSENT) for settings in cells)
    }


def _drop_implied(keys: set[str]) -> list[str]:
    """A protocol's name stands for its numbers."""
    if "protocol.name" in keys:
        keys = {key for key in keys if key == "protocol.name" or not key.startswith("protocol.")}
    return sorted(keys)


def _label(method: str, settings: Mapping[str, Any], shown: Iterable[str]) -> str:
    parts = [f"{_shown(key)}={settings[key]}" for key in shown if settings.get(key) is not None]
    label = f"{method} ({', '.join(parts)})" if parts else method
    return visible(label, one_line=True)


def _shown(setting: str) -> str:
    """How a label names a setting: "protocol" for "protocol.name"."""
    return setting.removesuffix(".name")


def _disambiguate(plain: Mapping[str, str], cells: Cells) -> dict[str, str]:
    sharing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell, label in plain.items():
        sharing[cells[cell][0].dataset, label].append(cell)
    result = dict(plain)
    for (_, label), same in sharing.items():
        if len(same) > 1:
            result |= {cell: f"{label} #{cells[cell][0].digest}" for cell in same}
    return result
