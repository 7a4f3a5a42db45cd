"""What a run is: one cell of a sweep at one seed, as frozen plain values.

The identity of a run (docs/records.md): its id is a digest of what was chosen. A hyper-parameter,
or a setting of the student or the protocol, that has its default leaves the id unchanged, so that a
new one with a default invalidates no record. A method's `version` is part of the id and changes
when the method's numbers do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from benchmark.config import BadConfiguration, build, plain
from benchmark.names import check_name
from benchmark.protocol import Protocol
from benchmark.students.spec import StudentSpec, build_student

if TYPE_CHECKING:  # whoever only reads records must not pay for torch
    from benchmark.datasets.source import DatasetName
    from benchmark.method import Method

LARGEST_SEED = 2**63
"""Seeds lie below, so that the integers of every language that reads a record hold them."""
NONE = "none"
"""Stands for the teacher, or the log density, of a method that declares none."""


@dataclass(frozen=True)
class RunSpec:
    """A cell (method, dataset, teacher, density, students, protocol, parameters) at one seed.

    Args:
        method: Registered name.
        dataset: Registered name, with `@size` where that is not the default.
        protocol: How the result is scored.
        seed: Seed of this run; like every field, NumPy's value becomes Python's.
        teacher: Recipe of the teacher, `td3_bc:1` for its seed 1; "none" where the method declares
            no teacher.
        density: Name of the density recipe; "none" where the method declares no log density.
        parameters: The method's hyper-parameters that differ from its defaults.
        version: Version of the method; 0 for records of an older format, whose numbers no version
            of the method gives.
        student: What the method distils for.
        evaluation_student: What the set is scored with, where that is another student.
    """

    method: str
    dataset: str
    protocol: Protocol
    seed: int = 0
    teacher: str = "td3_bc"
    density: str = "maf"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    student: StudentSpec = field(default_factory=StudentSpec)
    evaluation_student: StudentSpec | None = None

    def __post_init__(self) -> None:
        for name in ("method", "dataset", "teacher", "density", "version", "parameters"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        check_name("The method of a run", self.method)
        name, separator, size = self.dataset.partition("@")
        check_name("The dataset of a run", name, parts=True)
        if separator and not (size.isascii() and size.isdigit()):
            raise BadConfiguration(
                f"A run of {self.method} has the dataset {self.dataset!r}; expected NAME or "
                f"NAME@SIZE."
            )
        seed = _integer(self.seed)
        if seed is None or not 0 <= seed < LARGEST_SEED:
            raise BadConfiguration(
                f"A run of {self.method} has seed {self.seed!r}; expected an integer from 0 to "
                f"2^63-1."
            )
        object.__setattr__(self, "seed", seed)

    @classmethod
    def create(
        cls, *, method: str, dataset: str, parameters: Mapping[str, Any], where: str, **rest: Any
    ) -> RunSpec:
        """A spec with every name checked and every default left out.

        Args:
            method: Registered name.
            dataset: Registered name.
            parameters: Hyper-parameters of the method; those left out keep their defaults.
            where: Where they come from, for messages.
            rest: Other fields of `RunSpec`. The student may be its settings by name, what differs
                from the method's own student; a `StudentSpec` is taken as it is.

        Raises:
            UnknownName, BadConfiguration: Naming the nearest valid name or key.
            ObdBenchError: The student is none that the method can distil for, that the protocol
                can score, or that acts in the dataset's environment.
        """
        from benchmark.datasets.source import DatasetName
        from benchmark.density.density import DENSITIES
        from benchmark.method import METHODS
        from benchmark.students.network import STUDENTS
        from benchmark.teachers.teacher_files import TeacherName

        default = METHODS[method]
        built = build(default, parameters, where)
        rest["teacher"] = str(TeacherName.parse(rest.get("teacher", cls.teacher)))
        DENSITIES[rest.get("density", cls.density)]
        student = rest.get("student", {})
        if not isinstance(student, StudentSpec):
            student = build_student(student, f"the student of {where}", built.own_student)
        rest["student"] = built.student_for(student)
        for role in ("student", "evaluation_student"):
            if (known := rest.get(role)) is not None:
                STUDENTS[known.name]
        built.require_student(rest["student"])
        for key, need in (("teacher", "teacher"), ("density", "log_density")):
            if need not in built.needs:  # so that a grid over them does not repeat such methods
                rest[key] = NONE
        if rest.get("evaluation_student") == rest["student"]:
            rest["evaluation_student"] = None
        spec = cls(
            method=method,
            dataset=str(DatasetName.parse(dataset)),
            parameters=_differences(_plain_fields(built), _plain_fields(default)),
            version=built.version,
            **rest,
        )
        spec.check_heads(DatasetName.parse(dataset))
        return spec

    def check_heads(self, dataset: DatasetName) -> None:
        """Check that the students act in the environment, as far as it is known, and are sampled.

        Raises:
            ObdBenchError: One does not.
        """
        from benchmark.datasets.catalog import environment_of
        from benchmark.environments.lookup import action_space

        scored = self.scoring_student
        if self.protocol.actions == "sampled" and not scored.policy_head.stochastic:
            raise BadConfiguration(
                f"The protocol {self.protocol.name!r} samples actions, and head = {scored.head!r} "
                f'has only one. Score with another head, or a protocol with actions = "mode".'
            )
        bound = [s for s in {self.student, scored} if s.policy_head.space is not None]
        if bound and (environment := environment_of(dataset)) is not None:
            space = action_space(environment)
            for student in bound:
                student.check_space(space, environment)

    @cached_property
    def method_instance(self) -> Method:
        """The method with its hyper-parameters.

        Raises:
            UnknownName, BadConfiguration: The method, or a hyper-parameter, is not one of this
                suite.
            OtherVersion: The spec is of another version of the method.
        """
        from benchmark.method import METHODS

        default = METHODS[self.method]
        try:
            built = build(default, self.parameters, f"the parameters of {self.method}")
            version = built.version
        except BadConfiguration:
            if self.version == default.version:
                raise
            version = default.version  # the other version had other parameters
        if self.version != version:
            raise OtherVersion(
                f"{self.run_id} is of version {self.version} of {self.method}; this suite has "
                f"version {version}, whose numbers are different. Run it again under "
                f"a new sweep, or use the version of the suite that made it."
            )
        return built

    @property
    def resolved_parameters(self) -> dict[str, Any]:
        """Every hyper-parameter of the method, those at their default included."""
        return _plain_fields(self.method_instance)

    @property
    def scoring_student(self) -> StudentSpec:
        """The student that sets are scored with."""
        return self.evaluation_student or self.student

    @property
    def _distils(self) -> dict[str, Any]:
        """What was chosen for the distillation, without its seed."""
        return {
            "method": self.method,
            "version": self.version,
            "parameters": dict(self.parameters),
            "dataset": self.dataset,
            "teacher": self.teacher,
            "density": self.density,
            "student": _chosen(self.student),
        }

    @cached_property
    def digest(self) -> str:
        """Digest of everything that was chosen, without the seed: `1a2b3c4d5e6f`."""
        chosen = {
            **self._distils,
            "evaluation_student": self.evaluation_student and _chosen(self.evaluation_student),
            "protocol": _chosen(self.protocol),
        }
        return _digest(chosen)

    @cached_property
    def cell_id(self) -> str:
        """Readable and unique: `hopper-medium-replay.av_pbc.1a2b3c4d5e6f`."""
        return f"{self.task_prefix}{self.digest}"

    @property
    def task_prefix(self) -> str:
        """What all cells of a method on a dataset begin with: `hopper-medium-replay.av_pbc.`."""
        return f"{self.dataset.replace('/', '-')}.{self.method}."

    @cached_property
    def run_id(self) -> str:
        """The cell and the seed."""
        return f"{self.cell_id}.seed{self.seed}"

    @cached_property
    def distillation_id(self) -> str:
        """Digest of all that a run's sets depend on, and the steps at which they are handed over.

        Runs that have it in common differ only in how their sets are scored (OBD, Tables 2 and 3).
        """
        chosen = {
            **self._distils,
            "checkpoint_every": self.protocol.checkpoint_every,
            "seed": self.seed,
        }
        return _digest(chosen)

    @property
    def distillation_axes(self) -> dict[str, str | int]:
        """What every seed of the distillation derives from, besides its purpose and step.

        Methods on the same dataset, student and seed draw the same initial pairs, students and
        batches, so that they are compared seed by seed. The protocol is left out: runs that differ
        only in how their sets are scored distil the same sets (OBD, Tables 2 and 3).
        """
        student = _student_digest(self.student)
        return {"dataset": self.dataset, "student_spec": student, "seed": self.seed}

    @property
    def scoring_axes(self) -> dict[str, str | int]:
        """What every seed of the scoring derives from, besides its purpose.

        All checkpoints of all methods are scored by students of the same initialisations on
        episodes of the same reset seeds.
        """
        return {
            "dataset": self.dataset,
            "student_spec": _student_digest(self.scoring_student),
            "protocol": _digest(_chosen(self.protocol)),
            "seed": self.seed,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values (JSON), as in a record and in a job's file."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The inverse of `as_dict`.

        Raises:
            BadConfiguration: The values are not those of a spec.
        """
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise BadConfiguration(f"The values of a run do not make a spec: {error}.") from error

    @classmethod
    def from_dicts(cls, values: Sequence[Mapping[str, Any]]) -> tuple[RunSpec, ...]:
        """Convert the values of many runs; the digest of a cell is computed once.

        Raises:
            BadConfiguration: The values of a run are not those of a spec, or an integer in them is
                beyond 64 bits.
        """
        digests: dict[bytes, str] = {}
        specs = tuple(cls.from_dict(one) for one in values)
        for spec, one in zip(specs, values, strict=True):
            try:
                cell = msgspec.msgpack.encode({**one, "seed": None})
            except OverflowError as error:
                raise BadConfiguration(
                    f"A run of {spec.method} on {spec.dataset} has a setting that no record holds: "
                    f"an integer beyond 64 bits. Choose a smaller one, under a new sweep."
                ) from error
            if (known := digests.get(cell)) is None:
                digests[cell] = spec.digest
            else:
                spec.__dict__["digest"] = known  # where the cached property keeps it
        return specs

    def with_seed(self, seed: int) -> RunSpec:
        """The same cell at another seed."""
        return dataclasses.replace(self, seed=seed)


class OtherVersion(BadConfiguration):
    """A spec of a version of a method that this suite does not have."""


def _integer(value: Any) -> int | None:
    """A value as Python's integer, which records hold; None where it is another type."""
    if type(value) is int:
        return value
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _plain_fields(method: Method) -> dict[str, Any]:
    """The hyper-parameters of a method, of which a preset may have been given NumPy's."""
    fields: dict[str, Any] = plain(asdict(method))
    return fields


def _differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value != defaults[key]}


@cache
def _chosen(settings: StudentSpec | Protocol) -> Mapping[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}
    return _differences(asdict(settings), defaults)


def _student_digest(student: StudentSpec) -> str:
    """Digest for seeds: a head draws the same numbers whether or not its scalars are trained."""
    if student.head == "sampled_trained":
        student = dataclasses.replace(student, head="sampled")
    return _digest(_chosen(student))


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
