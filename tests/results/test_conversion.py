"""Records of version 1 become records of this version, with the same numbers and their origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import ObdBenchError
from benchmark.files import json_sha256
from benchmark.spec import OtherVersion
from results.conversion import NotConvertible, convert_record, convert_spec, convert_store
from results.record_store import SHIPPED, all_records, load_sweep, sweep_records

OLD_ID = "hopper-medium.random.0123456789ab.seed0"


def old_spec(seed: int = 0, **changes: Any) -> dict[str, Any]:
    student = {
        "name": "mlp", "depth": 4, "width": 64, "head": "sampled", "optimizer": "sgd",
        "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.01, "steps": 50,
    }  # fmt: skip
    protocol = {"name": "mine", "students": 1, "episodes": 2, "checkpoint_every": 5, "last": 1}
    return {
        "method": {"name": "random", "parameters": {"synthetic_size": 64}},
        "dataset": "hopper/medium", "teacher": "none", "student": student,
        "evaluation_student": None, "protocol": protocol, "seed": seed, **changes,
    }  # fmt: skip


def old_record(seed: int = 0, returns: tuple[float, float] = (10.0, 30.0)) -> dict[str, Any]:
    """A record as version 1 wrote it, on a scale of 0 (random: 5) to 100 (expert: 105)."""
    mean = sum(returns) / 2
    checkpoint = {
        "outer_step": 0, "returns": [list(returns)], "lengths": [[7, 8]], "mean_return": mean,
        "normalized_return": mean - 5, "synthetic_set": "set-00000000.safetensors", "sha256": "ab",
    }  # fmt: skip
    return {
        "schema": "obdbench.record/1",
        "run_id": OLD_ID.replace("seed0", f"seed{seed}"),
        "cell_id": OLD_ID.rpartition(".")[0],
        "status": "complete",
        "spec": old_spec(seed),
        "needs": ["dataset"],
        "checkpoints": [checkpoint],
        "score": {"normalized_return": mean - 5, "return": mean, "outer_steps_used": [0]},
        "cost": {
            "wall_seconds": 1.5, "cpu_seconds": 1.4, "peak_memory_bytes": 10, "outer_steps": 0,
            "environment_steps": 0, "evaluation_wall_seconds": 0.5,
            "evaluation_environment_steps": 15, "attempts": 2,
        },
        "teacher": None,
        "provenance": {
            "commit": "c0ffee", "dirty": False, "packages": {"torch": "2.13.0"}, "python": "3.11",
            "device": "cpu", "host": "there", "threads": 1, "environment": "Hopper-v5",
            "dataset_sha256": "00", "seeds": {"seed": seed, "axes": {"run": OLD_ID}},
        },
        "error": None,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:00:01+00:00",
    }  # fmt: skip


def old_store(folder: Path, records: list[dict[str, Any]]) -> Path:
    for values in records:
        run = folder / values["cell_id"] / f"seed{values['spec']['seed']}"
        run.mkdir(parents=True)
        (run / "record.json").write_text(json.dumps(values))
        (run / "set-00000000.safetensors").write_bytes(b"pairs")
    (folder / "sweeps").mkdir(parents=True)
    specs = [values["spec"] for values in records]
    sweep = {"name": "mine", "description": "", "runs": specs}
    (folder / "sweeps" / "mine.json").write_text(json.dumps(sweep))
    study = {"source": {"run": OLD_ID}, "rows": [1]}
    (folder / "studies" / "s").mkdir(parents=True)
    (folder / "studies" / "s" / f"{OLD_ID}.json").write_text(json.dumps(study))
    return folder


def test_a_store_keeps_numbers_sets_sweeps_studies_and_provenance(tmp_path: Path) -> None:
    old = old_store(tmp_path / "old", [old_record(0), old_record(1, (20.0, 50.0))])
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert convert_store(old, tmp_path / "new") == 2
    records = sweep_records(tmp_path / "new", load_sweep(tmp_path / "new", "mine"))
    assert [record.mean_score.normalized_return for record in records] == [15.0, 30.0]
    assert [record.cost.attempts for record in records] == [2, 2]
    first = records[0]
    assert first.normalisation is not None
    assert (first.normalisation.random, first.normalisation.expert) == (5.0, 105.0)
    assert first.provenance.commit == "c0ffee"
    assert first.provenance.converted_from is not None
    assert first.provenance.converted_from.run_id == OLD_ID
    assert first.provenance.seeds.scoring == {"run": OLD_ID}
    sets = list((tmp_path / "new").rglob("set-*.safetensors"))
    assert [path.read_bytes() for path in sets] == [b"pairs", b"pairs"]
    (study,) = (tmp_path / "new" / "studies" / "s").iterdir()
    values = json.loads(study.read_text())
    assert values.pop("sha256") == json_sha256(values)
    assert study.stem == values["source"]["run"] == first.run_id
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_a_converted_run_is_never_taken_for_one_of_this_suite() -> None:
    spec = convert_spec(old_spec())
    assert (spec.version, spec.parameters) == (0, {"synthetic_size": 64})
    with pytest.raises(OtherVersion, match="of version 0 of random; this suite has version 1"):
        _ = spec.method_instance


def test_parameters_that_were_the_defaults_are_left_out() -> None:
    method = {"name": "random", "parameters": {"synthetic_size": 256}}
    assert convert_spec(old_spec(method=method)).parameters == {}
    record = convert_record({**old_record(), "spec": old_spec(method=method)}, None)
    assert record.parameters == {"synthetic_size": 256}


def test_a_method_that_is_not_registered_here_keeps_all_its_parameters() -> None:
    values = old_spec(method={"name": "theirs", "parameters": {"colour": "red"}})
    record = convert_record({**old_record(), "spec": values}, None)
    assert (record.spec.method, record.spec.parameters) == ("theirs", {"colour": "red"})
    assert record.reference is False


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([old_record() | {"schema": "obdbench.record/2"}], "has schema 'obdbench.record/2'"),
        ([old_record()], "have one return only"),
    ],
)
def test_what_cannot_be_converted_is_said_and_nothing_is_written(
    records: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(NotConvertible, match=message):
        convert_store(old_store(tmp_path / "old", records), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_store_that_exists_is_not_written_into(tmp_path: Path) -> None:
    with pytest.raises(NotConvertible, match="exists"):
        convert_store(old_store(tmp_path / "old", [old_record()]), tmp_path)


def test_an_altered_old_record_is_refused_by_its_own_numbers(tmp_path: Path) -> None:
    altered = old_record(2, (0.0, 5.0))
    altered["score"]["normalized_return"] = 99.0
    old = old_store(tmp_path / "old", [old_record(0), old_record(1, (20.0, 50.0)), altered])
    with pytest.raises(ObdBenchError, match=r"its score is 99\.0"):
        convert_store(old, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"], "nothing is half converted"


def test_a_dataset_on_which_no_run_came_to_a_score_has_no_scale(tmp_path: Path) -> None:
    error = {"type": "OSError", "message": "", "traceback": ""}
    failed = old_record() | {"status": "failed", "checkpoints": [], "score": None, "error": error}
    old = old_store(tmp_path / "old", [failed])
    assert convert_store(old, tmp_path / "new") == 1
    (record,) = sweep_records(tmp_path / "new", load_sweep(tmp_path / "new", "mine"))
    assert (record.status, record.normalisation) == ("failed", None)


def test_every_shipped_record_is_whole_and_of_a_version_that_can_be_repeated() -> None:
    records = list(all_records(SHIPPED))  # reading checks each of them
    assert records
    assert [record.run_id for record in records if record.provenance.converted_from] == []
    assert 0 not in {record.spec.version for record in records}
