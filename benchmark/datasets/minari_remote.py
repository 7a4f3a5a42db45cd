"""Datasets of the Minari project, through minari itself."""

from __future__ import annotations

import contextlib
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
from gymnasium.spaces import Box, Discrete
from minari.dataset.minari_dataset import MinariDataset, parse_dataset_id
from numpy.typing import NDArray

from benchmark.datasets.dataset import (
    Dataset,
    DatasetProblem,
    OnProgress,
    ReferenceReturns,
)
from benchmark.datasets.hdf5 import check_claim, check_storage
from benchmark.datasets.snapshots import suite_reference
from benchmark.datasets.source import NAMESPACE, DatasetFamily, DatasetSource, store_folder
from benchmark.environments.batch import one_hot
from benchmark.environments.lookup import check_stored_id, find_specification
from benchmark.registry import UnknownName

PREFIX = "minari/"


@dataclass(frozen=True)
class MinariSource(DatasetSource):
    """A Minari dataset: the local store's copy if there is one, else minari downloads it.

    Args:
        minari_id: Minari's id of it, such as `mujoco/hopper/medium-v0`.
    """

    minari_id: str
    default_size = None

    @property
    def description(self) -> str:  # type: ignore[override]
        return f"Minari {self.minari_id}"

    def command(self, name: str) -> str:
        return f"obdbench data fetch {name}"

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        """See `DatasetSource.build`; published data have neither size nor seed to choose.

        Raises:
            DatasetProblem: It cannot be had, or is of a kind that the suite does not distil.
            UnknownEnvironment: Its environment is not installed.
        """
        original = _open(self.minari_id)
        env_id, warnings_ = _environment(original)
        reference, origin = _reference(original, env_id)
        return Dataset(
            name=name,
            env_id=env_id,
            **_read(original, progress),
            reference=reference,
            provenance={
                "minari_id": self.minari_id,
                "minari_version": original.minari_version,
                "reference_returns": origin,
                "warnings": warnings_,
            },
        )


class MinariFamily(DatasetFamily):
    """`minari/ID`; the ids that are known without a network are those in the local store."""

    description = "Minari datasets by their ids, downloaded by minari"

    def names(self) -> list[str]:
        root = store_folder().parent
        ids = [path.parent.parent.relative_to(root) for path in root.rglob("data/metadata.json")]
        return sorted(PREFIX + id_.as_posix() for id_ in ids if id_.parts[:1] != (NAMESPACE,))

    def source(self, name: str) -> MinariSource:
        minari_id = name.removeprefix(PREFIX)
        if not _is_id(minari_id):
            raise UnknownName(
                f"{name!r} does not name a Minari dataset; expected minari/ID with an id and its "
                f"version, such as minari/mujoco/hopper/medium-v0."
            )
        return MinariSource(minari_id)

    def meant_by(self, name: str) -> list[str]:
        return [PREFIX + name] if _is_id(name) else []


def _is_id(text: str) -> bool:
    try:
        parse_dataset_id(text)
    except (ValueError, TypeError):  # minari makes a TypeError of a version left out
        return False
    return True


def _open(minari_id: str) -> MinariDataset:
    folder = Path(minari.storage.get_dataset_path(minari_id))
    if not (folder / "data").exists():
        _download(minari_id, folder)
    try:
        for path in (folder / "data").glob("*.hdf5"):
            with h5py.File(path, "r") as file:
                check_storage(path, file)
        return minari.load_dataset(minari_id)
    except (
        OSError, RuntimeError, ValueError, KeyError, AssertionError, TypeError, AttributeError
    ) as error:  # by what is damaged  # fmt: skip
        raise DatasetProblem(
            f"The Minari dataset {minari_id} in {folder} cannot be opened ({error}). Delete that "
            f"folder and fetch it again."
        ) from error


def _download(minari_id: str, folder: Path) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("default")  # minari advises newer versions by warnings
            minari.download_dataset(minari_id)
    except Exception as error:  # whatever the client of minari's remote raises
        shutil.rmtree(folder, ignore_errors=True)
        reason = " ".join(str(error).split())[:300]
        raise DatasetProblem(
            f"The Minari dataset {minari_id} is not in the local Minari store ({folder}), and "
            f"cannot be downloaded: {type(error).__name__}: {reason}. With a network, `pip install "
            f"'minari[hf]'` lets minari download it (MINARI_REMOTE names another remote); without, "
            f"copy its folder there."
        ) from error


