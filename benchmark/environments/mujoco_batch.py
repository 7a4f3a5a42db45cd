"""The fast path: MuJoCo stepped directly, tasks computed over all slots at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from benchmark.environments.batch import SlotTracker, StepResult, check_actions
from benchmark.environments.mujoco_tasks import LocomotionTask

# All that MuJoCo integrates from. It holds the accelerations of the previous step, which the
# constraint solver starts from (`qacc_warmstart`): positions and velocities only would give other
# trajectories.
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value
# Newer versions look for islands of constraints, to solve each by itself. Each of these bodies is
# one kinematic tree, so there is one island and the solver does the same arithmetic in the same
# order with and without: left out, a step is the same to the last bit and up to an eighth cheaper.
_WITHOUT_ISLANDS = getattr(mujoco.mjtDisableBit, "mjDSBL_ISLAND", None)


class MujocoBatch:
    """Slots of HalfCheetah, Hopper or Walker2d on one shared model (see `BatchedEnvironment`).

    A slot is a row of MuJoCo's integration state. Each thread loads row after row into its one
    `MjData`, steps it and stores it back, which is exact and spares each slot an `MjData` of its
    own (13 MB of address space and the time of several steps to make). MuJoCo's own threads
    (`mujoco.rollout`) take `qacc_warmstart` and do not give it back, so they cannot go on bit for
    bit from where they stopped.

    Args:
        reference: A gymnasium environment whose specification `mujoco_tasks.has_task` accepts; it
            draws every initial state and owns the shared model.
        size: Number of slots.
        threads: Threads that share the slots of a step, the calling one among them; `mj_step`
            releases the interpreter lock. The results do not depend on it.
    """

    action_space: gymnasium.Space[Any]

    def __init__(self, reference: gymnasium.Env[Any, Any], size: int, threads: int = 1) -> None:
        specification = reference.spec
        assert specification is not None, "gymnasium.make keeps the specification"
        environment: Any = reference.unwrapped
        self._reference, self._environment = reference, environment
        self._task = LocomotionTask(specification, environment)
        self._model = model = environment.model
        if _WITHOUT_ISLANDS is not None:
            model.opt.disableflags |= _WITHOUT_ISLANDS.value
        self._frame_skip: int = environment.frame_skip

        self.env_id = specification.id
        self.size = size
        self.observation_dim: int = model.nq + model.nv - 1
        self.observation_space = cast(gymnasium.spaces.Box, reference.observation_space)
        self.action_space = reference.action_space
        self.max_episode_steps = specification.max_episode_steps

        self._slots = SlotTracker(size)
        self._elapsed = np.zeros(size, dtype=np.int64)  # steps of the episode that each slot is in
        self._states = np.zeros((size, mujoco.mj_stateSize(model, _STATE)))
        # Views of the states, so that writing actions or reading motion copies no row: positions
        # and velocities `[size, nq + nv]`, which stand side by side, and controls `[size, nu]`.
        positions = _column(model, mujoco.mjtState.mjSTATE_QPOS)
        control = _column(model, mujoco.mjtState.mjSTATE_CTRL)
        self._motion = self._states[:, positions : positions + model.nq + model.nv]
        self._control = self._states[:, control : control + model.nu]
        self._rows = list(self._states)  # a view of each slot's state
        self._data = [mujoco.MjData(model) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)  # starts a thread when one is first needed

    def reset(
        self, slots: Sequence[int] | NDArray[np.integer], seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        """Start an episode in each slot from the state that gymnasium draws for its seed."""
        indices = self._slots.start(slots, seeds)
        drawn: dict[int, NDArray[np.float64]] = {}  # policies that are compared share their seeds
        for slot, seed in zip(indices.tolist(), map(int, seeds), strict=True):
            if seed not in drawn:
                self._reference.reset(seed=seed)
                mujoco.mj_getState(self._model, self._environment.data, self._rows[slot], _STATE)
                drawn[seed] = self._rows[slot]
            self._rows[slot][:] = drawn[seed]
        self._elapsed[indices] = 0
        return self._task.observations(self._motion[indices])

    def step(self, slots: NDArray[np.integer], actions: NDArray[Any]) -> StepResult:
        """Step these slots; the other rows are not touched."""
        indices = self._slots.require_running(slots)
        check_actions(actions, (len(indices), self._model.nu))
        x_before = self._motion[indices, 0]  # a copy: the simulation overwrites the states
        self._control[indices] = actions
        self._simulate(indices)
        self._elapsed[indices] += 1

        motion = self._motion[indices]
        healthy = self._task.healthy(motion)
        truncated = np.zeros(len(indices), dtype=np.bool_)
        if self.max_episode_steps is not None:
            truncated = self._elapsed[indices] >= self.max_episode_steps
        self._slots.finish(indices, ~healthy | truncated)
        return StepResult(
            observations=self._task.observations(motion),
            rewards=self._task.rewards(x_before, motion[:, 0], actions, healthy),
            terminated=~healthy,
            truncated=truncated,
        )

    def close(self) -> None:
        """Stop the threads and close the reference environment."""
        self._pool.shutdown()
        self._reference.close()

    def _simulate(self, slots: NDArray[np.intp]) -> None:
        """Advance these rows by one step each, every thread the next one that none has taken."""
        first, *others = self._data[: max(1, len(slots))]
        # A None per thread ends its work.
        pending = deque([*slots.tolist(), *[None] * (1 + len(others))])
        helpers = [self._pool.submit(self._simulate_share, d, pending) for d in others]
        self._simulate_share(first, pending)
        for helper in helpers:
            helper.result()  # raises a thread's error

    def _simulate_share(self, data: Any, pending: deque[int | None]) -> None:
        model, rows, frame_skip = self._model, self._rows, self._frame_skip
        for slot in iter(pending.popleft, None):
            mujoco.mj_setState(model, data, rows[slot], _STATE)
            mujoco.mj_step(model, data, frame_skip)
            mujoco.mj_getState(model, data, rows[slot], _STATE)


def _column(model: Any, element: mujoco.mjtState) -> int:
    """First column of one element of the integration state.

    Elements stand in the order of their bits, so it is the size of all elements of lower bits.
    """
    return int(mujoco.mj_stateSize(model, _STATE & (element.value - 1)))
