"""What a run works with: its dataset, scaling, teacher and log densities, with their digests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.density.log_densities import Fit, LogDensity, find_or_fit
from benchmark.environments.lookup import action_space
from benchmark.method import Problem, Shared
from benchmark.provenance import checked_device
from benchmark.record import DensityFacts, TeacherFacts
from benchmark.scaling import Scaling
from benchmark.spec import RunSpec
from benchmark.teachers.teacher import NetworkTeacher, measured_return
from benchmark.teachers.teacher_files import find_teacher


@dataclass(frozen=True)
class Materials:
    """Everything that a run works with; complete when it exists.

    Args:
        spec: The run.
        dataset: The offline transitions.
        scaling: Between raw and normalised units, from the dataset.
        teacher: The teacher; None where the method declares none.
        log_density: The log densities; None where the method declares none.
    """

    spec: RunSpec
    dataset: Dataset
    scaling: Scaling
    teacher: NetworkTeacher | None
    log_density: LogDensity | None

    @classmethod
    def load(cls, spec: RunSpec, dataset: Dataset | None = None) -> Materials:
        """Load what the method declares in `needs`; log densities are fitted where none are stored.

        Like the teacher's training, a fit is not a cost of the run.

        Args:
            spec: The run.
            dataset: Its dataset, where another run of the pack has loaded it.

        Raises:
            ObdBenchError: Something is missing or was altered; the message says how to get it.
        """
        needs = spec.method_instance.needs
        if dataset is None:
            dataset = load_dataset(DatasetName.parse(spec.dataset))
        space = action_space(dataset.env_id)
        for student in (spec.student, spec.scoring_student):
            student.check_space(space, dataset.env_id)
        teacher = find_teacher(dataset, spec.teacher) if "teacher" in needs else None
        learned = teacher.facts.get("dataset_sha256") if teacher else None
        if learned not in (None, dataset.sha256):
            _say_other_data(dataset.name, dataset.sha256, spec.teacher, learned)
        return cls(
            spec,
            dataset,
            Scaling.of(dataset, space),
            teacher,
            find_or_fit(dataset, Fit.of(spec.density)) if "log_density" in needs else None,
        )

    @property
    def digests(self) -> dict[str, str | None]:
        """sha256 of the data, the teacher and the log densities."""
        return {
            "the data": self.dataset.sha256,
            "the teacher": self.teacher.facts["sha256"] if self.teacher else None,
            "the log densities": self.log_density.facts["sha256"] if self.log_density else None,
        }

    def problem(self, device: str, shared: Shared) -> Problem:
        """What the method may see; heavy products run on `device`.

        Args:
            device: Torch device.
            shared: Tensors of the pack that the run is in.
        """
        loaders: Mapping[str, Callable[[], Any]] = {
            "dataset": lambda: self.dataset,
            "teacher": lambda: self.teacher,
            "environment": lambda: self.dataset.env_id,
            "log_density": lambda: self.log_density.values if self.log_density else None,
        }
        return Problem(
            needs=self.spec.method_instance.needs,
            student=self.spec.student,
            scaling=self.scaling,
            axes=self.spec.distillation_axes,
            loaders=loaders,
            device=str(checked_device(device)),
            shared=shared,
            inputs=tuple(self.digests.values()),
        )

    def teacher_facts(self) -> TeacherFacts | None:
        """What a record says of the teacher."""
        if self.teacher is None:
            return None
        facts = self.teacher.facts
        measured = measured_return(facts)
        return TeacherFacts(
            name=self.spec.teacher,
            sha256=facts["sha256"],
            return_=measured.get("return"),
            normalized_return=measured.get("normalized_return"),
            episodes=measured.get("episodes"),
            parameters=facts.get("parameters", {}),
            dataset=facts.get("dataset"),
            dataset_sha256=facts.get("dataset_sha256"),
            checkpoint_sha256=facts.get("checkpoint_sha256"),
        )

    def density_facts(self) -> DensityFacts | None:
        """What a record says of the log densities."""
        if self.log_density is None:
            return None
        facts = self.log_density.facts
        held_out = facts["held_out"] or {}
        return DensityFacts(
            name=self.spec.density,
            sha256=facts["sha256"],
            held_out_log_likelihood=held_out.get("mean"),
            held_out_standard_error=held_out.get("standard_error"),
            not_finite=facts["not_finite"]["count"],
        )


@cache  # once in a process, which may do many runs on the same data
def _say_other_data(dataset: str, sha256: str, teacher: str, learned: str) -> None:
    """Log that a shipped teacher learned from other data than it is used on."""
    recipe, _, seed = teacher.partition(":")
    logging.getLogger(__name__).warning(
        "%s (sha256 %s): the shipped %s teacher of that name is used, which learned from other "
        "data (sha256 %s). To train one on exactly these: obdbench teacher train %s --recipe %s%s",
        *(dataset, sha256[:16], teacher, learned[:16], dataset, recipe),
        f" --seed {seed}" if seed else "",
    )
