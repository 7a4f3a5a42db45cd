"""Datasets: what they are, where they are stored, how the suite collects its own."""
