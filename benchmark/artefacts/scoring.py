"""Scoring the sets that authors published, as their own code does (docs/artefacts.md).

Students are trained on a set from scratch and play in every environment one episode after another
until the horizon; what counts of them is the authors' statistic. Several sets of one environment
are scored at once, all students in one batch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from torch import Tensor

from benchmark.artefacts.artefact import Artefact, ArtefactProblem
from benchmark.artefacts.score import ArtefactScore, Statistic, Variant
from benchmark.config import BadConfiguration
from benchmark.environments.batch import BatchedEnvironment, highest
from benchmark.environments.lookup import make_batched
from benchmark.errors import ObdBenchError
from benchmark.monitor import now
from benchmark.provenance import provenance
from benchmark.record import Origin
from benchmark.scaling import Scaling
from benchmark.seeds import derive_seed, episode_seeds
from benchmark.students.network import stack
from benchmark.students.spec import RECIPES, StudentSpec
from benchmark.students.student import Batch, StudentPolicy, train_students
from benchmark.teachers.teacher import NetworkTeacher, play_teacher
from benchmark.threads import torch_threads

FIXED = "_fixed_init"
"""Ending of the variants whose students begin with the authors' one initialization."""
DIGITS = 7
"""Significant digits of the returns that are kept: about those of the simulators' float32."""
_AT_ONCE = 2  # students that are trained together: their parameters stay in the processor's cache

OnStep = Callable[[float], None]
"""Called with the share of a batch that is done."""


@dataclass(frozen=True)
class Recipe:
    """How authors score a set.

    Args:
        student: Network and training of a student.
        loss_scale: Factor of the training loss; Adam's epsilon is added to what it scales.
        students_each: Students per candidate of the population, whose episodes count together.
        environments: Environments that a student plays in.
        horizon: Steps of each of them.
        statistic: What of their episodes is the score.
        actions: Whether actions are sampled.
        normalization: What observations are normalized by.
        variance_floor: Number that is added to the variance.
    """

    student: StudentSpec
    loss_scale: float
    students_each: int
    environments: int
    horizon: int
    statistic: Statistic
    actions: Literal["sampled", "mode"]
    normalization: Literal["constant", "running", "none"]
    variance_floor: float


def recipe_of(card: Mapping[str, Any]) -> Recipe:
    """The authors' own recipe of a set or policy of HaDES, from the settings in its card.

    Raises:
        ArtefactProblem: It is a set of another kind, or a setting is missing or out of range.
    """
    environment, settings = str(card.get("environment")), card.get("settings", {})
    brax = environment.startswith("brax/")
    if not (brax or environment.startswith("minatar/")):
        raise ArtefactProblem(
            f"{card['name']} is for {environment}; only sets for brax/... and minatar/... are "
            f"scored here."
        )
    try:
        base = RECIPES["hades" if brax else "hades_minatar"]
        student = replace(base, width=settings["WIDTH"], activation=settings["ACTIVATION"])
        if card["kind"] == "set":
            student = replace(
                student,
                learning_rate=settings["LR"],
                steps=settings["UPDATE_EPOCHS"],
                gradient_clip=settings["MAX_GRAD_NORM"] if brax else None,
            )
        return Recipe(
            student=student,
            loss_scale=1.0 if brax else 1 / card["action_dim"],
            students_each=card["evolution_settings"]["rollouts_per_candidate"],
            environments=settings["NUM_ENVS"],
            horizon=settings["NUM_STEPS"],
            statistic="ended" if brax else "latest",
            actions="mode" if settings["GREEDY_ACT"] else "sampled",
            normalization=card["normalization"]["kind"],
            variance_floor=card["normalization"].get("variance_floor", 0.0),
        )
    except (KeyError, TypeError, BadConfiguration) as error:
        raise ArtefactProblem(
            f"The card of {card['name']} has no settings that students can be trained by "
            f"({error!r}). Import it again."
        ) from error


