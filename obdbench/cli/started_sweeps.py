"""`obdbench status | table | collect | cancel`: how far a sweep is, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from benchmark.config import BadConfiguration
from benchmark.errors import system_error
from benchmark.names import aligned
from obdbench.cli.console import ERROR, RUNS_FAILED, err, out, print_json, progress_bar
from obdbench.cli.options import (
    DEFAULT_STORE,
    POLL_SECONDS,
    Poll,
    Store,
    check_no_folder,
    next_command,
)

if TYPE_CHECKING:  # what a command works with is imported when it works, so that --help is quick
    from benchmark.sweep import Sweep
    from obdbench.sweep_status import SweepStatus
    from paper_figures import Table as MainTable
    from results.record_store import RunState, RunStatus
    from slurm.cluster import Cluster


Name = Annotated[str, typer.Argument(help="A sweep that was started.")]

MARKS: dict[RunState, str] = {
    "done": "[green]●[/]",
    "running": "[blue]▶[/]",
    "failed": "[red]✗[/]",
    "stopped": "[yellow]◐[/]",
    "queued": "[cyan]○[/]",
    "missing": "[dim]·[/]",
}
PLAIN_MARKS: dict[RunState, str] = {
    "done": "D", "running": "R", "failed": "F", "stopped": "S", "queued": "Q", "missing": ".",
}  # fmt: skip
NO_RUN = "-"
"""Stands for a seed that a cell does not have, but others of the sweep."""
GROUP = 10
"""Marks in a row without a space."""
LONG = 200
"""Rows of a table above which it is printed as plain lines."""
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def status(
    context: typer.Context, name: Name, store: Store = DEFAULT_STORE, as_json: Json = False
) -> None:
    """Show every cell and seed of a sweep: done, running, queued, missing, stopped, failed.

    Ends with status 3 where runs failed.
    """
    from obdbench.sweep_status import sweep_status
    from results.record_index import no_garbage
    from results.record_store import load_sweep

    with no_garbage():
        plan = load_sweep(store, name)
        states = sweep_status(store, plan)
    if as_json:
        print_json(_status_values(store, plan, states))
    else:
        _print_status(store, plan, states, context.obj or ())
    _exit_where_failed(states)


def _status_values(store: Path, plan: Sweep, states: SweepStatus) -> dict[str, Any]:
    runs = [
        {
            "run_id": run.run_id, "method": run.method, "dataset": run.dataset, "seed": run.seed,
            "state": states.of(run).state, "fraction": states.of(run).fraction,
            "error": states.of(run).error, "message": states.of(run).message,
        }
        for run in plan.runs
    ]  # fmt: skip
    return {
        "sweep": plan.name, "store": str(store), "counts": dict(states.counts),
        "waiting": dict(states.waiting), "unknown": states.unknown,
        "remarks": list(states.remarks), "runs": runs,
    }  # fmt: skip


def _print_status(store: Path, plan: Sweep, states: SweepStatus, plugins: Sequence[str]) -> None:
    seeds = sorted({run.seed for run in plan.runs})
    counts = states.counts
    running = ["running"] if counts["running"] else []
    head = ["cell", f"seed{'s' if len(seeds) > 1 else ''} {_ranges(seeds)}", *running, "errors"]
    cells = plan.cells
    marks = MARKS if out.is_terminal and len(cells) <= LONG else PLAIN_MARKS
    rows = []
    for cell, runs in cells.items():
        at = {run.seed: states.of(run) for run in runs}
        errors = sorted({p.error for p in at.values() if p.error})
        shown = [marks[at[seed].state] if seed in at else NO_RUN for seed in seeds]
        far = [f"{100 * at[s].fraction:.0f} %" for s in seeds if s in at and _runs(at[s])]
        rows.append(
            [cell, _grouped(shown), *([", ".join(far)] if running else []), ", ".join(errors)]
        )
    if len(cells) > LONG:
        print(aligned([head, *rows]))
    else:
        # A long name is folded rather than cut, so that the marks keep their room.
        seeds_column = Column(head[1], min_width=min(len(seeds), GROUP))
        table = Table(Column("cell", overflow="fold"), seeds_column, *head[2:])
        for cell, word, *others in rows:
            table.add_row(cell, Text.from_markup(word), *others)
        out.print(table)
    legend = [f"{mark} {counts[s]} {s}" for s, mark in marks.items() if counts[s]]
    lacking = len(cells) * len(seeds) - len(plan.runs)
    out.print(
        ", ".join([*legend, *([f"{NO_RUN} {lacking} not in the sweep"] if lacking else [])]),
        markup=True,
    )
    if states.waiting:
        reasons = ", ".join(f"{count} {reason}" for reason, count in states.waiting.most_common())
        out.print(f"Queued: {reasons}")
    if states.unknown:
        out.print(f"What is queued is not known: {states.unknown}", style="yellow")
    _remark(states.remarks)
    if counts["failed"]:
        _explain_failures(store, plan, states)
        again = next_command(f"sweep {plan.name} --retry failed", store, plugins)
        out.print(f"Failed runs go on with: {again}")


def table(
    context: typer.Context,
    name: Name,
    to: Annotated[
        Path | None, typer.Option(help="Folder to write to; reports/NAME of the store by default.")
    ] = None,
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Print a sweep's table and write it as Markdown, CSV and LaTeX, with its figure.

    Ends with status 3 where runs failed.
    """
    from results.record_index import no_garbage
    from results.record_store import load_sweep

    with no_garbage():
        plan = load_sweep(store, name)
        whole, states = _print_table(store, plan, as_json, context.obj or (), to)
    _exit_where_failed(states, whole)


