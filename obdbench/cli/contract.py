"""`obdbench check-method | new-method`: check a method against the contract, or begin one."""

from __future__ import annotations

import importlib.util
import inspect
import keyword
import re
from collections import Counter
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

import obdbench
from benchmark import contract
from benchmark.config import BadConfiguration
from benchmark.contract import CheckResult
from benchmark.contract.check import Outcome
from benchmark.errors import ObdBenchError
from benchmark.files import write_atomic
from benchmark.method import METHODS
from benchmark.names import check_name
from benchmark.registry import load_plugin
from obdbench.cli.console import out
from obdbench.cli.options import parse_settings

COLOURS: dict[Outcome, str] = {
    "FAILED": "bold red",
    "passed": "green",
    "not applicable": "dim",
    "not reached": "red",
}

TEMPLATES = {
    "method.py.template": "{name}.py",
    "test_method.py.template": "test_{name}.py",
    "sweep.toml.template": "{name}.toml",
}


def check_method(
    method: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="Registered method, or the .py file of one.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value: a hyper-parameter to check it with; repeatable."),
    ] = None,
) -> None:
    """Check a method against the rules for every method, on toy problems, in seconds."""
    settings = parse_settings(set_)
    names = _methods_of(Path(method)) if method.endswith(".py") else [method]
    sound = True
    for name in names:
        results = contract.check_method(METHODS[name], settings)
        _show(name, results)
        sound &= all(result.ok for result in results)
    if not sound:
        raise typer.Exit(1)


def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method, as a sweep will call it.")],
    folder: Annotated[
        Path, typer.Option(help="Folder to write to; made if it does not exist.")
    ] = Path(),
) -> None:
    """Write a method that works, its test, and a sweep with random and Av-PBC."""
    class_name = "".join(part.capitalize() for part in name.split("_"))
    _check_name(name, class_name)
    files = {template: folder / path.format(name=name) for template, path in TEMPLATES.items()}
    if taken := [str(path) for path in files.values() if path.exists()]:
        raise BadConfiguration(
            f"{', '.join(taken)} exists already, and nothing was written. Take another name, or "
            f"another --folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for template, path in files.items():
        text = (resources.files("obdbench.templates") / template).read_text("utf-8")
        write_atomic(path, Template(text).substitute(name=name, class_name=class_name))
        out.print(str(path))
    code, _, sweep = (str(path) for path in files.values())
    out.print(
        f"Next: obdbench check-method {code}\n      obdbench --plugin {code} sweep {sweep}",
    )


def _check_name(name: str, class_name: str) -> None:
    """Raise BadConfiguration for a name that the files or the registry cannot use."""
    check_name("The name of a method", name)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise BadConfiguration(
            f"The name {name!r} names a Python module too: expected lower-case letters, digits and "
            f"'_', a letter first, and no keyword of Python. For example my_method."
        )
    if name in METHODS:
        raise BadConfiguration(
            f"The name {name!r} is taken by a method of {METHODS.origin(name)}. Take another."
        )
    if importlib.util.find_spec(name) is not None or class_name in obdbench.__all__:
        raise BadConfiguration(
            f"{name}.py, or its class {class_name}, would hide something of Python's or obdbench's "
            f"of that name. Take another, such as {name}_method."
        )


def _methods_of(path: Path) -> list[str]:
    """Load a plug-in, and give the names of the methods that it registers.

    Raises:
        ObdBenchError: It registers none.
    """
    before = set(METHODS)
    load_plugin(path)  # which may have happened already, by --plugin
    broken = METHODS.broken()
    here = {
        name
        for name in METHODS
        if name not in broken and Path(inspect.getfile(type(METHODS[name]))) == path.resolve()
    }
    if not (names := sorted(here | (set(METHODS) - before))):
        raise ObdBenchError(
            f'{path} registers no method. End it with METHODS.register("name", TheClass).'
        )
    return names


def _show(name: str, results: list[CheckResult]) -> None:
    """Print failures first, one line each as a compiler does, then the other checks."""
    for result in results:
        if result.outcome == "FAILED":
            out.print(str(result), style=COLOURS["FAILED"], soft_wrap=True)
    table = Table(Column("check", no_wrap=True), "", Column("s", justify="right"), "", title=name)
    for result in sorted(results, key=lambda result: list(COLOURS).index(result.outcome)):
        if result.outcome == "not reached":
            continue
        colour = COLOURS[result.outcome]
        message = "see above" if result.outcome == "FAILED" else result.message
        table.add_row(
            result.check,
            Text(result.outcome, colour),
            f"{result.seconds:.1f}",
            message,
        )
    out.print(table)
    if missed := [result.check for result in results if result.outcome == "not reached"]:
        out.print(f"not reached: {', '.join(missed)}")
    counts = Counter(result.outcome for result in results)
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in COLOURS if counts[outcome])
    seconds = sum(result.seconds for result in results)
    out.print(f"{name}: {said}, in {seconds:.1f} s")
