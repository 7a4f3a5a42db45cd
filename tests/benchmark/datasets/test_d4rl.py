"""D4RL's datasets: fetched once, checked against what is published, and named for what they are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import minari
import numpy as np
import pytest

import benchmark.datasets.d4rl as d4rl
from benchmark.datasets.catalog import build_dataset, dataset_card, load_dataset, local_datasets
from benchmark.datasets.d4rl import D4RLSource
from benchmark.datasets.d4rl_facts import (
    compare_statistics,
    d4rl_environment,
    d4rl_file_name,
    d4rl_fingerprint,
    d4rl_names,
    d4rl_reference,
    d4rl_statistics,
)
from benchmark.datasets.dataset import Dataset, DatasetProblem
from benchmark.datasets.download import DownloadProblem, Patience
from benchmark.datasets.hdf5 import read_d4rl_file
from benchmark.datasets.source import DatasetName, dataset_names, find_source
from benchmark.files import Fingerprint
from benchmark.registry import UnknownName
from tests.d4rl_files import Arrays, made_up, qlearning_view, with_next_observations, write_file
from tests.file_server import FileServer

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
NAME = "d4rl/hopper-random-v2"  # nothing of its file is published, so a made-up one may stand in
QUICK = Patience(stall=0.3, attempts=2)


@pytest.fixture
def name(own_folders: Path) -> DatasetName:
    """A D4RL dataset, with nothing in the store and nothing in the cache."""
    return DatasetName.parse(NAME)


@pytest.fixture
def arrays() -> Arrays:
    return with_next_observations(made_up([20, 30, 10], "ton"))


@pytest.fixture
def content(server: FileServer, arrays: Arrays, tmp_path: Path) -> bytes:
    """A file that the server has."""
    server.content = write_file(tmp_path / "served.hdf5", arrays).read_bytes()
    return server.content


def fetch(name: DatasetName, server: FileServer, *, force: bool = False) -> Dataset:
    source = find_source(name.name)
    assert isinstance(source, D4RLSource)
    source = replace(source, mirror=server.url + "/mirror/", patience=QUICK)
    return build_dataset(name, force=force, source=source)


def left_in(folder: Path) -> set[str]:
    """Every file below, but the locks."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


# --- fetching ------------------------------------------------------------------------------------
def test_a_fetched_dataset_is_the_q_learning_view_of_its_file(
    name: DatasetName, server: FileServer, content: bytes, arrays: Arrays
) -> None:
    fetched = fetch(name, server)
    expected = qlearning_view(arrays)

    assert server.requests[0]["path"] == "/mirror/hopper_random-v2.hdf5"
    assert (fetched.name, fetched.env_id) == (NAME, "Hopper-v4")
    assert fetched.reference == d4rl_reference("hopper")
    np.testing.assert_array_equal(fetched.observations, expected["observations"])
    loaded = load_dataset(name)
    assert loaded.sha256 == fetched.sha256
    assert loaded.provenance == fetched.provenance
    assert minari.load_dataset(name.minari_id).total_steps == len(expected["rewards"])
    assert local_datasets() == [name]


def test_the_card_says_where_the_data_come_from(
    name: DatasetName, server: FileServer, content: bytes, own_folders: Path
) -> None:
    fetch(name, server)
    card = dataset_card(name)
    found = Fingerprint.of(own_folders / "served.hdf5")

    assert card["seed"] is None and card["size"] == 58
    assert card["provenance"]["url"] == f"{server.url}/mirror/hopper_random-v2.hdf5"
    assert card["provenance"]["file_sha256"] == found.sha256
    assert card["provenance"]["file_bytes"] == found.bytes
    assert card["provenance"]["statistics"] == "none published"


def test_what_is_there_is_not_fetched_again(
    name: DatasetName, server: FileServer, content: bytes
) -> None:
    fetched = fetch(name, server)
    assert fetch(name, server).sha256 == fetched.sha256
    assert fetch(name, server, force=True).sha256 == fetched.sha256, "from the file in the cache"
    assert len(server.requests) == 1


