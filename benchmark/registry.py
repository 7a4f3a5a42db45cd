"""One small typed registry for methods, datasets, students and teacher recipes.

An entry is an object, or a `module:attribute` string that is imported when it is first asked for.
Built-ins arrive through entry points of the installed distribution, exactly as a third party's do:

    [project.entry-points."obdbench.methods"]
    my_method = "my_package.my_method:MyMethod"
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.names import BadName, check_name

T = TypeVar("T")
OWN_ENTRY = "One of your own: --plugin FILE before the command."
"""What a message on an unknown method or dataset ends with."""


class UnknownName(ObdBenchError):
    """A name that is not registered."""


class DuplicateName(ObdBenchError):
    """Two entries want the same name."""


class BrokenPlugin(ObdBenchError):
    """An entry that is registered but cannot be loaded."""


class Registry(Generic[T]):
    """Names to objects of one kind.

    Args:
        kind: Singular noun for an entry, for messages: "method".
        group: The entry-point group that built-ins and third parties declare their entries in.
        base: Class that every entry must be a subclass or an instance of.
        entries: Whether the entries are subclasses of `base` or instances of it. Among "instances"
            a subclass is replaced by the instance that it makes without arguments.
        fault: Says what else is wrong with an entry, in words that go on from its name; "" where
            nothing is.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        base: type[T] | None = None,
        *,
        entries: Literal["classes", "instances"] = "classes",
        fault: Callable[[T], str] = lambda _: "",
    ) -> None:
        self.kind, self.group, self.base, self.entries = kind, group, base, entries
        self._fault = fault
        self._entries: dict[str, T | str] = {}
        self._origins: dict[str, str] = {}
        self._conflicts: dict[str, str] = {}
        self._discovered = False

    def register(self, name: str, entry: T | str, *, origin: str | None = None) -> None:
        """Add an entry.

        Raises:
            DuplicateName: The name is taken by something else.
            BrokenPlugin: The entry is not of this registry's kind.
            BadName: The name cannot be the name of a file.
        """
        self._discover()
        origin = origin or _origin_of(entry)
        if not isinstance(entry, str):
            entry = self._checked(name, entry, origin)
        self._add(name, entry, origin)

    def __getitem__(self, name: str) -> T:
        """The entry of that name, imported if need be.

        Raises:
            UnknownName: With the nearest names that exist.
            BrokenPlugin: The entry could not be imported, or is not of this registry's kind.
        """
        self._discover()
        if name not in self._entries:
            raise self.unknown(name)
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._load(name, entry)
            self._entries[name] = entry
        return entry

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def origin(self, name: str) -> str:
        """Origin of an entry: a distribution, a file or a module."""
        self._discover()
        return self._origins[name]

    def reference(self, name: str) -> T | str:
        """An entry as it is registered: `module:attribute` until something has imported it."""
        self._discover()
        return self._entries[name]

    def unknown(self, name: str) -> UnknownName:
        """The error for a name that is not registered, with the nearest names that are."""
        self._discover()
        lists = "obdbench data list" if self.kind == "dataset" else "obdbench list"
        hint = did_you_mean(name, self._entries, lists)
        own = f" {OWN_ENTRY}" if self.kind in ("method", "dataset") else ""
        return UnknownName(f"No {self.kind} is called {name!r}. {hint}{own}")

    def conflicts(self) -> dict[str, str]:
        """Entries of distributions whose name is taken or cannot be one, with the reason."""
        self._discover()
        return dict(self._conflicts)

    def broken(self) -> dict[str, str]:
        """Entries that do not load, with the reason; the others stay usable."""
        reasons = self.conflicts()
        for name in self:
            try:
                self[name]
            except BrokenPlugin as error:
                reasons[name] = str(error)
        return reasons

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for point in sorted(importlib.metadata.entry_points(group=self.group), key=_own_first):
            distribution = _distribution_name(point.dist)
            try:
                self._add(point.name, point.value, distribution)
            except (DuplicateName, BadName) as error:  # `broken` reports it; the others stay usable
                self._conflicts[f"{point.name} of {distribution}"] = str(error)

    def _add(self, name: str, entry: T | str, origin: str) -> None:
        check_name(f"The name of a {self.kind} of {origin}", name, parts=True)
        if name in self._entries:
            if self._entries[name] == entry:
                return
            raise DuplicateName(
                f"The {self.kind} name {name!r} is taken by {self._origins[name]}; {origin} must "
                f"register its {self.kind} under another name."
            )
        self._entries[name], self._origins[name] = entry, origin

    def _load(self, name: str, reference: str) -> T:
        module, _, attribute = reference.partition(":")
        try:
            entry = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a plug-in may fail in any way; the others must go on
            raise BrokenPlugin(
                f"The {self.kind} {name!r} of {self._origins[name]} ({reference}) does not load: "
                f"{type(error).__name__}: {error}. Fix or uninstall it; the others still work."
            ) from error
        return self._checked(name, entry, f"{self._origins[name]} ({reference})")

    def _checked(self, name: str, entry: object, origin: str) -> T:
        """Check an entry; a class among instances becomes its default instance.

        Raises:
            BrokenPlugin: The entry is not of this registry's kind, or it has another fault.
        """
        if self.base is None:
            return cast(T, entry)
        base: type[Any] = self.base
        subclass = isinstance(entry, type) and issubclass(entry, base)
        if self.entries == "classes":
            fits, expected = subclass, "a subclass"
        else:
            if subclass:
                entry = self._default_instance(name, cast(type[Any], entry), origin)
            fits, expected = isinstance(entry, base), "an instance"
        if not fits:
            raise BrokenPlugin(
                f"The {self.kind} {name!r} of {origin} is {entry!r}; expected {expected} of "
                f"{base.__name__}."
            )
        if fault := self._fault(cast(T, entry)):
            raise BrokenPlugin(f"The {self.kind} {name!r} of {origin} {fault}")
        return cast(T, entry)

    def _default_instance(self, name: str, entry: type[Any], origin: str) -> Any:
        try:
            return entry()
        except Exception as error:  # a plug-in may fail in any way; the others must go on
            raise BrokenPlugin(
                f"The {self.kind} {name!r} of {origin} cannot be made without arguments: "
                f"{type(error).__name__}: {error}. Give every field a default."
            ) from error


