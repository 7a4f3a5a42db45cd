"""The interface of a method: its problem, its monitor, and the registry of methods."""

from __future__ import annotations

import dataclasses
import json
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.datasets.dataset import Dataset
from benchmark.errors import ChangedInPlace, ObdBenchError, did_you_mean
from benchmark.registry import Registry
from benchmark.scaling import Scaling
from benchmark.seeds import derive_seed
from benchmark.students.spec import StudentSpec
from benchmark.sweep import TAKEN
from benchmark.synthetic_set import SyntheticSet
from benchmark.teachers.teacher import Teacher
from benchmark.work import Priced

NEEDS = ("dataset", "teacher", "log_density", "environment")


class UndeclaredNeed(ObdBenchError):
    """The use of a need that the method has not declared."""


class BadParameter(ObdBenchError):
    """A hyper-parameter or dimension that a method cannot work with."""


class Policy(typing.Protocol):
    """P policies that act on E episodes each, for methods that are not a synthetic set.

    With `only(indices)` (`benchmark.environments.rollout.Narrowing`) those that have finished all
    their episodes are no longer asked.
    """

    @property
    def count(self) -> int:
        """P."""
        ...

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions `[P, E, act_dim]` for raw observations `[P, E, obs_dim]`."""
        ...


@typing.runtime_checkable
class Stochastic(typing.Protocol):
    """Policies that have a distribution, for protocols that sample their actions."""

    def sampled(self, seeds: Sequence[Sequence[int]]) -> Policy:
        """The policies, whose actions are drawn by one seed per policy and episode.

        Made anew for every `rollout`.
        """
        ...


@dataclass(frozen=True)
class State:
    """State from which a method can resume at a step: tensors, and plain JSON facts."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Monitor(typing.Protocol):
    """The receiver of a method's reports. A call is cheap when nothing is due."""

    def due(self, step: int) -> bool:
        """Whether the protocol scores at this outer step."""
        ...

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        """Score a set (or the policies of a reference) and keep it."""
        ...

    def resume(self) -> State | None:
        """The state saved by an earlier attempt at this run, if there is one."""
        ...

    def save(self, step: int, state: Callable[[], State]) -> None:
        """Offer the state after `step` steps; it is made and written only when one is due."""
        ...

    def progress(self, step: int, total: int) -> None:
        """Report the step that the method has reached, and the total."""
        ...

    def count_environment_steps(self, steps: int) -> None:
        """Add steps that the method itself took in an environment."""
        ...

    def note(self, **facts: float | str) -> None:
        """Keep facts of the method's own for the record, such as `gradient_norm_median=0.4`.

        A later fact replaces an earlier one of the same name. A number that is not finite is kept
        as None.
        """
        ...


class Shared:
    """Tensors that runs which advance together have in common: the first that asks makes one."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[Tensor, int]] = {}

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, made unless it is there.

        Raises:
            ChangedInPlace: Someone has changed it in place since.
        """
        if key not in self._made:
            made = make()
            self._made[key] = made, made._version
        self._check(key)
        return self._made[key][0]

    def check_unchanged(self) -> None:
        """Check every tensor that was made.

        Raises:
            ChangedInPlace: Someone has changed one.
        """
        for key in self._made:
            self._check(key)

    def _check(self, key: Hashable) -> None:
        tensor, version = self._made[key]
        if tensor._version != version:
            raise ChangedInPlace(
                f"A method changed a tensor in place that other runs of its pack work with: {key}. "
                f"Let it change a copy (`tensor.clone()`)."
            )


