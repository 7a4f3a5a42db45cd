"""The suite: registries, datasets, teachers, students, environments, scoring, runs and records."""
