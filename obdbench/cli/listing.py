"""`obdbench list`: what has a name, what one of these is, and what is broken."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from obdbench import catalogue
from obdbench.catalogue import Entry
from obdbench.cli.console import ERROR, out, print_json

PLURALS = {"family": "families", "study": "studies"}


def list_entries(
    name: Annotated[
        str | None, typer.Argument(help="One of the names: shows its settings and what they mean.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Also import every entry, to find those that fail to.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List everything that has a name, or describe one.

    Methods, datasets, students and their recipes, teachers, densities, studies, sweeps, protocols,
    profiles, and the exhibits of `obdbench paper`. The descriptions of datasets are in `obdbench
    data list`.
    """
    if name is not None:
        _describe(name, as_json)
        return
    found = {kind: catalogue.entries(kind) for kind in catalogue.kinds()}
    if check:
        found = {kind: [_checked(entry) for entry in entries] for kind, entries in found.items()}
    if as_json:
        print_json({plural(kind): [_plain(e) for e in entries] for kind, entries in found.items()})
    else:
        for kind, entries in found.items():
            _print_entries(kind, entries)
    if any(entry.problem for entries in found.values() for entry in entries):
        raise typer.Exit(ERROR)


def plural(kind: str) -> str:
    """The plural of a kind: "dataset families"."""
    *before, last = kind.split(" ")
    return " ".join([*before, PLURALS.get(last, f"{last}s")])


def _print_entries(kind: str, entries: Iterable[Entry]) -> None:
    table = Table(kind, "from", "what it is")
    for entry in entries:
        if entry.problem is None:
            table.add_row(entry.name, entry.origin, entry.summary)
    out.print(table)
    for entry in entries:
        if entry.problem is not None:
            out.print(Text("broken", "red"), f"{entry.name}: {entry.problem}")


def _checked(entry: Entry) -> Entry:
    """The entry, with the reason why it does not import where that is so."""
    if entry.problem is not None or entry.kind not in catalogue.REGISTRIES:
        return entry
    problem = catalogue.problem_of(entry.kind, entry.name)
    return dataclasses.replace(entry, problem=problem)


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "from": entry.origin,
        "what": entry.summary,
        **({"problem": entry.problem} if entry.problem is not None else {}),
    }


def _describe(name: str, as_json: bool) -> None:
    entries = catalogue.find(name)
    from obdbench.descriptions import description  # imports what it describes

    found = [(entry, description(entry)) for entry in entries]
    if as_json:
        print_json([{"kind": e.kind, **_plain(e), **dataclasses.asdict(d)} for e, d in found])
        return
    for entry, described in found:
        out.print(Text.assemble((entry.name, "bold"), f": {entry.kind}, from {entry.origin}"))
        out.print(described.text)
        for key, value in described.facts.items():
            out.print(f"{key}: {value}")
        if described.settings:
            table = Table("setting", "type", "default", "what it means")
            for setting in described.settings:
                row = (setting.name, setting.type, str(setting.default), setting.meaning)
                table.add_row(*row)
            out.print(table)