class Problem:
    """The inputs of a method.

    `student`, `scaling`, `observation_dim` and `action_dim` are always there; `dataset`, `teacher`,
    `log_density` and `environment` only for a method that declares them in `needs`, so that the
    inputs of every method are known and shown.

    Args:
        needs: Needs that the method declared.
        student: The student that the method distils for.
        scaling: Map between raw and normalised units.
        axes: Names and values that identify the run; every random number derives from them.
        loaders: Function per need that loads it on first use.
        device: Torch device for the method's heavy products. Everything random is drawn on the CPU,
            so that the same spec draws the same numbers on every device.
        shared: Where `once` keeps its tensors; those of this problem only by default.
        inputs: Digests of dataset, teacher and log densities, where `shared` serves other problems.
    """

    def __init__(
        self,
        *,
        needs: frozenset[str],
        student: StudentSpec,
        scaling: Scaling,
        axes: Mapping[str, str | int],
        loaders: Mapping[str, Callable[[], Any]],
        device: str = "cpu",
        shared: Shared | None = None,
        inputs: Hashable = (),
    ) -> None:
        _check_needs("The method", needs)
        self.needs, self.student, self.scaling = needs, student, scaling
        self._device, self.uses_device = device, False
        self._axes, self._loaders = dict(axes), loaders
        self._loaded: dict[str, Any] = {}
        self._shared, self._inputs = shared or Shared(), inputs

    @property
    def dataset(self) -> Dataset:
        """The offline transitions."""
        dataset: Dataset = self._get("dataset")
        return dataset

    @property
    def teacher(self) -> Teacher:
        """The near-expert policy and its action value."""
        teacher: Teacher = self._get("teacher")
        return teacher

    @property
    def log_density(self) -> Tensor:
        """log p(s) of every observation of the dataset `[M]`."""
        density: Tensor = self._get("log_density")
        return density

    @property
    def environment(self) -> str:
        """Id of the environment, for methods that interact with it."""
        environment: str = self._get("environment")
        return environment

    @property
    def device(self) -> str:
        """Torch device for heavy products; a record names it where its method has asked for it."""
        self.uses_device = True
        return self._device

    @property
    def observation_dim(self) -> int:
        """Number of components of an observation."""
        return int(self.scaling.mean.shape[0])

    @property
    def action_dim(self) -> int:
        """Number of components of an action."""
        return int(self.scaling.center.shape[0])

    @cached_property
    def observations(self) -> Tensor:
        """The dataset's observations, normalised `[M, obs_dim]`."""
        raw = torch.from_numpy(self.dataset.observations)
        return self.once("observations", lambda: self.scaling.observations_in(raw))

    @cached_property
    def actions(self) -> Tensor:
        """The dataset's actions in the unit box `[M, act_dim]`."""
        raw = torch.from_numpy(self.dataset.actions)
        return self.once("actions", lambda: self.scaling.actions_in(raw))

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that follows from dataset, teacher and log densities: made once in a pack.

        Args:
            name: Name of it, with every hyper-parameter that it depends on.
            make: Makes it. It must not be changed in place.
        """
        return self._shared.once((name, self._inputs), make)

    def generator(self, purpose: str, step: int = 0) -> torch.Generator:
        """Make a generator for one purpose at one step, so that no random state need be saved."""
        seed = derive_seed(**self._axes, purpose=purpose, step=step)
        return torch.Generator().manual_seed(seed)

    def _get(self, need: str) -> Any:
        if need not in self.needs:
            raise UndeclaredNeed(
                f"The method used problem.{need} without declaring it. Add {need!r} to its "
                f"`needs`, which now are {sorted(self.needs) or 'empty'}."
            )
        if need not in self._loaded:
            self._loaded[need] = self._loaders[need]()
        return self._loaded[need]


@dataclass(frozen=True)
class Method(ABC):
    """A distillation method. Subclasses are frozen dataclasses of hyper-parameters.

    The registry holds an instance of each method: the prototype whose values are the defaults. A
    preset is another instance of the same class, such as `AvPBC(adjoint_noise="fresh")`.

    Attributes:
        needs: Inputs that it uses, out of "dataset", "teacher", "log_density", "environment"; a
            property where that depends on hyper-parameters.
        reference: True for rows that are not distillation (the teacher, BC on everything).
        version: Part of every run's id; raise it by one in the change that changes the method's
            numbers, or the default of a hyper-parameter. A property where that depends on
            hyper-parameters.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"dataset"})
    reference: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if isinstance(cls.needs, frozenset):  # a property is looked at when it is used
            _check_needs(cls.__name__, cls.needs)

    @property
    def total_outer_steps(self) -> int:
        """Outer steps of a whole run; 0 where the method counts none."""
        total: int = getattr(self, "outer_steps", 0)
        return total

    @abstractmethod
    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Work on the problem and submit results by `monitor.checkpoint`, the final one last.

        The same problem and hyper-parameters must give the same checkpoints.
        """

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced | None:
        """Say what a run costs, for plans; None where the method does not say.

        Either its products (`benchmark.work.Work`) or its outer steps
        (`benchmark.outer_steps.OuterSteps`). Scoring is not part of it.
        """
        return None

    @property
    def own_student(self) -> StudentSpec:
        """The student whose settings hold where a sweep or a call leaves them out."""
        return StudentSpec()

    def student_for(self, student: StudentSpec) -> StudentSpec:
        """Give the student to distil for: the sweep's, or a variant of it.

        It scores the sets too, unless the sweep names another ([evaluation_student]), which is
        taken as it is.
        """
        return student

    def require_student(self, student: StudentSpec) -> None:
        """Raise BadParameter where the method cannot distil for a student.

        It is called before a run begins, with the student that `student_for` gave. The student that
        scores the sets may be another.
        """
        return None

    def require_machine(self, device: str) -> None:
        """Raise ObdBenchError where this machine lacks what the method needs on a device.

        It is called before the first run of a sweep begins here.
        """
        return None

    def engine(self, device: str) -> str:
        """Name, for the record, of what computes the method's heavy part on a device."""
        return "torch"

    def pack_key(self) -> Hashable | None:
        """Key of a pack: methods whose keys are equal (and not None) may advance as one batch."""
        return None

    @classmethod
    def distill_packed(cls, assignments: Sequence[Assignment]) -> None:
        """Work on several assignments of equal `pack_key` and student at once.

        Each must give the results of `distill`, up to rounding.
        """
        for assignment in assignments:
            assignment.method.distill(assignment.problem, assignment.monitor)


