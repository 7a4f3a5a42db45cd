"""Published numbers next to reproduced ones, with a verdict by a stated rule.

`published/*.json` holds the papers' tables. A published cell is compared with the records of the
same method and row: on the same dataset where there are any, else on a stand-in for it, else on the
suite's own dataset of the same environment and kind. Only the first can have a verdict; all are
shown in the paper's unit. Where the authors published what a number was measured on, and it was
scored again, that is what is compared (`results.author_files`).

"Not reproduced" would be a claim about a paper, so it is made only of what was tested at the
paper's settings: everything else is not tested, and the settings that differ are named.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark.artefacts.score import ArtefactScore
from benchmark.datasets.d4rl_facts import d4rl_names, d4rl_reference
from benchmark.datasets.dataset import ReferenceReturns
from benchmark.datasets.source import STAND_IN
from benchmark.errors import ObdBenchError
from benchmark.protocol import Protocol
from benchmark.record import Summary
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec
from results.author_files import (
    AUTHORS_RULE,
    FEWEST_ROWS,
    Scores,
    by_variant,
    files_of,
    margin_of,
    published_files,
    published_teacher,
    rescored,
)
from results.frames import made_of_several
from results.labels import cell_settings, flat
from results.statistics import LEVEL, Estimate, mean

FOLDER = Path(__file__).with_name("published")
MARGIN = 5.0
"""Points of normalized return within which two means count as equal. 26 of the 27 published pairs
of the same sets under two optimisers (OBD, Table 2 against Table 1) lie closer."""
FEWEST_SEEDS = 5
_PLAIN = StudentSpec()
UNSAID = {
    "student.name": _PLAIN.name,
    "student.activation": _PLAIN.activation,
    "student.output_gain": _PLAIN.output_gain,
    "student.gradient_clip": _PLAIN.gradient_clip,
    "student.schedule": _PLAIN.schedule,
    "protocol.actions": Protocol.actions,
    "protocol.leave_out": Protocol.leave_out,
}
"""Settings that no table of a paper states; they are these where it states others of their kind."""

AS_PUBLISHED = {name: f"{name}_published" for name in ("dbc", "pbc", "av_pbc")}
"""Methods whose gradient is corrected here, and the presets that run as the authors' code does: a
number of the paper is compared with the preset where it has records."""

READ_STATES_ONLY = ("pbc", "av_pbc", "sdw_obd", "teacher")
"""The papers' methods that read nothing of a dataset but its states, or nothing at all. Data that
stand in for D4RL's have such states, but other actions and rewards."""

PAPERS_TEACHER = "cal_ql_corl"
"""The recipe of the papers' teachers. What was imported as theirs counts too; `cal_ql` does not."""

Unit = Literal["normalized return", "return", "accuracy"]
Verdict = Literal["reproduced", "differs", "inconclusive", "like", "not tested"]
RULE = (
    f"Rule: reproduced, the {100 * LEVEL:g} % interval lies within {MARGIN:g} points of the "
    f"published number; differs, it lies outside; inconclusive, it does neither, or there are "
    f"fewer than {FEWEST_SEEDS} seeds; like, the same on data that stand in for the paper's, of a "
    f"method that reads states only; not tested, there is no record, or dataset, size, outer "
    f"steps, teacher, student or protocol are others (the first differences are named). All "
    f"numbers are in the paper's unit. D4RL's data, from v2 environments, are scored in v4 ones. "
    f"{AUTHORS_RULE}"
)
JUDGED: tuple[Verdict, ...] = ("reproduced", "differs", "inconclusive")
"""Verdicts of numbers that were tested."""


@dataclass(frozen=True)
class PublishedCell:
    """One number of a paper.

    Args:
        paper: Short name of its file, e.g. "obd".
        source: Citation of the paper.
        table: Table of the paper, e.g. "table1".
        row: Row of that table in the paper's words: a method, a size, an architecture.
        dataset: Name in the suite; "brax/hopper" where the suite has no such dataset.
        method: Name in the suite.
        value: Number in the paper's unit.
        unit: "normalized return", 0 for D4RL's random policy and 100 for its expert; "return"; or
            "accuracy".
        wanted: Values that make a run one of this row, by dotted setting.
        settings: Values that it must have besides, to be comparable.
        artefacts: Artefacts of the authors that the number was measured on, where it is known.
        statistic: What the number is, where it is not the score of a finished set: no run of the
            suite can be held against it, only scores of the artefacts.
    """

    paper: str
    source: str
    table: str
    row: str
    dataset: str
    method: str
    value: float
    unit: Unit
    wanted: Mapping[str, Any]
    settings: Mapping[str, Any]
    artefacts: tuple[str, ...] = ()
    statistic: str = ""


