"""`obdbench submit-make | submit-check | leaderboard`: runs of others next to the shipped ones."""

from __future__ import annotations

import datetime
import random
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.errors import ObdBenchError
from obdbench import catalogue
from obdbench.cli.console import ERROR, err, out
from obdbench.cli.options import DEFAULT_STORE, Store, store_option

if TYPE_CHECKING:  # what a command works with is imported when it works, so that --help is quick
    from obdbench.face import Run


def submit_make(
    runs: Annotated[
        list[str], typer.Argument(help="Ids of runs, or of cells for all of their seeds.")
    ],
    to: Annotated[Path, typer.Option(help="Folder to write; a new one.")],
    who: Annotated[str, typer.Option(help="Your name, as the leaderboard shows it.")],
    what: Annotated[str, typer.Option(help="One sentence on what it is.")],
    contact: Annotated[str, typer.Option(help="E-mail address or URL.")] = "",
    method: Annotated[
        list[str] | None,
        typer.Option(help="name=sentence: a method of your own; repeatable."),
    ] = None,
    store: Store = DEFAULT_STORE,
) -> None:
    """Write runs as a submission to the leaderboard: records and the sets they count."""
    from results.leaderboard import write_submission
    from results.leaderboard_rules import About, is_built_in

    methods = {}
    for text in method or ():
        name, separator, sentence = text.partition("=")
        if not separator:
            raise ObdBenchError(f"--method {text!r} is not of the form name=sentence.")
        if is_built_in(name):
            raise ObdBenchError(
                f"--method {text!r} describes a method of the suite, which has its description: "
                f"obdbench list methods. Leave it out, or name a method of your own."
            )
        methods[name] = sentence
    today = datetime.datetime.now(datetime.UTC).date()
    about = About(who=who, date=today, what=what, contact=contact, methods=methods)
    found = [(run.record, run.folder) for name in runs for run in _runs_of(name, store)]
    own = sorted({record.spec.method for record, _ in found if not is_built_in(record.spec.method)})
    if unsaid := [name for name in own if name not in methods]:
        options = " ".join(f'--method "{name}=What it does, in a sentence."' for name in unsaid)
        raise ObdBenchError(
            f"Not among the suite's methods: {', '.join(unsaid)}. Say what it does, as the "
            f"leaderboard will show it: {options}"
        )
    submission = write_submission(to, about, found)
    out.print(f"{to}: {len(submission.records)} runs. Check it: obdbench submit-check {to}")


def _runs_of(name: str, store: Path) -> list[Run]:
    """A run; or every run of a cell, in the store or among the shipped ones."""
    from benchmark.record import FILE
    from obdbench.face import find_run
    from results.record_store import SHIPPED

    for place in (store, SHIPPED):
        if "/" not in name and (seeds := sorted((place / name).glob(f"seed*/{FILE}"))):
            return [find_run(str(path), store) for path in seeds]
    return [find_run(name, store)]


def submit_check(
    folder: Annotated[Path, typer.Argument(help="Folder of a submission.")],
    accept: Annotated[
        bool, typer.Option("--accept", help="Add it to the leaderboard of the store.")
    ] = False,
    rescore: Annotated[int, typer.Option(help="Runs to score again, drawn at random.", min=1)] = 1,
    store: Store = DEFAULT_STORE,
) -> None:
    """Check a submission to the leaderboard: files, records, sets, and some scores again.

    Nothing of it is executed or imported. Its datasets have to be in the local store.
    """
    from benchmark.datasets.catalog import load_dataset
    from benchmark.datasets.source import DatasetName
    from benchmark.record import FILE, record_folder
    from obdbench.verify import check_data
    from obdbench.verify import rescore as score_again
    from results.leaderboard import (
        Rescored,
        accept_submission,
        check_methods,
        check_new,
        own_copy,
        read_submission,
    )
    from results.leaderboard_rules import BadSubmission, naming
    from results.record_store import SHIPPED

    with own_copy(folder) as copy:
        submission = read_submission(copy)
        check_methods(submission, SHIPPED)
        check_new(submission, store)
        dataset_of = cache(lambda name: load_dataset(DatasetName.parse(name)))
        for record in submission.records:
            with naming(copy / record_folder(record.run_id) / FILE):
                check_data(record, dataset_of(record.spec.dataset))
        count = min(rescore, len(submission.records))
        found = {}
        for record in random.SystemRandom().sample(submission.records, count):
            place = copy / record_folder(record.run_id)
            again = score_again(record, place, dataset_of(record.spec.dataset))
            numbers = (
                f"recorded {again.recorded:.3f}, now {again.found:.3f}, tolerance "
                f"{again.tolerance:.1f}"
            )
            if again.verdict == "differs":
                raise BadSubmission(
                    f"{place}: its sets do not score what its record says: {numbers}."
                )
            out.print(f"{record.run_id}: {again.verdict}, {numbers}.")
            found[record.run_id] = Rescored(
                recorded=again.recorded, found=again.found, tolerance=again.tolerance
            )
        about = submission.about
        out.print(f"{about.who}, {about.date}: {about.what}")
        out.print(f"{len(submission.records)} runs follow the rules; {count} scored again.")
        if not accept:
            out.print("Nothing was added: --accept adds it to the leaderboard.")
            return
        accept_submission(submission, store, found)
    out.print(f"Added to the leaderboard: obdbench leaderboard{store_option(store)}")


def leaderboard(
    datasets: Annotated[
        list[str] | None, typer.Argument(help="Datasets to show; all by default.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder to write it to as Markdown, CSV and LaTeX.")
    ] = None,
    store: Store = DEFAULT_STORE,
) -> None:
    """Show the shipped runs and every submission that was accepted, by task and score."""
    for name in datasets or ():
        catalogue.check_words(("dataset",), [name])
    from benchmark.datasets.source import DatasetName
    from paper_figures.leaderboard_table import leaderboard as draw_up
    from results.leaderboard import accepted_submissions
    from results.record_store import SHIPPED, all_records

    submissions, damaged = accepted_submissions(store)
    wanted = [str(DatasetName.parse(name)) for name in datasets or ()]  # as records write them
    table = draw_up(all_records(SHIPPED), submissions, wanted)
    print(table.headed_text())
    if to is not None:
        for path in table.write(to, "leaderboard"):
            out.print(f"  {path}")
    for message in damaged:
        err.print(message)
    if damaged:
        raise typer.Exit(ERROR)
