"""The datasets of the local Minari store: built, written, listed, and checked when they are loaded.

A dataset is an ordinary Minari dataset (`minari.load_dataset` opens it), with two files of the
suite next to its `data` folder: `card.json` says what it is and what its digests are, and
`transitions.safetensors` is a flat copy that loads at the speed of the disk.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import gymnasium
import minari
import msgspec
import numpy as np
from gymnasium.spaces import Box, Discrete
from minari.data_collector import EpisodeBuffer
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from benchmark.datasets.dataset import (
    Dataset,
    DatasetProblem,
    OnProgress,
    ReferenceReturns,
    check_dataset,
)
from benchmark.datasets.source import (
    VERSION,
    DatasetName,
    DatasetSource,
    find_source,
    store_folder,
)
from benchmark.environments.batch import highest
from benchmark.environments.lookup import check_stored_id, find_specification, make_batched
from benchmark.environments.rollout import require_time_limit
from benchmark.errors import ObdBenchError
from benchmark.files import (
    Fingerprint,
    UnfitFile,
    atomic_path,
    file_sha256,
    json_sha256,
    read_small,
    system_errors_name,
    write_atomic,
)
from benchmark.locks import FileLock
from benchmark.scaling import action_bounds

CARD = "card.json"
FLAT_COPY = "transitions.safetensors"
EPISODES = "data/main_data.hdf5"
METADATA = "data/metadata.json"
CARD_KEYS = (
    "name", "environment", "source", "size", "seed", "episodes", "returns", "reference_returns",
    "shapes", "sha256", "hdf5",
)  # fmt: skip


CARD_DIGEST = "card_sha256"
"""Key of the digest of all others; cards that older versions wrote have none."""


class _Returns(msgspec.Struct):
    mean: float
    sd: float
    max: float


class _Card(msgspec.Struct):
    """Types of what a card must hold."""

    name: str
    environment: str
    source: str
    size: int
    seed: int | None
    episodes: int
    returns: _Returns
    reference_returns: ReferenceReturns
    shapes: dict[str, list[int]]
    sha256: str
    hdf5: Fingerprint
    provenance: dict[str, Any] = {}


def build_dataset(
    name: DatasetName,
    *,
    seed: int = 0,
    threads: int = 1,
    force: bool = False,
    progress: OnProgress | None = None,
    source: DatasetSource | None = None,
    must_be_new: bool = False,
) -> Dataset:
    """Collect, fetch or import a dataset into the local store, or load what is there.

    Args:
        name: The dataset to build.
        seed: Seed of the collection; published data have none.
        threads: Threads that step the environments; the content does not depend on it.
        force: Build anew even if a sound one is there.
        progress: Called with (done, total) in the `progress_unit` of the source.
        source: Where the data come from, if not where the name says: a mirror, or a file.
        must_be_new: Refuse what is in the store, which may be other data than those of `source`.

    Raises:
        DatasetProblem: The dataset is in the store with another seed, or is not sound, or is there
            although it must be new.
    """

    def stored() -> Dataset:
        return refuse_stored(name) if must_be_new else _load_seed(name, seed)

    if is_stored(name) and not force:  # without a lock, which a read-only folder could not hold
        return stored()
    _check_apart(name)
    name.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{name.folder}.lock"):
        if is_stored(name) and not force:  # another builder was faster
            return stored()
        source = source or find_source(name.name)
        dataset = source.build(str(name), name.size, seed, threads, progress)
        seed_of = None if name.size is None else seed  # published data have none
        with system_errors_name(name.folder):
            write_dataset(name, dataset, seed=seed_of, description=source.description)
    return dataset


def refuse_stored(name: DatasetName) -> NoReturn:
    """Raise DatasetProblem: the store has the dataset, perhaps with other content or settings."""
    raise DatasetProblem(
        f"{name} is in the store already. Give --force to replace it, or leave it as it is "
        f"(`obdbench data info {name}` shows it) and give a file another name."
    )


def _load_seed(name: DatasetName, seed: int) -> Dataset:
    """Load a stored dataset, unless it was collected with another seed."""
    found = dataset_card(name)["seed"]
    if found not in (None, seed):
        raise DatasetProblem(
            f"{name} is in the store with seed {found}, you asked for seed {seed}. "
            f"Build over it with `{name.rebuild_command(seed)}`."
        )
    return load_dataset(name)


def is_stored(name: DatasetName) -> bool:
    """Whether the store has a dataset, sound or not; a build that was killed leaves no card."""
    return (name.folder / CARD).exists()


def load_dataset(name: DatasetName) -> Dataset:
    """Load a dataset of the local store and check it against its card.

    Raises:
        DatasetProblem: It is missing, truncated, altered or of the wrong shape; the message names
            the file, what was expected, what was found and the command that repairs it.
    """
    card = dataset_card(name)
    episodes, flat = name.folder / EPISODES, name.folder / FLAT_COPY
    options = card.get("provenance", {}).get("options", "")
    repair = f"Build it anew with `{name.rebuild_command(card['seed'])}{options}`."
    if not episodes.is_file():
        raise DatasetProblem(f"{episodes} is missing. {repair}")
    if (size := episodes.stat().st_size) != card["hdf5"]["bytes"]:
        raise DatasetProblem(
            f"{episodes} has {size} bytes, expected {card['hdf5']['bytes']}: it is truncated or "
            f"was written to. {repair}"
        )
    if (digest := file_sha256(episodes)) != card["hdf5"]["sha256"]:
        raise DatasetProblem(
            f"{episodes} has sha256 {digest}, expected {card['hdf5']['sha256']}: it was altered. "
            f"{repair}"
        )
    try:
        arrays = load_file(flat)
    except (FileNotFoundError, SafetensorError) as error:
        raise DatasetProblem(f"{flat} cannot be read ({error}). {repair}") from error
    shapes = {key: list(array.shape) for key, array in arrays.items()}
    if shapes != card["shapes"]:
        raise DatasetProblem(f"{flat} has shapes {shapes}, expected {card['shapes']}. {repair}")
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise DatasetProblem(f"{flat} has values that are not finite in {key!r}. {repair}")
    dataset = Dataset(
        name=str(name),
        env_id=check_stored_id(card["environment"], name.folder / CARD),
        reference=ReferenceReturns(**card["reference_returns"]),
        provenance=card.get("provenance", {}),
        **arrays,
    )
    if dataset.sha256 != card["sha256"]:
        raise DatasetProblem(
            f"{flat} has content sha256 {dataset.sha256}, expected {card['sha256']}: it was "
            f"altered. {repair}"
        )
    return dataset


def local_datasets() -> list[DatasetName]:
    """Every dataset of the suite in the local store."""
    names = []
    for path in sorted(store_folder().rglob(CARD)):
        try:
            name = DatasetName.parse(json.loads(read_small(path))["name"])
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError, ObdBenchError):
            continue  # another program's, or of a plug-in that is not loaded: `info` reports it
        if name.folder == path.parent:
            names.append(name)
    return names


def dataset_card(name: DatasetName) -> dict[str, Any]:
    """Read the card of a dataset in the store: size, returns, source, digests.

    Raises:
        DatasetProblem: The dataset is not in the store, or the card is damaged.
    """
    path = name.folder / CARD
    repair = f"Build it anew with `{name.rebuild_command(None)}`."
    if not path.is_file():
        raise DatasetProblem(
            f"The dataset {name} is not in the local store ({name.folder}). "
            f"Build it with `{name.build_command}`."
        )
    try:
        card: Any = json.loads(read_small(path))
    except (UnfitFile, ValueError, RecursionError) as error:
        raise DatasetProblem(f"{path} is not JSON ({error}). {repair}") from error
    if not isinstance(card, dict):
        raise DatasetProblem(
            f"{path} is not the card of a dataset: it is of type {type(card).__name__}, expected "
            f"an object. {repair}"
        )
    if lacking := [key for key in CARD_KEYS if key not in card]:
        raise DatasetProblem(f"{path} lacks {', '.join(map(repr, lacking))}. {repair}")
    said = card.pop(CARD_DIGEST, None)
    if said is not None and said != json_sha256(card):
        raise DatasetProblem(f"{path} was altered: its content has another sha256. {repair}")
    try:
        msgspec.convert(card, _Card)
    except msgspec.ValidationError as error:
        raise DatasetProblem(f"{path} is not the card of a dataset: {error}. {repair}") from error
    if card["name"] != str(name):
        raise DatasetProblem(
            f"{path} is the card of {card['name']!r}, expected {str(name)!r}: two datasets share a "
            f"folder, or it was copied here. {repair}"
        )
    return card


class Dimensions(NamedTuple):
    """What a plan must know of a dataset, without its transitions.

    environment: gymnasium id that policies are scored in; observation and action: numbers of each;
    length: mean length of an episode of the data, the time limit where they are not there;
    transitions: their number, None where it is not known before they are there.
    """

    environment: str
    observation: int
    action: int
    length: float
    transitions: int | None


def dimensions(name: DatasetName) -> Dimensions | None:
    """Sizes of a dataset, from its card or, where it is not in the store, its environment.

    None where neither is known.
    """
    card = dataset_card(name) if is_stored(name) else None
    env_id = environment_of(name)
    if env_id is None:
        return None
    with contextlib.closing(make_batched(env_id, 1)) as environment:
        action_dim = len(action_bounds(environment.action_space)[0])
        sizes, limit = (environment.observation_dim, action_dim), environment.max_episode_steps
    length = card["size"] / card["episodes"] if card else float(limit or 1000)
    return Dimensions(env_id, *sizes, length, card["size"] if card else name.size)


def environment_of(name: DatasetName) -> str | None:
    """Gymnasium id that policies of a dataset are scored in; None where it is not known yet."""
    if is_stored(name):
        return str(dataset_card(name)["environment"])
    return find_source(name.name).environment_id


def write_dataset(
    name: DatasetName, dataset: Dataset, *, seed: int | None, description: str
) -> None:
    """Write a dataset to the store; one that is there is replaced once the new one is whole.

    Log densities that were stored with the same content stay.

    Args:
        name: Name in the store.
        dataset: Content, checked first.
        seed: Seed of its collection; None for published data.
        description: One sentence for the card.

    Raises:
        DatasetProblem: The dataset is not consistent, or does not fit its environment.
        UnknownEnvironment: Its environment is not installed.
    """
    _check_apart(name)
    check_dataset(dataset)
    action_space, outside = _fit(dataset)
    provenance = dict(dataset.provenance)
    if outside and not name.name.startswith("local/"):
        raise DatasetProblem(outside)
    if outside:  # a user's own file, whose units the user knows
        provenance["warnings"] = [*provenance.get("warnings", ()), outside]
    returns = dataset.episode_returns
    card = {
        "name": str(name),
        "environment": dataset.env_id,
        "source": description,
        "provenance": provenance,
        "size": len(dataset),
        "seed": seed,
        "episodes": len(dataset.lengths),
        "returns": {
            "mean": float(returns.mean()),
            "sd": float(returns.std()),
            "max": float(returns.max()),
        },
        "reference_returns": asdict(dataset.reference),
        "shapes": {key: list(array.shape) for key, array in dataset.arrays().items()},
        "sha256": dataset.sha256,
    }
    # Next to it; no dataset has such a name (`check_name`).
    new, replaced = (
        name.folder.with_name(f"-{part}-{name.folder.name}") for part in ("new", "old")
    )
    if replaced.exists() and not name.folder.exists():  # killed between the two renames below
        replaced.rename(name.folder)
    _remove(new, replaced)  # what a build that was killed left
    if not name.folder.exists():
        _write(name.folder, name, dataset, action_space, card)
        return
    try:
        _write(new, name, dataset, action_space, card)
        _copy_log_densities(name.folder, new, dataset.sha256)
        name.folder.rename(replaced)
        try:
            new.rename(name.folder)
        except BaseException:
            replaced.rename(name.folder)
            raise
    finally:
        _remove(new)
    _remove(replaced)


def _check_apart(name: DatasetName) -> None:
    """Raise DatasetProblem where a dataset's folder would hold another's, or lie in it.

    The folder of `local/a` is `local/a-v0`, and so is that of the first parts of `local/a-v0/b`:
    whoever replaced the one would delete the other.
    """
    within = [folder for folder in name.folder.parents if folder.is_relative_to(store_folder())]
    above = [folder for folder in within if (folder / CARD).exists()]
    below = [card.parent for card in name.folder.rglob(CARD) if card.parent != name.folder]
    for other in [*above, *below]:
        raise DatasetProblem(
            f"The folder of {name} would be {name.folder}, and another dataset is in {other}: one "
            f"would be deleted with the other. Take another name, of which no part but the last "
            f"ends in '-v{VERSION}'."
        )


def _remove(*folders: Path) -> None:
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def _copy_log_densities(old: Path, new: Path, sha256: str) -> None:
    """Copy the log densities of this content: to fit some takes hours, and some were imported."""
    for path in old.glob("log_density.*.safetensors"):
        try:
            with safe_open(path, framework="numpy") as file:
                of_content = json.loads(file.metadata()["facts"])["dataset_sha256"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
            continue  # damaged: it would be refused where it is used
        if of_content == sha256:
            shutil.copy2(path, new)


def _write(
    folder: Path,
    name: DatasetName,
    dataset: Dataset,
    action_space: gymnasium.Space[Any],
    card: dict[str, Any],
) -> None:
    """Write the Minari dataset, the flat copy, and last the card, which makes the dataset whole."""
    _write_minari(folder, name, dataset, action_space, card["source"])
    with atomic_path(folder / FLAT_COPY) as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in dataset.arrays().items()}, temporary)
    card = {**card, "hdf5": asdict(Fingerprint.of(folder / EPISODES))}
    card[CARD_DIGEST] = json_sha256(card)
    write_atomic(folder / CARD, json.dumps(card, indent=1) + "\n")


def check_fits_environment(dataset: Dataset) -> gymnasium.Space[Any]:
    """Compare a dataset's dimensions and values with its environment's; return the action space.

    Raises:
        UnknownEnvironment: The environment is not installed; the message says what to install.
        UnsupportedSpace: The suite's policies cannot serve the environment.
        NoTimeLimit: Episodes of the environment may never end.
        DatasetProblem: The dataset is of another environment, or in other units.
    """
    space, outside = _fit(dataset)
    if outside:
        raise DatasetProblem(outside)
    return space


def _fit(dataset: Dataset) -> tuple[gymnasium.Space[Any], str]:
    """The action space, and what is to be said of observations outside their space, or ""."""
    require_time_limit(dataset.env_id)
    with contextlib.closing(make_batched(dataset.env_id, 1)) as environment:
        space, observation_dim = environment.action_space, environment.observation_dim
        observation_space = environment.observation_space
    action_dim = int(space.n) if isinstance(space, Discrete) else int(np.prod(space.shape or ()))
    found = (dataset.observation_dim, dataset.action_dim)
    if found != (observation_dim, action_dim):
        raise DatasetProblem(
            f"{dataset.name} has {found[0]} observation and {found[1]} action dimensions; "
            f"{dataset.env_id} has {observation_dim} and {action_dim}. Name the environment that "
            f"the data were collected in."
        )
    if isinstance(space, Box):
        if outside := _outside("actions", dataset.actions, space, dataset, allowed=0.0):
            raise DatasetProblem(outside)
    else:
        _check_one_hot(dataset)
    return space, _outside("observations", dataset.states, observation_space, dataset, allowed=0.01)


def _check_one_hot(dataset: Dataset) -> None:
    actions = dataset.actions
    wrong = np.flatnonzero(((actions != 0) & (actions != 1)).any(1) | (actions.sum(1) != 1))
    if len(wrong):
        raise DatasetProblem(
            f"{dataset.name}: the action of transition {wrong[0]} is "
            f"{actions[wrong[0]].tolist()}; {dataset.env_id} has discrete actions, which are "
            f"stored one-hot (1 for the action taken, 0 for the others)."
        )


def _outside(
    what: str, values: NDArray[Any], space: Box, dataset: Dataset, *, allowed: float
) -> str:
    """Say that values `[M, dim]` lie outside a space in more rows than allowed, by no rounding.

    Some of gymnasium's own environments leave their observation space at times (LunarLander).
    """
    low, high = space.low.ravel().astype(float), space.high.ravel().astype(float)
    margin = np.nan_to_num(1e-5 * (high - low), posinf=0.0)
    outside = (values < low - margin) | (values > high + margin)
    rows = np.flatnonzero(outside.any(1))
    if len(rows) <= allowed * len(values):
        return ""
    row, column = int(rows[0]), int(outside[rows[0]].argmax())
    return (
        f"{dataset.name}: {len(rows):,} of {len(values):,} {what} are outside the space of "
        f"{dataset.env_id}, the first in row {row}: component {column} is "
        f"{values[row, column]:.6g}, expected {low[column]:.6g} to {high[column]:.6g}. They are "
        f"in other units (a wrapper normalised or rescaled them), not clipped, or of another "
        f"environment. Convert the data, or name the environment that they were collected in."
    )


def _write_minari(
    folder: Path,
    name: DatasetName,
    dataset: Dataset,
    action_space: gymnasium.Space[Any],
    description: str,
) -> None:
    # By specification: gymnasium answers the id of a v4 environment with a deprecation warning.
    environment = find_specification(dataset.env_id)
    minari.create_dataset_from_buffers(
        dataset_id=folder.relative_to(store_folder().parent).as_posix(),  # its folder, to Minari
        buffer=_episode_buffers(dataset, action_space),
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
    if folder != name.folder:
        metadata = json.loads((folder / METADATA).read_text("utf-8"))
        write_atomic(folder / METADATA, json.dumps({**metadata, "dataset_id": name.minari_id}))


def _episode_buffers(dataset: Dataset, action_space: gymnasium.Space[Any]) -> list[EpisodeBuffer]:
    """Views of the arrays, one per episode; discrete actions as integers, as Minari has them."""
    actions: NDArray[Any] = dataset.actions
    if isinstance(action_space, Discrete):
        actions = highest(actions, action_space)
    buffers = []
    ends = np.cumsum(dataset.lengths)
    for index, (end, length) in enumerate(zip(ends, dataset.lengths, strict=True)):
        rows = slice(end - length, end)
        buffers.append(
            EpisodeBuffer(
                id=index,
                # `states` has one row more per episode: its last observation.
                observations=dataset.states[end - length + index : end + index + 1],
                actions=actions[rows],
                rewards=dataset.rewards[rows],
                terminations=dataset.terminations[rows],
                truncations=dataset.truncations[rows],
                infos=None,
            )
        )
    return buffers
