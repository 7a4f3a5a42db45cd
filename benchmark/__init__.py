"""The suite: registries, datasets, teachers, students, environments, scoring, runs and records."""

from benchmark.processor import round_alike

round_alike()
