"""A dataset's log densities are fitted once, checked when they are read, and never half made."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.density.density import DensityProblem
from benchmark.density.kde import KDE, KernelDensity
from benchmark.density.log_densities import (
    Fit,
    find_or_fit,
    held_out_episodes,
    import_log_density,
    load_log_density,
    stored_densities,
)
from benchmark.density.maf import MAF
from benchmark.registry import UnknownName

pytestmark = pytest.mark.usefixtures("own_datasets")

QUICK = Fit.of("maf", {"epochs": 2})


@pytest.fixture
def count_fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every fit of a flow."""
    fits: list[str] = []
    fit = MAF.fit

    def counted(self: MAF, *arguments: Any, **options: Any) -> Any:
        fits.append("maf")
        return fit(self, *arguments, **options)

    monkeypatch.setattr(MAF, "fit", counted)
    return fits


def test_second_call_reads_what_the_first_fitted(
    small_dataset: Dataset, count_fits: list[str]
) -> None:
    first = find_or_fit(small_dataset, QUICK)
    second = find_or_fit(small_dataset, QUICK)

    assert count_fits == ["maf"]
    assert torch.equal(first.values, second.values) and first.facts == second.facts
    assert first.values.shape == (len(small_dataset),) and first.values.dtype == torch.float64
    assert QUICK.path(small_dataset).parent == DatasetName.parse(small_dataset.name).folder


def test_other_settings_seed_or_recipe_are_other_files(small_dataset: Dataset) -> None:
    others = [Fit.of("maf"), Fit.of("maf", {"epochs": 2}, seed=1), Fit.of("kde")]
    assert len({fit.path(small_dataset) for fit in [QUICK, *others]}) == 4
    assert Fit.of("maf", {"epochs": 50}).path(small_dataset) == Fit.of("maf").path(small_dataset)


def test_fit_again_gives_the_same_digest_though_it_took_other_seconds(
    small_dataset: Dataset,
) -> None:
    first = find_or_fit(small_dataset, QUICK).facts
    QUICK.path(small_dataset).unlink()
    second = find_or_fit(small_dataset, QUICK).facts

    assert first["sha256"] == second["sha256"]
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_facts_say_what_was_fitted_and_how_well(small_dataset: Dataset) -> None:
    density = find_or_fit(small_dataset, QUICK)
    facts = density.facts
    held_out = np.repeat(held_out_episodes(small_dataset, 0), small_dataset.lengths)

    assert facts["recipe"] == "maf" and facts["parameters"]["epochs"] == 2
    assert facts["parameters"]["width"] == 100 and facts["seed"] == 0
    assert facts["dataset_sha256"] == small_dataset.sha256
    assert facts["not_finite"]["count"] == 0 and facts["seconds"] > 0
    for part, rows in (("held_out", held_out), ("train", ~held_out)):
        assert facts[part]["mean"] == pytest.approx(density.values.numpy()[rows].mean())
        assert facts[part]["states"] == rows.sum()


def test_standard_error_is_over_episodes(small_dataset: Dataset) -> None:
    """Against a bootstrap of whole episodes."""
    density = find_or_fit(small_dataset, QUICK)
    out = held_out_episodes(small_dataset, 0)
    pieces = np.split(density.values.numpy(), np.cumsum(small_dataset.lengths)[:-1])
    fitted_on = [piece for piece, is_out in zip(pieces, out, strict=True) if not is_out]
    generator = np.random.default_rng(0)
    means = [
        np.concatenate(
            [fitted_on[i] for i in generator.integers(len(fitted_on), size=len(fitted_on))]
        ).mean()
        for _ in range(2_000)
    ]
    error = density.facts["train"]["standard_error"]
    assert 0.6 < error / np.std(means) < 1.6


def test_whole_episodes_are_held_out_and_a_tenth_of_them(small_dataset: Dataset) -> None:
    held_out = held_out_episodes(small_dataset, 0)
    assert held_out.shape == small_dataset.lengths.shape
    assert held_out.sum() == max(1, round(0.1 * len(held_out)))
    assert np.array_equal(held_out, held_out_episodes(small_dataset, 0))


def test_values_that_are_not_finite_are_replaced_and_counted(
    small_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_prob = KernelDensity.log_prob

    def spoiled(self: KernelDensity, *arguments: Any, **options: Any) -> torch.Tensor:
        values = log_prob(self, *arguments, **options)
        values[[0, 10]] = torch.tensor([torch.nan, torch.inf], dtype=torch.float64)
        return values

    monkeypatch.setattr(KernelDensity, "log_prob", spoiled)
    density = find_or_fit(small_dataset, Fit.of("kde"))

    assert density.values.isfinite().all()
    assert density.facts["not_finite"]["count"] == 2
    assert density.values[0] == density.values.min()
    assert density.values[10] == density.values.max()


def test_altered_file_is_refused_and_says_what_to_do(small_dataset: Dataset) -> None:
    find_or_fit(small_dataset, QUICK)
    path = QUICK.path(small_dataset)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    values = load_file(path)["log_density"]
    values[7] += 1e-9
    save_file({"log_density": values}, path, metadata=metadata)

    with pytest.raises(DensityProblem, match=r"it was altered\. Remove .*, and it is made again"):
        find_or_fit(small_dataset, QUICK)


@pytest.mark.parametrize("content", [b"", b"not safetensors", None], ids=["empty", "text", "cut"])
def test_unreadable_file_is_refused_and_says_what_to_do(
    small_dataset: Dataset, content: bytes | None
) -> None:
    find_or_fit(small_dataset, QUICK)
    path = QUICK.path(small_dataset)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)

    with pytest.raises(DensityProblem, match=r"cannot be read as log densities .* Remove it"):
        find_or_fit(small_dataset, QUICK)


