"""Datasets that a user imported from files of their own."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from benchmark.datasets.dataset import AskedReference, Dataset, DatasetProblem, OnProgress
from benchmark.datasets.references import find_reference, measure_reference, reference_options
from benchmark.datasets.source import VERSION, DatasetFamily, DatasetSource, store_folder
from benchmark.datasets.transitions import clip_controls, read_transitions
from benchmark.environments.rollout import require_time_limit
from benchmark.files import Fingerprint
from benchmark.registry import UnknownName

_NAME = re.compile(r"local(/[A-Za-z0-9_-]+)+")


@dataclass(frozen=True)
class LocalSource(DatasetSource):
    """A name under which a file was, or can be, imported."""

    description: str = "imported from a file on this machine"
    default_size = None

    def command(self, name: str) -> str:
        return f"obdbench data import FILE --as {name} --environment ID"

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        raise DatasetProblem(
            f"The dataset {name} is not in the local store, and only its file can bring it there. "
            f"Use `{self.command(name)}`."
        )


@dataclass(frozen=True)
class FileSource(LocalSource):
    """A file of transitions.

    Args:
        file: .npz, HDF5 or parquet.
        environment: Id of the environment that policies are scored in.
        reference: Returns that normalisation stands on, or "measured"; None for the suite's own.
    """

    file: Path = Path()
    environment: str = ""
    reference: AskedReference = None

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        reference, origin = find_reference(self.environment, self.reference)
        dataset = read_transitions(
            self.file, name=name, env_id=self.environment, reference=reference
        )
        facts = {
            "file": self.file.name,
            **Fingerprint.of(self.file).facts(),
            "reference_returns": origin,
            "options": reference_options(self.reference),
        }
        dataset = clip_controls(dataset)
        dataset = dataclasses.replace(dataset, provenance={**dataset.provenance, **facts})
        return measure_reference(dataset, threads) if self.reference == "measured" else dataset


class LocalFamily(DatasetFamily):
    """`local/NAME`: datasets imported from files."""

    description = "files of yours, imported with `obdbench data import`"

    def names(self) -> list[str]:
        folders = [card.parent for card in sorted((store_folder() / "local").rglob("card.json"))]
        names = [folder.relative_to(store_folder()).as_posix() for folder in folders]
        return [name.removesuffix(f"-v{VERSION}") for name in names]

    def source(self, name: str) -> LocalSource:
        if not _NAME.fullmatch(name):
            raise UnknownName(
                f"{name!r} cannot be the name of a local dataset; expected local/NAME of letters, "
                f"digits, '-' and '_'."
            )
        return LocalSource()

    def file_source(
        self, name: str, file: Path, environment: str | None, reference: AskedReference
    ) -> DatasetSource:
        self.source(name)
        if environment is None:
            raise DatasetProblem(
                f"The file does not say which environment {name} was collected in. Name it with "
                f"--environment, e.g. --environment Hopper-v4."
            )
        require_time_limit(environment)
        return FileSource(file=file, environment=environment, reference=reference)


FAMILY = LocalFamily()
