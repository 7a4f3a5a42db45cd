"""Scores of published artefacts: a record each, with every episode and none of the authors' arrays.

A reader may trust a score that `read_score` gives: its content has the digest that it says, its
file lies where its artefact and variant say, and its means follow from its returns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from benchmark.errors import ObdBenchError
from benchmark.files import UnfitFile, json_sha256, read_small, write_atomic
from benchmark.names import check_name
from benchmark.record import DIGEST, Origin, Time

SCHEMA = "obdbench.artefact_score/1"
FOLDER = "artefacts"
"""Folder of scores in a store."""

Variant = Literal["set", "population", "policy", "set_fixed_init", "population_fixed_init"]
Statistic = Literal["ended", "latest", "last", "first", "accuracy"]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]

VARIANTS = {
    "set": "the set itself, fresh initializations",
    "population": "candidates around the set or policy by the strategy's deviation, as published",
    "policy": "the policy itself",
    "set_fixed_init": "the set itself, the authors' one initialization",
    "population_fixed_init": "candidates around the set, the authors' one initialization",
}


class BadScore(ObdBenchError):
    """A score that does not follow the schema, contradicts itself, or is of another artefact."""


class ArtefactScore(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The score of one variant of an artefact.

    Args:
        schema: Format of the file.
        artefact: Name of the artefact, as `obdbench artefacts list` shows it.
        file: Path of the authors' file in their repository.
        file_sha256: Digest of that file.
        tensors_sha256: Digest of what was imported from it and scored.
        environment: Name in the suite: "brax/hopper", "Hopper-v4", "images/mnist".
        variant: What was scored, one of `VARIANTS`.
        student: Settings of the students, as `StudentSpec` has them; None for a policy.
        students_each: Students per row of `returns`, whose episodes count as one: the authors
            train so many per candidate.
        actions: Whether actions were sampled, or the most likely one taken.
        normalization: What observations were normalized by, in words.
        unit: Undiscounted return of an episode, or accuracy on images.
        statistic: The authors' statistic: mean of all episodes that "ended" within the horizon;
            of the "latest" one that had, over all steps of every environment, 0 before the first
            one had; of the "last" one of every environment that did, 0 where none did; of the
            "first" of every environment; or the "accuracy".
        horizon: Steps of every environment that the authors' statistic looks at; None for all.
        images: Number of images that an accuracy is over; None for returns.
        images_source: What those were read from.
        images_sha256: Digest of their pixels, then of their labels.
        seed: What all random numbers derive from, with the artefact's name and the variant.
        returns: Returns by row (student or candidate; seed for a policy), environment, episode.
        lengths: Steps of the same episodes.
        score: Mean over rows of the authors' statistic.
        first: Mean over rows of the first episode of every environment, whatever its length.
        wall_seconds: Time that it took; a share of it where several were scored at once.
        cpu_seconds: Processor time, likewise.
        origin: Where the numbers come from.
        finished: Time at which it was written, UTC.
    """

    schema: Literal["obdbench.artefact_score/1"] = "obdbench.artefact_score/1"
    artefact: str
    file: str
    file_sha256: Sha256
    tensors_sha256: Sha256
    environment: str
    variant: Variant
    student: dict[str, Any] | None
    students_each: Positive = 1
    actions: Literal["sampled", "mode"]
    normalization: str
    unit: Literal["return", "accuracy"] = "return"
    statistic: Statistic
    horizon: Positive | None = None
    images: Positive | None = None
    images_source: str | None = None
    images_sha256: Sha256 | None = None
    seed: Annotated[int, Meta(ge=0)]
    returns: Annotated[list[list[list[float]]], Meta(min_length=1)]
    lengths: list[list[list[Positive]]]
    score: float
    first: float
    wall_seconds: Seconds
    cpu_seconds: Seconds
    origin: Origin
    finished: Time

    def by_row(self, statistic: Statistic | None = None) -> list[float]:
        """A statistic of every row, the authors' by default."""
        statistic = statistic or self.statistic
        return [
            row_statistic(statistic, returns, lengths, self.horizon)
            for returns, lengths in zip(self.returns, self.lengths, strict=True)
        ]


