"""What has a name (methods, datasets, sweeps, protocols, ...), found without importing it.

Names and origins come from the entry points of installed distributions, descriptions from the
source as text. So `obdbench list` and a mistyped name cost a third of a second instead of the three
that torch, gymnasium and pandas take to import.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.protocol import PROTOCOLS
from benchmark.registry import BrokenPlugin, Registry, UnknownName
from benchmark.students.spec import RECIPES, describe_student
from obdbench.sweeps import shipped_sweeps
from slurm.profiles import profile_files

Kind = Literal[
    "method", "dataset", "dataset family", "student", "teacher recipe", "density recipe", "study",
    "student recipe", "sweep", "protocol", "profile", "exhibit",
]  # fmt: skip

REGISTRIES: dict[Kind, tuple[str, str, str]] = {
    "method": ("obdbench.methods", "benchmark.method", "METHODS"),
    "dataset": ("obdbench.datasets", "benchmark.datasets.source", "DATASETS"),
    "dataset family": ("obdbench.dataset_families", "benchmark.datasets.source", "FAMILIES"),
    "student": ("obdbench.students", "benchmark.students.network", "STUDENTS"),
    "teacher recipe": ("obdbench.teachers", "benchmark.teachers.teacher", "TEACHERS"),
    "density recipe": ("obdbench.densities", "benchmark.density.density", "DENSITIES"),
    "study": ("obdbench.studies", "paper_figures.studies.study", "STUDIES"),
}
"""Entry-point group of each kind, and where its registry is once something has imported it."""

EXHIBITS = "paper_figures.exhibits"


@dataclass(frozen=True)
class Entry:
    """One thing that has a name.

    Args:
        kind: What it is.
        name: Under which commands and sweeps find it.
        origin: Distribution, file or module that it comes from.
        summary: One line; "" where the source does not say it as plain text.
        problem: Why it cannot be used, as far as that can be seen without importing it.
    """

    kind: Kind
    name: str
    origin: str
    summary: str
    problem: str | None = None


def kinds() -> tuple[Kind, ...]:
    """Every kind, in the order in which they are listed."""
    return (*REGISTRIES, *_OTHERS)


def names(kind: Kind) -> list[str]:
    """Names of a kind."""
    return [*registry(kind)] if kind in REGISTRIES else [entry.name for entry in entries(kind)]


def entries(kind: Kind) -> list[Entry]:
    """Everything of a kind."""
    if kind in REGISTRIES:
        found = registry(kind)
        return [_registered(kind, found, name) for name in found] + [
            Entry(kind, name, "", "", problem) for name, problem in found.conflicts().items()
        ]
    return list(_OTHERS[kind]())


def registry(kind: Kind) -> Registry[Any]:
    """The registry of a kind, with what plug-ins added to it; its entries are not imported."""
    group, module, attribute = REGISTRIES[kind]
    if module in sys.modules:
        loaded: Registry[Any] = getattr(sys.modules[module], attribute)
        return loaded
    return _unloaded(kind, group)


def check_words(kinds: Sequence[Kind], words: Sequence[str]) -> None:
    """Refuse the leading arguments of a command that name nothing.

    Raises:
        UnknownName: With the nearest names. A kind whose names depend on more than what is
            installed (sweeps, exhibits) is left to the command.
    """
    for kind, word in zip(kinds, words, strict=False):
        if word.startswith("-") or word.endswith(".py"):
            return
        if kind == "dataset":
            _check_dataset(word)
        elif kind in REGISTRIES and word not in registry(kind):
            raise registry(kind).unknown(word)


def find(name: str) -> list[Entry]:
    """Everything of that name: a method and a teacher may share one.

    Raises:
        UnknownName: Nothing is called so; with the nearest names of all kinds.
    """
    found = [entry for kind in kinds() for entry in entries(kind) if entry.name == name]
    if not found:
        known = {other for kind in kinds() for other in names(kind)}
        raise UnknownName(
            f"Nothing is called {name!r}. {did_you_mean(name, known, 'obdbench list')}"
        )
    return found


def load(kind: Kind, name: str) -> Any:
    """The registered object, imported now and checked to be of its kind."""
    _, module, attribute = REGISTRIES[kind]
    return getattr(importlib.import_module(module), attribute)[name]


def problem_of(kind: Kind, name: str) -> str | None:
    """Why a registered entry does not load; None where it does."""
    try:
        load(kind, name)
    except BrokenPlugin as error:
        return str(error)
    return None


def _check_dataset(word: str) -> None:
    name = word.partition("@")[0]
    family, slash, _ = name.partition("/")
    if slash and name not in registry("dataset") and family not in registry("dataset family"):
        families = ", ".join(f"{prefix}/..." for prefix in registry("dataset family"))
        raise UnknownName(f"{registry('dataset').unknown(name)} Families of names: {families}.")


@cache
def _unloaded(kind: str, group: str) -> Registry[Any]:
    return Registry(kind, group)


def _registered(kind: Kind, found: Registry[Any], name: str) -> Entry:
    entry, origin = found.reference(name), found.origin(name)
    if not isinstance(entry, str):
        return Entry(kind, name, origin, _loaded_summary(entry))
    module, _, attribute = entry.partition(":")
    try:
        return Entry(kind, name, origin, _summary(module, attribute))
    except (ObdBenchError, SyntaxError) as error:
        return Entry(kind, name, origin, "", f"{entry}: {error}")


def _loaded_summary(entry: Any) -> str:
    """The same line as `_summary`, from the object."""
    if (description := getattr(entry, "description", None)) is not None:
        return str(description)
    if isinstance(entry, type) or not dataclasses.is_dataclass(entry):
        return _first_line(entry.__doc__)
    changed = {
        f.name: getattr(entry, f.name)
        for f in dataclasses.fields(entry)
        if getattr(entry, f.name) != f.default
    }
    return _preset(type(entry).__name__, changed) if changed else _first_line(entry.__doc__)


def _summary(module: str, attribute: str) -> str:
    """First line of the docstring of what is defined there; of a preset, how it differs."""
    body = _source(module).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.ClassDef) and statement.name == attribute:
            return _description(statement) or _first_line(ast.get_docstring(statement))
        if isinstance(statement, ast.Assign | ast.AnnAssign) and attribute in _stored(statement):
            return _instance_summary(module, statement.value) or _first_line(_text(following))
        if isinstance(statement, ast.ImportFrom | ast.Import) and attribute in _imported(statement):
            return ""
    raise ObdBenchError(f"the module has no attribute {attribute!r}")


def _description(statement: ast.ClassDef) -> str:
    """The class attribute of that name, which dataset families have."""
    for inner in statement.body:
        if isinstance(inner, ast.Assign | ast.AnnAssign) and "description" in _stored(inner):
            return str(_literal(inner.value) or "") if inner.value is not None else ""
    return ""


def _instance_summary(module: str, value: ast.expr | None) -> str:
    """What can be said of `Class()` or `Class(setting=1)`; "" of any other expression."""
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name) or value.args:
        return ""
    if value.keywords:
        return _preset(value.func.id, {str(k.arg): _literal(k.value) for k in value.keywords})
    return _summary(module, value.func.id)


def _preset(kind: str, changed: Mapping[str, Any]) -> str:
    return f"{kind} with {', '.join(f'{name} = {value!r}' for name, value in changed.items())}."


def _sweeps() -> Iterator[Entry]:
    for name, path in shipped_sweeps().items():
        values = tomllib.loads(path.read_text("utf-8-sig"))
        yield Entry("sweep", name, "obdbench", values.get("description", ""))


def _student_recipes() -> Iterator[Entry]:
    for name, student in RECIPES.items():
        yield Entry("student recipe", name, "obdbench", describe_student(student))


def _protocols() -> Iterator[Entry]:
    for name, protocol in PROTOCOLS.items():
        summary = (
            f"{protocol.students} students x {protocol.episodes} episodes"
            f"{' of sampled actions' if protocol.actions == 'sampled' else ''} every "
            f"{protocol.checkpoint_every:,} outer steps; the last {protocol.last} count."
        )
        yield Entry("protocol", name, "obdbench", summary)


def _profiles() -> Iterator[Entry]:
    for name, path in profile_files().items():
        first = path.read_text("utf-8-sig").partition("\n")[0]
        summary = first.removeprefix("#").strip() if first.startswith("#") else ""
        yield Entry("profile", name, str(path.parent), summary)


def _exhibits() -> Iterator[Entry]:
    for node in ast.walk(_source(EXHIBITS)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Exhibit":
            shows = next(k.value for k in node.keywords if k.arg == "shows")
            yield Entry("exhibit", _literal(node.args[0]), "obdbench", _literal(shows))


_OTHERS: dict[Kind, Callable[[], Iterator[Entry]]] = {
    "student recipe": _student_recipes,
    "sweep": _sweeps, "protocol": _protocols, "profile": _profiles, "exhibit": _exhibits,
}  # fmt: skip


@cache
def _source(module: str) -> ast.Module:
    """The parsed source of a module; neither it nor its parents are imported."""
    top, *rest = module.split(".")
    spec: ModuleSpec | None = find_spec(top)
    for depth in range(len(rest)):
        if spec is not None:
            name = ".".join([top, *rest[: depth + 1]])
            spec = PathFinder.find_spec(name, spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ObdBenchError(f"there is no module {module!r}")
    return ast.parse(Path(spec.origin).read_text("utf-8"))


def _stored(statement: ast.Assign | ast.AnnAssign) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and _is_target(n)}


def _is_target(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _imported(statement: ast.ImportFrom | ast.Import) -> set[str]:
    return {alias.asname or alias.name for alias in statement.names}


def _text(statement: ast.stmt | None) -> str | None:
    value = _literal(statement.value) if isinstance(statement, ast.Expr) else None
    return value if isinstance(value, str) else None


def _literal(node: ast.expr) -> Any:
    return node.value if isinstance(node, ast.Constant) else None


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]
