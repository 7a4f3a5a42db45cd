"""The command line in this process, and a sweep of two runs for it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from obdbench.cli import main

SWEEP = """
name = "tiny"
datasets = ["{dataset}"]
seeds = 2

[protocol]
name = "tiny"
students = 2
episodes = 2
checkpoint_every = 2
last = 2

[student]
width = 8
depth = 2
steps = 4

[[methods]]
name = "random"
synthetic_size = 4
"""


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `obdbench ...` in this process, errors and all."""

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["obdbench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def sweep_file(tmp_path: Path, small_dataset_name: str) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(SWEEP.format(dataset=small_dataset_name))
    return path
