"""Reading a file of transitions, .npz, HDF5 or parquet, under the names that are usual for them.

Three layouts are known, and the arrays say which it is (N rows, E episodes):

- rows with next observations: every row makes a transition;
- rows without them: D4RL's layout, read as D4RL's learners read it (see `hdf5`), where the next
  row's observation is the next observation, and a row that was cut makes no transition;
- trajectories, with N + E observations: those of an episode and its last one, then the next's.

An episode ends where the file says so in any way that it has (`SPELLINGS`), and, where there are
next observations, wherever the next row does not go on from them. An episode that reached the
environment's time limit counts as truncated, also where it is marked as terminal: many files mark
both alike.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from benchmark.datasets.dataset import (
    Dataset,
    DatasetProblem,
    FloatArray,
    ReferenceReturns,
    check_finite,
)
from benchmark.datasets.hdf5 import (
    REQUIRED,
    as_flags,
    check_claim,
    check_storage,
    qlearning_view,
    said_cut,
    stored_actions,
)
from benchmark.environments.lookup import action_space, find_specification

SPELLINGS = {
    "observations": ("observations", "observation", "obs", "states", "state"),
    "actions": ("actions", "action", "acts", "act"),
    "rewards": ("rewards", "reward", "rews", "rew"),
    "next_observations": (
        "next_observations", "next_observation", "next_obs", "next_states", "next_state",
    ),
    "terminals": ("terminals", "terminal", "terminations", "termination", "terminated"),
    "dones": ("dones", "done"),
    "timeouts": ("timeouts", "timeout", "truncations", "truncation", "truncated"),
    "episode_lengths": ("episode_lengths", "episode_length"),
    "episode_starts": ("episode_starts", "is_first"),
    "episode_ids": ("episode_ids", "episode_id", "episode"),
    "splits": ("indices",),
}  # fmt: skip
"""Names that a file may have for each array; `splits` are where each next trajectory starts."""
_PARTS = re.compile(r"(.+?)[._](\d+)")  # obs_0, obs_1, ...: columns of one array


@dataclass(frozen=True)
class _File:
    """The arrays of a file that mean something here.

    Attributes:
        path: The file, for messages.
        arrays: Arrays by our names of them, numbers of any type.
        spelled: The file's name of each.
    """

    path: Path
    arrays: dict[str, NDArray[Any]]
    spelled: dict[str, str]

    def floats(self, key: str) -> FloatArray:
        with np.errstate(over="ignore"):  # too large for float32: infinite, which is refused
            array = self.arrays[key].astype(np.float32)
        check_finite(f"{self.path}: {self.spelled[key]!r}", array)
        return array


@dataclass(frozen=True)
class _Marks:
    """Where the file says that episodes end; each `[N]`.

    Attributes:
        ends: Last rows of episodes, the file's last row always.
        terminals: Rows marked as terminal.
        timeouts: Rows marked as timed out.
    """

    ends: NDArray[np.bool_]
    terminals: NDArray[np.bool_]
    timeouts: NDArray[np.bool_]


def read_transitions(path: Path, *, name: str, env_id: str, reference: ReferenceReturns) -> Dataset:
    """Read a file of transitions; every number is converted to float32.

    Args:
        path: .npz, HDF5 or parquet; what is in it decides, not its ending.
        name: Name of the dataset.
        env_id: Id of the environment that policies are scored in.
        reference: Returns that normalisation stands on.

    Raises:
        DatasetProblem: The file cannot be read, lacks something, or holds something impossible.
        UnknownEnvironment: The environment is not installed.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as stored:
                check_storage(path, stored)
                # D4RL's own layout is read without whole arrays of float64.
                others = {*_spelled(path, stored, lacking_is_wrong=False)} - {*REQUIRED, "timeouts"}
                plain = not others and all(key in stored for key in REQUIRED)
                if (plain and _are_rows(stored)) or "episode_0" in stored:
                    return qlearning_view(
                        path,
                        stored,
                        name=name,
                        env_id=env_id,
                        reference=reference,
                        cut_at_limit=True,
                    )
                file = _hdf5(path, stored)
        elif start == b"PK\x03\x04":
            file = _npz(path)
        elif start == b"PAR1":
            file = _parquet(path)
        else:
            raise DatasetProblem(
                f"{path} begins with {start!r}, which is none of .npz (zip), HDF5 or parquet. "
                f"Write the transitions with numpy.savez, h5py or pandas."
            )
    # What numpy, zipfile and h5py raise, by what is damaged; MemoryError for a shape beyond all
    # measure.
    except (
        OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, MemoryError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise DatasetProblem(
            f"{path} cannot be read ({error}). It is missing, cut short, or of another kind than "
            f".npz, HDF5 or parquet: get it again."
        ) from error
    return _dataset(file, name=name, env_id=env_id, reference=reference)


def clip_controls(dataset: Dataset) -> Dataset:
    """Clip actions to the bounds of a MuJoCo environment, as it does itself to its controls.

    The rewards stay; in gymnasium they have the control cost of the action before it is clipped.
    Data of other environments are given back as they are; what does not fit is refused later.
    """
    specification, space = find_specification(dataset.env_id), action_space(dataset.env_id)
    if (
        not str(specification.entry_point).startswith("gymnasium.envs.mujoco.")
        or specification.additional_wrappers
        or not isinstance(space, Box)
        or space.shape != (dataset.action_dim,)
    ):
        return dataset
    clipped = dataset.actions.clip(space.low, space.high).astype(np.float32)
    excess = np.abs(dataset.actions - clipped)
    if not excess.any():
        return dataset
    said = (
        f"{int(excess.any(1).sum()):,} of {len(dataset):,} actions are outside the action space of "
        f"{dataset.env_id}, by up to {excess.max():.4g}; they were clipped to it, as "
        f"{dataset.env_id} clips its controls. The rewards are the file's, with the control cost "
        f"of the actions before."
    )
    known = dataset.provenance
    provenance = {
        **known,
        "actions_clipped": int(excess.any(1).sum()),
        "warnings": [*known.get("warnings", ()), said],
    }
    return dataclasses.replace(dataset, actions=clipped, provenance=provenance)


def _are_rows(stored: h5py.File) -> bool:
    """Whether arrays of D4RL's names have as many entries: no state or flag more per episode."""
    keys = (*REQUIRED, *({"timeouts"} & stored.keys()))
    shapes = (getattr(stored[key], "shape", None) for key in keys)
    return len({shape[:1] for shape in shapes if shape is not None}) <= 1


def _spelled(path: Path, names: Iterable[str], *, lacking_is_wrong: bool = True) -> dict[str, str]:
    """The file's name of every array that it has, by ours."""
    there, found = set(names), {}
    for key, spellings in SPELLINGS.items():
        match [spelling for spelling in spellings if spelling in there]:
            case [one]:
                found[key] = one
            case [one, other, *_]:
                raise DatasetProblem(
                    f"{path} has both {one!r} and {other!r}, which are two names of one array, the "
                    f"{key}. Leave out the one that is not meant."
                )
    groups = (("observations",), ("actions",), ("rewards",), ("terminals", "dones"))
    lacking = [group for group in groups if not any(key in found for key in group)]
    if lacking and lacking_is_wrong:
        names = [name for key in lacking[0] for name in SPELLINGS[key]]
        raise DatasetProblem(
            f"{path} has no {lacking[0][0]}; it has "
            f"{', '.join(map(repr, sorted(there)[:12])) or 'nothing'}. Expected one of "
            f"{', '.join(names)}: rename the array, or add it."
        )
    return found


def _check_numbers(path: Path, spelled: str, dtype: Any) -> None:
    if dtype.hasobject:
        raise DatasetProblem(
            f"{path}: {spelled!r} holds Python objects, which are not read: to unpickle a file is "
            f"to run its code. Write an array of numbers, e.g. numpy.concatenate(episodes)."
        )
    if dtype.kind not in "fiub":
        raise DatasetProblem(
            f"{path}: {spelled!r} has dtype {dtype}, expected numbers, such as float32. Convert it."
        )


def _npz(path: Path) -> _File:
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        spelled, claimed = _spelled(path, [name[:-4] for name in members]), 0
        for stored in spelled.values():
            with archive.open(f"{stored}.npy") as stream:
                version = np.lib.format.read_magic(stream)
                read: Callable[..., Any] = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(stream)
            _check_numbers(path, stored, dtype)
            claimed += math.prod(shape) * dtype.itemsize
    check_claim(path, claimed, "its arrays")
    with np.load(path, allow_pickle=False) as arrays:
        return _File(path, {key: arrays[stored] for key, stored in spelled.items()}, spelled)


def _hdf5(path: Path, stored: h5py.File) -> _File:
    arrays = {key: item for key, item in stored.items() if isinstance(item, h5py.Dataset)}
    spelled = _spelled(path, arrays)
    for name in spelled.values():
        _check_numbers(path, name, arrays[name].dtype)
    return _File(path, {key: arrays[name][()] for key, name in spelled.items()}, spelled)


def _parquet(path: Path) -> _File:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DatasetProblem(
            f"{path} is parquet, which needs pyarrow: pip install 'obdbench[parquet]', or write "
            f"the transitions with numpy.savez."
        ) from error
    file = parquet.ParquetFile(path)
    columns: dict[str, list[tuple[int, str]]] = {}  # per array, its columns with their numbers
    for column in file.schema_arrow.names:
        part = _PARTS.fullmatch(column)
        known = part is not None and any(part[1] in names for names in SPELLINGS.values())
        name, number = (part[1], int(part[2])) if part and known else (column, -1)
        columns.setdefault(name, []).append((number, column))
    spelled = _spelled(path, columns)
    for name in spelled.values():
        numbers = [number for number, _ in sorted(columns[name])]
        if numbers not in ([-1], [*range(len(numbers))], [*range(1, len(numbers) + 1)]):
            raise DatasetProblem(
                f"{path} has the columns {', '.join(repr(c) for _, c in sorted(columns[name]))}; "
                f"expected {name!r}, or {name + '_0'!r} and so on without a gap."
            )
    wanted = {name: [c for _, c in sorted(columns[name])] for name in spelled.values()}
    flat = [column for names in wanted.values() for column in names]
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    leaves = [group.column(j) for group in groups for j in range(group.num_columns)]
    used = [leaf for leaf in leaves if leaf.path_in_schema.partition(".list")[0] in flat]
    check_claim(path, sum(8 * leaf.num_values for leaf in used), "its columns")
    table = file.read(columns=flat)
    arrays = {}
    for key, name in spelled.items():
        parts = [_column(path, column, table[column].combine_chunks()) for column in wanted[name]]
        alone = len(parts) == 1 and wanted[name] == [name]
        arrays[key] = parts[0] if alone else np.stack(parts, axis=1)
    return _File(path, arrays, spelled)


def _column(path: Path, name: str, chunk: Any) -> NDArray[Any]:
    """A column of numbers `[N]`, or of lists of equally many numbers `[N, dim]`."""
    rows = len(chunk)
    if chunk.null_count:
        raise DatasetProblem(
            f"{path}: {chunk.null_count:,} rows of {name!r} are empty. Fill them, or leave "
            f"them out."
        )
    if not hasattr(chunk, "flatten") or not hasattr(chunk, "value_lengths"):
        values = chunk.to_numpy(zero_copy_only=False)
        _check_numbers(path, name, values.dtype)
        return np.asarray(values)
    lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
    flat = chunk.flatten()
    if rows == 0 or lengths.min() != lengths.max() or flat.null_count:
        raise DatasetProblem(
            f"{path}: the lists of {name!r} are empty or differ in length; expected equally many "
            f"numbers in every row."
        )
    return _column(path, name, flat).reshape(rows, -1)


def _dataset(file: _File, *, name: str, env_id: str, reference: ReferenceReturns) -> Dataset:
    """The transitions, in the layout that the shapes say."""
    rows, trajectories = _check_shapes(file)
    marks = _marks(file, rows, trajectories)
    if not trajectories and "next_observations" not in file.arrays:
        return _as_d4rl(file, marks, name=name, env_id=env_id, reference=reference)
    states, ends, rewards = file.floats("observations"), marks.ends, file.floats("rewards")
    rewards, warnings = rewards.reshape(-1), []
    if trajectories:
        layout, episodes = "trajectories", int(ends.sum())
        if episodes != len(states) - rows:
            raise DatasetProblem(
                f"{file.path} has {len(states):,} observations and {rows:,} actions, which makes "
                f"{len(states) - rows:,} episodes; its ends make {episodes:,}. Expected one "
                f"observation more per episode than actions."
            )
    else:
        layout, following = "rows with next observations", file.floats("next_observations")
        gaps = np.ones_like(ends)
        gaps[:-1] = (following[:-1] != states[1:]).any(1)
        warnings += _about_gaps(file.path, gaps, marks)
        warnings += _about_autoreset(file.path, gaps, marks, rewards)
        ends = ends | gaps
        last = np.flatnonzero(ends)
        states = np.insert(states, last + 1, following[last], axis=0)
    actions, converted = stored_actions(file.path, file.floats("actions"), env_id)
    lengths = np.diff(np.flatnonzero(ends), prepend=-1)
    limit = find_specification(env_id).max_episode_steps
    at_limit = np.zeros_like(ends)
    at_limit[ends] = lengths == limit
    warnings += _about_limit(file.path, marks, at_limit, lengths, env_id)
    terminations = marks.terminals & ~(marks.timeouts | at_limit)
    return Dataset(
        name=name,
        env_id=env_id,
        states=states,
        actions=actions,
        rewards=rewards,
        terminations=terminations,
        truncations=ends & ~terminations,
        lengths=lengths,
        reference=reference,
        provenance={"layout": layout, **converted, "warnings": warnings},
    )


def _check_shapes(file: _File) -> tuple[int, bool]:
    """The number of transitions, and whether each episode has an observation more than those."""
    shapes = {key: array.shape for key, array in file.arrays.items()}
    observations, rows = shapes["observations"], shapes["actions"][:1]
    per_row = {"rewards", "next_observations", "episode_ids", "episode_starts"} & shapes.keys()
    lists = shapes.keys() - {"observations", "actions", "next_observations"}
    if (
        len(observations) != 2
        or 0 in observations
        or len(shapes["actions"]) not in (1, 2)
        or any(shapes[key][:1] != rows for key in per_row)
        or any(shapes[key][1:] not in ((), (1,)) for key in lists)
        or shapes.get("next_observations", observations)[1:] != observations[1:]
        or observations[0] < rows[0]
    ):
        found = ", ".join(f"{file.spelled[key]} {list(shape)}" for key, shape in shapes.items())
        raise DatasetProblem(
            f"{file.path} has {found}; expected observations (and next observations) [N, obs_dim], "
            f"actions [N, act_dim] and everything else [N], of one N, or one observation more per "
            f"episode. Join the episodes one after the other."
        )
    return rows[0], observations[0] > rows[0]


def _marks(file: _File, rows: int, trajectories: bool) -> _Marks:
    """What the file says of the ends of its episodes, in every way that it has."""
    ends = np.zeros(rows, dtype=bool)
    arrays = file.arrays
    if "episode_lengths" in arrays:
        lengths = arrays["episode_lengths"].reshape(-1).astype(np.int64)
        if lengths.sum() != rows or lengths.min(initial=1) < 1:
            raise DatasetProblem(
                f"{file.path}: {file.spelled['episode_lengths']!r} sums up to "
                f"{int(lengths.sum()):,} (smallest {lengths.min(initial=0)}); expected positive "
                f"whole numbers, one per episode, that sum up to the {rows:,} rows."
            )
        ends[np.cumsum(lengths) - 1] = True
    if trajectories and "splits" in arrays:
        splits = arrays["splits"].reshape(-1).astype(np.int64)
        if len(splits) and (splits.min() < 1 or splits.max() > rows or (np.diff(splits) < 1).any()):
            raise DatasetProblem(
                f"{file.path}: {file.spelled['splits']!r} goes from {splits.min()} to "
                f"{splits.max()}; expected the rows at which each next episode starts, rising, "
                f"within 1 and {rows}."
            )
        ends[splits - 1] = True
    if "episode_starts" in arrays:
        starts = as_flags(file.path, file.spelled["episode_starts"], arrays["episode_starts"])
        ends[:-1] |= starts[1:]
    if "episode_ids" in arrays:
        ids = arrays["episode_ids"].reshape(-1)
        ends[:-1] |= ids[1:] != ids[:-1]
    ends[-1:] = True
    flags = {key: np.zeros(rows, dtype=bool) for key in ("terminals", "dones", "timeouts")}
    for key in flags.keys() & arrays.keys():
        given = as_flags(file.path, file.spelled[key], arrays[key])
        if len(given) not in (rows, episodes := int(ends.sum())):
            raise DatasetProblem(
                f"{file.path}: {file.spelled[key]!r} has {len(given):,} entries; expected one per "
                f"row ({rows:,}), or one per episode ({episodes:,})."
            )
        flags[key][slice(None) if len(given) == rows else ends] = given
    return _Marks(
        ends=np.logical_or.reduce([ends, *flags.values()]),
        terminals=flags["terminals" if "terminals" in arrays else "dones"],
        timeouts=flags["timeouts"],
    )


def _about_gaps(path: Path, gaps: NDArray[np.bool_], marks: _Marks) -> list[str]:
    """Warnings on rows `[N]` after which the next one does not begin with the next observation.

    Raises:
        DatasetProblem: They are most rows.
    """
    unmarked, warnings = int((gaps & ~marks.ends).sum()), []
    if unmarked > len(gaps) / 2:
        raise DatasetProblem(
            f"{path}: after {unmarked:,} of {len(gaps):,} rows the next one does not begin with "
            f"their next observation, so the rows are not in the order of time. Sort them by "
            f"episode and step; returns and episodes cannot be known otherwise."
        )
    if unmarked:
        warnings.append(
            f"{unmarked:,} episodes of {path.name} end unmarked, where the next row does not begin "
            f"with the next observation; they count as truncated there."
        )
    if running := int((marks.ends & ~gaps & ~marks.terminals).sum()):
        warnings.append(
            f"After {running:,} episodes of {path.name} that were cut, the next one begins with "
            f"their next observation: it was taken after a reset, one episode was cut in parts, or "
            f"a vector environment's autoreset added a row."
        )
    return warnings


def _about_autoreset(
    path: Path, gaps: NDArray[np.bool_], marks: _Marks, rewards: FloatArray
) -> list[str]:
    """A warning on rows that a vector environment's autoreset added, as far as they can be told.

    In gymnasium's default mode the step after an end ignores its action, has reward 0, and leads
    from the last observation of an episode to the first of the next. So the row after a terminal
    begins where that ended, and the row that follows goes on from it; elsewhere a reset is between.
    """
    goes_on = marks.terminals[:-2] & ~gaps[:-2] & ~gaps[1:-1] & ~marks.ends[1:-1]
    if not (found := int(goes_on.sum())):
        return []
    without_reward = int((rewards[1:-1][goes_on] == 0).sum())
    return [
        f"After {found:,} terminals of {path.name} the next row begins with their next observation "
        f"and goes on from it, {without_reward:,} times with reward 0. With reward 0 it is likely "
        f"the row that gymnasium's vector environments add at a reset (autoreset), which is not a "
        f"transition: drop these rows, or collect with AutoresetMode.DISABLED or SAME_STEP. With "
        f"other rewards the next observation was likely taken after the reset, which no learner "
        f"that stops at terminals uses."
    ]


def _as_d4rl(
    file: _File, marks: _Marks, *, name: str, env_id: str, reference: ReferenceReturns
) -> Dataset:
    """D4RL's view of rows without next observations, through an HDF5 file in memory."""
    says_cuts = {"timeouts", "episode_lengths", "episode_starts", "episode_ids"} & {*file.arrays}
    says_cuts |= {"dones"} if {"terminals", "dones"} <= {*file.arrays} else set()
    with h5py.File("rows", "w", driver="core", backing_store=False) as rows:
        for key in ("observations", "actions", "rewards"):
            rows[key] = file.floats(key)
        rows["terminals"] = marks.terminals
        if says_cuts:
            rows["timeouts"] = marks.timeouts | (marks.ends & ~marks.terminals)
        dataset = qlearning_view(
            file.path, rows, name=name, env_id=env_id, reference=reference, cut_at_limit=True
        )
    layout = {"layout": "rows without next observations, read as D4RL's"}
    return dataclasses.replace(dataset, provenance={**layout, **dataset.provenance})


def _about_limit(
    path: Path,
    marks: _Marks,
    at_limit: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    env_id: str,
) -> list[str]:
    """Warnings where the time limit changes what the file says, or was not kept."""
    limit, warnings = find_specification(env_id).max_episode_steps, []
    if both := int((marks.terminals & at_limit & ~marks.timeouts).sum()):
        warnings.append(said_cut(both, path, limit, env_id))
    if limit is not None and (longest := int(lengths.max())) > limit:
        warnings.append(
            f"{int((lengths > limit).sum())} episodes of {path.name} are longer than the {limit} "
            f"steps of {env_id}, the longest {longest}: ends may be unmarked."
        )
    return warnings
