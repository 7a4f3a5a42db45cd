"""Which artefacts are scored in which order, in batches whose scores are written one after another.

A score that is in the store is not made again, so that the same call goes on from any end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import get_args

from benchmark.artefacts.artefact import ArtefactProblem, load_artefact, load_card, stored_names
from benchmark.artefacts.image_scores import score_images
from benchmark.artefacts.score import ArtefactScore, Variant, read_score, score_path, write_score
from benchmark.artefacts.scoring import Job, score_batch, score_teacher
from benchmark.errors import did_you_mean
from benchmark.images import CLASS_COUNTS, BadImages, load_images
from benchmark.teachers.teacher_files import imported_teachers
from results.author_files import published_files
from results.comparison import published_cells

SLOTS = 240
"""Environments of a batch: enough that a step's fixed cost is small, few enough for the memory."""
EPISODES, SEEDS = 100, (0, 1, 2)
"""Episodes per seed of a policy."""
OnProgress = Callable[[float, float, str], None]
"""Called with (batches that are done, all batches, what is being scored)."""
IMAGES = "images/"
SCORED = ("brax/", "minatar/", IMAGES)
"""Beginnings of the environments whose sets are scored."""


@dataclass(frozen=True)
class Wanted:
    """One variant of an artefact that has no score yet."""

    name: str
    variant: Variant


def chosen(names: Sequence[str], folder: Path) -> list[str]:
    """Names of imported artefacts that are named, or that begin with a name and "/".

    Raises:
        ArtefactProblem: A name is neither.
    """
    here = [*stored_names(folder), *imported_teachers()]
    found: dict[str, None] = {}
    for name in names:
        under = [one for one in here if one == name or one.startswith(f"{name.rstrip('/')}/")]
        if not under:
            source = name.partition("/")[0]
            raise ArtefactProblem(
                f"No artefact {name!r} was imported to {folder}. {did_you_mean(name, here)} Import "
                f"those of a clone with `obdbench artefacts import {source} FOLDER`."
            )
        found |= dict.fromkeys(under)
    return list(found)


def image_folders(texts: Sequence[str]) -> dict[str, Path]:
    """Folders of a user's own images by environment, from texts such as "mnist=FOLDER".

    Raises:
        ArtefactProblem: A text is of another form, or names no data set of images.
    """
    found = {}
    for text in texts:
        key, separator, folder = text.partition("=")
        if not (separator and folder and IMAGES + key in CLASS_COUNTS):
            raise ArtefactProblem(
                f"--images {text!r} does not name the folder of a data set; expected "
                f"{' or '.join(name.removeprefix(IMAGES) + '=FOLDER' for name in CLASS_COUNTS)}."
            )
        found[IMAGES + key] = Path(folder)
    return found


def of_the_papers(folder: Path) -> list[str]:
    """Imported artefacts behind the papers' tables, in the order of the tables."""
    here = {*stored_names(folder), *imported_teachers()}
    named = dict.fromkeys(name for cell in published_cells() for name in cell.artefacts)
    return [name for name in named if name in here]


def variants_of(facts: Mapping[str, object], *, teacher: bool = False) -> tuple[Variant, ...]:
    """The variants of an artefact by its card, the one that its authors report first."""
    if teacher:
        return ("policy",)
    if facts["kind"] == "policy":
        return ("population",)
    if facts.get("fixed_initialization"):
        return ("population_fixed_init", "set_fixed_init", "set")
    return ("population", "set")


