"""`obdbench run | sweep | status | table`: do runs, see how far they are, show what came out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from benchmark.config import BadConfiguration, build
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.store import DatasetName
from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.evaluation import protocol_named
from benchmark.record import FILE, peek_record, read_record
from benchmark.run import run_folder
from benchmark.spec import RunSpec
from benchmark.students.student import StudentSpec
from benchmark.sweep import Sweep, read_sweep
from obdbench.cli.console import err, out, progress_bar
from obdbench.cli.data import build_if_missing
from obdbench.cli.settings import parse_settings
from obdbench.report import write_report
from results.store import load_sweep, progress, save_sweep, started_sweeps, sweep_records
from slurm.executors import DEFAULT_PACK, make_executor

Store = Annotated[
    Path,
    typer.Option(envvar="OBDBENCH_STORE", help="Folder of records."),
]
DEFAULT_STORE = Path("obdbench-runs")

MARKS = {
    "done": "[green]●[/]",
    "running": "[blue]▶[/]",
    "failed": "[red]✗[/]",
    "stopped": "[yellow]◐[/]",
    "missing": "[dim]·[/]",
}
PLAIN_MARKS = {"done": "D", "running": "R", "failed": "F", "stopped": "S", "missing": "."}


def run(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="Registered method.")],
    dataset: Annotated[str, typer.Argument(help="Registered dataset, e.g. hopper/medium-expert.")],
    seed: Annotated[int, typer.Option(help="Of the run.")] = 0,
    protocol: Annotated[str, typer.Option(help="How the set is scored.")] = "obd",
    teacher: Annotated[str, typer.Option(help="Teacher recipe, or recipe:seed.")] = "td3_bc",
    density: Annotated[str, typer.Option(help="Density recipe.")] = "maf",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value: a hyper-parameter, or student.key; repeatable."),
    ] = None,
    store: Store = DEFAULT_STORE,
) -> None:
    """Do one run in this process and print its score."""
    settings = parse_settings(set_)
    student = {
        k.removeprefix("student."): v for k, v in settings.items() if k.startswith("student.")
    }
    parameters = {k: v for k, v in settings.items() if not k.startswith("student.")}
    spec = RunSpec.create(
        method=method,
        dataset=dataset,
        parameters=parameters,
        where="--set",
        seed=seed,
        protocol=protocol_named(protocol),
        teacher=teacher,
        density=density,
        student=build(StudentSpec, student, "--set student.*"),
    )
    build_if_missing(DatasetName.parse(dataset))
    with progress_bar(spec.run_id, "steps", 1.0) as bar:
        executor = make_executor("inline", 1, store=store, plugins=tuple(context.obj or ()))
        executor.run([spec], lambda _, step, total: bar.update(step / max(total, 1)))
    record = read_record(run_folder(store, spec) / FILE)
    if record["status"] == "failed":
        raise ObdBenchError(f"{record['error']['type']}: {record['error']['message']}")
    out.print(
        f"{spec.run_id}: normalized return {record['score']['normalized_return']:.2f}",
        highlight=False,
    )


def sweep(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped sweep.")],
    executor: Annotated[str, typer.Option(help="inline or local.")] = "local",
    jobs: Annotated[int, typer.Option(help="Processes at a time (local).")] = os.cpu_count() or 1,
    retry: Annotated[
        str | None,
        typer.Option(help="`failed`: take up failed runs again, from their saved state."),
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Of torch in every process; rounding depends on it.")
    ] = 1,
    pack: Annotated[
        int, typer.Option(help="Most runs to advance together in one process; 1 for none.")
    ] = DEFAULT_PACK,
    device: Annotated[
        str, typer.Option(help="Torch device of the heavy products: cpu, or cuda (untested).")
    ] = "cpu",
    store: Store = DEFAULT_STORE,
) -> None:
    """Do every run of a sweep that is not done yet, then print its table."""
    if retry not in (None, "failed"):
        raise BadConfiguration(f"--retry takes 'failed', got {retry!r}.")
    for option, value in (("--jobs", jobs), ("--threads", threads), ("--pack", pack)):
        if value < 1:
            raise BadConfiguration(f"{option} is {value}; expected 1 or more.")
    chosen = make_executor(
        executor,
        jobs,
        store=store,
        plugins=tuple(context.obj or ()),
        threads=threads,
        pack=pack,
        device=device,
    )
    plan = find_sweep(name, store)
    save_sweep(store, plan)
    datasets = dict.fromkeys(run.dataset for run in plan.runs)
    _check_same_data(store, plan, [build_if_missing(DatasetName.parse(d)) for d in datasets])
    states = {run.run_id: progress(store, run) for run in plan.runs}
    skipped = {"done", "running"} if retry else {"done", "running", "failed"}
    todo = [run for run in plan.runs if states[run.run_id].state not in skipped]
    counts = Counter(state.state for state in states.values())
    err.print(
        f"{plan.name}: {len(plan.runs)} runs, {counts['done']} done, {counts['failed']} failed, "
        f"{f'{running} running elsewhere, ' if (running := counts['running']) else ''}"
        f"{len(todo)} to do",
        highlight=False,
    )
    if todo:
        _work(chosen, plan, todo, store)
    _show(store, plan)
    if any(progress(store, run).state == "failed" for run in plan.runs):
        err.print(f"Some runs failed; see: obdbench status {plan.name}", highlight=False)
        raise typer.Exit(1)


def _check_same_data(store: Path, plan: Sweep, datasets: Sequence[Dataset]) -> None:
    """Records of this sweep that were made on other content must not stand beside new ones."""
    held = {dataset.name: dataset.sha256 for dataset in datasets}
    for record in sweep_records(store, plan):
        name, found = record["spec"]["dataset"], record["provenance"]["dataset_sha256"]
        if found not in (None, held[name]):
            raise ObdBenchError(
                f"{record['run_id']} in {store} was done on {name} with sha256 {found[:16]}; it "
                f"now holds {held[name][:16]}. Build that data again, or give another --store."
            )


def _work(executor: Any, plan: Sweep, todo: list[RunSpec], store: Path) -> None:
    with progress_bar(plan.name, "runs", len(todo)) as bar:
        done: set[str] = set()  # never looked at again; a failed run may be under retry

        def poll() -> None:
            at = {run.run_id: progress(store, run) for run in todo if run.run_id not in done}
            done.update(run for run, p in at.items() if p.state == "done")
            failed = sum(p.state == "failed" for p in at.values())
            running = sum(p.fraction for p in at.values() if p.state == "running")
            bar.update(len(done) + failed + running, f"{failed} failed" if failed else "")

        executor.run(todo, on_poll=poll)
        poll()


def status(
    name: Annotated[str, typer.Argument(help="A sweep that was started.")],
    store: Store = DEFAULT_STORE,
) -> None:
    """Show every cell and seed of a sweep: done, running, missing, stopped, failed."""
    plan = load_sweep(store, name)
    seeds = list(dict.fromkeys(run.seed for run in plan.runs))
    marks = MARKS if out.is_terminal else PLAIN_MARKS
    table = Table(Column("cell", no_wrap=True), *(f"seed {seed}" for seed in seeds), "errors")
    counts: Counter[str] = Counter()
    for cell, runs in plan.cells.items():
        at = {run.seed: progress(store, run) for run in runs}
        counts.update(p.state for p in at.values())
        errors = sorted({p.error for p in at.values() if p.error})
        row = [_mark(at[seed], marks) if seed in at else "" for seed in seeds]
        table.add_row(cell, *row, ", ".join(errors))
    out.print(table)
    legend = ", ".join(f"{marks[s]} {counts[s]} {s}" for s in marks if counts[s])
    out.print(legend, highlight=False)
    if counts["failed"]:
        _explain_failures(store, plan)
        where = "" if store == DEFAULT_STORE else f" --store {store}"
        out.print(
            f"Failed runs go on with: obdbench sweep {name} --retry failed{where}", highlight=False
        )


def _explain_failures(store: Path, plan: Sweep) -> None:
    """One line for every distinct error, with a record that holds its traceback."""
    examples: dict[str, Path] = {}
    for run in plan.runs:
        path = run_folder(store, run) / FILE
        if path.exists() and (error := peek_record(path)["error"]):
            examples.setdefault(f"{error['type']}: {error['message'].splitlines()[0]}", path)
    for message, path in examples.items():
        out.print(f"{message}\n  {path}", highlight=False, markup=False)


def _mark(at: Any, marks: dict[str, str]) -> str:
    percent = f" {100 * at.fraction:.0f} %" if at.state == "running" else ""
    return marks[at.state] + percent


def table(
    name: Annotated[str, typer.Argument(help="A sweep that was started.")],
    store: Store = DEFAULT_STORE,
) -> None:
    """Print a sweep's table and write it as Markdown, CSV and LaTeX, with its figure."""
    _show(store, load_sweep(store, name))


def _show(store: Path, plan: Sweep) -> None:
    report = write_report(store, plan)
    out.print(report.table.rich())
    for path in report.files:
        out.print(str(path), highlight=False)


def find_sweep(name: str, store: Path) -> Sweep:
    """A sweep from a TOML file, a shipped one by name, or one that was started in the store."""
    path = Path(name)
    if path.suffix == ".toml":
        return read_sweep(path)
    shipped = {
        entry.name.removesuffix(".toml"): entry
        for entry in resources.files("obdbench.sweeps").iterdir()
        if entry.name.endswith(".toml")
    }
    if name in shipped:
        return read_sweep(Path(str(shipped[name])))
    started = started_sweeps(store)
    if name not in started:
        raise BadConfiguration(
            f"No sweep is called {name!r}, neither shipped nor started in {store} (a file ends in "
            f".toml). {did_you_mean(name, {*shipped, *started})}"
        )
    return load_sweep(store, name)
