"""Shared folders that can only be read, and disks that are full."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.record import FILE

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@contextlib.contextmanager
def mounted(folder: Path, *mounts: tuple[str, ...]) -> Iterator[None]:
    """Mount at a folder; skip the test where even root may not."""
    for options in mounts:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def read_only(folder: Path) -> contextlib.AbstractContextManager[None]:
    return mounted(folder, ("--bind", str(folder)), ("-o", "remount,ro,bind"))


@pytest.fixture
def done(
    cli: Any,
    sweep_file: Path,
    own_datasets: Path,
    record_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A store whose sweep of two runs is done, with datasets of its own."""
    monkeypatch.setenv("OBDBENCH_CACHE", str(own_datasets.parent / "cache"))
    assert cli("sweep", sweep_file, "--jobs", "1").code == 0
    return record_store


@root
def test_a_store_and_datasets_that_can_only_be_read_are_read(
    done: Path,
    cli: Any,
    sweep_file: Path,
    own_datasets: Path,
    tmp_path: Path,
    small_dataset_name: str,
) -> None:
    shutil.rmtree(done / "reports")
    run = next(done.glob("*/seed0")).parent.name + ".seed0"
    with read_only(done), read_only(own_datasets):
        for command in (
            ("status", "tiny"), ("report", "tiny", "--to", tmp_path / "report.html"),
            ("table", "tiny", "--to", tmp_path / "table"), ("verify", run), ("cancel", "tiny"),
            ("export", run, "--to", tmp_path / "set.npz"), ("data", "info", small_dataset_name),
            ("density", "fit", small_dataset_name, "--recipe", "knn"),
            ("run", "random", small_dataset_name, "--protocol", "smoke", "--set", "student.steps=2",
             "--store", tmp_path / "other"),
        ):  # fmt: skip
            found = cli(*command)
            assert found.code == 0, f"{command}: {found.err}"
        for command in (("table", "tiny"), ("collect", "tiny"), ("sweep", sweep_file, "--jobs", 1)):
            found = cli(*command)
            assert found.code == 1 and "2 seeds" in found.out, f"{command}: printed, if not written"
            assert f"{done / 'reports'} cannot be used: Read-only file system" in found.err
            assert "obdbench table tiny --to FOLDER" in found.err
        found = cli("density", "list")
        assert "knn" in found.out, "what was fitted is in the cache"


@root
@pytest.mark.parametrize("ending", ["table.md", "convergence.pdf"])
def test_a_full_disk_shows_the_table_and_names_the_file(
    done: Path, cli: Any, ending: str, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted(folder, ("-t", "tmpfs", "-o", "size=16k", "tmpfs")):
        with contextlib.suppress(OSError):
            if ending == "table.md":
                (folder / "filler").write_bytes(bytes(20_000))
        found = cli("table", "tiny", "--to", folder)
        assert found.code == 1 and "2 seeds" in found.out
        assert f"{folder / ending} cannot be used: No space left on device" in found.err
        values = cli("table", "tiny", "--to", folder, "--json")
        assert values.code == 1 and len(json.loads(values.out)["rows"]) == 1
        found = cli("report", "tiny", "--to", folder / "report.html")
        assert found.code == 1
        assert f"{folder / 'report.html'} cannot be used: No space left on device" in found.err
        found = cli("export", next(done.glob("*/seed0")), "--format", "safetensors", "--to",
                    folder / "set.safetensors")  # fmt: skip
        assert found.code in (0, 1)
        assert found.code == 0 or "No space left on device" in found.err
        assert (folder / "set.safetensors").exists() == (found.code == 0)


@root
def test_a_run_on_a_full_disk_names_the_file(
    cli: Any, tmp_path: Path, small_dataset_name: str
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted(folder, ("-t", "tmpfs", "-o", "size=4k", "tmpfs")):
        found = cli("run", "random", small_dataset_name, "--protocol", "smoke", "--store", folder)
    assert found.code == 1
    assert FILE in found.err and "No space left on device" in found.err


def test_a_store_that_is_a_file_is_named(cli: Any, sweep_file: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    for command in (
        ("sweep", sweep_file, "--jobs", "1"),
        ("new-method", "mine", "--folder", tmp_path / "store"),
        ("paper", "obd-table-1", "--to", tmp_path / "store"),
    ):
        found = cli(*command, *(("--store", tmp_path / "store") if command[0] == "sweep" else ()))
        assert found.code == 1
        assert (
            f"{tmp_path / 'store'}" in found.err and "A file is where a folder must be" in found.err
        )