def report(
    name: Name,
    to: Annotated[
        Path | None, typer.Option(help="The file; report.html next to the table by default.")
    ] = None,
    store: Store = DEFAULT_STORE,
) -> None:
    """Write a sweep's report as one HTML page: results, runs, figures, published numbers."""
    from obdbench.html_report import write_html_report
    from results.record_store import load_sweep, reports_folder

    if to is not None:
        _check_page(to)
    plan = load_sweep(store, name)
    path = to or reports_folder(store, plan) / "report.html"
    write_html_report(store, plan, path)
    out.print(str(path))


def _check_page(path: Path) -> None:
    """Refuse to write a report over anything but a page.

    Raises:
        BadConfiguration: It is a folder, or a file that is not an HTML page.
    """
    check_no_folder(path)
    if not path.exists():
        return
    begin = b""
    if path.is_file():  # a pipe would never answer
        with path.open("rb") as stream:
            begin = stream.read(100)
    if not begin.lstrip().lower().startswith(b"<!doctype html"):
        raise BadConfiguration(
            f"{path} exists already and is not an HTML page, so the report was not written over "
            f"it. Give another file with --to, or remove it."
        )


def collect(
    context: typer.Context,
    name: Name,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until no run is on the cluster any more.")
    ] = False,
    poll: Poll = POLL_SECONDS,
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Give runs whose job died a record with the cause, then print and write the table.

    May be called at any time, also while jobs run; they are not touched. Ends with status 3 where
    runs failed, with status 1 where SLURM does not answer: the table is then of what is there.
    """
    from benchmark.errors import ObdBenchError
    from results.record_store import load_sweep
    from slurm.cluster import Cluster

    plan = load_sweep(store, name)
    settled = True
    try:
        if wait:
            watch(Cluster(store), plan, poll)
        else:
            settle(Cluster(store))
    except ObdBenchError as error:
        settled = False
        err.print(f"Nothing was noted: {error}")
    show(store, plan, context.obj or (), as_json, settled)


def cancel(context: typer.Context, name: Name, store: Store = DEFAULT_STORE) -> None:
    """End a sweep's jobs on the cluster; runs that had begun keep their saved state."""
    from results.record_store import load_sweep
    from slurm.cluster import Cluster

    plan = load_sweep(store, name)
    count = Cluster(store).cancel(plan.name)
    if not count:
        err.print(f"No run of {name} waits or works on a cluster.")
        return
    note = next_command(f"collect {name}", store, context.obj or ())
    err.print(f"{count} runs were cancelled. Note them as such: {note}")


def watch(
    cluster: Cluster, plan: Sweep, poll: float, send: Callable[[], object] | None = None
) -> None:
    """Return when no run of the sweep is on the cluster any longer.

    Ctrl-C ends the watching, not the jobs.

    Args:
        cluster: Where the runs are.
        plan: The sweep.
        poll: Seconds between looks.
        send: Sends runs that are not on the cluster yet; it is called again while the queue is
            full.
    """
    from obdbench.sweep_status import sweep_status
    from slurm.cluster import QueueFull
    from slurm.scheduler import NoSlurm, Unreachable

    mine = {run.run_id for run in plan.runs}
    said: set[str] = set()

    def say_once(sentence: str) -> None:
        if sentence not in said:
            err.print(sentence)
        said.add(sentence)

    with progress_bar(plan.name, "runs", len(plan.runs)) as bar:
        while True:
            try:
                settled = cluster.settle()
                _tell(settled.died, settled.unwritten)
                for remark in cluster.scheduler.remarks():
                    say_once(remark)
                if send is None and not settled.live & mine:
                    return
                if send is not None:
                    send()
                    send = None
            except NoSlurm:
                raise  # asking again is of no use
            except (QueueFull, Unreachable) as error:  # the controller is being restarted, say
                say_once(f"{error} Asking again every {poll:.0f} s.")
            states = sweep_status(cluster.store, plan)
            done = sum(p.fraction for p in states.at.values() if p.state != "queued")
            queued, failed = states.counts["queued"], states.counts["failed"]
            bar.update(done, f"{queued} queued{f', {failed} failed' if failed else ''}")
            time.sleep(poll)


