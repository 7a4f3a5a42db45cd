"""Ensembles, sets that are learned in stages, and sampled actions, as scoring sees them."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from baselines.references import TeacherPolicy
from benchmark.config import BadConfiguration
from benchmark.contract.tiny import random_teacher
from benchmark.environments.rollout import Episodes, rollout
from benchmark.errors import ObdBenchError
from benchmark.evaluation import Ensembles, Protocol, acting, clones, score
from benchmark.scaling import Scaling
from benchmark.seeds import derive_seed, episode_seeds
from benchmark.spec import RunSpec
from benchmark.students.student import SampledStudents, StudentPolicy, StudentSpec
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
    policy = clones(pairs(), protocol, STUDENT, SCALING, {"run": "x"})
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
    policies: Any = clones(pairs(), protocol, STUDENT, SCALING, {"run": "x"})
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
    policy = clones(own, PROTOCOL, STUDENT, scaling, {"run": "x"})
    plain = clones(unit, PROTOCOL, STUDENT, SCALING, {"run": "x"})
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
    staged = clones(pairs([0, 0, 1, 1]), PROTOCOL, STUDENT, SCALING, {"run": "x"})
    at_once = clones(pairs(), PROTOCOL, STUDENT, SCALING, {"run": "x"})
    assert isinstance(staged, StudentPolicy)
    assert isinstance(at_once, StudentPolicy)
    only = SyntheticSet(pairs().observations[:2], pairs().actions[:2])
    half = dataclasses.replace(STUDENT, steps=3)
    first = clones(only, PROTOCOL, half, SCALING, {"run": "x"})
    short = clones(pairs([0, 0, 1, 1]), PROTOCOL, half, SCALING, {"run": "x"})
    observations = np.ones((2, 1, 11), dtype=np.float32)
    assert not np.array_equal(staged(observations), at_once(observations))
    assert not np.array_equal(first(observations), short(observations))
    one_stage = clones(pairs([0, 0, 0, 0]), PROTOCOL, STUDENT, SCALING, {"run": "x"})
    np.testing.assert_array_equal(one_stage(observations), at_once(observations))


@pytest.mark.parametrize(
    "result", [(torch.zeros(4, 11), torch.zeros(4, 3)), np.zeros((4, 11), np.float32), None]
)
def test_a_result_that_is_neither_a_set_nor_policies_is_named(result: object) -> None:
    said = f"The result of the method is a {type(result).__name__}; expected SyntheticSet"
    with pytest.raises(ObdBenchError, match=said):
        clones(result, PROTOCOL, STUDENT, SCALING, {"run": "x"})  # type: ignore[arg-type]


# --- sampled actions --------------------------------------------------------------------------

SAMPLED = dataclasses.replace(PROTOCOL, actions="sampled")
GAUSSIAN = dataclasses.replace(STUDENT, head="gaussian", activation="tanh")
AXES = {"run": "x"}


def scored(protocol: Protocol, student: StudentSpec = GAUSSIAN, axes: Any = AXES) -> Episodes:
    return score(
        pairs(),
        protocol=protocol,
        student=student,
        scaling=SCALING,
        environment="Hopper-v5",
        axes=axes,
    )


def test_sampled_episodes_are_those_of_plain_loops_over_their_own_streams() -> None:
    """The same numbers by gymnasium's own step, one episode after the other."""
    found = scored(SAMPLED)
    students = clones(pairs(), SAMPLED, GAUSSIAN, SCALING, AXES)
    assert isinstance(students, StudentPolicy)
    *layers, (_, log_std) = students.parameters
    environment = gymnasium.make("Hopper-v5")
    for p in range(2):
        for e, reset in enumerate(episode_seeds(3, **AXES, purpose="evaluation episodes")):
            stream = derive_seed(**AXES, purpose="sampled actions", policy=p, episode=e)
            noise = np.random.default_rng(stream).standard_normal((64, 3), dtype=np.float32)
            observation, _ = environment.reset(seed=reset)
            total, length, over = 0.0, 0, False
            while not over and length < 64:  # the first block of noise; hoppers fall sooner
                value = torch.from_numpy(observation.astype(np.float32))
                for layer, (weight, bias) in enumerate(layers):
                    value = weight[p] @ value + bias[p, 0]
                    value = value.tanh() if layer + 1 < len(layers) else value
                drawn = value + log_std[p, 0].exp() * torch.from_numpy(noise[length])
                step = environment.step(drawn.clamp(-1, 1).numpy())
                observation, total, length = step[0], total + float(step[1]), length + 1
                over = step[2] or step[3]
            assert over
            assert found.lengths[p, e] == length
            assert found.returns[p, e] == pytest.approx(total, rel=1e-4)
    environment.close()


