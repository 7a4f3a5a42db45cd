"""`verify` and `export`: a run is done again to the same bits, and its set read by others."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import minari
import msgspec
import numpy as np
import pytest
import torch

from benchmark.errors import ObdBenchError
from benchmark.record import (
    FILE,
    DensityFacts,
    Record,
    TeacherFacts,
    record_folder,
    score_of,
    write_record,
)
from benchmark.registry import load_plugin
from benchmark.run import run_folder
from benchmark.spec import RunSpec
from benchmark.synthetic_set import (
    LearnedTraining,
    SyntheticSet,
    load_synthetic_set,
    save_synthetic_set,
)
from obdbench.export import export_set, minari_id
from obdbench.face import find_run
from obdbench.verify import LEAST_TOLERANCE, compare, verify
from tests.obdbench.conftest import Result
from tests.tiny_runs import PLUGIN, altered, execute, tiny_spec


@pytest.fixture(scope="module")
def spec(small_dataset_name: str) -> RunSpec:
    return tiny_spec("dbc", small_dataset_name)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def record(spec: RunSpec, store: Path) -> Record:
    return execute(spec, store)


def elsewhere(record: Record) -> Record:
    """The record, as if made on another processor and torch."""
    packages = record.provenance.packages | {"torch": "9.9"}
    return altered(
        altered(record, provenance__device="cpu (another)"), provenance__packages=packages
    )


def moved(record: Record, points: float) -> Record:
    """The record with every return so much higher that the score rises by some points."""
    assert record.normalisation is not None and record.score is not None
    higher = points * (record.normalisation.expert - record.normalisation.random) / 100
    checkpoints = []
    for checkpoint in record.checkpoints:
        returns = (np.array(checkpoint.returns) + higher).tolist()
        mean = float(np.mean(returns))
        checkpoints.append(
            msgspec.structs.replace(
                checkpoint,
                returns=returns,
                mean_return=mean,
                normalized_return=float(record.normalisation.normalise(mean)),
            )
        )
    score = score_of(checkpoints, record.spec.protocol)
    return altered(record, checkpoints=checkpoints, score=score)


def test_a_run_done_again_here_is_exact(record: Record, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    found = verify(record, tmp_path)
    assert (found.verdict, found.changed, found.recorded) == ("exact", (), found.found)
    assert torch.get_num_threads() == threads


def test_elsewhere_the_score_of_one_policy_decides_nothing(record: Record) -> None:
    """BC on the whole data trains one policy, and rounding makes another one of it."""

    def alone(given: Record) -> Record:
        points = [
            msgspec.structs.replace(c, returns=c.returns[:1], lengths=c.lengths[:1])
            for c in given.checkpoints
        ]
        return altered(given, checkpoints=points)

    one, other = alone(record), alone(moved(elsewhere(record), 20.0))
    assert compare(one, other).verdict == "undecided"
    assert compare(one, alone(elsewhere(record))).verdict == "exact"
    assert compare(one, alone(moved(record, 0.001))).verdict == "differs", "in the same place"


def test_a_run_with_an_attempt_elsewhere_may_round_otherwise(record: Record) -> None:
    other = altered(record, provenance__resumed_from=["device cpu (another)"])
    found = compare(other, moved(record, 0.001))
    assert found.verdict == "within tolerance"
    assert found.changed == ("an earlier attempt: device cpu (another)",)


def test_another_teacher_and_other_densities_of_the_same_names_are_named(record: Record) -> None:
    teacher = TeacherFacts(
        name="td3_bc", sha256="1" * 64, return_=1.0, normalized_return=1.0, episodes=1
    )
    density = DensityFacts(
        name="maf", sha256="3" * 64, held_out_log_likelihood=1.0, held_out_standard_error=0.1,
        not_finite=0,
    )  # fmt: skip
    before = altered(record, teacher=teacher, density=density)
    assert compare(before, before).changed == ()
    again = altered(before, teacher__sha256="2" * 64, density__sha256="4" * 64)
    found = compare(before, moved(again, 0.001))
    assert found.verdict == "within tolerance"
    assert found.changed == (
        f"teacher: sha256 {'1' * 16} -> {'2' * 16}",
        f"log densities: sha256 {'3' * 16} -> {'4' * 16}",
    )


def test_other_numbers_in_the_same_surroundings_differ_however_near(record: Record) -> None:
    assert compare(record, moved(record, 0.001)).verdict == "differs"


def test_elsewhere_scores_agree_within_three_standard_errors(record: Record) -> None:
    other = elsewhere(record)
    assert compare(record, other).verdict == "exact"
    tolerance = compare(record, other).tolerance
    points = 100.0 / (3467.5 + 14.8)  # the reference returns of Hopper are about that
    used = record.score.outer_steps_used
    variances = [
        np.var(np.mean(c.returns, axis=1), ddof=1) / 2
        for c in record.checkpoints
        if c.outer_step in used
    ]
    by_hand = 3 * np.sqrt(2 * np.mean(variances)) * points
    assert tolerance == pytest.approx(max(by_hand, LEAST_TOLERANCE), rel=0.05)
    assert compare(record, moved(other, 0.9 * tolerance)).verdict == "within tolerance"
    found = compare(record, moved(other, 1.1 * tolerance))
    assert found.verdict == "differs"
    assert found.changed == (
        f"torch: {record.provenance.packages['torch']} -> 9.9",
        f"device: {record.provenance.device} -> cpu (another)",
    )


def test_a_failed_run_and_other_data_are_refused(
    record: Record, small_dataset_name: str, tmp_path: Path
) -> None:
    load_plugin(PLUGIN)
    failed = execute(tiny_spec("raises", small_dataset_name), tmp_path / "a")
    with pytest.raises(ObdBenchError, match="failed \\(ValueError\\)"):
        verify(failed, tmp_path / "b")
    other = altered(record, provenance__dataset_sha256="0" * 64)
    with pytest.raises(ObdBenchError, match="sha256 0000000000000000; it has"):
        verify(other, tmp_path / "c")


def test_the_command_says_so_and_ends_with_1_where_numbers_differ(
    cli: Any, record: Record, store: Path, tmp_path: Path
) -> None:
    result: Result = cli("verify", record.run_id, "--store", store)
    assert result.code == 0
    assert f"{record.run_id}: exact" in result.out
    false = moved(record, 5.0)
    folder = tmp_path / record_folder(record.run_id)
    write_record(folder / FILE, false)
    result = cli("verify", folder)
    assert (result.code, ": differs" in result.out) == (1, True)


def test_runs_are_found_by_id_and_by_folder(record: Record, spec: RunSpec, store: Path) -> None:
    folder = run_folder(store, spec)
    for name in (record.run_id, str(folder), str(folder / FILE)):
        found = find_run(name, store)
        assert (found.folder, found.record) == (folder, record)
    with pytest.raises(ObdBenchError, match=r"No run '.*dbd.*' has a record in .*Did you mean"):
        find_run(record.run_id.replace("dbc", "dbd"), store)


def test_a_set_is_the_same_in_every_format(
    cli: Any, record: Record, spec: RunSpec, store: Path, tmp_path: Path
) -> None:
    source = run_folder(store, spec) / record.checkpoints[-1].synthetic_set
    pairs, _, card = load_synthetic_set(source)
    observations, actions = pairs.observations.numpy(), pairs.actions.numpy()

    def export(kind: str, to: str) -> None:
        words = ("export", record.run_id, "--format", kind, "--to", to, "--store", store)
        assert cli(*words).code == 0

    export("safetensors", str(tmp_path / "set.safetensors"))
    assert (tmp_path / "set.safetensors").read_bytes() == source.read_bytes()

    export("npz", str(tmp_path / "set.npz"))
    with np.load(tmp_path / "set.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["observations"], observations)
        assert np.array_equal(arrays["actions"], actions)
        assert json.loads(str(arrays["card"])) == card

    export("csv", str(tmp_path / "set.csv"))
    with (tmp_path / "set.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    table = np.array([[float(v) for v in row.values()] for row in rows], dtype=np.float32)
    assert np.array_equal(table, np.concatenate([observations, actions], 1))
    assert list(rows[0])[-1] == f"action_{actions.shape[1] - 1}"

    for other in (record.run_id, execute(tiny_spec("random", spec.dataset, seed=1), store).run_id):
        words = ("export", other, "--format", "minari", "--store", store)
        named = cli(*words)  # two runs have two ids
        assert named.code == 0 and minari_id(other) in named.out
        again = cli(*words)
        assert again.code == 1 and f"minari delete {minari_id(other)}" in again.err
        wrong = cli(*words, "--to", "no version")
        assert wrong.code == 1 and "not the id of a Minari dataset" in wrong.err

    export("minari", "test/exported-v0")
    dataset = minari.load_dataset("test/exported-v0")
    episodes = list(dataset.iterate_episodes())
    assert [len(e.actions) for e in episodes] == [1] * len(pairs)
    first = np.stack([e.observations[0] for e in episodes])
    assert np.allclose(first, observations)
    assert np.array_equal(np.concatenate([e.actions for e in episodes]), actions)
    bounds = dataset.env_spec.make().action_space
    inside = ((actions >= bounds.low) & (actions <= bounds.high)).all()
    assert (dataset.action_space == bounds) == inside


def test_a_minari_dataset_has_learned_actions_as_they_are(
    record: Record, spec: RunSpec, store: Path, tmp_path: Path
) -> None:
    """Students learn them so: clipped to the bounds, they would be another set."""
    source = run_folder(store, spec) / record.checkpoints[-1].synthetic_set
    pairs, scaling, card = load_synthetic_set(source)
    actions = pairs.actions.clone()
    actions[0, 0] = 1.75
    changed = tmp_path / "changed.safetensors"
    card.pop("format")
    save_synthetic_set(SyntheticSet(pairs.observations, actions), scaling, changed, card)
    export_set(changed, "minari", "test/learned-v0")
    dataset = minari.load_dataset("test/learned-v0")
    episodes = list(dataset.iterate_episodes())
    assert np.array_equal(np.concatenate([e.actions for e in episodes]), actions.numpy())
    assert np.isinf(dataset.action_space.high).all()
    described = dataset.storage.metadata["description"]
    assert "of its actions' numbers are learned ones beyond the environment's bounds" in described


def test_a_file_says_its_format_and_is_not_written_over(
    cli: Any, record: Record, store: Path, tmp_path: Path
) -> None:
    def export(*words: Any) -> Any:
        return cli("export", record.run_id, "--store", store, *words)

    path = tmp_path / "set.csv"
    assert export("--to", path).code == 0
    written = path.read_text()
    assert written.startswith("observation_0,")
    path.write_text("my notes")
    found = export("--to", path)
    assert (found.code, path.read_text()) == (1, "my notes")
    assert f"{path} exists already" in found.err and "--force" in found.err
    assert (export("--to", path, "--force").code, path.read_text()) == (0, written)

    for words, says in (
        (("--to", tmp_path / "new.csv", "--format", "npz"), "named as one of csv"),
        (("--to", tmp_path / "new.txt"), "no suffix that says a format"),
        (("--to", tmp_path, "--format", "csv", "--force"), f"{tmp_path} is a folder"),
    ):
        found = export(*words)
        assert found.code == 1 and says in found.err
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_named_by_the_run_is_not_written_over_either(
    cli: Any,
    record: Record,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("export", record.run_id, "--store", store)
    path = tmp_path / f"{record.run_id}.npz"
    path.write_text("my notes")
    found = cli(*words)
    assert (found.code, path.read_text()) == (1, "my notes")
    assert f"{path.name} exists already" in found.err and "--force" in found.err
    assert cli(*words, "--force").code == 0
    with np.load(path, allow_pickle=False) as arrays:
        assert "observations" in arrays


@pytest.mark.parametrize(
    "others", [{"weights": torch.tensor([0.25, 1.0])}, {"stages": torch.tensor([0, 1])}]
)
def test_stages_and_weights_are_exported_or_the_format_is_refused(
    others: dict[str, Any], record: Record, spec: RunSpec, store: Path, tmp_path: Path
) -> None:
    source = run_folder(store, spec) / record.checkpoints[-1].synthetic_set
    plain, scaling, card = load_synthetic_set(source)
    pairs = SyntheticSet(plain.observations[:2], plain.actions[:2], **others)
    changed = tmp_path / "changed.safetensors"
    card.pop("format")
    save_synthetic_set(pairs, scaling, changed, card)
    ((name, values),) = others.items()

    export_set(changed, "npz", str(tmp_path / "set.npz"))
    with np.load(tmp_path / "set.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays[name], values.numpy())
    export_set(changed, "csv", str(tmp_path / "set.csv"))
    with (tmp_path / "set.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row[name.removesuffix("s")]) for row in rows] == values.tolist()
    with pytest.raises(ObdBenchError, match=f"has {name}, .*Take --format npz or csv"):
        export_set(changed, "minari", "test/weighted-v0")


def test_learned_units_and_rate_are_exported_or_the_format_is_refused(
    record: Record, spec: RunSpec, store: Path, tmp_path: Path
) -> None:
    source = run_folder(store, spec) / str(record.checkpoints[-1].synthetic_set)
    plain, scaling, card = load_synthetic_set(source)
    own = dataclasses.replace(scaling, mean=scaling.mean + 1)
    changed = tmp_path / "changed.safetensors"
    card.pop("format")
    pairs = dataclasses.replace(plain, training=LearnedTraining(own, 1.7))
    save_synthetic_set(pairs, scaling, changed, card)

    export_set(changed, "npz", str(tmp_path / "set.npz"))
    with np.load(tmp_path / "set.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["observation_mean"], own.mean.numpy())
        assert np.array_equal(arrays["observation_std"], own.std.numpy())
        assert float(arrays["learning_rate"]) == 1.7
    for kind in ("csv", "minari"):
        with pytest.raises(ObdBenchError, match=r"statistics .* no place .* npz or safetensors"):
            export_set(changed, kind, str(tmp_path / "no"))


def test_what_has_no_set_says_why(
    cli: Any, record: Record, small_dataset_name: str, tmp_path: Path, store: Path
) -> None:
    whole = execute(tiny_spec("bc_whole", small_dataset_name), tmp_path)
    result = cli("export", whole.run_id, "--store", tmp_path)
    assert (result.code, "gives a policy, not a set" in result.err) == (1, True)
    result = cli("export", record.run_id, "--format", "pickle", "--store", store)
    assert "expected one of npz, safetensors, csv, minari" in " ".join(result.err.split())
