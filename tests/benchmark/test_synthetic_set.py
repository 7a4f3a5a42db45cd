"""A synthetic set is sound or refused, and its file alone is enough to train a policy."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmark.scaling import Scaling
from benchmark.synthetic_set import (
    BadSyntheticSet,
    LearnedTraining,
    SyntheticSet,
    load_synthetic_set,
    save_synthetic_set,
)

SCALING = Scaling(
    mean=torch.arange(4.0),
    std=torch.full((4,), 2.0),
    center=torch.zeros(2),
    half_range=torch.ones(2),
)
CARD = {"run_id": "hopper.random.0.seed0", "outer_step": 5}


def make_set(size: int = 3) -> SyntheticSet:
    generator = torch.Generator().manual_seed(size)
    return SyntheticSet(
        torch.randn(size, 4, generator=generator), torch.randn(size, 2, generator=generator)
    )


def test_length_is_the_number_of_pairs() -> None:
    assert len(make_set(3)) == 3


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 2), r"observations .*float32 \[N, dim\]; got .*\[3\]"),
        (torch.zeros(3, 4), torch.zeros(3, 2, 1), r"actions .*got .*\[3, 2, 1\]"),
        (torch.zeros(3, 4).double(), torch.zeros(3, 2), r"observations .*got torch\.float64"),
        (torch.zeros(3, 4), torch.zeros(3, 2).long(), r"actions .*got torch\.int64"),
        (torch.zeros(3, 4), torch.zeros(2, 2), r"got 3 observations and 2 actions"),
        (torch.zeros(0, 4), torch.zeros(0, 2), r"at least one pair"),
        (
            np.zeros((3, 4), np.float32),
            torch.zeros(3, 2),
            r"observations .* is a numpy\.ndarray; expected a torch\.Tensor\. Make one with tor",
        ),
        (torch.zeros(3, 4), [[0.0, 0.0]] * 3, r"actions .* is a builtins\.list; expected a torch"),
    ],
)
def test_malformed_set_is_refused(
    observations: torch.Tensor, actions: torch.Tensor, message: str
) -> None:
    with pytest.raises(BadSyntheticSet, match=message):
        SyntheticSet(observations, actions)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["observations", "actions"])
def test_diverged_set_is_refused_with_what_to_do(name: str, value: float) -> None:
    tensors = {"observations": torch.zeros(3, 4), "actions": torch.zeros(3, 2)}
    tensors[name][1:, 1] = value

    with pytest.raises(BadSyntheticSet) as error:
        SyntheticSet(**tensors)
    size = tensors[name].numel()
    assert str(error.value) == (
        f"The {name} of a synthetic set: 2 of {size} values are not finite."
    )


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (np.array([0, 0, 1]), r"stages .* is a numpy\.ndarray; expected a torch\.Tensor"),
        (torch.tensor([0.0, 0.0, 1.0]), r"numbers \(torch\.int64\) .*got torch\.float32 \[3\]"),
    ],
)
def test_stages_of_another_type_are_refused(stages: Any, message: str) -> None:
    with pytest.raises(BadSyntheticSet, match=message):
        SyntheticSet(torch.zeros(3, 4), torch.zeros(3, 2), stages)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3, np.float32), r"weights .* is a numpy\.ndarray; expected a torch\.Tensor"),
        (torch.ones(3).double(), r"must be torch\.float32 \[3\]; got torch\.float64 \[3\]"),
        (torch.ones(3, 1), r"must be torch\.float32 \[3\]; got torch\.float32 \[3, 1\]"),
        (torch.tensor([1.0, math.nan, 1.0]), "weights of a synthetic set: 1 of 3 values are not"),
        (torch.tensor([1.0, -0.5, 2.0]), r"0 or more, and not all 0; got -0\.5 to 2"),
        (torch.zeros(3), "0 or more, and not all 0; got 0 to 0"),
    ],
)
def test_weights_that_are_none_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(BadSyntheticSet, match=message):
        SyntheticSet(torch.zeros(3, 4), torch.zeros(3, 2), weights=weights)


def test_a_set_has_stages_or_weights() -> None:
    with pytest.raises(BadSyntheticSet, match="stages or weights, not both"):
        SyntheticSet(torch.zeros(2, 4), torch.zeros(2, 2), torch.tensor([0, 1]), torch.ones(2))


def test_a_set_with_weights_comes_back_and_is_of_a_format_of_its_own(tmp_path: Path) -> None:
    """A version that knows no weights would train without them: it must refuse the file."""
    plain, path = make_set(), tmp_path / "set.safetensors"
    weights = torch.tensor([0.0, 1.0, 3.0])
    for pairs, kind, expected in (
        (plain, "obdbench.synthetic-set/1", None),
        (dataclasses.replace(plain, weights=weights), "obdbench.synthetic-set/2", weights),
    ):
        save_synthetic_set(pairs, SCALING, path, CARD)
        loaded, _, card = load_synthetic_set(path)
        assert card["format"] == kind
        assert loaded.weights is None if expected is None else loaded.weights.equal(expected)


def test_weights_may_be_missing_only_where_the_format_has_none(tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    save_synthetic_set(make_set(), SCALING, path, {**CARD, "format": "obdbench.synthetic-set/2"})
    with pytest.raises(BadSyntheticSet, match=r"KeyError: .weights."):
        load_synthetic_set(path)


OWN = Scaling(torch.full((4,), 3.0), torch.ones(4), torch.zeros(2), torch.ones(2))


def test_a_set_comes_back_with_the_units_and_the_rate_that_were_learned_with_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "set.safetensors"
    pairs = dataclasses.replace(make_set(), training=LearnedTraining(OWN, 1.7))
    save_synthetic_set(pairs, SCALING, path, CARD)
    loaded, scaling, _ = load_synthetic_set(path)
    assert loaded.training is not None and loaded.training.learning_rate == 1.7
    for found in (scaling, loaded.training.scaling):
        for name, tensor in OWN.tensors().items():
            assert found.tensors()[name].equal(tensor), "not the dataset's"


@pytest.mark.parametrize(
    ("rate", "changed", "message"),
    [
        (0.0, {}, "learning rate that a synthetic set carries is 0.0; expected one finite float"),
        (math.inf, {}, "learning rate that a synthetic set carries is inf"),
        ([1.0, 2.0], {}, r"learning rate that a synthetic set carries is \[1.0, 2.0\]"),
        (1.0, {"mean": torch.full((4,), math.nan)}, "observation_mean .* carries: 4 of 4 values"),
        (1.0, {"std": torch.tensor([1.0, 0.0, 1.0, 1.0])}, "observation_std .* is down to 0; exp"),
        (1.0, {"mean": torch.zeros(3)}, "units of 3 numbers per observation and 2 .* have 4 and 2"),
    ],
)
def test_training_that_students_cannot_have_is_refused(
    rate: Any, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadSyntheticSet, match=message):
        training = LearnedTraining(dataclasses.replace(OWN, **changed), rate)
        dataclasses.replace(make_set(), training=training)


def test_a_file_with_a_damaged_rate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    save_synthetic_set(make_set(), SCALING, path, CARD)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for damaged in (torch.tensor([1.0, 2.0]), torch.tensor(-1.0), torch.tensor(2)):
        save_file({**tensors, "learning_rate": damaged}, path, metadata=metadata)
        with pytest.raises(BadSyntheticSet, match="learning rate that a synthetic set carries is"):
            load_synthetic_set(path)


def test_stored_set_comes_back_with_its_scaling_and_card(tmp_path: Path) -> None:
    path = tmp_path / "run" / "set.safetensors"
    digest = save_synthetic_set(make_set(), SCALING, path, CARD)

    loaded, scaling, card = load_synthetic_set(path)

    assert torch.equal(loaded.observations, make_set().observations)
    assert torch.equal(loaded.actions, make_set().actions)
    for name, tensor in SCALING.tensors().items():
        assert torch.equal(scaling.tensors()[name], tensor)
    assert CARD.items() <= card.items()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_same_set_gives_the_same_file_whatever_the_order_of_its_card(tmp_path: Path) -> None:
    backwards = dict(reversed(CARD.items()))
    digests = {
        save_synthetic_set(make_set(), SCALING, tmp_path / name, card)
        for name, card in (("a", CARD), ("b", backwards))
    }
    assert len(digests) == 1


def test_set_that_a_method_still_differentiates_can_be_stored(tmp_path: Path) -> None:
    pairs = torch.randn(3, 6, requires_grad=True)
    synthetic = SyntheticSet(pairs[:, :4], pairs[:, 4:])

    save_synthetic_set(synthetic, SCALING, tmp_path / "set.safetensors", CARD)

    loaded, _, _ = load_synthetic_set(tmp_path / "set.safetensors")
    assert torch.equal(loaded.observations, pairs[:, :4].detach())
    assert torch.equal(loaded.actions, pairs[:, 4:].detach())


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "cannot be read as a synthetic set"),
        ("text", "cannot be read as a synthetic set"),
        ("truncated", "cannot be read as a synthetic set"),
        ("other tensors", "cannot be read as a synthetic set"),
        ("other format", "has format 'obdbench.synthetic-set/3', expected"),
        ("card is a list", "cannot be read as a synthetic set"),
    ],
)
def test_file_that_is_no_synthetic_set_is_named(tmp_path: Path, case: str, message: str) -> None:
    path = tmp_path / "set.safetensors"
    save_synthetic_set(make_set(), SCALING, path, CARD)
    match case:
        case "missing":
            path.unlink()
        case "text":
            path.write_text("observations: 1, 2, 3 and a little more")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-8])
        case "other tensors":
            save_file({"weights": torch.zeros(3)}, path)
        case "other format":
            save_synthetic_set(
                make_set(), SCALING, path, {**CARD, "format": "obdbench.synthetic-set/3"}
            )
        case "card is a list":
            save_file({"observations": torch.zeros(3, 4)}, path, metadata={"card": "[1]"})

    with pytest.raises(BadSyntheticSet) as error:
        load_synthetic_set(path)
    assert str(path) in str(error.value) and message in str(error.value)
