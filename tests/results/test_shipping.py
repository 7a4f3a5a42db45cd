"""Shipping a sweep: what is copied, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import ObdBenchError
from benchmark.names import BadName
from benchmark.record import FILE, Failure, check_set, read_record, write_record
from benchmark.run import run_folder
from benchmark.sweep import Sweep
from results.record_store import (
    SHIPPED,
    all_records,
    load_sweep,
    save_sweep,
    started_sweeps,
    sweep_records,
)
from results.shipping import ship, ship_study
from results.study_results import DIGEST, StudyResult, read_result, study_results, write_result
from tests.tiny_runs import altered, execute, tiny_spec


@pytest.fixture(scope="module")
def sweep(small_dataset_name: str) -> Sweep:
    """A run of many synthetic sets, and one whose policies are scored as they are."""
    names = ("dbc", "bc_whole")
    return Sweep("two", "", tuple(tiny_spec(name, small_dataset_name) for name in names))


@pytest.fixture(scope="module")
def done(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both were done, by code without uncommitted changes as far as the records tell."""
    store = tmp_path_factory.mktemp("done")
    save_sweep(store, sweep)
    for run in sweep.runs:
        record = altered(execute(run, store), provenance__dirty=False)
        write_record(run_folder(store, run) / FILE, record)
    return store


@pytest.fixture
def store(done: Path, tmp_path: Path) -> Path:
    """A copy that the test may break."""
    return Path(shutil.copytree(done, tmp_path / "store"))


def change_record(store: Path, sweep: Sweep, **changes: Any) -> Path:
    path = run_folder(store, sweep.runs[0]) / FILE
    write_record(path, altered(read_record(path), **changes))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_records_and_last_sets_are_copied_and_nothing_else(
    store: Path, sweep: Sweep, tmp_path: Path
) -> None:
    (store / "reports").mkdir()
    (store / "reports" / "table.md").write_text("made again from the records")
    distilled, cloned = (run_folder(store, run) for run in sweep.runs)
    assert len(list(distilled.glob("*.safetensors"))) == 4
    assert ship(store, sweep, tmp_path / "shipped") == 2
    last = "set-00000006.safetensors"
    kept = [distilled / FILE, distilled / last, cloned / FILE, store / "sweeps" / "two.json"]
    assert contents(tmp_path / "shipped") == {
        str(path.relative_to(store)): path.read_bytes() for path in kept
    }


def test_what_is_shipped_is_a_store_like_any_other(
    store: Path, sweep: Sweep, tmp_path: Path
) -> None:
    target = tmp_path / "shipped"
    ship(store, sweep, target)
    assert load_sweep(target, "two") == sweep
    assert sweep_records(target, sweep) == sweep_records(store, sweep)
    checkpoint = sweep_records(target, sweep)[0].checkpoints[-1]
    content = (run_folder(target, sweep.runs[0]) / checkpoint.synthetic_set).read_bytes()
    assert hashlib.sha256(content).hexdigest() == checkpoint.sha256


def test_another_sweep_joins_those_that_were_shipped(
    store: Path, sweep: Sweep, tmp_path: Path
) -> None:
    target = tmp_path / "shipped"
    ship(store, Sweep("first", "", sweep.runs[:1]), target)
    ship(store, sweep, target)
    once = contents(target)
    ship(store, sweep, target)
    assert contents(target) == once
    assert started_sweeps(target) == ["first", "two"]
    assert len(list(all_records(target))) == 2


def test_a_run_without_a_record_is_refused(store: Path, sweep: Sweep, tmp_path: Path) -> None:
    folder = run_folder(store, sweep.runs[1])
    (folder / FILE).unlink()
    with pytest.raises(ObdBenchError, match=f"{folder} has no complete record"):
        ship(store, sweep, tmp_path / "shipped")


def test_a_failed_run_is_refused(store: Path, sweep: Sweep, tmp_path: Path) -> None:
    error = Failure(type="OSError", message="", traceback="")
    change_record(store, sweep, status="failed", score=None, error=error)
    with pytest.raises(ObdBenchError, match=r"has no complete record, .* finish the sweep first"):
        ship(store, sweep, tmp_path / "shipped")


