"""Datasets of the Minari project, through minari itself."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shlex
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
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from minari.dataset.minari_dataset import MinariDataset, parse_dataset_id
from numpy.typing import NDArray
from packaging.requirements import InvalidRequirement, Requirement

from benchmark.datasets.dataset import (
    AskedReference,
    Dataset,
    DatasetProblem,
    OnProgress,
    ReferenceReturns,
)
from benchmark.datasets.hdf5 import check_claim, check_storage
from benchmark.datasets.references import find_reference, measure_reference, reference_options
from benchmark.datasets.source import NAMESPACE, DatasetFamily, DatasetSource, store_folder
from benchmark.environments.batch import one_hot
from benchmark.environments.lookup import (
    UnknownEnvironment,
    check_stored_id,
    find_specification,
    make_batched,
    variant_id,
)
from benchmark.environments.rollout import require_time_limit
from benchmark.registry import UnknownName

PREFIX = "minari/"


@dataclass(frozen=True)
class MinariSource(DatasetSource):
    """A Minari dataset: the local store's copy if there is one, else minari downloads it.

    Args:
        minari_id: Minari's id of it, such as `mujoco/hopper/medium-v0`.
        environment: Id of the environment to score in; None for the one that the dataset names.
        reference: Returns that normalisation stands on, or "measured"; None for the dataset's own,
            or else the suite's.
    """

    minari_id: str
    environment: str | None = None
    reference: AskedReference = None
    default_size = None

    @property
    def description(self) -> str:  # type: ignore[override]
        return f"Minari {self.minari_id}"

    def command(self, name: str) -> str:
        return f"obdbench data fetch {name}"

    @property
    def _options(self) -> str:
        environment = f" --environment {shlex.quote(self.environment)}" if self.environment else ""
        return environment + reference_options(self.reference)

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        """See `DatasetSource.build`; published data have neither size nor seed to choose.

        Raises:
            DatasetProblem: It cannot be had, or is of a kind that the suite does not distil.
            UnknownEnvironment: Its environment is not installed, or not as it was there.
        """
        original = _open(self.minari_id)
        env_id, warnings_ = _environment(original, self.environment)
        require_time_limit(env_id)
        _check_spaces(original, env_id, bounds=self.environment is None)
        same = self.environment is None or not warnings_  # its own returns are of its environment
        own = _own_reference(original) if same else None
        reference, origin = find_reference(env_id, self.reference, own)
        dataset = Dataset(
            name=name,
            env_id=env_id,
            **_read(original, progress),
            reference=reference,
            provenance={
                "minari_id": self.minari_id,
                "minari_version": original.minari_version,
                "reference_returns": origin,
                "options": self._options,
                "warnings": [*warnings_, *_unmet_requirements(original)],
            },
        )
        if self.environment is None:
            _check_lengths(dataset)
        return measure_reference(dataset, threads) if self.reference == "measured" else dataset


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


def _stored_id(specification: EnvSpec, original: MinariDataset) -> str:
    """The id of a specification that a dataset names, which neither imports nor reads anything."""
    check_stored_id(specification.id, original.storage.data_path)
    return check_stored_id(variant_id(specification), original.storage.data_path)


def _environment(original: MinariDataset, asked: str | None) -> tuple[str, list[str]]:
    """The id of the environment to score in, and a warning where the data are of another."""
    # Minari keeps the environment of the collection and the one to evaluate in, often the same.
    named = [spec for spec in (original.env_spec, original._eval_env_spec) if spec is not None]
    if asked is not None:
        find_specification(asked)
    elif not named:
        raise DatasetProblem(
            f"The Minari dataset {original.id} names no environment, so policies cannot be scored. "
            f"Name it with --environment, e.g. --environment Hopper-v5."
        )
    try:
        ids = [_stored_id(specification, original) for specification in named]
    except UnknownEnvironment as error:
        if asked is None:
            raise UnknownEnvironment(
                f"The Minari dataset {original.id} is not of an environment that policies can be "
                f"scored in here: {error} To score in it, register it under an id of its own (in a "
                f"plug-in) and name that with --environment."
            ) from error
        return asked, [f"{original.id}: {error} Policies are scored in {asked}, as asked for."]
    scored = asked or ids[-1]
    if set(ids) <= {scored}:
        return scored, []
    return scored, [
        f"{original.id} was collected in {ids[0]}, to be evaluated in {ids[-1]}; policies are "
        f"scored in {scored}."
    ]


def _check_spaces(original: MinariDataset, env_id: str, *, bounds: bool) -> None:
    """Compare the spaces that a dataset declares with its environment's: kind, type and bounds."""
    _dimensions(original)
    with contextlib.closing(make_batched(env_id, 1)) as environment:
        pairs = {
            "observations": (original.observation_space, environment.observation_space),
            "actions": (original.action_space, environment.action_space),
        }
    for what, (found, expected) in pairs.items():
        if not _alike(found, expected, bounds):
            raise DatasetProblem(
                f"The {what} of the Minari dataset {original.id} are of {found}; those of {env_id} "
                f"are of {expected}: a wrapper changed them, or the data are of another "
                f"environment. Name that one with --environment."
            )


