"""`obdbench density`: fit, import and list, as a user types them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.errors import ObdBenchError
from obdbench.cli.app import app

pytestmark = pytest.mark.usefixtures("own_datasets")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_fit_then_list_shows_the_held_out_likelihood(small_dataset: Dataset) -> None:
    run("density", "fit", small_dataset.name, "--epochs", "1")
    run("density", "fit", small_dataset.name, "--recipe", "kde")

    files = DatasetName.parse(small_dataset.name).folder.glob("log_density.*.safetensors")
    listed = run("density", "list")

    assert sorted(path.name.split(".")[1] for path in files) == ["kde", "maf"]
    assert "kde" in listed and "maf" in listed and "epochs=1" in listed and "±" in listed


def test_a_damaged_file_is_one_row_and_hides_no_other(
    small_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path))
    run("density", "fit", small_dataset.name, "--recipe", "knn")
    folder = DatasetName.parse(small_dataset.name).folder
    (folder / "log_density.kde.0123.safetensors").write_bytes(b"no")
    (tmp_path / "densities").mkdir()
    (tmp_path / "densities" / "log_density.maf.0123.safetensors").write_bytes(b"no")
    listed = run("density", "list")
    assert listed.count("broken:") == 2
    assert "neighbours=10" in listed


def test_import_takes_a_numpy_file(small_dataset: Dataset, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.linspace(-80, 3, len(small_dataset)))

    run("density", "import", str(tmp_path / "x.npy"), "--dataset", small_dataset.name)

    assert "imported" in run("density", "list")
    with pytest.raises(ObdBenchError, match="exists already, and nothing was done"):
        run("density", "import", str(tmp_path / "x.npy"), "--dataset", small_dataset.name)
    run("density", "import", str(tmp_path / "x.npy"), "--dataset", small_dataset.name, "--force")


def test_import_of_another_length_is_refused(small_dataset: Dataset, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(5))
    with pytest.raises(ObdBenchError, match="one log density per transition"):
        run("density", "import", str(tmp_path / "x.npy"), "--dataset", small_dataset.name)


def test_epochs_are_for_recipes_that_have_them(small_dataset: Dataset) -> None:
    with pytest.raises(ObdBenchError, match="Unknown key 'epochs' in the density recipe knn"):
        run("density", "fit", small_dataset.name, "--recipe", "knn", "--epochs", "3")


def test_recipes_are_listed_with_the_other_registries() -> None:
    listed = run("list")
    assert "density recipe" in listed
    assert "Masked autoregressive flow on zuko" in listed