def test_file_of_other_data_is_refused(small_dataset: Dataset, small_dataset_name: str) -> None:
    find_or_fit(small_dataset, QUICK)
    other = load_dataset(DatasetName.parse(small_dataset_name))
    with pytest.raises(DensityProblem, match=r"hopper/medium-expert@2000 has 2000 transitions"):
        load_log_density(QUICK.path(small_dataset), other)


def test_killed_fit_leaves_no_result_and_the_next_one_goes_on(small_dataset: Dataset) -> None:
    path, fit = QUICK.path(small_dataset), Fit.of("maf", {"epochs": 2})

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_or_fit(small_dataset, fit, kill)
    assert not path.exists()

    epochs: list[int] = []
    resumed = find_or_fit(small_dataset, fit, lambda epoch, *_: epochs.append(epoch))
    path.unlink()

    assert epochs == [2]
    assert torch.equal(resumed.values, find_or_fit(small_dataset, fit).values)
    assert not [p for p in path.parent.iterdir() if p.suffix in (".state", ".tmp")]


def fit_counted(log: Path, start: Barrier) -> None:
    """Ask for a density at the same moment as another process; every fit writes a line."""
    fit = KDE.fit

    def counted(self: KDE, *arguments: Any, **options: Any) -> Any:
        with log.open("a") as stream:
            stream.write("fit\n")
        time.sleep(0.2)  # long enough for the other process to ask
        return fit(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KDE, "fit", counted)
        start.wait(60)
        find_or_fit(load_dataset(DatasetName.parse("hopper/medium@2000")), Fit.of("kde"))


def test_processes_that_start_at_once_fit_once(small_dataset: Dataset, tmp_path: Path) -> None:
    context, log = multiprocessing.get_context("spawn"), tmp_path / "fits"
    start = context.Barrier(2)
    other = context.Process(target=fit_counted, args=(log, start))
    other.start()
    fit_counted(log, start)
    other.join()

    assert other.exitcode == 0
    assert log.read_text() == "fit\n"


def test_stored_densities_are_listed_with_their_facts(small_dataset: Dataset) -> None:
    find_or_fit(small_dataset, QUICK)
    find_or_fit(small_dataset, Fit.of("kde"))
    listed = stored_densities([DatasetName.parse(small_dataset.name)])
    assert [facts["recipe"] for *_, facts in listed if isinstance(facts, dict)] == ["kde", "maf"]


def test_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"called 'mfa'\. Did you mean 'maf'"):
        Fit.of("mfa")


# --- import -----------------------------------------------------------------------------------


def test_import_is_kept_beside_the_dataset_with_bad_values_counted(
    small_dataset: Dataset, tmp_path: Path
) -> None:
    values = np.linspace(-90, 5, len(small_dataset)).astype(np.float32)
    values[3] = np.nan
    np.save(tmp_path / "authors.npy", values)

    density = import_log_density(tmp_path / "authors.npy", small_dataset)

    assert density.values[3] == density.values.min() == -90
    assert density.facts["not_finite"]["count"] == 1
    assert density.facts["source"]["file"] == "authors.npy"
    assert torch.equal(find_or_fit(small_dataset, Fit.of("imported")).values, density.values)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(7), r"shape \[7\]; hopper/medium@2000 has 2000 transitions"),
        (np.zeros((2000, 1)), r"shape \[2000, 1\]"),
        (np.zeros(2000, dtype=int), "does not hold an array of floating-point numbers"),
        (np.array([{"a": 1}], dtype=object), "cannot be read as a numpy array"),
    ],
    ids=["length", "shape", "integers", "pickle"],
)
def test_array_that_does_not_fit_is_refused(
    small_dataset: Dataset, tmp_path: Path, array: Any, message: str
) -> None:
    np.save(tmp_path / "file.npy", array, allow_pickle=True)
    with pytest.raises(DensityProblem, match=message):
        import_log_density(tmp_path / "file.npy", small_dataset)


def test_an_empty_file_is_refused(small_dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file.npy").write_bytes(b"")
    with pytest.raises(DensityProblem, match="cannot be read as a numpy array"):
        import_log_density(tmp_path / "file.npy", small_dataset)


def test_import_that_was_never_made_names_its_command(small_dataset: Dataset) -> None:
    with pytest.raises(DensityProblem, match="obdbench density import"):
        find_or_fit(small_dataset, Fit.of("imported"))
