"""Sentences under a table or figure: how many seeds, which protocol, what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from results.labels import dataset_order
from results.statistics import LEVEL, Estimate

INTERVALS = {
    "t": "Student's t",
    "BCa": "BCa bootstrap",
    "percentile": "percentile bootstrap",
    "exact": "exact",
    "Wilson": "Wilson's",
}
"""How captions name the kinds of intervals (`results.statistics.Estimate`)."""
APART = (
    "the interval of the difference, paired by seed where both have the same seeds, holds 0 at a "
    "level corrected for the table's comparisons (Holm)"
)
"""What it means that two cells are not apart (`results.differences`)."""


MANY_STUDENTS = 4
"""From this number on, a caption counts the students and does not describe them."""


def percent(level: float) -> str:
    """Write a level as "95 %"."""
    return f"{100 * level:g} %"


def seeds(counts: Iterable[int]) -> str:
    """Write numbers of seeds as "3 seeds" or "1 to 3 seeds"; "no seeds" without any count."""
    found = sorted(set(counts))
    if not found:
        return "no seeds"
    if len(found) > 1:
        return f"{found[0]} to {found[-1]} seeds"
    return f"{found[0]} seed{'s' if found[0] != 1 else ''}"


def protocols(details: Iterable[str]) -> str:
    """Write "Protocol quick: 4 students x 10 episodes, last 3 checkpoints."."""
    found = sorted({detail for detail in details if detail})
    return f"Protocol {'; '.join(found)}." if found else "Protocol unknown: nothing has run."


def setting(runs: pd.DataFrame) -> str:
    """Write "Protocol quick: ... Student mlp 4x64, ..., 50 steps.", from runs or checkpoints."""
    return f"{protocols(runs['protocol_detail'])} {students(runs['student'])}"


def students(descriptions: Iterable[str]) -> str:
    """Write "Student: mlp 4x64, ..., 50 steps."; of many only how many they are."""
    found = sorted(set(descriptions))
    return (
        f"Student: {'; '.join(found) if len(found) < MANY_STUDENTS else f'{len(found)} different'}."
    )


def intervals(table: pd.DataFrame) -> str:
    """State what the intervals of a cell table are."""
    level = percent(float(table["level"].iloc[0]))
    done = table[table["n"] > 0]
    how = _kinds(done["interval"])
    text = f"Normalized return, mean over {seeds(done['n'])}"
    text += f" with {level} interval{how}." if how else "."
    if (done["n"] == 1).any():
        text += " n=1: a single seed has no interval, and no tie with it can be judged."
    return text


def spread(before: str, what: str, found: Iterable[Estimate], level: float = LEVEL) -> str:
    """Write " with 95 % band (Student's t)"; nothing where no estimate has an interval."""
    how = _kinds(one.interval for one in found)
    return f"{before} {percent(level)} {what}{how}" if how else ""


def _kinds(found: Iterable[str]) -> str:
    present = set(found)
    kinds = [text for kind, text in INTERVALS.items() if kind in present]
    return f" ({', '.join(kinds)})" if kinds else ""


def teachers(table: pd.DataFrame) -> str:
    """List every dataset's teacher with its own return; nothing where no method uses one.

    Of teachers of one name but of several files each has its own.
    """
    known = table[table["teacher_return"].notna()]
    parts = []
    groups = dict(list(known.groupby(["dataset", "teacher"], sort=True)))
    for dataset, teacher in sorted(groups, key=lambda key: (dataset_order(key[0]), key[1])):
        rows = groups[dataset, teacher]
        files = rows["teacher_sha256"].fillna("unknown")
        several = files.nunique() > 1
        own = [
            f"{mine['teacher_return'].mean():.1f} "
            f"(normalized {mine['teacher_normalized_return'].mean():.1f}"
            f"{f'; sha256 {sha256[:8]}' if several else ''})"
            for sha256, mine in rows.groupby(files if several else [""] * len(rows), sort=True)
        ]
        parts.append(f"{dataset} {', '.join(own)}, {teacher}")
    if parts:
        return f"Teacher's own return: {'; '.join(parts)}."
    return "Teacher's return unknown." if table["used"].str.contains("teacher").any() else ""


def several_files(table: pd.DataFrame) -> str:
    """Name what stands together and has teachers or densities of one name, but of several files.

    Args:
        table: Runs or cells; a fit on another processor, say, is another file.
    """
    parts = []
    for what in ("teacher", "density"):
        known = table[table[f"{what}_sha256"].notna()]
        for (dataset, name), mine in known.groupby(["dataset", what], sort=True):
            labels = mine.groupby(f"{what}_sha256")["label"].unique()
            if len(labels) > 1:
                whose = (f"{', '.join(sorted(found))} {sha[:8]}" for sha, found in labels.items())
                parts.append(f"{what} {name} on {dataset}: {'; '.join(sorted(whose))}")
    return f"One name, several files (sha256): {'. '.join(parts)}." if parts else ""


def settings_of_datasets(table: pd.DataFrame, *, teachers: bool = True) -> str:
    """Name the labels that have other settings on other datasets; nothing where none has.

    A mean over datasets is then one of several settings.

    Args:
        table: Runs or cells, with their label, dataset, settings and teacher.
        teachers: Whether teachers count; not where `teachers` lists them.
    """
    found: dict[str, list[str]] = {}
    for label, cells in table.drop_duplicates(["label", "dataset"]).groupby("label", sort=True):
        own = dict(zip(cells["dataset"], cells["settings"], strict=True))
        if teachers and cells["teacher"].nunique() > 1:
            for dataset, teacher in zip(cells["dataset"], cells["teacher"], strict=True):
                own[dataset] = ", ".join(filter(None, (own[dataset], f"teacher={teacher}")))
        if len(set(own.values())) > 1:
            found.setdefault(_by_dataset(own), []).append(str(label))
    parts = (f"{', '.join(labels)} with {what}" for what, labels in found.items())
    return f"Settings differ between datasets: {'; '.join(parts)}." if found else ""


def _by_dataset(settings: Mapping[str, str]) -> str:
    """Write "teacher=a on hopper/medium, teacher=b elsewhere": what most datasets have comes last.

    Args:
        settings: Settings by dataset, of which two differ.
    """
    where: dict[str, list[str]] = {}
    for dataset in sorted(settings, key=dataset_order):
        where.setdefault(settings[dataset], []).append(dataset)
    *fewer, (most, many) = sorted(where.items(), key=lambda item: len(item[1]))
    parts = [f"{what} on {', '.join(datasets)}" for what, datasets in fewer]
    return ", ".join([*parts, f"{most} {'elsewhere' if len(many) > 1 else f'on {many[0]}'}"])


def short_of_runs(runs: pd.DataFrame) -> str:
    """Name the methods of which runs failed or are missing; nothing where none did."""
    short = []
    for label, mine in runs.groupby("label", sort=True):
        done, failed = ((mine["status"] == word).sum() for word in ("complete", "failed"))
        if done < len(mine):
            how = f", {failed} failed" if failed else ""
            short.append(f"{label} {done} of {len(mine)}{how}")
    return f"Complete runs: {'; '.join(short)}." if short else ""


def missing(table: pd.DataFrame) -> str:
    """List every cell with fewer seeds than expected, and why as far as that is known."""
    short = table[table["n"] < table["n_expected"]]
    if short.empty:
        return "No expected run is missing or failed."
    return f"Missing: {'; '.join(_shortfall(row) for _, row in short.iterrows())}."


def _shortfall(row: pd.Series) -> str:
    text = f"{row['label']} on {row['dataset']} has {row['n']} of {row['n_expected']} seeds"
    absent = row["n_expected"] - row["n"] - row["n_failed"]
    reasons = [f"{row['n_failed']} failed: {row['errors']}"] if row["n_failed"] else []
    reasons += [f"{absent} without a record"] if absent > 0 else []
    return f"{text} ({', '.join(reasons)})"
