"""Errors that a user of the suite can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES = 80
"""Names that a message lists at most; of more, it gives the number."""


class ObdBenchError(Exception):
    """Base of every error that the suite raises on purpose.

    The message names the thing, the value that was found, what was expected and what to do. The
    command line prints it without a traceback.
    """


def did_you_mean(name: str, available: Iterable[str]) -> str:
    """A sentence with the names nearest to an unknown one, then the available ones."""
    names = sorted(available)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    if len(names) > MOST_NAMES:
        return f"{hint}{len(names)} are available."
    return f"{hint}Available: {', '.join(names) if names else '(none)'}."
