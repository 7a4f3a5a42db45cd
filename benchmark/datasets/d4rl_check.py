"""Whether a dataset is the one that D4RL's published observation statistics are of."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.datasets.d4rl_facts import d4rl_statistics, has_statistics
from benchmark.datasets.dataset import Dataset, DatasetProblem

ROUNDING = 5e-3
"""In standard deviations. The published numbers were summed in float32: over 2 million rows of
normal numbers that alone is off by 3e-4 in the mean and 7e-4 in the standard deviation."""
OTHER_DATA = 0.1
"""In standard deviations. The nearest two of the nine, of one task, are 0.3 apart."""


def compare_statistics(dataset: Dataset, d4rl_name: str) -> dict[str, Any]:
    """Compares the mean and standard deviation of `dataset.observations` with the published ones.

    Both are of the q-learning view. Differences are in published standard deviations, the largest
    over the dimensions. Small ones are reported and not refused: which rows were taken (timeouts,
    the last row) and how they were summed differs between the codes that print such numbers. Large
    ones are refused: such a file is other data, and a table would carry it under a wrong name.

    Returns:
        Facts for the dataset's provenance, with a sentence in "warnings" where they differ.

    Raises:
        DatasetProblem: These are other data.
    """
    if not has_statistics(d4rl_name):
        return {"statistics": "none published", "warnings": []}
    mean, std = (np.array(values) for values in d4rl_statistics(d4rl_name))
    if len(mean) != dataset.observation_dim:
        raise DatasetProblem(
            f"The data for {d4rl_name} have {dataset.observation_dim} observation dimensions, the "
            f"published have {len(mean)}. This is another dataset's file."
        )
    found_mean, found_std = dataset.observation_moments()
    differences = {
        "mean": float(np.abs((found_mean - mean) / std).max()),
        "sd": float(np.abs((found_std - std) / std).max()),
    }
    sentence = (
        f"The observations differ from the published statistics of {d4rl_name}, by up to "
        f"{differences['mean']:.2g} standard deviations in the mean and "
        f"{100 * differences['sd']:.2g} % in the standard deviation"
    )
    if max(differences.values()) > OTHER_DATA:
        raise DatasetProblem(
            f"{sentence}: these are other data. Check the file; it can be taken in under a name of "
            f"its own, `obdbench data import FILE --as local/NAME --environment ID`."
        )
    facts = {"statistics_differences": differences}
    if max(differences.values()) <= ROUNDING:
        return {"statistics": "agree with the published", **facts, "warnings": []}
    warning = f"{sentence} (expected at most {ROUNDING:g} and {100 * ROUNDING:g} %)."
    return {"statistics": "differ from the published", **facts, "warnings": [warning]}
