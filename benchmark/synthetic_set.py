"""Synthetic sets, the results of distillation, and their files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.config import build
from benchmark.environments.lookup import check_stored_id
from benchmark.errors import ObdBenchError
from benchmark.files import atomic_path, file_sha256
from benchmark.scaling import Scaling
from benchmark.students.spec import StudentSpec

FORMAT = "obdbench.synthetic-set/1"
WEIGHTED_FORMAT = "obdbench.synthetic-set/2"
"""The format of sets with weights: versions that know no weights must not train without them."""
RATE = "learning_rate"
"""Name of the tensor of a learned rate; a file that has it holds the set's own scaling."""


class BadSyntheticSet(ObdBenchError):
    """A synthetic set of the wrong shape, type or content."""


class NotFinite(BadSyntheticSet):
    """Values of a set, or of what it is made by, that are not finite, or no longer move."""


def require_finite(what: str, values: Tensor) -> None:
    """Raise NotFinite with the number of values that are not finite."""
    finite = values.isfinite()
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise NotFinite(f"{what}: {count} of {values.numel()} values are not finite.")


@dataclass(frozen=True)
class LearnedTraining:
    """The units and the rate of its students' training that a method learned along with a set.

    Args:
        scaling: Units that students learn in, in place of those of the dataset.
        learning_rate: Learning rate of students whose spec has `schedule = "learned"`; others keep
            their own.
    """

    scaling: Scaling = field(repr=False)
    learning_rate: float

    def __post_init__(self) -> None:
        if not (isinstance(self.learning_rate, float) and 0 < self.learning_rate < math.inf):
            raise BadSyntheticSet(
                f"The learning rate that a synthetic set carries is {self.learning_rate}; expected "
                f"one finite float above 0."
            )
        for name, values in self.scaling.tensors().items():
            require_finite(f"The {name} that a synthetic set carries", values)
        if not bool((self.scaling.std > 0).all()):
            raise BadSyntheticSet(
                f"The observation_std that a synthetic set carries is down to "
                f"{float(self.scaling.std.min()):.4g}; expected above 0."
            )


@dataclass(frozen=True)
class SyntheticSet:
    """N pairs to clone, in the environment's own units.

    Args:
        observations: Raw (not normalised) observations `[N, obs_dim]` float32.
        actions: Actions `[N, act_dim]` float32.
        stages: Stage `[N]` int64, from 0, at which each pair joins the training, for a set that is
            learned in sequence; K stages share the gradient steps equally. None trains on all
            pairs from the first step.
        weights: Weights `[N]` float32 of the pairs' losses, 0 or more; students descend
            sum w_i l_i / sum w_i. None weighs all pairs the same.
        training: Units and rate of the students' training, where they were learned with the pairs.
            None leaves them the dataset's units and their own rate.
    """

    observations: Tensor = field(repr=False)
    actions: Tensor = field(repr=False)
    stages: Tensor | None = field(default=None, repr=False)
    weights: Tensor | None = field(default=None, repr=False)
    training: LearnedTraining | None = None

    def __post_init__(self) -> None:
        for name, value in (("observations", self.observations), ("actions", self.actions)):
            _require_tensor(name, value)
            if value.ndim != 2 or value.dtype != torch.float32:
                raise BadSyntheticSet(
                    f"{name} of a synthetic set must be torch.float32 [N, dim]; got {value.dtype} "
                    f"{list(value.shape)}. Convert it with .float(), and give it two dimensions."
                )
            require_finite(f"The {name} of a synthetic set", value)
        if len(self.observations) != len(self.actions):
            raise BadSyntheticSet(
                f"A synthetic set pairs observations with actions; got {len(self.observations)} "
                f"observations and {len(self.actions)} actions."
            )
        if len(self.observations) == 0:
            raise BadSyntheticSet("A synthetic set must hold at least one pair.")
        if self.stages is not None:
            self._check_stages(self.stages)
        if self.weights is not None:
            self._check_weights(self.weights)
        if self.training is not None:
            mean, center = self.training.scaling.mean, self.training.scaling.center
            found, expected = (len(mean), len(center)), (self.observation_dim, self.action_dim)
            if found != expected:
                raise BadSyntheticSet(
                    f"A synthetic set carries units of {found[0]} numbers per observation and "
                    f"{found[1]} per action; its pairs have {expected[0]} and {expected[1]}."
                )

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def observation_dim(self) -> int:
        """Numbers per observation."""
        return self.observations.shape[1]

    @property
    def action_dim(self) -> int:
        """Numbers per action."""
        return self.actions.shape[1]

    def rows(self, step: int, steps: int) -> Tensor:
        """The rows that are trained on at one of `steps` gradient steps."""
        if self.stages is None:
            return torch.arange(len(self))
        stage = step * (int(self.stages.max()) + 1) // steps
        return torch.nonzero(self.stages <= stage)[:, 0]

    @property
    def mean_one_weights(self) -> Tensor | None:
        """The weights over their mean `[N]`: a mean of losses times these is the weighted mean."""
        return None if self.weights is None else self.weights / self.weights.mean()

    def _check_weights(self, weights: Tensor) -> None:
        _require_tensor("weights", weights)
        if weights.dtype != torch.float32 or weights.shape != (len(self),):
            raise BadSyntheticSet(
                f"weights of a synthetic set of {len(self)} pairs must be torch.float32 "
                f"[{len(self)}]; got {weights.dtype} {list(weights.shape)}."
            )
        require_finite("The weights of a synthetic set", weights)
        if weights.min() < 0 or not weights.sum() > 0:
            raise BadSyntheticSet(
                f"weights of a synthetic set must be 0 or more, and not all 0; got "
                f"{float(weights.min()):.4g} to {float(weights.max()):.4g}."
            )
        if self.stages is not None:
            raise BadSyntheticSet(
                "A synthetic set has stages or weights, not both: students that learn in stages "
                "weigh all pairs the same. Leave one of them out."
            )

    def _check_stages(self, stages: Tensor) -> None:
        _require_tensor("stages", stages)
        found = sorted(set(stages.tolist()))
        fits = stages.dtype == torch.int64 and stages.shape == (len(self),)
        if not fits or found != list(range(len(found))):
            raise BadSyntheticSet(
                f"stages of a synthetic set of {len(self)} pairs must be {len(self)} numbers "
                f"(torch.int64) that take every value from 0 on; got {stages.dtype} "
                f"{list(stages.shape)}, values {found[:8]}."
            )


