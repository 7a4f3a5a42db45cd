"""The command tree, how errors and plug-ins reach the user, and what a process ends with."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from benchmark.errors import ObdBenchError, system_error
from benchmark.registry import load_plugin
from benchmark.stopping import ended_by_signals
from obdbench.cli.console import ERROR, INTERRUPTED, err, never_fail_to_print
from obdbench.cli.lazy import Command, command_tree

COMMANDS = {
    "run": Command(
        "runs:run", "Do one run in this process and print its score.", ("method", "dataset")
    ),
    "sweep": Command(
        "runs:sweep",
        "Do every run of a sweep that is not done yet on this machine, then print its table.",
        ("sweep",),
    ),
    "submit": Command(
        "cluster:submit",
        "Submit every run of a sweep that is not done yet to SLURM, and return at once.",
        ("sweep",),
    ),
    "status": Command(
        "started_sweeps:status",
        "Show every cell and seed of a sweep: done, running, queued, missing, stopped, failed.",
    ),
    "table": Command(
        "started_sweeps:table",
        "Print a sweep's table and write it as Markdown, CSV and LaTeX, with its figure.",
    ),
    "report": Command(
        "started_sweeps:report",
        "Write a sweep's report as one HTML page: results, runs, figures, published numbers.",
    ),
    "collect": Command(
        "started_sweeps:collect",
        "Give runs whose job died a record with the cause, then print and write the table.",
    ),
    "cancel": Command(
        "started_sweeps:cancel",
        "End a sweep's jobs on the cluster; runs that had begun keep their saved state.",
    ),
    "plan": Command(
        "cluster:plan",
        "Print what a sweep costs: runs and CPU hours by method and dataset.",
        ("sweep",),
    ),
    "reproduce": Command(
        "reproduce:reproduce",
        "Reproduce a paper's table or figure: data, teachers, densities, runs, tables.",
        ("exhibit",),
    ),
    "study": Command(
        "paper:study", "Measure what `obdbench paper` shows next to the runs' scores.", ("study",)
    ),
    "paper": Command(
        "paper:paper", "Write the papers' tables and figures from whatever records there are.",
        ("exhibit",),
    ),
    "verify": Command(
        "recorded:verify",
        "Repeat a recorded run from its own spec and say whether the numbers hold.",
    ),
    "export": Command(
        "recorded:export", "Write a run's last synthetic set in a format that others read."
    ),
    "submit-make": Command(
        "leaderboard:submit_make",
        "Write runs as a submission to the leaderboard: records and the sets they count.",
    ),
    "submit-check": Command(
        "leaderboard:submit_check",
        "Check a submission to the leaderboard: files, records, sets, and some scores again.",
    ),
    "leaderboard": Command(
        "leaderboard:leaderboard",
        "Show the shipped runs and every submission that was accepted, by task and score.",
        ("dataset",),
    ),
    "list": Command("listing:list_entries", "List everything that has a name, or describe one."),
    "check-method": Command(
        "contract:check_method",
        "Check a method against the rules for every method, on toy problems, in seconds.",
        ("method",),
    ),
    "new-method": Command(
        "contract:new_method",
        "Write a method that works, its test, and a sweep with random and Av-PBC.",
    ),
    "data": Command(
        "data:app", "Datasets: build, fetch, import, list, inspect, replay.",
        group={
            "describe": "Returns, episode lengths, state coverage and diversity of datasets.",
            "build": "Build a dataset into the local Minari store.",
            "fetch": "Fetch a published dataset into the local Minari store.",
            "import": "Import a file from this machine into the local Minari store.",
            "list": "List every dataset that is known without a network, and those in the local "
            "store.",
            "info": "Check a dataset of the local store and print its facts.",
            "replay": "Step the environment from each stored state, and compare rewards and next "
            "states.",
            "train-policies": "Run the recipe behind the shipped policy snapshots again (needs "
            "obdbench[policies]).",
        },
    ),
    "teacher": Command(
        "teacher:app", "Teachers: train, import, list, evaluate.",
        group={
            "train": "Train a teacher offline; a killed training goes on from its saved state.",
            "import": "Import a checkpoint of the papers' authors; no code of the file is run.",
            "list": "List shipped, trained and imported teachers.",
            "eval": "Measure the return of one dataset's teacher, or of all.",
        },
    ),
    "density": Command(
        "density:app", "Log densities of states: fit, import, list.",
        group={
            "fit": "Fit a density, or check the stored one; a killed fit goes on from its last "
            "epoch.",
            "import": "Import log densities made elsewhere; runs use them with the density recipe "
            '"imported".',
            "list": "List the log densities in the local store.",
        },
    ),
    "artefacts": Command(
        "artefacts:app", "What the papers' authors published: import, list, score, draw.",
        group={
            "draw": "Draw imported sets of images, and below them those of the study "
            "supervised_images.",
            "import": "Import what authors published from a clone of their repository; no code "
            "of it is run.",
            "list": "List imported sets, log densities and teachers of authors.",
            "score": "Score imported sets and teachers as their authors did, and say how that "
            "compares.",
        },
    ),
}  # fmt: skip
"""Every command with the first line of its docstring, so that `--help` imports none of them."""

HELP = """Reproducibility benchmark suite for offline behaviour distillation.

Exit status: 0, all is done; 1, an error, which is printed; 2, wrong usage; 3, some runs of the
sweep failed; 75, the state is saved after SLURM's warning and the same command goes on; 130,
Ctrl-C; 143, ended by SIGTERM, and 129, its terminal was closed: the state of runs is saved.
"""


class Root(TyperGroup):
    """The commands of `COMMANDS`, each imported when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": command_tree(COMMANDS)})


app = typer.Typer(
    cls=Root,
    name="obdbench",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"obdbench {version('obdbench')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A .py file that registers methods or datasets; may be repeated."),
    ] = None,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Load plug-ins before any command."""
    for path in plugin or []:
        load_plugin(path)
    context.obj = [str(path.resolve()) for path in plugin or []]


def main() -> None:
    """Entry point: errors of the suite and of the system are one message, without a traceback."""
    never_fail_to_print()
    try:
        with ended_by_signals():
            app()
    except (ObdBenchError, OSError) as error:
        message = system_error(error) if isinstance(error, OSError) else str(error)
        err.print(Text("Error:", "bold red"), message)
        sys.exit(ERROR)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            err.print("Stopped. Finished runs are kept; the same command goes on from here.")
        raise
