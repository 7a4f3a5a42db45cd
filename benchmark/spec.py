"""What a run is: one cell of a sweep at one seed, as frozen plain values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from benchmark.config import build
from benchmark.datasets.store import DatasetName
from benchmark.density.density import DENSITIES
from benchmark.evaluation import Protocol
from benchmark.method import METHODS, Method
from benchmark.students.network import STUDENTS
from benchmark.students.student import StudentSpec
from benchmark.teachers.teacher_files import TeacherName

NONE = "none"
"""Stands for the teacher, or the log density, of a method that declares none."""


@dataclass(frozen=True)
class RunSpec:
    """A cell (method, dataset, teacher, density, students, protocol, parameters) at one seed.

    Args:
        method: Registered name.
        parameters: Every hyper-parameter of the method, defaults included.
        dataset: Registered name, with `@size` where that is not the default.
        teacher: Recipe of the teacher, `td3_bc:1` for its seed 1, "none" where the method declares
            no teacher.
        density: Name of the density recipe, "none" where the method declares no log density.
        student: What the method distils for.
        protocol: How the result is scored.
        seed: Of this run.
        evaluation_student: What the set is scored with, where that is another student.
    """

    method: str
    dataset: str
    protocol: Protocol
    seed: int = 0
    teacher: str = "td3_bc"
    density: str = "maf"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    student: StudentSpec = field(default_factory=StudentSpec)
    evaluation_student: StudentSpec | None = None

    @classmethod
    def create(
        cls, *, method: str, dataset: str, parameters: Mapping[str, Any], where: str, **rest: Any
    ) -> RunSpec:
        """A spec with every name checked and every default written out.

        Raises:
            UnknownName, BadConfiguration: Naming the nearest valid name or key.
        """
        kind = METHODS[method]
        built = build(kind, parameters, where)
        rest["teacher"] = str(TeacherName.parse(rest.get("teacher", cls.teacher)))
        DENSITIES[rest.get("density", cls.density)]
        for student in (rest.get("student"), rest.get("evaluation_student")):
            if student is not None:
                STUDENTS[student.name]
        for key, need in (("teacher", "teacher"), ("density", "log_density")):
            if need not in kind.needs:  # so that a grid over them does not repeat such methods
                rest[key] = NONE
        return cls(
            method=method,
            dataset=str(DatasetName.parse(dataset)),
            parameters=asdict(built),
            **rest,
        )

    def build_method(self) -> Method:
        """The method with its hyper-parameters."""
        return build(METHODS[self.method], self.parameters, f"the parameters of {self.method}")

    @property
    def scoring_student(self) -> StudentSpec:
        """The student that sets are scored with."""
        return self.evaluation_student or self.student

    @cached_property
    def cell_id(self) -> str:
        """Readable and unique: `hopper-medium-replay.av_pbc.1a2b3c4d5e6f`."""
        values = self.as_dict()
        del values["seed"]
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.dataset.replace('/', '-')}.{self.method}.{digest}"

    @property
    def run_id(self) -> str:
        """The cell and the seed."""
        return f"{self.cell_id}.seed{self.seed}"

    @property
    def distillation_id(self) -> str:
        """The run whose sets these are, whoever is scored on them.

        Runs that differ in the scoring student or in the size of ensembles alone distil the same
        sets, so that their scores are compared set by set (OBD, Tables 2 and 3).
        """
        protocol = dataclasses.replace(self.protocol, ensemble=1)
        return dataclasses.replace(self, evaluation_student=None, protocol=protocol).run_id

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a record (JSON)."""
        return {
            "method": {"name": self.method, "parameters": dict(self.parameters)},
            "dataset": self.dataset,
            "teacher": self.teacher,
            # left out where there is none, so that a cell that needs none is named as ever
            **({} if self.density == NONE else {"density": self.density}),
            "student": asdict(self.student),
            "evaluation_student": asdict(self.evaluation_student)
            if self.evaluation_student
            else None,
            "protocol": self.protocol.as_dict(),
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The inverse of `as_dict`."""
        evaluation = values["evaluation_student"]
        return cls(
            method=values["method"]["name"],
            parameters=values["method"]["parameters"],
            dataset=values["dataset"],
            teacher=values["teacher"],
            density=values.get("density", NONE),  # records from before there were any
            student=build(StudentSpec, values["student"], "the record's student"),
            evaluation_student=build(StudentSpec, evaluation, "the record's evaluation student")
            if evaluation
            else None,
            protocol=build(Protocol, values["protocol"], "the record's protocol"),
            seed=values["seed"],
        )

    def with_seed(self, seed: int) -> RunSpec:
        """The same cell at another seed."""
        return dataclasses.replace(self, seed=seed)
