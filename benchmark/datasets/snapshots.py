"""Policy snapshots that the suite ships, from which it collects its own datasets.

A file of stacked tensors `[K, ...]` for K snapshots of one PPO training run, with a manifest next
to it (JSON): sha256, training steps, seed, returns and library versions. `train_policies` makes
both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmark.datasets.dataset import DatasetProblem, ReferenceReturns
from benchmark.errors import ObdBenchError
from benchmark.files import file_sha256

OBSERVATION_CLIP = 10.0
"""Normalised observations are clipped to this magnitude, as VecNormalize does in training."""


class BrokenSnapshots(ObdBenchError):
    """The shipped snapshots are missing or altered."""


@dataclass(frozen=True)
class SnapshotPolicies:
    """K Gaussian policies of two tanh layers on normalised observations.

    Args:
        tensors: `weight_l [K, out, in]`, `bias_l [K, out]` for l = 0, 1, 2; `log_std [K, act_dim]`;
            `observation_mean` and `observation_std` `[K, obs_dim]`.
        manifest: Facts about their training: environment, roles, reference returns.
    """

    tensors: dict[str, NDArray[np.float32]]
    manifest: dict[str, Any]

    @property
    def env_id(self) -> str:
        return str(self.manifest["environment"])

    @property
    def action_dim(self) -> int:
        return int(self.tensors["log_std"].shape[1])

    @property
    def reference(self) -> ReferenceReturns:
        measured = self.manifest["reference_returns"]
        return ReferenceReturns(measured["random"]["mean"], measured["expert"]["mean"])

    @property
    def medium(self) -> int:
        """Index of the medium policy."""
        return int(self.manifest["roles"]["medium"])

    @property
    def best(self) -> int:
        """Index of the policy with the highest return."""
        return int(self.manifest["roles"]["best"])

    @property
    def replay(self) -> list[int]:
        """Indices of the snapshots up to the medium policy, in training order."""
        return list(range(self.medium + 1))

    def act(
        self,
        policies: NDArray[np.int64],
        observations: NDArray[np.float64],
        noise: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Actions of B policies, one observation each.

        Every row is a matrix product of its own (`_products`), so that an action does not depend on
        which other rows share the batch: collection is reproducible at any batch size.

        Args:
            policies: Index of the policy that acts in each row `[B]`.
            observations: `[B, obs_dim]`.
            noise: Standard normal `[B, act_dim]` for sampled actions; None for the mean.

        Returns:
            Actions `[B, act_dim]` clipped to [-1, 1], as in training.
        """
        t = self.tensors
        hidden = (observations.astype(np.float32) - t["observation_mean"][policies]) / t[
            "observation_std"
        ][policies]
        hidden = hidden.clip(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        for layer in range(3):
            hidden = (
                _products(t[f"weight_{layer}"][policies], hidden) + t[f"bias_{layer}"][policies]
            )
            if layer < 2:
                hidden = np.tanh(hidden)
        if noise is not None:
            hidden = hidden + np.exp(t["log_std"][policies]) * noise
        return hidden.clip(-1.0, 1.0)


def _products(matrices: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """One matrix times one vector in each row, to the same bits with AVX2 and with AVX-512.

    numpy's own products of the two differ in what four columns at a time leave over, so that data
    collected on one processor were not those of another. What is left over is therefore added here,
    in the order of AVX-512, with which the data of the shipped records were collected.

    Args:
        matrices: `[B, out, in]`.
        vectors: `[B, in]`.

    Returns:
        `[B, out]`.
    """
    whole = matrices.shape[2] // 4 * 4
    sums: NDArray[np.float32] = np.matmul(matrices[:, :, :whole], vectors[:, :whole, None])[:, :, 0]
    left = [(matrices[:, :, k], vectors[:, k, None]) for k in range(whole, matrices.shape[2])]
    if len(left) == 1:
        return _fused(*left[0], sums)
    if left:
        rest = _fused(*left[0], left[1][0] * left[1][1])
        sums = sums + (_fused(*left[2], rest) if len(left) == 3 else rest)
    return sums


def _fused(
    left: NDArray[np.float32], right: NDArray[np.float32], addend: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`left * right + addend` in float32, rounded once, as processors do in one instruction.

    In float64 the product is exact, and the sum is rounded to odd, so that rounding it to float32
    is as if it had been exact too (Boldo and Melquiond, "Emulation of FMA and correctly rounded
    sums", 2008).
    """
    product = left.astype(np.float64) * right
    total = product + addend
    of_addend = total - product
    error = (product - (total - of_addend)) + (addend - of_addend)
    even = total.view(np.int64) % 2 == 0
    odd = np.nextafter(total, np.copysign(np.inf, error))
    return np.where(even & (error != 0), odd, total).astype(np.float32)


def load_snapshots(environment: str, folder: Path | None = None) -> SnapshotPolicies:
    """Load the snapshots of one environment family, e.g. `hopper`.

    Args:
        environment: Name of the family.
        folder: Folder of the two files; None for the shipped ones.

    Raises:
        BrokenSnapshots: A file is missing, or its sha256 is not the manifest's.
    """
    folder = folder or Path(str(resources.files("benchmark.datasets") / "shipped"))
    tensors, manifest_path = folder / f"{environment}.safetensors", folder / f"{environment}.json"
    for path in (tensors, manifest_path):
        if not path.is_file():
            raise BrokenSnapshots(
                f"{path} is missing: no policy snapshots of {environment!r} are installed. "
                f"Reinstall obdbench, or make them with `obdbench data train-policies`."
            )
    manifest = json.loads(manifest_path.read_text("utf-8"))
    found = file_sha256(tensors)
    if found != manifest["sha256"]:
        raise BrokenSnapshots(
            f"{tensors} has sha256 {found}, its manifest says {manifest['sha256']}: the file was "
            f"altered. Reinstall obdbench."
        )
    return SnapshotPolicies(load_file(tensors), manifest)


def suite_reference(env_id: str) -> ReferenceReturns:
    """Returns of the random policy and of the best snapshot that the suite ships.

    They serve data that come without reference returns.

    Raises:
        DatasetProblem: The suite ships no policies of that environment, version included.
    """
    measured = {}
    for entry in (resources.files("benchmark.datasets") / "shipped").iterdir():
        if entry.name.endswith(".json"):
            policies = SnapshotPolicies({}, json.loads(entry.read_text("utf-8")))
            measured[policies.env_id] = policies.reference
    if env_id not in measured:
        raise DatasetProblem(
            f"There are no reference returns for {env_id}: the data bring none, and the suite only "
            f"has its own for {', '.join(sorted(measured))}. Give `obdbench data fetch` (or "
            f"import) both --reference-random and --reference-expert, or --measure-references."
        )
    return measured[env_id]
