"""Profiles: what is read, what is refused, and where they are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baselines.matching import Matching
from baselines.outer_loop import OBD
from baselines.progressive_obd import ProgressiveAvPBC
from baselines.truncated_obd import TruncatedAvPBC
from benchmark.config import BadConfiguration
from benchmark.method import METHODS
from benchmark.registry import UnknownName
from slurm.profile import JobShape, build_profile, find_profile, read_profile

FULL = """
partition = "gpu"
account = "my_group"
qos = "long"
constraint = "a100"
gpus = 1
cpus = 4
memory = "16G"
time = "1-02:30:00"
grace = 90
pack = 16
device = "cuda"
parallelism = 50
requeues = 7
setup = ["module load cuda"]
environment = { OBDBENCH_CACHE = "/scratch/me" }
sbatch = { reservation = "course" }

[methods.random]
gpus = 0
device = "cpu"
time = "0:30"
"""


def test_a_profile_says_what_jobs_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FULL)
    profile = read_profile(path)
    assert (profile.name, profile.parallelism, profile.requeues) == ("mine", 50, 7)
    shape = profile.of("av_pbc")
    assert (shape.partition, shape.gpus, shape.memory, shape.pack) == ("gpu", 1, "16G", 16)
    assert shape.minutes == 26 * 60 + 30
    assert "reservation course" in str(shape)
    other = profile.of("random")
    assert (other.gpus, other.device, other.minutes) == (0, "cpu", 30)
    assert (other.partition, other.setup) == (shape.partition, shape.setup)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partiton": "gpu"}, r"Unknown key 'partiton' in here. Did you mean 'partition'\?"),
        ({"cpus": "four"}, r"cpus in here is 'four' \(str\); expected int"),
        ({"cpus": 0}, "cpus is 0; expected 1 or more; in here"),
        ({"memory": "16 gigabytes"}, "memory is '16 gigabytes'; expected a size"),
        ({"time": "4 hours"}, "time is '4 hours'; expected"),
        ({"time": "0:02:00", "grace": 100}, "too short for a grace of 100 s: expected 160 s"),
        ({"device": "cuda"}, "device is 'cuda', but gpus is 0"),
        (
            {"setup": "module load cuda"},
            "setup in here is 'module load cuda' .str.; expected a list",
        ),
        ({"environment": ["A=1"]}, "expected a table"),
        ({"environment": {"A; rm -rf": 1}}, "expected names of variables"),
        ({"parallelism": 0}, "parallelism in here is 0; expected 1 or more"),
        ({"requeues": True}, "requeues in here is True"),
        ({"methods": ["random"]}, "must hold tables"),
        ({"methods": {"random": {"gpu": 1}}}, r"Unknown key 'gpu' in \[methods.random\] of here"),
    ],
)
def test_what_a_profile_cannot_mean_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfiguration, match=message):
        build_profile(values, "p", "here")


def test_a_method_that_does_not_exist_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'random'"):
        build_profile({"methods": {"randm": {}}}, "p", "here")


@pytest.mark.parametrize(
    ("time", "minutes"), [("4:00:00", 240), ("0:30", 30), ("0:01:30", 2), ("2-00:00:00", 2880)]
)
def test_time_limits_are_minutes_rounded_up(time: str, minutes: int) -> None:
    assert JobShape(time=time, grace=1).minutes == minutes


def test_profiles_are_found_by_name_nearest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configured = tmp_path / "configured"
    monkeypatch.setenv("OBDBENCH_PROFILES", str(configured))
    assert {find_profile(name).name for name in ("cpu", "gpu", "preemptible")} == {
        "cpu",
        "gpu",
        "preemptible",
    }
    for folder, cpus in ((configured, 2), (tmp_path / "profiles", 3)):
        folder.mkdir()
        (folder / "cpu.toml").write_text(f"cpus = {cpus}\n")
        assert find_profile("cpu").shape.cpus == cpus
    with pytest.raises(BadConfiguration, match=r"called 'cpuu'.*Did you mean 'cpu' or 'gpu'"):
        find_profile("cpuu")
    with pytest.raises(BadConfiguration, match="cannot be read"):
        find_profile("absent.toml")
    for text in ("cpus =", f"cpus = {'9' * 5000}"):
        (tmp_path / "torn.toml").write_text(text)
        with pytest.raises(BadConfiguration, match="not TOML"):
            find_profile("torn.toml")


@pytest.mark.parametrize("name", list(METHODS))
def test_the_gpu_profile_asks_for_a_gpu_only_where_a_method_uses_it(name: str) -> None:
    method = METHODS[name] if isinstance(METHODS[name], type) else type(METHODS[name])
    uses = issubclass(method, OBD | Matching) and not issubclass(
        method, ProgressiveAvPBC | TruncatedAvPBC
    )
    shape = find_profile("gpu").of(name)
    assert (shape.device, shape.gpus) == (("cuda", 1) if uses else ("cpu", 0))
