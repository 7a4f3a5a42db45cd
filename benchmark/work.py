"""Cost of work before it is done: counted multiply-adds over a measured rate of this machine.

Records of other sizes say little: a student of four times the width costs forty times as much, and
a small one mostly overhead. So the products of a piece of work are counted, a short sample of it is
timed at its own size, and the rate is kept in the cache folder, by processor, threads and torch.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec
import torch

from benchmark.files import cache_folder, write_atomic
from benchmark.locks import FileLock, NoLocks
from benchmark.processor import processor
from benchmark.scaling import Scaling
from benchmark.students.network import Network
from benchmark.students.spec import StudentSpec
from benchmark.students.student import Batch, train_students
from benchmark.threads import torch_threads

SAMPLE = 1.5e10
"""Multiply-adds of a sample, a quarter to half a second of one core."""
SAMPLE_SECONDS = 0.1
"""CPU seconds after which a sample is not repeated."""


class Priced(Protocol):
    """Work whose cost can be told before it is done."""

    def seconds(self, rates: Rates, runs: int = 1) -> float:
        """CPU seconds of one run, where R are advanced together."""
        ...


@dataclass(frozen=True)
class Work:
    """The matrix products of one run, or of a part of it.

    Args:
        multiply_adds: Multiply-adds of all of it.
        sample: Does a part of it for R runs at once, as they would be advanced together.
        sampled: Multiply-adds of that part, per run.
        key: Everything that the rate depends on besides R: sizes and kind of the work.
    """

    multiply_adds: float
    sample: Callable[[int], object] = lambda runs: None
    sampled: float = 0.0
    key: Hashable = ()

    def seconds(self, rates: Rates, runs: int = 1) -> float:
        """CPU seconds of one run, where R are advanced together."""
        if not self.multiply_adds:
            return 0.0
        # Large products fill the processor: they are not faster together, and one run is sampled.
        together = max(1, min(runs, int(SAMPLE / self.sampled)))

        def sample() -> float:
            self.sample(together)
            return self.sampled * together

        return self.multiply_adds * rates.seconds((self.key, together), sample)


_Stored = dict[str, dict[str, Annotated[float, msgspec.Meta(gt=0)]]]
"""Seconds per unit by key, by machine."""


class Rates:
    """Measured CPU seconds per unit of work, kept between processes.

    Args:
        threads: Threads of torch that the work will have.
        anew: Whether to measure again what an earlier process has measured.
    """

    def __init__(self, threads: int = 1, *, anew: bool = False) -> None:
        self.threads = threads
        self._path = cache_folder() / "rates.json"
        self._machine = f"{processor()}, {threads} threads, torch {torch.__version__}"
        self._stored = self._read().get(self._machine, {})
        self._known: dict[str, float] = {} if anew else dict(self._stored)

    def seconds(self, key: Hashable, sample: Callable[[], float]) -> float:
        """CPU seconds per unit of work, measured unless they are known for this key.

        Args:
            key: Everything that they depend on.
            sample: Does some of the work, and gives its units.
        """
        return self.measured(key, lambda: _fastest(sample))

    def measured(self, key: Hashable, measure: Callable[[], float]) -> float:
        """CPU seconds per unit of work, by `measure` unless they are known for this key."""
        name = json.dumps(key, default=str)
        if name not in self._known:
            with torch_threads(self.threads):
                self._known[name] = measure()
            self._write(name)
        return self._known[name]

    def _read(self) -> dict[str, dict[str, float]]:
        """The stored rates; none where the file is missing or damaged."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_Stored)
        except (OSError, msgspec.MsgspecError):
            return {}
        return found

    def _write(self, name: str) -> None:
        """Keep a rate; a cache that cannot be written costs the next process a measurement."""
        with contextlib.suppress(OSError, NoLocks):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._store(name)

    def _store(self, name: str) -> None:
        with FileLock(f"{self._path}.lock"):
            stored = self._read()
            stored.setdefault(self._machine, {})[name] = self._known[name]
            write_atomic(self._path, json.dumps(stored, indent=1, sort_keys=True) + "\n")


def _fastest(sample: Callable[[], float]) -> float:
    """Seconds per unit, fastest of a few repeats after a first one, which allocates memory."""
    sample()
    fastest, spent = float("inf"), 0.0
    while spent < SAMPLE_SECONDS:
        began = time.process_time()
        units = sample()
        seconds = time.process_time() - began
        fastest, spent = min(fastest, seconds / units), spent + max(seconds, 1e-4)
    return fastest


def weights_of(network: Network) -> int:
    """Weights of a network: the multiply-adds of one product per layer and sample."""
    return sum(fan_in * fan_out for fan_in, fan_out in network.layer_sizes)


def training_work(
    student: StudentSpec,
    observation_dim: int,
    action_dim: int,
    pairs: int,
    students: int,
    steps: int,
) -> Work:
    """The training of several students by behavioural cloning.

    Args:
        student: Architecture and training of every student.
        observation_dim: Numbers per observation.
        action_dim: Numbers per action.
        pairs: Pairs per gradient step.
        students: Students that are trained at once.
        steps: Gradient steps.
    """
    student = student.with_rate(student.learning_rate)  # any costs the same
    network = student.network(observation_dim, action_dim)
    # Per layer: the forward pass, the gradient below, the gradient of the weights.
    one_step = 3.0 * weights_of(network) * pairs * students
    sampled = max(1, min(steps, int(SAMPLE / one_step), 50))

    def sample(runs: int) -> None:
        batch: Batch = (
            torch.randn(students, pairs, observation_dim),
            torch.rand(students, pairs, action_dim) * 2 - 1,
        )
        generators = [torch.Generator().manual_seed(i) for i in range(students)]
        for _ in range(runs):
            train_students(
                student, lambda step: batch, unit_scaling(observation_dim, action_dim),
                generators, sampled,
            )  # fmt: skip

    key = ("training", student, observation_dim, action_dim, pairs, students, sampled)
    return Work(one_step * steps, sample, one_step * sampled, key)


def unit_scaling(observation_dim: int, action_dim: int) -> Scaling:
    """A scaling that changes nothing."""
    return Scaling(
        torch.zeros(observation_dim), torch.ones(observation_dim),
        torch.zeros(action_dim), torch.ones(action_dim),
    )  # fmt: skip
