"""The suite from Python: what calls return, where they look, and what they refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import obdbench
from benchmark.datasets.d4rl_facts import d4rl_reference
from benchmark.record import write_record
from benchmark.registry import Registry, load_plugin
from obdbench.policies import known_reference
from results.comparison import published_cells
from results.record_store import SHIPPED
from tests.tiny_runs import PLUGIN, PROTOCOL, altered

STUDENT = {"width": 8, "depth": 2, "steps": 4}
HOPPER_SET = "hopper-medium-expert.av_pbc.ce83cc58f10c.seed0"
TINY: dict[str, Any] = {"protocol": PROTOCOL, "student": STUDENT, "synthetic_size": 4}


@pytest.fixture
def done(small_dataset_name: str) -> obdbench.Run:
    return obdbench.run("random", small_dataset_name, **TINY)


def test_a_run_is_kept_and_found_again(
    done: obdbench.Run, small_dataset_name: str, record_store: Path
) -> None:
    record = done.folder / "record.json"
    assert record.is_relative_to(record_store)
    written = record.stat().st_mtime_ns
    again = obdbench.run("random", small_dataset_name, **TINY)
    assert (again, record.stat().st_mtime_ns) == (done, written)
    assert f"{done.normalized_return:.2f}" in repr(done)
    assert done.run_id in done._repr_html_()
    other = obdbench.run("random", small_dataset_name, seed=1, **TINY)
    assert other.run_id != done.run_id


def test_a_protocol_may_be_its_settings_by_name(
    done: obdbench.Run, small_dataset_name: str
) -> None:
    settings = dataclasses.asdict(PROTOCOL)
    again = obdbench.run("random", small_dataset_name, **{**TINY, "protocol": settings})
    assert again == done


def test_a_run_has_the_numbers_of_the_command(
    done: obdbench.Run, small_dataset_name: str, cli: Any, tmp_path: Path
) -> None:
    settings = [word for k, v in STUDENT.items() for word in ("--set", f"student.{k}={v}")]
    found = cli("run", "random", small_dataset_name, "--protocol", "smoke",
                "--set", "synthetic_size=4", *settings, "--store", tmp_path)  # fmt: skip
    run = obdbench.run("random", small_dataset_name, **{**TINY, "protocol": "smoke"})
    assert found.out == f"{run.run_id}: normalized return {run.normalized_return:.2f}\n"


def test_a_failed_run_raises_its_error_and_keeps_its_record(small_dataset_name: str) -> None:
    load_plugin(PLUGIN)
    with pytest.raises(obdbench.RunFailed, match="ValueError: oh") as raised:
        obdbench.run("raises", small_dataset_name, protocol=PROTOCOL, message="oh")
    failed = raised.value.run
    assert (failed.folder / "record.json").is_file()
    assert np.isnan(failed.normalized_return)
    assert failed.run_id in repr(failed)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: obdbench.run("dcb", "hopper/medium"), "Did you mean 'dbc'"),
        (lambda: obdbench.run("dbc", "hopper/medum"), "Did you mean 'hopper/medium'"),
        (lambda: obdbench.run("dbc", "hopper/medium", outer_step=1), "Did you mean 'outer_steps'"),
        (lambda: obdbench.run("dbc", "hopper/medium", protocol="obdd"), "Did you mean 'obd'"),
        (lambda: obdbench.run("dbc", "hopper/medium", student={"widht": 1}), "in the student of"),
        (
            lambda: obdbench.run("dbc", "hopper/medium", protocol={"nmae": "x"}),
            "Unknown key 'nmae' in the protocol of dbc. Did you mean 'name'",
        ),
        (lambda: obdbench.sweep({"name": "x"}, jobs=0), "jobs=0; expected 1 or more"),
        (lambda: obdbench.sweep("quickstat"), "Did you mean 'quickstart'"),
        (lambda: obdbench.sweep({"name": "x", "datsets": []}), "Unknown key 'datsets'"),
        (lambda: obdbench.load_set("hopper.av_pbc.0.seed0"), "has a record in"),
        (lambda: obdbench.load_set(f"hopper.{'x' * 300}.0.seed0"), "has a record in"),
        (lambda: obdbench.load_teacher("hopper/medium@2000", "td3bc"), "Did you mean 'td3_bc'"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_valid_word(call: Any, says: str) -> None:
    with pytest.raises(obdbench.ObdBenchError, match=says):
        call()


SMALL: dict[str, Any] = {"method": "random", "dataset": "hopper/medum"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: obdbench.run(**SMALL, student="hades"), "is 'hades' .str.; expected its settings"),
        (lambda: obdbench.run(**SMALL, student=0), r"is 0 \(int\); expected its settings"),
        (lambda: obdbench.run(**SMALL, protocol=None), r"is None \(NoneType\); expected a name"),
        (lambda: obdbench.run(**SMALL, teacher=None), r"teacher is None \(NoneType\); expected"),
        (lambda: obdbench.run(**SMALL, density=5), r"density is 5 \(int\); expected a name"),
        (lambda: obdbench.run("random", None), r"dataset is None \(NoneType\); expected a name"),  # type: ignore[arg-type]
        (lambda: obdbench.load_teacher("hopper/medium@9", None), "recipe is None"),  # type: ignore[arg-type]
        (lambda: obdbench.sweep({"name": "x"}, jobs=1.5), "jobs=1.5; expected 1 or more"),  # type: ignore[arg-type]
        (lambda: obdbench.sweep({"name": "x"}, jobs="2"), "jobs='2'; expected 1 or more"),  # type: ignore[arg-type]
        (
            lambda: obdbench.sweep({"name": "x"}, plugins="mine.py"),
            r"expected a list: \['mine.py'\]",
        ),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_was_expected(call: Any, says: str) -> None:
    with pytest.raises(obdbench.ObdBenchError, match=says):
        call()


def test_a_set_is_found_by_its_run_its_record_its_id_its_folder_and_its_file(
    done: obdbench.Run, record_store: Path
) -> None:
    path = next(done.folder.glob("*.safetensors"))
    expected = obdbench.load_synthetic_set(path)[0].observations.numpy()
    for source in (done, done.record, done.run_id, str(done.folder), done.folder, path):
        found = obdbench.load_set(source)
        assert (found.observations == expected).all()
    assert (len(found), found.environment) == (4, "Hopper-v5")
    assert found.student.width == STUDENT["width"]
    assert "4 pairs for Hopper-v5" in repr(found)
    assert "4 pairs for Hopper-v5" in found._repr_html_()


def test_the_set_of_a_record_is_never_that_of_another_run_of_its_name(done: obdbench.Run) -> None:
    checkpoints = [
        msgspec.structs.replace(checkpoint, sha256="0" * 64)
        for checkpoint in done.record.checkpoints
    ]
    elsewhere = altered(done.record, checkpoints=checkpoints)
    with pytest.raises(obdbench.ObdBenchError, match="sha256 0000000000000000 in the record"):
        obdbench.load_set(elsewhere)


def test_a_run_without_a_set_says_so(small_dataset_name: str) -> None:
    whole = obdbench.run("bc_whole", small_dataset_name, protocol=PROTOCOL, student=STUDENT,
                         steps=5, batch_size=4)  # fmt: skip
    with pytest.raises(obdbench.ObdBenchError, match="has no synthetic set: bc_whole gives"):
        obdbench.load_set(whole)


def test_a_policy_acts_on_one_observation_and_on_many() -> None:
    pairs = obdbench.load_set(HOPPER_SET)
    policy = pairs.train()
    one, many = pairs.observations[0], pairs.observations[:5]
    assert policy.predict(one).shape == (3,)
    assert policy.predict(many).shape == (5, 3)
    np.testing.assert_allclose(policy.predict(many)[0], policy.predict(one), rtol=1e-5, atol=1e-6)
    assert (policy.predict(one) == pairs.train(seed=0).predict(one)).all()
    assert (policy.predict(one) != pairs.train(seed=1).predict(one)).any()
    fitted = np.abs(pairs.train(steps=500).predict(pairs.observations) - pairs.actions).mean()
    assert fitted < np.abs(policy.predict(pairs.observations) - pairs.actions).mean()
    for wrong in (np.zeros(4), np.zeros((1, 1, 11)), np.zeros(())):
        with pytest.raises(obdbench.ObdBenchError, match=r"expected \[11\] or \[N, 11\]"):
            policy.predict(wrong)


def test_a_policy_may_be_of_a_student_by_its_settings() -> None:
    pairs = obdbench.load_set(HOPPER_SET)
    trained = pairs.train(steps=2, student={"width": 8})
    expected = pairs.train(steps=2, student=dataclasses.replace(pairs.student, width=8))
    observation = pairs.observations[0]
    assert (trained.predict(observation) == expected.predict(observation)).all()
    with pytest.raises(obdbench.ObdBenchError, match="Did you mean 'width'"):
        pairs.train(student={"widht": 8})


@pytest.mark.parametrize("count", [0, -5])
def test_no_steps_and_no_episodes_are_refused(count: int) -> None:
    pairs = obdbench.load_set(HOPPER_SET)
    with pytest.raises(obdbench.ObdBenchError, match=f"steps={count}; expected 1 or more"):
        pairs.train(steps=count)
    with pytest.raises(obdbench.ObdBenchError, match=f"episodes={count}; expected 1 or more"):
        obdbench.evaluate(pairs.train(steps=1), "Hopper-v5", episodes=count)


def tiny_set(environment: str = "CartPole-v1", actions: int = 2) -> obdbench.DistilledSet:
    scaling = obdbench.Scaling(
        torch.zeros(4), torch.ones(4), torch.zeros(actions), torch.ones(actions)
    )
    student = obdbench.StudentSpec(width=8, depth=2, steps=8)
    pairs = obdbench.SyntheticSet(torch.eye(4)[:2], torch.eye(2)[:, :actions])
    card = {"environment": environment, "run_id": "none"}
    return obdbench.DistilledSet(pairs, scaling, student, card)


@pytest.mark.parametrize("kind", [np.int64, np.int32, torch.tensor])
def test_integers_of_other_libraries_are_taken_as_pythons(kind: Any) -> None:
    pairs, observation = tiny_set(), np.ones(4)
    trained = pairs.train(steps=kind(3), seed=kind(1)).student.parameters
    for layer, wanted in zip(trained, pairs.train(steps=3, seed=1).student.parameters, strict=True):
        assert all(torch.equal(*tensors) for tensors in zip(layer, wanted, strict=True))
    played = obdbench.evaluate(pairs.train(), "CartPole-v1", episodes=kind(2), seed=kind(4))
    expected = obdbench.evaluate(pairs.train(), "CartPole-v1", episodes=2, seed=4)
    assert (played.returns == expected.returns).all()
    assert pairs.train().predict(observation) in (0, 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: tiny_set().train(steps=2.5), "train got steps=2.5; expected 1 or more"),
        (lambda p: tiny_set().train(steps="3"), "train got steps='3'; expected 1 or more"),
        (lambda p: tiny_set().train(seed=1.5), "train got seed=1.5; expected"),
        (lambda p: tiny_set().train(seed=2**64), "train got seed=18446744073709551616; expected"),
        (lambda p: tiny_set().train(student="hades"), r"is 'hades' \(str\); expected its settings"),
        (lambda p: obdbench.evaluate(p, "CartPole-v1", episodes=2.5), "episodes=2.5; expected 1"),
        (lambda p: obdbench.evaluate(p, "CartPole-v1", seed=-1), "seed=-1; expected 0 or more"),
        (lambda p: obdbench.evaluate(tiny_set(), "CartPole-v1"), "a DistilledSet.*train"),
        (lambda p: obdbench.evaluate(lambda x: 0, "CartPole-v1"), "a function; expected a policy"),
        (lambda p: obdbench.evaluate(p, None), "env=None; expected the id"),
        (
            lambda p: obdbench.evaluate(p, "CartPole-v1", reference=(0, 1)),
            r"reference=\(0, 1\); expected",
        ),
        (lambda p: p.predict(gymnasium.make("CartPole-v1").reset()), "predict got a tuple"),
    ],
)
def test_what_cannot_be_trained_or_played_is_one_sentence(call: Any, says: str) -> None:
    policy = tiny_set().train(steps=1)
    with pytest.raises(obdbench.ObdBenchError, match=says):
        call(policy)


@pytest.mark.parametrize(
    ("environment", "actions"), [("CartPole-v1", 2), ("InvertedPendulum-v5", 1)]
)
def test_a_student_that_diverged_has_no_action(environment: str, actions: int) -> None:
    """The first action was taken, or MuJoCo put 0 for it: a return like any other."""
    pairs = tiny_set(environment, actions)
    diverged = pairs.train(student={"learning_rate": 1e30})
    with pytest.raises(obdbench.ObdBenchError, match=r"1 of 1 .*not numbers.*diverged"):
        obdbench.evaluate(diverged, environment, episodes=1)
    policy, observation = pairs.train(), np.full((2, 4), np.nan)
    observation[0] = 0
    with pytest.raises(obdbench.ObdBenchError, match=r"1 of 2 .*observation"):
        policy.predict(observation)


class PlaysOn(gymnasium.Env[Any, Any]):
    """Two steps of reward 1, whatever the action is."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    spec = None

    def reset(self, **_: Any) -> Any:
        self.left = 2
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, not self.left, False, {}


