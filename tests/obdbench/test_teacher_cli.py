"""`obdbench teacher` and `obdbench data describe` as a user meets them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file
from typer.testing import CliRunner

from benchmark.config import BadConfiguration
from benchmark.datasets.catalog import load_dataset, write_dataset
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.errors import ObdBenchError
from benchmark.files import file_sha256
from benchmark.registry import Registry
from benchmark.teachers.td3_bc import TD3BC
from benchmark.teachers.teacher import NetworkTeacher, TeacherProblem, TeacherRecipe
from benchmark.teachers.teacher_files import cached_path, imported_path, load_teacher
from obdbench.cli.app import app
from obdbench.cli.teacher import train_teacher
from results.author_files import PublishedFile

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
    (file,) = cache.rglob("*.safetensors")
    before = file.read_bytes()
    with pytest.raises(ObdBenchError, match="exists already, and nothing was done"):
        invoke("teacher", "train", small_dataset_name, "--recipe", recipe, "--steps", "1")
    assert file.read_bytes() == before
    shown = invoke("teacher", "eval", small_dataset_name, "--recipe", recipe, "--episodes", "2")
    assert "normalized return" in shown
    assert "over 2 episodes" in shown


def test_a_training_waits_for_another_of_its_name_and_does_not_replace_it(
    small_dataset_name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cached_path(load_dataset(DatasetName.parse(small_dataset_name)), "iql")
    path.parent.mkdir()
    other = FileLock(path.with_suffix(".lock"))
    said = []

    def end_the_other(text: str) -> None:
        said.append(text)
        path.write_text("theirs")
        other.release()

    monkeypatch.setattr("obdbench.cli.teacher.err.print", end_the_other)
    other.acquire()
    with pytest.raises(BadConfiguration, match="exists already, and nothing was done"):
        train_teacher(small_dataset_name, "iql", 0, {"steps": 2, "width": 4, "batch_size": 4})
    assert said == [f"Another process trains {path}; waiting until it ends."]
    assert path.read_text() == "theirs"


def test_an_import_replaces_an_earlier_one_only_with_force(cache: Path, tmp_path: Path) -> None:
    words = ("teacher", "import", str(tmp_path / "none.pt"), "--dataset", "d4rl/hopper-medium-v2")
    path = imported_path("d4rl/hopper-medium-v2")
    path.parent.mkdir()
    path.write_text("the earlier one")
    with pytest.raises(ObdBenchError, match="Give --force to replace it, or --target"):
        invoke(*words)
    with pytest.raises(ObdBenchError, match=r"none\.pt"):  # it is read now
        invoke(*words, "--force")
    assert path.read_text() == "the earlier one"


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


def test_a_malformed_teacher_is_a_row_and_no_end(cache: Path) -> None:
    folder = cache / "teachers"
    folder.mkdir()
    card = json.dumps({"format": "obdbench.teacher/1"})
    save_file({"x": torch.zeros(1)}, folder / "a.iql.seed0.safetensors", {"teacher": card})
    listed = invoke("teacher", "list")
    assert "hopper/medium-replay" in listed
    assert "broken:" in listed


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


def test_steps_are_given_once(small_dataset_name: str, cache: Path) -> None:
    with pytest.raises(BadConfiguration, match="--steps is 6, and --set steps 5"):
        invoke("teacher", "train", small_dataset_name, *TINY, "--set", "steps=5")


@pytest.mark.parametrize("ending", [".state", ".lock"])
def test_no_teacher_is_removed_as_the_state_of_its_training(
    ending: str, small_dataset_name: str, cache: Path
) -> None:
    target = ("--target", str(cache / f"mine{ending}"))
    with pytest.raises(BadConfiguration, match=f"ends in {ending}.*such as .*mine.safetensors"):
        invoke("teacher", "train", small_dataset_name, "--episodes", "1", *TINY, *target)


def test_a_recipe_of_others_need_not_count_steps(
    small_dataset_name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Own(TeacherRecipe):
        """A recipe without steps."""

        def train(self, dataset: Dataset, seed: int, **_: Any) -> NetworkTeacher:
            return TD3BC(steps=2, width=4, batch_size=4).train(dataset, seed)

    registry = Registry("teacher recipe", "none", TeacherRecipe)  # type: ignore[type-abstract]
    registry.register("own", Own)
    monkeypatch.setattr("obdbench.cli.teacher.TEACHERS", registry)
    train_teacher(small_dataset_name, "own", 0, {}, episodes=1, target=cache / "own.safetensors")
    assert load_teacher(cache / "own.safetensors").facts["evaluation"]["episodes"] == 1


def test_an_unknown_setting_is_named(small_dataset_name: str, cache: Path) -> None:
    with pytest.raises(ObdBenchError, match="learning_rate"):
        invoke("teacher", "train", small_dataset_name, "--set", "learning_rat=1")


def write_checkpoint(path: Path) -> None:
    """Save a checkpoint for Hopper in float64, as DataParallel names its weights."""

    def network(inputs: int, outputs: int, name: str) -> dict[str, torch.Tensor]:
        shapes = {"0.weight": (4, inputs), "0.bias": (4,), "2.weight": (outputs, 4)}
        return {
            f"module.{name}.{key}": torch.zeros(shape, dtype=torch.float64)
            for key, shape in {**shapes, "2.bias": (outputs,)}.items()
        }

    constants = {f"log_std_{name}.constant": torch.zeros(()) for name in ("multiplier", "offset")}
    critics = {f"critic{index}": network(14, 1, "network") for index in (1, 2)}
    torch.save({"actor": network(11, 6, "base_network") | constants, **critics}, path)


def import_checkpoint(path: Path, dataset: str) -> str:
    return invoke("teacher", "import", str(path), "--dataset", dataset, "--episodes", "1")


def test_an_import_says_what_it_converted(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "parallel.pt"
    write_checkpoint(path)
    said = import_checkpoint(path, "d4rl/hopper-medium-v2")
    assert (
        f"{path}: 'module' removed from a name (12 times), torch.float64 converted to "
        f"torch.float32 (12 times)."
    ) in said


def test_a_checkpoint_that_no_author_published_is_imported_with_a_word(
    tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "own.pt"
    write_checkpoint(path)
    said = import_checkpoint(path, "d4rl/hopper-medium-v2")
    assert "is none of the checkpoints that the papers' authors published" in said
    facts = load_teacher(imported_path("d4rl/hopper-medium-v2")).facts
    assert facts["checkpoint_sha256"] == file_sha256(path)


def test_the_authors_checkpoint_of_another_dataset_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, right = tmp_path / "published.pt", "d4rl/hopper-medium-v2"
    write_checkpoint(path)
    file = PublishedFile("obd/hopper-medium-v2", right, "policy", None, file_sha256(path))
    monkeypatch.setattr("results.author_files.published_files", lambda: {file.name: file})
    with pytest.raises(
        TeacherProblem, match=f"published for {right}, not for d4rl/hopper-medium-e"
    ):
        import_checkpoint(path, "d4rl/hopper-medium-expert-v2")
    assert not list(cache.rglob("*.safetensors"))
    assert "none of the checkpoints" not in import_checkpoint(path, right)


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


def test_two_datasets_never_share_a_picture(small_dataset: Dataset, tmp_path: Path) -> None:
    names = ["local/two/parts", "local/two-parts"]
    for name in names:
        mine = dataclasses.replace(small_dataset, name=name)
        write_dataset(DatasetName.parse(name), mine, seed=None, description="twice the same")
    invoke("data", "describe", *names, "--folder", str(tmp_path / "pictures"))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
