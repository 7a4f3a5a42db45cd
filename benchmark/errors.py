"""Errors that a user of the suite can act on."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

LOG_LINES = 20
LONGEST_VALUE = 100
"""Characters of a value from a file in a message; more of them would hide what it says."""
FEW_NAMES = 8
"""Names that a message always lists; more of them would hide what it says."""


class ObdBenchError(Exception):
    """Base of every error that the suite raises on purpose.

    The message names the thing, the value that was found, what was expected and what to do. The
    command line prints it without a traceback.
    """


class ChangedInPlace(ObdBenchError):
    """A method wrote into data that other runs of its pack work with: none of them counts."""


def short(value: object) -> str:
    """A value as a message shows it: all of it, or its beginning where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"a {type(value).__name__} of thousands of digits"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def encodable(text: str) -> str:
    """A text as files hold it: what is not UTF-8, as in names of files, is written as its code."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def last_lines(log: str) -> str:
    """The end of a log, for an error message."""
    return "\n".join(log.strip().splitlines()[-LOG_LINES:])


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


ADVICE = {
    errno.ENOSPC: "Make room there, or use another folder.",
    errno.EDQUOT: "Make room there, or use another folder.",
    errno.EROFS: "It can be read only; write to another folder.",
    errno.EACCES: "Your user may not do that there; use another folder, or ask its owner.",
    errno.EPERM: "Your user may not do that there; use another folder, or ask its owner.",
    errno.ENOTDIR: "A file is where a folder must be; name a folder, or move the file away.",
    errno.EEXIST: "A file is where a folder must be; name a folder, or move the file away.",
    errno.EISDIR: "A folder is where a file must be; name a file, or move the folder away.",
    errno.ENAMETOOLONG: "Take a shorter name.",
}
"""What a user can do after an error of the system."""


def system_error(error: OSError) -> str:
    """A sentence on an error of the system: the path, what the system says, and what to do."""
    if error.errno is None or error.filename is None:
        return str(error)
    said = f"{error.filename} cannot be used: {os.strerror(error.errno)}."
    return f"{said} {ADVICE.get(error.errno, '')}".strip()