class OnceNoNumber:
    def __init__(self) -> None:
        self.calls = 0

    def predict(self, observation: Any) -> NDArray[np.float32]:
        self.calls += 1
        return np.full(1, np.nan if self.calls == 2 else 0, np.float32)


def test_an_episode_in_which_an_action_was_no_number_has_no_return() -> None:
    played = obdbench.evaluate(OnceNoNumber(), PlaysOn(), episodes=2)
    assert np.isnan(played.returns).tolist() == [True, False]
    assert played.lengths.tolist() == [2, 2]


def test_a_discrete_action_is_a_number_that_the_environment_takes() -> None:
    path = next(SHIPPED.glob("cartpole-mixed.hades.*/seed0/*.safetensors"))
    policy = obdbench.load_set(path).train()
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(policy.predict(observation))
    assert policy.predict(np.stack([observation] * 3)).tolist() == [policy.predict(observation)] * 3


def test_pairs_of_a_later_stage_are_learned_from_later() -> None:
    observations, actions = torch.eye(4)[:2], torch.eye(2)
    scaling = obdbench.Scaling(torch.zeros(4), torch.ones(4), torch.zeros(2), torch.ones(2))
    student = obdbench.StudentSpec(width=8, depth=2, steps=8)
    pairs = obdbench.SyntheticSet(observations, actions, stages=torch.tensor([0, 1]))
    card = {"environment": "CartPole-v1", "run_id": "none"}
    policy = obdbench.DistilledSet(pairs, scaling, student, card).train(seed=3)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        shown = 1 if step < 4 else 2
        return observations[None, :shown], actions[None, :shown]

    generator = torch.Generator().manual_seed(3)
    expected = obdbench.train_students(student, batch, scaling, [generator])
    for layer, wanted in zip(policy.student.parameters, expected.parameters, strict=True):
        assert all(torch.equal(*tensors) for tensors in zip(layer, wanted, strict=True))


