"""`obdbench submit | plan`: a sweep on a cluster, what it would be, and what it costs."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from obdbench.cli.console import err, out, print_json
from obdbench.cli.options import (
    DEFAULT_STORE,
    POLL_SECONDS,
    Poll,
    Store,
    find_sweep,
    next_command,
)
from obdbench.cli.runs import Retry, Threads, begin, check_retry, runs_to_do
from obdbench.cli.started_sweeps import settle, show, watch
from slurm.scheduler import USUAL_ARRAY_SIZE, Scheduler, Unreachable

if TYPE_CHECKING:  # what a command works with is imported when it works, so that --help is quick
    from benchmark.record import BadRecord
    from benchmark.run import Conditions
    from benchmark.spec import RunSpec
    from benchmark.sweep import Sweep
    from benchmark.work import Rates
    from results.costs import CostEstimate, Costs
    from slurm.cluster import Cluster, Sent
    from slurm.profile import Array, Expected, Profile


def submit(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped sweep.")],
    profile: Annotated[
        str, typer.Option(help="What jobs ask for: a shipped profile, or a TOML file.")
    ] = "cpu",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted, and stop.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until all is done, then print the table.")
    ] = False,
    poll: Poll = POLL_SECONDS,
    retry: Retry = None,
    threads: Threads = 1,
    store: Store = DEFAULT_STORE,
) -> None:
    """Submit every run of a sweep that is not done yet to SLURM, and return at once.

    `status` and `collect` go on from there, in any shell.
    """
    from benchmark.run import Conditions
    from slurm.profile import find_profile

    check_retry(retry)
    chosen, plan = find_profile(profile), find_sweep(name, store)
    if dry_run:
        _print_submission(store, runs_to_do(store, plan, retry), chosen, threads)
        return
    conditions = Conditions(store, tuple(context.obj or ()), threads=threads)
    send_sweep(plan, conditions, chosen, retry, poll if wait else None)
    if wait:
        show(store, plan, conditions.plugins)


def send_sweep(
    plan: Sweep,
    conditions: Conditions,
    profile: Profile,
    retry: str | None,
    poll: float | None = None,
) -> None:
    """Submit every run of a sweep that is not done yet.

    Args:
        plan: The sweep.
        conditions: Store, threads and plug-ins.
        profile: What jobs ask for.
        retry: "failed" to take up failed runs again.
        poll: Seconds between looks until all is done; None returns at once.
    """
    from benchmark.run import record_times
    from slurm.cluster import Cluster
    from slurm.profile import make_arrays

    store = conditions.store
    cluster = Cluster(store)
    size = cluster.scheduler.max_array_size()  # no SLURM is said before datasets are built
    begin(plan, store)
    conditions = dataclasses.replace(conditions, store=cluster.store)
    settle(cluster)
    todo = runs_to_do(store, plan, retry)
    expected = _expected(costs_by_device(store, todo, profile), profile)
    if todo:
        _print_arrays(make_arrays(todo, profile, size, expected), "to submit", expected)
    ignored = sorted(key for key in os.environ if key.startswith("SBATCH_"))
    if ignored and "SLURM_JOB_ID" not in os.environ:
        err.print(
            f"Not used: {', '.join(ignored)}. What jobs ask for stands in the profile.",
        )  # fmt: skip

    before = record_times(cluster.store, todo)

    def send() -> Sent:
        """Send what has no new record: jobs of an earlier call may have ended since."""
        now = record_times(cluster.store, todo)
        left = [run for run in todo if now.get(run.run_id) == before.get(run.run_id)]
        return cluster.submit(plan.name, left, profile, conditions, expected)

    if poll is not None:
        watch(cluster, plan, poll, send)
    elif todo:
        _print_sent(cluster, plan, send(), conditions.plugins)


def _print_sent(cluster: Cluster, plan: Sweep, sent: Sent, plugins: Sequence[str]) -> None:
    out.print(f"{_size(sent.arrays)} submitted")
    status = next_command(f"status {plan.name}", cluster.store, plugins)
    collect = next_command(f"collect {plan.name}", cluster.store, plugins)
    if sent.refused:
        err.print(
            f"SLURM refused {len(sent.refused)} runs; why: {status}",
            style="red",
        )
    err.print(f"How far they are: {status}\nTheir table:      {collect}")


def _print_submission(store: Path, todo: Sequence[RunSpec], profile: Profile, threads: int) -> None:
    """Print what would be submitted and about how long it will take."""
    from slurm.profile import make_arrays
    from slurm.script import setup_lines

    costs = costs_by_device(store, todo, profile)
    expected = _expected(costs, profile)
    arrays = make_arrays(todo, profile, _array_size(), expected)
    _print_arrays(arrays, "would be submitted", expected)
    for shape in {str(array.shape): array.shape for array in arrays}.values():
        out.print(f"{shape}:")
        for line in setup_lines(shape, threads):
            out.print(f"    {line}")
    _print_hours(store, costs, todo, profile)


def plan(
    name: Annotated[str, typer.Argument(help="A TOML file, or the name of a sweep.")],
    profile: Annotated[
        str | None, typer.Option(help="A profile: adds the jobs and arrays it would become.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine's rates anew.")
    ] = False,
    store: Store = DEFAULT_STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Print what a sweep costs: runs and CPU hours by method and dataset.

    Runs that are done cost nothing more. The rest is the mean of this machine's records of the same
    cell, or else counted: the method's products at a rate that is measured here, once for every
    size. What is known by neither is unknown.
    """
    from benchmark.work import Rates
    from obdbench.sweep_status import sweep_status
    from slurm.profile import Profile, find_profile, make_arrays

    sweep = find_sweep(name, store)
    states = sweep_status(store, sweep)
    todo = [run for run in sweep.runs if states.of(run).state != "done"]
    chosen = find_profile(profile) if profile else Profile("none")
    costs = costs_by_device(store, sweep.runs, chosen, Rates(anew=measure))
    if as_json:
        print_json(hours_values(costs, todo, chosen, sweep.runs))
        return
    _print_hours(store, costs, todo, chosen, sweep.runs)
    if profile:
        expected = _expected(costs, chosen)
        arrays = make_arrays(todo, chosen, _array_size(), expected)
        _print_arrays(arrays, "to submit", expected)


