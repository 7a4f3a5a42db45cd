"""What a dataset's name stands for: a way to have it on this machine, and its place in the store.

A name is registered by itself (`hopper/medium`), or belongs to a family of names with a common
first part (`d4rl/hopper-medium-v2`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmark.datasets.dataset import AskedReference, Dataset, DatasetProblem, OnProgress
from benchmark.errors import did_you_mean
from benchmark.names import check_name
from benchmark.registry import OWN_ENTRY, Registry, UnknownName

NAMESPACE = "obdbench"
VERSION = 0
STAND_IN = "standin/"
"""Beginning of names of datasets that stand in for D4RL's: see `standin.py`."""


class DatasetSource(ABC):
    """A dataset that this machine can collect, fetch or import.

    Attributes:
        description: One sentence for `obdbench data list`.
        default_size: Transitions when no size is asked for; None where the dataset only has the
            size that it was published with.
        progress_unit: What `build` counts when it reports progress.
    """

    description: str
    default_size: int | None
    progress_unit: ClassVar[str] = "transitions"

    @abstractmethod
    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        """Make the dataset, deterministically: same name, size and seed, same content.

        Args:
            name: Name that the dataset will have.
            size: Transitions; None for the default.
            seed: Seed of whatever is random in it.
            threads: Threads to use; the content does not depend on it.
            progress: Called with (done, total) in `progress_unit`.
        """

    def check(self, name: str) -> int | None:
        """Check that `build` can begin, at the cost of one question to a server at most.

        Returns:
            Bytes that it fetches; None where it fetches none, or the server does not say.

        Raises:
            ObdBenchError: It cannot; the message says what to do.
        """
        return None

    @property
    def environment_id(self) -> str | None:
        """Gymnasium id that policies are scored in, where it is known before the data are there."""
        return None

    def command(self, name: str) -> str:
        """The command that brings the dataset into the local store."""
        return f"obdbench data build {name}"


class DatasetFamily(ABC):
    """Datasets whose names share the first part, under which the family is registered.

    Attributes:
        description: One sentence for `obdbench data list`.
    """

    description: str

    @abstractmethod
    def names(self) -> list[str]:
        """The full names that are known without a network."""

    @abstractmethod
    def source(self, name: str) -> DatasetSource:
        """The dataset of a full name, which need not be among `names`.

        Raises:
            UnknownName: No dataset can have the name; the message has the nearest that exist.
        """

    def meant_by(self, name: str) -> list[str]:
        """Full names of this family that someone may mean by `name`, which is not registered."""
        return []

    def file_source(
        self, name: str, file: Path, environment: str | None, reference: AskedReference
    ) -> DatasetSource:
        """The dataset of a full name, imported from a file on this machine.

        Args:
            name: Full name.
            file: File of transitions; which formats, the family says.
            environment: Id of the environment, where the name does not say it.
            reference: Returns of the random policy and the expert, where the name does not say, or
                "measured".

        Raises:
            DatasetProblem: This family takes no files, or something is missing or superfluous.
        """
        raise DatasetProblem(
            f"No file can be imported as {name!r}. Give it a name that begins with local/, or "
            f"d4rl/ if it is one of D4RL's."
        )


DATASETS: Registry[DatasetSource] = Registry(
    "dataset", "obdbench.datasets", DatasetSource, entries="instances"
)

FAMILIES: Registry[DatasetFamily] = Registry(
    "dataset family", "obdbench.dataset_families", DatasetFamily, entries="instances"
)


MOST_TRANSITIONS = 10**9
"""Transitions to ask for; collecting so many takes days, and more is a slip of the key."""


@dataclass(frozen=True)
class DatasetName:
    """A name with a size: `hopper/medium`, or `hopper/medium@50000`.

    The default size has no suffix, so that there is one way to write each dataset. Where the size
    is None, the dataset has the one that it was published with.
    """

    name: str
    size: int | None

    @classmethod
    def parse(cls, text: str) -> DatasetName:
        """Read a name as users write it.

        Raises:
            UnknownName: No dataset has the name.
            BadName: It cannot be the name of a folder.
            DatasetProblem: The size is not a positive number, or not to be chosen.
        """
        name, separator, size = text.partition("@")
        default = find_source(name).default_size
        check_name("The name of a dataset", name, parts=True)
        if not separator:
            return cls(name, default)
        if default is None:
            raise DatasetProblem(
                f"{text!r} asks for {size!r} transitions, but {name} only comes in the size that "
                f"it was published with. Write {name}."
            )
        if not (size.isascii() and size.isdigit()) or not 1 <= int(size[:30]) <= MOST_TRANSITIONS:
            raise DatasetProblem(
                f"The size in {text!r} is {size!r}; expected a positive number of transitions, at "
                f"most {MOST_TRANSITIONS:,}, e.g. {name}@50000."
            )
        return cls(name, int(size))

    def __str__(self) -> str:
        return f"{self.name}{self._size_after('@')}"

    @property
    def minari_id(self) -> str:
        """E.g. `obdbench/hopper/medium-v0`; another size is another dataset, `medium-50000-v0`."""
        return f"{NAMESPACE}/{self.name}{self._size_after('-')}-v{VERSION}"

    @property
    def folder(self) -> Path:
        """Folder of the dataset in the local store."""
        return store_folder().parent / self.minari_id

    @property
    def build_command(self) -> str:
        """The command that brings the dataset into the store."""
        return f"{find_source(self.name).command(self.name)}{self._size_after(' --size ')}"

    def rebuild_command(self, seed: int | None) -> str:
        """The command that replaces the dataset in the store; published data have no seed."""
        return f"{self.build_command}{'' if seed is None else f' --seed {seed}'} --force"

    def _size_after(self, separator: str) -> str:
        """The size with what goes before it; empty for the default size."""
        default = self.size in (None, find_source(self.name).default_size)
        return "" if default else f"{separator}{self.size}"


def store_folder() -> Path:
    """The suite's folder in the local Minari store; `MINARI_DATASETS_PATH` moves the store."""
    import minari  # here: names are parsed by commands that need not wait for it

    return Path(minari.storage.get_dataset_path()) / NAMESPACE


def find_source(name: str) -> DatasetSource:
    """Find the source of a dataset by its name.

    Raises:
        UnknownName: No dataset has the name; the message has the nearest known names.
    """
    if name in DATASETS:
        return DATASETS[name]
    prefix = name.partition("/")[0]
    if prefix in FAMILIES:
        return FAMILIES[prefix].source(name)
    guesses = [guess for family in _working_families() for guess in family.meant_by(name)]
    perhaps = "".join(f"Perhaps it is {guess!r}. " for guess in guesses)
    raise UnknownName(
        f"No dataset is called {name!r}. {perhaps}"
        f"{did_you_mean(name, dataset_names(), 'obdbench data list')} {OWN_ENTRY}"
    )


def dataset_names() -> list[str]:
    """Every name that is known without a network: registered ones, then those of the families."""
    return [*DATASETS, *(name for family in _working_families() for name in family.names())]


def _working_families() -> list[DatasetFamily]:
    """Families that can be loaded; `obdbench list` says what is wrong with the others."""
    broken = FAMILIES.broken()
    return [FAMILIES[prefix] for prefix in FAMILIES if prefix not in broken]
