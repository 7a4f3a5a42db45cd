"""Runs of others: made, checked, refused by name, accepted whole, and shown with who and when."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from benchmark.datasets.catalog import build_dataset, load_dataset
from benchmark.datasets.dataset import ReferenceReturns
from benchmark.datasets.source import DatasetName, find_source
from benchmark.method import METHODS
from benchmark.record import (
    FILE,
    Failure,
    Record,
    read_record,
    record_folder,
    score_of,
    write_record,
)
from benchmark.registry import load_plugin
from benchmark.scaling import Scaling
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set, save_synthetic_set
from obdbench.verify import rescore
from paper_figures.exhibits import EXHIBITS, gather
from paper_figures.leaderboard_table import leaderboard
from paper_figures.table import NOTHING
from results import leaderboard as kept
from results import leaderboard_rules as rules
from results.leaderboard import accepted_submissions, read_submission, write_submission
from results.leaderboard_rules import ABOUT, About
from results.record_store import SHIPPED, all_records
from tests.obdbench.conftest import Result
from tests.obdbench.test_recorded import moved
from tests.tiny_runs import PLUGIN, altered, consistent, execute, tiny_spec

TODAY = datetime.datetime.now(datetime.UTC).date()
WHO = About(who="José M. O'Neil (Lab 3)", date=TODAY, what="Random pairs, and DBC: both tiny.")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def runs(small_dataset_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two seeds of random and one of DBC, whose score counts two sets."""
    store = tmp_path_factory.mktemp("elsewhere")
    for method, seed in (("random", 0), ("random", 1), ("dbc", 0)):
        execute(tiny_spec(method, small_dataset_name, seed=seed), store)
    return store


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission of these runs."""
    folder = tmp_path_factory.mktemp("made") / "submission"
    records = [(r, runs / record_folder(r.run_id)) for r in all_records(runs)]
    write_submission(folder, WHO, records)
    return folder


@pytest.fixture
def sent(made: Path, tmp_path: Path) -> Path:
    """A copy of the submission that the test may alter."""
    return shutil.copytree(made, tmp_path / "sent")


def of(folder: Path, method: str = "random", seed: int = 0) -> Path:
    """Record of a run of a submission."""
    return next(folder.glob(f"*.{method}.*/seed{seed}/{FILE}"))


def change(path: Path, how: Change) -> None:
    """Alter a record as somebody would who leaves its digest out."""
    values = json.loads(path.read_text("utf-8"))
    values.pop("sha256")
    how(values)
    path.write_text(json.dumps(values), "utf-8")


def rename(folder: Path, record: Record, spec: RunSpec, **changes: Any) -> Path:
    """Replace a run by one of another spec; its ids, folder and the cards of its sets follow."""
    old, new = folder / record_folder(record.run_id), folder / record_folder(spec.run_id)
    checkpoints = []
    for checkpoint in record.checkpoints:
        path = old / str(checkpoint.synthetic_set)
        if checkpoint in record.counted:
            pairs, scaling, card = load_synthetic_set(path)
            digest = save_set(new / path.name, pairs, scaling, card | {"run_id": spec.run_id})
            checkpoint = msgspec.structs.replace(checkpoint, sha256=digest)
        checkpoints.append(checkpoint)
    if old != new:
        shutil.rmtree(old)
    ids = {"spec": spec, "run_id": spec.run_id, "cell_id": spec.cell_id}
    renamed = altered(record, checkpoints=checkpoints, **ids, **changes)
    write_record(new / FILE, consistent(renamed))
    return new / FILE


def save_set(path: Path, pairs: SyntheticSet, scaling: Scaling, card: dict[str, Any]) -> str:
    """Write a set with another content than before; its digest."""
    return save_synthetic_set(
        pairs, scaling, path, {key: value for key, value in card.items() if key != "format"}
    )


def mine(folder: Path, record: Record, name: str = "mine", **changes: Any) -> Path:
    """Turn a run into one of a method that is not the suite's, and describe the method."""
    about = folder / ABOUT
    if "[methods]" not in about.read_text("utf-8"):
        with about.open("a", encoding="utf-8") as stream:
            stream.write(f'[methods]\n{name} = "DBC by another name"\n')
    spec = {k: changes.pop(k) for k in list(changes) if k in ("student", "dataset", "protocol")}
    return rename(folder, record, dataclasses.replace(record.spec, method=name, **spec), **changes)


def refused(cli: Any, folder: Path, says: str, file: Path | str | None = None) -> None:
    """A submission is refused in one sentence with the file, and the store stays as it was."""
    result: Result = cli("submit-check", folder, "--rescore", "9", "--accept")
    assert result.code == 1, result.out
    message = " ".join(result.err.split())
    assert says in message, message
    assert str(file or folder) in message, message
    assert not (Path(os.environ["OBDBENCH_STORE"]) / "submissions").exists()


# --- what is sound -------------------------------------------------------------------------------


