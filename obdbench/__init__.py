"""OBD-Bench: the reproducibility benchmark suite for offline behaviour distillation.

What is exported here is the stable interface for third parties; everything else may change.
"""

from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.datasets.source import DATASETS, DatasetSource
from benchmark.errors import ObdBenchError
from benchmark.method import METHODS, Method, Monitor, Policy, Problem, State
from benchmark.record import read_record
from benchmark.scaling import Scaling
from benchmark.students.architectures import STUDENTS, Architecture
from benchmark.students.network import Network
from benchmark.students.student import StudentPolicy, StudentSpec, train_students
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set
from benchmark.teachers.recipe import TEACHERS, TeacherRecipe
from benchmark.teachers.teacher import NetworkTeacher, Teacher

__all__ = [
    "DATASETS",
    "METHODS",
    "STUDENTS",
    "TEACHERS",
    "Architecture",
    "Dataset",
    "DatasetSource",
    "Method",
    "Monitor",
    "Network",
    "NetworkTeacher",
    "ObdBenchError",
    "Policy",
    "Problem",
    "ReferenceReturns",
    "Scaling",
    "State",
    "StudentPolicy",
    "StudentSpec",
    "SyntheticSet",
    "Teacher",
    "TeacherRecipe",
    "load_synthetic_set",
    "read_record",
    "train_students",
]
