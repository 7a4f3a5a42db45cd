"""Reading an HDF5 file in D4RL's format as the transitions that D4RL's learners see.

The format (arXiv 2004.07219) is a list of rows, episodes one after the other; a row that is true in
`terminals` or `timeouts` is the last of its episode. D4RL's q-learning view
(`d4rl.qlearning_dataset`, `terminate_on_end=False`) makes transitions of it:

- the next observation of row i is that of row i + 1, so the last row of the file makes none;
- nor does a row that timed out: row i + 1 is the next episode's first.

So N rows make as many transitions as there are rows before the last that did not time out. Here
the observation of a row without a transition serves as the last one of its episode, and its action
and reward are left out. An episode that the end of the file cuts counts as truncated, as does one
whose last row is true in both. After a terminal the next observation is the file's own
`next_observations` where it has them, else row i + 1 as in D4RL: that is the next episode's first,
and no learner that stops at terminations ever uses it. The dataset's provenance says which.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.dataset import (
    Dataset,
    DatasetProblem,
    FloatArray,
    ReferenceReturns,
    check_finite,
)
from benchmark.environments.lookup import find_specification

_DIMENSIONS = {"observations": 2, "actions": 2, "rewards": 1, "terminals": 1, "timeouts": 1}
_BLOCK = 1 << 16  # rows of `next_observations` in memory at a time


def read_d4rl_file(path: Path, *, name: str, env_id: str, reference: ReferenceReturns) -> Dataset:
    """Read the q-learning view of a file; float64 is converted to float32.

    Memory: at most twice the file's observations, and everything else once.

    Args:
        path: HDF5 with `observations [N, obs_dim]`, `actions [N, act_dim]`, `rewards`, `terminals`
            and `timeouts` `[N]`; `next_observations [N, obs_dim]` may be there.
        name: Name of the dataset.
        env_id: Id of the environment that policies are scored in.
        reference: Returns that normalisation stands on.

    Raises:
        DatasetProblem: The file cannot be read, lacks something, or holds something impossible.
        UnknownEnvironment: The environment is not installed.
    """
    limit = find_specification(env_id).max_episode_steps
    try:
        with h5py.File(path, "r") as file:
            _check_layout(path, file)
            terminals, timeouts = _flags(path, file, "terminals"), _flags(path, file, "timeouts")
            kept, lengths = _transitions(terminals, timeouts)
            _check_ends(path, terminals | timeouts, len(kept))
            ends = np.cumsum(lengths) - 1  # the last transition of each episode
            terminations, truncations = np.zeros((2, len(kept)), dtype=bool)
            terminations[ends] = terminals[kept[ends]]
            truncations[ends] = ~terminations[ends]
            states, facts, warnings = _states(path, file, kept, lengths, terminations[ends])
            return Dataset(
                name=name,
                env_id=env_id,
                states=states,
                actions=_floats(path, file, "actions")[kept],
                rewards=_floats(path, file, "rewards")[kept],
                terminations=terminations,
                truncations=truncations,
                lengths=lengths,
                reference=reference,
                provenance={
                    "rows": len(terminals),
                    **facts,
                    "warnings": [*_overlong(path, lengths, limit, env_id), *warnings],
                },
            )
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # h5py, by what is damaged
        raise DatasetProblem(
            f"{path} cannot be read as HDF5 ({error}). It is missing, cut short, or of another "
            f"kind: get it again."
        ) from error


def _check_ends(path: Path, last: NDArray[np.bool_], transitions: int) -> None:
    if not last.any():
        raise DatasetProblem(
            f"{path}: none of the {len(last):,} rows is true in 'terminals' or 'timeouts', so the "
            f"episodes are without end. Mark the last row of every episode in one of them."
        )
    if not transitions:
        raise DatasetProblem(
            f"{path}: its {len(last):,} rows make no transition: every one timed out, or is the "
            f"last. Mark in 'timeouts' only the last row of an episode."
        )


def _transitions(
    terminals: NDArray[np.bool_], timeouts: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows that make a transition `[M]`, and how many of them each episode has `[E]`."""
    makes_transition = ~timeouts
    makes_transition[-1] = False
    last = terminals | timeouts
    # A row's episode is the number of ends before it: the cumulative sum counts its own end too.
    episode: NDArray[np.int64] = np.cumsum(last) - last
    lengths = np.bincount(episode[makes_transition])
    return np.flatnonzero(makes_transition), lengths[lengths > 0]  # an episode of none is left out


