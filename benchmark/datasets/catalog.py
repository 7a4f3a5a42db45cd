"""The local Minari store: where datasets are kept, and how they are checked when they are loaded.

A dataset is an ordinary Minari dataset (`minari.load_dataset` opens it), with two files of the
suite's own beside its `data` folder: `card.json` says what it is and what its digests are, and
`transitions.safetensors` is a flat copy that loads at the speed of the disk.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from filelock import FileLock
from gymnasium.spaces import Discrete
from minari.data_collector import EpisodeBuffer
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from benchmark.datasets.dataset import (
    Dataset,
    DatasetProblem,
    ProgressCallback,
    ReferenceReturns,
    check_dataset,
)
from benchmark.datasets.source import NAMESPACE, DatasetName, DatasetSource, find_source
from benchmark.environments.batch import highest
from benchmark.environments.lookup import find_specification, make_batched
from benchmark.errors import ObdBenchError
from benchmark.files import atomic_path, file_sha256, write_atomic

CARD_KEYS = (
    "name", "environment", "source", "size", "seed", "episodes", "returns", "reference_returns",
    "shapes", "sha256", "hdf5",
)  # fmt: skip


def build_dataset(
    name: DatasetName,
    *,
    seed: int = 0,
    threads: int = 1,
    force: bool = False,
    progress: ProgressCallback | None = None,
    source: DatasetSource | None = None,
) -> Dataset:
    """Builds (collects, fetches, takes in) a dataset into the local store, or loads what is there.

    Args:
        name: What to build.
        seed: Of the collection; published data have none.
        threads: For stepping the environments; the content does not depend on it.
        force: Build anew even if a sound one is there.
        progress: Called with (done, of how many), in the `progress_unit` of the source.
        source: Another way to the same data than the name's own, such as a mirror or a file.
    """
    name.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(name.folder.with_suffix(".lock")):  # two builders: the second finds it done
        if is_stored(name) and not force:
            return _load_with_seed(name, seed)
        source = source or find_source(name.name)
        dataset = source.build(str(name), name.size, seed, threads, progress)
        write_dataset(
            name,
            dataset,
            seed=None if name.size is None else seed,
            description=source.description,
        )
    return dataset


def is_stored(name: DatasetName) -> bool:
    """Whether the store has it, sound or not; without its card it is a build that was killed."""
    return _card_path(name).exists()


def _load_with_seed(name: DatasetName, seed: int) -> Dataset:
    found = _card(name)["seed"]
    if found not in (None, seed):
        raise DatasetProblem(
            f"{name} is in the store with seed {found}, you asked for seed {seed}. "
            f"Build over it with `{name.rebuild_command(seed)}`."
        )
    return load_dataset(name)


def load_dataset(name: DatasetName) -> Dataset:
    """A dataset of the local store, checked against its card.

    Raises:
        DatasetProblem: It is missing, truncated, altered or of the wrong shape; the message names
            the file, what was expected, what was found and the command that mends it.
    """
    card = _card(name)
    main = _main_path(name)
    mend = f"Build it anew with `{name.rebuild_command(card['seed'])}`."
    if not main.is_file():
        raise DatasetProblem(f"{main} is missing. {mend}")
    if main.stat().st_size != card["hdf5"]["bytes"]:
        raise DatasetProblem(
            f"{main} has {main.stat().st_size} bytes, expected {card['hdf5']['bytes']}: it is "
            f"truncated or was written to. {mend}"
        )
    if (found := file_sha256(main)) != card["hdf5"]["sha256"]:
        raise DatasetProblem(
            f"{main} has sha256 {found}, expected {card['hdf5']['sha256']}: it was altered. {mend}"
        )
    flat = name.folder / "transitions.safetensors"
    try:
        arrays = load_file(flat)
    except (FileNotFoundError, SafetensorError) as error:
        raise DatasetProblem(f"{flat} cannot be read ({error}). {mend}") from error
    _check_shapes(flat, arrays, card, mend)
    dataset = Dataset(
        name=str(name),
        env_id=card["environment"],
        reference=ReferenceReturns(**card["reference_returns"]),
        provenance=card.get("provenance", {}),
        **arrays,
    )
    if dataset.sha256 != card["sha256"]:
        raise DatasetProblem(
            f"{flat} has content sha256 {dataset.sha256}, expected {card['sha256']}: it was "
            f"altered. {mend}"
        )
    return dataset


def local_datasets() -> list[DatasetName]:
    """Every dataset of the suite that is in the local store."""
    root = Path(minari.storage.get_dataset_path()) / NAMESPACE
    names = []
    for path in sorted(root.rglob("card.json")):
        try:
            card = json.loads(path.read_text())
            name = DatasetName.parse(card["name"])
        except (json.JSONDecodeError, KeyError, TypeError, ObdBenchError):
            continue  # not one of ours, or of a plug-in that is not loaded: `info` reports it
        if name.folder == path.parent:
            names.append(name)
    return names


def dataset_card(name: DatasetName) -> dict[str, Any]:
    """The card of a dataset in the store: size, returns, source, digests."""
    return _card(name)


def _card(name: DatasetName) -> dict[str, Any]:
    path = _card_path(name)
    mend = f"Build it anew with `{name.rebuild_command(None)}`."
    if not path.is_file():
        raise DatasetProblem(
            f"The dataset {name} is not in the local store ({name.folder}). "
            f"Build it with `{name.build_command}`."
        )
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DatasetProblem(f"{path} is not JSON ({error}). {mend}") from error
    if lacking := [key for key in CARD_KEYS if key not in card]:
        raise DatasetProblem(f"{path} lacks {', '.join(map(repr, lacking))}. {mend}")
    if card["name"] != str(name):
        raise DatasetProblem(
            f"{path} is the card of {card['name']!r}, expected {str(name)!r}: two datasets share a "
            f"folder, or it was copied here. {mend}"
        )
    return card


def _card_path(name: DatasetName) -> Path:
    return name.folder / "card.json"


def _check_shapes(
    path: Path, arrays: dict[str, np.ndarray[Any, Any]], card: dict[str, Any], mend: str
) -> None:
    """Names and shapes as the card has them, and finite values."""
    found = {key: list(array.shape) for key, array in arrays.items()}
    if found != card["shapes"]:
        raise DatasetProblem(f"{path} has shapes {found}, expected {card['shapes']}. {mend}")
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise DatasetProblem(f"{path} has values that are not finite in {key!r}. {mend}")


def write_dataset(
    name: DatasetName, dataset: Dataset, *, seed: int | None, description: str
) -> None:
    """Writes the Minari dataset and its two companions; the card comes last and makes it whole.

    Args:
        name: Under which the store will have it.
        dataset: It is checked first; what was there under its name stays if it is refused.
        seed: Of its collection; None for published data.
        description: One sentence for the card.

    Raises:
        DatasetProblem: The dataset is not consistent, or does not fit its environment.
        UnknownEnvironment: Its environment is not installed.
    """
    check_dataset(dataset)
    space = check_fits_environment(dataset)
    if name.folder.exists():
        shutil.rmtree(name.folder)
    _write_minari(name, dataset, space, description)
    with atomic_path(name.folder / "transitions.safetensors") as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in dataset.arrays().items()}, temporary)
    card = _describe(name, dataset, seed, description)
    write_atomic(_card_path(name), json.dumps(card, indent=1) + "\n")


def check_fits_environment(dataset: Dataset) -> gymnasium.Space[Any]:
    """The action space of the dataset's environment, which its dimensions must fit.

    Raises:
        UnknownEnvironment: It is not installed; the message says what to install.
        DatasetProblem: The dataset is of another environment.
    """
    with contextlib.closing(make_batched(dataset.env_id, 1)) as environment:
        space, observation_dim = environment.action_space, environment.observation_dim
    action_dim = int(space.n) if isinstance(space, Discrete) else int(np.prod(space.shape or ()))
    found = (dataset.observation_dim, dataset.action_dim)
    if found != (observation_dim, action_dim):
        raise DatasetProblem(
            f"{dataset.name} has {found[0]} observation and {found[1]} action dimensions; "
            f"{dataset.env_id} has {observation_dim} and {action_dim}. Name the environment that "
            f"the data were collected in."
        )
    if isinstance(space, Discrete):
        _check_one_hot(dataset)
    return space


def _check_one_hot(dataset: Dataset) -> None:
    actions = dataset.actions
    wrong = np.flatnonzero(((actions != 0) & (actions != 1)).any(1) | (actions.sum(1) != 1))
    if len(wrong):
        raise DatasetProblem(
            f"{dataset.name}: the action of transition {wrong[0]} is {actions[wrong[0]].tolist()}; "
            f"{dataset.env_id} has discrete actions, which are stored one-hot (1 for the action "
            f"taken, 0 for the others)."
        )


def _write_minari(
    name: DatasetName, dataset: Dataset, action_space: gymnasium.Space[Any], description: str
) -> None:
    # By specification: gymnasium answers the id of a v4 environment with a deprecation warning.
    environment = find_specification(dataset.env_id)
    minari.create_dataset_from_buffers(
        dataset_id=name.minari_id,
        buffer=_episodes(dataset, _minari_actions(dataset, action_space)),
        env=environment,
        eval_env=environment,
        observation_space=gymnasium.spaces.Box(
            -np.inf, np.inf, (dataset.observation_dim,), np.float32
        ),
        action_space=action_space,
        ref_min_score=dataset.reference.random,
        ref_max_score=dataset.reference.expert,
        algorithm_name="see description",
        author="OBD-Bench",
        author_email="none",
        code_permalink="none",
        description=description,
        data_format="hdf5",
    )


def _minari_actions(dataset: Dataset, space: gymnasium.Space[Any]) -> NDArray[Any]:
    """Actions as the environment takes them: integers `[M]` where they are Discrete."""
    if isinstance(space, Discrete):
        return highest(dataset.actions, space)
    return dataset.actions


def _describe(
    name: DatasetName, dataset: Dataset, seed: int | None, description: str
) -> dict[str, Any]:
    """The card of a dataset whose files are written."""
    main, returns = _main_path(name), dataset.episode_returns
    return {
        "name": str(name),
        "environment": dataset.env_id,
        "source": description,
        "provenance": dict(dataset.provenance),
        "size": len(dataset),
        "seed": seed,
        "episodes": len(dataset.lengths),
        "returns": {
            "mean": float(returns.mean()),
            "sd": float(returns.std()),
            "max": float(returns.max()),
        },
        "reference_returns": {
            "random": dataset.reference.random,
            "expert": dataset.reference.expert,
        },
        "shapes": {key: list(array.shape) for key, array in dataset.arrays().items()},
        "sha256": dataset.sha256,
        "hdf5": {"bytes": main.stat().st_size, "sha256": file_sha256(main)},
    }


def _main_path(name: DatasetName) -> Path:
    return name.folder / "data" / "main_data.hdf5"


def _episodes(dataset: Dataset, actions: NDArray[Any]) -> list[EpisodeBuffer]:
    """Views of the arrays, an episode each."""
    ends = np.cumsum(dataset.lengths)
    buffers = []
    for index, (end, length) in enumerate(zip(ends, dataset.lengths, strict=True)):
        rows = slice(end - length, end)
        buffers.append(
            EpisodeBuffer(
                id=index,
                observations=dataset.states[end - length + index : end + index + 1],
                actions=actions[rows],
                rewards=dataset.rewards[rows],
                terminations=dataset.terminations[rows],
                truncations=dataset.truncations[rows],
                infos=None,
            )
        )
    return buffers
