"""Datasets that a user took in from HDF5 files of their own."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import minari

from benchmark.datasets.dataset import Dataset, DatasetProblem, ProgressCallback, ReferenceReturns
from benchmark.datasets.hdf5 import read_d4rl_file
from benchmark.datasets.snapshots import suite_reference
from benchmark.datasets.source import NAMESPACE, VERSION, DatasetFamily, DatasetSource
from benchmark.environments.lookup import find_specification
from benchmark.files import Fingerprint
from benchmark.registry import UnknownName

PREFIX = "local/"
_NAME = re.compile(r"local(/[A-Za-z0-9_-]+)+")


@dataclass(frozen=True)
class LocalSource(DatasetSource):
    """A name under which a file was, or can be, taken in."""

    description: str = "taken in from a file of this machine"
    default_size = None

    def command(self, name: str) -> str:
        return f"obdbench data import FILE.hdf5 --as {name} --environment ID"

    def build(
        self,
        name: str,
        size: int | None,
        seed: int,
        threads: int,
        progress: ProgressCallback | None,
    ) -> Dataset:
        raise DatasetProblem(
            f"The dataset {name} is not in the local store, and only its file can bring it there. "
            f"Use `{self.command(name)}`."
        )


@dataclass(frozen=True)
class FileSource(LocalSource):
    """A file in D4RL's format.

    Args:
        file: HDF5.
        environment: Id of the environment that policies are scored in.
        reference: Returns that normalisation stands on; None for the suite's own.
    """

    file: Path = Path()
    environment: str = ""
    reference: ReferenceReturns | None = None

    def build(
        self,
        name: str,
        size: int | None,
        seed: int,
        threads: int,
        progress: ProgressCallback | None,
    ) -> Dataset:
        reference = self.reference or suite_reference(self.environment)
        dataset = read_d4rl_file(self.file, name=name, env_id=self.environment, reference=reference)
        facts = {
            "file": self.file.name,
            **Fingerprint.of(self.file).facts(),
            "reference_returns": "given" if self.reference else "the suite's own",
        }
        return dataclasses.replace(dataset, provenance={**dataset.provenance, **facts})


class LocalFamily(DatasetFamily):
    """`local/NAME`: what was taken in from files."""

    description = "files of yours, taken in with `obdbench data import`"

    def names(self) -> list[str]:
        root = Path(minari.storage.get_dataset_path()) / NAMESPACE
        cards = sorted((root / PREFIX).rglob("card.json"))
        return [
            card.parent.relative_to(root).as_posix().removesuffix(f"-v{VERSION}") for card in cards
        ]

    def source(self, name: str) -> LocalSource:
        if not _NAME.fullmatch(name):
            raise UnknownName(
                f"{name!r} cannot be the name of a local dataset; expected local/NAME of letters, "
                f"digits, '-' and '_'."
            )
        return LocalSource()

    def file_source(
        self, name: str, file: Path, environment: str | None, reference: ReferenceReturns | None
    ) -> DatasetSource:
        self.source(name)
        if environment is None:
            raise DatasetProblem(
                f"The file says not which environment {name} is of. Name it with --environment, "
                f"e.g. --environment Hopper-v4."
            )
        find_specification(environment)
        return FileSource(file=file, environment=environment, reference=reference)


FAMILY = LocalFamily()
