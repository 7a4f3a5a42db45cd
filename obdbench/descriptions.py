"""What a named thing is and how it can be set: its fields, their defaults and their meaning.

The meaning of a field stands in the `Args:` of the docstring of the class that declares it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmark.protocol import PROTOCOLS
from benchmark.students.spec import RECIPES
from obdbench import catalogue
from obdbench.catalogue import Entry
from obdbench.sweeps import shipped_sweeps
from slurm.profiles import profile_files

REQUIRED = "(required)"
ITEM = re.compile(r"    (?P<names>\w+(?:, \w+)*): (?P<meaning>.*)")


@dataclass(frozen=True)
class Setting:
    """One field of a method, recipe, protocol or source.

    Args:
        name: Its key, as in `--set name=value` or a sweep's TOML.
        type: Type, in the words of its declaration.
        default: A plain value, or `REQUIRED`.
        meaning: From the docstring; "" where the docstring does not name it.
    """

    name: str
    type: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Description:
    """What can be said about one named thing.

    Args:
        text: Its docstring without the sections about arguments, or its description.
        facts: Further lines, by their title.
        settings: Its fields.
    """

    text: str
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()


def description(entry: Entry) -> Description:
    """The description of an entry; what it names is imported."""
    if entry.kind in catalogue.REGISTRIES:
        return _of_registered(catalogue.load(entry.kind, entry.name))
    return _DESCRIBED[entry.kind](entry.name)


def settings_of(thing: Any) -> tuple[Setting, ...]:
    """The fields of a dataclass, with the defaults of the instance where it is one."""
    kind = thing if isinstance(thing, type) else type(thing)
    if not dataclasses.is_dataclass(kind):
        return ()
    meanings = argument_meanings(kind)
    return tuple(
        Setting(f.name, _type_name(f.type), _default(thing, f), meanings.get(f.name, ""))
        for f in dataclasses.fields(kind)
        if f.init
    )


def argument_meanings(kind: type) -> dict[str, str]:
    """Meaning of each argument in a class's docstring and those of its bases."""
    meanings: dict[str, str] = {}
    for ancestor in kind.__mro__:
        for name, meaning in _arguments(ancestor.__dict__.get("__doc__") or "").items():
            meanings.setdefault(name, meaning)
    return meanings


def _arguments(docstring: str) -> dict[str, str]:
    """The items of `Args:`, each as one line."""
    _, _, section = inspect.cleandoc(docstring).partition("Args:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        if item := ITEM.fullmatch(line):
            names = item["names"].split(", ")
            found |= dict.fromkeys(names, item["meaning"])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def _of_registered(thing: Any) -> Description:
    kind = thing if isinstance(thing, type) else type(thing)
    text = getattr(thing, "description", None) or inspect.cleandoc(kind.__doc__ or "")
    needs = getattr(thing, "needs", None)
    facts = {"uses": ", ".join(sorted(needs)) or "nothing"} if needs is not None else {}
    return Description(_before_sections(text), facts, settings_of(thing))


def _of_sweep(name: str) -> Description:
    from benchmark.sweep import read_sweep

    path = shipped_sweeps()[name]
    sweep = read_sweep(path)
    facts = {
        "runs": str(len(sweep.runs)),
        "methods": ", ".join(dict.fromkeys(run.method for run in sweep.runs)),
        "datasets": ", ".join(dict.fromkeys(run.dataset for run in sweep.runs)),
        "protocol": ", ".join(dict.fromkeys(run.protocol.name for run in sweep.runs)),
        "file": str(path),
    }
    return Description(sweep.description, facts)


def _of_student_recipe(name: str) -> Description:
    student = RECIPES[name]
    return Description(_before_sections(type(student).__doc__ or ""), {}, settings_of(student))


def _of_protocol(name: str) -> Description:
    protocol = PROTOCOLS[name]
    return Description(_before_sections(type(protocol).__doc__ or ""), {}, settings_of(protocol))


def _of_profile(name: str) -> Description:
    path = profile_files()[name]
    values = tomllib.loads(path.read_text("utf-8-sig"))
    facts = {key: str(value) for key, value in values.items()}
    comments = [line for line in path.read_text("utf-8-sig").splitlines() if line.startswith("#")]
    return Description(
        "\n".join(line[1:].strip() for line in comments), facts | {"file": str(path)}
    )


def _of_exhibit(name: str) -> Description:
    from paper_figures.exhibits import EXHIBITS

    exhibit = next(exhibit for exhibit in EXHIBITS if exhibit.name == name)
    return Description(exhibit.shows, {"made from": exhibit.source})


_DESCRIBED: dict[str, Callable[[str], Description]] = {
    "student recipe": _of_student_recipe,
    "sweep": _of_sweep, "protocol": _of_protocol, "profile": _of_profile, "exhibit": _of_exhibit,
}  # fmt: skip


def _before_sections(docstring: str) -> str:
    text = inspect.cleandoc(docstring)
    return re.split(r"\n(?:Args|Attributes|Raises|Returns):\n", text)[0].strip()


def _default(thing: Any, f: dataclasses.Field[Any]) -> Any:
    if not isinstance(thing, type):
        value = getattr(thing, f.name)
    elif f.default is not dataclasses.MISSING:
        value = f.default
    elif f.default_factory is not dataclasses.MISSING:
        value = f.default_factory()
    else:
        return REQUIRED
    plain = isinstance(value, bool | int | float | str | list | dict) or value is None
    return value if plain else getattr(value, "__name__", str(value))


def _type_name(declared: Any) -> str:
    return declared if isinstance(declared, str) else getattr(declared, "__name__", str(declared))
