"""The command line: `obdbench --help`."""

from obdbench.cli.app import main

__all__ = ["main"]