def _own_first(point: importlib.metadata.EntryPoint) -> tuple[bool, str, str]:
    """Sort key: the suite's own entries first, so that a third party cannot take their names."""
    return (_distribution_name(point.dist) != "obdbench", point.name, point.value)


@cache
def _distribution_name(distribution: importlib.metadata.Distribution | None) -> str:
    """Name of a distribution; asking the distribution itself parses its metadata every time."""
    return "unknown distribution" if distribution is None else distribution.name


def _origin_of(entry: object) -> str:
    if isinstance(entry, str):
        return entry
    named = entry if isinstance(entry, type) else type(entry)
    return f"{named.__module__}:{named.__qualname__}"


def load_plugin(path: str | Path) -> None:
    """Import one file, whose `register` calls add entries to the registries.

    The file is imported under a name of its own path, so that two plug-ins of the same file name
    do not collide; loading the same file twice is harmless.

    Raises:
        BrokenPlugin: The file is missing or raises.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise BrokenPlugin(f"The plug-in {path} is not a file. Give the path of a .py file.")
    name = f"obdbench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise BrokenPlugin(f"The plug-in {path} is not Python source; expected a .py file.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except ObdBenchError:
        del sys.modules[name]
        raise
    except Exception as error:  # a plug-in may fail in any way; say which one and why
        del sys.modules[name]
        raise BrokenPlugin(
            f"The plug-in {path} does not load: {type(error).__name__}: {error}."
        ) from error