class Assignment(NamedTuple):
    """One run of a pack: a method, its problem and its monitor."""

    method: Method
    problem: Problem
    monitor: Monitor


def _check_needs(method: str, needs: frozenset[str]) -> None:
    for need in needs:
        if need not in NEEDS:
            raise BadParameter(
                f"{method} needs {need!r}, which no problem has. {did_you_mean(need, NEEDS)}"
            )


def require_positive(method: Method, *names: str) -> None:
    """Raise BadParameter where one of these hyper-parameters is below 1."""
    for name in names:
        if (value := getattr(method, name)) < 1:
            raise BadParameter(f"{name} of {type(method).__name__} is {value}; expected 1 or more.")


def require_above_zero(method: Method, *names: str) -> None:
    """Raise BadParameter where one of these hyper-parameters is 0 or less."""
    for name in names:
        if not (value := getattr(method, name)) > 0:
            raise BadParameter(f"{name} of {type(method).__name__} is {value}; expected above 0.")


def require_below_one(method: Method, *names: str) -> None:
    """Raise BadParameter where one of these hyper-parameters is below 0, or 1 or more."""
    for name in names:
        if not 0 <= (value := getattr(method, name)) < 1:
            raise BadParameter(
                f"{name} of {type(method).__name__} is {value}; expected at least 0, less than 1."
            )


def require_settings(method: Method, student: StudentSpec, **settings: Any) -> None:
    """Raise BadParameter where a setting of the student is none that the method differentiates.

    Args:
        method: The method, for the message.
        student: The student that it would distil for.
        settings: By name the only value, or a tuple of the values, that it can have.
    """
    for name, known in settings.items():
        known = known if isinstance(known, tuple) else (known,)
        if (value := getattr(student, name)) not in known:
            if known == (None,):
                expected = f"no {name}"
            else:
                expected = f"{name} = {' or '.join(json.dumps(choice) for choice in known)}"
            raise BadParameter(
                f"{type(method).__name__} cannot distil for a student whose {name} is {value!r}, "
                f"which its gradients do not go through. Distil with {expected}, and score under "
                f"another student with [evaluation_student]."
            )


def advice_on_divergence(method: Method, student: StudentSpec) -> str:
    """A sentence: what to change where the numbers of a method stopped being finite."""
    rates = {
        name: value
        for name, value in vars(method).items()
        if name.endswith(("learning_rate", "sigma")) and value
    }
    if rates:
        rates["student.learning_rate"] = student.learning_rate
        shown = " or ".join(f"{name} ({value:g})" for name, value in rates.items())
        return f"The distillation diverged: lower {shown}."
    return (
        f"{type(method).__name__} has no learning rate that could be lowered: the values come from "
        f"its inputs, such as the teacher, or from its own computation."
    )


def taken_name(method: Method) -> str:
    """What is wrong with the names of a method's hyper-parameters; "" where nothing is."""
    taken = [field.name for field in dataclasses.fields(method) if field.name in TAKEN]
    if not taken:
        return ""
    return (
        f"has a hyper-parameter {taken[0]!r}, by which a sweep sets something else: in its file "
        f"{', '.join(TAKEN)} have meanings of their own. Rename the hyper-parameter."
    )


METHODS: Registry[Method] = Registry(
    "method",
    "obdbench.methods",
    Method,
    entries="instances",
    fault=taken_name,
)
