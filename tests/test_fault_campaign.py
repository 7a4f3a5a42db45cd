"""The command lines of the fault campaign that found something, and how it counts faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Ended, command
from tests.fault_campaign import KEPT, SITUATIONS, Situation, fault, prepared

BY_WORDS = {situation.words: situation for situation in SITUATIONS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with prepared(tmp_path_factory.mktemp("campaign")) as folder:
        assert (folder / "runs" / "sweeps" / "tiny.json").is_file()
        yield folder


@pytest.fixture(autouse=True)
def record_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The campaign's store, which has the sweep, in place of a test's own."""
    monkeypatch.setenv("OBDBENCH_STORE", str(folder / "runs"))
    return folder / "runs"


@pytest.mark.parametrize("words", KEPT)
def test_what_found_a_fault_is_answered_with_a_sentence(words: str, folder: Path) -> None:
    situation = BY_WORDS[words]
    assert fault(command(*situation.arguments(folder)), situation) == ""


def test_no_situation_is_there_twice() -> None:
    assert len(BY_WORDS) == len(SITUATIONS) >= 79


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (Ended(1, "", "Error: no such thing. Try another."), ""),
        (Ended(0, "", "", "Traceback ...\nValueError: x"), "traceback: ValueError: x"),
        (Ended(1, "", "Traceback (most recent call last):\nKeyError: 'x'"), "traceback: KeyError"),
        (Ended(0, "done", ""), "status 0, expected"),
        (Ended(1, "", ""), "no message"),
        (Ended(1, "", "Error: something else"), "does not say 'such thing'"),
    ],
)
def test_a_fault_is_told_from_an_answer(ended: Ended, expected: str) -> None:
    said = fault(ended, Situation("kind", "words", "such thing"))
    assert said.startswith(expected)
    assert bool(said) == bool(expected)
