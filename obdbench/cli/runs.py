"""`obdbench run | sweep`: do one run, or every run of a sweep that is not done yet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.config import BadConfiguration, build
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.store import DatasetName
from benchmark.errors import ObdBenchError
from benchmark.evaluation import protocol_named
from benchmark.packing import DEFAULT_PACK
from benchmark.record import FILE, read_record
from benchmark.run import run_folder
from benchmark.spec import RunSpec
from benchmark.stopping import Stopped
from benchmark.students.student import StudentSpec
from benchmark.sweep import Sweep
from obdbench.cli import cluster
from obdbench.cli.cluster import POLL_SECONDS
from obdbench.cli.console import err, out, progress_bar
from obdbench.cli.data import build_if_missing
from obdbench.cli.settings import parse_settings
from obdbench.cli.started_sweeps import show
from obdbench.cli.stores import DEFAULT_STORE, Store, find_sweep
from obdbench.sweep_status import sweep_status
from results.record_store import RunState, run_status, save_sweep, sweep_records
from slurm.cluster import Cluster, Settings
from slurm.executors import Executor, InlineExecutor, make_executor
from slurm.profile import find_profile
from slurm.signals import END, WARNING, stopped_by_signals

QUEUE_AGAIN = 75
"""Status of a process that SLURM warned: its state is saved, the same command goes on."""
SECONDS_TO_SAVE = 60.0

WORDS: dict[RunState, str] = {
    "done": "done", "failed": "failed", "running": "running elsewhere", "queued": "queued",
}  # fmt: skip


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
    executor: Annotated[str, typer.Option(help="inline, local or slurm.")] = "local",
    jobs: Annotated[
        int | None, typer.Option(help="Processes at a time (local); all cores by default.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="A TOML file, or a name: what jobs ask for (slurm).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted (slurm), and stop.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until all is done, then print the table (slurm).")
    ] = False,
    poll: Annotated[float, typer.Option(help="Seconds between looks (--wait).")] = POLL_SECONDS,
    share: Annotated[
        str | None, typer.Option(help="2/8: of the runs, every eighth from the third on (inline).")
    ] = None,
    retry: Annotated[
        str | None,
        typer.Option(help="`failed`: take up failed runs again, from their saved state."),
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Of torch in every process; rounding depends on it.")
    ] = 1,
    pack: Annotated[
        int | None,
        typer.Option(help=f"Most runs to advance together; 1 for none. {DEFAULT_PACK} by default."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Torch device of heavy products: cpu, or cuda (untested)."),
    ] = None,
    store: Store = DEFAULT_STORE,
) -> None:
    """Do every run of a sweep that is not done yet, then print its table.

    With --executor slurm the runs are submitted and the command returns; `status` and `collect` go
    on from there, in any shell.
    """
    if retry not in (None, "failed"):
        raise BadConfiguration(f"--retry takes 'failed', got {retry!r}.")
    for option, value in (("--jobs", jobs), ("--threads", threads), ("--pack", pack)):
        if value is not None and value < 1:
            raise BadConfiguration(f"{option} is {value}; expected 1 or more.")
    plugins = tuple(context.obj or ())
    _check_options(
        executor,
        slurm={"--profile": profile, "--dry-run": dry_run, "--wait": wait},
        local={"--jobs": jobs, "--pack": pack, "--device": device, "--share": share},
    )
    if executor == "slurm":
        chosen = find_profile(profile or "cpu")
        settings = Settings(plugins=tuple(plugins), threads=threads)
    else:
        local = make_executor(
            executor,
            jobs or os.cpu_count() or 1,
            store=store,
            plugins=plugins,
            threads=threads,
            pack=pack or DEFAULT_PACK,
            device=device or "cpu",
        )
    plan = find_sweep(name, store)
    if dry_run:
        cluster.dry_run(store, _to_do(store, plan, retry), chosen, threads)
        return
    save_sweep(store, plan)
    datasets = dict.fromkeys(run.dataset for run in plan.runs)
    _check_same_data(store, plan, [build_if_missing(DatasetName.parse(d)) for d in datasets])
    if executor == "slurm":
        jobs_of_store = Cluster(store)
        cluster.settle(jobs_of_store)
        todo = _to_do(store, plan, retry)
        if wait:
            cluster.watch(jobs_of_store, plan, poll, todo, chosen, settings)
        else:
            if todo:
                cluster.submit(jobs_of_store, plan, todo, chosen, settings)
            return
    elif todo := _share(plan, _to_do(store, plan, retry), share):
        _work_until_told(local, plan, todo, store)
    if share is None:
        show(store, plan)


def _check_options(executor: str, slurm: Mapping[str, Any], local: Mapping[str, Any]) -> None:
    """Refuses options of the other kind of executor, which would do nothing."""
    for option, value in (local if executor == "slurm" else slurm).items():
        if value not in (None, False):
            raise BadConfiguration(
                f"{option} is not for --executor slurm: its profile says what jobs ask for."
                if executor == "slurm"
                else f"{option} is for --executor slurm."
            )
    if local["--share"] is not None and executor != "inline":
        raise BadConfiguration("--share is for --executor inline.")


def _share(plan: Sweep, todo: list[RunSpec], share: str | None) -> list[RunSpec]:
    """What one of several processes takes of the runs to do.

    Shares are of the whole sweep: those of processes that begin at different times fit together.
    """
    if share is None:
        return todo
    parts = share.split("/")
    if len(parts) != 2 or not all(p.isdigit() for p in parts) or not int(parts[0]) < int(parts[1]):
        raise BadConfiguration(f"--share is {share!r}; expected a place and a number, 0/8 to 7/8.")
    mine = {run.run_id for run in plan.runs[int(parts[0]) :: int(parts[1])]}
    return [run for run in todo if run.run_id in mine]


def _to_do(store: Path, plan: Sweep, retry: str | None) -> list[RunSpec]:
    """The runs that are to be done, and a line of counts."""
    states = sweep_status(store, plan)
    skipped = {"done", "running", "queued"} | (set() if retry else {"failed"})
    todo = [run for run in plan.runs if states.of(run).state not in skipped]
    counts = states.counts
    listed = [
        f"{counts[state]} {word}"
        for state, word in WORDS.items()
        if counts[state] or state in ("done", "failed")
    ]
    err.print(
        ", ".join([f"{plan.name}: {len(plan.runs)} runs", *listed, f"{len(todo)} to do"]),
        highlight=False,
    )
    if states.unknown:
        err.print(f"[yellow]{states.unknown}[/]", highlight=False)
    return todo


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


def _work_until_told(executor: Executor, plan: Sweep, todo: list[RunSpec], store: Path) -> None:
    """Works in this process; told by SLURM to end, it saves the state and says so by its status."""
    if not isinstance(executor, InlineExecutor):
        return _work(executor, plan, todo, store)
    try:
        with stopped_by_signals(executor.stop, SECONDS_TO_SAVE) as came:
            _work(executor, plan, todo, store)
    except Stopped as stopped:
        err.print(f"Stopped: {stopped}. The same command goes on from here.", highlight=False)
        raise typer.Exit(QUEUE_AGAIN if WARNING in came else 128 + END) from None


def _work(executor: Executor, plan: Sweep, todo: list[RunSpec], store: Path) -> None:
    with progress_bar(plan.name, "runs", len(todo)) as bar:
        done: set[str] = set()  # never looked at again; a failed run may be under retry

        def poll() -> None:
            at = {run.run_id: run_status(store, run) for run in todo if run.run_id not in done}
            done.update(run for run, p in at.items() if p.state == "done")
            failed = sum(p.state == "failed" for p in at.values())
            running = sum(p.fraction for p in at.values() if p.state == "running")
            bar.update(len(done) + failed + running, f"{failed} failed" if failed else "")

        executor.run(todo, on_poll=poll)
        poll()
