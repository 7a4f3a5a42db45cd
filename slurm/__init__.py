"""Executors: how the runs of a sweep are spread over processes and machines."""