def _require_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise BadSyntheticSet(
            f"{name} of a synthetic set is a {type(value).__module__}.{type(value).__qualname__}; "
            f"expected a torch.Tensor. Make one with torch.from_numpy or torch.tensor."
        )


def save_synthetic_set(
    synthetic: SyntheticSet, scaling: Scaling, path: Path, card: Mapping[str, Any]
) -> str:
    """Write a set as safetensors and return the file's sha256.

    The file includes the scaling that students are trained under, the set's own where it has one,
    so that it suffices to train a policy; the card (JSON in the file's metadata) holds the set's
    provenance.
    """
    training = synthetic.training
    tensors = {
        "observations": synthetic.observations.contiguous(),
        "actions": synthetic.actions.contiguous(),
        **(scaling if training is None else training.scaling).tensors(),
        **({} if synthetic.stages is None else {"stages": synthetic.stages}),
        **({} if synthetic.weights is None else {"weights": synthetic.weights.contiguous()}),
    }
    if training is not None:
        tensors[RATE] = torch.tensor(training.learning_rate, dtype=torch.float64)
    kind = FORMAT if synthetic.weights is None else WEIGHTED_FORMAT
    text = json.dumps({"format": kind, **card}, sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"card": text})
    return file_sha256(path)


def load_synthetic_set(path: Path) -> tuple[SyntheticSet, Scaling, dict[str, Any]]:
    """Load a stored set, the scaling it was made under, and its card.

    Raises:
        BadSyntheticSet: The file is missing or is not a synthetic set.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})["card"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if card["format"] not in (FORMAT, WEIGHTED_FORMAT):
            raise BadSyntheticSet(
                f"{path} has format {card['format']!r}, expected {FORMAT!r} or {WEIGHTED_FORMAT!r}."
            )
        check_stored_id(str(card.get("environment", "")), path)
        scaling = Scaling(
            tensors["observation_mean"],
            tensors["observation_std"],
            tensors["action_center"],
            tensors["action_half_range"],
        )
        weights = tensors["weights"] if card["format"] == WEIGHTED_FORMAT else None
        training = None
        if RATE in tensors:
            training = LearnedTraining(scaling, tensors[RATE].tolist())
        pairs = SyntheticSet(
            tensors["observations"], tensors["actions"], tensors.get("stages"), weights, training
        )
        return pairs, scaling, card
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadSyntheticSet(
            f"{path} cannot be read as a synthetic set: {type(error).__name__}: {error}."
        ) from error


def method_of(card: Mapping[str, Any]) -> str:
    """Name of the method that made a set, from its card; also of a set of the older format."""
    method = card["spec"]["method"]
    return str(method["name"] if isinstance(method, Mapping) else method)


def scoring_student(card: Mapping[str, Any]) -> StudentSpec:
    """The student that a set was scored with, from its card."""
    spec = card["spec"]
    return build(StudentSpec, spec["evaluation_student"] or spec["student"], "the card of a set")
