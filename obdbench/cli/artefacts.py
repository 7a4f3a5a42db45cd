"""`obdbench artefacts`: import, list, score and draw what the papers' authors published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from benchmark.artefacts.artefact import (
    Artefact,
    ArtefactProblem,
    Found,
    OnFile,
    artefact_folder,
    load_artefact,
    load_card,
    store_artefacts,
    stored_names,
)
from benchmark.artefacts.hades import find_hades
from benchmark.artefacts.obd import find_sdr, find_teachers
from benchmark.artefacts.ppmo import find_ppmo
from benchmark.datasets.catalog import load_dataset, local_datasets
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.density.log_densities import IMPORTED, Fit, import_log_density
from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.spec import LARGEST_SEED
from benchmark.teachers.teacher_files import imported_path, imported_teachers
from obdbench.cli.console import err, out, print_json, progress_bar
from obdbench.cli.options import (
    DEFAULT_STORE,
    Force,
    Store,
    check_free,
    store_option,
)
from obdbench.cli.teacher import D4RL, measure_and_save, read_teacher

app = typer.Typer(
    help="What the papers' authors published: import, list, score, draw.", no_args_is_help=True
)

FEW_FILES = 3
SETS_AND_DENSITIES: dict[str, Callable[[Path, OnFile], Found]] = {
    "hades": find_hades,
    "ppmo": lambda folder, _: find_ppmo(folder),
    "sdr": lambda folder, _: find_sdr(folder),
}
TEACHERS = "obd"
EPISODES = 10
"""Episodes that an imported teacher is measured in."""

Stored = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of artefacts, instead of the one in the cache."),
]


@app.command(name="import")
def import_(
    source: Annotated[str, typer.Argument(help="Whose they are: hades, obd, sdr or ppmo.")],
    folder: Annotated[Path, typer.Argument(help="A clone of the authors' repository.")],
    store: Stored = None,
    episodes: Annotated[
        int | None,
        typer.Option(
            help="Episodes that each of obd's teachers is measured in; 10 by default.", min=1
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Import what authors published from a clone of their repository; no code of it is run.

    All of it is checked before anything is stored, with its source, sha256 and the authors' own
    settings. hades and ppmo are sets; sdr is log densities, which runs use where their dataset is
    here; obd is teachers, which runs find as `teacher import` names them.
    """
    if source == TEACHERS:
        if store is not None:
            raise ArtefactProblem(
                f"--store is not for {source}: teachers are written to the cache, where runs find "
                f"them. Leave it out, or set OBDBENCH_CACHE."
            )
        _import_teachers(folder, episodes or EPISODES, force)
        return
    if source not in SETS_AND_DENSITIES:
        known = [*SETS_AND_DENSITIES, TEACHERS]
        raise ArtefactProblem(
            f"There is no importer for artefacts of {source!r}. {did_you_mean(source, known)}"
        )
    if episodes is not None:
        raise ArtefactProblem(
            f"--episodes is not for {source}, of which nothing is played: it is for {TEACHERS}. "
            f"Leave it out."
        )
    store = store or artefact_folder()
    check_free(store / source, force, ", or --store for another folder")
    with progress_bar(f"Reading {folder}", "files", None) as bar:
        found = SETS_AND_DENSITIES[source](
            folder, lambda done, total: bar.update(done, total=total)
        )
    _say(found)
    if not found.artefacts:
        raise ArtefactProblem(f"Nothing in {folder} can be imported, and nothing was stored.")
    densities = found.artefacts if source == "sdr" else []
    data = [(artefact, _data_for(artefact, force)) for artefact in densities]
    store_artefacts(found.artefacts, source, store)
    kinds = Counter(_about(artefact.card) for artefact in found.artefacts)
    each = ", ".join(f"{count} x {about}" for about, count in kinds.items())
    err.print(f"{store / source}: {len(found.artefacts)} stored ({each}).")
    for artefact, dataset in data:
        if dataset is not None:
            import_log_density(folder / artefact.card["file"], dataset)
            err.print(f"Runs on {dataset.name} use its log densities by density {IMPORTED!r}.")


def _import_teachers(folder: Path, episodes: int, force: bool) -> None:
    """Read and measure every teacher of a clone, then write all of them."""
    paths, found = find_teachers(folder)
    for dataset in paths:
        check_free(imported_path(D4RL + dataset), force)
    teachers = {
        dataset: read_teacher(
            path,
            dataset,
            artefact=f"{TEACHERS}/{dataset}",
            artefact_file=path.relative_to(folder).as_posix(),
        )
        for dataset, path in paths.items()
    }
    _say(found)
    measure_and_save(teachers, episodes)


def _data_for(artefact: Artefact, force: bool) -> Dataset | None:
    """The dataset that log densities belong to, where it is here and runs may use them."""
    name = DatasetName.parse(artefact.card["dataset"])
    if name not in local_datasets():
        err.print(f"{name} is not in the local store: no run can use its log densities.")
        return None
    data, count = load_dataset(name), artefact.card["transitions"]
    if len(data) != count:
        err.print(
            f"{name} has {len(data):,} transitions here, its log densities are for {count:,}: no "
            f"run can use them."
        )
        return None
    path = Fit.of(IMPORTED).path(data)
    if path.exists() and not force:
        err.print(f"{path} exists already and was kept; --force replaces it.")
        return None
    return data


def _say(found: Found) -> None:
    for reason, files in found.left_out.items():
        shown = ", ".join(files[:FEW_FILES]) + (", ..." if len(files) > FEW_FILES else "")
        err.print(f"Left out {len(files)} files: {reason} ({shown}).")
    for note in found.notes:
        err.print(note)


