"""Estimates of the CPU seconds that runs will take.

In this order: the mean of complete records of the same settings made on this machine; the method's
counted products or sampled outer steps at this machine's measured rate, with its scoring; records
of the same settings made elsewhere; else unknown. Records of other sizes, datasets or devices are
not used.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import fmean

import numpy as np
import torch

from benchmark.datasets.catalog import Dimensions, dimensions
from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.datasets.source import DatasetName
from benchmark.density.density import DensityRecipe
from benchmark.environments.lookup import action_space
from benchmark.environments.rollout import rollout
from benchmark.evaluation import Ensembles, acting
from benchmark.packing import PACK_ON_CPU, distils, make_packs
from benchmark.protocol import Protocol
from benchmark.provenance import kind_of
from benchmark.record import Record
from benchmark.scaling import action_bounds
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec
from benchmark.students.student import StudentPolicy
from benchmark.synthetic_set import NotFinite
from benchmark.teachers.teacher import TeacherRecipe
from benchmark.work import Priced, Rates, training_work, unit_scaling

SAMPLE_STEPS = 40
"""Environment steps of each episode in a sample; hoppers fall after some twenty."""
SAMPLE_GRADIENTS = 10
"""Gradient steps of a teacher in a sample."""
SAMPLE_STATES = 1000
"""Made-up states in a sample of a teacher's training or a density's fit."""


@dataclass(frozen=True)
class CostEstimate:
    """Expected seconds of a run.

    Args:
        seconds: CPU seconds with scoring; None where they are not known.
        source: "measured here", "counted", "measured elsewhere" or "unknown".
        records: Number of records that the estimate rests on.
    """

    seconds: float | None
    source: str
    records: int = 0


class Costs:
    """What runs will cost.

    Args:
        runs: The runs that are planned; those that can be packed are taken to advance together, and
            sets that several of them distil are counted once.
        records: Earlier runs; incomplete ones are left out.
        device: The kind of device that the runs will use: "cpu", "cuda" or "cuda+tf32". Nothing is
            counted for a device other than this machine's processor.
        rates: Measured rates of this machine.
        pack: Largest number of runs that one process advances together.
    """

    def __init__(
        self,
        runs: Sequence[RunSpec],
        records: Iterable[Record],
        device: str = "cpu",
        rates: Rates | None = None,
        pack: int = PACK_ON_CPU,
    ) -> None:
        self.device, self.rates = device, rates or Rates()
        self._together: dict[str, int] = {}
        self._only_scored: set[str] = set()
        for runs_of_pack in make_packs(runs, pack):
            distilled: set[str] = set()
            for run in runs_of_pack:
                if distils(run) in distilled:
                    self._only_scored.add(run.run_id)
                distilled.add(distils(run))
            self._together |= dict.fromkeys((r.run_id for r in runs_of_pack), len(distilled))
        self._seconds: dict[tuple[Hashable, bool], list[tuple[float, float]]] = defaultdict(list)
        self._lengths: dict[tuple[str, str], list[float]] = defaultdict(list)
        for record in records:
            if record.status != "complete":
                continue
            run, cost = record.spec, record.cost
            episodes = sum(len(row) for point in record.checkpoints for row in point.lengths)
            length = cost.evaluation_environment_steps / episodes
            self._lengths[run.method, run.dataset].append(length)
            if kind_of(record.provenance.device) == device:
                # What scored another run's sets may have its distillation from another machine.
                here = record.provenance.host == platform.node() and record.sets_of is None
                seconds = (cost.cpu_seconds, cost.evaluation_wall_seconds)
                key = _settings(run, len(record.checkpoints))
                self._seconds[key, here].append(seconds)

    def of(self, run: RunSpec) -> CostEstimate:
        """Estimate one run."""
        settings = _settings(run, _checkpoints(run))
        for here, source in ((True, "measured here"), (False, "measured elsewhere")):
            if known := self._seconds.get((settings, here)):
                each = [d * self._distils(run) + scoring for d, scoring in known]
                return CostEstimate(fmean(each), source, len(known))
            if here and (seconds := self._counted(run)) is not None:
                return CostEstimate(seconds, "counted")
        return CostEstimate(None, "unknown")

    def _counted(self, run: RunSpec) -> float | None:
        """CPU seconds of distillation and scoring; None where the method does not say."""
        sizes = _dimensions(run.dataset)
        if self.device != "cpu" or sizes is None:
            return None
        work = _work(run, sizes)
        pairs = int(run.resolved_parameters.get("synthetic_size", 0))
        reference = run.method_instance.reference
        if work is None or not (pairs or reference):
            return None
        # A reference is scored as it is, one policy; a set by students that are trained on it.
        one = dataclasses.replace(run.protocol, students=1, ensemble=1)
        policies = one if reference else run.protocol
        scoring = self._episodes(run, sizes, policies)
        if not reference:
            scoring += training_work(
                run.scoring_student, sizes.observation, sizes.action, pairs,
                policies.students * policies.ensemble, run.scoring_student.steps,
            ).seconds(self.rates)  # fmt: skip
        try:
            distillation = work.seconds(self.rates, self._together.get(run.run_id, 1))
        except NotFinite:  # outer steps of a sample diverge where those of the run are likely to
            return None
        return distillation * self._distils(run) + _checkpoints(run) * scoring

    def _distils(self, run: RunSpec) -> bool:
        """Whether a run distils its sets, which no run before it in its pack does."""
        return run.run_id not in self._only_scored

    def _episodes(self, run: RunSpec, sizes: Dimensions, protocol: Protocol) -> float:
        """CPU seconds of the episodes of one checkpoint."""
        student = run.scoring_student

        def sample() -> float:
            return _play(sizes, student, protocol, self.rates.threads)

        known = self._lengths.get((run.method, run.dataset))
        length = fmean(known) if known else sizes.length
        played = (protocol.students, protocol.ensemble, protocol.episodes, protocol.actions)
        each = self.rates.seconds(("episodes", sizes.environment, student, played), sample)
        return each * protocol.students * protocol.episodes * length


def _play(sizes: Dimensions, student: StudentSpec, protocol: Protocol, threads: int) -> float:
    """Play the first steps of a checkpoint's episodes with untrained students; give their steps."""
    network = student.network(sizes.observation, sizes.action)
    drawn = network.initialise(torch.Generator().manual_seed(0))
    count = protocol.students * protocol.ensemble
    weights = [(w.expand(count, -1, -1), b.expand(count, -1, -1)) for w, b in drawn]
    scaling = unit_scaling(sizes.observation, sizes.action)
    students = StudentPolicy(network, student.policy_head, weights, scaling)
    policy = students if protocol.ensemble == 1 else Ensembles(students, protocol.ensemble)
    return rollout(
        sizes.environment,
        acting(policy, protocol, {"run": "sample"}),
        policies=protocol.students,
        episodes=protocol.episodes,
        seeds=list(range(protocol.episodes)),
        threads=threads,
        max_steps=SAMPLE_STEPS,
    ).environment_steps