def left_to_score(
    names: Sequence[str],
    variants: Sequence[str],
    store: Path,
    folder: Path,
    images: Mapping[str, Path],
    rows: int,
    seed: int,
    on_note: Callable[[str], None],
) -> list[Wanted]:
    """What has no score in a store yet, the variant that authors report before all others.

    Args:
        names: Names of artefacts, in their order.
        variants: Variants to score; all of an artefact's where empty.
        store: Store of the scores.
        folder: Folder of artefacts.
        images: Folders of the user's own images by environment, e.g. "images/mnist".
        rows: Students, or candidates, of a set that are asked for.
        seed: Seed that is asked for.
        on_note: Called with a sentence for what cannot be scored, and for scores that are there
            with others than these.

    Raises:
        ArtefactProblem: A score is there that was made from another file, or on other images.
        BadImages: The user's own images are damaged or of another data set.
        BadScore: A score that is there cannot be read.
    """
    if unknown := sorted(set(variants) - set(get_args(Variant))):
        raise ArtefactProblem(
            f"There is no variant {unknown[0]!r}. {did_you_mean(unknown[0], get_args(Variant))}"
        )
    teachers, ranked = imported_teachers(), list[tuple[int, Wanted]]()
    others, kept = dict[str, None](), Counter[str]()
    load = cache(load_images)  # once per data set, not per set
    for name in names:
        teacher = name in teachers
        facts = teachers[name][1].facts if teacher else load_card(name, folder)
        where = str(facts.get("environment"))
        kinds = ("set", "policy")
        if not teacher and not (facts["kind"] in kinds and where.startswith(SCORED)):
            others[f"a {facts['kind']} for {where} has no score of its authors' kind"] = None
            continue
        real = None
        if where.startswith(IMAGES):
            try:
                real = load(where, images.get(where))
            except BadImages as error:
                if where in images:  # that is what the user asked for
                    raise
                others[str(error)] = None
                continue
        for rank, variant in enumerate(variants_of(facts, teacher=teacher)):
            if variants and variant not in variants:
                continue
            path = score_path(store, name, variant)
            if not path.exists():
                ranked.append((rank, Wanted(name, variant)))
                continue
            there = read_score(path)
            if there.tensors_sha256 != facts["sha256"]:
                raise ArtefactProblem(
                    f"{path} is the score of another file than {name} was imported from now. Move "
                    f"it away, or name another --store."
                )
            if real is not None and there.images_sha256 != real.sha256:
                raise ArtefactProblem(
                    f"{path} is a score on other images ({there.images} from "
                    f"{there.images_source}) than {len(real)} from {real.source}. Move it away, or "
                    f"name another --store."
                )
            found = len(there.returns)  # a policy has a row per seed, whatever is asked for
            if there.seed != seed or (not teacher and found != rows):
                what = f"{found} seeds" if teacher else f"{found} students or candidates"
                kept[f"{what}, seed {there.seed}"] += 1
    for what in others:
        on_note(f"Not scored: {what}")
    for what, count in kept.items():
        on_note(
            f"Kept {count} scores that are there with {what}, not with what was asked for now. "
            f"Name another --store to have those too."
        )
    return [wanted for _, wanted in sorted(ranked, key=lambda pair: pair[0])]


def batches(
    wanted: Sequence[Wanted], rows: int, folder: Path, slots: int = SLOTS
) -> Iterator[list[Wanted]]:
    """Neighbours that can be scored at once, as many as a batch holds."""
    teachers = imported_teachers()

    @cache  # the key of a group and every size ask for it
    def job(one: Wanted) -> Job:
        return Job(load_artefact(one.name, folder), one.variant, rows)

    def alone(one: Wanted) -> bool:
        return one.name in teachers or load_card(one.name, folder)["environment"].startswith(IMAGES)

    def together(one: Wanted) -> object:
        return one if alone(one) else job(one).batch

    for _, group in groupby(wanted, key=together):
        batch: list[Wanted] = []
        used = 0
        for one in group:
            needed = slots if alone(one) else job(one).slots
            if batch and used + needed > slots:
                yield batch
                batch, used = [], 0
            batch.append(one)
            used += needed
        yield batch


def score_all(
    wanted: Sequence[Wanted],
    rows: int,
    seed: int,
    store: Path,
    folder: Path,
    images: Mapping[str, Path],
    on_progress: OnProgress,
) -> Iterator[ArtefactScore]:
    """Score batch by batch, and write each score as soon as its batch is done.

    Args:
        wanted: What `left_to_score` gives.
        rows: Students, or candidates, of a set.
        seed: Seed that all random numbers derive from.
        store: Store of the scores.
        folder: Folder of artefacts.
        images: Folders of the user's own images by environment, e.g. "images/mnist".
        on_progress: Called as the work goes on.
    """
    teachers, planned = imported_teachers(), list(batches(wanted, rows, folder))
    load = cache(load_images)
    for done, batch in enumerate(planned):
        first = batch[0].name

        def on_share(share: float, done: int = done, first: str = first) -> None:
            on_progress(done + share, len(planned), first)

        on_share(0)
        if first in teachers:
            _, teacher = teachers[first]
            scores = [score_teacher(first, teacher, EPISODES, [seed + i for i in SEEDS])]
        else:
            jobs = [Job(load_artefact(one.name, folder), one.variant, rows) for one in batch]
            where = jobs[0].artefact.card["environment"]
            if where.startswith(IMAGES):
                real, variant = load(where, images.get(where)), batch[0].variant
                scores = [
                    score_images(
                        jobs[0].artefact, real, variant, rows, seed,  # type: ignore[arg-type]
                        lambda student, on_share=on_share: on_share(student / rows),  # type: ignore[misc]
                    )
                ]  # fmt: skip
            else:
                scores = score_batch(jobs, seed, SLOTS, on_share)
        for score in scores:
            write_score(store, score)
            yield score


def stated(name: str) -> float | None:
    """The score that the authors' file states; None where it states none."""
    file = published_files().get(name)
    return file.value if file else None
