"""Plug-ins of a test, loaded in this process and forgotten after it, since processes are slow."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark.errors import ObdBenchError
from benchmark.method import METHODS
from obdbench.cli.app import app


@contextmanager
def fresh_methods(*folders: Path) -> Iterator[None]:
    """A registry of methods as in a new process that finds these folders on its path."""
    modules = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for folder in folders:
            patch.syspath_prepend(folder)
        for table in ("_entries", "_origins", "_conflicts"):
            patch.setattr(METHODS, table, {})
        patch.setattr(METHODS, "_discovered", False)
        try:
            yield
        finally:
            for name in set(sys.modules) - modules:
                if any(Path(_file_of(name)).is_relative_to(folder) for folder in folders):
                    del sys.modules[name]


def _file_of(module: str) -> str:
    return getattr(sys.modules[module], "__file__", None) or ""


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command in this process."""
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, ObdBenchError):
        return 1, str(done.exception)
    return done.exit_code, done.output


def succeed(*arguments: str) -> str:
    """Output of a command that must succeed."""
    code, output = run(*arguments)
    assert code == 0, output
    return output


def outcomes(module: str, function: str) -> Counter[str]:
    """Outcomes of a parametrised test in a file on the path, case by case; a failure raises."""
    test = getattr(importlib.import_module(module), function)
    _, cases = test.pytestmark[0].args
    found: Counter[str] = Counter()
    for case in cases:
        try:
            test(case)
        except pytest.skip.Exception:
            found["skipped"] += 1
        else:
            found["passed"] += 1
    return found