def _work(run: RunSpec, sizes: Dimensions) -> Priced | None:
    """What a method says of its cost; None where it says nothing, or nothing that can be used."""
    try:
        work = run.method_instance.work(sizes.observation, sizes.action, run.student)
        if work is not None and not callable(getattr(work, "seconds", None)):
            raise TypeError(f"it gives {work!r}, which has no seconds()")
    except Exception as error:  # of a plug-in: the other runs have a plan all the same
        logging.getLogger(__name__).warning(
            "The cost of %s is not known: its `work` raised %s: %s. See: obdbench check-method %s",
            run.method, type(error).__name__, error, run.method,
        )  # fmt: skip
        return None
    return work


def training_seconds(recipe: TeacherRecipe, dataset: str, rates: Rates) -> float | None:
    """CPU seconds of a teacher's training; None where the recipe does not count gradient steps."""
    sizes = _dimensions(dataset)
    if sizes is None or not hasattr(recipe, "steps"):
        return None
    few = dataclasses.replace(recipe, steps=SAMPLE_GRADIENTS, report_every=SAMPLE_GRADIENTS)  # type: ignore[call-arg]
    data = _made_up(sizes)

    def sample() -> float:
        few.train(data, 0)
        return SAMPLE_GRADIENTS

    key = ("teacher", type(recipe).__name__, asdict(few), sizes.observation, sizes.action)
    return float(recipe.steps * rates.seconds(key, sample))


def fitting_seconds(recipe: DensityRecipe, dataset: str, rates: Rates) -> float | None:
    """CPU seconds of fitting a density; None where it is not known.

    It is not where the recipe counts no epochs, or the size of the data is not known yet.
    """
    sizes = _dimensions(dataset)
    if sizes is None or sizes.transitions is None or not hasattr(recipe, "epochs"):
        return None
    once = dataclasses.replace(recipe, epochs=1)  # type: ignore[call-arg]

    def sample() -> float:
        once.fit(torch.randn(SAMPLE_STATES, sizes.observation), 0)
        return SAMPLE_STATES

    key = ("density", type(recipe).__name__, asdict(once), sizes.observation)
    return float(recipe.epochs * sizes.transitions * rates.seconds(key, sample))


def _made_up(sizes: Dimensions) -> Dataset:
    """Transitions of these sizes, in one episode."""
    draw = np.random.default_rng(0)
    low, high = action_bounds(action_space(sizes.environment))
    actions = draw.uniform(low, high, (SAMPLE_STATES, sizes.action))
    ends = np.arange(SAMPLE_STATES) == SAMPLE_STATES - 1
    return Dataset(
        name="made up",
        env_id=sizes.environment,
        states=draw.standard_normal((SAMPLE_STATES + 1, sizes.observation)).astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=draw.standard_normal(SAMPLE_STATES).astype(np.float32),
        terminations=np.zeros(SAMPLE_STATES, bool),
        truncations=ends,
        lengths=np.array([SAMPLE_STATES]),
        reference=ReferenceReturns(0.0, 1.0),
    )


@cache
def _dimensions(dataset: str) -> Dimensions | None:
    return dimensions(DatasetName.parse(dataset))


def _settings(run: RunSpec, checkpoints: int) -> Hashable:
    """What was chosen for a run as far as it has a cost: no names, versions, or what is averaged.

    How often a run is scored does not matter to one that has a single result.
    """
    chosen = json.dumps(dict(run.parameters), sort_keys=True)
    every = run.protocol.checkpoint_every if checkpoints > 1 else 1
    protocol = dataclasses.replace(
        run.protocol, name="", checkpoint_every=every, last=1, leave_out=0
    )
    return (run.method, run.dataset, chosen, run.student, run.scoring_student, protocol)


def _checkpoints(run: RunSpec) -> int:
    """Number of results that a run scores."""
    steps = run.method_instance.total_outer_steps
    return 1 if not steps else 1 + -(-steps // run.protocol.checkpoint_every)
