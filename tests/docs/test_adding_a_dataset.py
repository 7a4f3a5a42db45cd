"""The walk in docs/adding_a_dataset.md, as written: its code blocks are what runs here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.datasets.catalog import build_dataset
from benchmark.datasets.source import DATASETS, DatasetName
from benchmark.environments.rollout import rollout
from benchmark.registry import load_plugin
from benchmark.spec import RunSpec
from benchmark.teachers.td3_bc import TD3BC
from benchmark.teachers.teacher_files import cached_path, save_teacher
from tests.plugins import succeed
from tests.tiny_runs import PROTOCOL, STUDENT, execute

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_dataset.md"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Each python block of the page as the file that its first line names."""
    folder = tmp_path_factory.mktemp("page")
    files = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        name = re.match(r"# (\S+\.py)\n", code)
        assert name is not None
        files[name[1]] = folder / name[1]
        files[name[1]].write_text(code)
    load_plugin(files["pendulum.py"])
    yield files


def test_pendulum_is_collected_and_swings_up(blocks: dict[str, Path]) -> None:
    dataset = build_dataset(DatasetName.parse("pendulum/mixed@4000"))
    assert dataset.action_dim == 1
    assert np.abs(dataset.actions).max() == 2.0
    assert dataset.reference.normalise(dataset.episode_returns.max()) > 90


def test_pendulums_reference_is_what_random_actions_earn(blocks: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    found = rollout(
        "Pendulum-v1",
        lambda observations: rng.uniform(-2, 2, (*observations.shape[:2], 1)).astype(np.float32),
        policies=1,
        episodes=60,
        seeds=list(range(60)),
    ).returns
    source = DATASETS["pendulum/mixed"]
    assert abs(found.mean() - source.reference.random) < 4 * found.std() / 60**0.5  # type: ignore[attr-defined]


def test_the_commands_of_the_walk_lead_from_data_to_a_score(
    blocks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command finds what the one before it made; only sizes and steps are smaller here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path / "cache"))
    settings = ("synthetic_size=4", "outer_steps=2", "outer_batch=8", "student.width=8")
    small = {
        "data build": [],
        "data describe": [],
        "teacher train": ["--set", "width=8", "--set", "batch_size=16", "--episodes", "2"],
        "run pbc": [word for setting in settings for word in ("--set", setting)],
    }
    block = re.search(r"```\n(obdbench --plugin pendulum.py .*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    lines = block[1].replace("20000", "1000").replace("--steps 1000", "--steps 20").splitlines()
    assert len(lines) == len(small)
    for line, (start, options) in zip(lines, small.items(), strict=True):
        assert line.startswith(f"obdbench --plugin pendulum.py {start} pendulum/mixed")
        words = line.replace("pendulum.py", str(blocks["pendulum.py"])).split()[1:]
        printed = succeed(*words, *options)
    assert re.search(r"pbc\.\w+\.seed0: normalized return -?\d+\.\d\d$", printed.strip())


@pytest.mark.parametrize("name", ["pendulum/mixed@1000", "cartpole/mixed@1000"])
@pytest.mark.parametrize("method", ["random", "bc_whole", "av_pbc", "teacher"])
def test_every_kind_of_method_runs_on_it(
    blocks: dict[str, Path], name: str, method: str, tmp_path: Path
) -> None:
    """An action of another range, and discrete actions, from data to score."""
    dataset = build_dataset(DatasetName.parse(name))
    path = cached_path(dataset, "td3_bc")
    if not path.exists():
        save_teacher(TD3BC(steps=20, width=8, batch_size=16).train(dataset, 0), path)
    small = {
        "random": {"synthetic_size": 4},
        "bc_whole": {"steps": 20, "batch_size": 16},
        "av_pbc": {"synthetic_size": 4, "outer_steps": 2, "outer_batch": 8},
        "teacher": {},
    }
    spec = RunSpec.create(
        method=method,
        dataset=name,
        parameters=small[method],
        where="test",
        student=STUDENT,
        protocol=PROTOCOL,
    )
    record = execute(spec, tmp_path / "runs")
    assert record.status == "complete", record.error
    assert np.isfinite(record.score.normalized_return)


def test_cloning_the_whole_of_cartpole_balances_it(tmp_path: Path) -> None:
    """End to end with discrete actions: far better than random, which is 0."""
    spec = RunSpec.create(
        method="bc_whole",
        dataset="cartpole/mixed@5000",
        parameters={"steps": 400, "batch_size": 64},
        where="test",
        student=STUDENT.__class__(width=32, depth=3, steps=50),
        protocol=PROTOCOL,
    )
    build_dataset(DatasetName.parse(spec.dataset))
    torch.manual_seed(0)
    record = execute(spec, tmp_path / "runs")
    assert record.score.normalized_return > 60


def test_snapshots_of_a_folder_make_the_three_mixtures(
    blocks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second block, with Hopper's shipped snapshots in the place of Ant's."""
    from benchmark.datasets import snapshots

    shipped = Path(snapshots.__file__).parent / "shipped"
    folder = tmp_path / "ant"
    folder.mkdir()
    for ending in ("safetensors", "json"):
        (folder / f"ant.{ending}").write_bytes((shipped / f"hopper.{ending}").read_bytes())
    monkeypatch.chdir(tmp_path)
    load_plugin(blocks["ant.py"])
    for quality in ("medium-replay", "medium", "medium-expert"):
        assert len(DATASETS[f"ant/{quality}"].build("x", 100, 0, 1, None)) == 100
