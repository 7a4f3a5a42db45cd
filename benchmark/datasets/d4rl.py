"""The D4RL v2 locomotion datasets: fetched as HDF5, checked, read in the q-learning view."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from benchmark.datasets.d4rl_facts import (
    PUBLIC_ADDRESS,
    compare_statistics,
    d4rl_environment,
    d4rl_file_name,
    d4rl_fingerprint,
    d4rl_names,
    d4rl_reference,
)
from benchmark.datasets.dataset import AskedReference, Dataset, DatasetProblem, OnProgress
from benchmark.datasets.download import (
    Patience,
    TrustedFiles,
    download,
    remote_size,
    set_aside_altered,
)
from benchmark.datasets.hdf5 import read_d4rl_file
from benchmark.datasets.source import DatasetFamily, DatasetSource
from benchmark.errors import did_you_mean
from benchmark.files import Fingerprint, cache_folder
from benchmark.registry import UnknownName

PREFIX = "d4rl/"
MIRROR = "OBDBENCH_D4RL_MIRROR"
"""Environment variable: address of a folder that holds the files under D4RL's own names."""


@dataclass(frozen=True)
class D4RLSource(DatasetSource):
    """A dataset of D4RL.

    Args:
        dataset: D4RL's name of it, such as `hopper-medium-replay-v2`.
        mirror: Address of a folder to fetch it from, instead of `OBDBENCH_D4RL_MIRROR` or D4RL's.
        file: A copy on this machine to read instead of fetching one.
        patience: How long and how often to wait for the server.
    """

    dataset: str
    mirror: str | None = None
    file: Path | None = None
    patience: Patience = field(default_factory=Patience)
    default_size = None
    progress_unit: ClassVar[str] = "bytes"

    @property
    def description(self) -> str:  # type: ignore[override]
        return f"D4RL {self.dataset}, scored on {d4rl_environment(self.dataset)}"

    def command(self, name: str) -> str:
        return f"obdbench data fetch {name}"

    @property
    def environment_id(self) -> str | None:
        return d4rl_environment(self.dataset)

    def check(self, name: str) -> int | None:
        """See `DatasetSource.check`: a file in the cache, or the server that has it."""
        if self.file or self._cached.exists():
            return None
        return remote_size(self.url, self._advice(name))

    @property
    def url(self) -> str:
        """Address that the file is fetched from."""
        folder = self.mirror or os.environ.get(MIRROR) or PUBLIC_ADDRESS
        return f"{folder.rstrip('/')}/{d4rl_file_name(self.dataset)}"

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        """See `DatasetSource.build`; published data have neither size nor seed to choose.

        Raises:
            DownloadProblem: The file cannot be had, or is not the one trusted before.
            DatasetProblem: It is not in D4RL's format, or holds other data.
        """
        return self._read(name, self.file) if self.file else self._fetch(name, progress)

    def _fetch(self, name: str, progress: OnProgress | None) -> Dataset:
        """Download the file unless a sound one is there, read it, then trust it from now on.

        Trusted last: what a wrong address answers with must not become the file to expect. Only
        what this call downloaded is deleted where it cannot be read: another file in the cache is
        the user's, or another process is about to trust it.
        """
        path = self._cached
        trusted = TrustedFiles(path.with_name("trusted.json"))
        published = d4rl_fingerprint(self.dataset)
        expected = published or trusted.fingerprint(path.name)
        expected_by = (
            "What is expected was published for this file."
            if published
            else f"What is expected was recorded in {trusted.path} when the file was first used; "
            f"to trust the other one, delete the entry {path.name!r} there."
        )
        if expected is not None:
            set_aside_altered(path, expected)
        fetched = download(
            self.url,
            path,
            expected=expected,
            expected_by=expected_by,
            advice=self._advice(name),
            patience=self.patience,
            progress=progress,
        )
        try:
            dataset = self._read(name, path)
        except DatasetProblem as error:
            if fetched:
                path.unlink()
                raise
            raise DatasetProblem(
                f"{error} The file was in the cache already: put a sound one there, or delete "
                f"{path} to have it fetched."
            ) from error
        url = self.url if fetched or expected is not None else "none, the file was in the cache"
        trusted.trust(path.name, Fingerprint.of(path), url)
        return _with_facts(dataset, {"url": url}, [])

    @property
    def _cached(self) -> Path:
        return cache_folder() / "d4rl" / d4rl_file_name(self.dataset)

    def _advice(self, name: str) -> str:
        return (
            f"Give a mirror's address with --mirror or {MIRROR}, or import a copy of the file with "
            f"`obdbench data import FILE --as {name}`."
        )

    def _read(self, name: str, path: Path) -> Dataset:
        environment, reference = d4rl_environment(self.dataset), d4rl_reference(self.dataset)
        dataset = read_d4rl_file(path, name=name, env_id=environment, reference=reference)
        statistics = compare_statistics(dataset, self.dataset)
        found, published = Fingerprint.of(path), d4rl_fingerprint(self.dataset)
        warnings = [*statistics.pop("warnings")]
        if published not in (None, found):
            warnings.append(
                f"{path.name} has sha256 {found.sha256}, D4RL's own file {published.sha256}."
            )
        facts = {"file": path.name, **found.facts(), **statistics}
        return _with_facts(dataset, facts, warnings)


class D4RLFamily(DatasetFamily):
    """`d4rl/hopper-medium-replay-v2` and the like: three tasks, six qualities."""

    description = "D4RL v2 locomotion data, fetched from their public address or a mirror"

    def names(self) -> list[str]:
        return [PREFIX + name for name in d4rl_names()]

    def source(self, name: str) -> D4RLSource:
        if name not in self.names():
            raise UnknownName(
                f"No D4RL dataset is called {name!r}. "
                f"{did_you_mean(name, self.names(), 'obdbench data list')}"
            )
        return D4RLSource(name.removeprefix(PREFIX))

    def file_source(
        self, name: str, file: Path, environment: str | None, reference: AskedReference
    ) -> DatasetSource:
        source = self.source(name)
        if environment is not None or reference is not None:
            raise DatasetProblem(
                f"{name} is scored on {d4rl_environment(source.dataset)} with D4RL's reference "
                f"returns; leave out the environment and the references, or import the file as "
                f"local/NAME."
            )
        return dataclasses.replace(source, file=file)


def _with_facts(dataset: Dataset, facts: dict[str, Any], warnings: list[str]) -> Dataset:
    """The dataset with more facts and warnings in its provenance."""
    known = dataset.provenance
    merged = {**known, **facts, "warnings": [*known["warnings"], *warnings]}
    return dataclasses.replace(dataset, provenance=merged)


FAMILY = D4RLFamily()
