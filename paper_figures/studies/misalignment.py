"""SDW-OBD's misalignment study: which states are better to learn from, at which training loss.

State Diversity Matters in Offline Behavior Distillation (arXiv 2512.06692): policies are trained on
data of high quality and on data of high diversity and stopped at graded training losses. The paper
finds that diverse states are better where the loss stays large, as it does in distillation, and
states of quality where it becomes small; its theory speaks of the error on pivotal states (where
the teacher goes) and on surrounding ones.

This suite's reading, as the paper's protocol is not fully known:

- One teacher per environment, of its medium-expert data, labels the states of every dataset, so
  that only the states differ.
- Graded losses: the same training, stopped after 4, 8, 16, ... gradient steps.
- Pivotal states come from the teacher's own episodes. Surrounding states come from episodes in
  which the teacher is disturbed: some steps of random actions, and the steps after them in which it
  acts again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.environments.lookup import action_space
from benchmark.environments.rollout import rollout
from benchmark.scaling import Scaling
from benchmark.seeds import episode_seeds, torch_generator
from benchmark.students.spec import StudentSpec
from benchmark.students.student import Batch, StudentPolicy, train_students
from benchmark.teachers.teacher import NetworkTeacher
from benchmark.teachers.teacher_files import find_teacher
from paper_figures.studies.study import Row, Study


@dataclass(frozen=True)
class Misalignment(Study):
    """Return, and error on pivotal and surrounding states, at graded training losses.

    Args:
        environments: Names of environments, as in `hopper/medium`.
        quality, diversity: Kinds of data.
        width, depth, learning_rate: Size of the policy, and learning rate of Adam, which trains it.
        batch_size: Number of states in a minibatch.
        stages: Gradient steps after which the policies are measured.
        policies: Number of policies, each with its own initialisation and minibatches.
        episodes: Number of episodes that each policy plays.
        teacher_episodes: Number of episodes that the teacher plays, undisturbed and disturbed.
        disturb_every, disturbed, watched: The disturbed teacher takes `disturbed` random actions
            every `disturb_every` steps; the `watched` states after the first of them count.
    """

    shows: ClassVar[str] = (
        "States of quality against diverse ones at graded training losses (arXiv 2512.06692)."
    )
    version: ClassVar[int] = 2
    environments: tuple[str, ...] = ("halfcheetah", "hopper", "walker2d")
    quality: str = "medium-expert"
    diversity: str = "medium-replay"
    width: int = 64
    depth: int = 3
    learning_rate: float = 0.001
    batch_size: int = 256
    stages: tuple[int, ...] = tuple(2**k for k in range(2, 14))
    policies: int = 5
    episodes: int = 5
    teacher_episodes: int = 20
    disturb_every: int = 50
    disturbed: int = 5
    watched: int = 15

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List one item per dataset."""
        found = {}
        for environment in self.environments:
            teacher = self._teacher(environment)
            for kind in (self.quality, self.diversity):
                data = load_dataset(DatasetName.parse(f"{environment}/{kind}"))
                found[data.name] = {
                    "dataset_sha256": data.sha256,
                    "teacher_sha256": teacher.facts["sha256"],
                }
        return found

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure training loss, errors and return at every stage, of every policy."""
        environment, _, kind = item.partition("/")
        data, teacher = load_dataset(DatasetName.parse(item)), self._teacher(environment)
        scaling = Scaling.of(data, action_space(data.env_id))
        lesson = Lesson.of(torch.from_numpy(data.observations), teacher, scaling)
        pivotal, surrounding = (
            Lesson.of(states, teacher, scaling) for states in self.teacher_states(data, teacher)
        )
        rows: list[Row] = []
        for steps in self.stages:
            policies = self._train(environment, steps, lesson, scaling)
            episodes = rollout(
                data.env_id,
                policies,
                policies=self.policies,
                episodes=self.episodes,
                seeds=episode_seeds(self.episodes, study="misalignment", environment=environment),
            )
            losses = {
                "training_loss": lesson.sample(5000).error(policies),
                "pivotal_error": pivotal.error(policies),
                "surrounding_error": surrounding.error(policies),
            }
            for k, mean in enumerate(episodes.returns.mean(1)):
                rows.append(
                    {"environment": environment, "kind": kind, "steps": steps, "policy": k,
                     **{name: float(values[k]) for name, values in losses.items()},
                     "normalized_return": float(data.reference.normalise(float(mean)))}
                )  # fmt: skip
        return rows

    def teacher_states(self, data: Dataset, teacher: NetworkTeacher) -> tuple[Tensor, Tensor]:
        """Collect pivotal and surrounding states `[B, obs_dim]`, raw."""
        every_step = np.ones(self.disturb_every, dtype=bool)
        phase = np.arange(self.disturb_every)
        after_a_disturbance = (phase >= 1) & (phase <= self.watched)  # the action of 0 shows at 1
        return (
            Disturbed(teacher, data, self, disturbed=0).states(every_step),
            Disturbed(teacher, data, self, self.disturbed).states(after_a_disturbance),
        )

    def _teacher(self, environment: str) -> NetworkTeacher:
        data = load_dataset(DatasetName.parse(f"{environment}/{self.quality}"))
        return find_teacher(data, "td3_bc")

    def _train(
        self, environment: str, steps: int, lesson: Lesson, scaling: Scaling
    ) -> StudentPolicy:
        """Train policies on the first `steps` minibatches, the same ones at every stage.

        Both kinds of data start from the same initialisations.
        """
        spec = StudentSpec(
            width=self.width, depth=self.depth, head="mean", optimizer="adam",
            learning_rate=self.learning_rate,
        )  # fmt: skip
        axes = {"study": "misalignment", "environment": environment}
        batches = [torch_generator(**axes, batches=k) for k in range(self.policies)]

        def batch(step: int) -> Batch:
            size = (self.batch_size,)
            rows = torch.stack([torch.randint(len(lesson), size, generator=g) for g in batches])
            return lesson.observations[rows], lesson.actions[rows]

        students = [torch_generator(**axes, student=k) for k in range(self.policies)]
        return train_students(spec, batch, scaling, students, steps)


@dataclass(frozen=True)
class Lesson:
    """States in the student's units, with the actions that are wanted there.

    Args:
        observations: Normalised observations `[M, obs_dim]`.
        actions: Actions in the unit box `[M, act_dim]`.
        scaling: Scaling of both.
    """

    observations: Tensor
    actions: Tensor
    scaling: Scaling

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def of(cls, states: Tensor, teacher: NetworkTeacher, scaling: Scaling) -> Lesson:
        """Label raw states `[M, obs_dim]`."""
        return cls(scaling.observations_in(states), teacher.act(states), scaling)

    def sample(self, count: int) -> Lesson:
        """Take `count` states, spread evenly over all."""
        rows = torch.linspace(0, len(self) - 1, min(count, len(self))).long()
        return Lesson(self.observations[rows], self.actions[rows], self.scaling)

    def error(self, policies: StudentPolicy) -> Tensor:
        """Mean squared distance to the wanted action, per component `[P]`."""
        return self._squares(policies).mean((1, 2))

    def errors(self, policies: StudentPolicy) -> Tensor:
        """The same of every state `[P, M]`."""
        return self._squares(policies).mean(2)

    def _squares(self, policies: StudentPolicy) -> Tensor:
        raw = self.scaling.observations_out(self.observations).numpy()
        acted = torch.from_numpy(
            policies(np.broadcast_to(raw, (policies.count, *raw.shape)).copy())
        )
        return (self.scaling.actions_in(acted) - self.actions).square()


class Disturbed:
    """A teacher that periodically acts at random for some steps, and the states that it sees.

    Args:
        teacher: Teacher that acts between the disturbances.
        data: Dataset whose environment it acts in.
        study: Settings: period of the disturbances and number of episodes.
        disturbed: Number of random actions in a row; 0 for none.
    """

    def __init__(
        self, teacher: NetworkTeacher, data: Dataset, study: Misalignment, disturbed: int
    ) -> None:
        self.teacher, self.data, self.study, self.disturbed = teacher, data, study, disturbed
        self.scaling = Scaling.of(data, action_space(data.env_id))
        self.noise = torch_generator(study="misalignment", purpose="disturbance")
        self.seen: list[NDArray[np.float32]] = []

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Act `[1, E, act_dim]` on raw observations `[1, E, obs_dim]`, which are recorded."""
        step = len(self.seen)
        self.seen.append(observations[0].copy())
        actions = self.teacher.act(torch.from_numpy(observations[0]))
        # Not from the first step on: no episode begins in the middle of a disturbance.
        if step >= self.study.disturb_every and step % self.study.disturb_every < self.disturbed:
            actions = 2 * torch.rand(actions.shape, generator=self.noise) - 1
        return self.scaling.actions_out(actions)[None].numpy()

    def states(self, watched: NDArray[np.bool_]) -> Tensor:
        """Play episodes; return the states `[B, obs_dim]` at the watched steps of each period."""
        count = self.study.teacher_episodes
        episodes = rollout(
            self.data.env_id,
            self,
            policies=1,
            episodes=count,
            seeds=episode_seeds(count, study="misalignment", purpose="teacher"),
        )
        seen = np.stack(self.seen)  # [T, E, obs_dim]
        steps = np.arange(len(seen))
        counts = watched[steps % len(watched)]
        if self.disturbed:
            counts &= steps >= self.study.disturb_every
        alive = steps[:, None] < episodes.lengths[0][None]
        return torch.from_numpy(seen[alive & counts[:, None]])