def _alike(found: gymnasium.Space[Any], expected: gymnasium.Space[Any], bounds: bool) -> bool:
    """Whether two spaces are of one kind and, wherever both have bounds, have the same."""
    if not isinstance(found, Box) or not isinstance(expected, Box):
        return found == expected
    if found.dtype.kind != expected.dtype.kind:
        return False
    if not bounds or found.shape != expected.shape:
        return True  # the dimensions are compared when the data are written
    pairs = ((found.low, expected.low), (found.high, expected.high))
    return all(
        # The largest float32 stands for no bound in some environments.
        np.isclose(one, other, rtol=1e-5)[(np.abs(one) < 1e30) & (np.abs(other) < 1e30)].all()
        for one, other in pairs
    )


def _unmet_requirements(original: MinariDataset) -> list[str]:
    """A warning for every package that is installed here in another version than the data ask."""
    warnings_ = []
    for text in original.storage.metadata.get("requirements", []):
        try:
            requirement = Requirement(text)
            found = importlib.metadata.version(requirement.name)
        except InvalidRequirement:
            found = "unknown, since that is not a requirement"
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        else:
            if requirement.specifier.contains(found, prereleases=True):
                continue
        warnings_.append(
            f"{original.id} asks for {text!r}, so that its environment is as it was; the version "
            f"here is {found}."
        )
    return warnings_


def _own_reference(original: MinariDataset) -> ReferenceReturns | None:
    metadata = original.storage.metadata
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    return None if low is None or high is None else ReferenceReturns(float(low), float(high))


def _check_lengths(dataset: Dataset) -> None:
    limit, longest = find_specification(dataset.env_id).max_episode_steps, dataset.lengths.max()
    if limit is not None and longest > limit:
        variant = f'{dataset.env_id.partition("{")[0]}{{"max_episode_steps": {longest}}}'
        raise DatasetProblem(
            f"{dataset.name} has episodes of up to {longest} steps; {dataset.env_id} ends them "
            f"after {limit}, so it is not what the data were collected in. Name that environment, "
            f"e.g. --environment '{variant}'."
        )


def _read(original: MinariDataset, progress: OnProgress | None) -> dict[str, NDArray[Any]]:
    """The dataset's arrays by name, filled episode by episode.

    Allocated once and filled in place: a list of episodes to concatenate would need twice the
    memory.
    """
    observation_dim, action_dim = _dimensions(original)
    space = original.action_space
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
        shapes = {
            "observations": (length + 1, observation_dim),
            "actions": (length,) if isinstance(space, Discrete) else (length, action_dim),
            **dict.fromkeys(("rewards", "terminations", "truncations"), (length,)),
        }
        # Compared first: numpy would spread a single row over the whole episode.
        wrong = {
            key: np.shape(episode[key]) for key in shapes if np.shape(episode[key]) != shapes[key]
        }
        taken = episode["actions"]
        if isinstance(space, Discrete):
            if not np.isin(taken, np.arange(space.n) + space.start).all():
                wrong["actions"] = (f"not all in {space}",)
            else:
                taken = one_hot(taken.astype(np.int64), space)
        if wrong or start + length > total:
            found = ", ".join(f"{key} {list(shape)}" for key, shape in wrong.items())
            raise DatasetProblem(
                f"Episode {index} of the Minari dataset {original.id} does not fit its {length} "
                f"rewards, {observation_dim} observation and {action_dim} action dimensions "
                f"({found or f'{total} steps in all'}). It is damaged: fetch it again."
            )
        rows = slice(start, start + length)
        # Each episode before this one has one state more than transitions.
        states = slice(start + index, start + index + length + 1)
        arrays["states"][states] = episode["observations"]
        arrays["actions"][rows] = taken
        for key in ("rewards", "terminations", "truncations"):
            arrays[key][rows] = episode[key]
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