def test_a_shipped_run_is_exported_checked_accepted_and_shown(
    cli: Any, tmp_path: Path, record_store: Path
) -> None:
    build_dataset(DatasetName.parse("cartpole/mixed"))
    cell, folder = "cartpole-mixed.hades.19861e58ef0c", tmp_path / "mine"
    who = ("--who", "A. Person", "--what", "HaDES as shipped", "--contact", "a@example.org")
    result: Result = cli("submit-make", cell, "--to", folder, *who)
    assert result.code == 0 and "5 runs" in result.out
    result = cli("submit-check", folder, "--rescore", "9")
    assert result.code == 0 and result.out.count("recorded") == 5
    assert "Nothing was added" in result.out and not record_store.exists()
    result = cli("submit-check", folder, "--accept")
    assert result.code == 0 and "1 scored again" in result.out
    result = cli("leaderboard", "cartpole/mixed", "--to", tmp_path / "table")
    assert result.code == 0
    head, _, task, *_ = result.out.splitlines()
    assert head.split()[:2] == ["method", "by"]
    assert task.startswith("cartpole/mixed twenty students: ") and task.count("mlp 3x64") == 1
    lines = [line for line in result.out.splitlines() if re.match("hades ", line)]
    assert not any("students" in line for line in lines), "the task stands above, once"
    assert len(lines) == 2 and "shipped" in lines[0]
    assert f"submitted by A. Person, {TODAY}" in lines[1] and "1 of 5 (" in lines[1]
    score = "93.6 [83.7, 103.6]"  # of the same records, by both ways
    assert score in lines[0] and score in lines[1]
    assert "A. Person" in (tmp_path / "table" / "leaderboard.md").read_text("utf-8")


def test_what_is_scored_again_here_is_exact_and_shown_by_task(
    cli: Any, sent: Path, record_store: Path, runs: Path
) -> None:
    result: Result = cli("submit-check", sent, "--rescore", "9", "--accept")
    assert result.code == 0 and result.out.count(": exact, recorded") == 3
    (accepted,), damaged = accepted_submissions(record_store)
    assert damaged == [] and accepted.by == f"submitted by {WHO.who}, {TODAY}"
    assert [r.run_id for r in accepted.records] == [r.run_id for r in all_records(runs)]
    assert set(accepted.pairs.values()) == {4}

    table = leaderboard(all_records(runs), [accepted])
    shown = [[cell.text for cell in row] for group in table.groups for row in group]
    assert len(table.groups) == 1, "one dataset, protocol and student"
    assert sorted(row[1] for row in shown) == ["dbc", "dbc", "random", "random"]
    for row in shown:
        assert row[6] == (NOTHING if row[2] == "shipped" else f"{row[4]} of {row[4]} (+0.0)")
    scores = [float(row[3]) for row in shown]
    assert scores == sorted(scores, reverse=True)
    assert leaderboard(all_records(runs), [accepted], ["hopper/medium"]).groups == ()


def test_what_cannot_be_checked_of_others_is_in_no_file(made: Path, runs: Path) -> None:
    table = leaderboard(all_records(runs), [read_submission(made)])
    rows = pd.read_csv(io.StringIO(table.csv()), keep_default_na=False)
    unchecked = ["wall_seconds", "outer_steps", "environment_steps", "used", "teacher",
                 "teacher_return", "teacher_normalized_return"]  # fmt: skip
    theirs = rows[rows["by"] != "shipped"]
    assert len(theirs) == 2 and (theirs[unchecked] == "").all(axis=None)
    ours = rows[rows["by"] == "shipped"].set_index("method")
    assert float(ours.loc["dbc", "wall_seconds"]) > 0 and ours.loc["dbc", "used"] == "data"


def test_the_same_cell_under_another_protocol_or_on_other_content_is_another_task(
    made: Path, runs: Path
) -> None:
    submission = read_submission(made)
    other = [altered(r, provenance__dataset_sha256="0" * 64) for r in submission.records]
    table = leaderboard(all_records(runs), [dataclasses.replace(submission, records=other)])
    assert [len({row[2].text for row in group}) for group in table.groups] == [1, 1]


def nearly(line: ReferenceReturns) -> ReferenceReturns:
    """Reference returns that nobody would take for others."""
    return dataclasses.replace(line, expert=line.expert * (1 + 4e-7))


def test_a_task_has_one_scale_whatever_its_records_say(made: Path, runs: Path) -> None:
    """Else a submitter could show the best seed in a group of its own."""
    submission = read_submission(made)
    other = [
        altered(r, normalisation=nearly(r.normalisation))
        for r in submission.records
        if r.normalisation and r.spec.method == "dbc"
    ]
    table = leaderboard(all_records(runs), [dataclasses.replace(submission, records=other)])
    assert len(table.groups) == 1 and len(other) == 1


def test_reference_returns_are_those_of_the_dataset_to_the_bit(cli: Any, sent: Path) -> None:
    for seed in (0, 1):
        record = read_record(of(sent, seed=seed))
        assert record.normalisation is not None
        scale = nearly(record.normalisation)
        checkpoints = [
            msgspec.structs.replace(c, normalized_return=float(scale.normalise(c.mean_return)))
            for c in record.checkpoints
        ]
        score = score_of(checkpoints, record.spec.protocol)
        changed = {"normalisation": scale, "checkpoints": checkpoints, "score": score}
        write_record(of(sent, seed=seed), altered(record, **changed))
    refused(cli, sent, "is normalized by", of(sent).parent)


def test_a_method_of_ones_own_needs_no_code_here(cli: Any, sent: Path, record_store: Path) -> None:
    path = mine(sent, read_record(of(sent, "dbc")))
    text = (sent / ABOUT).read_text("utf-8")
    (sent / ABOUT).write_text(text.partition("[methods]")[0], "utf-8")
    refused(cli, sent, "'mine' is neither the suite's nor described under [methods]", path.parent)
    (sent / ABOUT).write_text(text, "utf-8")
    result: Result = cli("submit-check", sent, "--rescore", "9", "--accept")
    assert result.code == 0, result.err
    assert "mine" not in METHODS
    (accepted,), _ = accepted_submissions(record_store)
    rows = [row for group in leaderboard((), [accepted]).groups for row in group]
    assert {row[1].text for row in rows} == {"mine", "random"}


