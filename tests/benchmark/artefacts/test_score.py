"""Scores of artefacts: what they hold, and which files are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmark.artefacts.score import (
    ArtefactScore,
    BadScore,
    read_score,
    row_statistic,
    score_path,
    stored_scores,
    write_score,
)
from benchmark.artefacts.scoring import with_means
from benchmark.files import json_sha256
from benchmark.record import Origin

ORIGIN = Origin(
    commit="0" * 40, dirty=False, packages={"torch": "2"}, python="3.11", device="cpu (x)",
    host="here", threads=1,
)  # fmt: skip


def score(**changes: Any) -> ArtefactScore:
    """The score of two students in two environments each."""
    values: dict[str, Any] = {
        "artefact": "hades/brax/hopper/D2/seed0",
        "file": "results/x.pkl",
        "file_sha256": "a" * 64,
        "tensors_sha256": "b" * 64,
        "environment": "brax/hopper",
        "variant": "population",
        "student": {"width": 8},
        "actions": "sampled",
        "normalization": "nothing",
        "statistic": "ended",
        "horizon": 10,
        "seed": 0,
        "returns": [[[1.0, 2.0], [6.0]], [[4.0], [8.0, 100.0]]],
        "lengths": [[[3, 4], [9]], [[10], [5, 6]]],
        "score": 0.0,
        "first": 0.0,
        "wall_seconds": 1.0,
        "cpu_seconds": 0.5,
        "origin": ORIGIN,
        "finished": "2026-11-30T04:00:00+00:00",
    }
    return with_means(ArtefactScore(**values | changes))


def test_statistics_follow_from_episodes_and_the_horizon() -> None:
    one = score()
    assert one.by_row() == [3.0, 6.0]  # of the last environment the second episode ended too late
    assert one.by_row("first") == [3.5, 6.0]
    assert one.by_row("last") == [4.0, 6.0]
    assert (one.score, one.first) == (4.5, 4.75)
    # 4 steps of 1, 4 of 2 (from its end, step 7, to step 10) and 2 of 6; 1 step of 4, 6 of 8
    assert one.by_row("latest") == [(4 * 1 + 4 * 2 + 2 * 6) / 20, (1 * 4 + 6 * 8) / 20]
    assert row_statistic("last", [[[5.0][0]], [9.0]], [[11], [2]], 10) == 4.5  # 0 where none ended


def test_a_score_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = score()
    path = write_score(tmp_path, written)
    assert path == score_path(tmp_path, written.artefact, "population")
    assert read_score(path) == written
    assert list(stored_scores(tmp_path)) == [written]
    assert list(stored_scores(tmp_path / "nothing")) == []


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.__setitem__(key, value)


ALTERED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a mean": (_set("score", 9.0), "contradicts itself"),
    "the first": (_set("first", 9.0), "contradicts itself"),
    "a return": (lambda v: v["returns"][0][0].__setitem__(0, 7.0), "contradicts itself"),
    "an episode less": (lambda v: v["lengths"][0][0].pop(), "other numbers of episodes"),
    "no episode": (lambda v: (v["returns"][0].append([]), v["lengths"][0].append([])), "without"),
    "no student": (_set("returns", []), "does not follow"),
    "an unknown field": (_set("note", "x"), "unknown field"),
    "a missing field": (lambda v: v.pop("seed"), "seed"),
    "another type": (_set("horizon", "10"), "horizon"),
    "a length of 0": (lambda v: v["lengths"][0][0].__setitem__(0, 0), "does not follow"),
    "another version": (_set("schema", "obdbench.artefact_score/2"), "has schema"),
    "a variant": (_set("variant", "best"), "variant"),
    "an accuracy without images": (_set("unit", "accuracy"), "images"),
    "another artefact": (_set("artefact", "hades/brax/hopper/D2/seed1"), "was moved"),
    "a sha256": (_set("file_sha256", "c"), "file_sha256"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_score_is_refused(tmp_path: Path, what: str) -> None:
    change, expected = ALTERED[what]
    path = write_score(tmp_path, score())
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(BadScore):  # by its digest at the latest
        read_score(path)
    values.pop("sha256")
    path.write_text(json.dumps({**values, "sha256": json_sha256(values)}))
    with pytest.raises(BadScore, match=expected):  # and with a digest that fits
        read_score(path)


def test_what_is_no_score_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = write_score(tmp_path, score())
    whole = path.read_text()
    for content in (whole[:-9], "[]", "null", "", "{" * 10_000, whole.replace("4.5", "NaN")):
        path.write_text(content)
        with pytest.raises(BadScore, match="Move it away"):
            read_score(path)
    with path.open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(BadScore, match="at most"):
        read_score(path)
    path.unlink()
    with pytest.raises(BadScore, match="cannot be read"):
        read_score(path)


def test_a_score_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    path = write_score(tmp_path, score())
    moved = path.with_name("set.json")
    shutil.move(path, moved)
    with pytest.raises(BadScore, match="was moved"):
        read_score(moved)


def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    for one in (score(horizon=2), msgspec.structs.replace(score(), wall_seconds=float("nan"))):
        with pytest.raises((BadScore, ValueError)):
            write_score(tmp_path, one)
    assert not list(tmp_path.rglob("*.json"))
