"""`--set key=value`, the same in every command that takes settings."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from benchmark.config import BadConfiguration

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value: a setting of the recipe; repeatable."),
]


def parse_settings(texts: Sequence[str] | None) -> dict[str, Any]:
    """Values by key, each read as TOML where it is, else as text.

    Raises:
        BadConfiguration: One of them is not of the form key=value.
    """
    return dict(_setting(text) for text in texts or ())


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise BadConfiguration(f"--set {text!r} is not of the form key=value.")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