def test_a_method_of_ones_own_may_call_anything_synthetic_size(
    cli: Any, sent: Path, record_store: Path
) -> None:
    record, share = read_record(of(sent, "dbc")), {"synthetic_size": "a tenth"}
    mine(sent, altered(record, spec__parameters=share), parameters=share)
    result: Result = cli("submit-check", sent, "--accept")
    assert result.code == 0, result.err
    (accepted,), _ = accepted_submissions(record_store)
    rows = leaderboard((), [accepted]).data.set_index("method")
    assert rows.loc["mine", "pairs"] == 4, "counted in the set"


def test_a_method_that_is_installed_here_is_no_method_of_the_suite(cli: Any, sent: Path) -> None:
    load_plugin(PLUGIN)
    mine(sent, read_record(of(sent, "dbc")), "raises")  # which it would, were it called
    result: Result = cli("submit-check", sent, "--rescore", "9")
    assert result.code == 0, result.err


def test_no_exhibit_and_no_result_sees_a_submission(
    cli: Any, sent: Path, record_store: Path
) -> None:
    assert cli("submit-check", sent, "--accept").code == 0
    assert list(all_records(record_store)) == []
    everything = next(e for e in EXHIBITS if not (e.sweep or e.study))
    assert gather(everything, record_store).records == []


def test_runs_are_submitted_with_all_sets_that_count_or_not_at_all(
    cli: Any, runs: Path, tmp_path: Path
) -> None:
    dbc = next(r for r in all_records(runs) if r.spec.method == "dbc")
    lacking = shutil.copytree(runs, tmp_path / "lacking")
    (lacking / record_folder(dbc.run_id) / str(dbc.counted[0].synthetic_set)).unlink()
    words = ("submit-make", dbc.run_id, "--who", "A", "--what", "B", "--store")
    result: Result = cli(*words, lacking, "--to", tmp_path / "new")
    assert result.code == 1 and "does not exist, but" in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lacking"]
    assert cli(*words, runs, "--to", tmp_path / "new", "--method", "x").code == 1
    assert "given twice" in cli(*words, runs, "--to", tmp_path / "new", dbc.run_id).err
    assert cli(*words, runs, "--to", tmp_path / "new").code == 0
    assert "exists already" in cli(*words, runs, "--to", tmp_path / "new").err