@dataclass(frozen=True)
class Comparison:
    """A published cell next to the nearest records.

    Args:
        published: Number of the paper.
        reproduced: Mean over seeds with its interval, in the paper's unit; None without records.
        dataset: Dataset of the records.
        verdict: One of the words of `RULE`.
        reasons: Settings that differ, and what else keeps it from a verdict.
        method: Method of the records; a preset may stand for the paper's method.
    """

    published: PublishedCell
    reproduced: Estimate | None
    dataset: str | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    method: str | None = None

    @property
    def difference(self) -> float | None:
        """Reproduced less published, in the paper's unit; None where the paper was not tested."""
        if self.reproduced is None or self.verdict == "not tested":
            return None
        return self.reproduced.value - self.published.value


def published_cells(folder: Path = FOLDER) -> list[PublishedCell]:
    """Read every number of the papers, in the order of files, tables, rows and datasets."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ObdBenchError(f"{folder} holds no published numbers; the installation is incomplete.")
    return [cell for path in paths for cell in _cells(path)]


def file_cells() -> list[PublishedCell]:
    """Read every score that a file of the authors states of itself; they are in no table."""
    return [
        PublishedCell(
            file.name.partition("/")[0], "the authors' files", "files", file.name, file.dataset,
            "hades", file.value, _unit(file.dataset), {}, {}, (file.name,),
        )
        for file in published_files().values()
        if file.value is not None
    ]  # fmt: skip


def compare(
    cells: Iterable[PublishedCell],
    records: Iterable[Summary],
    scores: Sequence[ArtefactScore] = (),
    *,
    seed: int = 0,
) -> list[Comparison]:
    """Compare each published cell with scores of what it was measured on, or the nearest records.

    Args:
        cells: What `published_cells` or `file_cells` gives.
        records: Records of any sweeps. Failed ones have no score, and a cell that has some is
            inconclusive, since what is left of it is not a fair sample.
        scores: Scores of the authors' artefacts.
        seed: Seed of the bootstrap's random draws.
    """
    scored = by_variant(scores)
    groups: dict[str, list[Summary]] = defaultdict(list)
    failed: Counter[str] = Counter()
    for record in records:
        if record.status == "complete":
            groups[record.cell_id].append(record)
        else:
            failed[record.cell_id] += 1
    return [
        _against_scores(cell, scored) or _compare(cell, groups.values(), failed, seed)
        for cell in cells
    ]


def published_training_steps(dataset: str) -> tuple[int, int] | None:
    """Gradient steps of BC on the whole data and on a synthetic set (OBD, Table 4).

    Args:
        dataset: Dataset of D4RL, or the suite's own of the same environment and kind.

    Returns:
        Both numbers of steps; None for a dataset that is not in the paper.
    """
    paper = json.loads((FOLDER / "obd.json").read_text("utf-8"))
    steps = {
        name: thousands
        for published, thousands in paper["steps_thousands"].items()
        for name in (published, own_analogue(published))
    }
    few = paper["tables"]["table1"]["settings"]["student"]["steps"]
    return (round(1000 * steps[dataset]), few) if dataset in steps else None


def own_analogue(dataset: str) -> str | None:
    """Name of the suite's own dataset of the same environment and kind: `hopper/medium`."""
    if not dataset.startswith("d4rl/"):
        return None
    environment, _, kind = dataset.removeprefix("d4rl/").removesuffix("-v2").partition("-")
    return f"{environment}/{kind}"


def d4rl_scale(dataset: str) -> ReferenceReturns | None:
    """D4RL's references for one of the suite's own datasets that stands next to one of D4RL's."""
    for name in d4rl_names():
        if own_analogue(f"d4rl/{name}") == dataset:
            return d4rl_reference(name)
    return None


def _cells(path: Path) -> Iterator[PublishedCell]:
    paper = json.loads(path.read_text("utf-8"))
    for table, content in paper["tables"].items():
        for row, values in content["values"].items():
            wanted, method = _row(content, row)
            for dataset, value in values.items():
                settings = flat("", content["settings"])
                settings |= _run_settings(paper, method, dataset)
                yield PublishedCell(
                    path.stem, paper["source"], table, row, dataset, method, value,
                    _unit(dataset), wanted,
                    {key: value for key, value in settings.items() if key not in wanted},
                    files_of(content.get("artefacts", {}).get(row), dataset),
                    content.get("statistic", ""),
                )  # fmt: skip


def _unit(dataset: str) -> Unit:
    if dataset.startswith("images/"):
        return "accuracy"
    return "normalized return" if dataset.startswith("d4rl/") else "return"


