"""`obdbench list`: what is registered, and what is broken."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from benchmark.datasets.source import DATASETS, FAMILIES
from benchmark.density.density import DENSITIES
from benchmark.method import METHODS
from benchmark.registry import Registry
from benchmark.students.network import STUDENTS
from benchmark.teachers.teacher import TEACHERS
from obdbench.cli.console import out
from paper_figures.studies.study import STUDIES


def list_entries() -> None:
    """List methods, datasets and their families, students, recipes, and what is broken."""
    registries: tuple[Registry[Any], ...] = (
        METHODS,
        DATASETS,
        FAMILIES,
        STUDENTS,
        TEACHERS,
        DENSITIES,
        STUDIES,
    )
    for registry in registries:
        broken = registry.broken()
        table = Table(registry.kind, "from", "what it is", title_justify="left")
        for name in registry:
            if name not in broken:
                table.add_row(*map(escape, (name, registry.origin(name), _summary(registry[name]))))
        out.print(table)
        for name, reason in broken.items():
            out.print(f"[red]broken[/] {escape(f'{name}: {reason}')}", highlight=False)


def _summary(entry: Any) -> str:
    if (description := getattr(entry, "description", None)) is not None:
        return str(description)
    return (getattr(entry, "__doc__", None) or "").strip().partition("\n")[0]