def test_a_method_of_ones_own_is_asked_for_its_sentence(
    cli: Any, runs: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(runs, tmp_path / "store")
    dbc = next(r for r in all_records(store) if r.spec.method == "dbc")
    rename(store, dbc, spec := dataclasses.replace(dbc.spec, method="mine"))
    words = ("submit-make", spec.cell_id, "--who", "A", "--what", "B", "--store", store)
    result: Result = cli(*words, "--to", tmp_path / "new")
    assert result.code == 1
    assert result.err.startswith("Error: Not among the suite's methods: mine. Say what it does,")
    assert result.err.endswith('--method "mine=What it does, in a sentence."\n')
    said = ("--method", "mine=It does.")
    built_in = cli(*words, "--to", tmp_path / "new", *said, "--method", "dbc=Better.")
    assert built_in.code == 1 and "describes a method of the suite" in built_in.err
    assert cli(*words, "--to", tmp_path / "new", *said).code == 0


def test_what_would_be_refused_is_not_submitted(cli: Any, runs: Path, tmp_path: Path) -> None:
    second = read_record(of(runs, seed=1)).run_id
    words = ("submit-make", second, "--who", "A", "--what", "B", "--store", runs)
    result: Result = cli(*words, "--to", tmp_path / "new")
    assert result.code == 1 and "has seeds [1]; expected 0 to 0" in result.err
    assert f"{tmp_path / 'new'}: " in result.err
    assert list(tmp_path.iterdir()) == []
    named = cli(*words, "--to", tmp_path / "new", "--method", "x")
    assert "'x' is not of the form name=sentence" in named.err


def test_a_refusal_is_short_whatever_a_file_says(cli: Any, sent: Path) -> None:
    for how in (
        lambda v: v.update(run_id="x" * 10**6),
        lambda v: v.update({"y" * 10**6: 1}),
        lambda v: v.update(schema="z" * 10**6),
        lambda v: v.update(status="w" * 10**6),
    ):
        before = of(sent).read_text("utf-8")
        change(of(sent), how)
        result: Result = cli("submit-check", sent)
        assert result.code == 1 and str(of(sent)) in result.err
        assert len(result.err) < 1000
        of(sent).write_text(before, "utf-8")


def test_every_dataset_that_is_asked_for_is_known(cli: Any) -> None:
    result: Result = cli("leaderboard", "hopper/medium", "hoper/medium")
    assert result.code == 1 and "Did you mean 'hopper/medium'" in result.err


def test_a_dataset_is_found_with_its_default_size_too(cli: Any) -> None:
    size = find_source("cartpole/mixed").default_size
    found: Result = cli("leaderboard", f"cartpole/mixed@{size}")
    assert "shipped" in found.out
    assert found.out == cli("leaderboard", "cartpole/mixed").out


# --- files ---------------------------------------------------------------------------------------


def _links_folder(folder: Path) -> None:
    cell = of(folder).parent.parent
    cell.rename(folder.parent / "aside")
    cell.symlink_to(folder.parent / "aside")


def _large(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        with next(folder.rglob(name)).open("ab") as stream:
            stream.truncate(2**25 + 1)

    return make


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (lambda f: (f / "x").symlink_to("/etc/passwd"), "x is a link"),
    "a link to a folder": (_links_folder, "is a link"),
    "a pipe": (lambda f: os.mkfifo(f / "x"), "is not a file of a submission"),
    "a pickle": (
        lambda f: (of(f).parent / "set-1.pkl").write_bytes(pickle.dumps(1)),
        "set-1.pkl' is not a file of a submission",
    ),
    "a program": (lambda f: (f / "setup.py").write_text("1/0"), "is not a file of a submission"),
    "a deep folder": (lambda f: (of(f).parent / "x").mkdir(), "is not a file of a submission"),
    "a name": (lambda f: (f / "a\n\x1b[31mb").mkdir(), "a\\n\\x1b[31mb' is not a file"),
    "another alphabet": (lambda f: (f / "\u0430v_pbc").mkdir(), "is not a file of a submission"),
    "a large record": (_large(FILE), "expected a file of at most 16,777,216"),
    "a large set": (_large("set-*"), "expected a file of at most 33,554,432"),
    "a large text": (_large(ABOUT), "expected a file of at most 16,384"),
    "no text": (lambda f: (f / ABOUT).unlink(), f"{ABOUT} does not exist"),
    "a folder for a text": (
        lambda f: [(f / ABOUT).unlink(), (f / ABOUT).mkdir()],
        f"{ABOUT} does not exist",
    ),
    "no run": (lambda f: [shutil.rmtree(p) for p in f.glob("*.*.*/")], "holds no run"),
    "a set without record": (
        lambda f: of(f, seed=1).unlink(),
        "has no record.json next to it",
    ),
    "a set that no record names": (
        lambda f: shutil.copy(next(of(f).parent.glob("set-*")), of(f).parent / "set-9.safetensors"),
        "set-9.safetensors is a set that its record does not name",
    ),
    "a pickle as a record": (lambda f: of(f).write_bytes(pickle.dumps([1])), "is not JSON"),
    "a pickle as a set": (
        lambda f: next(of(f).parent.glob("set-*")).write_bytes(pickle.dumps([1])),
        "has sha256",
    ),
    "no set": (lambda f: next(of(f).parent.glob("set-*")).unlink(), "does not exist, but"),
    "a moved record": (
        lambda f: of(f, seed=1).parent.rename(of(f).parent.with_name("seed01")),
        "contradicts itself: its folder is",
    ),
    "a chosen seed": (
        lambda f: shutil.rmtree(of(f).parent),
        "has seeds [1]; expected 0 to 0 without a gap",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_none_of_a_submission(kind: str, cli: Any, sent: Path) -> None:
    spoil, says = FILES[kind]
    spoil(sent)
    refused(cli, sent, says)


def test_a_folder_of_very_many_files_or_bytes(
    cli: Any, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_FILES", 5)
    refused(cli, sent, "holds more than 5 files and folders")
    monkeypatch.undo()
    monkeypatch.setattr(kept, "MOST_OF_ALL", 1000)
    monkeypatch.setenv("OBDBENCH_STORE", str(sent.parent / "runs"))
    refused(cli, sent, "holds more than 1,000 bytes")


def test_a_place_that_is_no_folder(cli: Any, sent: Path) -> None:
    refused(cli, sent / ABOUT, "is not a folder")


# --- texts ---------------------------------------------------------------------------------------

WORDS = {
    "<b>x</b>": "U+003C", "a|b": "U+007C", "**x**": "U+002A", "[x](y)": "U+005B",
    "a\x1b[31m": "U+001B", "a\u202eb": "U+202E", "\u05e9\u05dc": "U+05E9", "a`b": "U+0060",
    "a\u200bb": "U+200B", "$x$": "U+0024", "a\nb": "U+000A", "a@b.org": "U+0040",
    "_x_": "U+005F", "www.x.org": "an address", "": "(0 characters)", " x": "begin with a letter",
    "-x": "begin with a letter", "x" * 61: "(61 characters)", "\ufb01": "look-alike",
}  # fmt: skip


@pytest.mark.parametrize("who", WORDS)
def test_a_name_is_words(who: str) -> None:
    with pytest.raises(rules.BadSubmission) as error:
        msgspec.structs.replace(WHO, who=who).check()
    assert "who " in str(error.value) and WORDS[who] in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"what": "<script>"}, "what holds the character U+003C"),
        ({"contact": "javascript:alert(1)"}, "expected an e-mail address or a URL"),
        ({"contact": "https://x.org/" + "a" * 200}, "expected an e-mail address or a URL"),
        ({"date": TODAY + datetime.timedelta(days=2)}, "has not come yet"),
        ({"methods": {"a-b": "x"}}, "the method is called 'a-b'"),
        ({"methods": {"\u0430v_pbc": "x"}}, "the method is called"),
        ({"methods": {"mine": "a | b"}}, "the sentence on mine holds the character U+007C"),
    ],
)
def test_the_other_texts_are_words_too(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(rules.BadSubmission) as error:
        msgspec.structs.replace(WHO, **changes).check()
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("who = 'A'\nwhat = 'B'", "missing required field `date`"),
        ("who = 'A'\nwhat = 'B'\ndate = 2026-01-01\nscore = 100", "unknown field `score`"),
        ("who = 'A'\nwhat = 'B'\ndate = 2026-01-01", "after the day of the submission"),
        ("who = 1\nwhat = 'B'\ndate = 2026-01-01", "Expected `str`, got `int`"),
        ("x" + "=[" * 5000, "it does not say who"),
        ("\udc80", "it does not say who"),
        ("who = '<i>'\nwhat = 'B'\ndate = 2026-01-01", "U+003C"),
        (
            f"who = 'A'\nwhat = 'B'\ndate = {TODAY}\n[methods]\ndbc = 'x'",
            "[methods] describes 'dbc', a method of the suite",
        ),
    ],
)
def test_the_text_of_a_submission_says_who_and_when(
    text: str, says: str, cli: Any, sent: Path
) -> None:
    (sent / ABOUT).write_bytes(text.encode(errors="surrogateescape"))
    refused(cli, sent, says)


