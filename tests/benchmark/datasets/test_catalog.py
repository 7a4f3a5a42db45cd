"""A dataset of the store is exactly what was built, or the message says what to do."""

from __future__ import annotations

import errno
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import benchmark.datasets.catalog as catalog
from benchmark.datasets.catalog import (
    build_dataset,
    dataset_card,
    load_dataset,
    local_datasets,
    write_dataset,
)
from benchmark.datasets.dataset import Dataset, DatasetProblem
from benchmark.datasets.source import DatasetName
from benchmark.registry import UnknownName

NAME = "hopper/medium@2000"


@pytest.fixture
def name(own_datasets: Path) -> DatasetName:
    """`hopper/medium@2000`, in a store that the test may break."""
    return DatasetName.parse(NAME)


@pytest.fixture
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "empty"))
    return tmp_path / "empty"


def same(one: Dataset, other: Dataset) -> bool:
    arrays = zip(one.arrays().items(), other.arrays().items(), strict=True)
    return (one.name, one.env_id, one.reference) == (
        other.name,
        other.env_id,
        other.reference,
    ) and all(a == b and np.array_equal(x, y) and x.dtype == y.dtype for (a, x), (b, y) in arrays)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size", "written", "minari_id", "command"),
    [
        (
            "hopper/medium",
            200_000,
            "hopper/medium",
            "obdbench/hopper/medium-v0",
            "obdbench data build hopper/medium",
        ),
        (
            "hopper/medium@200000",
            200_000,
            "hopper/medium",
            "obdbench/hopper/medium-v0",
            "obdbench data build hopper/medium",
        ),
        (
            "hopper/medium@500",
            500,
            "hopper/medium@500",
            "obdbench/hopper/medium-500-v0",
            "obdbench data build hopper/medium --size 500",
        ),
    ],
)
def test_every_size_is_a_dataset_of_its_own_with_one_way_to_write_it(
    session_folders: Path, text: str, size: int, written: str, minari_id: str, command: str
) -> None:
    name = DatasetName.parse(text)

    assert name.size == size and str(name) == written
    assert name.minari_id == minari_id and name.build_command == command
    assert name.folder == session_folders / "datasets" / minari_id


@pytest.mark.parametrize("size", ["", "0", "-5", "many", "1e5", "²", "10@20"])
def test_size_that_is_no_number_is_refused(size: str) -> None:
    with pytest.raises(DatasetProblem, match=r"expected a positive number.*hopper/medium@50000"):
        DatasetName.parse(f"hopper/medium@{size}")


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'hopper/medium'"):
        DatasetName.parse("hopper/mediun@500")


# --- building and loading ------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_built(small_dataset: Dataset) -> None:
    assert same(load_dataset(DatasetName.parse(NAME)), small_dataset)
    assert small_dataset.name == NAME and len(small_dataset) == 2000


def test_building_what_is_there_loads_it(
    name: DatasetName, small_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        catalog, "write_dataset", lambda *_, **__: pytest.fail("it was built again")
    )

    assert same(build_dataset(name), small_dataset)


def test_building_anew_gives_the_same_content(name: DatasetName, small_dataset: Dataset) -> None:
    before = (name.folder / "card.json").stat().st_mtime_ns

    rebuilt = build_dataset(name, threads=2, force=True)

    assert (name.folder / "card.json").stat().st_mtime_ns > before
    assert rebuilt.sha256 == small_dataset.sha256
    assert load_dataset(name).sha256 == small_dataset.sha256


def test_other_seed_is_refused_where_one_is_there_and_built_when_forced(
    empty_store: Path,
) -> None:
    name = DatasetName.parse("hopper/medium@50")
    first = build_dataset(name)

    with pytest.raises(DatasetProblem) as error:
        build_dataset(name, seed=1)
    assert "with seed 0, you asked for seed 1" in str(error.value)
    assert f"`{name.build_command} --seed 1 --force`" in str(error.value)

    second = build_dataset(name, seed=1, force=True)
    assert second.sha256 != first.sha256
    assert dataset_card(name)["seed"] == 1
    assert load_dataset(name).sha256 == second.sha256