def row_statistic(
    statistic: Statistic,
    returns: list[list[float]],
    lengths: list[list[int]],
    horizon: int | None,
) -> float:
    """A statistic of one row's episodes.

    Args:
        statistic: Which; see `ArtefactScore`.
        returns: Returns by environment and episode.
        lengths: Steps of the same episodes.
        horizon: Steps of an environment within which an episode must have ended.

    Returns:
        The statistic; NaN where no episode ended within the horizon and "ended" was asked for.
    """
    if statistic in ("first", "accuracy"):
        return float(np.mean([episodes[0] for episodes in returns]))
    most = math.inf if horizon is None else horizon
    within = [
        [r for r, end in zip(episodes, np.cumsum(steps), strict=True) if end <= most]
        for episodes, steps in zip(returns, lengths, strict=True)
    ]
    if statistic == "latest":
        return float(
            np.mean([_held(r, n, horizon or sum(n)) for r, n in zip(returns, lengths, strict=True)])
        )
    if statistic == "last":
        return float(np.mean([episodes[-1] if episodes else 0.0 for episodes in within]))
    ended = [r for episodes in within for r in episodes]
    return float(np.mean(ended)) if ended else math.nan


def _held(returns: list[float], lengths: list[int], horizon: int) -> float:
    """Mean over the steps 1 to the horizon of the return of the latest episode that had ended."""
    ends = np.minimum(np.cumsum(lengths), horizon + 1)
    until = np.append(ends[1:], horizon + 1)
    return float(np.dot(returns, until - ends) / horizon)


def score_path(store: Path, artefact: str, variant: str) -> Path:
    """File of a score in a store."""
    parts = [check_name("A part of the name of an artefact", p) for p in artefact.split("/")]
    return store.joinpath(FOLDER, *parts, f"{variant}.json")


def write_score(store: Path, score: ArtefactScore) -> Path:
    """Check and write a score; no reader ever sees half of it.

    Raises:
        BadScore: It contradicts itself, or holds a number that is not finite.
    """
    path = score_path(store, score.artefact, score.variant)
    values = msgspec.to_builtins(score)
    _check(_convert(values, path), path)
    values[DIGEST] = json_sha256(values)
    write_atomic(path, json.dumps(values, allow_nan=False) + "\n")
    return path


def read_score(path: Path) -> ArtefactScore:
    """A score that follows the schema and does not contradict itself.

    Raises:
        BadScore: It cannot be read, is of another version, was altered, or lies elsewhere than
            its artefact and variant say.
    """
    try:
        values = msgspec.json.decode(read_small(path))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, UnfitFile) as error:
        raise BadScore(f"{path} cannot be read as a score ({error}). {_AGAIN}") from error
    version = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(values, dict) or version != SCHEMA:
        raise BadScore(f"{path} has schema {version!r}; this version reads {SCHEMA!r}. {_AGAIN}")
    said = values.pop(DIGEST, None)
    score = _convert(values, path)
    if said != (found := json_sha256(values)):
        raise BadScore(
            f"{path} was altered: its content has sha256 {found[:16]}, it says {str(said)[:16]}. "
            f"{_AGAIN}"
        )
    _check(score, path)
    inside = score_path(Path(), score.artefact, score.variant)
    if path.parts[-len(inside.parts) :] != inside.parts:
        raise BadScore(f"{path} holds the score of {inside}: it was moved. {_AGAIN}")
    return score


def stored_scores(store: Path) -> Iterator[ArtefactScore]:
    """Read every score of a store, in the order of the paths."""
    for path in sorted((store / FOLDER).rglob("*.json")):
        yield read_score(path)


_AGAIN = "Move it away, and score the artefact again: obdbench artefacts score."


def _convert(values: dict[str, Any], path: Path) -> ArtefactScore:
    try:
        return msgspec.convert(values, ArtefactScore)
    except msgspec.ValidationError as error:
        raise BadScore(f"{path} does not follow {SCHEMA}: {error}. {_AGAIN}") from error


def _check(score: ArtefactScore, path: Path) -> None:
    """Hold a score's numbers against each other."""
    shapes = (_shape(score.returns), _shape(score.lengths))
    if shapes[0] != shapes[1] or not all(row and all(row) for row in shapes[0]):
        raise BadScore(
            f"{path} has returns and lengths of other numbers of episodes, or an environment "
            f"without one. {_AGAIN}"
        )
    if (score.unit == "accuracy") != (score.images is not None and score.statistic == "accuracy"):
        raise BadScore(f"{path} must say the images of an accuracy, and only of one. {_AGAIN}")
    for name, statistic in (("score", score.statistic), ("first", "first")):
        said, found = getattr(score, name), float(np.mean(score.by_row(statistic)))
        if not math.isclose(said, found, rel_tol=1e-9, abs_tol=1e-12):  # nor where one is NaN
            raise BadScore(
                f"{path} contradicts itself: its {name} is {said!r}, but {found!r} follows from "
                f"its returns. {_AGAIN}"
            )


def _shape(rows: list[list[list[Any]]]) -> list[list[int]]:
    return [[len(episodes) for episodes in row] for row in rows]
