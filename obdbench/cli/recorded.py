"""`obdbench verify | export`: repeat a recorded run, or write its set for others."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from obdbench.cli.console import out, progress_bar
from obdbench.cli.options import DEFAULT_STORE, Force, Store, check_free, check_no_folder

# What a command works with is imported when it works, so that --help is quick.

Run = Annotated[str, typer.Argument(help="Id of a run, or its folder.")]


def verify(run: Run, store: Store = DEFAULT_STORE) -> None:
    """Repeat a recorded run from its own spec and say whether the numbers hold.

    On the same processor, versions and threads they must be the same to the last bit; elsewhere the
    scores must agree within three standard errors.
    """
    from benchmark.datasets.source import DatasetName
    from obdbench.cli.data import build_if_missing
    from obdbench.face import check_sets, find_run
    from obdbench.verify import verify as verify_record

    found = find_run(run, store)
    record = found.record
    check_sets(found)
    _ = record.mean_score, record.spec.method_instance  # before data are built for nothing
    build_if_missing(DatasetName.parse(record.spec.dataset))
    with (
        tempfile.TemporaryDirectory() as folder,
        progress_bar(record.run_id, "steps", 1.0) as bar,
    ):
        result = verify_record(
            record, Path(folder), lambda _, step, total: bar.update(step / max(total, 1))
        )
    for change in result.changed:
        out.print(f"changed: {change}")
    out.print(
        f"{record.run_id}: {result.verdict}. Recorded {result.recorded:.3f}, now {result.found:.3f}"
        + ("" if result.verdict == "exact" else f"; tolerance {result.tolerance:.1f}")
        + ".",
    )
    if result.verdict == "undecided":
        out.print(
            "A score is of one policy: how far such scores spread elsewhere is not known. Run it "
            "where it was made, or compare several seeds."
        )
    if result.verdict in ("undecided", "differs"):
        raise typer.Exit(1)


def export(
    run: Run,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="npz, safetensors, csv or minari; by default what --to ends with, else npz.",
        ),
    ] = None,
    to: Annotated[str | None, typer.Option(help="A file, or the id of a Minari dataset.")] = None,
    force: Force = False,
    store: Store = DEFAULT_STORE,
) -> None:
    """Write a run's last synthetic set in a format that others read."""
    from obdbench.export import export_set, format_of, minari_id
    from obdbench.face import find_run, last_set

    kind = format_of(format_, to)
    found = find_run(run, store)
    default = minari_id(found.run_id) if kind == "minari" else f"{found.run_id}.{kind}"
    target = to or default
    if kind != "minari":
        check_no_folder(Path(target))
        check_free(Path(target), force, ", or --to for another file")
    out.print(export_set(last_set(found), kind, target))
