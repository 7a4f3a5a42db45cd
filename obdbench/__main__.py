"""`python -m obdbench`, the same as `obdbench`."""

from obdbench.cli import main

main()