def _size(arrays: Sequence[Array]) -> str:
    """How many runs, jobs and arrays there are."""
    jobs = sum(len(array.jobs) for array in arrays)
    runs = sum(len(array.runs) for array in arrays)
    return f"{_count(runs, 'run')} in {_count(jobs, 'job')}, {_count(len(arrays), 'array')}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _print_arrays(arrays: Sequence[Array], verb: str, expected: Expected) -> None:
    """One line per array, with the expected minutes of its jobs."""
    from slurm.profile import Array, seconds_of

    out.print(f"{_size(arrays)} {verb}")
    shapes: dict[str, list[Array]] = defaultdict(list)
    for array in arrays:
        shapes[str(array.shape)].append(array)
    if len(arrays) > len(shapes) and all(len(array.jobs) == 1 for array in arrays):
        out.print(
            "This SLURM takes no job arrays (MaxArraySize or MaxJobCount): the jobs are sent one "
            "by one, and the profile's parallelism is not kept.",
        )
        arrays = [
            Array(same[0].shape, tuple(job for array in same for job in array.jobs), len(same))
            for same in shapes.values()
        ]
    for number, array in enumerate(arrays):
        sizes = Counter(len(job) for job in array.jobs)
        packs = ", ".join(
            f"{count} of {size}" if len(sizes) > 1 else f"{_count(size, 'run')} each"
            for size, count in sorted(sizes.items())
        )
        minutes = _minutes([seconds_of(job, expected) for job in array.jobs])
        out.print(
            f"  array {number}: {_count(len(array.jobs), 'job')} "
            f"({'by runs: ' * (len(sizes) > 1)}{packs}), {minutes}, "
            f"{array.parallelism} at a time; {array.shape}",
        )
    if arrays:
        out.print(
            "Minutes are estimates for one core of this machine, one run after the other; for a "
            "GPU too, unless records of the same runs were made on one.",
        )


def _minutes(seconds: Sequence[float | None]) -> str:
    """The expected minutes of jobs, from the shortest to the longest."""
    known = sorted(value / 60 for value in seconds if value is not None)
    unknown = len(seconds) - len(known)
    if not known:
        return "expected minutes unknown (their method does not count its work)"
    low, high = (f"{max(1, round(value))}" for value in (known[0], known[-1]))
    each = f"about {low if low == high else f'{low} to {high}'} min each"
    if known[-1] < 1:
        each = "less than a minute each"
    return f"{each} ({unknown} unknown)" if unknown else each


def costs_by_device(
    store: Path, runs: Sequence[RunSpec], profile: Profile, rates: Rates | None = None
) -> dict[str, Costs]:
    """Costs of planned runs by kind of device, from the shipped records, the store's and rates."""
    from benchmark.provenance import kind_of
    from benchmark.work import Rates
    from results.costs import Costs
    from results.record_store import SHIPPED, all_records

    unread: list[BadRecord] = []
    found = {r.run_id: r for place in (SHIPPED, store) for r in all_records(place, unread.append)}
    if unread:
        err.print(f"{len(unread)} records cannot be read, and tell no cost; the first: {unread[0]}")
    records, pack, rates = list(found.values()), profile.shape.largest_pack, rates or Rates()
    shapes = (profile.shape, *profile.methods.values())
    kinds = {"cpu"} | {kind_of(shape.device) for shape in shapes}
    return {kind: Costs(runs, records, kind, rates, pack) for kind in kinds}