# --- records -------------------------------------------------------------------------------------


def _first(values: dict[str, Any]) -> dict[str, Any]:
    point: dict[str, Any] = values["checkpoints"][0]
    return point


def _all_returns(number: float) -> Change:
    """Every return is that number, and so are all numbers that follow."""

    def how(values: dict[str, Any]) -> None:
        point, line = _first(values), values["normalisation"]
        point["returns"] = [[number] * len(row) for row in point["returns"]]
        point["mean_return"] = number
        span = line["expert"] - line["random"]
        point["normalized_return"] = 100 * (number - line["random"]) / span
        values["score"] |= {"return": number, "normalized_return": point["normalized_return"]}

    return how


def _fewer_episodes(values: dict[str, Any]) -> None:
    for point in values["checkpoints"]:
        best = max(row[0] for row in point["returns"])
        point["returns"], point["lengths"] = [[best]], [[point["lengths"][0][0]]]
    _all_returns(best)(values)


RECORDS: dict[str, tuple[Change, str]] = {
    "a path": (
        lambda v: _first(v).update(synthetic_set="../seed1/set-00000000.safetensors"),
        "it names the set '../seed1/set-00000000.safetensors' at outer step 0",
    ),
    "an absolute path": (
        lambda v: _first(v).update(synthetic_set="/etc/passwd"),
        "it names the set '/etc/passwd' at outer step 0",
    ),
    "an altered score": (
        lambda v: v["score"].update(normalized_return=99.0),
        "contradicts itself: its score is 99.0",
    ),
    "one altered return": (
        lambda v: _first(v)["returns"][0].__setitem__(0, 3000.0),
        "contradicts itself: its mean return",
    ),
    "a huge return": (_all_returns(1e300), "it has a return of 1e+300"),
    "returns whose mean is infinite": (
        lambda v: _first(v).update(returns=[[1e308, 1e308], [1e308, 1e308]]),
        "but inf follows from the rest",
    ),
    "an infinite return": (_all_returns(float("inf")), "is not JSON"),
    "a return that is no number": (_all_returns(float("nan")), "is not JSON"),
    "every return altered": (_all_returns(3000.0), "its sets do not score what its record says"),
    "every return lower": (_all_returns(-300.0), "its sets do not score what its record says"),
    "a huge length": (
        lambda v: (
            v["cost"].update(
                evaluation_environment_steps=sum(_first(v)["lengths"][1]) + 2 * 10**12
            ),
            _first(v)["lengths"].__setitem__(0, [10**12, 10**12]),
        ),
        "it has an episode of 1" + 12 * "0" + " steps",
    ),
    "the best episode only": (_fewer_episodes, "its count of episodes at outer step 0 is [1], but"),
    "another sha256": (
        lambda v: _first(v).update(sha256="0" * 64),
        "was scored on a set of sha256 0000000000000000",
    ),
    "other data": (
        lambda v: v["provenance"].update(dataset_sha256="0" * 64),
        "was done on hopper/medium-expert@2000 with sha256 0000000000000000",
    ),
    "another environment": (
        lambda v: v["provenance"].update(environment="HalfCheetah-v5"),
        "was scored in HalfCheetah-v5",
    ),
    "an import": (
        lambda v: v["provenance"].update(environment="antigravity:X-v0"),
        "was scored in antigravity:X-v0",
    ),
    "another scale": (
        lambda v: [v.update(normalisation={"random": 0.0, "expert": 10.0}), _all_returns(7.0)(v)],
        "is normalized by",
    ),
    "a reference": (lambda v: v.update(reference=True), "with reference True"),
    "other needs": (lambda v: v.update(needs=["teacher"]), "with needs ['teacher']"),
    "other parameters": (
        lambda v: v["parameters"].update(synthetic_size=64),
        "its parameter synthetic_size is 64, but 4 follows",
    ),
    "more parameters": (
        lambda v: v["parameters"].update(extra=1),
        "'extra': 1}; the suite's has",
    ),
    "markup in a parameter": (
        lambda v: v["parameters"].update(note="<img src=x>"),
        "parameters.note is '<img src=x>'",
    ),
    "markup in a key": (
        lambda v: v["parameters"].update({"a|b": 1}),
        "a key of parameters is 'a|b'",
    ),
    "control characters": (
        lambda v: v["provenance"].update(host="a\x1b[31m"),
        "the record.provenance.host is",
    ),
    "a long text": (
        lambda v: v["parameters"].update(note="x" * 2000),
        "(2000 characters)",
    ),
    "very many settings": (
        lambda v: v["parameters"].update({f"x{i}": i for i in range(2000)}),
        "its settings take",
    ),
    "a huge number": (
        lambda v: v["parameters"].update(x=1e60),
        "expected a number that a run can have",
    ),
    "an integer that no table holds": (
        lambda v: v["cost"].update(outer_steps=2**63),
        "expected a number that a run can have",
    ),
    "a day that is none": (
        lambda v: v.update(finished="2026-99-99T00:00:00Z"),
        "which is not a day",
    ),
    "a failed run": (
        lambda v: v.update(
            status="failed", score=None, error={"type": "E", "message": "", "traceback": ""}
        ),
        "it has no score",
    ),
    "a score that its spread would excuse": (
        lambda v: [_all_returns(700.0)(v), _first(v).update(returns=[[1400.0] * 2, [0.0] * 2])],
        "its sets do not score what its record says",
    ),
}


