"""How a study is done: nothing that was measured is lost, nothing stale is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmark.files import json_sha256
from paper_figures.studies.study import STUDIES, NothingToStudy, Row, Study, perform
from results.stores import SHIPPED
from results.study_results import (
    BadStudyResult,
    NoStudy,
    read_result,
    result_path,
    study_frame,
    study_results,
)

MEASURED: list[str] = []
SOURCES: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Toy(Study):
    """Measures the length of a name."""

    shows: ClassVar[str] = "Lengths."
    factors: tuple[int, ...] = (1, 2)

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        return SOURCES

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        MEASURED.append(item)
        if source["sha256"] == "broken":
            raise KeyboardInterrupt
        return [{"factor": factor, "length": factor * len(item)} for factor in self.factors]


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(STUDIES._entries, "toy", Toy)
    MEASURED.clear()
    SOURCES.clear()
    SOURCES.update({name: {"sha256": "a"} for name in ("one/x", "three")})
    yield


def test_rows_come_back_with_their_item(tmp_path: Path) -> None:
    assert perform("toy", tmp_path) == (2, 2)
    frame = study_frame(study_results(tmp_path, "toy"))
    assert frame.to_dict("records") == [
        {"item": "one/x", "factor": 1, "length": 5},
        {"item": "one/x", "factor": 2, "length": 10},
        {"item": "three", "factor": 1, "length": 5},
        {"item": "three", "factor": 2, "length": 10},
    ]


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    perform("toy", tmp_path)
    assert perform("toy", tmp_path) == (0, 2)
    assert MEASURED == ["one/x", "three"]


def test_a_study_that_is_stopped_keeps_what_it_has(tmp_path: Path) -> None:
    SOURCES["three"] = {"sha256": "broken"}
    with pytest.raises(KeyboardInterrupt):
        perform("toy", tmp_path)
    assert [result.item for result in study_results(tmp_path, "toy")] == ["one/x"]
    SOURCES["three"] = {"sha256": "a"}
    assert perform("toy", tmp_path) == (1, 2)


def test_another_set_or_another_setting_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform("toy", tmp_path)
    SOURCES["three"] = {"sha256": "b"}
    assert perform("toy", tmp_path) == (1, 2)

    @dataclass(frozen=True)
    class Tripled(Toy):
        factors: tuple[int, ...] = (3,)

    monkeypatch.setitem(STUDIES._entries, "toy", Tripled)
    assert perform("toy", tmp_path) == (2, 2)


def test_another_version_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    perform("toy", tmp_path)
    monkeypatch.setattr(Toy, "version", 2)
    assert perform("toy", tmp_path) == (2, 2)


def test_an_item_that_is_no_more_is_put_aside_and_not_lost(tmp_path: Path) -> None:
    perform("toy", tmp_path)
    del SOURCES["three"]
    assert perform("toy", tmp_path) == (0, 1)
    assert [result.item for result in study_results(tmp_path, "toy")] == ["one/x"]
    assert result_path(tmp_path, "toy", "three").with_suffix(".json.old").exists()


def test_items_whose_names_differ_in_a_slash_have_a_file_each(tmp_path: Path) -> None:
    names = ("local/a/b", "local/a-b", "local-a/b", "local/a-b-c", "local/a/b-c", "local/a-b/c")
    SOURCES.clear()
    SOURCES.update({name: {"sha256": "a"} for name in names})
    assert perform("toy", tmp_path) == (len(names), len(names))
    assert {result.item for result in study_results(tmp_path, "toy")} == set(names)
    assert perform("toy", tmp_path) == (0, len(names))


def test_shipped_results_have_the_names_that_they_always_had() -> None:
    for path in SHIPPED.glob("studies/*/*.json"):
        item = read_result(path).item
        assert path == result_path(SHIPPED, path.parent.name, item)
        assert path.stem == item.replace("/", "-")


def test_results_that_were_not_measured_alike_are_not_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform("toy", tmp_path)
    path = result_path(tmp_path, "toy", "three")
    with_other_content(path, version=2)
    with pytest.raises(BadStudyResult, match=r"three\.json was measured with other settings"):
        study_results(tmp_path, "toy")


def test_a_study_of_nothing_says_so(tmp_path: Path) -> None:
    SOURCES.clear()
    with pytest.raises(NothingToStudy, match="nothing that the study toy could measure"):
        perform("toy", tmp_path)


def test_a_number_that_is_not_finite_is_refused_with_the_items_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "measure", lambda *_: [{"length": float("nan")}])
    with pytest.raises(BadStudyResult, match="one/x that is not finite"):
        perform("toy", tmp_path)
    assert not result_path(tmp_path, "toy", "one/x").exists()


def test_progress_names_the_item_that_comes_next(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    perform("toy", tmp_path, lambda *now: seen.append(now))
    assert seen == [(0, 2, "one/x"), (1, 2, "three")]


def test_a_store_without_results_says_which_command_makes_them(tmp_path: Path) -> None:
    with pytest.raises(NoStudy, match=f"obdbench study toy --store {tmp_path}$"):
        study_results(tmp_path, "toy")


@pytest.mark.parametrize(
    "content", ["{", "[]", "\xff", '{"schema": "x"}', '{"schema": "obdbench.study/1"}']
)
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = result_path(tmp_path, "toy", "three")
    path.parent.mkdir(parents=True)
    path.write_text(content, "latin-1")
    with pytest.raises(BadStudyResult, match=r"three\.json"):
        study_results(tmp_path, "toy")


def with_other_content(path: Path, **changed: Any) -> None:
    """Write a result with other values and the digest that belongs to them."""
    values = json.loads(path.read_text()) | changed
    values.pop("sha256", None)
    path.write_text(json.dumps(values | {"sha256": json_sha256(values)}))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rows": 5}, "Expected `array`, got `int`"),
        ({"rows": [1]}, "Expected `object`, got `int`"),
        ({"rows": [{}]}, "length >= 1"),
        ({"rows": [{"length": float("nan")}]}, "invalid"),
        ({"rows": [{"length": float("inf")}]}, "invalid"),
        ({"version": "1"}, "Expected `int`, got `str`"),
        ({"notes": ""}, "unknown field `notes`"),
        ({"item": "one/x"}, "it is that of 'one/x' of the study 'toy'"),
        ({"study": "fairness"}, "it is that of 'three' of the study 'fairness'"),
    ],
)
def test_a_result_that_is_damaged_is_refused_by_name(
    tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    perform("toy", tmp_path)
    path = result_path(tmp_path, "toy", "three")
    with_other_content(path, **changed)
    with pytest.raises(BadStudyResult, match=f"{path} cannot be read .*{re.escape(says)}"):
        study_results(tmp_path, "toy")


def test_a_result_that_was_altered_or_has_no_digest_is_refused(tmp_path: Path) -> None:
    perform("toy", tmp_path)
    path = result_path(tmp_path, "toy", "three")
    written, before = path.read_text(), study_results(tmp_path, "toy")
    path.write_text(written.replace('"length": 5', '"length": 6'))
    with pytest.raises(BadStudyResult, match=f"{path} .*altered"):
        study_results(tmp_path, "toy")
    values = json.loads(written)
    del values["sha256"]
    path.write_text(json.dumps(values))
    with pytest.raises(BadStudyResult, match=f"{path} .*no sha256 .*Remove it"):
        study_results(tmp_path, "toy")
    with_other_content(path)
    assert study_results(tmp_path, "toy") == before
    path.write_text(written)
    assert study_results(tmp_path, "toy") == before
    assert perform("toy", tmp_path) == (0, 2)


def test_every_study_says_what_it_shows() -> None:
    assert {
        "fairness", "misalignment", "multi_task", "privacy", "rendered_states", "state_density",
        "transfer",
    } <= set(STUDIES)  # fmt: skip
    for name in STUDIES:
        assert STUDIES[name].shows.endswith(".")
