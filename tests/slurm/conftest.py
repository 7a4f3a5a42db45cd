"""A real SLURM of two nodes, started once in every test process that asks for it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmark.record import FILE, Record, read_record
from benchmark.registry import load_plugin
from benchmark.run import Conditions, run_folder
from benchmark.spec import RunSpec
from slurm.cluster import Cluster
from slurm.profile import Profile, build_profile
from tests.one_node_cluster import OneNodeCluster, missing_packages
from tests.tiny_runs import PLUGIN

PATIENCE = 240
GRACE = 20


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNodeCluster]:
    """The cluster; its commands are on this process's SLURM_CONF while tests run."""
    if os.geteuid() != 0:
        pytest.skip("needs root: make test-slurm starts a SLURM of its own")
    if missing := missing_packages():
        pytest.skip(f"needs {', '.join(missing)}: make test-slurm installs them")
    cluster = OneNodeCluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        with pytest.MonkeyPatch.context() as at_start:
            # Two databases that are set up at once would take each other's temporary tables.
            at_start.setenv("TMPDIR", str(tmp_path_factory.mktemp("mariadb")))
            cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def slurm(machine: OneNodeCluster) -> Iterator[OneNodeCluster]:
    """The cluster, left without jobs and with both nodes up."""
    yield machine
    machine.command("scancel", "--user=root")
    wait_until(lambda: not machine.command("squeue", "-h"), "no job is left")
    for node in ("n1", "n2"):
        state = machine.command("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T")
        if "down" in state or "drain" in state:
            machine.command("scontrol", "update", f"nodename={node}", "state=resume")


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    load_plugin(PLUGIN)


def profile(**values: object) -> Profile:
    """A small job's profile."""
    small = {"memory": "500M", "time": "0:10:00", "grace": GRACE}
    return build_profile({**small, **values}, "test", "the test")


class Bench:
    """Runs on the cluster, and what became of them."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.cluster = Cluster(store)

    def submit(self, runs: Sequence[RunSpec], save_every: float = 5.0, **shape: object) -> None:
        conditions = Conditions(self.cluster.store, (str(PLUGIN),), save_every=save_every)
        self.cluster.submit("test", runs, profile(**shape), conditions)

    def wait(self, patience: float = PATIENCE) -> None:
        """Settles until nothing is live."""
        wait_until(lambda: not self.cluster.settle().live, "no run is live", patience)

    def records(self, runs: Sequence[RunSpec]) -> list[Record]:
        """One record per run, complete or failed with a cause, and nothing else in the store.

        This is what every test of a fault comes down to: none lost, none double.
        """
        found = [read_record(run_folder(self.store, run) / FILE) for run in runs]
        for record in found:
            failed = record.status == "failed"
            assert record.status in ("complete", "failed")
            assert failed == (record.error is not None)
            assert not failed or record.error.message
        ids = Counter(path.parent.name + path.parent.parent.name for path in self._written())
        assert len(ids) == len(runs)
        assert set(ids.values()) == {1}
        assert not list((self.store / "jobs").glob("*.json")), "notes of live jobs are left"
        return found

    def begun(self, run: RunSpec) -> bool:
        """Whether a run has saved a state."""
        return (run_folder(self.store, run) / "state.safetensors").exists()

    def _written(self) -> list[Path]:
        return [path for path in self.store.rglob("record*") if path.name.endswith(".json")]


@pytest.fixture
def bench(slurm: OneNodeCluster, tmp_path: Path) -> Bench:
    return Bench(tmp_path / "runs")


def wait_until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience:.0f} s until {what}"
        time.sleep(0.5)
