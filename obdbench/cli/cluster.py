"""A sweep on a cluster: what would be sent, sending it, watching it, and `obdbench plan`."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from obdbench.cli.console import err, out, print_json, progress_bar
from obdbench.cli.stores import DEFAULT_STORE, Store, find_sweep, store_option
from obdbench.states import look
from results.planning import Costs, Estimate
from results.shipping import SHIPPED
from results.store import all_records
from slurm.arrays import Array, make_arrays
from slurm.cluster import Cluster, QueueFull, Settings, sbatch_options
from slurm.profile import Profile, find_profile
from slurm.scheduler import Scheduler, Unreachable

POLL_SECONDS = 30.0
USUAL_ARRAY_SIZE = 1001
"""SLURM's default, for plans that are made away from the cluster."""


def submit(cluster: Cluster, plan: Sweep, todo: Sequence[RunSpec], profile: Profile,
           settings: Settings) -> None:  # fmt: skip
    """Sends runs and says what was sent."""
    sent = cluster.submit(plan.name, todo, profile, settings)
    _print_arrays(sent.arrays, "submitted")
    where = store_option(cluster.store)
    if sent.refused:
        err.print(
            f"[red]SLURM refused {len(sent.refused)} runs[/]; "
            f"why: obdbench status {plan.name}{where}",
            highlight=False,
        )
    err.print(
        f"How far they are: obdbench status {plan.name}{where}\n"
        f"Their table:      obdbench collect {plan.name}{where}",
        highlight=False,
    )


def dry_run(store: Path, todo: Sequence[RunSpec], profile: Profile, threads: int) -> None:
    """Prints what would be submitted and about how long it will take."""
    arrays = make_arrays(todo, profile, _array_size())
    _print_arrays(arrays, "would be submitted")
    for number, array in enumerate(arrays):
        options = sbatch_options(f"array {number}", array.shape, array.parallelism, threads)
        out.print(f"array {number}: {array.shape}", highlight=False, markup=False)
        for line in options["setup"]:  # type: ignore[attr-defined]
            out.print(f"    {line}", highlight=False, markup=False)
    _print_hours(store, todo, profile)


def watch(cluster: Cluster, plan: Sweep, poll: float, unsent: Sequence[RunSpec] = (),
          profile: Profile | None = None, settings: Settings | None = None) -> None:  # fmt: skip
    """Returns when no run of the sweep is on the cluster any more, sending the rest as room comes.

    Ctrl-C ends the watching, not the jobs.
    """
    mine = {run.run_id for run in plan.runs}
    with progress_bar(plan.name, "runs", len(plan.runs)) as bar:
        while True:
            try:
                settled = cluster.settle()
                _tell(settled.died, settled.unwritten)
                if not unsent and not settled.live & mine:
                    return
                if unsent and profile and settings:
                    cluster.submit(plan.name, unsent, profile, settings)
                    unsent = ()
            except QueueFull:
                pass
            except Unreachable as error:  # the controller is being restarted, say
                err.print(f"{error} Asking again in {poll:.0f} s.", highlight=False, markup=False)
            states = look(cluster.store, plan)
            done = sum(p.fraction for p in states.at.values() if p.state != "queued")
            queued, failed = states.counts["queued"], states.counts["failed"]
            bar.update(done, f"{queued} queued{f', {failed} failed' if failed else ''}")
            time.sleep(poll)


def settle(cluster: Cluster) -> None:
    """Gives runs whose job died a record with the cause, and says so."""
    settled = cluster.settle()
    _tell(settled.died, settled.unwritten)


