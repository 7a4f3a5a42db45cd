"""`obdbench paper`: what it writes, what it leaves out, and what it says of either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark.record import read_record
from paper_figures.exhibits import EXHIBITS
from results.comparison import JUDGED

# The shipped sweep of this name at the smallest size that still has several seeds and sizes.
SIZES = """
name = "sizes"
datasets = ["{dataset}"]
seeds = 2

[protocol]
name = "tiny"
students = 2
episodes = 2
checkpoint_every = 2
last = 2

[student]
width = 8
depth = 2
steps = 4

[[methods]]
name = "random"
grid.synthetic_size = {sizes}
"""


def sweep(cli: Any, tmp_path: Path, dataset: str, sizes: list[int]) -> None:
    path = tmp_path / "sizes.toml"
    path.write_text(SIZES.format(dataset=dataset, sizes=sizes))
    assert cli("sweep", path, "--jobs", "1").code == 0


def test_the_named_table_and_figure_are_written_and_their_files_printed(
    cli: Any, tmp_path: Path, small_dataset_name: str, record_store: Path
) -> None:
    sweep(cli, tmp_path, small_dataset_name, [2, 4])
    to = tmp_path / "paper"
    names = ("obd-table-5", "obd-table-5-figure")
    done = cli("paper", *names[::-1], "--store", record_store, "--to", to)
    assert (done.code, done.err) == (0, "")
    files = [f"{names[0]}.{ending}" for ending in ("md", "csv", "tex")]
    files += [f"{names[1]}.{ending}" for ending in ("pdf", "png", "svg")]
    printed = [line.strip() for line in done.out.splitlines() if line.startswith("  ")]
    assert printed == [str(to / name) for name in files]
    assert sorted(path.name for path in to.iterdir()) == sorted(files)
    assert "obd-table-5: OBD's synthetic sizes: scores of 16 to 256 pairs." in done.out

    scores: dict[str, list[float]] = {}
    for path in record_store.glob("*/seed*/record.json"):
        record = read_record(path)
        scores.setdefault(record.cell_id, []).append(record.score.normalized_return)
    data = pd.read_csv(to / "obd-table-5.csv").set_index("cell_id")
    assert data["value"].to_dict() == pytest.approx({c: np.mean(s) for c, s in scores.items()})

    again = cli("paper", *names, "--store", record_store, "--to", tmp_path / "again")
    assert again.code == 0
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (to / name).read_bytes()


ENDINGS = ("csv", "md", "tex")


def test_without_names_everything_is_tried_and_what_lacks_records_is_named(
    cli: Any, tmp_path: Path, record_store: Path
) -> None:
    done = cli("paper", "--store", record_store, "--to", tmp_path / "paper")
    assert done.code == 0
    left_out = done.err.splitlines()
    of_sweeps = [exhibit for exhibit in EXHIBITS if exhibit.sweep or exhibit.study]
    for exhibit, line in zip(of_sweeps, left_out, strict=True):
        assert line.startswith(f"{exhibit.name}: left out: {record_store} holds no re")
        makes = f"study {exhibit.study}" if exhibit.study else f"sweep {exhibit.sweep}"
        assert line.endswith(f"obdbench {makes} --store {record_store}")
    # Every published number is shown, next to nothing but the shipped scores of authors' files.
    assert sorted(path.name for path in (tmp_path / "paper").iterdir()) == [
        f"{name}.{ending}" for name in ("authors-files", "reproduction") for ending in ENDINGS
    ]
    data = pd.read_csv(tmp_path / "paper" / "reproduction.csv")
    assert set(data["n"][~data["verdict"].isin(JUDGED)]) == {0}


def test_records_that_make_no_figure_are_said_and_stop_nothing(
    cli: Any, tmp_path: Path, small_dataset_name: str, record_store: Path
) -> None:
    sweep(cli, tmp_path, small_dataset_name, [2])
    names = ("obd-table-5", "obd-table-5-figure", "reproduction")
    done = cli("paper", *names, "--store", record_store, "--to", tmp_path / "paper")
    assert done.err.startswith("obd-table-5-figure: left out: No method has complete runs at two")
    assert done.err.count("\n") == 1
    written = {path.stem for path in (tmp_path / "paper").iterdir()}
    assert written == {"obd-table-5", "reproduction"}


def test_a_name_that_nothing_has_is_answered_with_the_nearest_before_anything_is_written(
    cli: Any, tmp_path: Path, record_store: Path
) -> None:
    to = tmp_path / "paper"
    done = cli("paper", "reproduction", "obd-tabel-1", "--store", record_store, "--to", to)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: No table or figure is called 'obd-tabel-1'. Did you mean ")
    assert "'obd-table-1'" in done.err
    assert not to.exists()


def test_a_record_that_cannot_be_read_is_an_error_not_a_gap(
    cli: Any, tmp_path: Path, record_store: Path
) -> None:
    path = record_store / "hopper-medium.dbc.0" / "seed0" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    done = cli("paper", "reproduction", "--store", record_store, "--to", tmp_path / "paper")
    assert done.code == 1
    assert f"{path} is not JSON" in done.err


def test_a_broken_file_is_said_and_stops_nothing_but_the_command_fails(
    cli: Any, tmp_path: Path, small_dataset_name: str, record_store: Path
) -> None:
    sweep(cli, tmp_path, small_dataset_name, [2, 4])
    broken = record_store / "studies" / "transfer" / "x.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    done = cli("paper", "hades-transfer", "obd-table-5", "--store", record_store, "--to", tmp_path)
    assert done.code == 1
    assert f"hades-transfer: left out: {broken} cannot be read as a study's result" in done.err
    assert "obd-table-5: " in done.out