def test_a_run_that_diverged_is_an_outcome(store: Path, sweep: Sweep, tmp_path: Path) -> None:
    """Without it the mean of its cell would be one over the runs that went well."""
    error = Failure(type="NotFinite", message="", traceback="")
    change_record(store, sweep, status="failed", score=None, error=error)
    assert ship(store, sweep, tmp_path / "shipped") == 2
    shipped = sweep_records(tmp_path / "shipped", sweep)
    assert sorted(record.status for record in shipped) == ["complete", "failed"]


def test_a_run_of_changed_code_is_refused(store: Path, sweep: Sweep, tmp_path: Path) -> None:
    path = change_record(store, sweep, provenance__dirty=True)
    with pytest.raises(ObdBenchError, match=f"{path} was made by code with uncommitted changes"):
        ship(store, sweep, tmp_path / "shipped")


def test_a_set_that_is_not_the_records_is_refused_and_not_copied(
    store: Path, sweep: Sweep, tmp_path: Path
) -> None:
    path = run_folder(store, sweep.runs[0]) / "set-00000006.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ObdBenchError, match=f"{path} has sha256"):
        ship(store, sweep, tmp_path / "shipped")
    assert not list((tmp_path / "shipped").rglob("*.safetensors"))


def test_an_earlier_set_that_was_lost_does_not_matter(
    store: Path, sweep: Sweep, tmp_path: Path
) -> None:
    (run_folder(store, sweep.runs[0]) / "set-00000002.safetensors").unlink()
    assert ship(store, sweep, tmp_path / "shipped") == 2


def test_a_refused_sweep_leaves_nothing(store: Path, sweep: Sweep, tmp_path: Path) -> None:
    (run_folder(store, sweep.runs[1]) / FILE).unlink()
    with pytest.raises(ObdBenchError):
        ship(store, sweep, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()


def test_a_shipping_that_is_cut_off_leaves_no_record_without_its_set(
    store: Path, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    copy = shutil.copyfile

    def copy_one(source: Path, target: Path) -> None:
        if len(copied) == most:
            Path(target).write_bytes(source.read_bytes()[:10])
            raise KeyboardInterrupt
        copied.append(source.name)
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", copy_one)
    for most in range(3):
        target = tmp_path / f"shipped{most}"
        copied.clear()
        with pytest.raises(KeyboardInterrupt):
            ship(store, sweep, target)
        assert [name for name in copied if name == FILE] == [FILE] * (most // 2)
        for path in target.rglob(FILE):
            record = read_record(path)
            if record.checkpoints[-1].synthetic_set:
                check_set(record, record.checkpoints[-1], path.parent)
        assert len(contents(target)) == most


def test_a_link_out_of_the_shipped_store_is_not_followed(
    store: Path, sweep: Sweep, tmp_path: Path
) -> None:
    target, outside = tmp_path / "shipped", tmp_path / "outside"
    outside.mkdir()
    target.mkdir()
    (target / sweep.runs[0].cell_id).symlink_to(outside)
    with pytest.raises(BadName, match="leads out of"):
        ship(store, sweep, target)
    assert not list(outside.iterdir())


def test_unknown_code_is_refused(store: Path, sweep: Sweep, tmp_path: Path) -> None:
    change_record(store, sweep, provenance__dirty=None, provenance__commit=None)
    with pytest.raises(ObdBenchError, match="unknown commit"):
        ship(store, sweep, tmp_path / "shipped")


def _study_result(dirty: bool) -> StudyResult:
    return StudyResult(
        "s", "a/b", {"sha256": "x"}, {"n": 1}, 1, [{"v": 2.5}], 0.1, {"dirty": dirty}
    )


def test_a_studys_results_are_shipped_as_they_are(tmp_path: Path) -> None:
    write_result(tmp_path / "from", _study_result(dirty=False))
    assert ship_study(tmp_path / "from", "s", tmp_path / "to") == 1
    assert study_results(tmp_path / "to", "s") == [_study_result(dirty=False)]
    assert contents(tmp_path / "to") == contents(tmp_path / "from")


def test_a_result_of_changed_code_is_not_shipped(tmp_path: Path) -> None:
    write_result(tmp_path / "from", _study_result(dirty=True))
    with pytest.raises(ObdBenchError, match=r"a-b\.json was made by code with uncommitted changes"):
        ship_study(tmp_path / "from", "s", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_no_shipped_result_of_a_study_can_be_altered_unseen() -> None:
    paths = sorted((SHIPPED / "studies").glob("*/*.json"))
    assert len(paths) > 80
    for path in paths:
        assert DIGEST in json.loads(path.read_text()), path
        read_result(path)
