"""Options that several commands share: `--set key=value`, and the store of records."""

from __future__ import annotations

import math
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.config import BadConfiguration
from benchmark.errors import short
from obdbench.sweeps import find_sweep
from results.stores import DEFAULT_STORE, store_option

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value: a setting of the recipe; repeatable."),
]


def _number(value: float) -> float:
    """The value of an option; bounds refuse infinities, but nan is within any of older typers."""
    if math.isnan(value):
        raise typer.BadParameter("nan is not a number; expected seconds, e.g. 30.")
    return value


POLL_SECONDS = 30.0
"""Seconds between two looks at the cluster."""
Poll = Annotated[
    float,
    typer.Option(help="Seconds between looks (--wait).", min=0.01, max=86_400, callback=_number),
]
Force = Annotated[bool, typer.Option(help="Replace what is there under that name.")]


def check_free(path: Path, force: bool, otherwise: str = "") -> None:
    """Refuse to write over a file that another command may have made.

    Args:
        path: File that is to be written.
        force: Whether the user wants that.
        otherwise: What else the user can do, e.g. ", or --target for another file".

    Raises:
        BadConfiguration: It exists.
    """
    if path.exists() and not force:
        raise BadConfiguration(
            f"{path} exists already, and nothing was done. Give --force to replace it{otherwise}."
        )


def check_no_folder(path: Path) -> None:
    """Refuse to write a file where a folder is.

    Raises:
        BadConfiguration: It is a folder.
    """
    if path.is_dir():
        raise BadConfiguration(f"{path} is a folder; expected a file, such as {path / 'NAME'}.")


def parse_settings(texts: Sequence[str] | None) -> dict[str, Any]:
    """Values by key, each read as TOML where it is, else as text.

    Raises:
        BadConfiguration: One of them is not of the form key=value, or has thousands of digits.
    """
    return dict(_setting(text) for text in texts or ())


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise BadConfiguration(f"--set {text!r} is not of the form key=value.")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return key, value
    except ValueError as error:
        raise BadConfiguration(f"--set {short(text)} cannot be read: {error}") from error


__all__ = ["DEFAULT_STORE", "Store", "find_sweep", "next_command", "store_option"]

Store = Annotated[
    Path,
    typer.Option(envvar="OBDBENCH_STORE", help="Folder of records."),
]


def next_command(words: str, store: Path, plugins: Iterable[str]) -> str:
    """A command to type next, with the store and the plug-ins of the one that prints it."""
    given = "".join(f" --plugin {shlex.quote(file)}" for file in plugins)
    return f"obdbench{given} {words}{store_option(store)}"
