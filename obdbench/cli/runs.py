"""`obdbench run | sweep`: one run, or every open run of a sweep, on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.config import BadConfiguration
from benchmark.errors import ObdBenchError
from benchmark.stopping import (
    END,
    INTERRUPT,
    SECONDS_TO_SAVE,
    Stopped,
    StopRequest,
    queues_itself_again,
    stopped_by_signals,
)
from obdbench.cli.console import err, out, progress_bar, sparingly
from obdbench.cli.options import DEFAULT_STORE, Store, find_sweep, parse_settings

if TYPE_CHECKING:  # what a command works with is imported when it works, so that --help is quick
    from benchmark.run import Conditions
    from benchmark.spec import RunSpec
    from benchmark.sweep import Sweep
    from results.record_store import RunState

QUEUE_AGAIN = 75
"""Exit status of a process that SLURM warned: its state is saved, the same command goes on."""

WORDS: dict[RunState, str] = {
    "done": "done", "failed": "failed", "running": "running elsewhere", "queued": "queued",
}  # fmt: skip

Retry = Annotated[
    str | None,
    typer.Option(help="`failed`: take up failed runs again, from their saved state."),
]
Threads = Annotated[
    int,
    typer.Option(
        help="Threads of torch in every process; rounding depends on it.", min=1, max=1024
    ),
]


def run(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="Registered method.")],
    dataset: Annotated[str, typer.Argument(help="Registered dataset, e.g. hopper/medium-expert.")],
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
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
    from benchmark.datasets.source import DatasetName
    from benchmark.protocol import protocol_named
    from benchmark.record import FILE
    from benchmark.run import Conditions, execute, run_folder
    from benchmark.spec import RunSpec
    from obdbench.cli.data import build_if_missing

    settings = parse_settings(set_)
    student = {
        k.removeprefix("student."): v for k, v in settings.items() if k.startswith("student.")
    }
    spec = RunSpec.create(
        method=method,
        dataset=dataset,
        parameters={k: v for k, v in settings.items() if not k.startswith("student.")},
        where="--set",
        seed=seed,
        protocol=protocol_named(protocol),
        teacher=teacher,
        density=density,
        student=student,
    )
    build_if_missing(DatasetName.parse(dataset))
    with progress_bar(spec.run_id, "steps", 1.0) as bar:
        conditions = Conditions(
            store,
            plugins=tuple(context.obj or ()),
            on_progress=lambda _, step, total: bar.update(step / max(total, 1)),
        )
        with _saved_by_signals(conditions.stop):
            (record,) = execute([spec], conditions)
    if record.status == "failed":
        failure, path = record.failure, run_folder(store, spec) / FILE
        raise ObdBenchError(
            f"{failure.type}: {failure.message}\n{spec.run_id} failed; its record has the "
            f"traceback: {path}"
        )
    out.print(
        f"{spec.run_id}: normalized return {record.mean_score.normalized_return:.2f}",
    )


def sweep(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped sweep.")],
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Processes at a time; 1 works in this process. All cores by default, 1 on a GPU."
        ),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(help="2/8: every eighth run from the third on, in this process."),
    ] = None,
    retry: Retry = None,
    threads: Threads = 1,
    pack: Annotated[
        int | None,
        typer.Option(
            help="Largest number of runs to advance together, 1 for none. 8 by default; on a GPU "
            "as many as its memory holds, up to 128.",
            min=1,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Device of heavy products: cpu, cuda or cuda+tf32 (both untested).")
    ] = "cpu",
    store: Store = DEFAULT_STORE,
) -> None:
    """Do every run of a sweep that is not done yet on this machine, then print its table."""
    from benchmark.provenance import checked_device
    from benchmark.run import Conditions
    from obdbench.cli.started_sweeps import show

    if jobs is not None and (jobs < 1 or (share and jobs > 1)):
        expected = "1, since a share is done in this process" if share else "1 or more"
        raise BadConfiguration(f"--jobs is {jobs}; expected {expected}.")
    conditions = Conditions(
        store, tuple(context.obj or ()), threads=threads, device=device, pack=pack
    )
    check_retry(retry)
    checked_device(device)
    plan = find_sweep(name, store)
    do_here(plan, conditions, 1 if share else jobs, retry, share)
    if share is None:
        show(store, plan, conditions.plugins)


def do_here(
    plan: Sweep,
    conditions: Conditions,
    jobs: int | None,
    retry: str | None,
    share: str | None = None,
) -> None:
    """Do every run of a sweep that is not done yet on this machine.

    Args:
        plan: The sweep.
        conditions: Store, device and the like.
        jobs: Processes at a time; None for one per core, or one on a GPU.
        retry: "failed" to take up failed runs again.
        share: Part of the runs, "0/8" to "7/8"; None for all.
    """
    from benchmark.local import default_jobs
    from benchmark.run import tidy

    begin(plan, conditions.store)
    tidy(_share(plan, list(plan.runs), share), conditions.store)
    if todo := _share(plan, runs_to_do(conditions.store, plan, retry), share):
        _work(todo, plan, conditions, jobs or default_jobs(conditions.device))


def begin(plan: Sweep, store: Path) -> None:
    """Keep what a sweep asks for, and build its datasets.

    Raises:
        ObdBenchError: Records of the sweep were made on other content of a dataset.
    """
    from benchmark.datasets.source import DatasetName
    from obdbench.cli.data import build_if_missing
    from obdbench.face import check_same_data
    from results.record_store import save_sweep

    if replaced := save_sweep(store, plan):
        err.print(replaced)
    datasets = dict.fromkeys(run.dataset for run in plan.runs)
    check_same_data(store, plan, [build_if_missing(DatasetName.parse(d)) for d in datasets])


def check_retry(retry: str | None) -> None:
    """Check the option before anything is built.

    Raises:
        BadConfiguration: It is neither left out nor "failed".
    """
    if retry not in (None, "failed"):
        raise BadConfiguration(f"--retry takes 'failed', got {retry!r}.")


def runs_to_do(store: Path, plan: Sweep, retry: str | None) -> list[RunSpec]:
    """The runs that are to be done; their counts are printed."""
    from benchmark.record import BadRecord, OtherVersion
    from obdbench.sweep_status import sweep_status

    states = sweep_status(store, plan)
    todo = states.runs_to_do(plan, retry=retry is not None)
    counts = states.counts
    listed = [
        f"{counts[state]} {word}"
        for state, word in WORDS.items()
        if counts[state] or state in ("done", "failed")
    ]
    err.print(
        ", ".join([f"{plan.name}: {len(plan.runs)} runs", *listed, f"{len(todo)} to do"]),
    )
    if states.unknown:
        err.print(str(states.unknown), style="yellow")
    for run in plan.runs:
        if states.of(run).error == BadRecord.__name__:
            fate = "put aside" if run in todo else "left; --retry failed puts it aside"
            err.print(f"A record cannot be read, and is {fate}: {states.of(run).message}")
        if states.of(run).error == OtherVersion.__name__:
            err.print(f"A record of another version is left as it is: {states.of(run).message}")
    return todo


def _share(plan: Sweep, todo: list[RunSpec], share: str | None) -> list[RunSpec]:
    """The runs of these that one of several processes takes.

    Shares are of the whole sweep: those of processes that begin at different times fit together.
    """
    if share is None:
        return todo
    from benchmark.packing import distils

    parts = share.split("/")
    if (
        len(parts) != 2
        or not all(p.isdecimal() for p in parts)
        or not int(parts[0]) < int(parts[1])
    ):
        raise BadConfiguration(f"--share is {share!r}; expected a place and a number, 0/8 to 7/8.")
    # Runs of the same sets are in one share: they are distilled once.
    numbers: dict[str, int] = {}
    for run in plan.runs:
        numbers.setdefault(distils(run), len(numbers))
    place, shares = map(int, parts)
    return [run for run in todo if numbers[distils(run)] % shares == place]


def _work(todo: list[RunSpec], plan: Sweep, conditions: Conditions, jobs: int) -> None:
    """Do the runs, with a progress bar."""
    from benchmark.local import execute_here, execute_in_processes
    from obdbench.time_left import share_done
    from results.record_store import readable_records, run_status

    with progress_bar(plan.name, "runs", len(todo)) as bar:
        store = conditions.store
        at = {run.run_id: run_status(store, run) for run in todo}
        before = {run: status.fraction for run, status in at.items() if status.state == "stopped"}

        def poll() -> None:
            for run in todo:
                if at[run.run_id].state != "done":  # done is for good, failed may be under retry
                    at[run.run_id] = run_status(store, run)
            counted = ("done", "failed", "running")
            now = {run: s.fraction for run, s in at.items() if s.state in counted}
            failed = sum(status.state == "failed" for status in at.values())
            records, _ = readable_records(store, plan)
            bar.update(
                sum(now.values()),
                f"{failed} failed" if failed else "",
                share=share_done(todo, before, now, records),
            )

        seldom = sparingly(poll)  # ten thousand runs are looked at in a third of a second
        with _saved_by_signals(conditions.stop):
            if jobs > 1:
                execute_in_processes(todo, conditions, jobs, seldom)
            else:
                execute_here(todo, conditions, seldom)
        poll()


@contextlib.contextmanager
def _saved_by_signals(stop: StopRequest) -> Iterator[None]:
    """Signals save the state of the runs in the block and end the command, which says so.

    Raises:
        Exit: 75 after SLURM's warning, unless the end came too; else 128 + signal.
    """
    try:
        with stopped_by_signals(stop, SECONDS_TO_SAVE) as received:
            yield
    except Stopped as stopped:
        if received[0] != INTERRUPT:  # after Ctrl-C every command says so at its end
            err.print(f"Stopped: {stopped}. The same command goes on from here.")
        status = 128 + (END if END in received else received[0])
        raise typer.Exit(QUEUE_AGAIN if queues_itself_again(received) else status) from None
