"""Collecting episodes from policies, many environments at once."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from benchmark.datasets.dataset import Dataset, OnProgress, ReferenceReturns
from benchmark.environments.batch import BatchedEnvironment, highest, one_hot
from benchmark.environments.lookup import make_batched
from benchmark.environments.rollout import require_time_limit
from benchmark.seeds import derive_seed, numpy_generator


class ActingPolicies(typing.Protocol):
    """K policies of one environment, by index."""

    @property
    def env_id(self) -> str:
        """Exact gymnasium id."""
        ...

    @property
    def action_dim(self) -> int:
        """Numbers per action; for discrete actions, how many actions there are."""
        ...

    @property
    def reference(self) -> ReferenceReturns:
        """Returns that normalisation stands on."""
        ...

    def act(
        self,
        policies: NDArray[np.int64],
        observations: NDArray[np.float64],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Actions of B policies, one observation each; a row must not depend on its neighbours.

        Args:
            policies: Index of the policy that acts in each row `[B]`.
            observations: `[B, obs_dim]`.
            noise: Standard normal `[B, action_dim]`, the only source of randomness.

        Returns:
            Actions `[B, action_dim]` within the environment's bounds; for discrete actions scores,
            of which the highest is taken.
        """
        ...


@dataclass(frozen=True)
class Part:
    """A number of transitions of one policy."""

    policy: int
    transitions: int


@dataclass(frozen=True)
class _Episode:
    """A finished episode of L transitions: states `[L + 1, obs_dim]`, the rest `[L, ...]`."""

    index: int
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: bool
    truncated: bool


def collect(
    name: str,
    policies: ActingPolicies,
    parts: Sequence[Part],
    *,
    seed: int,
    slots: int = 64,
    threads: int = 1,
    progress: OnProgress | None = None,
) -> Dataset:
    """Collect episodes of every part, exactly as many transitions as the parts ask for.

    An episode is a function of (name, seed, part, index) only; the episodes of a part are kept
    in the order of their index and the last one is cut where the part is full. So the content
    depends neither on `slots` nor on `threads`.

    Args:
        name: Name of the dataset; other names draw other episodes.
        policies: Policies to play.
        parts: Policy and number of transitions of each part.
        seed: Seed of resets and actions.
        slots: Environments stepped at once.
        threads: Threads that step them.
        progress: Called with (transitions so far, transitions in all).

    Raises:
        NoTimeLimit: Episodes of the environment may never end.
    """
    require_time_limit(policies.env_id)
    environment = make_batched(policies.env_id, slots, threads)
    try:
        collector = _Collector(environment, name, policies, parts, seed)
        total = sum(part.transitions for part in parts)
        while collector.start() or collector.running.any():
            collector.step()
            if progress:
                progress(min(total, collector.transitions), total)
    finally:
        environment.close()
    return _assemble(name, policies, parts, collector.finished)


