"""Pictures of the state density that SDW-OBD weights with (arXiv 2512.06692).

A sample of a dataset's states on their first two principal components with log p of each, and where
the synthetic states of Av-PBC and of SDW-OBD lie in the same plane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.diversity import PrincipalComponents
from benchmark.datasets.source import DatasetName
from benchmark.density.density import effective_support
from benchmark.density.log_densities import Fit, find_or_fit
from benchmark.environments.lookup import action_space
from benchmark.errors import ObdBenchError
from benchmark.scaling import Scaling
from benchmark.seeds import numpy_generator
from paper_figures.studies.study import Row, Study, finished_runs, finished_set, one_per_dataset


@dataclass(frozen=True)
class StateDensity(Study):
    """Log densities of a sample of states in a plane, with synthetic states.

    Args:
        sweep: Sweep whose sets are shown, on the datasets that have a set of every method.
        methods: Methods whose sets are shown.
        seed: Seed of the runs that are shown.
        density: Name of the density recipe.
        sample: Number of states drawn from a dataset.
        tau, floor_quantile: Settings of the weight whose effective support is stated.
    """

    shows: ClassVar[str] = "Log density of states, and where synthetic ones lie (arXiv 2512.06692)."
    sweep: str = "all_methods"
    methods: tuple[str, ...] = ("av_pbc", "sdw_obd")
    seed: int = 0
    density: str = "maf"
    sample: int = 1500
    tau: float = 0.25
    floor_quantile: float = 0.01

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List one item per dataset that has a set of every method and log densities."""
        records = [
            record for record in finished_runs(store, self.sweep) if record.spec.seed == self.seed
        ]
        sets = {
            method: one_per_dataset(r for r in records if r.spec.method == method)
            for method in self.methods
        }
        densities = {
            record.spec.dataset: record.density.sha256
            for record in records
            if record.density is not None
            and record.spec.density == self.density
            and record.spec.method in self.methods  # others may have had another fit of that name
        }
        shared = set(densities).intersection(*sets.values())
        return {
            name: {
                "dataset_sha256": load_dataset(DatasetName.parse(name)).sha256,
                "density_sha256": densities[name],
                "sets": {method: sets[method][name] for method in self.methods},
            }
            for name in sorted(shared)
        }

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure a row of facts, then one per state: its source, place in the plane, log p."""
        data = load_dataset(DatasetName.parse(item))
        density = find_or_fit(data, Fit.of(self.density))
        if density.facts["sha256"] != source["density_sha256"]:
            raise ObdBenchError(
                f"The log densities of {item} found now have sha256 {density.facts['sha256']}; the "
                f"runs weighted with {source['density_sha256']}. Put those back, or do the runs "
                f"again."
            )
        scaling = Scaling.of(data, action_space(data.env_id))
        states = scaling.observations_in(torch.from_numpy(data.observations)).double().numpy()
        plane = PrincipalComponents.of(states)
        rows = numpy_generator(study="state_density", item=item).choice(
            len(states), size=min(self.sample, len(states)), replace=False
        )
        support = effective_support(density.values, self.tau, floor_quantile=self.floor_quantile)
        log_p = density.values.numpy()[rows].round(3).tolist()
        found: list[Row] = [
            {
                "whose": "facts",
                "explained": float(plane.shares.sum()),
                "floor": float(density.values.quantile(self.floor_quantile)),
                "support": float(support),
                "states": len(states),
            }
        ]
        found += [
            {"whose": "dataset", "x": x, "y": y, "log_density": p}
            for (x, y), p in zip(_places(plane, states[rows]), log_p, strict=True)
        ]
        for method, run in source["sets"].items():
            pairs = finished_set(store, run).pairs
            synthetic = scaling.observations_in(pairs.observations).double().numpy()
            found += [{"whose": method, "x": x, "y": y} for x, y in _places(plane, synthetic)]
        return found


def _places(plane: PrincipalComponents, states: NDArray[np.float64]) -> list[list[float]]:
    """Project states onto a plane, rounded to three decimals."""
    places: list[list[float]] = plane.at(states).round(3).tolist()
    return places