def _expected(costs: Mapping[str, Costs], profile: Profile) -> Expected:
    """Expected seconds of a run on the device that its method gets, or else on a CPU."""

    def seconds(run: RunSpec) -> float | None:
        there = costs[_device(profile, run.method)].of(run).seconds
        return costs["cpu"].of(run).seconds if there is None else there

    return seconds


def _device(profile: Profile, method: str) -> str:
    from benchmark.provenance import kind_of

    return kind_of(profile.of(method).device)


def hours_values(
    costs: Mapping[str, Costs],
    todo: Sequence[RunSpec],
    profile: Profile,
    all_runs: Sequence[RunSpec],
) -> dict[str, Any]:
    """Runs and hours of each method and dataset, and their sums.

    Hours are CPU hours, None where one of the runs has no estimate; the sums then leave it out, and
    `unknown` counts such runs.
    """
    from benchmark.processor import processor

    groups: dict[tuple[str, str], list[RunSpec]] = defaultdict(list)
    for run in all_runs:
        groups[run.method, run.dataset].append(run)
    left = {run.run_id for run in todo}
    rows = []
    sums: defaultdict[str, float] = defaultdict(float)
    unknown = 0
    for (method, dataset), runs in groups.items():
        device = _device(profile, method)
        estimates = {run.run_id: costs[device].of(run) for run in runs}
        open_ = [estimate for run, estimate in estimates.items() if run in left]
        unknown += sum(e.seconds is None for e in open_)
        sums[device] += sum(e.seconds or 0.0 for e in open_) / 3600
        rows.append(
            {
                "method": method,
                "dataset": dataset,
                "runs": len(runs),
                "to_do": len(open_),
                "hours": _hours(list(estimates.values())),
                "hours_left": _hours(open_),
                "estimated_from": list(dict.fromkeys(e.source for e in estimates.values())),
                "records": max(e.records for e in estimates.values()),
                "device": device,
            }
        )
    return {
        "rows": rows,
        "to_do": len(todo),
        "hours_left": dict(sums),
        "unknown": unknown,
        "processor": processor(),
    }


def _print_hours(
    store: Path,
    costs: Mapping[str, Costs],
    todo: Sequence[RunSpec],
    profile: Profile,
    all_runs: Sequence[RunSpec] = (),
) -> None:
    """A row for each method and dataset, and the sum."""
    values = hours_values(costs, todo, profile, all_runs or todo)
    table = Table(
        Column("method", overflow="fold"), Column("dataset", overflow="fold"),
        Column("runs", justify="right"), Column("to do", justify="right"),
        Column("hours", justify="right"), Column("hours left", justify="right"),
        "estimated from", "on",
    )  # fmt: skip
    for row in values["rows"]:
        rests = f" ({row['records']} records)" if row["records"] else ""
        hours = ["?" if row[k] is None else f"{row[k]:.2f}" for k in ("hours", "hours_left")]
        table.add_row(
            row["method"], row["dataset"], str(row["runs"]), str(row["to_do"]), *hours,
            ", ".join(row["estimated_from"]) + rests, row["device"],
        )  # fmt: skip
    out.print(table)
    out.print(f"{len(todo)} runs to do, {in_words(values)}")
    if values["unknown"]:
        out.print(
            f"The cost of {values['unknown']} of them is unknown: their method does not count its "
            f"products for such a device, and neither {store} nor the shipped records hold a run "
            f"of their cell. One seed of each gives the estimate.",
        )
    out.print(f"Counted hours are those of one core of this machine ({values['processor']}).")


def in_words(values: Mapping[str, Any]) -> str:
    """Say the hours of `hours_values`: "about 970.2 CPU hours, and 4 runs of unknown cost"."""
    names = {"cpu": "CPU", "cuda": "GPU"}
    known = [f"{h:,.2f} {names.get(d, d)} hours" for d, h in values["hours_left"].items() if h]
    if values["unknown"]:
        known.append(f"{values['unknown']} runs of unknown cost")
    elif not known:
        known = ["0.00 CPU hours"]
    return f"about {' and '.join(known)}"


def _hours(estimates: Sequence[CostEstimate]) -> float | None:
    """Sum of the hours; None where one is unknown."""
    seconds = [e.seconds for e in estimates if e.seconds is not None]
    return sum(seconds) / 3600 if len(seconds) == len(estimates) else None


def _array_size() -> int:
    try:
        return Scheduler().max_array_size()
    except Unreachable:
        return USUAL_ARRAY_SIZE