def _run_settings(paper: Mapping[str, Any], method: str, dataset: str) -> dict[str, Any]:
    """Settings that a paper states for a method on a dataset, in all of its tables."""
    environment = dataset.partition("/")[2].partition("-")[0]
    steps = paper.get("outer_steps", {}).get(method, {}).get(environment)
    teacher = paper.get("teacher", {}).get(method)
    training = paper.get("steps_thousands", {}).get(dataset) if method == "bc_whole" else None
    return {
        **({"steps": round(1000 * training)} if training else {}),
        **({"outer_steps": steps} if steps else {}),
        **({"teacher": teacher} if teacher else {}),
    }


def _row(content: Mapping[str, Any], row: str) -> tuple[dict[str, Any], str]:
    """Settings that make a run belong to a row, and the row's method."""
    ensemble = content["settings"].get("protocol", {}).get("ensemble", 1)
    wanted: dict[str, Any] = {"protocol.ensemble": ensemble}
    match content["vary"]:
        case "evaluation_student":
            wanted |= {f"evaluation_student.{k}": v for k, v in content["rows"][row].items()}
            return wanted, content["method"]
        case "synthetic_size":
            return wanted | {"synthetic_size": int(row)}, content["method"]
        case _:
            return wanted, row


def _against_scores(cell: PublishedCell, scores: Scores) -> Comparison | None:
    """A cell next to scores of what the authors published; None where there are none."""
    found = rescored(cell.artefacts, scores)
    if found is None:
        return None
    verdict: Verdict = "not tested"
    if not found.reasons:
        margin = margin_of(cell.value, cell.dataset)
        enough = found.rows >= FEWEST_ROWS
        verdict = _verdict(cell.value, found.estimate, enough, MARGIN if margin is None else margin)
    files = len(cell.artefacts)
    on = f"{files} of the authors' files" if files > 1 else "the authors' file"
    return Comparison(cell, found.estimate, on, verdict, found.reasons, cell.method)


def _compare(
    cell: PublishedCell, groups: Iterable[list[Summary]], failed: Mapping[str, int], seed: int
) -> Comparison:
    datasets = _datasets(cell.dataset)
    found = [
        (_reasons_of_all(cell, group), group)
        for group in groups
        if group[0].spec.dataset in datasets and _is_row(cell, group[0])
    ]
    if not found:
        return Comparison(cell, None, None, "not tested", ("no record",))
    # The same dataset first, then the fewest differences, then as published, then the most seeds.
    differences, group = min(
        found,
        key=lambda pair: (
            datasets.index(pair[1][0].spec.dataset),
            len(pair[0]),
            pair[1][0].spec.method == cell.method and cell.method in AS_PUBLISHED,
            -len(pair[1]),
            pair[1][0].cell_id,
        ),
    )
    first = group[0].spec
    estimate = mean([_in_unit(cell, record) for record in group], seed=seed)
    if differences:
        verdict: Verdict = "not tested"
    else:
        margin = margin_of(cell.value, cell.dataset)
        lost = failed.get(group[0].cell_id, 0)
        enough = len(group) >= FEWEST_SEEDS and not lost
        verdict = _verdict(cell.value, estimate, enough, MARGIN if margin is None else margin)
        if lost:
            differences = (f"{lost} of {lost + len(group)} runs failed",)
        if first.dataset.startswith(STAND_IN):
            differences = (f"stand-in data; by itself {verdict}", *differences)
            verdict = "like"
    return Comparison(cell, estimate, first.dataset, verdict, differences, first.method)


def _datasets(published: str) -> list[str]:
    """Datasets whose records may be shown next to a published number, the nearest first."""
    if not published.startswith("d4rl/"):
        return [published]
    name = published.removeprefix("d4rl/")
    return [published, STAND_IN + name, str(own_analogue(published))]


def _in_unit(cell: PublishedCell, record: Summary) -> float:
    """A record's score in the unit of the published number.

    The suite's own datasets are normalised by other references than D4RL's, so that a score there
    is another number for the same return; so may be D4RL's data that a user imported with others.
    """
    score = record.mean_score
    if cell.unit == "return":
        return score.return_
    if not cell.dataset.startswith("d4rl/"):
        return score.normalized_return
    reference = d4rl_reference(cell.dataset.removeprefix("d4rl/"))
    return float(reference.normalise(score.return_))


def _verdict(published: float, found: Estimate, enough: bool, margin: float) -> Verdict:
    if not enough or not found.has_interval:
        return "inconclusive"
    if published - margin <= found.low and found.high <= published + margin:
        return "reproduced"
    if found.low > published + margin or found.high < published - margin:
        return "differs"
    return "inconclusive"