@dataclass(frozen=True)
class Job:
    """One variant of a set or policy to be scored.

    Args:
        artefact: Set or policy.
        variant: Part of `VARIANTS` that is scored.
        rows: Students, or candidates of the population.
    """

    artefact: Artefact
    variant: Variant
    rows: int

    @property
    def recipe(self) -> Recipe:
        """How its authors score it."""
        return recipe_of(self.artefact.card)

    @property
    def dimensions(self) -> tuple[int, int]:
        """Numbers in an observation and in an action."""
        return self.artefact.card["observation_dim"], self.artefact.card["action_dim"]

    @property
    def each(self) -> int:
        """Students per row."""
        return self.recipe.students_each if self.variant.startswith("population") else 1

    @property
    def slots(self) -> int:
        """Environments that it is scored in."""
        return self.rows * self.each * self.recipe.environments

    @property
    def batch(self) -> tuple[Any, ...]:
        """What the jobs of one batch have in common: environment, network and play."""
        recipe = self.recipe
        network = recipe.student.network(*self.dimensions)
        play = (recipe.environments, recipe.horizon, recipe.actions, recipe.normalization)
        return (self.artefact.card["environment"], network, recipe.student.head, *play)

    def axes(self, **more: str | int) -> dict[str, str | int]:
        """Names and values that a seed derives from."""
        return {"artefact": self.artefact.name, "variant": self.variant, **more}


def score_batch(
    jobs: Sequence[Job], seed: int, size: int | None = None, on_step: OnStep | None = None
) -> list[ArtefactScore]:
    """Score sets of one environment, all students at once.

    Args:
        jobs: Jobs of one `Job.batch`.
        seed: Seed that all random numbers derive from; a job's do not depend on the others.
        size: Environments of the batch, at least the jobs' slots. What is compiled has one size:
            equal ones are compiled once.
        on_step: Called after every student and step.

    Raises:
        ArtefactProblem: A set is not for its environment.
        UnknownEnvironment: The simulator is not installed.
    """
    first, (environment, *_) = jobs[0].recipe, jobs[0].batch
    slots = sum(job.slots for job in jobs)
    with contextlib.closing(make_batched(environment, max(size or 0, slots))) as batch:
        for job in jobs:
            _check_space(job.artefact, batch)
        clocks = [_clock()]
        with torch_threads(1):
            policies = []
            for done, job in enumerate(jobs, start=1):
                evolved = job.artefact.card["kind"] == "policy"
                policies.append(_evolved(job, seed) if evolved else _train(job, seed))
                clocks.append(_clock())
                if on_step:  # training and play take about as long
                    on_step(done / len(jobs) / 2)
            policy = _joined(policies)
            episodes = _play(batch, jobs, policy, seed, first, on_step)
        clocks.append(_clock())
    scores, slot = [], 0
    for index, job in enumerate(jobs):
        share = job.slots / slots
        wall, cpu = (
            clocks[index + 1][i] - clocks[index][i] + share * (clocks[-1][i] - clocks[-2][i])
            for i in (0, 1)
        )
        scores.append(_score(job, seed, episodes[slot : slot + job.slots], wall, cpu))
        slot += job.slots
    return scores


def _clock() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def _check_space(artefact: Artefact, batch: BatchedEnvironment) -> None:
    space = batch.action_space
    actions = int(space.n) if isinstance(space, Discrete) else int(np.prod(space.shape or ()))
    keys = ("observations", "actions")
    if artefact.card["kind"] == "policy":
        keys = ("weight_0", "bias_2")
    found = tuple(artefact.tensors[key].shape[-1] for key in keys)
    if found != (batch.observation_dim, actions):
        raise ArtefactProblem(
            f"{artefact.name} has {found[0]} numbers per observation and {found[1]} per action; "
            f"{batch.env_id} has {batch.observation_dim} and {actions}: a set for another "
            f"environment. Nothing was scored."
        )


# --- training -------------------------------------------------------------------------------------


