"""The command tree, and how errors and plug-ins reach the user."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from benchmark.errors import ObdBenchError
from benchmark.registry import load_plugin
from obdbench.cli import (
    cluster,
    contract,
    data,
    density,
    paper,
    recorded,
    registries,
    runs,
    started_sweeps,
    teacher,
)
from obdbench.cli.console import err

INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

app = typer.Typer(
    name="obdbench",
    help="Reproducibility benchmark suite for offline behaviour distillation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.app, name="data")
app.add_typer(teacher.app, name="teacher")
app.add_typer(density.app, name="density")
app.command()(runs.run)
app.command()(runs.sweep)
app.command()(cluster.submit)
app.command()(started_sweeps.status)
app.command()(started_sweeps.table)
app.command()(started_sweeps.report)
app.command()(started_sweeps.collect)
app.command()(started_sweeps.cancel)
app.command()(cluster.plan)
app.command()(paper.study)
app.command()(paper.paper)
app.command()(recorded.verify)
app.command()(recorded.export)
app.command(name="list")(registries.list_entries)
app.command()(contract.check_method)
app.command()(contract.new_method)


@app.callback()
def root(
    context: typer.Context,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A .py file that registers methods or datasets; may be repeated."),
    ] = None,
) -> None:
    """Loads plug-ins before any command."""
    for path in plugin or []:
        load_plugin(path)
    context.obj = [str(path.resolve()) for path in plugin or []]


def main() -> None:
    """Entry point: the suite's own errors are printed as one message, without a traceback."""
    try:
        app()
    except ObdBenchError as error:
        err.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            err.print("Stopped. Finished runs are kept; the same command goes on from here.")
        raise
