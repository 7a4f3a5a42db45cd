"""Which slots of a batch are inside an episode, and whether a call on them makes sense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SlotTracker:
    """Follows `size` slots from reset to end of episode and refuses calls out of that order."""

    def __init__(self, size: int) -> None:
        self._running = np.zeros(size, dtype=np.bool_)

    def start(
        self, slots: Sequence[int] | NDArray[np.integer], seeds: Sequence[int]
    ) -> NDArray[np.intp]:
        """Mark slots as running and return them as an array.

        Raises:
            ValueError: a slot is out of range or named twice, or there is not one seed a slot.
        """
        indices = self._distinct(slots)
        if len(seeds) != len(indices):
            raise ValueError(f"reset got {len(seeds)} seeds for {len(indices)} slots.")
        self._running[indices] = True
        return indices

    def require_running(self, slots: NDArray[np.integer]) -> NDArray[np.intp]:
        """The slots as an array, all of them inside an episode.

        Raises:
            ValueError: a slot is out of range, named twice, or not inside an episode.
        """
        indices = self._distinct(slots)
        idle = indices[~self._running[indices]]
        if idle.size:
            raise ValueError(f"Slots {idle.tolist()} are not in an episode: reset them first.")
        return indices

    def finish(self, slots: NDArray[np.intp], finished: NDArray[np.bool_]) -> None:
        """Record which of the slots that were just stepped have ended their episode."""
        self._running[slots] = ~finished

    def _distinct(self, slots: Sequence[int] | NDArray[np.integer]) -> NDArray[np.intp]:
        indices = np.asarray(slots, dtype=np.intp).reshape(-1)
        size = len(self._running)
        if indices.size and (indices.min() < 0 or indices.max() >= size):
            raise ValueError(f"Slots {indices.tolist()} are not all within 0 to {size - 1}.")
        if np.bincount(indices, minlength=size).max() > 1:
            raise ValueError(f"Slots {indices.tolist()} name a slot twice.")
        return indices


def check_actions(actions: NDArray[Any], expected: tuple[int, ...]) -> None:
    """Raise ValueError unless the actions have the expected shape."""
    if actions.shape != expected:
        raise ValueError(f"actions have shape {actions.shape}, expected {expected}.")
