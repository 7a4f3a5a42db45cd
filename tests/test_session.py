"""The session that every test runs in, also where pytest-xdist spreads it over processes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch


def test_a_warning_is_an_error() -> None:
    with pytest.raises(UserWarning, match="of a test"):
        warnings.warn("of a test", stacklevel=1)


def test_this_process_and_those_it_starts_have_one_thread() -> None:
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_folders_belong_to_this_process_only(session_folders: Path) -> None:
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        assert any(worker in part for part in session_folders.parts)
    for name in ("MINARI_DATASETS_PATH", "OBDBENCH_CACHE"):
        assert Path(os.environ[name]).is_relative_to(session_folders)
