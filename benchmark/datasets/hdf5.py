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

Like D4RL's reader it takes numbers of any type (float64, whole-number rewards, flags 0.0 and 1.0),
a column `[N, 1]` where a list belongs, and a file without `timeouts`, whose episodes end at the
environment's time limit (D4RL's loop counts one step too few after a terminal). Discrete actions
may be whole numbers: they become one-hot rows. A terminal at the time limit stays one, as in D4RL;
in files of the user's own (see `transitions`) it counts as a time-out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from benchmark.datasets.dataset import (
    Dataset,
    DatasetProblem,
    FloatArray,
    ReferenceReturns,
    check_finite,
)
from benchmark.environments.batch import one_hot
from benchmark.environments.lookup import action_space, find_specification

REQUIRED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations")
NEXT_ROW = "the row that follows in the file, as in D4RL"
"""What `after_terminals` of the provenance says where that is the next episode's first row."""
MOST_BYTES = 2**30
"""Bytes that the arrays of a file may need however small the file is."""
MOST_COMPRESSION = 64
"""How many times larger than their file arrays may be beyond that; D4RL's are twice as large."""
_BLOCK = 1 << 16  # rows of `next_observations` in memory at a time


def read_d4rl_file(path: Path, *, name: str, env_id: str, reference: ReferenceReturns) -> Dataset:
    """Read the q-learning view of a file; every number is converted to float32.

    It holds at most twice the file's observations, and everything else once.

    Args:
        path: HDF5 with `observations [N, obs_dim]`, `actions [N, act_dim]` (or `[N]`), `rewards`
            and `terminals` `[N]`; `timeouts [N]` and `next_observations [N, obs_dim]` may be there.
        name: Name of the dataset.
        env_id: Id of the environment that policies are scored in.
        reference: Returns that normalisation stands on.

    Raises:
        DatasetProblem: The file cannot be read, lacks something, or holds something impossible.
        UnknownEnvironment: The environment is not installed.
    """
    try:
        with h5py.File(path, "r") as file:
            check_storage(path, file)
            return qlearning_view(path, file, name=name, env_id=env_id, reference=reference)
    # What h5py raises, by what is damaged; MemoryError where a shape is beyond all measure.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise DatasetProblem(
            f"{path} cannot be read as HDF5 ({error}). It is missing, cut short, or of another "
            f"kind: get it again."
        ) from error


def qlearning_view(
    path: Path,
    file: h5py.File,
    *,
    name: str,
    env_id: str,
    reference: ReferenceReturns,
    cut_at_limit: bool = False,
) -> Dataset:
    """Read the q-learning view of an open file (see `read_d4rl_file`), named `path` in messages.

    Args:
        cut_at_limit: Take a terminal at the time limit for a time-out, with a warning. D4RL's
            reader does not, so published files keep theirs.
    """
    limit = find_specification(env_id).max_episode_steps
    view = _QLearningView(path, file, limit, cut_at_limit)
    states, facts, warnings = view.states()
    actions, converted = stored_actions(path, view.floats("actions"), env_id)
    terminations, truncations = np.zeros((2, len(view.rows)), dtype=bool)
    terminations[view.ends], truncations[view.ends] = view.terminated, ~view.terminated
    return Dataset(
        name=name,
        env_id=env_id,
        states=states,
        actions=actions[view.rows],
        rewards=view.floats("rewards").reshape(-1)[view.rows],
        terminations=terminations,
        truncations=truncations,
        lengths=view.lengths,
        reference=reference,
        provenance={
            **facts,
            **converted,
            "warnings": [*view.about_ends(limit, env_id), *warnings],
        },
    )


