"""Names and texts from files that somebody else made: what a name may be, and how text is shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from benchmark.errors import ObdBenchError

LONGEST = 100
"""Characters at most; a folder's name is made of two names, and file systems take 255 bytes."""
_PART = re.compile(r"\w([\w.+-]*[\w+-])?")
_DEVICES = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)(\..*)?")
"""Names that Windows keeps for devices, whatever ending they have."""

_ONE_SLASH_FIRST = re.compile("[^/-]+/[^/]+")

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What steers a terminal, and what turns the direction of the text after it."""


class BadName(ObdBenchError):
    """A name that cannot be the name of a file on every machine, or leads out of a folder."""


@lru_cache(maxsize=10_000)
def check_name(what: str, name: str, *, parts: bool = False) -> str:
    """Check that a name can be the name of a file, and give it back.

    Args:
        what: Whose name it is, for the message: "the name in sweep.toml".
        name: Name as it was read.
        parts: Whether it may have several parts, as the names of datasets do: "hopper/medium".

    Raises:
        BadName: It is something else, for example "../x", "/x" or "-x".
    """
    each = name.split("/") if parts else [name]
    if (
        len(name.encode(errors="replace")) > 2 * LONGEST
        or len(name) > LONGEST
        or not all(_PART.fullmatch(part) and not _DEVICES.fullmatch(part) for part in each)
    ):
        shown = repr(name) if len(name) <= LONGEST else f"{name[:20]!r}... ({len(name)} characters)"
        slash = ", parts divided by '/'" if parts else ""
        raise BadName(
            f"{what} is {shown}; names become names of files: expected at most {LONGEST} "
            f"letters, digits, '_', '-', '+' and '.'{slash}, not beginning with '-', '+' or '.', "
            f"not ending in '.', and no device of Windows. Take another name."
        )
    return name


def flat_name(name: str) -> str:
    """Write a name as that of one file: the name itself, with "-" for a slash.

    Which "-" stands for a slash is clear where there is one slash, before every "-", as in names of
    the suite's own datasets. Names of another form, such as "local/a/b" next to "local/a-b", have a
    digest of the name. Names that share a folder all have slashes, or none has.
    """
    flat = name.replace("/", "-")
    if "/" in name and not _ONE_SLASH_FIRST.fullmatch(name):
        flat += f".{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return flat


def lies_inside(folder: Path, path: Path) -> bool:
    """Whether no link on the way to a path leads out of a folder."""
    return path.resolve().is_relative_to(folder.resolve())


def check_inside(folder: Path, path: Path) -> Path:
    """Check that what is written to a path stays in a folder, and give the path back.

    A store that came from somebody else may hold links to any place of this machine.

    Raises:
        BadName: A link on the way leads out of the folder.
    """
    if not lies_inside(folder, path):
        raise BadName(
            f"{path} leads out of {folder} to {path.resolve()}, where nothing is written. Replace "
            f"the link by a folder."
        )
    return path


def visible(text: str, *, one_line: bool = False) -> str:
    """Write the characters of a text that would steer a terminal, or hide others, as escapes.

    Args:
        text: Text from a file, for example the message of an error.
        one_line: Whether its lines are joined by spaces.
    """
    if one_line:
        text = " ".join(text.splitlines())
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def aligned(rows: Sequence[Sequence[str]], alignment: str = "") -> str:
    """Write rows as lines of plain text whose columns stand below each other.

    A table for a terminal takes longer to lay out than thousands of runs to read.

    Args:
        rows: Texts of each row, as many in each.
        alignment: "l" or "r" for each column; all to the left by default.
    """
    shown = [[visible(text, one_line=True) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    sides = [str.rjust if side == "r" else str.ljust for side in alignment.ljust(len(widths), "l")]
    cells = (
        (put(text, width) for put, text, width in zip(sides, row, widths, strict=True))
        for row in shown
    )
    return "\n".join("  ".join(row).rstrip() for row in cells)