def test_a_policy_of_a_weighted_set_learns_by_its_weights() -> None:
    scaling = obdbench.Scaling(torch.zeros(4), torch.ones(4), torch.zeros(2), torch.ones(2))
    student = obdbench.StudentSpec(width=8, depth=2, steps=8, head="mean")
    pairs = torch.eye(4)[:3], torch.eye(3)[:, :2]
    card = {"environment": "CartPole-v1", "run_id": "none"}
    trained = []
    for found in (
        obdbench.SyntheticSet(*pairs, weights=torch.tensor([0.0, 2.0, 2.0])),
        obdbench.SyntheticSet(pairs[0][1:], pairs[1][1:]),
    ):
        distilled = obdbench.DistilledSet(found, scaling, student, card)
        assert (distilled.weights is None) == (found.weights is None)
        trained.append(distilled.train(seed=3).student.parameters)
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one, other)


class AlwaysRight:
    def predict(self, observation: Any) -> int:
        return 1


def test_evaluate_plays_the_episodes_that_gymnasium_plays() -> None:
    env = gymnasium.make("CartPole-v1")
    played = obdbench.evaluate(AlwaysRight(), env, episodes=3, seed=5)
    for number, length in enumerate(played.lengths):
        env.reset(seed=5 + number)
        steps = 1
        while not env.step(1)[2]:
            steps += 1
        assert steps == length
    assert (played.returns == played.lengths).all(), "CartPole gives 1 for every step"
    assert played.normalized is not None
    np.testing.assert_allclose(played.normalized, 100 * (played.returns - 22.7) / (500 - 22.7))
    by_id = obdbench.evaluate(AlwaysRight(), "CartPole-v1", episodes=3, seed=5)
    assert (by_id.returns == played.returns).all()
    assert "mean normalized return" in repr(played)
    assert "mean normalized return" in played._repr_html_()