def stored_actions(path: Path, given: FloatArray, env_id: str) -> tuple[FloatArray, dict[str, str]]:
    """The action of every row `[N, act_dim]`, and what was converted.

    One number per row of an environment with discrete actions is the action taken; that of
    another environment is an action of one dimension.
    """
    if given.shape[1:] not in ((), (1,)):
        return given, {}
    taken, space = given.reshape(-1), action_space(env_id)
    if not isinstance(space, Discrete):
        return taken[:, None], {}
    first, last = int(space.start), int(space.start + space.n - 1)
    wrong = np.flatnonzero((taken != np.floor(taken)) | (taken < first) | (taken > last))
    if len(wrong):
        raise DatasetProblem(
            f"{path}: the action of row {wrong[0]} is {taken[wrong[0]]:g}; {env_id} has "
            f"discrete actions: expected whole numbers from {first} to {last}, [N] or [N, 1], "
            f"or one-hot rows [N, {space.n}]. Check the file, or name the environment that it "
            f"was collected in."
        )
    said = f"whole numbers {first} to {last} to one-hot rows of {space.n}"
    return one_hot(taken.astype(np.int64), space), {"actions_converted": said}


def said_cut(count: int, path: Path, limit: int | None, env_id: str) -> str:
    """The warning about terminals at the time limit that count as truncations."""
    return (
        f"{count:,} episodes of {path.name} are marked as terminal at the {limit} steps that "
        f"{env_id} has at most; they count as truncated."
    )


