"""Executors: how the runs of a sweep are spread over processes and machines."""

JOBS = "jobs"
"""Folder of a store that remembers what was submitted; without it nothing was."""
