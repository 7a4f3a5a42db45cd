"""Records of runs as tables: frames, statistics and aggregation."""

from results.aggregate import AggregationError, Best, best_and_ties, cell_table
from results.bootstrap import iqm_over_runs, mean_over_tasks
from results.frames import RecordError, curves_frame, runs_frame
from results.labels import labels, natural_order
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
    "labels",
    "mean",
    "mean_over_tasks",
    "natural_order",
    "performance_profile",
    "probability_of_improvement",
    "runs_frame",
    "stratified",
]