def _environment(original: MinariDataset) -> tuple[str, list[str]]:
    """The id of the environment, and a warning where the data are of a variant of it."""
    specification = original.env_spec
    if specification is None:
        raise DatasetProblem(
            f"The Minari dataset {original.id} names no environment, so policies cannot be scored. "
            f"Take one that does."
        )
    check_stored_id(specification.id, original.storage.data_path)
    registered = find_specification(specification.id)
    if dict(specification.kwargs) == dict(registered.kwargs):
        return registered.id, []
    return registered.id, [
        f"{original.id} was collected in {specification.id} with {dict(specification.kwargs)}; "
        f"policies are scored in it with {dict(registered.kwargs)}."
    ]


def _reference(original: MinariDataset, env_id: str) -> tuple[ReferenceReturns, str]:
    """The dataset's own reference returns, else the suite's, and which of the two they are."""
    metadata = original.storage.metadata
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is not None and high is not None:
        return ReferenceReturns(float(low), float(high)), "the dataset's own"
    return suite_reference(env_id), "the suite's own"


def _read(original: MinariDataset, progress: OnProgress | None) -> dict[str, NDArray[Any]]:
    """The dataset's arrays by name, filled episode by episode.

    Allocated once and filled in place: a list of episodes to concatenate would need twice the
    memory.
    """
    observation_dim, action_dim = _dimensions(original)
    total, episodes = int(original.total_steps), int(original.total_episodes)
    data = next(Path(original.storage.data_path).glob("*.hdf5"), None)
    if data is not None:
        claimed = 4 * (total + episodes) * (observation_dim + action_dim + 2)
        check_claim(data, claimed, f"{total:,} transitions in {episodes:,} episodes")
    arrays: dict[str, NDArray[Any]] = {
        "states": np.empty((total + episodes, observation_dim), np.float32),
        "actions": np.zeros((total, action_dim), np.float32),
        "rewards": np.empty(total, np.float32),
        "terminations": np.empty(total, bool),
        "truncations": np.empty(total, bool),
        "lengths": np.empty(episodes, np.int64),
    }
    start = 0
    for index, episode in enumerate(_episodes(original)):
        length = len(episode["rewards"])
        rows = slice(start, start + length)
        try:
            # Each episode before this one has one state more than transitions.
            states = slice(start + index, start + index + length + 1)
            arrays["states"][states] = episode["observations"]
            taken, space = episode["actions"], original.action_space
            arrays["actions"][rows] = (
                one_hot(taken, space) if isinstance(space, Discrete) else taken
            )
            for key in ("rewards", "terminations", "truncations"):
                arrays[key][rows] = episode[key]
        except (ValueError, IndexError) as error:
            raise DatasetProblem(
                f"Episode {index} of the Minari dataset {original.id} does not fit its {length} "
                f"rewards, {observation_dim} observation and {action_dim} action dimensions "
                f"({error}). It is damaged: fetch it again."
            ) from error
        arrays["lengths"][index] = length
        start += length
        if progress:
            progress(start, total)
    return arrays


def _episodes(original: MinariDataset) -> Iterator[dict[str, Any]]:
    try:
        yield from original.storage.get_episodes(original.episode_indices)
    except (OSError, RuntimeError, KeyError) as error:  # h5py, by what is damaged
        raise DatasetProblem(
            f"The Minari dataset {original.id} in {original.storage.data_path} cannot be read "
            f"({error}). It is damaged: delete its folder and fetch it again."
        ) from error


def _dimensions(original: MinariDataset) -> tuple[int, int]:
    """Numbers per observation and per action; a discrete action has one number per choice."""
    observations, actions = original.observation_space, original.action_space
    if not _is_flat(observations):
        raise DatasetProblem(
            f"The Minari dataset {original.id} has observations {observations}; the suite only "
            f"distils flat Box observations."
        )
    if isinstance(actions, Discrete):
        return observations.shape[0], int(actions.n)
    if not _is_flat(actions):
        raise DatasetProblem(
            f"The Minari dataset {original.id} has actions {actions}; the suite only distils flat "
            f"Box and Discrete actions."
        )
    return observations.shape[0], actions.shape[0]


def _is_flat(space: gymnasium.Space[Any]) -> bool:
    return isinstance(space, Box) and len(space.shape) == 1


FAMILY = MinariFamily()
