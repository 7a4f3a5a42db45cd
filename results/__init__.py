"""Records of runs as tables: frames, statistics and aggregation.

A name is imported when it is asked for, so that whoever only looks at records pays for no pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from results.aggregate import AggregationError, Best, best_and_ties, cell_table
    from results.bootstrap import iqm_over_runs, mean_over_tasks
    from results.frames import RecordError, curves_frame, runs_frame
    from results.labels import natural_order
    from results.statistics import (
        Estimate,
        PerformanceProfile,
        StatisticsError,
        iqm,
        mean,
        performance_profile,
        probability_of_improvement,
        stratified,
    )

_HOMES = {
    "aggregate": ("AggregationError", "Best", "best_and_ties", "cell_table"),
    "bootstrap": ("iqm_over_runs", "mean_over_tasks"),
    "frames": ("RecordError", "curves_frame", "runs_frame"),
    "labels": ("natural_order",),
    "statistics": (
        "Estimate", "PerformanceProfile", "StatisticsError", "iqm", "mean", "performance_profile",
        "probability_of_improvement", "stratified",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'results' has no attribute {name!r}")
    return getattr(import_module(f"results.{_HOME[name]}"), name)


__all__ = [
    "AggregationError",
    "Best",
    "Estimate",
    "PerformanceProfile",
    "RecordError",
    "StatisticsError",
    "best_and_ties",
    "cell_table",
    "curves_frame",
    "iqm",
    "iqm_over_runs",
    "mean",
    "mean_over_tasks",
    "natural_order",
    "performance_profile",
    "probability_of_improvement",
    "runs_frame",
    "stratified",
]
