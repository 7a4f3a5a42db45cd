"""OBD-Bench: the reproducibility benchmark suite for offline behaviour distillation.

What is exported here is the stable interface; everything else may change. A name is imported when
it is first used, so that `import obdbench` takes a tenth of a second.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import benchmark  # noqa: F401 - before a user's first product, see benchmark.processor

if TYPE_CHECKING:
    from benchmark.contract import CHECKS, Check, CheckResult, check_method
    from benchmark.datasets.dataset import Dataset, ReferenceReturns
    from benchmark.datasets.own import (
        ScriptedMixture,
        SnapshotMixture,
        medium,
        medium_expert,
        replay,
    )
    from benchmark.datasets.source import DATASETS, FAMILIES, DatasetFamily, DatasetSource
    from benchmark.density.density import DENSITIES, Density, DensityRecipe
    from benchmark.errors import ObdBenchError
    from benchmark.method import METHODS, Method, Monitor, Policy, Problem, State
    from benchmark.protocol import Protocol
    from benchmark.record import read_record
    from benchmark.scaling import Scaling
    from benchmark.students.network import STUDENTS, Architecture, Network
    from benchmark.students.spec import StudentSpec
    from benchmark.students.student import StudentPolicy, train_students
    from benchmark.synthetic_set import LearnedTraining, SyntheticSet, load_synthetic_set
    from benchmark.teachers.teacher import TEACHERS, NetworkTeacher, Teacher, TeacherRecipe
    from obdbench.face import (
        Run,
        RunFailed,
        load_dataset,
        load_set,
        load_teacher,
        results,
        run,
        sweep,
    )
    from obdbench.policies import DistilledSet, Evaluation, TrainedPolicy, evaluate

    __version__: str

_HOMES = {
    "benchmark.contract": ("CHECKS", "Check", "CheckResult", "check_method"),
    "benchmark.datasets.dataset": ("Dataset", "ReferenceReturns"),
    "benchmark.datasets.own": (
        "ScriptedMixture", "SnapshotMixture", "medium", "medium_expert", "replay",
    ),
    "benchmark.datasets.source": ("DATASETS", "FAMILIES", "DatasetFamily", "DatasetSource"),
    "benchmark.density.density": ("DENSITIES", "Density", "DensityRecipe"),
    "benchmark.errors": ("ObdBenchError",),
    "benchmark.method": ("METHODS", "Method", "Monitor", "Policy", "Problem", "State"),
    "benchmark.protocol": ("Protocol",),
    "benchmark.record": ("read_record",),
    "benchmark.scaling": ("Scaling",),
    "benchmark.students.network": ("STUDENTS", "Architecture", "Network"),
    "benchmark.students.spec": ("StudentSpec",),
    "benchmark.students.student": ("StudentPolicy", "train_students"),
    "benchmark.synthetic_set": ("LearnedTraining", "SyntheticSet", "load_synthetic_set"),
    "benchmark.teachers.teacher": ("TEACHERS", "NetworkTeacher", "Teacher", "TeacherRecipe"),
    "obdbench.face": (
        "Run", "RunFailed", "load_dataset", "load_set", "load_teacher", "results", "run", "sweep",
    ),
    "obdbench.policies": ("DistilledSet", "Evaluation", "TrainedPolicy", "evaluate"),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name == "__version__":
        return version("obdbench")
    if name not in _HOME:
        raise AttributeError(f"module 'obdbench' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "CHECKS",
    "DATASETS",
    "DENSITIES",
    "FAMILIES",
    "METHODS",
    "STUDENTS",
    "TEACHERS",
    "Architecture",
    "Check",
    "CheckResult",
    "Dataset",
    "DatasetFamily",
    "DatasetSource",
    "Density",
    "DensityRecipe",
    "DistilledSet",
    "Evaluation",
    "LearnedTraining",
    "Method",
    "Monitor",
    "Network",
    "NetworkTeacher",
    "ObdBenchError",
    "Policy",
    "Problem",
    "Protocol",
    "ReferenceReturns",
    "Run",
    "RunFailed",
    "Scaling",
    "ScriptedMixture",
    "SnapshotMixture",
    "State",
    "StudentPolicy",
    "StudentSpec",
    "SyntheticSet",
    "Teacher",
    "TeacherRecipe",
    "TrainedPolicy",
    "__version__",
    "check_method",
    "evaluate",
    "load_dataset",
    "load_set",
    "load_synthetic_set",
    "load_teacher",
    "medium",
    "medium_expert",
    "read_record",
    "replay",
    "results",
    "run",
    "sweep",
    "train_students",
]