IN_ALL_SEEDS = {
    "other data", "another environment", "an import", "another scale", "a reference",
    "other needs", "more parameters",
}  # fmt: skip
"""What is altered in both seeds, because seeds that differ in it are refused first."""


@pytest.mark.parametrize("kind", RECORDS)
def test_records_that_could_not_come_of_a_run(kind: str, cli: Any, sent: Path) -> None:
    how, says = RECORDS[kind]
    for seed in (0, 1) if kind in IN_ALL_SEEDS else (0,):
        change(of(sent, seed=seed), how)
    refused(cli, sent, says, of(sent).parent)


def _taught_by(sha256: str) -> Change:
    def how(values: dict[str, Any]) -> None:
        values["teacher"] = {"name": "td3_bc", "sha256": sha256, "return": 1.0,
                             "normalized_return": 1.0, "episodes": 1}  # fmt: skip

    return how


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ((_taught_by("0"), _taught_by("1")), "teachers of one name"),
        ((RECORDS["other data"][0],), "datasets of one name"),
        ((RECORDS["another environment"][0],), "environments"),
        ((RECORDS["another scale"][0],), "normalisations"),
    ],
)
def test_seeds_that_no_mean_is_of(how: Sequence[Change], what: str, cli: Any, sent: Path) -> None:
    for seed, alter in enumerate(how):
        change(of(sent, seed=seed), alter)
    refused(cli, sent, f"has seeds of 2 {what}", of(sent).parent.parent.name)


def test_a_submission_that_earlier_versions_accepted_is_left_out_and_the_rest_is_shown(
    cli: Any, sent: Path, record_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        change(of(sent, seed=seed), _taught_by(str(seed)))
    monkeypatch.setattr(kept, "check_cells", lambda records: None)
    folder = kept.accept_submission(read_submission(sent), record_store, {})
    monkeypatch.undo()
    monkeypatch.setenv("OBDBENCH_STORE", str(record_store))
    result: Result = cli("leaderboard", "hopper/medium")
    assert result.code == 1 and "shipped" in result.out
    assert f"{folder} is left out: " in result.err and "2 teachers of one name" in result.err


def test_data_of_runs_that_are_not_drawn_are_checked_too(
    cli: Any, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = "obdbench.cli.leaderboard.random.SystemRandom.sample"
    monkeypatch.setattr(
        drawn, lambda self, runs, count: [r for r in runs if r.spec.method == "dbc"]
    )
    for seed in (0, 1):
        change(of(sent, seed=seed), RECORDS["another scale"][0])
    refused(cli, sent, "is normalized by", of(sent))


SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "an older version": ({"version": 0}, "is of version 0 of random"),
    "settings it does not have": (
        {"parameters": {"synthetic_size": 4, "luck": 1}},
        "Unknown key 'luck'",
    ),
    "a default that is named": (
        {"teacher": "td3_bc"},
        "it claims the suite's method random with settings",
    ),
    "a protocol's name": (
        {"protocol__name": "obd"},
        "the protocol 'obd' has other numbers than the suite's",
    ),
}


@pytest.mark.parametrize("kind", SPECS)
def test_the_suites_names_with_other_settings(kind: str, cli: Any, sent: Path) -> None:
    changes, says = SPECS[kind]
    for seed in (0, 1):
        record = read_record(of(sent, seed=seed))
        spec = record.spec
        for name, value in changes.items():
            part, _, field = name.partition("__")
            if field:
                value = dataclasses.replace(getattr(spec, part), **{field: value})
            spec = dataclasses.replace(spec, **{part: value})
        parameters = {**record.parameters, **spec.parameters}
        rename(sent, record, spec, parameters=parameters)
    refused(cli, sent, says)


def test_no_result_and_no_student_is_left_out(cli: Any, sent: Path) -> None:
    path = of(sent, "dbc")

    def leave_out(values: dict[str, Any]) -> None:
        del values["checkpoints"][1]
        for each in [name for name in values["cost"] if name.startswith("checkpoint_")]:
            del values["cost"][each][1]
        lengths = [row for point in values["checkpoints"] for row in point["lengths"]]
        values["cost"]["evaluation_environment_steps"] = sum(map(sum, lengths))

    assert [c.outer_step for c in read_record(path).checkpoints] == [0, 2, 4, 6]
    change(path, leave_out)
    refused(cli, sent, "it has results of outer steps [4, 6]; by its protocol one is due", path)


def stop_early(sent: Path, runs: Path) -> Path:
    """End the run of DBC at a checkpoint before its last, as if that were its best result."""
    path = of(sent, "dbc")
    record = read_record(path)
    *rest, last = record.checkpoints
    path.with_name(str(last.synthetic_set)).unlink()
    counts = str(rest[-2].synthetic_set)
    shutil.copy(runs / record_folder(record.run_id) / counts, path.with_name(counts))
    cost = type(record.cost)()
    score = score_of(rest, record.spec.protocol)
    stopped = altered(record, checkpoints=rest, cost=cost, score=score)
    write_record(path, consistent(stopped))
    return path


def test_a_run_that_stopped_before_its_last_outer_step(cli: Any, sent: Path, runs: Path) -> None:
    path = stop_early(sent, runs)
    refused(cli, sent, "ended at outer step 4, and its outer_steps are 6", path)


@pytest.mark.parametrize("version", [None, 0], ids=["of this version", "of an older version"])
def test_a_run_of_a_shipped_cell_is_as_long_as_those_shipped(
    version: int | None, sent: Path, runs: Path
) -> None:
    ours = shutil.copytree(runs, sent.parent / "ours")
    kept.check_methods(read_submission(sent), ours)
    path = stop_early(sent, runs)
    if version is not None:
        for folder in (ours, sent):
            record = read_record(of(folder, "dbc"))
            path = rename(folder, record, dataclasses.replace(record.spec, version=version))
    with pytest.raises(rules.BadSubmission, match="step 4, and its outer_steps are 6") as error:
        kept.check_methods(read_submission(sent), ours)
    assert str(path) in str(error.value)


def test_a_run_of_a_shipped_cell_may_end_with_its_budget() -> None:
    """How many outer steps a budget of environment steps lasts is another number for each seed."""
    for path in sorted(SHIPPED.glob(f"brax-hopper.hades.*/seed*/{FILE}")):
        record = read_record(path)
        assert record.checkpoints[-1].outer_step < record.parameters["outer_steps"]
        rules.check_known(record, SHIPPED)
        cheap = altered(record, cost__environment_steps=record.parameters["environment_steps"] - 1)
        with pytest.raises(rules.BadSubmission, match="Submit whole runs"):
            rules.check_known(cheap, SHIPPED)


def test_policies_are_not_scored_again(cli: Any, sent: Path, small_dataset_name: str) -> None:
    record = execute(tiny_spec("bc_whole", small_dataset_name), sent.parent / "policies")
    folder = record_folder(record.run_id)
    (sent / folder).mkdir(parents=True)
    shutil.copy(sent.parent / "policies" / folder / FILE, sent / folder / FILE)
    refused(cli, sent, "is policies, which cannot be scored again", sent / folder)


def test_two_methods_cannot_have_one_id(cli: Any, sent: Path, runs: Path, made: Path) -> None:
    first, second = (read_record(of(sent, seed=seed)) for seed in (0, 1))
    mine(sent, first)
    path = mine(sent, second, parameters={"synthetic_size": 4, "luck": 1})
    refused(cli, sent, "has another parameters than", path.parent.parent.name)
    ours = shutil.copytree(runs, sent.parent / "ours")
    change(of(ours), lambda values: values["parameters"].update(luck=1))
    with pytest.raises(rules.BadSubmission, match=r"parameters than .* of the suite, under the sa"):
        kept.check_methods(read_submission(made), ours)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reference": True}, "calls itself a reference"),
        ({"student": {"name": "transformer"}}, "No student is called 'transformer'"),
        ({"student": {"head": "categorical"}}, "student.head is 'categorical'"),
        ({"student": {"width": 5000}}, "takes 5e+03 units of a layer; expected at most 4.1e+03"),
        ({"dataset": "hopper/medium@777"}, "obdbench data build hopper/medium --size 777"),
    ],
)
def test_what_cannot_be_scored_here(
    changes: dict[str, Any], says: str, cli: Any, sent: Path
) -> None:
    record = read_record(of(sent, "dbc"))
    if "student" in changes:
        student = dataclasses.replace(record.spec.student, **changes["student"])
        changes = {**changes, "student": student}
    mine(sent, record, **changes)
    refused(cli, sent, says, "")


