"""`obdbench verify | export`: repeat a recorded run, or hand out its set."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmark.datasets.source import DatasetName
from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.record import FILE, Record, check_set, read_record, record_folder
from obdbench.cli.console import out, progress_bar
from obdbench.cli.data import build_if_missing
from obdbench.cli.stores import DEFAULT_STORE, Store
from obdbench.export import FORMATS, export_set
from obdbench.verify import verify as verify_record
from results.shipping import SHIPPED

Run = Annotated[str, typer.Argument(help="Id of a run, or its folder.")]


def verify(run: Run, store: Store = DEFAULT_STORE) -> None:
    """Repeat a recorded run from its own spec and say whether the numbers hold.

    On the same processor, versions and threads they must be the same to the last bit; elsewhere the
    scores must agree within three standard errors.
    """
    _, record = find_run(run, store)
    build_if_missing(DatasetName.parse(record.spec.dataset))
    with (
        tempfile.TemporaryDirectory() as folder,
        progress_bar(record.run_id, "steps", 1.0) as bar,
    ):
        found = verify_record(
            record, Path(folder), lambda _, step, total: bar.update(step / max(total, 1))
        )
    for change in found.changed:
        out.print(f"changed: {change}", highlight=False, markup=False)
    out.print(
        f"{record.run_id}: {found.verdict}. Recorded {found.recorded:.3f}, now {found.found:.3f}"
        + ("" if found.verdict == "exact" else f"; tolerance {found.tolerance:.1f}")
        + ".",
        highlight=False,
    )
    if found.verdict == "differs":
        raise typer.Exit(1)


def export(
    run: Run,
    format_: Annotated[str, typer.Option("--format", help=", ".join(FORMATS))] = "npz",
    to: Annotated[str | None, typer.Option(help="A file, or the id of a Minari dataset.")] = None,
    store: Store = DEFAULT_STORE,
) -> None:
    """Write a run's last synthetic set in a format that others read."""
    folder, record = find_run(run, store)
    sets = [checkpoint for checkpoint in record.checkpoints if checkpoint.synthetic_set]
    method = record.spec.method
    if not sets:
        raise ObdBenchError(
            f"{record.run_id} has no synthetic set: {method} "
            f"{'failed' if record.status == 'failed' else 'gives a policy'}."
        )
    default = f"{record.run_id}.{format_}"
    if format_ == "minari":
        default = f"obdbench/{method.replace('_', '-')}-v0"
    source = check_set(record, sets[-1], folder)
    out.print(export_set(source, format_, to or default), highlight=False)


def find_run(run: str, store: Path) -> tuple[Path, Record]:
    """Find the folder and record of a run: in the store, among the shipped ones, or by its path.

    Raises:
        ObdBenchError: There is none; the message has the nearest ids.
    """
    path = Path(run)
    folders = [path, path.parent] if path.exists() else []
    if "." in run and "/" not in run:
        folders += [store / record_folder(run), SHIPPED / record_folder(run)]
    for folder in folders:
        if (folder / FILE).is_file():
            return folder, read_record(folder / FILE)
    known = [
        f"{p.parent.parent.name}.{p.parent.name}"
        for place in (store, SHIPPED)
        for p in place.glob(f"*/seed*/{FILE}")
    ]
    raise ObdBenchError(f"No run {run!r} has a record in {store}. {did_you_mean(run, known)}")
