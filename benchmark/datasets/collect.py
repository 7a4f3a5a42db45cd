"""Collecting episodes from policy snapshots, many environments at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.dataset import Dataset
from benchmark.datasets.snapshots import SnapshotPolicies
from benchmark.environments import make_batched
from benchmark.seeds import derive_seed, numpy_generator

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class Part:
    """So many transitions of one policy snapshot."""

    snapshot: int
    transitions: int


@dataclass
class _Episode:
    """An episode on its way. Its noise is its own, so it does not depend on its neighbours."""

    part: int
    index: int
    noise: NDArray[np.float32]
    states: list[NDArray[np.float64]]
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False

    def __len__(self) -> int:
        return len(self.rewards)


def collect(
    name: str,
    policies: SnapshotPolicies,
    parts: Sequence[Part],
    *,
    seed: int,
    slots: int = 64,
    threads: int = 1,
    progress: Progress | None = None,
) -> Dataset:
    """Episodes of every part, sampled actions, exactly as many transitions as the parts ask for.

    An episode is a function of (name, seed, part, index) alone; the episodes of a part are kept
    in the order of their index and the last one is cut where the part is full. So the content
    depends neither on `slots` nor on `threads`.
    """
    env = make_batched(policies.env_id, slots, threads)
    episodes = _Scheduler(name, policies, parts, seed, env.max_episode_steps or 1000)
    total = sum(part.transitions for part in parts)
    running: dict[int, _Episode] = {}
    free = list(range(slots))
    try:
        while True:
            started = [(slot, e) for slot in free if (e := episodes.next(running)) is not None]
            free = free[len(started) :]
            if started:
                observations = env.reset(
                    [slot for slot, _ in started], [episodes.reset_seed(e) for _, e in started]
                )
                for (slot, episode), observation in zip(started, observations, strict=True):
                    episode.states.append(observation)
                    running[slot] = episode
            if not running:
                break
            for slot in _advance(env, policies, parts, running):
                episodes.finished(running.pop(slot))
                free.append(slot)
            if progress:
                progress(min(total, episodes.kept + sum(map(len, running.values()))), total)
    finally:
        env.close()
    return _assemble(name, policies, parts, episodes.done)


class _Scheduler:
    """Starts episodes where a part still lacks transitions, the parts with fewest running first."""

    def __init__(
        self, name: str, policies: SnapshotPolicies, parts: Sequence[Part], seed: int, limit: int
    ) -> None:
        self.axes: dict[str, str | int] = {"dataset": name, "seed": seed}
        self.parts, self.limit = parts, limit
        self.act_dim = policies.tensors["log_std"].shape[1]
        self.done: list[list[_Episode]] = [[] for _ in parts]
        self.collected = [0] * len(parts)
        self.started = [0] * len(parts)

    @property
    def kept(self) -> int:
        return sum(
            min(c, p.transitions) for c, p in zip(self.collected, self.parts, strict=True)
        )

    def next(self, running: dict[int, _Episode]) -> _Episode | None:
        open_steps = [0] * len(self.parts)
        for episode in running.values():
            open_steps[episode.part] += len(episode)
        waiting = [
            p
            for p, part in enumerate(self.parts)
            if self.collected[p] + open_steps[p] < part.transitions
        ]
        if not waiting:
            return None
        part = min(waiting, key=lambda p: (self.started[p] - len(self.done[p]), p))
        index = self.started[part]
        self.started[part] += 1
        generator = numpy_generator(**self.axes, part=part, episode=index, purpose="actions")
        noise = generator.standard_normal((self.limit, self.act_dim), dtype=np.float32)
        return _Episode(part, index, noise, [])

    def reset_seed(self, episode: _Episode) -> int:
        return (
            derive_seed(**self.axes, part=episode.part, episode=episode.index, purpose="reset")
            % 2**31
        )

    def finished(self, episode: _Episode) -> None:
        self.done[episode.part].append(episode)
        self.collected[episode.part] += len(episode)


def _advance(
    env: object, policies: SnapshotPolicies, parts: Sequence[Part], running: dict[int, _Episode]
) -> list[int]:
    """One step of every running episode; returns the slots whose episodes ended."""
    slots = np.fromiter(running, dtype=np.int64)
    episodes = list(running.values())
    actions = policies.act(
        np.array([parts[e.part].snapshot for e in episodes]),
        np.stack([e.states[-1] for e in episodes]),
        np.stack([e.noise[len(e)] for e in episodes]),
    )
    result = env.step(slots, actions)  # type: ignore[attr-defined]
    ended = []
    for i, episode in enumerate(episodes):
        episode.states.append(result.observations[i])
        episode.actions.append(actions[i])
        episode.rewards.append(float(result.rewards[i]))
        if result.terminated[i] or result.truncated[i]:
            episode.terminated = bool(result.terminated[i])
            ended.append(int(slots[i]))
    return ended


def _assemble(
    name: str,
    policies: SnapshotPolicies,
    parts: Sequence[Part],
    done: list[list[_Episode]],
) -> Dataset:
    """The kept episodes as one dataset, part after part, each cut where it is full."""
    states, actions, rewards, lengths, terminations = [], [], [], [], []
    for part, episodes in zip(parts, done, strict=True):
        room = part.transitions
        for episode in sorted(episodes, key=lambda e: e.index):
            length = min(len(episode), room)
            if length == 0:
                break
            states.append(np.asarray(episode.states[: length + 1], dtype=np.float32))
            actions.append(np.asarray(episode.actions[:length], dtype=np.float32))
            rewards.append(np.asarray(episode.rewards[:length], dtype=np.float32))
            lengths.append(length)
            terminations.append(episode.terminated and length == len(episode))
            room -= length
    ends = np.cumsum(lengths) - 1
    terminated = np.zeros(int(ends[-1]) + 1, dtype=bool)
    truncated = np.zeros_like(terminated)
    terminated[ends] = terminations
    truncated[ends] = np.logical_not(terminations)
    return Dataset(
        name=name,
        env_id=policies.env_id,
        states=np.concatenate(states),
        actions=np.concatenate(actions),
        rewards=np.concatenate(rewards),
        terminations=terminated,
        truncations=truncated,
        lengths=np.asarray(lengths, dtype=np.int64),
        reference=policies.reference,
    )
