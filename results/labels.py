"""Short display names that tell the cells of one dataset apart."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

_ABSENT = object()


def labels(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Cell id -> display label: the method's name, and whatever tells its cells apart.

    A setting appears when it differs between two cells of the same method and dataset, and then in
    all labels of that method, so that one method keeps one label over datasets. Settings are the
    method's parameters, the student, the teacher, the density and the protocol. For example
    "av_pbc (student.width=256, synthetic_size=16)". Should two cells of one dataset still share a
    label, the last part of their cell ids is added: two cells are never shown as one.
    """
    specs = {str(r["cell_id"]): r["spec"] for r in records}
    settings = {cell: cell_settings(spec) for cell, spec in specs.items()}
    shown = _distinguishing(specs, settings)
    plain = {
        cell: _label(spec["method"]["name"], settings[cell], shown[spec["method"]["name"]])
        for cell, spec in specs.items()
    }
    return _disambiguate(plain, specs)


def natural_order(label: str) -> list[tuple[float, str]]:
    """A sorting key that puts "synthetic_size=16" before "synthetic_size=128"."""
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)", label)
    # Text and numbers alternate, so two keys compare text with text and number with number.
    return [(float(part), "") if i % 2 else (0.0, part) for i, part in enumerate(parts)]


def cell_settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the dataset and the seed that makes a cell, as one flat mapping.

    Of the scoring student it holds what differs from the student alone.
    """
    student = spec.get("student") or {}
    evaluation = spec.get("evaluation_student") or student
    changed = {key: v for key, v in evaluation.items() if v != student.get(key, _ABSENT)}
    return (
        flat("", spec["method"].get("parameters") or {})
        | flat("student.", student)
        | flat("evaluation_student.", changed)
        | flat("protocol.", spec.get("protocol") or {})
        | {"teacher": spec.get("teacher"), "density": spec.get("density", "none")}
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


def _distinguishing(
    specs: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Method -> names of the settings that differ between its cells on some dataset."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for cell, spec in specs.items():
        groups[spec["method"]["name"], spec["dataset"]].append(settings[cell])
    found: dict[str, set[str]] = defaultdict(set)
    for (method, _), cells in groups.items():
        for key in {key for cell in cells for key in cell}:
            values = [cell.get(key, _ABSENT) for cell in cells]
            if any(value != values[0] for value in values):
                found[method].add(key)
        found[method] |= set()
    return {method: _drop_implied(keys) for method, keys in found.items()}


def _drop_implied(keys: set[str]) -> list[str]:
    """A protocol's name stands for its numbers."""
    if "protocol.name" in keys:
        keys = {key for key in keys if key == "protocol.name" or not key.startswith("protocol.")}
    return sorted(keys)


def _label(method: str, settings: Mapping[str, Any], shown: Iterable[str]) -> str:
    parts = [
        f"{key.removesuffix('.name')}={settings[key]}"
        for key in shown
        if settings.get(key) is not None
    ]
    return f"{method} ({', '.join(parts)})" if parts else method


def _disambiguate(
    plain: Mapping[str, str], specs: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    sharing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell, label in plain.items():
        sharing[specs[cell]["dataset"], label].append(cell)
    result = dict(plain)
    for (_, label), cells in sharing.items():
        if len(cells) > 1:
            result |= {cell: f"{label} #{cell.rsplit('.', 1)[-1]}" for cell in cells}
    return result