@pytest.mark.parametrize("what", rules.MOST)
def test_scoring_again_has_bounds(what: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules.MOST, what, 1)
    with pytest.raises(rules.BadSubmission, match=f"takes .* {what}; expected at most 1"):
        read_submission(made)


# --- sets ----------------------------------------------------------------------------------------

Edit = Callable[[SyntheticSet, Scaling, dict[str, Any]], tuple[SyntheticSet, Scaling]]
EDITS: dict[str, tuple[Edit, str]] = {
    "more pairs": (
        lambda p, s, c: (SyntheticSet(p.observations.repeat(2, 1), p.actions.repeat(2, 1)), s),
        "holds 8 pairs; its record says synthetic_size = 4",
    ),
    "other dimensions": (
        lambda p, s, c: (SyntheticSet(p.observations[:, :5], p.actions), s),
        "has pairs of other dimensions",
    ),
    "another scaling": (
        lambda p, s, c: (p, dataclasses.replace(s, mean=s.mean + 1)),
        "has another observation_mean than its dataset",
    ),
    "scaling of other dimensions": (
        lambda p, s, c: (p, dataclasses.replace(s, center=s.center[:1])),
        "has another action_center than its dataset",
    ),
    "another run's": (
        lambda p, s, c: [c.update(run_id="x"), (p, s)][1],  # type: ignore[list-item]
        "is a set of run 'x'",
    ),
    "another step's": (
        lambda p, s, c: [c.update(outer_step=7), (p, s)][1],  # type: ignore[list-item]
        "is a set of outer step '7'",
    ),
    "an import": (
        lambda p, s, c: [c.update(environment="antigravity:X-v0"), (p, s)][1],  # type: ignore[list-item]
        "a file imports nothing",
    ),
}


@pytest.mark.parametrize("kind", EDITS)
def test_sets_that_a_record_names_and_are_not_of_its_run(kind: str, cli: Any, sent: Path) -> None:
    edit, says = EDITS[kind]
    record = read_record(of(sent))
    (checkpoint,) = record.checkpoints
    path = of(sent).with_name(str(checkpoint.synthetic_set))
    pairs, scaling, card = load_synthetic_set(path)
    pairs, scaling = edit(pairs, scaling, card)
    path.unlink()
    digest = save_set(path, pairs, scaling, card)
    named = [msgspec.structs.replace(checkpoint, sha256=digest)]
    write_record(of(sent), altered(record, checkpoints=named))
    refused(cli, sent, says, path)


