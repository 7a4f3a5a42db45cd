"""`obdbench reproduce`: from the name of a paper's table or figure to the table, in one command."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from benchmark.config import BadConfiguration
from benchmark.errors import ObdBenchError
from obdbench.cli.console import err, out
from obdbench.cli.options import DEFAULT_STORE, Store, parse_settings
from obdbench.cli.runs import Retry, Threads, check_retry, do_here

if TYPE_CHECKING:  # what a command works with is imported when it works, so that --help is quick
    from benchmark.run import Conditions
    from obdbench.reproduction import Reproduction, Step
    from slurm.profile import Profile

STATES = {True: "there", False: "to do"}


def reproduce(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A table or figure; without a name all are listed.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List what can be reproduced.")] = False,
    scale: Annotated[
        str, typer.Option(help="small: the shipped sweep's own size; paper: the paper's settings.")
    ] = "small",
    data: Annotated[
        str, typer.Option(help="own: the suite's datasets; d4rl: D4RL's, which are fetched.")
    ] = "own",
    mirror: Annotated[
        str | None,
        typer.Option(help="Address of a folder with D4RL's files; default: OBDBENCH_D4RL_MIRROR."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the plan, check it, and stop.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value: seeds, datasets, a hyper-parameter, student.KEY, protocol.KEY, or "
            "teacher.KEY; repeatable.",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes at a time. All cores by default.", min=1)
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Work on SLURM, with jobs of this profile.")
    ] = None,
    retry: Retry = None,
    threads: Threads = 1,
    store: Store = DEFAULT_STORE,
) -> None:
    """Reproduce a paper's table or figure: data, teachers, densities, runs, tables.

    The plan is printed and checked before anything is started. Every step is skipped where its
    result is there, so that the same command goes on after any end. With --profile, teachers and
    runs are jobs: call again to go on, and for the tables.
    """
    from benchmark.datasets.d4rl import MIRROR
    from benchmark.run import Conditions
    from obdbench.reproduction import reproduction
    from slurm.profile import find_profile

    check_retry(retry)
    if jobs is not None and profile is not None:
        raise BadConfiguration(
            f"--jobs {jobs} is for runs on this machine, --profile {profile} for SLURM; give only "
            f"one. How many jobs there are at a time stands in the profile."
        )
    if list_ or name is None:
        _list()
        return
    chosen = find_profile(profile) if profile else None
    work = reproduction(name, scale, data, parse_settings(set_))
    if mirror is not None and not any(run.dataset.startswith("d4rl/") for run in work.sweep.runs):
        raise BadConfiguration(
            f"--mirror is for D4RL's files; no run of {work.sweep.name} is on one of them. Give "
            f"--data d4rl, or leave --mirror out."
        )
    if mirror is not None:
        os.environ[MIRROR] = mirror  # where every source of D4RL's data looks
    steps = work.steps()
    problems = _print_plan(work, steps, store, chosen)
    if problems:  # each by name, now: not as hundreds of failed rows
        many = "1 thing is" if len(problems) == 1 else f"{len(problems)} things are"
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise ObdBenchError(f"Nothing was started: {many} missing.\n{listed}")
    if plan:
        return
    conditions = Conditions(store, tuple(context.obj or ()), threads=threads)
    if chosen is None:
        _prepare(work, steps)
        do_here(work.sweep, conditions, jobs, retry)
    elif not _on_cluster(work, steps, conditions, chosen, retry):
        return
    _show(work, store, conditions.plugins)


def _list() -> None:
    """Every exhibit that stands on a sweep, with its sweeps."""
    from obdbench.reproduction import ON_D4RL, reproducible
    from obdbench.sweeps import shipped_sweeps

    shipped = shipped_sweeps()
    table = Table(Column("name", no_wrap=True), "what it is", "--scale small", "--scale paper")
    for exhibit in reproducible().values():
        at_scale = ON_D4RL + exhibit.sweep
        paper = at_scale if at_scale in shipped else "-"
        table.add_row(exhibit.name, exhibit.shows, exhibit.sweep, paper)
    out.print(table)


def _print_plan(
    work: Reproduction, steps: list[Step], store: Path, profile: Profile | None
) -> list[str]:
    """Print every step with its cost; return what keeps the plan from being begun."""
    from benchmark.work import Rates
    from obdbench.cli.cluster import costs_by_device, hours_values, in_words
    from obdbench.sweep_status import sweep_status
    from slurm.profile import Profile

    sweep = work.sweep
    states = sweep_status(store, sweep)
    todo = [run for run in sweep.runs if states.of(run).state != "done"]
    rates, title = Rates(), work.exhibit.shows
    hours_column = Column("CPU hours", justify="right")
    what_column, how_column = Column("what", overflow="fold"), Column("how", overflow="fold")
    table = Table("step", what_column, "state", hours_column, how_column, title=title)
    total, unknown = 0.0, 0
    for step in steps:
        what = step.dataset if not step.recipe else f"{step.recipe} on {step.dataset}"
        size = "" if step.fetched is None else f", {step.fetched / 1e6:,.1f} MB"
        state = "missing" if step.problem else STATES[step.done]
        how = "see below" if step.problem else step.says + size
        seconds = work.seconds(step, rates)
        total, unknown = total + (seconds or 0.0) / 3600, unknown + (seconds is None)
        shown = "?" if seconds is None else f"{seconds / 3600:,.2f}" if seconds else ""
        table.add_row(step.kind, what, state, shown, how)
    chosen = profile or Profile("none")
    costs = costs_by_device(store, sweep.runs, chosen, rates)
    hours = hours_values(costs, todo, chosen, sweep.runs)
    sources = dict.fromkeys(source for row in hours["rows"] for source in row["estimated_from"])
    cells = (
        f"{len(sweep.runs)} runs of {len(sweep.cells)} cells: {in_words(hours)} "
        f"({', '.join(sources)})"
    )
    of_runs = sum(hours["hours_left"].values())
    shown = f"{of_runs:,.2f}" if of_runs or not hours["unknown"] else "?"
    table.add_row("sweep", sweep.name, f"{len(todo)} to do", shown, cells)
    table.add_row("tables", work.exhibit.name, "to do", "", str(store / "reports" / sweep.name))
    out.print(table)
    counts = {"steps": unknown, "runs": hours["unknown"]}
    without = [f"{count} {what}" for what, count in counts.items() if count]
    out.print(
        f"In all about {total + of_runs:,.2f} CPU hours, counted ones on one core of this machine "
        f"({hours['processor']})"
        + (f"; not counted: {' and '.join(without)} of unknown cost." if without else "."),
    )
    problems = [step.problem for step in steps if step.problem]
    needed = _disk(work, steps)
    place = next(folder for folder in (store, *store.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    out.print(
        f"Disk: about {needed / 1e9:.2f} GB, of {free / 1e9:,.0f} GB free in {place}.",
    )
    if needed > free:
        problems.append(
            f"{needed / 1e9:.2f} GB of disk: {place} has {free / 1e9:.2f} GB free. Make room, or "
            f"give another folder with --store."
        )
    return problems


def _disk(work: Reproduction, steps: list[Step]) -> float:
    """Bytes that the plan will fill, roughly; what is there counts nothing."""
    from benchmark.datasets.source import DatasetName

    total = 0.0
    for step in steps:
        if step.kind == "dataset" and not step.done:
            rows = DatasetName.parse(step.dataset).size or 0
            # The fetched file, its copy in the Minari store and the flat one; else 250 bytes a row
            # in each copy.
            total += 3 * (step.fetched or 0) + 500 * rows
    for run in work.sweep.runs:
        parameters, protocol = run.resolved_parameters, run.protocol
        checkpoints = 1 + run.method_instance.total_outer_steps // protocol.checkpoint_every
        pairs = 100 * parameters.get("synthetic_size", 0)  # some 25 numbers per pair
        episodes = 30 * protocol.students * protocol.episodes  # a return and a length, as JSON
        total += checkpoints * (pairs + episodes) + 5_000
    return total


def _words(work: Reproduction, step: Step, device: str) -> list[str]:
    """The command that makes a step, from the state that an earlier attempt has saved."""
    from benchmark.teachers.teacher_files import TeacherName

    if step.kind == "density":
        return ["density", "fit", step.dataset, "--recipe", step.recipe]
    name = TeacherName.parse(step.recipe)
    settings = [
        word
        for key, value in work.teacher_settings.items()
        for word in ("--set", f"{key}={json.dumps(value)}")  # such plain values are TOML too
    ]
    options = ["--recipe", name.recipe, "--seed", str(name.seed), "--device", device, *settings]
    return ["teacher", "train", step.dataset, *options]


def _is_left(work: Reproduction, step: Step) -> bool:
    """Whether a step is still to be done, looked at again: those before it may have made it.

    Raises:
        ObdBenchError: It cannot be had.
    """
    now = work.look(step)
    if now.problem:
        raise ObdBenchError(now.problem)
    return not now.done


def _prepare(work: Reproduction, steps: list[Step]) -> None:
    """Make here, one after the other, what the runs stand on."""
    from benchmark.datasets.source import DatasetName
    from benchmark.teachers.teacher_files import TeacherName
    from obdbench.cli.data import build_if_missing
    from obdbench.cli.density import fit
    from obdbench.cli.teacher import train_teacher

    for step in steps:
        if step.done or not _is_left(work, step):
            continue
        if step.kind == "dataset":
            build_if_missing(DatasetName.parse(step.dataset))
        elif step.kind == "density":
            fit(step.dataset, step.recipe, seed=0, epochs=None)
        else:
            name = TeacherName.parse(step.recipe)
            try:
                train_teacher(step.dataset, name.recipe, name.seed, work.teacher_settings)
            except BadConfiguration:
                if _is_left(work, step):
                    raise  # else another process trained it while this one waited


def _on_cluster(
    work: Reproduction,
    steps: list[Step],
    conditions: Conditions,
    profile: Profile,
    retry: str | None,
) -> bool:
    """Fetch data here, and send what is to be done next; whether every run has its record."""
    from obdbench.cli.cluster import send_sweep
    from obdbench.sweep_status import sweep_status
    from slurm.cluster import Cluster
    from slurm.job import Command

    _prepare(work, [step for step in steps if step.kind == "dataset"])
    cluster, shape = Cluster(conditions.store), profile.shape
    plugins = [word for path in conditions.plugins for word in ("--plugin", path)]
    waiting = False
    for step in steps:
        if step.kind == "dataset" or not _is_left(work, step):
            continue
        waiting = True
        words = _words(work, step, shape.device)
        name = f"obd.{step.kind}.{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}"
        command = Command([sys.executable, "-m", "obdbench", *plugins, *words], profile.requeues)
        state = cluster.send(name, command, shape, again=retry is not None)
        err.print(f"{step.kind} {step.recipe} on {step.dataset}: {state}")
    if not waiting:
        send_sweep(work.sweep, conditions, profile, retry)
        counts = sweep_status(conditions.store, work.sweep).counts
        waiting = bool(counts["queued"] + counts["running"])
    if waiting:
        err.print(
            "The same command goes on when these jobs have ended; it may be called at any time.",
        )
    return not waiting


def _show(work: Reproduction, store: Path, plugins: Sequence[str]) -> None:
    """Write the exhibit, the numbers next to the published ones, and the sweep's own table."""
    from obdbench.cli.started_sweeps import show
    from paper_figures.exhibits import write
    from paper_figures.reproduction_table import reproduction_table
    from results.comparison import compare, published_cells
    from results.record_store import readable_records

    folder = store / "reports" / work.sweep.name
    records, _ = readable_records(store, work.sweep)
    found = [one for one in compare(published_cells(), records) if one.reproduced is not None]
    paths: list[Path] = []
    try:
        paths += write(work.exhibit, store, folder)
    except ObdBenchError as error:  # no run is complete, or one record is damaged
        err.print(f"{work.exhibit.name}: left out: {error!s}")
    if found:
        table = reproduction_table(found)
        paths += table.write(folder, "published")
        out.print(table.rich())
    for path in paths:
        out.print(str(path))
    show(store, work.sweep, plugins)