def as_flags(path: Path, key: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Numbers `[N]` or `[N, 1]` that are 0 or 1 as true or false `[N]`."""
    values = values.reshape(-1)
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if len(wrong):
        raise DatasetProblem(
            f"{path}: {key!r} is {values[wrong[0]]:g} in row {wrong[0]}, expected true or "
            f"false, or 1 and 0 of any type, in every row. Mark the last row of every episode "
            f"by 1, all others by 0."
        )
    return values.astype(bool)


def check_storage(path: Path, file: h5py.File) -> None:
    """Check that an open file holds its arrays itself, and no more than its size allows.

    A file may name other files of this machine as parts of it, and a small one may say that it
    holds more than any memory does.

    Raises:
        DatasetProblem: It is one of these.
    """
    claimed = 0

    def problem_of(name: str, link: object) -> str | None:
        nonlocal claimed
        if not isinstance(link, h5py.HardLink):
            target = getattr(link, "path", "")
            return f"is a link to {target!r} of {getattr(link, 'filename', 'the same file')}"
        if not isinstance(data := file[name], h5py.Dataset):
            return None
        if data.is_virtual or data.external:
            return "takes its numbers from other files"
        claimed += max(data.size or 0, math.prod(data.chunks or ())) * data.dtype.itemsize
        return None

    # What is damaged (an array, a name) ends in a SystemError where h5py finds it while it visits.
    try:
        found = file.visititems_links(
            lambda name, link: (p := problem_of(name, link)) and (name, p)
        )
    except SystemError as error:
        raise DatasetProblem(
            f"{path} cannot be read as HDF5 ({error.__cause__ or error}). It is damaged: get it "
            f"again."
        ) from error
    if found:
        raise DatasetProblem(
            f"{path}: {found[0]!r} {found[1]}; expected the array itself. Copy the data into one "
            f"file."
        )
    check_claim(path, claimed, "its arrays")


def check_claim(path: Path, claimed: int, what: str) -> None:
    """Check that arrays are not much larger than the file that they come from.

    Args:
        path: The file; compressed data are smaller than what is claimed.
        claimed: Bytes that the arrays need in memory.
        what: Which arrays, for the message.

    Raises:
        DatasetProblem: They are larger than `MOST_BYTES` and `MOST_COMPRESSION` times the file.
    """
    size = path.stat().st_size
    if claimed > max(MOST_BYTES, MOST_COMPRESSION * size):
        raise DatasetProblem(
            f"{path} has {size:,} bytes, but {what} need {claimed:,}; expected at most "
            f"{MOST_BYTES:,}, or {MOST_COMPRESSION} times the file. It is damaged, or made to fill "
            f"the memory: get it again. If it is sound, write it with less compression."
        )


class _QLearningView:
    """The M transitions and E episodes in an open file of N rows.

    Attributes:
        rows: Rows of the file that make a transition `[M]`, rising.
        lengths: Transitions of each episode `[E]`.
        ends: The last transition of each episode `[E]`.
        terminated: Whether each episode ended in a terminal `[E]`.
        terminals_cut: Terminals at the time limit that were taken for time-outs.
    """

    def __init__(self, path: Path, file: h5py.File, limit: int | None, cut_at_limit: bool) -> None:
        self.path, self.file = path, file
        self._check_layout()
        terminals = as_flags(path, "terminals", file["terminals"][:])
        given = np.zeros_like(terminals)
        if "timeouts" in file:
            given = as_flags(path, "timeouts", file["timeouts"][:])
        timeouts = given if "timeouts" in file else _at_the_limit(terminals, limit)
        last = terminals | timeouts
        self.terminals_cut = 0
        if cut_at_limit and limit is not None:
            at_limit = terminals & (_steps(last) == limit)
            self.terminals_cut = int((at_limit & ~given).sum())
            terminals, timeouts = terminals & ~at_limit, timeouts | at_limit
        makes_transition = ~timeouts
        makes_transition[-1] = False
        # A row's episode is the number of ends before it; the cumulative sum counts its own too.
        episode: NDArray[np.int64] = np.cumsum(last) - last
        lengths = np.bincount(episode[makes_transition])
        self.rows = np.flatnonzero(makes_transition)
        self.lengths = lengths[lengths > 0]  # an episode without transitions is left out
        self.ends = np.cumsum(self.lengths) - 1
        self.terminated = terminals[self.rows[self.ends]]
        if not last.any():
            raise DatasetProblem(
                f"{path}: none of the {len(last):,} rows is true in 'terminals' or 'timeouts', so "
                f"the episodes are without end. Mark the last row of every episode in one of them."
            )
        if not len(self.rows):
            raise DatasetProblem(
                f"{path}: its {len(last):,} rows make no transition: every one timed out, or is "
                f"the last. Mark in 'timeouts' only the last row of an episode."
            )

    def states(self) -> tuple[FloatArray, dict[str, Any], list[str]]:
        """The states of every episode `[M + E, obs_dim]`, facts about them, and warnings."""
        # An episode's states are its rows and the row after its last transition: the one that
        # timed out, or the one that the end of the data cut; after a terminal, D4RL's view.
        rows = np.insert(self.rows, self.ends + 1, self.rows[self.ends] + 1)
        states = self.floats("observations")[rows]
        facts: dict[str, Any] = {"rows": len(self.file["terminals"])}
        if "next_observations" not in self.file:
            return states, {**facts, "after_terminals": NEXT_ROW}, []
        unequal = self._take_next_observations(states)
        warning = (
            f"In {unequal:,} of {len(self.rows):,} transitions of {self.path.name} "
            f"next_observations is not the observation of the row that follows; the row that "
            f"follows was taken, as in D4RL."
        )
        facts = {**facts, "after_terminals": "next_observations of the file"}
        return states, facts, [warning] if unequal else []

    def _take_next_observations(self, states: FloatArray) -> int:
        """Put the file's own next observations after terminals, and count the others that differ.

        They are read block by block: next to the observations they would be another whole array.

        Args:
            states: States of every episode `[M + E, obs_dim]`, changed in place.
        """
        # Transition m of episode e leads to row m + e + 1 of `states`, since each episode before it
        # has one state more than transitions.
        successors = np.arange(len(self.rows)) + 1
        successors += np.repeat(np.arange(len(self.lengths)), self.lengths)
        follows_terminal = np.zeros(len(states), dtype=bool)
        follows_terminal[successors[self.ends[self.terminated]]] = True
        unequal = 0
        for first in range(0, int(self.rows[-1]) + 1, _BLOCK):
            block = self.file["next_observations"][first : first + _BLOCK].astype(np.float32)
            check_finite(f"{self.path}: 'next_observations' from row {first}", block)
            within = slice(*np.searchsorted(self.rows, [first, first + _BLOCK]))
            given, places = block[self.rows[within] - first], successors[within]
            final = follows_terminal[places]
            unequal += int((given != states[places]).any(1)[~final].sum())
            states[places[final]] = given[final]
        return unequal

    def floats(self, key: str) -> FloatArray:
        """Read a whole array as float32; HDF5 converts while reading, so without a float64 copy."""
        data = self.file[key]
        if data.dtype.kind == "b":  # an enumeration in HDF5, which converts none of these
            return np.asarray(data[:], dtype=np.float32)
        array = np.empty(data.shape, dtype=np.float32)
        data.read_direct(array)
        check_finite(f"{self.path}: {key!r}", array)
        return array

    def about_ends(self, limit: int | None, env_id: str) -> list[str]:
        """Warnings where ends were not in the file, or are at or beyond the time limit."""
        cut = [said_cut(self.terminals_cut, self.path, limit, env_id)] if self.terminals_cut else []
        if "timeouts" not in self.file:
            ends = f"every {limit} steps, the time limit of {env_id}" if limit else "nowhere else"
            said = f"{self.path.name} has no 'timeouts': episodes end at terminals and {ends}."
            return [*cut, said]
        if limit is None or self.lengths.max() <= limit:
            return cut
        return [
            *cut,
            f"{int((self.lengths > limit).sum())} episodes of {self.path.name} are longer than the "
            f"{limit} steps of {env_id}, the longest {self.lengths.max()}: ends may be missing in "
            f"'timeouts'.",
        ]

    def _check_layout(self) -> None:
        """Check the keys, the numbers of dimensions, and that all have one length."""
        path, file = self.path, self.file
        lacking = [key for key in REQUIRED if not _is_array(file.get(key))]
        if lacking:
            there = ", ".join(map(repr, list(file)[:8])) + (", ..." if len(file) > 8 else "")
            hint = (
                "It is the data of a Minari dataset: put its folder into the local Minari store, "
                "and use it as minari/ID."
                if "episode_0" in file
                else f"Expected D4RL's format, with {', '.join(REQUIRED)} and timeouts."
            )
            raise DatasetProblem(
                f"{path} lacks {', '.join(map(repr, lacking))}; it has {there or 'nothing'}. {hint}"
            )
        keys = [*REQUIRED, *(key for key in _OPTIONAL if key in file)]
        for key in keys:
            kind = file[key].dtype if _is_array(file[key]) else "no array"
            if getattr(kind, "kind", "O") not in "fiub":
                raise DatasetProblem(
                    f"{path}: {key!r} has dtype {kind}, expected numbers, such as float32. Convert "
                    f"it."
                )
        shapes: dict[str, tuple[int, ...]] = {key: file[key].shape for key in keys}
        if not _fit(shapes):
            found = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
            raise DatasetProblem(
                f"{path} has {found}; expected observations (and next_observations, if any) "
                f"[N, obs_dim], actions [N, act_dim] and everything else [N], of one N."
            )


def _is_array(item: object) -> bool:
    return isinstance(item, h5py.Dataset) and item.shape is not None


def _fit(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether arrays of these shapes make rows, one number per row in lists."""
    observations, rows = shapes["observations"], shapes["rewards"][:1]
    lists = [shapes[key] for key in ("rewards", "terminals", "timeouts") if key in shapes]
    return (
        len(observations) == 2
        and shapes.get("next_observations", observations) == observations
        and len(shapes["actions"]) in (1, 2)
        and all(shape[1:] in ((), (1,)) for shape in lists)
        and all(shape[:1] == rows and 0 not in shape for shape in shapes.values())
    )


def _at_the_limit(terminals: NDArray[np.bool_], limit: int | None) -> NDArray[np.bool_]:
    """Rows `[N]` at which the time limit cuts an episode, counted from the one before's end."""
    if limit is None:
        return np.zeros_like(terminals)
    return np.asarray(_steps(terminals) % limit == 0)


def _steps(last: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of each row within its episode `[N]`, from 1, where `last` ends episodes."""
    rows = np.arange(len(last))
    starts = np.zeros_like(rows)
    starts[1:] = np.where(last[:-1], rows[1:], 0)
    return np.asarray(rows - np.maximum.accumulate(starts) + 1)