def test_returns_in_a_changed_environment_are_not_normalised_by_the_plain_ones() -> None:
    plain = gymnasium.make("CartPole-v1")
    for other in (
        'CartPole-v1{"max_episode_steps": 9}',
        gymnasium.make("CartPole-v1", max_episode_steps=9),
        gymnasium.make("CartPole-v1", sutton_barto_reward=True),
        gymnasium.wrappers.TransformReward(plain, float),
    ):
        assert obdbench.evaluate(AlwaysRight(), other, episodes=1).normalized is None
    recorded = gymnasium.wrappers.RecordEpisodeStatistics(plain)
    assert obdbench.evaluate(AlwaysRight(), recorded, episodes=1).normalized is not None


class Stands:
    def predict(self, observation: Any) -> NDArray[np.float32]:
        return np.zeros(3, dtype=np.float32)


def test_returns_with_other_contacts_are_not_normalised_by_d4rls() -> None:
    """gymnasium's own Hopper-v4, in which the margins of MuJoCo 3.5 and later add up."""
    plain = gymnasium.make(gymnasium.registry["Hopper-v4"])
    assert obdbench.evaluate(Stands(), plain, episodes=1).normalized is None
    assert obdbench.evaluate(Stands(), "Hopper-v4", episodes=1).normalized is not None