class _Collector:
    """Arrays with one row per slot, so that a step costs no Python per slot.

    An episode's noise is drawn when it starts, so it does not depend on its neighbours.
    """

    def __init__(
        self,
        environment: BatchedEnvironment,
        name: str,
        policies: ActingPolicies,
        parts: Sequence[Part],
        seed: int,
    ) -> None:
        slots, limit = environment.size, environment.max_episode_steps
        assert limit is not None  # `collect` requires one
        obs_dim, act_dim = environment.observation_dim, policies.action_dim
        self.environment, self.policies, self.parts = environment, policies, parts
        self.axes: dict[str, str | int] = {"dataset": name, "seed": seed}
        self.players = np.array([part.policy for part in parts])
        self.wanted = np.array([part.transitions for part in parts])
        # Of each slot: whether it plays, which episode of which part, and how far it is.
        self.running = np.zeros(slots, dtype=bool)
        self.part, self.index, self.length = np.zeros((3, slots), dtype=np.int64)
        # Of each slot, the episode so far: step t fills column t, and states have one more.
        self.observations = np.zeros((slots, obs_dim))
        self.states = np.zeros((slots, limit + 1, obs_dim), dtype=np.float32)
        self.actions = np.zeros((slots, limit, act_dim), dtype=np.float32)
        self.rewards = np.zeros((slots, limit), dtype=np.float32)
        self.noise = np.zeros((slots, limit, act_dim), dtype=np.float32)
        # Of each part: its finished episodes, how many were started, transitions in finished ones.
        self.finished: list[list[_Episode]] = [[] for _ in parts]
        self.started, self.collected = np.zeros((2, len(parts)), dtype=np.int64)

    @property
    def transitions(self) -> int:
        """Transitions so far, including those that will be cut off."""
        return int(self.collected.sum() + self.length[self.running].sum())

    def start(self) -> bool:
        """Start episodes in free slots where a part still lacks transitions; True if any."""
        slots = []
        for slot in np.flatnonzero(~self.running):
            part = self._part_to_start()
            if part is None:
                break
            self.running[slot], self.length[slot] = True, 0
            self.part[slot], self.index[slot] = part, self.started[part]
            self.started[part] += 1
            generator = numpy_generator(**self._episode_axes(slot), purpose="actions")
            self.noise[slot] = generator.standard_normal(self.noise.shape[1:], dtype=np.float32)
            slots.append(int(slot))
        if slots:
            seeds = [derive_seed(**self._episode_axes(s), purpose="reset") % 2**31 for s in slots]
            self.observations[slots] = self.environment.reset(slots, seeds)
            self.states[slots, 0] = self.observations[slots]
        return bool(slots)

    def step(self) -> None:
        """Make one step of every running episode."""
        slots = np.flatnonzero(self.running)
        at = self.length[slots]
        actions = self.policies.act(
            self.players[self.part[slots]], self.observations[slots], self.noise[slots, at]
        )
        chosen: NDArray[Any] = actions
        if isinstance(space := self.environment.action_space, Discrete):
            chosen = highest(actions, space)
            actions = one_hot(chosen, space)
        result = self.environment.step(slots, chosen)
        self.observations[slots] = result.observations
        self.states[slots, at + 1] = result.observations
        self.actions[slots, at], self.rewards[slots, at] = actions, result.rewards
        self.length[slots] += 1
        for row in np.flatnonzero(result.terminated | result.truncated):
            self._finish(slots[row], bool(result.terminated[row]), bool(result.truncated[row]))

    def _part_to_start(self) -> int | None:
        """The part with fewest running episodes among those that still lack transitions.

        Running episodes count with the steps they have so far. A part may so get an episode more
        than it needs, whose index is the highest: `_assemble` leaves it out.
        """
        playing, parts = self.part[self.running], len(self.parts)
        open_steps = np.bincount(playing, self.length[self.running], minlength=parts)
        open_episodes = np.bincount(playing, minlength=parts)
        lacking = np.flatnonzero(self.collected + open_steps < self.wanted)
        return int(lacking[open_episodes[lacking].argmin()]) if len(lacking) else None

    def _finish(self, slot: np.int64, terminated: bool, truncated: bool) -> None:
        part, length = int(self.part[slot]), int(self.length[slot])
        episode = _Episode(
            index=int(self.index[slot]),
            states=self.states[slot, : length + 1].copy(),
            actions=self.actions[slot, :length].copy(),
            rewards=self.rewards[slot, :length].copy(),
            terminated=terminated,
            truncated=truncated,
        )
        self.finished[part].append(episode)
        self.collected[part] += length
        self.running[slot] = False

    def _episode_axes(self, slot: int | np.int64) -> dict[str, str | int]:
        """The axes that an episode's seeds derive from."""
        return {**self.axes, "part": int(self.part[slot]), "episode": int(self.index[slot])}


def _assemble(
    name: str, policies: ActingPolicies, parts: Sequence[Part], finished: list[list[_Episode]]
) -> Dataset:
    """The kept episodes as one dataset, part after part, each cut where it is full."""
    states, actions, rewards, lengths, terminations, truncations = [], [], [], [], [], []
    for part, episodes in zip(parts, finished, strict=True):
        room = part.transitions
        for episode in sorted(episodes, key=lambda e: e.index):
            length = min(len(episode.rewards), room)
            if length == 0:
                break
            states.append(episode.states[: length + 1])
            actions.append(episode.actions[:length])
            rewards.append(episode.rewards[:length])
            lengths.append(length)
            cut = length < len(episode.rewards)
            terminations.append(episode.terminated and not cut)
            truncations.append(episode.truncated or cut)
            room -= length
    ends = np.cumsum(lengths) - 1
    terminated, truncated = np.zeros((2, int(ends[-1]) + 1), dtype=bool)
    terminated[ends] = terminations
    truncated[ends] = truncations
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
