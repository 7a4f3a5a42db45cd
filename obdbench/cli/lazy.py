"""Commands that are imported when they are called, not when the command line starts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from obdbench import catalogue

PACKAGE = "obdbench.cli"


@dataclass(frozen=True)
class Command:
    """Where a command is, and what can be said about it without importing it.

    Args:
        target: `module:function` in this package, or `module:app` for a group.
        help: First line of its docstring.
        words: Kinds (`catalogue.Kind`) of its leading arguments: what the shell completes, and what
            is refused before anything is imported where no such thing exists.
        group: Sub-commands of a group, with the first lines of their docstrings.
    """

    target: str
    help: str
    words: tuple[catalogue.Kind, ...] = ()
    group: Mapping[str, str] = field(default_factory=dict)


def command_tree(commands: Mapping[str, Command]) -> dict[str, Any]:
    """Light stand-ins for commands and groups, by name."""
    tree: dict[str, Any] = {}
    for name, command in commands.items():
        if command.group:
            members = {
                n: _stand_in(n, Command(command.target, h)) for n, h in command.group.items()
            }
            tree[name] = TyperGroup(
                name=name, help=command.help, commands=members, no_args_is_help=True
            )
        else:
            tree[name] = _stand_in(name, command)
    return tree


def load_command(name: str, target: str) -> Any:
    """The real command, imported now."""
    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(f"{PACKAGE}.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return _as_written(get_command(found).commands[name])  # type: ignore[attr-defined]
    return _single(name, found)


class StandIn(TyperCommand):
    """What `--help` and shell completion see of a command; calling it imports the real one."""

    about: Command

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The real command's context; its own while the shell completes a word that it knows."""
        completes = extra.get("resilient_parsing", False)
        if completes and len(args) < len(self.about.words):
            return super().make_context(info_name, args, parent, **extra)
        if not completes:
            catalogue.check_words(self.about.words, args)
        command = load_command(str(self.name), self.about.target)
        return command.make_context(info_name, args, parent, **extra)


def _stand_in(name: str, command: Command) -> Any:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        given = ctx.params.get("given") or ()
        names = catalogue.names(command.words[len(given)])
        return [name for name in names if name.startswith(incomplete)]

    argument = typer.Argument(None, autocompletion=complete)

    def function(given: list[str] = argument) -> None:
        pass

    stand_in = _single(name, function, cls=StandIn, help=command.help)
    stand_in.about = command
    return stand_in


def _single(name: str, function: Callable[..., Any], **settings: Any) -> Any:
    """A command that belongs to no group yet."""
    app = typer.Typer(add_completion=False)
    app.command(name, **settings)(function)
    return _as_written(get_command(app))


def _as_written(command: Any) -> Any:
    """The command, with help that shows brackets as they are: typer takes them for markup."""
    command.help = command.help and escape(command.help)
    for parameter in command.params:
        if help_ := getattr(parameter, "help", None):
            parameter.help = escape(help_)
    return command
