"""The policies that data is collected from are those that were shipped."""

from __future__ import annotations

import json
import platform
import shutil
from fractions import Fraction
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.datasets.catalog import build_dataset
from benchmark.datasets.snapshots import (
    BrokenSnapshots,
    SnapshotPolicies,
    _fused,
    load_snapshots,
)
from benchmark.datasets.source import DatasetName


@pytest.fixture(scope="module")
def policies() -> SnapshotPolicies:
    return load_snapshots("hopper")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what is shipped that the test may break."""
    shipped = Path(str(resources.files("benchmark.datasets") / "shipped"))
    return Path(shutil.copytree(shipped, tmp_path / "shipped"))


def test_shipped_snapshots_are_what_their_manifest_says(policies: SnapshotPolicies) -> None:
    count = len(policies.manifest["snapshots"])

    assert policies.env_id == "Hopper-v5"
    assert all(len(tensor) == count for tensor in policies.tensors.values())
    assert 0 <= policies.medium < policies.best < count
    assert policies.replay == list(range(policies.medium + 1))
    assert policies.reference.random < policies.reference.expert
    steps = [snapshot["steps"] for snapshot in policies.manifest["snapshots"]]
    assert steps == sorted(steps)


def test_copy_loads_like_the_original(folder: Path, policies: SnapshotPolicies) -> None:
    copy = load_snapshots("hopper", folder)

    assert copy.manifest == policies.manifest
    assert all(np.array_equal(copy.tensors[name], t) for name, t in policies.tensors.items())


def test_altered_file_is_refused(folder: Path) -> None:
    path = folder / "hopper.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    expected = json.loads((folder / "hopper.json").read_text())["sha256"]

    with pytest.raises(BrokenSnapshots) as error:
        load_snapshots("hopper", folder)

    for part in (str(path), expected, "altered", "Reinstall obdbench"):
        assert part in str(error.value)


def test_altered_manifest_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "hopper.json").read_text())
    (folder / "hopper.json").write_text(json.dumps(manifest | {"sha256": "0" * 64}))

    with pytest.raises(BrokenSnapshots, match="its manifest says 0000"):
        load_snapshots("hopper", folder)


@pytest.mark.parametrize("ending", ["safetensors", "json"])
def test_missing_file_is_named_with_what_to_do(folder: Path, ending: str) -> None:
    (folder / f"hopper.{ending}").unlink()

    with pytest.raises(BrokenSnapshots) as error:
        load_snapshots("hopper", folder)
    assert f"hopper.{ending} is missing" in str(error.value)
    assert "obdbench data train-policies" in str(error.value)


def test_environment_without_snapshots_is_named() -> None:
    with pytest.raises(BrokenSnapshots, match="no policy snapshots of 'ant'"):
        load_snapshots("ant")


def test_actions_are_those_of_the_network_in_torch(policies: SnapshotPolicies) -> None:
    generator = np.random.default_rng(0)
    observations = 3 * generator.standard_normal((40, 11))
    observations[:5] *= 1000  # beyond the clip of normalised observations
    snapshots = generator.integers(0, 20, 40)
    noise = generator.standard_normal((40, 3), dtype=np.float32)
    t = {name: torch.from_numpy(tensor).double() for name, tensor in policies.tensors.items()}

    expected = []
    for observation, k, epsilon in zip(
        torch.from_numpy(observations), snapshots, noise, strict=True
    ):
        hidden = (observation - t["observation_mean"][k]) / t["observation_std"][k]
        hidden = hidden.clamp(-10, 10)
        for layer in (0, 1):
            hidden = torch.tanh(t[f"weight_{layer}"][k] @ hidden + t[f"bias_{layer}"][k])
        mean = t["weight_2"][k] @ hidden + t["bias_2"][k]
        expected.append((mean, mean + t["log_std"][k].exp() * torch.from_numpy(epsilon)))

    for index, given in ((0, None), (1, noise)):
        actions = policies.act(snapshots, observations, given)
        wanted = torch.stack([pair[index] for pair in expected]).clamp(-1, 1).numpy()
        assert actions.dtype == np.float32
        np.testing.assert_allclose(actions, wanted, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_action_does_not_depend_on_its_neighbours_to_the_last_bit(
    policies: SnapshotPolicies, rows: int
) -> None:
    generator = np.random.default_rng(1)
    observations = generator.standard_normal((64, 11))
    snapshots = generator.integers(0, 20, 64)
    noise = generator.standard_normal((64, 3), dtype=np.float32)

    together = policies.act(snapshots, observations, noise)
    apart = [
        policies.act(snapshots[i : i + rows], observations[i : i + rows], noise[i : i + rows])
        for i in range(0, 64, rows)
    ]
    np.testing.assert_array_equal(together, np.concatenate(apart))


def test_a_fused_product_is_rounded_once() -> None:
    left, right, addend = np.random.default_rng(2).standard_normal((3, 2000)).astype(np.float32)
    # Just below the middle of two float32: float64 rounds to the middle, and that to the wrong one.
    shift = np.float32(2) ** -np.arange(16, 23, dtype=np.float32)
    left[:7], right[:7] = (1 + shift) / 4096, (1 - shift) / 4096
    addend[:7] = 1 + np.float32(2**-23)

    fused = _fused(left, right, addend)
    for a, b, c, rounded in zip(left, right, addend, fused, strict=True):
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        errors = [
            abs(Fraction(float(np.nextafter(rounded, np.float32(side)))) - exact)
            for side in (-np.inf, np.inf)
        ]
        assert abs(Fraction(float(rounded)) - exact) <= min(errors)
    twice = (left.astype(np.float64) * right + addend).astype(np.float32)
    assert (fused != twice).sum() >= 5


@pytest.mark.parametrize(
    ("name", "sha256"),
    [  # the first is of shipped records, all three of OpenBLAS's own kernel for AVX-512
        ("hopper/medium@20000", "024bc0f1a91ed1f9"),
        ("walker2d/medium@4000", "d449084c99e27791"),
        ("halfcheetah/medium@4000", "531c5133dcd7cbce"),
    ],
)
def test_the_same_data_with_avx2_as_with_avx512(name: str, sha256: str) -> None:
    if platform.machine() != "x86_64" or "fma" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("data are promised to be equal on x86-64 processors with FMA only")

    assert build_dataset(DatasetName.parse(name)).sha256.startswith(sha256)