def test_an_environment_without_reference_returns_gives_plain_returns() -> None:
    played = obdbench.evaluate(AlwaysRight(), "MountainCar-v0", episodes=1)
    assert played.normalized is None
    assert "normalized" not in repr(played)
    known = obdbench.evaluate(
        AlwaysRight(), "MountainCar-v0", 1, reference=obdbench.ReferenceReturns(-200.0, 0.0)
    )
    assert known.normalized is not None
    assert known.normalized.tolist() == [0.0]


def test_reference_returns_are_known_of_the_suites_environments_and_of_d4rls() -> None:
    assert known_reference("Hopper-v4") == d4rl_reference("hopper-medium-v2")
    hopper = known_reference("Hopper-v5")
    assert hopper is not None
    assert hopper != known_reference("Hopper-v4")


def test_datasets_of_others_neither_change_nor_hide_the_suites_references(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry("dataset", "obdbench.none", obdbench.DatasetSource, entries="instances")
    theirs = obdbench.ReferenceReturns(0.0, 1.0)
    for env_id in ("CartPole-v1", "Hopper-v5", "Pendulum-v1"):
        mixture = obdbench.ScriptedMixture(
            env_id, "theirs", controller=lambda observations: observations, noise=(0.0,),
            reference=theirs,
        )  # fmt: skip
        registry.register(f"a/{env_id}", mixture)
    registry.register("b/broken", "no_such_module:NOTHING")
    own = obdbench.DATASETS["cartpole/mixed"]
    registry.register("cartpole/mixed", own, origin="obdbench")
    expected = known_reference("Hopper-v5")
    monkeypatch.setattr("obdbench.policies.DATASETS", registry)
    assert known_reference("CartPole-v1") == own.reference  # type: ignore[attr-defined]
    assert known_reference("Hopper-v5") == expected
    assert known_reference("Pendulum-v1") == theirs
    assert known_reference("MountainCar-v0") is None


def test_a_sweep_goes_on_where_it_was(
    small_dataset_name: str, record_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = {
        "name": "from_python",
        "datasets": [small_dataset_name],
        "seeds": 2,
        "protocol": {"name": "t", "students": 2, "episodes": 2, "checkpoint_every": 2, "last": 2},
        "student": STUDENT,
        "methods": [{"name": "random", "synthetic_size": 4}, {"name": "raises"}],
    }
    table = obdbench.sweep(plan, jobs=1, plugins=[PLUGIN])
    rows = table.data.set_index("method")
    assert rows.loc["random", "n"] == 2
    assert rows.loc["raises", "n_failed"] == 2
    assert table._repr_html_().startswith("<table>")
    assert "random" in repr(table)
    times = {path: path.stat().st_mtime_ns for path in record_store.glob("*/*/record.json")}
    obdbench.sweep("from_python", jobs=1)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    obdbench.sweep("from_python", jobs=1, retry=True)
    changed = {p.parent.parent.name for p, time in times.items() if p.stat().st_mtime_ns != time}
    assert [name.split(".")[1] for name in changed] == ["raises"]
    assert not caplog.messages
    obdbench.sweep({**plan, "seeds": [1], "methods": plan["methods"][:1]}, jobs=1)
    assert caplog.messages[0].startswith("from_python asked for 3 other runs before")


def test_a_sweep_refuses_to_stand_next_to_records_of_other_data(
    done: obdbench.Run, small_dataset_name: str
) -> None:
    path = done.folder / "record.json"
    write_record(path, altered(done.record, provenance__dataset_sha256="0" * 64))
    plan = {
        "name": "other_data",
        "datasets": [small_dataset_name],
        "protocol": dataclasses.asdict(PROTOCOL),
        "student": STUDENT,
        "methods": [{"name": "random", "synthetic_size": 4}],
    }
    with pytest.raises(obdbench.ObdBenchError, match="with sha256 0000000000000000; it now holds"):
        obdbench.sweep(plan, jobs=1)


def test_results_hold_every_shipped_own_and_published_number(done: obdbench.Run) -> None:
    numbers = obdbench.results()
    counts = numbers.groupby("source").size()
    assert counts["shipped"] == len(list(SHIPPED.glob("*/seed*/record.json")))
    assert counts["published"] == len(published_cells())
    (own,) = numbers[numbers.source == "own"].to_dict("records")
    assert (own["run_id"], own["normalized_return"]) == (done.run_id, done.normalized_return)
    assert own["synthetic_size"] == 4
    cell = numbers[
        (numbers.table == "obd table1")
        & (numbers.method == "av_pbc")
        & (numbers.dataset == "d4rl/hopper-medium-v2")
    ]
    (published,) = [c for c in published_cells()
                    if (c.table, c.paper, c.method, c.dataset)
                    == ("table1", "obd", "av_pbc", "d4rl/hopper-medium-v2")]  # fmt: skip
    assert cell.normalized_return.tolist() == [published.value]
    others = numbers[(numbers.source == "published") & ~numbers.dataset.str.startswith("d4rl/")]
    images = others.dataset.str.startswith("images/")
    assert others.normalized_return.isna().all()
    assert images.any() and others[images].accuracy.between(0, 1).all()
    assert others[~images]["return"].notna().all()
    brax = numbers[numbers.dataset.str.startswith("brax/") & (numbers.source == "published")]
    assert brax.normalized_return.isna().all()
    assert brax["return"].notna().all()


def test_a_dataset_is_collected_when_it_is_not_there(own_datasets: Path) -> None:
    data = obdbench.load_dataset("cartpole/mixed@300")
    assert len(data) == 300
    assert obdbench.load_dataset("cartpole/mixed@300").sha256 == data.sha256


def test_a_teacher_is_found_by_name_and_by_dataset(
    tiny_teacher: Any, small_dataset_name: str
) -> None:
    data = obdbench.load_dataset(small_dataset_name)
    assert obdbench.load_teacher(data).facts == obdbench.load_teacher(small_dataset_name).facts