def test_build_that_was_killed_is_simply_built_again(
    empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = DatasetName.parse("hopper/medium@50")

    def killed(path: Path, content: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(catalog, "write_atomic", killed)
        build_dataset(name)
    assert name.folder.exists()
    with pytest.raises(DatasetProblem, match="is not in the local store"):
        load_dataset(name)

    assert len(build_dataset(name)) == 50
    assert len(load_dataset(name)) == 50


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_rebuild_that_meets_a_full_disk_leaves_what_was_there(
    name: DatasetName, small_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(catalog, "save_file", full_disk)
        build_dataset(name, force=True)
    assert same(load_dataset(name), small_dataset)
    assert [path.name for path in name.folder.parent.iterdir() if path.name.startswith("-")] == []


def test_a_rebuild_after_a_killed_one_leaves_one_dataset(name: DatasetName) -> None:
    for part in ("new", "old"):  # as a killed rebuild leaves them
        shutil.copytree(name.folder, name.folder.with_name(f"-{part}-{name.folder.name}"))
    before = local_datasets()  # others are of other tests
    assert before.count(name) == 1
    build_dataset(name, force=True)
    assert local_datasets() == before
    assert [path.name for path in name.folder.parent.iterdir() if path.name.startswith("-")] == []
    stored = minari.load_dataset(name.minari_id)
    assert (stored.spec.dataset_id, stored.total_steps) == (name.minari_id, 2000)
    assert name.minari_id in minari.list_local_datasets()


def test_a_rebuild_that_was_killed_between_its_renames_loses_nothing(
    name: DatasetName, small_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    name.folder.rename(name.folder.with_name(f"-old-{name.folder.name}"))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(catalog, "save_file", full_disk)
        build_dataset(name)
    assert same(load_dataset(name), small_dataset)


@pytest.mark.parametrize("names", [("local/a", "local/a-v0/b"), ("local/a-v0/b", "local/a")])
def test_a_dataset_in_the_folder_of_another_is_refused(
    names: tuple[str, str], small_dataset: Dataset, empty_store: Path
) -> None:
    first, second = map(DatasetName.parse, names)
    write_dataset(first, replace(small_dataset, name=names[0]), seed=None, description="mine")
    with pytest.raises(DatasetProblem, match="one would be deleted with the other"):
        write_dataset(second, replace(small_dataset, name=names[1]), seed=None, description="mine")
    assert load_dataset(first).sha256 == small_dataset.sha256
    assert local_datasets() == [first]


def test_a_rebuild_keeps_log_densities_of_the_same_content(
    name: DatasetName, small_dataset: Dataset
) -> None:
    values = {"log_density": np.zeros(2000, np.float32)}
    of_content = {"same": small_dataset.sha256, "other": "0" * 64}
    for recipe, sha256 in of_content.items():
        facts = json.dumps({"dataset_sha256": sha256})
        file = name.folder / f"log_density.{recipe}.0123.safetensors"
        save_file(values, file, metadata={"facts": facts})
    (name.folder / "log_density.damaged.0123.safetensors").write_bytes(b"no")
    content = (name.folder / "log_density.same.0123.safetensors").read_bytes()

    build_dataset(name, force=True)
    (kept,) = name.folder.glob("log_density.*")
    assert kept.name == "log_density.same.0123.safetensors" and kept.read_bytes() == content


def test_card_says_what_the_dataset_is(small_dataset: Dataset) -> None:
    card = dataset_card(DatasetName.parse(NAME))
    returns = small_dataset.episode_returns

    assert card["name"] == NAME and card["environment"] == "Hopper-v5"
    assert card["size"] == 2000 and card["episodes"] == len(small_dataset.lengths)
    assert card["returns"] == pytest.approx(
        {"mean": returns.mean(), "sd": returns.std(), "max": returns.max()}
    )
    assert card["sha256"] == small_dataset.sha256


def test_minari_sees_the_same_episodes(small_dataset: Dataset) -> None:
    opened = minari.load_dataset(DatasetName.parse(NAME).minari_id)

    assert opened.total_steps == 2000
    assert opened.total_episodes == len(small_dataset.lengths)
    assert opened.recover_environment().spec.id == "Hopper-v5"
    metadata = opened.storage.metadata
    assert metadata["ref_min_score"] == small_dataset.reference.random
    assert metadata["ref_max_score"] == small_dataset.reference.expert
    start = 0
    for index, length in enumerate(small_dataset.lengths.tolist()):
        episode = opened[index]
        rows = slice(start, start + length)
        np.testing.assert_array_equal(
            episode.observations[:-1], small_dataset.observations[rows], strict=True
        )
        np.testing.assert_array_equal(
            episode.observations[1:], small_dataset.next_observations[rows], strict=True
        )
        np.testing.assert_array_equal(episode.actions, small_dataset.actions[rows], strict=True)
        np.testing.assert_array_equal(episode.rewards, small_dataset.rewards[rows])
        np.testing.assert_array_equal(episode.terminations, small_dataset.terminations[rows])
        np.testing.assert_array_equal(episode.truncations, small_dataset.truncations[rows])
        start += length


def test_local_datasets_are_those_in_the_store(name: DatasetName, own_datasets: Path) -> None:
    assert name in local_datasets()

    foreign = own_datasets / "obdbench" / "theirs-v0"
    for text in ('{"name": "nobody/knows"}', '{"title": 1}', "[1]", "not JSON"):
        foreign.mkdir(exist_ok=True)
        (foreign / "card.json").write_text(text)
        assert name in local_datasets()
    shutil.copytree(name.folder, DatasetName.parse("hopper/medium@3000").folder)
    assert local_datasets().count(name) == 1
    shutil.rmtree(name.folder)
    assert name not in local_datasets()


def test_empty_store_has_no_datasets(empty_store: Path) -> None:
    assert local_datasets() == []


# --- what breaks ---------------------------------------------------------------------------------


def _edit_card(
    folder: Path, change: Callable[[dict[str, Any]], object], *, signed: bool = False
) -> None:
    """Change a card: one of an older version, which has no digest, unless it is `signed`."""
    card = json.loads((folder / "card.json").read_text())
    change(card)
    if not signed:
        card.pop("card_sha256", None)
    (folder / "card.json").write_text(json.dumps(card))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _flat(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    arrays = load_file(folder / "transitions.safetensors")
    change(arrays)
    save_file(arrays, folder / "transitions.safetensors")


MAIN, FLAT, CARD = "data/main_data.hdf5", "transitions.safetensors", "card.json"

DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated HDF5": (
        lambda f: _truncate(f / MAIN),
        MAIN,
        r"has \d+ bytes, expected \d+: it is truncated",
    ),
    "altered byte in HDF5": (
        lambda f: _flip_byte(f / MAIN),
        MAIN,
        r"has sha256 \w{64}, expected \w{64}: it was altered",
    ),
    "missing HDF5": (lambda f: (f / MAIN).unlink(), MAIN, "is missing"),
    "altered byte in the flat copy": (
        lambda f: _flip_byte(f / FLAT),
        FLAT,
        r"has content sha256 \w{64}, expected \w{64}: it was altered",
    ),
    "truncated flat copy": (lambda f: _truncate(f / FLAT), FLAT, "cannot be read"),
    "missing flat copy": (lambda f: (f / FLAT).unlink(), FLAT, "cannot be read"),
    "array left out of the flat copy": (
        lambda f: _flat(f, lambda a: a.pop("rewards")),
        FLAT,
        r"has shapes .*, expected .*'rewards': \[2000\]",
    ),
    "array added to the flat copy": (
        lambda f: _flat(f, lambda a: a.update(extra=np.zeros(1))),
        FLAT,
        r"has shapes .*'extra': \[1\].*, expected",
    ),
    "NaN in the flat copy": (
        lambda f: _flat(f, lambda a: a["actions"].__setitem__((7, 1), np.nan)),
        FLAT,
        "not finite in 'actions'",
    ),
    "other type in the flat copy": (
        lambda f: _flat(f, lambda a: a.update(rewards=a["rewards"].astype(np.float64))),
        FLAT,
        "has content sha256",
    ),
    "wrong shape in the card": (
        lambda f: _edit_card(f, lambda c: c["shapes"].update(actions=[2000, 4])),
        FLAT,
        r"has shapes .*'actions': \[2000, 3\].*, expected .*'actions': \[2000, 4\]",
    ),
    "card of another dataset": (
        lambda f: _edit_card(f, lambda c: c.update(name="hopper/medium")),
        CARD,
        r"is the card of 'hopper/medium', expected 'hopper/medium@2000'",
    ),
    "card without a digest": (
        lambda f: _edit_card(f, lambda c: (c.pop("sha256"), c.pop("hdf5"))),
        CARD,
        "lacks 'sha256', 'hdf5'",
    ),
    "card of another kind": (
        lambda f: (f / CARD).write_text("[]"),
        CARD,
        "is not the card of a dataset: it is of type list, expected an object",
    ),
    "card that is a number": (
        lambda f: (f / CARD).write_text("5"),
        CARD,
        "is not the card of a dataset: it is of type int, expected an object",
    ),
    "altered card": (
        lambda f: _edit_card(f, lambda c: c["reference_returns"].update(expert=1.0), signed=True),
        CARD,
        "was altered: its content has another sha256",
    ),
    "card with another type": (
        lambda f: _edit_card(f, lambda c: c.update(hdf5=[])),
        CARD,
        r"is not the card of a dataset: Expected `object`, got `array` - at `\$.hdf5`",
    ),
    "card in no encoding": (lambda f: (f / CARD).write_bytes(b"{\xff}"), CARD, "is not JSON"),
    "truncated card": (lambda f: _truncate_card(f / CARD), CARD, "is not JSON"),
    "missing card": (lambda f: (f / CARD).unlink(), "", "is not in the local store"),
    "missing folder": (shutil.rmtree, "", "is not in the local store"),
}


def _truncate_card(path: Path) -> None:
    path.write_text(path.read_text()[:100])


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_with_file_finding_expectation_and_command(
    name: DatasetName, case: str
) -> None:
    damage, file, finding = DAMAGE[case]
    assert len(load_dataset(name)) == 2000
    damage(name.folder)

    with pytest.raises(DatasetProblem) as error:
        load_dataset(name)

    message = str(error.value)
    assert str(name.folder / file) in message
    assert re.search(finding, message), message
    assert name.build_command in message


@pytest.mark.parametrize("case", ["truncated HDF5", "truncated card", "missing card"])
def test_command_in_the_message_mends_it(
    name: DatasetName, small_dataset: Dataset, case: str
) -> None:
    from obdbench.cli.app import app

    DAMAGE[case][0](name.folder)
    with pytest.raises(DatasetProblem) as error:
        load_dataset(name)
    command = re.findall("`(obdbench .*?)`", str(error.value))[0]

    result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)

    assert result.exit_code == 0
    assert same(load_dataset(name), small_dataset)
