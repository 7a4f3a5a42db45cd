"""Datasets: what they are, where they are kept, how the suite collects its own."""
