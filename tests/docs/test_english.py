"""The English of the product packages: every docstring, argument line, comment and message."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import ROOT, docstrings, product_files

KNOWN = 0
"""Violations that are left in the tree; this number only falls."""

BEGINNINGS = re.compile(r"(Of|That|Those|As)\b")
SECTION = re.compile(r"^ *(?:Args|Arguments|Attributes|Returns|Raises|Yields):$")
ARGUMENT = re.compile(r"^ +[*\w, `.\[\]]+?(?: \([^)]*\))?: +(.*)$")

COUNTED = (
    "cells?|episodes?|files?|folders?|jobs?|lines?|numbers?|pairs?|process(?:es)?|records?|rows?|"
    "seconds?|seeds?|steps?|students?|times|transitions?|values?|columns?|hours?|points?|windows?"
)
UNITS = (
    "action|array|cell|checkpoint|column|dataset|episode|figure|file|hour|job|line|member|method|"
    "node|pack|pair|row|run|second|seed|set|source|state|step|student|sweep|task|teacher|"
    "environment|process|transition|window|minute|outer step|inner step"
)
# A pattern with a group is broken only where the group is; the rest of it are allowed phrases.
WORDS = {
    "no longer, not 'no more'": r"\bno more\b(?! than\b| \w{3,}s\b)",
    "fix, not 'mend'": r"\bmend(?:s|ed|ing)?\b",
    "expensive, not 'dear'": r"\bdear(?:er|est|ly)?\b",
    "no personification": r"\bnobody's\b|\bhand(?:s|ed|ing)? in\b",
    "next to, not 'beside'": r"\bbeside\b",
    "only, not 'alone'": r"\b(?:leav\w+|left)(?: \w+){0,2} alone\b|\b(alone)\b",
    "is not a, not 'is no'": (
        r"(?<!there )\b(?:is|are|was|were|be) no\b(?! longer\b| more\b| [a-z]+er\b)"
    ),
    "per, not 'a'": (
        rf"\b(?:{COUNTED}) an? (?:{UNITS})\b(?! (?:that|which|is|of|with|has|can|was|at|to)\b)"
    ),
}


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every comment, docstring and other string that reads as a sentence."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def beginnings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, and of every argument line in one."""
    for text in docstrings(ast.parse(source)):
        assert isinstance(text.value, str)
        yield text.lineno, text.value.lstrip()
        in_section = False
        for number, line in enumerate(text.value.splitlines()):
            in_section = bool(SECTION.match(line)) or (in_section and line.startswith(" "))
            if in_section and (argument := ARGUMENT.match(line)):
                yield text.lineno + number, argument[1]


def violations(source: str) -> list[tuple[int, str, str]]:
    """Line, rule and the words at fault."""
    found = [
        (line, "a noun phrase or an imperative", text.split("\n")[0])
        for line, text in beginnings(source)
        if BEGINNINGS.match(text)
    ]
    for line, text in prose(source):
        whole = " ".join(text.split())
        for rule, pattern in WORDS.items():
            for hit in re.finditer(pattern, whole, re.IGNORECASE):
                if hit.lastindex or not hit.re.groups:
                    found.append((line, rule, whole[max(hit.start() - 30, 0) : hit.end() + 20]))
    return sorted(set(found))


def test_the_product_packages_keep_the_rules() -> None:
    found = [
        (path.relative_to(ROOT), *violation)
        for files in product_files().values()
        for path in files
        for violation in violations(path.read_text())
    ]
    folders = Counter(str(Path(path).parent) for path, *_ in found)
    listed = "\n".join(f"{path}:{line}: {rule}: {text}" for path, line, rule, text in found)
    assert len(found) <= KNOWN, f"{listed}\n{len(found)} violations: {dict(folders)}"


@pytest.mark.parametrize(
    "source",
    [
        '"""Of the runs, the last."""',
        'def f() -> None:\n    """Draw.\n\n    Args:\n        seed: That of the run.\n    """',
        'class C:\n    x: int\n    """As above."""',
        '"""Draw.\n\nAttributes:\n    rate (float): Those of the paper.\n"""',
        "x = 1  # no more than a guess, no more",
        'raise ValueError(f"{x} is no run of the sweep")',
        '"""One line a run."""',
        '"""Steps a second."""',
        '"""Kept beside the data."""',
        '"""For SLURM alone."""',
        '"""Nothing is handed in."""',
    ],
)
def test_a_violation_is_found(source: str) -> None:
    assert len(violations(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        '"""Officers of that run; there is no other, and no more than one."""',
        '"""Draw.\n\nArgs:\n    seed: Seed of the run.\n    x: Values of those runs.\n"""',
        'OPTION = "of"  # leave it alone: it is no larger, and takes no more jobs',
        '"""Seconds per step, and a file that a run writes."""',
    ],
)
def test_plain_english_passes(source: str) -> None:
    assert violations(source) == []
