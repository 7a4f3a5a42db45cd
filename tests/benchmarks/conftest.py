"""Prints the ratios that the benchmarks measured, after pytest-benchmark's own tables."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """One line a figure: what was measured side by side in this run."""
    session = getattr(config, "_benchmarksession", None)
    measured = [b for b in getattr(session, "benchmarks", []) if b.extra_info]
    if not measured:
        return
    terminalreporter.section("side by side in this run")
    for benchmark in measured:
        for name, value in benchmark.extra_info.items():
            shown = f"{value:.3g}" if isinstance(value, float) else value
            terminalreporter.write_line(f"{benchmark.name}: {name} = {shown}")
