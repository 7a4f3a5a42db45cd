"""Ensembles of students, and sets that are learned in stages, as scoring sees them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.config import BadConfiguration
from benchmark.environments.rollout import rollout
from benchmark.errors import ObdBenchError
from benchmark.evaluation import Ensembles, Protocol, _clone, score
from benchmark.scaling import Scaling
from benchmark.spec import RunSpec
from benchmark.students.student import StudentPolicy, StudentSpec
from benchmark.synthetic_set import SyntheticSet

PROTOCOL = Protocol("tiny", students=2, episodes=3, checkpoint_every=5, last=1)
STUDENT = StudentSpec(width=8, depth=2, steps=6)
SCALING = Scaling(torch.zeros(11), torch.ones(11), torch.zeros(3), torch.ones(3))


def pairs(stages: list[int] | None = None) -> SyntheticSet:
    generator = torch.Generator().manual_seed(0)
    return SyntheticSet(
        torch.randn(4, 11, generator=generator),
        torch.rand(4, 3, generator=generator) * 2 - 1,
        None if stages is None else torch.tensor(stages),
    )


def test_an_ensemble_acts_by_the_mean_of_its_students() -> None:
    protocol = dataclasses.replace(PROTOCOL, ensemble=3)
    policy = _clone(pairs(), protocol, STUDENT, SCALING, {"run": "x"})
    assert isinstance(policy, Ensembles)
    assert (policy.count, policy.students.count) == (2, 6)
    observations = np.random.default_rng(0).normal(size=(2, 5, 11)).astype(np.float32)
    acted = policy(observations)
    for ensemble in range(2):
        members = policy.students(np.repeat(observations[[ensemble]], 6, axis=0))
        chosen = members[3 * ensemble : 3 * ensemble + 3]
        np.testing.assert_allclose(acted[ensemble], chosen.mean(0), rtol=1e-6)
        found = policy.only(np.array([ensemble]))
        assert (found.count, found.students.count) == (1, 3)
        assert np.array_equal(found(observations[[ensemble]]), acted[[ensemble]])


@pytest.mark.parametrize("ensemble", [1, 2])
def test_a_policy_earns_the_same_whichever_others_are_scored_with_it(ensemble: int) -> None:
    protocol = dataclasses.replace(PROTOCOL, students=5, ensemble=ensemble)
    policies: Any = _clone(pairs(), protocol, STUDENT, SCALING, {"run": "x"})
    options: Any = {"episodes": 3, "seeds": [1, 2, 3]}
    together = rollout("Hopper-v5", policies, policies=policies.count, **options)
    assert len(np.unique(together.lengths.max(axis=1))) > 2, "none would be left out on the way"
    for policy in range(policies.count):
        one = rollout("Hopper-v5", policies.only(np.array([policy])), policies=1, **options)
        assert np.array_equal(one.returns[0], together.returns[policy])
        assert np.array_equal(one.lengths[0], together.lengths[policy])


def test_students_learn_and_act_in_units_without_scale() -> None:
    """A set in the environment's units is the same set, scaled by hand, where nothing is scaled."""
    generator = torch.Generator().manual_seed(1)
    mean, center = torch.randn(11, generator=generator), torch.randn(3, generator=generator)
    std, half_range = torch.full((11,), 3.0), torch.full((3,), 2.0)
    unit = pairs()
    own = SyntheticSet(unit.observations * std + mean, unit.actions * half_range + center)
    scaling = Scaling(mean, std, center, half_range)
    policy = _clone(own, PROTOCOL, STUDENT, scaling, {"run": "x"})
    plain = _clone(unit, PROTOCOL, STUDENT, SCALING, {"run": "x"})
    observations = torch.randn(2, 5, 11, generator=generator)
    expected = plain(((observations - mean) / std).numpy()) * 2.0 + center.numpy()
    np.testing.assert_allclose(policy(observations.numpy()), expected, rtol=1e-4, atol=1e-5)


def test_an_ensembles_episodes_count_once() -> None:
    episodes = score(
        pairs(),
        protocol=dataclasses.replace(PROTOCOL, ensemble=2),
        student=STUDENT,
        scaling=SCALING,
        environment="Hopper-v5",
        axes={"run": "x"},
    )
    assert episodes.returns.shape == (2, 3)


def test_ensembles_are_another_cell_and_single_students_keep_theirs() -> None:
    spec = RunSpec.create(
        method="random", dataset="hopper/medium", parameters={}, where="test", protocol=PROTOCOL
    )
    many = dataclasses.replace(spec, protocol=dataclasses.replace(PROTOCOL, ensemble=10))
    assert many.cell_id != spec.cell_id
    assert RunSpec.from_dict(many.as_dict()) == many
    assert RunSpec.from_dict(spec.as_dict()) == spec


def test_an_ensemble_of_nobody_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="ensemble of the protocol 'tiny' is 0"):
        dataclasses.replace(PROTOCOL, ensemble=0)


def test_students_learn_a_staged_set_in_stages() -> None:
    """As training on the first stage's pairs and then on all of them, which is not the same."""
    staged = _clone(pairs([0, 0, 1, 1]), PROTOCOL, STUDENT, SCALING, {"run": "x"})
    at_once = _clone(pairs(), PROTOCOL, STUDENT, SCALING, {"run": "x"})
    assert isinstance(staged, StudentPolicy)
    assert isinstance(at_once, StudentPolicy)
    only = SyntheticSet(pairs().observations[:2], pairs().actions[:2])
    half = dataclasses.replace(STUDENT, steps=3)
    first = _clone(only, PROTOCOL, half, SCALING, {"run": "x"})
    short = _clone(pairs([0, 0, 1, 1]), PROTOCOL, half, SCALING, {"run": "x"})
    observations = np.ones((2, 1, 11), dtype=np.float32)
    assert not np.array_equal(staged(observations), at_once(observations))
    assert not np.array_equal(first(observations), short(observations))
    one_stage = _clone(pairs([0, 0, 0, 0]), PROTOCOL, STUDENT, SCALING, {"run": "x"})
    np.testing.assert_array_equal(one_stage(observations), at_once(observations))


@pytest.mark.parametrize(
    "result", [(torch.zeros(4, 11), torch.zeros(4, 3)), np.zeros((4, 11), np.float32), None]
)
def test_a_result_that_is_neither_a_set_nor_policies_is_named(result: object) -> None:
    said = f"The result of the method is a {type(result).__name__}; expected SyntheticSet"
    with pytest.raises(ObdBenchError, match=said):
        _clone(result, PROTOCOL, STUDENT, SCALING, {"run": "x"})  # type: ignore[arg-type]
