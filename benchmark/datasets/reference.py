"""Reference returns that the suite measured itself, for data that come without."""

from __future__ import annotations

import json
from importlib import resources

from benchmark.datasets.dataset import DatasetProblem, ReferenceReturns
from benchmark.datasets.snapshots import SnapshotPolicies


def suite_reference(env_id: str) -> ReferenceReturns:
    """Returns of the random policy and of the best snapshot that the suite ships.

    Raises:
        DatasetProblem: The suite ships no policies of that environment, version included.
    """
    measured = {}
    for entry in (resources.files("benchmark.datasets") / "shipped").iterdir():
        if entry.name.endswith(".json"):
            policies = SnapshotPolicies({}, json.loads(entry.read_text("utf-8")))
            measured[policies.env_id] = policies.reference
    if env_id not in measured:
        raise DatasetProblem(
            f"There are no reference returns for {env_id}: the data bring none, and the suite has "
            f"its own for {', '.join(sorted(measured))} alone. Give both, --reference-random and "
            f"--reference-expert."
        )
    return measured[env_id]
