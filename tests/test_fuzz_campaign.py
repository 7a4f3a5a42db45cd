"""A short fuzz campaign finds nothing wrong, and would find what is."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmark.heartbeat import ALIVE, Sign, last_sign
from tests.commands import command
from tests.fuzz_campaign import KINDS, Damage, campaign, wrong


def test_an_attempt_on_every_kind_of_file_changes_no_number_unnoticed(tmp_path: Path) -> None:
    tallies = campaign(seed=1, count=len(KINDS), root=tmp_path)
    assert [tally.attempts for tally in tallies.values()] == [1] * len(KINDS)
    assert [text for tally in tallies.values() for text in tally.wrong] == []
    assert tallies["record"].named, "an altered record is named"


def test_a_changed_number_without_a_word_and_a_traceback_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def better(path: Path, kind: str, draw: random.Random) -> None:
        values = json.loads(path.read_text())
        values["score"]["normalized_return"] += 5.0
        path.write_text(json.dumps(values))

    monkeypatch.setattr("tests.fuzz_campaign.damage", better)
    monkeypatch.setattr("benchmark.record._pairs", lambda record, path: [])
    monkeypatch.setattr("benchmark.record.json_sha256", lambda values: "always this")
    found = campaign(seed=0, count=1, root=tmp_path / "a", kinds=("record",))["record"]
    assert any("the table differs without a word" in text for text in found.wrong)

    def overlooks(folder: Path) -> Sign | None:
        if (folder / ALIVE).exists() and (folder / ALIVE).read_bytes() == b"x":
            raise KeyError("an error that nobody expected")
        return last_sign(folder)

    monkeypatch.setattr("tests.fuzz_campaign.damage", lambda path, *_: path.write_bytes(b"x"))
    monkeypatch.setattr("results.record_store.last_sign", overlooks)
    found = campaign(seed=0, count=1, root=tmp_path / "b", kinds=("sign",))["sign"]
    assert any("KeyError: 'an error that nobody expected'" in text for text in found.wrong)


def test_every_way_to_damage_changes_something() -> None:
    ways = Damage(random.Random(0))
    content = b"some bytes of a file, as they were"
    assert sum(ways.bytes(content) != content for _ in range(100)) > 95
    values = {"a": [1, 2.5, "x"], "b": {"c": True, "d": None}}
    changed = [ways.json(json.loads(json.dumps(values))) for _ in range(100)]
    assert sum(repr(value) != repr(values) for value in changed) > 90


def test_an_error_that_escapes_is_told_from_a_status(tmp_path: Path) -> None:
    assert command("table", "none", "--store", tmp_path).status == 1
    assert wrong(command("no-such-command")) == "exit status 2"
