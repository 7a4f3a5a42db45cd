"""Published numbers that the authors' own files can be held to, scored again: the rule.

The rule was written down before anything was scored. What authors published is fixed: a set, the
deviation that its candidates are drawn with, a policy. What is random in scoring it again are
students (or candidates, where the published number is the population's) and episodes, never the
published seeds: those are all there are. So the estimate is the mean over the published seeds of
the mean over at least `FEWEST_ROWS` students, its interval Student's t over the students within
each seed (Satterthwaite's degrees of freedom); of a deterministic policy only episodes are random.

The margin is a share of the published number, not the spread between the published seeds where that
is larger: it says how unlike the sets are, not how near their scores can be met again, and would
let a wrong score of sets that differ much count as reproduced.

One thing was learned from the authors' files after that. The code of their clone takes the last
episode's return on MinAtar; but the fitness of their last populations, times 8 environments, is not
a whole number, as returns there are. It is the mean over all steps ("latest"): that is compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import numpy as np

from benchmark.artefacts.score import FOLDER as SCORES
from benchmark.artefacts.score import ArtefactScore, stored_scores
from benchmark.datasets.d4rl_facts import d4rl_reference
from results.record_store import SHIPPED
from results.statistics import LEVEL, Estimate, mean, stratified

FOLDER = Path(__file__).with_name("published") / "files"
SHARE = 0.1
"""Share of a published return within which a score counts as equal. In the authors' own curves the
population's mean varies by 2 % of itself (median) over the last 20 generations, and between the
seeds of a cell by 7 %; and simulators have changed since."""
ACCURACY_MARGIN = 0.02
"""Accuracy within which two count as equal; a share of a tenth would be nine points."""
FEWEST_ROWS = 5
FRESH_INITIALIZATION = "_fixed_init"
AUTHORS_RULE = (
    f"Numbers that the authors' own files can be held to are judged on those files, scored again: "
    f"at least {FEWEST_ROWS} students of every published seed, by the authors' statistic, on the "
    f"population that they report; {100 * LEVEL:g} % interval over students within the seeds, "
    f"which are fixed; margin {100 * SHARE:g} % of a published return, {ACCURACY_MARGIN:g} of an "
    f"accuracy. Of the teachers only the episodes are random."
)


@dataclass(frozen=True)
class PublishedFile:
    """A file of the authors' repository, by facts.

    Args:
        name: Name of the artefact.
        dataset: Dataset or environment, as the papers' tables are kept.
        variant: Variant that the authors report, see `benchmark.artefacts.score.VARIANTS`.
        value: Score that the file states, in the paper's unit; None where it states none.
        sha256: Digest of the file.
    """

    name: str
    dataset: str
    variant: str
    value: float | None
    sha256: str


@cache
def published_files() -> dict[str, PublishedFile]:
    """Every file of the authors' repositories that can be scored, by the artefact's name."""
    return {
        name: PublishedFile(name, **facts)
        for path in sorted(FOLDER.glob("*.json"))
        for name, facts in json.loads(path.read_text("utf-8"))["files"].items()
    }


def published_teacher(sha256: str) -> PublishedFile | None:
    """The authors' policy whose file has this digest; None where it is none of theirs."""
    policies = (file for file in published_files().values() if file.variant == "policy")
    return next((file for file in policies if file.sha256 == sha256), None)


def files_of(pattern: str | None, dataset: str) -> tuple[str, ...]:
    """Names of the artefacts behind a published number; none without a pattern."""
    if pattern is None:
        return ()
    return tuple(
        name
        for name, file in published_files().items()
        if file.dataset == dataset and fnmatchcase(name, pattern)
    )


Scores = Mapping[tuple[str, str], ArtefactScore]
"""Scores by artefact and variant."""


def by_variant(scores: Sequence[ArtefactScore]) -> Scores:
    """The scores by artefact and variant."""
    return {(score.artefact, score.variant): score for score in scores}


def margin_of(value: float, dataset: str) -> float | None:
    """Margin of a published number; None for a normalized return, which has the suite's own."""
    if dataset.startswith("d4rl/"):
        return None
    return ACCURACY_MARGIN if dataset.startswith("images/") else SHARE * abs(value)


@dataclass(frozen=True)
class Rescored:
    """The authors' files behind a published number, scored again.

    Args:
        estimate: Mean over files of the mean over students, in the paper's unit.
        rows: Fewest students (episodes, for policies) of a file.
        reasons: Why it cannot be held against the number; empty where it can.
    """

    estimate: Estimate
    rows: int
    reasons: tuple[str, ...]


def rescored(artefacts: Sequence[str], scores: Scores) -> Rescored | None:
    """The estimate of a published number from scores of its files; None without any score.

    Args:
        artefacts: What `files_of` gives.
        scores: What `by_variant` gives.
    """
    rows: dict[str, list[float]] = {}
    reasons, images = [], 0
    for name in artefacts:
        file = published_files()[name]
        score = scores.get((name, file.variant))
        if score is None:
            score = scores.get((name, file.variant.removesuffix(FRESH_INITIALIZATION)))
            if score is None:
                reasons.append(f"no score of {name}")
                continue
            reasons.append(f"{name} with fresh initializations, not the authors' one")
        if score.file_sha256 != file.sha256:
            reasons.append(f"{name} scored from another file than the published one")
        rows[name] = _rows(score, file)
        images = score.images or 0
    if not rows:
        return None
    estimate = stratified(rows) if len(rows) > 1 else mean(next(iter(rows.values())))
    if images and estimate.has_interval:
        estimate = _of_sample(estimate, images)
    return Rescored(estimate, min(map(len, rows.values())), tuple(reasons))


def published_rows(score: ArtefactScore) -> list[float]:
    """The statistic of every row that authors publish, whatever the score was made for."""
    return score.by_row("latest" if score.environment.startswith("minatar/") else None)


def _rows(score: ArtefactScore, file: PublishedFile) -> list[float]:
    """The scores that count as independent, in the paper's unit."""
    if score.variant != "policy":
        return published_rows(score)
    reference = d4rl_reference(file.dataset.removeprefix("d4rl/"))
    first = [episodes[0] for row in score.returns for episodes in row]
    return [float(reference.normalise(value)) for value in first]


def _of_sample(estimate: Estimate, images: int) -> Estimate:
    """The interval of an accuracy on all images, from that on a sample of them."""
    sampling = 1.96 * math.sqrt(estimate.value * (1 - estimate.value) / images)
    half = float(np.hypot((estimate.high - estimate.low) / 2, sampling))
    low, high = estimate.value - half, estimate.value + half
    return Estimate(estimate.value, low, high, estimate.n, estimate.level, estimate.interval)


def scores_beside(store: Path) -> list[ArtefactScore]:
    """Scores of the authors' artefacts in a store; the suite's own where it has none.

    Raises:
        BadScore: One of them cannot be read.
    """
    return list(stored_scores(store if (store / SCORES).is_dir() else SHIPPED))