def plan(
    name: Annotated[str, typer.Argument(help="A TOML file, or the name of a sweep.")],
    profile: Annotated[
        str | None, typer.Option(help="A profile: adds the jobs and arrays it would become.")
    ] = None,
    store: Store = DEFAULT_STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Print what a sweep costs: runs and hours by method and dataset, from measured costs.

    Runs that are done cost nothing more; the rest is estimated from the records in the store and
    from those that the suite ships, which were made on one slow core.
    """
    sweep = find_sweep(name, store)
    states = look(store, sweep)
    todo = [run for run in sweep.runs if states.of(run).state != "done"]
    chosen = find_profile(profile) if profile else Profile("none")
    if as_json:
        print_json(_hours_values(store, todo, chosen, sweep.runs))
        return
    _print_hours(store, todo, chosen, sweep.runs)
    if profile:
        _print_arrays(make_arrays(todo, chosen, _array_size()), "to submit")


def _print_arrays(arrays: Sequence[Array], verb: str) -> None:
    """One line an array."""
    jobs = sum(len(array.jobs) for array in arrays)
    runs = sum(len(array.runs) for array in arrays)
    many = "array" if len(arrays) == 1 else "arrays"
    out.print(f"{runs} runs in {jobs} jobs, {len(arrays)} {many} {verb}", highlight=False)
    for number, array in enumerate(arrays):
        sizes = Counter(len(job) for job in array.jobs)
        packs = ", ".join(
            f"{count} of {size}" if len(sizes) > 1 else f"{size} run{'s' if size > 1 else ''} each"
            for size, count in sorted(sizes.items())
        )
        out.print(
            f"  array {number}: {len(array.jobs)} jobs ({'by runs: ' * (len(sizes) > 1)}{packs}), "
            f"{array.parallelism} at a time; {array.shape}",
            highlight=False,
            markup=False,
        )


def _hours_values(
    store: Path, todo: Sequence[RunSpec], profile: Profile, all_runs: Sequence[RunSpec]
) -> dict[str, Any]:
    """Runs and hours of each method and dataset, and their sums.

    Hours are None where one of the runs has no estimate; the sums then leave it out, and `unknown`
    counts such runs.
    """
    found = {r["run_id"]: r for place in (SHIPPED, store) for r in all_records(place)}
    records = list(found.values())
    costs = {device: Costs(records, device) for device in ("cpu", "cuda")}
    groups: dict[tuple[str, str], list[RunSpec]] = defaultdict(list)
    for run in all_runs:
        groups[run.method, run.dataset].append(run)
    left = {run.run_id for run in todo}
    rows = []
    sums: defaultdict[str, float] = defaultdict(float)
    unknown = 0
    for (method, dataset), runs in groups.items():
        device = profile.of(method).device.split(":")[0]
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
    return {"rows": rows, "to_do": len(todo), "hours_left": dict(sums), "unknown": unknown}


def _print_hours(
    store: Path, todo: Sequence[RunSpec], profile: Profile, all_runs: Sequence[RunSpec] = ()
) -> None:
    """A row for each method and dataset, and the sum."""
    values = _hours_values(store, todo, profile, all_runs or todo)
    table = Table(
        "method", "dataset", Column("runs", justify="right"), Column("to do", justify="right"),
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
    names = {"cpu": "CPU", "cuda": "GPU"}
    total = " and ".join(
        f"{h:.2f} {names.get(d, d)} hours" for d, h in values["hours_left"].items()
    )
    out.print(f"{len(todo)} runs to do, about {total or '0 hours'}", highlight=False)
    if values["unknown"]:
        out.print(
            f"{values['unknown']} of them are not counted: neither {store} nor the shipped records "
            f"hold one of their method on such a device. One seed of each gives the estimate.",
            highlight=False,
        )


def _hours(estimates: Sequence[Estimate]) -> float | None:
    """Their sum; None where one is unknown."""
    seconds = [e.seconds for e in estimates if e.seconds is not None]
    return sum(seconds) / 3600 if len(seconds) == len(estimates) else None


def _tell(died: dict[str, str], unwritten: dict[str, str]) -> None:
    for run, kind in died.items():
        err.print(f"{run}: {kind}", highlight=False, markup=False)
    for run, problem in unwritten.items():
        err.print(
            f"{run}: its job died, and its record cannot be written ({problem}). Make room and "
            f"run this again.",
            highlight=False,
            markup=False,
        )


def _array_size() -> int:
    try:
        return Scheduler().max_array_size()
    except Unreachable:
        return USUAL_ARRAY_SIZE
