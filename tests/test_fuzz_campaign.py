"""A short fuzz campaign finds nothing wrong, and one on a store without digests would."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.fuzz_campaign import KINDS, Damage, campaign, command


def test_two_attempts_on_every_kind_of_file_change_no_number_unnoticed(tmp_path: Path) -> None:
    tallies = campaign(seed=1, count=2 * len(KINDS), root=tmp_path)
    assert sum(tally.attempts for tally in tallies.values()) == 2 * len(KINDS)
    assert [text for tally in tallies.values() for text in tally.wrong] == []
    assert tallies["record"].named, "an altered record is named"


def test_a_changed_number_without_a_word_and_a_traceback_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("results.record_store.BadRecord", ZeroDivisionError)  # nothing catches it
    monkeypatch.setattr("benchmark.record.json_sha256", lambda values: "always this")
    tallies = campaign(seed=0, count=8, root=tmp_path, kinds=("record",))
    assert any("BadRecord" in text for text in tallies["record"].wrong)


def test_every_way_to_damage_changes_something() -> None:
    ways = Damage(random.Random(0))
    content = b"some bytes of a file, as they were"
    assert sum(ways.bytes(content) != content for _ in range(100)) > 95
    values = {"a": [1, 2.5, "x"], "b": {"c": True, "d": None}}
    changed = [ways.json(json.loads(json.dumps(values))) for _ in range(100)]
    assert sum(repr(value) != repr(values) for value in changed) > 90


def test_an_error_that_escapes_is_told_from_a_status(tmp_path: Path) -> None:
    assert command("table", "none", "--store", tmp_path).status == 1
    assert "exit status 2" in command("no-such-command").wrong