def _states(
    path: Path,
    file: h5py.File,
    kept: NDArray[np.int64],
    lengths: NDArray[np.int64],
    terminated: NDArray[np.bool_],
) -> tuple[FloatArray, dict[str, str], list[str]]:
    """The states of every episode `[M + E, obs_dim]`, what follows terminals, and warnings.

    Args:
        path: Path of the file, for messages.
        file: The open file.
        kept: Rows that make a transition `[M]`.
        lengths: Transitions of each episode `[E]`.
        terminated: Whether each episode ended in a terminal `[E]`.
    """
    ends = np.cumsum(lengths) - 1
    # An episode's states are its rows and the row after its last transition: the one that timed
    # out, or the first that the end of the data cut off; after a terminal, what D4RL's view takes.
    rows = np.insert(kept, ends + 1, kept[ends] + 1)
    states = _floats(path, file, "observations")[rows]
    if "next_observations" not in file:
        return states, {"after_terminals": "the row that follows in the file, as in D4RL"}, []
    finals = (np.cumsum(lengths + 1) - 1)[terminated]
    unequal = _take_next_observations(path, file, states, finals, kept, lengths)
    warning = (
        f"In {unequal:,} of {len(kept):,} transitions of {path.name} next_observations is not the "
        f"observation of the row that follows; the row that follows was taken, as in D4RL."
    )
    facts = {"after_terminals": "next_observations of the file"}
    return states, facts, [warning] if unequal else []


def _take_next_observations(
    path: Path,
    file: h5py.File,
    states: FloatArray,
    finals: NDArray[np.int64],
    kept: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> int:
    """Put the file's own next observations at `finals`, and count the others that differ.

    They are read block by block: next to the observations they would be another whole array.

    Args:
        path: Path of the file, for messages.
        file: The open file.
        states: States of every episode `[M + E, obs_dim]`, changed in place.
        finals: Rows of `states` that follow a terminal.
        kept: Rows of the file that make a transition `[M]`.
        lengths: Transitions of each episode `[E]`.
    """
    # Where in `states` the successor of transition m of episode e is: m + e + 1, since each episode
    # before it has one state more than transitions.
    successors = np.arange(len(kept)) + np.repeat(np.arange(len(lengths)), lengths) + 1
    is_final = np.zeros(len(states), dtype=bool)
    is_final[finals] = True
    unequal = 0
    for first in range(0, int(kept[-1]) + 1, _BLOCK):
        block = file["next_observations"][first : first + _BLOCK].astype(np.float32)
        check_finite(f"{path}: 'next_observations' from row {first}", block)
        within = slice(*np.searchsorted(kept, [first, first + _BLOCK]))  # `kept` is sorted
        given, places = block[kept[within] - first], successors[within]
        final = is_final[places]
        unequal += int((given != states[places]).any(1)[~final].sum())
        states[places[final]] = given[final]
    return unequal


def _check_layout(path: Path, file: h5py.File) -> None:
    """Check the keys, the numbers of dimensions, and that all have one length."""
    lacking = [key for key in _DIMENSIONS if not isinstance(file.get(key), h5py.Dataset)]
    if lacking:
        hint = (
            "It is the data of a Minari dataset: put its folder into the local Minari store, and "
            "use it as minari/ID."
            if "episode_0" in file
            else f"Expected D4RL's format, with {', '.join(_DIMENSIONS)}."
        )
        raise DatasetProblem(
            f"{path} lacks {', '.join(map(repr, lacking))}; it has {_some(list(file))}. {hint}"
        )
    keys = [*_DIMENSIONS, *(["next_observations"] if "next_observations" in file else [])]
    shapes: dict[str, tuple[int, ...]] = {key: file[key].shape for key in keys}
    fits = all(
        len(shape) == _DIMENSIONS.get(key, 2) and shape[:1] == shapes["rewards"] and 0 not in shape
        for key, shape in shapes.items()
    )
    if not fits or shapes.get("next_observations") not in (None, shapes["observations"]):
        found = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        raise DatasetProblem(
            f"{path} has {found}; expected observations (and next_observations, if any) "
            f"[N, obs_dim], actions [N, act_dim] and everything else [N], of one N."
        )


def _floats(path: Path, file: h5py.File, key: str) -> FloatArray:
    """Read a whole array as float32; HDF5 converts while reading, so no float64 copy is made."""
    data = file[key]
    if data.dtype.kind != "f":
        raise DatasetProblem(
            f"{path}: {key!r} has dtype {data.dtype}, expected float32 or float64. Convert it."
        )
    array = np.empty(data.shape, dtype=np.float32)
    data.read_direct(array)
    check_finite(f"{path}: {key!r}", array)
    return array


def _flags(path: Path, file: h5py.File, key: str) -> NDArray[np.bool_]:
    values: NDArray[np.generic] = file[key][:]
    if values.dtype.kind not in "bui" or not np.isin(values, (0, 1)).all():
        raise DatasetProblem(
            f"{path}: {key!r} has dtype {values.dtype}, expected booleans (or whole numbers 0 and "
            f"1). Convert it."
        )
    return values.astype(bool)


def _overlong(path: Path, lengths: NDArray[np.int64], limit: int | None, env_id: str) -> list[str]:
    if limit is None or lengths.max() <= limit:
        return []
    return [
        f"{int((lengths > limit).sum())} episodes of {path.name} are longer than the {limit} steps "
        f"of {env_id}, the longest {lengths.max()}: ends may be missing in 'timeouts'."
    ]


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "") or "nothing"
