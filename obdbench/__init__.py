"""OBD-Bench: the reproducibility benchmark suite for offline behaviour distillation.

What is exported here is the stable interface for third parties; everything else may change.
"""

from benchmark.contract import CHECKS, Check, CheckResult, check_method
from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.datasets.own import ScriptedMixture, SnapshotMixture, medium, medium_expert, replay
from benchmark.datasets.source import DATASETS, FAMILIES, DatasetFamily, DatasetSource
from benchmark.density.density import DENSITIES, Density, DensityRecipe
from benchmark.errors import ObdBenchError
from benchmark.method import METHODS, Method, Monitor, Policy, Problem, State
from benchmark.record import read_record
from benchmark.scaling import Scaling
from benchmark.students.network import STUDENTS, Architecture, Network
from benchmark.students.spec import StudentSpec
from benchmark.students.student import StudentPolicy, train_students
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set
from benchmark.teachers.teacher import TEACHERS, NetworkTeacher, Teacher, TeacherRecipe

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
    "Method",
    "Monitor",
    "Network",
    "NetworkTeacher",
    "ObdBenchError",
    "Policy",
    "Problem",
    "ReferenceReturns",
    "Scaling",
    "ScriptedMixture",
    "SnapshotMixture",
    "State",
    "StudentPolicy",
    "StudentSpec",
    "SyntheticSet",
    "Teacher",
    "TeacherRecipe",
    "check_method",
    "load_synthetic_set",
    "medium",
    "medium_expert",
    "read_record",
    "replay",
    "train_students",
]