def _about(card: Mapping[str, Any]) -> str:
    return str(card.get("dataset") or card["environment"])


@app.command()
def draw(
    names: Annotated[list[str], typer.Argument(help="Imported sets of images, in their order.")],
    to: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("paper"),
    artefacts: Annotated[
        Path | None, typer.Option(help="Folder of artefacts, instead of the one in the cache.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Store of the study; the suite's own by default.")
    ] = None,
) -> None:
    """Draw imported sets of images, and below them those of the study supervised_images.

    What authors published stays outside of this suite, so does a figure of it: it is yours.
    """
    from paper_figures.figure import write_formats
    from paper_figures.supervised_images import evolved_sets, image_sets
    from results.record_store import SHIPPED
    from results.study_results import NoStudy, study_frame, study_results

    sets = {}
    for name in names:
        artefact = load_artefact(name, artefacts)
        if not artefact.card["environment"].startswith("images/"):
            raise ArtefactProblem(
                f"{name} is for {artefact.card['environment']}, expected a set of images: "
                f"obdbench artefacts list has them."
            )
        sets[name] = artefact.tensors["observations"].numpy()
    try:
        sets |= evolved_sets(study_frame(study_results(store or SHIPPED, "supervised_images")))
    except NoStudy as error:
        err.print(f"Without the suite's own: {error}")
    for path in write_formats(image_sets(sets), to, "images"):
        out.print(str(path))


@app.command(name="list")
def list_artefacts(
    store: Stored = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List imported sets, log densities and teachers of authors."""
    folder = store or artefact_folder()
    cards, broken = _teachers(), {}
    for name in stored_names(folder):
        try:
            cards[name] = load_card(name, folder)
        except ObdBenchError as error:
            broken[name] = str(error)
    if as_json:
        print_json({"folder": str(folder), "artefacts": cards, "broken": broken})
        return
    table = Table(Column("artefact", no_wrap=True), "kind", "for", "size", "published score")
    for name, card in sorted(cards.items()):
        table.add_row(name, card["kind"], _about(card), _size(card), _score(card))
    for name, problem in broken.items():
        table.add_row(name, "", "", "", f"broken: {problem}")
    out.print(table)


@app.command()
def score(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names of imported artefacts, or what they begin with: obd."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every imported set and teacher.")] = False,
    paper_table: Annotated[
        bool, typer.Option("--paper-table", help="Those behind the numbers of the papers' tables.")
    ] = False,
    students: Annotated[
        int, typer.Option(help="Students of a set, or candidates of its population.", min=1)
    ] = 10,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Only this variant, e.g. population; repeatable. All by default."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of all random numbers.", min=0, max=LARGEST_SEED - 3)
    ] = 0,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Your own images, IDX files: mnist=FOLDER, fashion_mnist=FOLDER."),
    ] = None,
    artefacts: Annotated[
        Path | None, typer.Option(help="Folder of artefacts, instead of the one in the cache.")
    ] = None,
    store: Store = DEFAULT_STORE,
) -> None:
    """Score imported sets and teachers as their authors did, and say how that compares.

    What the papers' tables need comes first, the variant that authors report before the others. A
    score that is there is not made again: the same command goes on after any end. Sets for Brax and
    MinAtar need obdbench[jax].
    """
    from obdbench.artefact_scoring import (
        chosen,
        image_folders,
        left_to_score,
        of_the_papers,
        score_all,
        stated,
    )

    folder = artefacts or artefact_folder()
    wanted_names = chosen(names or (), folder)
    if all_ or paper_table:
        wanted_names += of_the_papers(folder)
    if all_:
        wanted_names += [*stored_names(folder), *_teachers()]
    if not wanted_names:
        raise ArtefactProblem(
            f"No artefact was named that is in {folder}. Name one, or give --all, after "
            f"`obdbench artefacts import hades FOLDER`."
        )
    folders = image_folders(images or ())
    wanted = left_to_score(
        list(dict.fromkeys(wanted_names)),
        variant or (),
        store,
        folder,
        folders,
        students,
        seed,
        err.print,
    )
    with progress_bar("Scoring", "batches", None) as bar:
        for done in score_all(
            wanted, students, seed, store, folder, folders,
            lambda part, total, name: bar.update(part, name, total=total),
        ):  # fmt: skip
            said = stated(done.artefact)
            beside = "" if said is None else f", the file states {said:,.6g}"
            err.print(f"{done.artefact} ({done.variant}): {done.score:,.6g}{beside}")
    out.print(
        f"{len(wanted)} scores were made. Verdicts: obdbench paper reproduction authors-files"
        f"{store_option(store)}"
    )


def _teachers() -> dict[str, dict[str, Any]]:
    """Facts of the teachers in the cache that were imported from a clone, by name."""
    return {
        name: {"kind": "teacher", "file": str(path), **teacher.facts}
        for name, (path, teacher) in imported_teachers().items()
    }


def _size(card: Mapping[str, Any]) -> str:
    if "pairs" in card:
        return f"{card['pairs']} pairs"
    return f"{card['transitions']:,} transitions" if "transitions" in card else ""


def _score(card: Mapping[str, Any]) -> str:
    published = card.get("published") or {}
    if published.get("train_accuracy") is not None:
        return f"train accuracy {published['train_accuracy']:.3f}"
    mean = published.get("mean_of_last_20_generations")
    return "" if mean is None else f"{mean:,.2f}"