def test_the_address_is_d4rls_own_or_the_setting_or_the_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = D4RLSource("hopper-medium-replay-v2")
    file = "hopper_medium_replay-v2.hdf5"
    assert source.url == f"{d4rl.PUBLIC_ADDRESS}/{file}"
    monkeypatch.setenv("OBDBENCH_D4RL_MIRROR", "http://mirror/d4rl/")
    assert source.url == f"http://mirror/d4rl/{file}"
    assert replace(source, mirror="http://other").url == f"http://other/{file}"


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ([403], "was answered with 403 Forbidden"),
        ([404], "was answered with 404 Not Found"),
        ([("truncate", 500)] * 2, "broke off after 0 of"),
        ([("stall", 500)] * 2, "broke off after 0 of"),
    ],
)
def test_a_server_that_fails_is_answered_with_what_to_do(
    name: DatasetName, server: FileServer, content: bytes, own_folders: Path, plan: list, says: str
) -> None:
    server.plan = plan
    with pytest.raises(DownloadProblem) as error:
        fetch(name, server)

    message = str(error.value)
    assert says in message
    assert "--mirror or OBDBENCH_D4RL_MIRROR" in message
    assert f"`obdbench data import FILE --as {NAME}`" in message
    assert left_in(own_folders / "datasets") == set()
    resumable = {"hopper_random-v2.hdf5.part", "hopper_random-v2.hdf5.part.json"}
    assert left_in(own_folders / "cache") == (resumable if "broke off" in says else set())


# --- trust on first use --------------------------------------------------------------------------
def test_a_file_that_changes_after_its_first_use_is_refused(
    name: DatasetName, server: FileServer, content: bytes, own_folders: Path, arrays: Arrays
) -> None:
    first = fetch(name, server)
    cache = own_folders / "cache" / "d4rl"
    trusted = json.loads((cache / "trusted.json").read_text())["hopper_random-v2.hdf5"]
    assert trusted["sha256"] == dataset_card(name)["provenance"]["file_sha256"]

    (cache / "hopper_random-v2.hdf5").unlink()
    arrays["rewards"][0] += 1
    server.content = write_file(own_folders / "served.hdf5", arrays).read_bytes()
    with pytest.raises(DownloadProblem, match=f"expected .* sha256 {trusted['sha256']}") as error:
        fetch(name, server, force=True)
    assert f"recorded in {cache / 'trusted.json'} when the file was first used" in str(error.value)
    assert "delete the entry 'hopper_random-v2.hdf5' there" in str(error.value)
    assert left_in(cache) == {"trusted.json"}
    assert load_dataset(name).sha256 == first.sha256, "the dataset that was there stays"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ('{\n"hopper_random-v2.hdf5": {"bytes": 1, "sha256": "a"},\n}', r"line 3: Expecting"),
        ("[]", "it is of type list"),
        ('{"hopper_random-v2.hdf5": 5}', "'hopper_random-v2.hdf5' lacks bytes and sha256"),
        ("{" * 100_000, "line 1|recursion"),
    ],
)
def test_a_damaged_list_of_trusted_files_is_named_with_what_to_do(
    name: DatasetName, server: FileServer, content: bytes, own_folders: Path, damage: str, says: str
) -> None:
    path = own_folders / "cache" / "d4rl" / "trusted.json"
    path.parent.mkdir(parents=True)
    path.write_text(damage)
    with pytest.raises(DownloadProblem, match=says) as error:
        fetch(name, server)
    assert str(error.value).startswith(f"{path} cannot be read (")
    assert "Correct it, or delete it: then each file is trusted anew" in str(error.value)


def test_a_file_that_was_altered_in_the_cache_is_fetched_again(
    name: DatasetName, server: FileServer, content: bytes, own_folders: Path
) -> None:
    first = fetch(name, server)
    (own_folders / "cache" / "d4rl" / "hopper_random-v2.hdf5").write_bytes(content[:-1])
    assert fetch(name, server, force=True).sha256 == first.sha256
    assert len(server.requests) == 2


def test_what_a_login_page_answers_is_not_trusted(
    name: DatasetName, server: FileServer, own_folders: Path, arrays: Arrays
) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(DatasetProblem, match="cannot be read as HDF5"):
        fetch(name, server)
    assert left_in(own_folders / "cache") == left_in(own_folders / "datasets") == set()

    server.content = write_file(own_folders / "served.hdf5", arrays).read_bytes()
    assert len(fetch(name, server)) == 58


def test_a_file_that_a_user_put_into_the_cache_is_read_and_trusted(
    name: DatasetName, server: FileServer, content: bytes, own_folders: Path
) -> None:
    placed = own_folders / "cache" / "d4rl" / "hopper_random-v2.hdf5"
    placed.parent.mkdir(parents=True)
    placed.write_bytes(content)
    assert len(fetch(name, server)) == 58
    assert server.requests == []
    assert placed.read_bytes() == content
    trusted = json.loads(placed.with_name("trusted.json").read_text())[placed.name]
    assert trusted["sha256"] == Fingerprint.of(placed).sha256
    assert dataset_card(name)["provenance"]["url"] == "none, the file was in the cache"


def test_a_file_in_the_cache_that_cannot_be_read_is_named_and_stays(
    name: DatasetName, server: FileServer, content: bytes, own_folders: Path
) -> None:
    placed = own_folders / "cache" / "d4rl" / "hopper_random-v2.hdf5"
    placed.parent.mkdir(parents=True)
    placed.write_bytes(content[:-100])
    with pytest.raises(DatasetProblem, match=f"or delete {re.escape(str(placed))} to have it"):
        fetch(name, server)
    assert left_in(placed.parent) == {placed.name}