def settle(cluster: Cluster) -> None:
    """Give runs whose job died a record with the cause, and print it."""
    settled = cluster.settle()
    _tell(settled.died, settled.unwritten)
    _remark(cluster.scheduler.remarks())


def _remark(remarks: Sequence[str]) -> None:
    """Print what the scheduler's answer lacked."""
    for remark in remarks:
        err.print(remark)


def _tell(died: dict[str, str], unwritten: dict[str, str]) -> None:
    """Print which runs were given a failed record, and which records could not be written."""
    for run, kind in died.items():
        err.print(f"{run}: {kind}")
    for run, problem in unwritten.items():
        err.print(
            f"{run}: its job died, and its record cannot be written ({problem}). Make room and "
            f"run this again.",
        )


def show(
    store: Path,
    plan: Sweep,
    plugins: Sequence[str],
    as_json: bool = False,
    settled: bool = True,
) -> None:
    """Print and write a sweep's table, and say on the other stream what it lacks.

    Args:
        store: Folder of records.
        plan: The sweep.
        plugins: Files of the command's `--plugin`, which further commands need too.
        as_json: Print JSON instead of the table.
        settled: Whether SLURM could be asked before.

    Raises:
        Exit: SLURM could not be asked: status 1. Runs failed: status 3.
    """
    whole, states = _print_table(store, plan, as_json, plugins)
    if open_ := states.counts["queued"] + states.counts["running"]:
        err.print(f"{open_} runs are still queued or running.")
    if states.counts["failed"]:
        err.print(
            f"Some runs failed; see: {next_command(f'status {plan.name}', store, plugins)}",
        )
    if not settled:
        raise typer.Exit(ERROR)
    _exit_where_failed(states, whole)


def _exit_where_failed(states: SweepStatus, whole: bool = True) -> None:
    """End with the status that says whether runs failed, or records cannot be read."""
    if states.counts["failed"]:
        raise typer.Exit(RUNS_FAILED)
    if not whole:
        raise typer.Exit(ERROR)


def _print_table(
    store: Path, plan: Sweep, as_json: bool, plugins: Sequence[str], to: Path | None = None
) -> tuple[bool, SweepStatus]:
    """Print a sweep's table, then write it.

    Returns:
        Whether all could be read and written, and the status of the runs.
    """
    from obdbench.sweep_status import sweep_status
    from paper_figures.sweep_table import sweep_table
    from results.record_store import reports_folder

    states: SweepStatus | None = None

    def show(table: MainTable) -> None:
        nonlocal states  # found while the figure is drawn
        if not as_json:
            rows = sum(map(len, table.groups))
            out.print(table.rich()) if rows <= LONG else print(table.text())
        states = sweep_status(store, plan)

    result = sweep_table(store, plan)
    files: list[Path] = []
    problem = ""
    try:
        files = result.write(to or reports_folder(store, plan), show)
    except OSError as error:
        problem = system_error(error)
    if as_json:
        print_json(
            {
                "sweep": plan.name,
                "caption": result.table.caption,
                "rows": result.table.data.to_dict("records"),
                "files": [str(path) for path in files],
                "damaged": result.damaged,
            }
        )
    else:
        for path in files:
            out.print(str(path))
    for message in result.damaged:
        err.print(f"A record cannot be read: {message}")
    if problem:
        elsewhere = next_command(f"table {plan.name} --to FOLDER", store, plugins)
        err.print(f"The table was not written: {problem} Elsewhere: {elsewhere}")
    return not (result.damaged or problem), states or sweep_status(store, plan)


def _explain_failures(store: Path, plan: Sweep, states: SweepStatus) -> None:
    """One line for every distinct error, with a record that holds its traceback."""
    from benchmark.record import FILE
    from benchmark.run import run_folder

    examples: dict[str, Path] = {}
    for run in plan.runs:
        if states.of(run).error:
            said = f"{states.of(run).error}: {states.of(run).message}"
            examples.setdefault(said, run_folder(store, run) / FILE)
    for message, path in examples.items():
        out.print(f"{message}\n  {path}")


def _runs(at: RunStatus) -> bool:
    return at.state == "running"


def _grouped(marks: Sequence[str]) -> str:
    """Marks in one word for every ten, between which a line may be broken."""
    return " ".join("".join(marks[i : i + GROUP]) for i in range(0, len(marks), GROUP))


def _ranges(seeds: Sequence[int]) -> str:
    """Seeds in rising order as text: "0 to 9, 20"."""
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in ranges)