def _train(job: Job, seed: int) -> StudentPolicy:
    """Students of every row, the students of a row next to each other."""
    spec, count = job.recipe.student, job.rows * job.each
    fixed = job.variant.endswith(FIXED)
    alike = job.variant == "set" + FIXED  # one set, one initialization: one student
    initial = None
    if fixed:
        from benchmark.artefacts.initialization import authors_parameters

        seed_of_all = job.artefact.card["initialization_seed"]
        initial = authors_parameters(seed_of_all, spec.network(*job.dimensions))
    trained = []
    for begin in range(0, 1 if alike else count, _AT_ONCE):
        students = range(begin, 1 if alike else min(begin + _AT_ONCE, count))
        sets = [_pairs(job, seed, student // job.each) for student in students]
        observations, actions = (torch.stack(tensors) for tensors in zip(*sets, strict=True))
        generators = [
            torch.Generator().manual_seed(
                derive_seed(seed=seed, **job.axes(student=i, purpose="artefact's student"))
            )
            for i in students
        ]
        weights = None
        if job.recipe.loss_scale != 1:
            weights = torch.full(observations.shape[:2], job.recipe.loss_scale)
        pairs, scaling = (observations, actions), _unscaled(*job.dimensions)
        trained.append(
            train_students(
                spec,
                _always(pairs),
                scaling,
                generators,
                weights=weights,
                initial=initial,
            )
        )
    policy = _joined(trained)
    return policy.only(np.zeros(count, np.intp)) if alike else policy


def _evolved(job: Job, seed: int) -> StudentPolicy:
    """The candidates around an evolved policy, one per row."""
    spec, drawn = job.recipe.student, []
    network = spec.network(*job.dimensions)
    for row in range(job.rows):
        generator = _candidate_generator(job, seed, row)
        parameters = []
        for layer in range(network.depth):
            weight, bias = (
                job.artefact.tensors[key]
                + job.artefact.tensors[f"sigma_{key}"]
                * torch.randn(job.artefact.tensors[key].shape, generator=generator)
                for key in (f"weight_{layer}", f"bias_{layer}")
            )
            parameters.append((weight[None], bias[None, None]))
        drawn.append(parameters)
    return StudentPolicy(network, spec.policy_head, stack(drawn), _unscaled(*job.dimensions))


def _candidate_generator(job: Job, seed: int, row: int) -> torch.Generator:
    axes = job.axes(row=row, purpose="artefact's candidate")
    return torch.Generator().manual_seed(derive_seed(seed=seed, **axes))


def _always(pairs: Batch) -> Callable[[int], Batch]:
    """The same pairs at every gradient step."""
    return lambda step: pairs


def _pairs(job: Job, seed: int, row: int) -> Batch:
    """The set that a row's students are trained on: the published one, or a candidate around it."""
    tensors = job.artefact.tensors
    observations, actions = tensors["observations"], tensors["actions"]
    if not job.variant.startswith("population"):
        return observations, actions
    generator = _candidate_generator(job, seed, row)
    noise = (torch.randn(of.shape, generator=generator) for of in (observations, actions))
    return (
        observations + tensors["sigma_observations"] * next(noise),
        actions + tensors["sigma_actions"] * next(noise),
    )


def _unscaled(observation_dim: int, action_dim: int) -> Scaling:
    """Sets of authors are in the units that students see."""
    return Scaling(
        torch.zeros(observation_dim),
        torch.ones(observation_dim),
        torch.zeros(action_dim),
        torch.ones(action_dim),
    )


def _joined(policies: Sequence[StudentPolicy]) -> StudentPolicy:
    """The students of several batches as one."""
    return replace(policies[0], parameters=stack([policy.parameters for policy in policies]))


# --- play -----------------------------------------------------------------------------------------


class Normalizer:
    """Observations `[P, E, obs_dim]` of P students in the units that their sets are in.

    "constant" takes the statistics of the artefact, "running" those of all observations so far in
    a student's own E environments (the parallel form of Chan et al. 1983, as the authors' wrapper).

    Args:
        mean: Mean of the observations `[P, 1, obs_dim]`; 0 to begin with where it runs.
        variance: Variance, likewise; 1 to begin with.
        floor: Number that is added to the variance.
        running: Whether every observation counts.
    """

    FIRST_COUNT = 1e-4
    """Weight of the statistics that it begins with, in observations."""

    def __init__(self, mean: Tensor, variance: Tensor, floor: float, running: bool) -> None:
        self._mean, self._variance, self._floor = mean, variance, floor
        self._count = self.FIRST_COUNT if running else None

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Count the observations where it runs, and normalize them."""
        raw = torch.from_numpy(observations)
        if self._count is not None:
            new = raw.shape[1]
            variance, mean = torch.var_mean(raw, dim=1, correction=0, keepdim=True)
            total = self._count + new
            delta = mean - self._mean
            # sum of squares = those of both parts, and of the distance between their means
            squares = self._variance * self._count + variance * new
            squares = squares + delta.square() * (self._count * new / total)
            self._mean = self._mean + delta * (new / total)
            self._variance, self._count = squares / total, total
        return ((raw - self._mean) / (self._variance + self._floor).sqrt()).numpy()


def _normalizer(jobs: Sequence[Job], recipe: Recipe) -> Normalizer:
    means, variances = [], []
    for job in jobs:
        tensors, zeros = job.artefact.tensors, torch.zeros(job.artefact.card["observation_dim"])
        constant = recipe.normalization == "constant"
        mean = tensors["observation_mean"] if constant else zeros
        variance = tensors["observation_variance"] if constant else zeros + 1
        means.append(mean.expand(job.rows * job.each, 1, -1))
        variances.append(variance.expand(job.rows * job.each, 1, -1))
    floor = recipe.variance_floor if recipe.normalization != "none" else 0.0
    running = recipe.normalization == "running"
    return Normalizer(torch.cat(means), torch.cat(variances), floor, running)


Episodes = list[list[tuple[float, int]]]
"""By environment, then in order: (return, length) of the episodes that ended."""


def _play(
    batch: BatchedEnvironment,
    jobs: Sequence[Job],
    policy: StudentPolicy,
    seed: int,
    recipe: Recipe,
    on_step: OnStep | None,
) -> Episodes:
    """Play up to the horizon, and on in environments whose first episode has not ended by then.

    Brax restarts an episode from the first state of its environment, as its own wrapper does;
    MinAtar draws a new one.
    """
    students, environments = policy.count, recipe.environments
    slots = np.arange(students * environments)
    seeds = _Seeds(jobs, seed, anew=not batch.env_id.startswith("brax/"))
    act = policy if recipe.actions == "mode" else policy.sampled(seeds.of_actions())
    normalizer = _normalizer(jobs, recipe)
    shape = (students, environments, batch.observation_dim)
    observations = np.empty((len(slots), batch.observation_dim), np.float32)
    observations[:] = batch.reset(slots, seeds.next(slots))
    episodes: Episodes = [[] for _ in slots]
    returns, lengths = np.zeros(len(slots)), np.zeros(len(slots), np.int64)
    step, running = 0, slots
    while running.size:
        actions: NDArray[Any] = act(normalizer(observations.reshape(shape)))
        actions = actions.reshape(len(slots), -1)
        if np.isnan(actions).any():
            raise ObdBenchError(
                f"Students in {batch.env_id} act NaN after {step} environment steps: their "
                f"training diverged under this recipe, so that they have no score."
            )
        if isinstance(batch.action_space, Discrete):
            actions = highest(actions, batch.action_space)
        result = batch.step(running, actions[running])
        observations[running] = result.observations
        returns[running] += result.rewards
        lengths[running] += 1
        step += 1
        ended = running[result.terminated | result.truncated]
        for slot in ended:
            episodes[slot].append((_kept(returns[slot]), int(lengths[slot])))
        returns[ended] = lengths[ended] = 0
        if step >= recipe.horizon:
            running = np.array([s for s in running if not episodes[s]], dtype=np.intp)
        elif ended.size:
            observations[ended] = batch.reset(ended, seeds.next(ended))
        if on_step:
            on_step(0.5 + min(step / recipe.horizon, 1) / 2)
    return episodes


class _Seeds:
    """Seeds of the episodes of every environment, and of the streams that draw actions."""

    def __init__(self, jobs: Sequence[Job], seed: int, *, anew: bool) -> None:
        self._axes = [
            job.axes(seed=seed, student=student, environment=environment)
            for job in jobs
            for student in range(job.rows * job.each)
            for environment in range(job.recipe.environments)
        ]
        self._environments, self._anew = jobs[0].recipe.environments, anew
        self._played = np.zeros(len(self._axes), np.int64)
        self._first = [self._of(slot, 0) for slot in range(len(self._axes))]

    def next(self, slots: NDArray[np.intp]) -> list[int]:
        """The seed of the next episode of each of these environments."""
        found = [
            self._of(slot, int(self._played[slot])) if self._anew else self._first[slot]
            for slot in slots
        ]
        self._played[slots] += 1
        return found

    def _of(self, slot: int, episode: int) -> int:
        axes = self._axes[slot] | {"episode": episode, "purpose": "artefact's episode"}
        return episode_seeds(1, **axes)[0]

    def of_actions(self) -> list[list[int]]:
        """Seeds of the streams, by student and environment."""
        drawn = [derive_seed(**axes, purpose="artefact's actions") for axes in self._axes]
        each = self._environments
        return [drawn[begin : begin + each] for begin in range(0, len(drawn), each)]


# --- policies -------------------------------------------------------------------------------------


def score_teacher(
    name: str, teacher: NetworkTeacher, episodes: int, seeds: Sequence[int]
) -> ArtefactScore:
    """Score an imported teacher's deterministic action, a row per seed of the episodes.

    Args:
        name: Name of the artefact.
        teacher: The teacher; its facts say the authors' file and the environment.
        episodes: Episodes per seed.
        seeds: Seeds of the episodes' first states; the first of them is kept as the score's seed.
    """
    facts, begin = teacher.facts, _clock()
    played = [play_teacher(teacher, facts["environment"], episodes, seed) for seed in seeds]
    wall, cpu = (now - then for now, then in zip(_clock(), begin, strict=True))
    return with_means(
        ArtefactScore(
            artefact=name,
            file=facts["artefact_file"],
            file_sha256=facts["checkpoint_sha256"],
            tensors_sha256=facts["sha256"],
            environment=facts["environment"],
            variant="policy",
            student=None,
            actions="mode",
            normalization="D4RL's statistics of its dataset",
            statistic="first",
            seed=seeds[0],
            returns=[[[_kept(value)] for value in one.returns[0]] for one in played],
            lengths=[[[int(value)] for value in one.lengths[0]] for one in played],
            score=0.0,
            first=0.0,
            wall_seconds=wall,
            cpu_seconds=cpu,
            origin=Origin(**provenance("cpu")),
            finished=now(),
        )
    )


# --- the record -----------------------------------------------------------------------------------

_WORDS = {
    "constant": "the artefact's constants",
    "running": "running statistics of a student's own environments",
    "none": "nothing",
}


def _score(job: Job, seed: int, episodes: Episodes, wall: float, cpu: float) -> ArtefactScore:
    card, recipe = job.artefact.card, job.recipe
    per_row = job.each * recipe.environments
    rows = [episodes[begin : begin + per_row] for begin in range(0, len(episodes), per_row)]
    returns = [[[episode[0] for episode in one] for one in row] for row in rows]
    lengths = [[[episode[1] for episode in one] for one in row] for row in rows]
    score = ArtefactScore(
        artefact=job.artefact.name,
        file=card["file"],
        file_sha256=card["file_sha256"],
        tensors_sha256=card["sha256"],
        environment=card["environment"],
        variant=job.variant,
        student=asdict(recipe.student) if card["kind"] == "set" else None,
        students_each=job.each,
        actions=recipe.actions,
        normalization=_WORDS[recipe.normalization],
        statistic=recipe.statistic,
        horizon=recipe.horizon,
        seed=seed,
        returns=returns,
        lengths=lengths,
        score=0.0,
        first=0.0,
        wall_seconds=wall,
        cpu_seconds=cpu,
        origin=Origin(**provenance("cpu")),
        finished=now(),
    )
    return with_means(score)


def _kept(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def with_means(score: ArtefactScore) -> ArtefactScore:
    """The score with its means, from its returns."""
    means = {
        key: float(np.mean(score.by_row(statistic)))
        for key, statistic in (("score", score.statistic), ("first", "first"))
    }
    return msgspec.structs.replace(score, **means)