def test_a_users_file_that_is_not_the_published_one_is_set_aside_and_not_lost(
    server: FileServer, content: bytes, own_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    placed = own_folders / "cache" / "d4rl" / "hopper_medium_replay-v2.hdf5"
    placed.parent.mkdir(parents=True)
    placed.write_bytes(content)
    server.plan = [404]
    with pytest.raises(DownloadProblem, match="answered with 404"):
        fetch(DatasetName.parse("d4rl/hopper-medium-replay-v2"), server)
    aside = placed.with_name(f"{placed.name}.other")
    assert aside.read_bytes() == content
    assert str(aside) in caplog.text and "expected e121c5f7" in caplog.text


def test_a_file_that_another_process_fetched_meanwhile_stays(
    name: DatasetName, server: FileServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = D4RLSource._read

    def meanwhile(source: D4RLSource, name: str, path: Path) -> Dataset:
        """The other process, between the download of the first and its trust."""
        monkeypatch.setattr(D4RLSource, "_read", read)
        source.build(name, None, 0, 1, None)
        return read(source, name, path)

    monkeypatch.setattr(D4RLSource, "_read", meanwhile)
    assert len(fetch(name, server)) == 58
    assert len(server.requests) == 1, "the other process read the file that was there"


def test_a_file_with_a_published_digest_must_have_it(
    own_folders: Path, server: FileServer, content: bytes
) -> None:
    with pytest.raises(
        DownloadProblem, match=r"expected 75,854,457 bytes with sha256 e121c5f7.*was published for"
    ):
        fetch(DatasetName.parse("d4rl/hopper-medium-replay-v2"), server)
    assert left_in(own_folders / "cache") == set()


# --- the published statistics --------------------------------------------------------------------
def standing_in_for(d4rl_name: str, arrays: Arrays, *, shift: float = 0.0) -> Arrays:
    """The same file with the published statistics, off by `shift` standard deviations."""
    mean, std = (np.array(values) for values in d4rl_statistics(d4rl_name))
    seen = qlearning_view(arrays)["observations"].astype(np.float64)
    normal = (arrays["observations"] - seen.mean(0)) / seen.std(0)
    return {**arrays, "observations": (mean + std * (normal + shift)).astype(np.float32)}


def test_statistics_are_of_the_observations_of_the_view(tmp_path: Path, arrays: Arrays) -> None:
    path = write_file(tmp_path / "file.hdf5", arrays)
    dataset = read_d4rl_file(path, name="x", env_id="Hopper-v4", reference=d4rl_reference("hopper"))
    mean, std = dataset.observation_moments()

    seen = qlearning_view(arrays)["observations"].astype(np.float64)
    np.testing.assert_allclose(mean, seen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, seen.std(0), rtol=1e-12)


@pytest.mark.parametrize(
    ("shift", "result", "warnings"),
    [(0.0, "agree with the published", 0), (0.03, "differ from the published", 1)],
)
def test_a_difference_from_the_published_statistics_is_reported(
    own_folders: Path, shift: float, result: str, warnings: int
) -> None:
    name = "hopper-medium-v2"
    arrays = standing_in_for(name, made_up([400, 500], "to"), shift=shift)
    file = write_file(own_folders / "file.hdf5", arrays)
    dataset = D4RLSource(name, file=file).build(f"d4rl/{name}", None, 0, 1, None)

    assert dataset.provenance["statistics"] == result
    assert dataset.provenance["statistics_differences"]["mean"] == pytest.approx(shift, abs=1e-4)
    found = [text for text in dataset.provenance["warnings"] if "published statistics" in text]
    assert len(found) == warnings
    if warnings:
        assert "by up to 0.03 standard deviations in the mean" in found[0]


def test_other_data_under_its_name_are_refused(own_folders: Path) -> None:
    arrays = standing_in_for("hopper-medium-expert-v2", made_up([400, 500], "to"))
    source = D4RLSource("hopper-medium-v2", file=write_file(own_folders / "file.hdf5", arrays))
    name = DatasetName.parse("d4rl/hopper-medium-v2")

    with pytest.raises(DatasetProblem, match=r"published statistics of hopper-medium-v2.*local/"):
        build_dataset(name, source=source)
    assert local_datasets() == []


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_a_published_file_under_a_name_without_statistics_is_refused(
    own_folders: Path, shift: float
) -> None:
    arrays = standing_in_for("hopper-medium-v2", made_up([400, 500], "to"), shift=shift)
    source = D4RLSource("hopper-expert-v2", file=write_file(own_folders / "file.hdf5", arrays))
    with pytest.raises(DatasetProblem, match=r"statistics of hopper-medium-v2.*d4rl/hopper-medium"):
        build_dataset(DatasetName.parse("d4rl/hopper-expert-v2"), source=source)
    assert local_datasets() == []


def test_content_without_published_statistics_is_said_to_be_unchecked(
    name: DatasetName, server: FileServer, content: bytes
) -> None:
    (warning,) = fetch(name, server).provenance["warnings"]
    assert warning == (
        "No statistics are published for hopper-random-v2; the content of its file was not checked."
    )
    assert dataset_card(name)["provenance"]["warnings"] == [warning]


def test_data_of_another_task_are_refused(tmp_path: Path, arrays: Arrays) -> None:
    path = write_file(tmp_path / "file.hdf5", arrays)
    dataset = read_d4rl_file(path, name="x", env_id="Hopper-v4", reference=d4rl_reference("hopper"))
    with pytest.raises(DatasetProblem, match="have 11 observation dimensions, the published have"):
        compare_statistics(dataset, "walker2d-medium-v2")


def test_a_copy_with_other_bytes_than_the_published_file_is_reported(own_folders: Path) -> None:
    name = "hopper-medium-replay-v2"
    arrays = standing_in_for(name, made_up([400, 500], "to"))
    file = write_file(own_folders / "file.hdf5", arrays)
    dataset = D4RLSource(name, file=file).build(f"d4rl/{name}", None, 0, 1, None)
    (warning,) = dataset.provenance["warnings"]
    assert "D4RL's own file e121c5f7" in warning


# --- names and facts -----------------------------------------------------------------------------
def test_there_are_eighteen_and_the_papers_nine_have_statistics() -> None:
    dims = {"halfcheetah": 17, "hopper": 11, "walker2d": 17}
    assert len(set(d4rl_names())) == 18
    assert {f"d4rl/{name}" for name in d4rl_names()} <= set(dataset_names())
    for task, dim in dims.items():
        for quality in ("medium", "medium-replay", "medium-expert"):
            mean, std = d4rl_statistics(f"{task}-{quality}-v2")
            assert (len(mean), len(std)) == (dim, dim)
            assert min(std) > 0


@pytest.mark.skipif(not (SHARED / "facts").is_dir(), reason=f"no facts in {SHARED}")
def test_the_numbers_are_those_of_the_facts() -> None:
    statistics = json.loads((SHARED / "facts" / "d4rl_v2_observation_stats.json").read_text())
    for name, entry in statistics.items():
        assert d4rl_statistics(name) == (entry["obs_mean"], entry["obs_std"])
    facts = json.loads((SHARED / "facts" / "d4rl_v2.json").read_text())
    for task, entry in facts["reference_returns"].items():
        reference = d4rl_reference(f"{task}-medium-v2")
        assert (reference.random, reference.expert) == (entry["random"], entry["expert"])
    known = {
        d4rl_file_name(name): {"bytes": known.bytes, "sha256": known.sha256}
        for name in d4rl_names()
        if (known := d4rl_fingerprint(name))
    }
    assert known == facts["files"]["known"]
    assert facts["files"]["url_pattern"].startswith(d4rl.PUBLIC_ADDRESS + "/{env}_")


def test_a_name_leads_to_its_environment_or_to_the_nearest_name() -> None:
    assert d4rl_environment("halfcheetah-medium-replay-v2") == "HalfCheetah-v4"
    assert d4rl_environment("hopper-medium-v2") == "Hopper-v4"
    assert d4rl_environment("walker2d-medium-v2") == "Walker2d-v4"
    with pytest.raises(UnknownName, match="Did you mean 'hopper-medium-v2'"):
        d4rl_statistics("hoper-medium-v2")
    with pytest.raises(UnknownName, match="Did you mean 'walker2d'"):
        d4rl_reference("walker-medium-v2")


@pytest.mark.parametrize("text", ["d4rl/hoper-medium-v2", "hopper-medium-v2", "d4rl/hopper-medium"])
def test_an_unknown_name_is_answered_with_the_nearest(text: str) -> None:
    with pytest.raises(UnknownName, match=r"Did you mean .*'d4rl/hopper-medium-v2'"):
        DatasetName.parse(text)


def test_published_data_have_one_size() -> None:
    with pytest.raises(DatasetProblem, match=r"asks for '500'.*the size that it was published"):
        DatasetName.parse("d4rl/hopper-medium-v2@500")
    name = DatasetName.parse("d4rl/hopper-medium-v2")
    assert name.size is None and str(name) == "d4rl/hopper-medium-v2"
    assert name.build_command == "obdbench data fetch d4rl/hopper-medium-v2"
    with pytest.raises(DatasetProblem, match=r"Build it with `obdbench data fetch d4rl/hopper"):
        load_dataset(name)