def test_sampled_episodes_do_not_depend_on_who_else_plays() -> None:
    more = scored(dataclasses.replace(SAMPLED, students=4, episodes=5))
    np.testing.assert_allclose(
        scored(dataclasses.replace(SAMPLED, students=1, episodes=2)).returns,
        more.returns[:1, :2],
        rtol=1e-3,
    )
    assert len(np.unique(more.returns)) == 20


def test_sampled_students_that_have_finished_are_no_longer_asked_and_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = dataclasses.replace(SAMPLED, students=8, episodes=2)
    asked: list[int] = []
    act = SampledStudents.__call__

    def noted(self: SampledStudents, observations: Any) -> Any:
        asked.append(self.count)
        return act(self, observations)

    monkeypatch.setattr(SampledStudents, "__call__", noted)
    narrowed = scored(many)
    assert len(set(asked)) > 2, "narrowed more than once"
    monkeypatch.setattr("benchmark.environments.rollout._WORTH_NARROWING", 0.0)
    asked.clear()
    whole = scored(many)
    assert set(asked) == {8}
    np.testing.assert_array_equal(narrowed.returns, whole.returns)
    np.testing.assert_array_equal(narrowed.lengths, whole.lengths)


def test_sampled_episodes_are_the_same_again_and_others_elsewhere() -> None:
    once = scored(SAMPLED).returns
    np.testing.assert_array_equal(once, scored(SAMPLED).returns)
    assert not np.array_equal(once, scored(PROTOCOL).returns)
    assert not np.array_equal(once, scored(SAMPLED, axes={"run": "y"}).returns)


def test_policies_without_a_distribution_cannot_be_sampled() -> None:
    class Still:
        count = 1

        def __call__(self, observations: Any) -> Any:
            return np.zeros((1, 3, 3), dtype=np.float32)

    assert acting(Still(), PROTOCOL, AXES) is not None
    with pytest.raises(ObdBenchError, match=r"'tiny' samples actions, but a Still has no `sampled"):
        acting(Still(), SAMPLED, AXES)


def test_the_teacher_is_sampled_by_one_generator_per_episode() -> None:
    teacher = random_teacher(11, 3)
    policy = acting(TeacherPolicy(teacher, SCALING), SAMPLED, AXES)
    observations = np.random.default_rng(0).normal(size=(1, 3, 11)).astype(np.float32)
    found = np.array([policy(observations) for _ in range(2)])
    for e in range(3):
        seed = derive_seed(**AXES, purpose="sampled actions", policy=0, episode=e)
        generator = torch.Generator().manual_seed(seed)
        row = torch.from_numpy(observations[0, e : e + 1])
        for step in range(2):
            expected = teacher.sample(row, generator)[0]
            np.testing.assert_allclose(found[step, 0, e], expected, rtol=1e-5)


def test_sampled_actions_of_an_ensemble_are_refused() -> None:
    with pytest.raises(BadConfiguration, match="samples the actions of ensembles"):
        dataclasses.replace(SAMPLED, ensemble=2)


def test_unknown_actions_are_answered_with_the_nearest() -> None:
    with pytest.raises(BadConfiguration, match=r"'tiny' is 'sample' .* Did you mean 'sampled'"):
        dataclasses.replace(PROTOCOL, actions="sample")  # type: ignore[arg-type]
