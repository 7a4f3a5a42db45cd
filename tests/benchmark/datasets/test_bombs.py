"""Files from others: none is read as more than it is, reads other files, or imports code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from benchmark.datasets.catalog import build_dataset, load_dataset
from benchmark.datasets.d4rl_facts import d4rl_reference
from benchmark.datasets.dataset import Dataset, DatasetProblem
from benchmark.datasets.hdf5 import MOST_BYTES, read_d4rl_file
from benchmark.datasets.source import DatasetName
from benchmark.density.density import DensityProblem
from benchmark.density.log_densities import import_log_density
from benchmark.environments.lookup import UnknownEnvironment, check_stored_id
from benchmark.errors import ObdBenchError
from benchmark.files import write_atomic
from benchmark.scaling import Scaling
from benchmark.state import load_state
from benchmark.sweep import read_sweep
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set, save_synthetic_set
from benchmark.teachers.teacher_files import load_teacher
from slurm.profile import read_profile
from tests.benchmark.datasets.test_minari_remote import HOPPER, ID, SCORES, fetch, make
from tests.d4rl_files import made_up, write_file

MANY = 2**40
DEEP = "[" * 100_000 + "]" * 100_000


def read(path: Path) -> Dataset:
    reference = d4rl_reference("hopper-medium-v2")
    return read_d4rl_file(path, name="d4rl/x", env_id="Hopper-v4", reference=reference)


def soft(file: h5py.File, other: Path) -> None:
    file["rewards"] = h5py.SoftLink("/actions")


def external(file: h5py.File, other: Path) -> None:
    file["rewards"] = h5py.ExternalLink(other, "rewards")


def external_group(file: h5py.File, other: Path) -> None:
    file["rewards"] = np.zeros(4, np.float32)
    file["infos/deep/down"] = h5py.ExternalLink(other, "/")


def raw_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("rewards", (4,), np.float32, external=[(str(other), 0, 16)])


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "rewards", (4,))
    file.create_virtual_dataset("rewards", layout)


def unwritten(file: h5py.File, other: Path) -> None:
    file.create_dataset("rewards", (MANY,), np.float32)


def zeros(file: h5py.File, other: Path) -> None:
    file.create_dataset("rewards", (MANY,), np.float32, chunks=(2**20,), compression="gzip")
    file["rewards"][: 2**20] = 0


def large_chunk(file: h5py.File, other: Path) -> None:
    chunks = (MOST_BYTES // 4 + 1,)
    file.create_dataset("rewards", (4,), "f4", chunks=chunks, maxshape=(None,), compression=1)


def many_arrays(file: h5py.File, other: Path) -> None:
    file["rewards"] = np.zeros(4, np.float32)
    for i in range(5):
        file.create_dataset(f"infos/{i}", (MOST_BYTES // 16,), np.float32)


ELSEWHERE = {
    soft: r"'rewards' is a link to '/actions' of the same file",
    external: r"'rewards' is a link to '/?rewards' of .*other\.hdf5",
    external_group: r"'infos/deep/down' is a link to '/' of .*other\.hdf5",
    raw_storage: "'rewards' takes its numbers from other files",
    virtual: "'rewards' takes its numbers from other files",
}
BOMBS = [unwritten, zeros, large_chunk, many_arrays]


@pytest.mark.parametrize("build", [*ELSEWHERE, *BOMBS])
def test_a_file_holds_its_arrays_itself_and_no_more_than_it_can(
    build: Callable[[h5py.File, Path], None], tmp_path: Path
) -> None:
    arrays = made_up([4], "t")
    other = write_file(tmp_path / "other.hdf5", arrays)
    with h5py.File(tmp_path / "bad.hdf5", "w") as file:
        for key, array in arrays.items():
            if key != "rewards":
                file[key] = array
        build(file, other)
    expected = ELSEWHERE.get(build, r"bytes, but its arrays need .* expected at most")
    with pytest.raises(DatasetProblem, match=expected):
        read(tmp_path / "bad.hdf5")


def test_flags_that_compress_well_are_taken(tmp_path: Path) -> None:
    arrays = made_up([400] * 5, "ooooo")
    with h5py.File(tmp_path / "small.hdf5", "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, compression="gzip", compression_opts=9)
    assert len(read(tmp_path / "small.hdf5")) == 5 * 399


@pytest.mark.parametrize("build", [external, raw_storage, unwritten])
def test_an_episode_of_a_minari_dataset_is_held_to_the_same(
    build: Callable[[h5py.File, Path], None], own_folders: Path, tmp_path: Path
) -> None:
    make(ID, "Hopper-v5", **HOPPER, **SCORES)
    other = write_file(tmp_path / "other.hdf5", made_up([4], "t"))
    data = Path(minari.storage.get_dataset_path(ID)) / "data"
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        build(file["episode_0"], other)
    with pytest.raises(DatasetProblem, match=r"'episode_0/rewards'|its arrays need"):
        fetch()


def test_the_count_of_a_minari_dataset_is_held_to_its_file(own_folders: Path) -> None:
    make(ID, "Hopper-v5", **HOPPER, **SCORES)
    path = Path(minari.storage.get_dataset_path(ID)) / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "total_steps": MANY}))
    with pytest.raises(DatasetProblem, match=r"transitions in .* episodes need"):
        fetch()


def test_an_array_of_log_densities_is_no_larger_than_its_file(
    small_dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "values.npy"
    np.save(path, np.zeros(4))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(4,),", b"(%d,)," % MANY).replace(b" " * 12 + b"\n", b"\n"))
    with pytest.raises(DensityProblem, match="cannot be read as a numpy array"):
        import_log_density(path, small_dataset)


def test_no_file_nests_deeper_than_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(f"name = {DEEP}")
    for parse in (read_sweep, read_profile):
        with pytest.raises(ObdBenchError, match="is not TOML"):
            parse(path)
    for key, load in (("facts", load_state), ("card", load_synthetic_set),
                      ("teacher", load_teacher)):  # fmt: skip
        save_file({"x": np.zeros(1)}, tmp_path / "deep.safetensors", metadata={key: DEEP})
        with pytest.raises(ObdBenchError, match=r"deep\.safetensors"):
            load(tmp_path / "deep.safetensors")


@pytest.mark.parametrize(
    "env_id", ["evil_module:Hopper-v5", "evil_module:x:Hopper-v5", 'Hopper-v5{"xml_file": "/x"}']
)
def test_no_file_says_what_is_imported_or_read(
    env_id: str, own_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(tmp_path)
    pairs = SyntheticSet(torch.zeros(1, 2), torch.zeros(1, 2))
    scaling = Scaling(torch.zeros(2), torch.ones(2), torch.zeros(2), torch.ones(2))
    save_synthetic_set(pairs, scaling, tmp_path / "set", {"environment": env_id})
    name = DatasetName.parse("hopper/medium@300")
    build_dataset(name)
    card = json.loads((name.folder / "card.json").read_text("utf-8"))
    del card["card_sha256"]  # whoever alters a card may leave it out, as older versions did
    write_atomic(name.folder / "card.json", json.dumps({**card, "environment": env_id}))
    for load in (lambda: load_synthetic_set(tmp_path / "set"), lambda: load_dataset(name)):
        with pytest.raises(UnknownEnvironment, match=r"which would (import|read)"):
            load()
    assert "evil_module" not in sys.modules


def test_a_module_that_is_loaded_already_may_be_named() -> None:
    assert check_stored_id("gymnasium:CartPole-v1", "card.json") == "gymnasium:CartPole-v1"