def _is_row(cell: PublishedCell, record: Summary) -> bool:
    """Whether a run has the cell's method and the settings of its row."""
    if record.spec.method not in (cell.method, AS_PUBLISHED.get(cell.method)):
        return False
    has = settings_of(record.spec, record.parameters)
    changes = {k for k in cell.wanted if k.startswith("evaluation_student.")}
    changed = {k for k in has if k.startswith("evaluation_student.")}
    return changes == changed and all(has.get(k, v) == v for k, v in cell.wanted.items())


def _reasons_of_all(cell: PublishedCell, group: Sequence[Summary]) -> tuple[str, ...]:
    """List the differences of any record of a cell, and what its records do not share."""
    mixed = [f"its seeds have {count} {what}" for what, count in made_of_several(group).items()]
    reasons = [reason for record in group for reason in _reasons(cell, record)]
    return (*mixed, *dict.fromkeys(reasons))


def _reasons(cell: PublishedCell, record: Summary) -> tuple[str, ...]:
    """List the differences that make a record not comparable."""
    reasons, dataset = [], record.spec.dataset
    if cell.statistic:
        reasons.append(f"the paper's number is {cell.statistic}, a run's the score of its set")
    if dataset != cell.dataset and not dataset.startswith(STAND_IN):
        environment = record.provenance.environment
        reasons.append(f"the suite's own {dataset} ({environment}), not D4RL")
    if dataset.startswith(STAND_IN) and cell.method not in READ_STATES_ONLY:
        reasons.append(
            f"{cell.method} reads actions or rewards, and {dataset} has others than D4RL"
        )
    has = settings_of(record.spec, record.parameters)
    if record.spec.method == AS_PUBLISHED.get(cell.method):
        # The published head, two scalars of which are trained: not a difference from the paper.
        has["student.head"] = str(has["student.head"]).removesuffix("_trained")
    if record.spec.method in AS_PUBLISHED.values():
        has["protocol.leave_out"] = Protocol.leave_out  # the authors' code leaves out some
    if cell.settings.get("teacher") == PAPERS_TEACHER:
        has["teacher"], other_training = _as_papers_teacher(has["teacher"], record)
        reasons += other_training
    reasons += [
        f"{key} {has[key]}, not {value}"
        for key, value in cell.settings.items()
        if key in has and has[key] != value
    ]
    # What the paper's tables do not state is its text's, whose values are the defaults.
    stated = {key.partition(".")[0] for key in cell.settings}
    reasons += [
        f"{key} {has[key]}, not the default"
        for key, default in UNSAID.items()
        if key.partition(".")[0] in stated
        and key not in {**cell.settings, **cell.wanted}
        and has[key] != default
    ]
    reasons += [
        f"{key} {value}, not the default"
        for key, value in record.spec.parameters.items()
        if key not in cell.settings and key not in cell.wanted
    ]
    return tuple(reasons)


def _as_papers_teacher(name: str, record: Summary) -> tuple[str, list[str]]:
    """The name that a teacher counts as, and the differences of its training from the papers'."""
    from benchmark.teachers.teacher import TEACHERS  # here: it imports torch
    from benchmark.teachers.teacher_files import AUTHORS, stood_for

    if name == AUTHORS:
        return PAPERS_TEACHER, _not_published(record, stood_for(record.spec.dataset))
    if name != PAPERS_TEACHER:
        return name, []
    if record.spec.dataset.startswith(STAND_IN):
        return name, [f"teacher {name} trained on {record.spec.dataset}, not on D4RL's data"]
    trained = record.teacher.parameters if record.teacher else {}
    if not trained:
        return name, [f"teacher {name} of settings that the record does not tell"]
    default = asdict(TEACHERS[PAPERS_TEACHER]())
    return name, [
        f"teacher.{key} {value}, not {default[key]}"
        for key, value in trained.items()
        if key in default and value != default[key] and key != "report_every"
    ]


def _not_published(record: Summary, dataset: str) -> list[str]:
    """The difference of an imported teacher from the one that was published for a dataset."""
    sha256 = record.teacher.checkpoint_sha256 if record.teacher else None
    if sha256 is None:  # records of earlier versions do not tell it
        return []
    published = published_teacher(sha256)
    if published is None:
        return [f"teacher of a checkpoint (sha256 {sha256[:16]}) that no author published"]
    return [] if published.dataset == dataset else [f"teacher published for {published.dataset}"]


def settings_of(spec: RunSpec, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a run by dotted name, the way papers state them: no seed of the teacher."""
    found = cell_settings(spec, parameters)
    found.pop("protocol.name", None)  # it stands for its numbers
    teacher = str(found["teacher"]).partition(":")[0]
    return {**found, "teacher": teacher}
