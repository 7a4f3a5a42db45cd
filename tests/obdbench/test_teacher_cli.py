"""`obdbench teacher` and `obdbench data describe` as a user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark.errors import ObdBenchError
from benchmark.teachers.teacher import NetworkTeacher
from obdbench.cli.app import app

TINY = ["--steps", "6", "--set", "width=4", "--set", "batch_size=4", "--set", "report_every=3"]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, ObdBenchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("recipe", ["td3_bc", "iql", "cal_ql", "cal_ql_corl"])
def test_a_trained_teacher_is_listed_and_evaluated(
    recipe: str, small_dataset_name: str, cache: Path
) -> None:
    invoke(*("teacher", "train", small_dataset_name, "--recipe", recipe, "--episodes", "2", *TINY))
    listed = invoke("teacher", "list")
    assert "local" in listed
    assert recipe in listed
    assert not list(cache.rglob("*.state"))
    shown = invoke("teacher", "eval", small_dataset_name, "--recipe", recipe, "--episodes", "2")
    assert "normalized return" in shown
    assert "over 2 episodes" in shown


def test_another_seed_is_another_teacher(small_dataset_name: str, cache: Path) -> None:
    invoke(
        *("teacher", "train", small_dataset_name, "--seed", "1", "--episodes", "1", *TINY),
        *("--recipe", "iql"),
    )
    assert "over 1 episodes" in invoke(
        *("teacher", "eval", small_dataset_name, "--recipe", "iql:1", "--episodes", "1")
    )
    with pytest.raises(ObdBenchError, match="no iql teacher"):
        invoke("teacher", "eval", small_dataset_name, "--recipe", "iql")


def test_all_teachers_are_evaluated_beside_their_data(
    small_dataset_name: str, tiny_teacher: NetworkTeacher
) -> None:
    shown = invoke("teacher", "eval", "--all", "--episodes", "2")
    row = next(line for line in shown.splitlines() if small_dataset_name in line)
    assert "td3_bc" in row


def test_one_dataset_or_all() -> None:
    with pytest.raises(ObdBenchError, match="--all"):
        invoke("teacher", "eval")
    with pytest.raises(ObdBenchError, match="--all"):
        invoke("data", "describe")


def test_an_unknown_setting_is_named(small_dataset_name: str, cache: Path) -> None:
    with pytest.raises(ObdBenchError, match="learning_rate"):
        invoke("teacher", "train", small_dataset_name, "--set", "learning_rat=1")


def test_describe_draws_and_tabulates(small_dataset_name: str, tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    shown = invoke(
        *("data", "describe", small_dataset_name, "--folder", str(tmp_path)),
        *("--table", str(table)),
    )
    assert small_dataset_name in shown
    assert (tmp_path / "hopper-medium-expert@2000.png").stat().st_size > 10_000
    assert table.read_text().startswith("| dataset")
    with pytest.raises(ObdBenchError, match=r"none of \.md"):
        invoke("data", "describe", small_dataset_name, "--table", "x.html")
