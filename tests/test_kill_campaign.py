"""A short kill campaign, and that the campaign sees what it looks for."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.record import FILE, read_record, write_record
from benchmark.run import run_folder
from tests import kill_campaign
from tests.kill_campaign import (
    KINDS,
    SUBREAPER,
    Kind,
    Reference,
    Tally,
    finish_and_compare,
    kill_at_file_operations,
    kill_at_random,
    prctl,
    several,
    show,
    undisturbed,
)
from tests.tiny_runs import altered


@pytest.fixture(scope="module")
def reference(
    small_dataset_name: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reference]:
    """Three runs of two outer steps; orphans come to this process meanwhile."""
    prctl(SUBREAPER, 1)
    yield undisturbed(several(steps=2), tmp_path_factory.mktemp("undisturbed"))
    prctl(SUBREAPER, 0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.begins], ids=str)
def test_killed_runs_end_with_the_numbers_of_undisturbed_ones(
    kind: Kind, reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally(reference.seconds / 2)
    kill_at_random(reference, kind, random.Random(str(kind)), tmp_path / "store", tally)
    assert show({str(kind): tally}), capsys.readouterr().out
    assert tally.records == 3


def test_a_kill_at_every_third_file_operation_changes_nothing(
    small_dataset_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, tally = undisturbed(several(steps=1)[:1], tmp_path / "undisturbed"), Tally()
    kill_at_file_operations(one, tmp_path / "killed", tally, every=3)
    assert tally.kills > 12
    assert show({"": tally}), capsys.readouterr().out


def test_the_campaign_sees_other_numbers_and_what_is_left(
    reference: Reference, tmp_path: Path
) -> None:
    """One outer step more, a byte of a set, and a file: the least that can differ."""
    store, tally = tmp_path / "store", Tally()
    shutil.copytree(reference.store, store)
    first, second = (run_folder(store, run) for run in reference.runs[:2])
    record = read_record(first / FILE)
    write_record(first / FILE, altered(record, cost__outer_steps=record.cost.outer_steps + 1))
    (set_file := second / "set-00000000.safetensors").write_bytes(set_file.read_bytes() + b" ")
    (second / "alive.json").touch()
    finish_and_compare(reference, "broken", store, tally)
    assert tally.differences == [
        f"broken: {reference.runs[0].run_id}: cost.outer_steps differs",
        f"broken: {reference.runs[1].run_id}: the bytes of its sets differ",
    ]
    assert tally.left == []  # the next call removes it
    (second / "another.tmp").touch()
    finish_and_compare(reference, "broken", store, tally)
    assert tally.left == [f"broken: {(second / 'another.tmp').relative_to(store)}"]
    assert not show({"": tally})


def test_the_campaign_sees_processes_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill_campaign, "PATIENCE", 0.3)

    def leaves_one() -> None:
        if not os.fork():
            time.sleep(60)

    prctl(SUBREAPER, 1)
    assert kill_campaign._ended(kill_campaign.forked(leaves_one)) == ["a process was left"]
    prctl(SUBREAPER, 0)
