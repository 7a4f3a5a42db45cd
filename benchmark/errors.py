"""Errors that a user of the suite can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

FEW_NAMES = 8
"""Names that a message always lists; more of them would hide what it says."""


class ObdBenchError(Exception):
    """Base of every error that the suite raises on purpose.

    The message names the thing, the value that was found, what was expected and what to do. The
    command line prints it without a traceback.
    """


def did_you_mean(name: str, available: Iterable[str], listed_by: str = "") -> str:
    """Up to three names nearest to an unknown one, then the available ones or what lists them.

    Args:
        name: The unknown name; case, spaces and slashes around it do not matter.
        available: Names that are known.
        listed_by: Command that prints all of them; "" where there is none.
    """
    names = sorted(available)
    plain = {known.lower(): known for known in reversed(names)}
    near = difflib.get_close_matches(name.strip(" /").lower(), plain, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(plain[n]) for n in near)}? " if near else ""
    if len(names) <= FEW_NAMES or not (near or listed_by):
        return f"{hint}Available: {', '.join(names) if names else '(none)'}."
    return f"{hint}Every name: {listed_by}." if listed_by else hint.rstrip()
