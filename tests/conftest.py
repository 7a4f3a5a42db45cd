"""What every test shares: its own folders, two small datasets and a teacher of random weights."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch

from benchmark.datasets.catalog import build_dataset
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.teachers.teacher import NetworkTeacher
from benchmark.teachers.teacher_files import cached_path, load_teacher, save_teacher


def pytest_configure() -> None:
    """Hold this process, and every process that a test starts, to one thread.

    Two test processes share two cores, and the bits of a sum depend on the number of threads.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs the extra jax where it is not installed."""
    if item.get_closest_marker("jax") and not all(map(find_spec, ("brax", "gymnax"))):
        pytest.skip("the extra jax is not installed: make jax")


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """A shell starts its background processes with Ctrl-C ignored, and theirs inherit that.

    Without this the tests that interrupt a process would fail, or wait for ever, in a background.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """No process that a test started is left by it; Python's own helpers end with this one."""
    yield
    left = [child for child in psutil.Process().children() if child.status() != "zombie"]
    commands = [" ".join(child.cmdline()) for child in left]
    helpers = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
    assert [text for text in commands if not any(helper in text for helper in helpers)] == []


@pytest.fixture(scope="session", autouse=True)
def session_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Datasets, cache and records of this process live here, never in the user's folders."""
    root = tmp_path_factory.mktemp("obdbench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root / "datasets"))
        patch.setenv("OBDBENCH_CACHE", str(root / "cache"))
        patch.setenv("OBDBENCH_STORE", str(root / "runs"))
        yield root


@pytest.fixture(autouse=True)
def record_store(session_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record store of the test's own: no test finds another's runs done."""
    store = tmp_path / "runs"
    monkeypatch.setenv("OBDBENCH_STORE", str(store))
    return store


@pytest.fixture(scope="session")
def small_dataset(session_folders: Path) -> Dataset:
    """`hopper/medium@2000`, in the session's store."""
    return build_dataset(DatasetName.parse("hopper/medium@2000"))


@pytest.fixture(scope="session")
def small_dataset_name(session_folders: Path) -> str:
    """Name of a dataset that is in the session's store, for whole runs."""
    name = "hopper/medium-expert@2000"
    build_dataset(DatasetName.parse(name))
    return name


@pytest.fixture(scope="session")
def tiny_teacher(small_dataset_name: str) -> NetworkTeacher:
    """Random weights of Hopper's dimensions, cached as the td3_bc teacher of that dataset."""
    dataset = build_dataset(DatasetName.parse(small_dataset_name))
    generator = torch.Generator().manual_seed(0)

    def layers(*widths: int, lead: tuple[int, ...] = ()) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (
                torch.randn(*lead, after, before, generator=generator) / before**0.5,
                torch.zeros(*lead, after),
            )
            for before, after in pairwise(widths)
        ]

    inputs, actions = dataset.observation_dim, dataset.action_dim
    teacher = NetworkTeacher(
        actor=layers(inputs, 16, actions),
        critics=layers(inputs + actions, 16, 1, lead=(2,)),
        observation_mean=torch.from_numpy(dataset.observations.mean(0)),
        observation_std=torch.from_numpy(dataset.observations.std(0) + 1e-3),
        action_noise="exploration",
        facts={
            "recipe": "td3_bc",
            "dataset": dataset.name,
            "seed": 0,
            "evaluation": {"return": 100.0, "normalized_return": 2.5, "episodes": 1},
        },
    )
    path = cached_path(dataset, "td3_bc")
    save_teacher(teacher, path)
    return load_teacher(path)


@pytest.fixture
def own_datasets(
    small_dataset: Dataset, session_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the session's datasets that the test may break."""
    copy = tmp_path / "datasets"
    shutil.copytree(session_folders / "datasets", copy)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(copy))
    return copy