def test_scores_made_elsewhere_agree_within_the_spread_that_is_found_here(
    made: Path, small_dataset_name: str
) -> None:
    record = read_record(of(made, "dbc"))
    folder, dataset = of(made, "dbc").parent, load_dataset(DatasetName.parse(small_dataset_name))
    exact = rescore(record, folder, dataset)
    assert (exact.verdict, exact.recorded) == ("exact", exact.found)
    by_hand = 100 / (dataset.reference.expert - dataset.reference.random)
    variances = [np.var(np.mean(c.returns, axis=1), ddof=1) / 2 for c in record.counted]
    error = by_hand * np.sqrt(np.mean(variances))
    assert exact.tolerance == pytest.approx(max(1.0, 3 * np.sqrt(2) * error))
    for points, verdict in ((0.9, "within tolerance"), (1.1, "differs")):
        other = rescore(moved(record, points * exact.tolerance), folder, dataset)
        assert other.verdict == verdict
        assert other.found == exact.found


# --- keeping -------------------------------------------------------------------------------------


def test_a_run_is_accepted_once(cli: Any, sent: Path, made: Path, record_store: Path) -> None:
    assert cli("submit-check", sent, "--accept").code == 0
    (sent / ABOUT).write_text((sent / ABOUT).read_text("utf-8").replace("Lab 3", "Lab 4"), "utf-8")
    for folder in (made, sent):
        result: Result = cli("submit-check", folder)
        assert result.code == 1 and "the run was accepted before" in result.err
        with pytest.raises(rules.BadSubmission, match="accepted before"):
            kept.accept_submission(read_submission(folder), record_store, {})
    assert len(accepted_submissions(record_store)[0]) == 1


@pytest.mark.parametrize("writes", range(8))
def test_an_acceptance_that_ends_anywhere_leaves_nothing_and_is_done_again(
    writes: int, made: Path, record_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission, left = read_submission(made), writes
    write = kept.write_atomic

    def dies(target: Path, content: bytes) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        write(target, content)

    assert sum(path.is_file() for path in made.rglob("*")) + 1 == 9
    monkeypatch.setattr(kept, "write_atomic", dies)
    with pytest.raises(KeyboardInterrupt):
        kept.accept_submission(submission, record_store, {})
    assert accepted_submissions(record_store) == ([], [])
    monkeypatch.undo()
    place = kept.accept_submission(submission, record_store, {})
    assert {p.name for p in place.parent.iterdir()} == {".lock", place.name}
    assert [s.content for s in accepted_submissions(record_store)[0]] == [submission.content]


def test_what_is_checked_is_what_is_accepted_whatever_happens_to_the_folder(sent: Path) -> None:
    before = read_submission(sent).content
    with kept.own_copy(sent) as copy:
        shutil.rmtree(sent)
        assert read_submission(copy).content == before


def test_what_was_altered_since_is_named_and_the_rest_shown(
    cli: Any, sent: Path, made: Path, record_store: Path, small_dataset_name: str
) -> None:
    assert cli("submit-check", sent, "--accept").code == 0
    (folder,) = (record_store / "submissions").glob("[!.]*")
    (folder / ABOUT).write_text((folder / ABOUT).read_text("utf-8").replace("Lab", "lab"), "utf-8")
    result: Result = cli("leaderboard", "hopper/medium")
    assert result.code == 1 and "shipped" in result.out
    assert "its files were altered since they were accepted" in result.err
    assert str(folder) in result.err
    assert "Move its folder away" in cli("submit-check", made).err
    (folder / "accepted.json").write_text("[", "utf-8")
    assert "is not what an acceptance wrote" in cli("leaderboard", "hopper/medium").err


def test_nothing_is_written_through_a_link_out_of_the_store(
    cli: Any, sent: Path, record_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    record_store.mkdir()
    (record_store / "submissions").symlink_to(tmp_path / "outside")
    result: Result = cli("submit-check", sent, "--accept")
    assert result.code == 1 and f"leads out of {record_store}" in result.err
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_pruned_run_is_as_long_as_the_method_that_distils(cli: Any, sent: Path) -> None:
    record = read_record(of(sent, "dbc"))
    parameters = {"method": "dbc", "synthetic_size": record.parameters["synthetic_size"]}
    spec = dataclasses.replace(record.spec, method="pruned", parameters=parameters)
    path = rename(sent, record, spec, parameters=spec.resolved_parameters)
    refused(cli, sent, "ended at outer step 6, and its outer_steps are 50000", path)


def test_a_task_is_headed_by_the_student_that_is_scored(made: Path, runs: Path) -> None:
    """Whatever the sets were distilled for, and however alike two of them are."""
    shipped = [r for r in all_records(runs) if r.spec.method == "dbc"]
    other = [
        altered(r, spec=dataclasses.replace(r.spec, evaluation_student=student))
        for student in (StudentSpec(width=9), StudentSpec(width=9, momentum=0.9))
        for r in shipped
    ]
    table = leaderboard([*shipped, *other], [])
    headings = [group[0][0].detail for group in table.groups]
    assert [" 4x9" in text for text in headings].count(True) == 2
    assert sum("momentum 0.9" in text for text in headings) == 1
    assert len(set(headings)) == len(headings) == 3


def test_runs_that_failed_are_named(made: Path, runs: Path) -> None:
    whole = list(all_records(runs))
    assert "Missing" not in leaderboard(whole, []).caption
    lost = next(r for r in whole if r.spec.method == "dbc")
    failure = Failure(type="NotFinite", message="", traceback="")
    failed = altered(lost, status="failed", score=None, error=failure)
    caption = leaderboard([r for r in whole if r != lost] + [failed], []).caption
    n = sum(r.cell_id == lost.cell_id for r in whole)
    assert f"Missing: dbc on {lost.spec.dataset} has {n - 1} of {n} seeds" in caption
    assert "(1 failed: NotFinite)" in caption
