"""Names of devices: what they stand for, and the precision of products that they set."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmark.errors import ObdBenchError
from benchmark.local import default_jobs
from benchmark.packing import default_pack
from benchmark.provenance import _git, checked_device, kind_of, products_of, provenance
from benchmark.run import Conditions
from slurm.profile import JobShape


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA {device}")


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_tf32_is_no_part_of_torchs_device_and_part_of_the_record(name: str, one_gpu: None) -> None:
    assert checked_device(f"{name}+tf32") == checked_device(name) == torch.device(name)
    assert provenance(f"{name}+tf32")["device"] == f"{name}+tf32 (NVIDIA {name})"
    assert provenance(name)["device"] == f"{name} (NVIDIA {name})"


@pytest.mark.parametrize("name", ["cpu+tf32", "cuda+tf16", "cuda+tf32+tf32", "+tf32"])
def test_a_precision_that_a_device_has_not_is_refused(name: str, one_gpu: None) -> None:
    with pytest.raises(ObdBenchError, match=r"expected 'cpu' or 'cuda'"):
        checked_device(name)


@pytest.mark.parametrize("before", [False, True])
def test_the_name_alone_decides_the_precision_of_products(before: bool) -> None:
    """Whatever torch was set to, and it is so again afterwards."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = before
    try:
        for name, expected in (("cuda", "ieee"), ("cuda+tf32", "tf32"), ("cpu", "ieee")):
            with products_of(name):
                assert matmul.fp32_precision == expected
            assert matmul.fp32_precision == ("tf32" if before else "ieee")
    finally:
        matmul.allow_tf32 = False


def test_runs_are_done_in_the_precision_of_their_device(one_gpu: None, tmp_path: Path) -> None:
    with Conditions(tmp_path, device="cuda+tf32").applied():
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("cpu (x86_64)", "cpu"),
        ("cuda:1 (NVIDIA H200)", "cuda"),
        ("cuda:1+tf32 (NVIDIA H200)", "cuda+tf32"),
        ("cuda", "cuda"),
    ],
)
def test_the_speed_of_a_device_is_that_of_its_kind(device: str, kind: str) -> None:
    assert kind_of(device) == kind


def test_the_default_pack_is_the_devices(tmp_path: Path) -> None:
    assert (default_pack("cpu"), default_pack("cuda:1")) == (8, 128)
    assert JobShape(device="cuda", gpus=1).largest_pack == 128
    assert (JobShape().largest_pack, JobShape(pack=3).largest_pack) == (8, 3)
    for given, expected in (({}, 8), ({"device": "cuda"}, 128), ({"device": "cuda", "pack": 3}, 3)):
        conditions = Conditions(tmp_path, **given)
        assert conditions.largest_pack == expected
        assert Conditions.from_dict(conditions.as_dict()).largest_pack == expected


def test_one_process_has_a_gpus_memory_where_no_number_is_asked_for() -> None:
    assert (default_jobs("cpu"), default_jobs("cuda"), default_jobs("cuda+tf32")) == (
        os.cpu_count(), 1, 1,
    )  # fmt: skip


def test_looking_at_the_checkout_locks_nothing(tmp_path: Path) -> None:
    """`git status` writes a lock to refresh its index; one that is killed there would leave it."""

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    git("init", "-q")
    (tmp_path / "file").write_text("text")
    git("add", "file")
    git("commit", "-q", "-m", "one file")
    index = tmp_path / ".git" / "index"
    os.utime(tmp_path / "file", (1, 1))  # what git knows of the file is out of date
    before = index.read_bytes()
    assert _git(tmp_path, "status", "--porcelain") == ""
    assert index.read_bytes() == before
    git("status", "--porcelain")
    assert index.read_bytes() != before  # as it would have been
