"""What a dataset's name stands for: a way to have it on this machine.

A name is registered by itself (`hopper/medium`), or belongs to a family of names with a first part
in common (`d4rl/hopper-medium-v2`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import minari

from benchmark.datasets.dataset import Dataset, DatasetProblem, ProgressCallback, ReferenceReturns
from benchmark.errors import did_you_mean
from benchmark.registry import Registry, UnknownName

NAMESPACE = "obdbench"
VERSION = 0


class DatasetSource(ABC):
    """A dataset that this machine can collect, fetch or take in.

    Attributes:
        description: One sentence for `obdbench data list`.
        default_size: Transitions when no size is asked for; None where the dataset has the size
            that it was published with, and no other.
        progress_unit: What `build` counts when it reports progress.
    """

    description: str
    default_size: int | None
    progress_unit: ClassVar[str] = "transitions"

    @abstractmethod
    def build(
        self,
        name: str,
        size: int | None,
        seed: int,
        threads: int,
        progress: ProgressCallback | None,
    ) -> Dataset:
        """Makes the dataset, deterministically: same name, size and seed, same content.

        Args:
            name: That the dataset will have.
            size: Transitions; None for the default.
            seed: Of whatever is random in it.
            threads: To use; the content does not depend on it.
            progress: Called with (done, total) in `progress_unit`.
        """

    def command(self, name: str) -> str:
        """What a user types to have the dataset in the local store."""
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
            UnknownName: With the nearest names that exist.
        """

    def meant_by(self, name: str) -> list[str]:
        """Full names that someone may mean by `name`, which is nobody's."""
        return []

    def file_source(
        self, name: str, file: Path, environment: str | None, reference: ReferenceReturns | None
    ) -> DatasetSource:
        """The dataset of a full name, taken from a file of this machine.

        Args:
            name: Full name.
            file: In D4RL's HDF5 format.
            environment: Id of the environment, where the name does not say it.
            reference: Returns of the random policy and the expert, where the name does not say.

        Raises:
            DatasetProblem: This family takes no files, or something is missing or superfluous.
        """
        raise DatasetProblem(
            f"No file can be taken in as {name!r}. Give it a name that begins with local/, or "
            f"d4rl/ if it is one of D4RL's."
        )


DATASETS: Registry[DatasetSource] = Registry(
    "dataset", "obdbench.datasets", DatasetSource, entries="instances"
)

FAMILIES: Registry[DatasetFamily] = Registry(
    "dataset family", "obdbench.dataset_families", DatasetFamily, entries="instances"
)


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
        """Raises UnknownName for a name nobody registered, DatasetProblem for a bad size."""
        name, separator, size = text.partition("@")
        default = find_source(name).default_size
        if not separator:
            return cls(name, default)
        if default is None:
            raise DatasetProblem(
                f"{text!r} asks for {size!r} transitions, but {name} comes in the size that it was "
                f"published with alone. Write {name}."
            )
        if not (size.isascii() and size.isdigit()) or int(size) < 1:
            raise DatasetProblem(
                f"The size in {text!r} is {size!r}; expected a positive number of transitions, "
                f"e.g. {name}@50000."
            )
        return cls(name, int(size))

    def __str__(self) -> str:
        return self.name if self._other_size is None else f"{self.name}@{self._other_size}"

    @property
    def minari_id(self) -> str:
        """E.g. `obdbench/hopper/medium-v0`; another size is another dataset, `medium-50000-v0`."""
        size = "" if self._other_size is None else f"-{self._other_size}"
        return f"{NAMESPACE}/{self.name}{size}-v{VERSION}"

    @property
    def folder(self) -> Path:
        """Where the store keeps it; `MINARI_DATASETS_PATH` moves the store."""
        return Path(minari.storage.get_dataset_path()) / self.minari_id

    @property
    def build_command(self) -> str:
        """What a user types to have it in the store."""
        size = "" if self._other_size is None else f" --size {self._other_size}"
        return f"{find_source(self.name).command(self.name)}{size}"

    def rebuild_command(self, seed: int | None) -> str:
        """What a user types to replace the one in the store; published data have no seed."""
        return f"{self.build_command}{'' if seed is None else f' --seed {seed}'} --force"

    @property
    def _other_size(self) -> int | None:
        """The size where it is not the default."""
        if self.size is None or self.size == find_source(self.name).default_size:
            return None
        return self.size


def find_source(name: str) -> DatasetSource:
    """What a dataset's name stands for.

    Raises:
        UnknownName: With the nearest of all known names.
    """
    if name in DATASETS:
        return DATASETS[name]
    prefix = name.partition("/")[0]
    if prefix in FAMILIES:
        return FAMILIES[prefix].source(name)
    guesses = [guess for family in _families() for guess in family.meant_by(name)]
    perhaps = "".join(f"Perhaps it is {guess!r}. " for guess in guesses)
    raise UnknownName(
        f"No dataset is called {name!r}. {perhaps}{did_you_mean(name, dataset_names())}"
    )


def dataset_names() -> list[str]:
    """Every name that is known without a network: registered ones, then those of the families."""
    return [*DATASETS, *(name for family in _families() for name in family.names())]


def _families() -> list[DatasetFamily]:
    """Those that load; `obdbench list` says what is wrong with the others."""
    broken = FAMILIES.broken()
    return [FAMILIES[prefix] for prefix in FAMILIES if prefix not in broken]
