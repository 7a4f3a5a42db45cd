"""Sets and densities are what their authors published, or the whole clone is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.artefacts.artefact import (
    Artefact,
    ArtefactProblem,
    load_artefact,
    load_card,
    store_artefacts,
    stored_names,
)
from benchmark.artefacts.hades import find_hades
from benchmark.artefacts.obd import find_sdr, find_teachers
from benchmark.artefacts.ppmo import find_ppmo
from benchmark.errors import ObdBenchError
from benchmark.names import BadName
from tests.published_files import (
    BREAKOUT,
    GENERATIONS,
    HOPPER,
    IMAGES,
    POLICY,
    POLICY_WIDTH,
    RESULTS,
    Jax,
    dumps,
    hades_content,
    ppmo_content,
    write_hades,
    write_ppmo,
)

SHARED = Path(__file__).resolve().parents[3].parent / "shared"


def needs(folder: str) -> pytest.MarkDecorator:
    """Skip a test where the authors' files are not next to the checkout."""
    path = SHARED / folder
    return pytest.mark.skipif(not path.is_dir(), reason=f"no authors' files in {path}")


# --- HaDES ------------------------------------------------------------------------------------


def only(folder: Path) -> Artefact:
    (found,) = find_hades(folder).artefacts
    return found


def test_a_set_of_continuous_actions_is_taken_apart(tmp_path: Path) -> None:
    write_hades(tmp_path)
    found = only(tmp_path)
    assert found.name == f"hades/{HOPPER}"
    numbers = torch.arange(28.0)
    # The authors flatten a dictionary: its keys in sorted order, actions before states.
    assert torch.equal(found.tensors["actions"], numbers[:6].view(2, 3))
    assert torch.equal(found.tensors["observations"], numbers[6:].view(2, 11))
    assert torch.equal(found.tensors["best_observations"], -numbers[6:].view(2, 11))
    assert found.tensors["sigma_actions"].unique().tolist() == [np.float32(0.03)]
    assert torch.equal(found.tensors["observation_mean"], torch.arange(11.0))
    card = found.card
    assert (card["environment"], card["pairs"], card["observation_dim"]) == ("brax/hopper", 2, 11)
    assert card["normalization"]["kind"] == "constant"
    assert (card["fixed_initialization"], card["initialization_seed"]) == (False, None)
    assert card["settings"]["LR"] == 0.005
    assert "OBS_MEAN" not in card["settings"], "an array, which is among the tensors"
    # Generations 10 to 29 of a curve whose value is the generation.
    assert card["published"]["mean_of_last_20_generations"] == 19.5
    assert torch.equal(found.tensors["fitness_max"], 2 * torch.arange(float(GENERATIONS)))


def test_a_set_with_fixed_labels_has_those_that_its_authors_gave_it(tmp_path: Path) -> None:
    """Seven states, three actions: two labels each, and a state that is never trained on."""
    write_hades(tmp_path, BREAKOUT)
    found = only(tmp_path)
    assert found.tensors["actions"].argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    assert found.tensors["actions"].sum(1).tolist() == [1.0] * 6
    states = torch.arange(2400.0).view(6, 400)
    assert torch.equal(found.tensors["observations"], states)
    assert torch.equal(found.tensors["sigma_observations"], 0.5 + states)
    assert not found.tensors["sigma_actions"].any(), "labels are not perturbed"
    assert (found.card["pairs"], found.card["states_without_label"]) == (6, 1)
    assert found.card["environment"] == "minatar/breakout"
    assert (found.card["fixed_initialization"], found.card["initialization_seed"]) == (True, 420)


def test_a_set_of_images_has_a_label_per_class_and_its_accuracy(tmp_path: Path) -> None:
    write_hades(tmp_path, IMAGES)
    found = only(tmp_path)
    assert torch.equal(found.tensors["actions"], torch.eye(10))
    assert found.tensors["observations"].shape == (10, 784)
    assert found.card["published"]["train_accuracy"] == pytest.approx(0.9)
    assert found.card["normalization"]["kind"] == "none"


def test_an_evolved_policy_is_taken_apart_as_flax_flattens_it(tmp_path: Path) -> None:
    write_hades(tmp_path, POLICY)
    found = only(tmp_path)
    assert found.name == f"hades/{POLICY}"
    assert (found.card["kind"], found.card["environment"]) == ("policy", "minatar/breakout")
    tree = {  # sorted names: of a layer the bias before the kernel `[in, out]`
        f"Dense_{layer}": {"bias": np.zeros(after), "kernel": np.zeros((before, after))}
        for layer, (before, after) in enumerate(((400, 2), (POLICY_WIDTH, 2), (POLICY_WIDTH, 3)))
    }
    at = 0
    for layer, name in enumerate(sorted(tree)):
        for part in sorted(tree[name]):
            shape = tree[name][part].shape
            values = torch.arange(at, at + tree[name][part].size, dtype=torch.float32).view(shape)
            at += values.numel()
            key = f"bias_{layer}" if part == "bias" else f"weight_{layer}"
            assert torch.equal(found.tensors[key], values if part == "bias" else values.T)
            assert torch.equal(found.tensors[f"sigma_{key}"], found.tensors[key] + 0.5)
    assert at == hades_content(POLICY)["state"].mean.values.size
    other = hades_content(POLICY)
    other["config"]["WIDTH"] = 3
    write_hades(tmp_path, POLICY, other)
    with pytest.raises(ArtefactProblem, match="not one positive number or 1227 of them"):
        find_hades(tmp_path)


def test_what_is_no_set_of_the_paper_is_left_out_and_said(tmp_path: Path) -> None:
    write_hades(tmp_path)
    policy = hades_content(POLICY)
    policy["config"]["ENV_NAME"] = "Pong-misc"
    write_hades(tmp_path, "baselines/Pong-misc/seed2", policy)
    content = hades_content(HOPPER)
    content["config"]["ENV_NAME"] = "Pong-misc"
    write_hades(tmp_path, "minatar/overfit/Pong-misc/D3/seed0", content)
    found = find_hades(tmp_path)
    assert [artefact.name for artefact in found.artefacts] == [f"hades/{HOPPER}"]
    assert {reason: len(files) for reason, files in found.left_out.items()} == {
        "policies for 'Pong-misc', which the paper does not report": 1,
        "sets for 'Pong-misc', which the paper does not report": 1,
    }
    assert found.notes == [
        f"Fewer than the paper's 3 seeds: hades/{HOPPER.removesuffix('/seed0')} (seed0)."
    ]


def config(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["config"].update(values)


def evolution(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["es_config"].update(values)


def state(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: vars(content["state"]).update(values)


def content(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda whole: whole.update(values)


BAD = [
    (config(ENV_NAME="walker2d"), "a set for another environment"),
    (config(SEED=1), "a set for another environment or run"),
    (evolution(dataset_size=4), "a set for another environment"),
    (evolution(dataset_size=10**40), "has 1000.* as the setting 'dataset_size'"),
    (evolution(dataset_size=True), "has True as the setting 'dataset_size', expected a int from 1"),
    (evolution(popsize=3), r"has 'fitness' of shape \[4\], expected \[3\]"),
    (evolution(learn_labels=True), "has evolved labels"),
    (config(OVERFIT="no"), "has 'no' as the setting 'OVERFIT', expected a bool"),
    (config(LR=[1]), "has a list as a setting"),
    (config(LR=float("nan")), "has nan as a setting"),
    (config(**{"OBS_MEAN": [{}]}), "has 'OBS_MEAN' of shape list"),
    (config(OBS_MEAN=Jax(np.zeros(17))), r"has 'OBS_MEAN' of shape \[17\], expected \[11\]"),
    (config(OBS_VAR=Jax(-np.ones(11))), "negative numbers in 'OBS_VAR'"),
    (state(mean=Jax(np.zeros(27))), r"has 'mean' of shape \[27\], expected \[28\]"),
    (state(mean=Jax(np.full(28, np.nan))), "has 28 of 28 numbers in 'mean' that are not finite"),
    (state(sigma=Jax(0.0)), "'sigma' that is not one positive number"),
    (state(sigma=Jax(np.ones(5))), "'sigma' that is not one positive number"),
    (state(sigma=Jax(np.inf)), "in 'sigma' that are not finite"),
    (state(gen_counter=Jax(7, "i4")), "has 30 entries in 'fitness_over_gen', expected .* 7"),
    (state(gen_counter=3), "has 'gen_counter' of shape int"),
    (content(fitness_over_gen=None), "has 0 entries"),
    (content(max_fitness_over_gen=[Jax([1.0])] * 30), "expected a number for each of 30"),
    (content(state={}), "something else than evosax's EvoState"),
]


@pytest.mark.parametrize(("change", "says"), BAD, ids=[says for _, says in BAD])
def test_a_file_that_does_not_fit_refuses_the_clone(
    change: Callable[[dict[str, Any]], None], says: str, tmp_path: Path
) -> None:
    write_hades(tmp_path, IMAGES)
    whole = hades_content(HOPPER)
    change(whole)
    path = write_hades(tmp_path, HOPPER, whole)
    with pytest.raises(ArtefactProblem, match=says) as told:
        find_hades(tmp_path)
    assert str(told.value).startswith(str(path))
    assert "Nothing was imported" in str(told.value)


def test_a_file_of_another_version_is_named(tmp_path: Path) -> None:
    for whole, says in (({"params": 1}, "holds params, expected"), ([1], "holds a list")):
        write_hades(tmp_path, HOPPER, whole)
        with pytest.raises(ArtefactProblem, match=f"{says}.* a file of another version"):
            find_hades(tmp_path)


def test_constants_that_differ_from_those_of_the_clone_are_refused(tmp_path: Path) -> None:
    write_hades(tmp_path)
    constants = tmp_path / "normalize_params"
    constants.mkdir()
    np.save(constants / "mean_hopper.npy", np.arange(11, dtype=np.float32))
    assert only(tmp_path).name == f"hades/{HOPPER}"
    np.save(constants / "var_hopper.npy", np.full(11, 2, dtype=np.float32))
    with pytest.raises(ArtefactProblem, match=r"'OBS_VAR' than .*var_hopper\.npy"):
        find_hades(tmp_path)
    (constants / "var_hopper.npy").write_bytes(dumps(Jax([1.0])))
    with pytest.raises(ArtefactProblem, match="cannot be read as a numpy array"):
        find_hades(tmp_path)


FINDERS: list[Callable[[Path], object]] = [find_hades, find_sdr, find_ppmo, find_teachers]


@pytest.mark.parametrize("find", FINDERS, ids=lambda find: find.__name__)
def test_a_folder_that_is_no_clone_is_one_sentence(
    find: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(ArtefactProblem, match="is not a folder; expected a clone"):
        find(tmp_path / "nowhere")
    (tmp_path / "README.md").write_text("half of a clone")
    with pytest.raises(ArtefactProblem, match="not a clone of the authors' repository, or half"):
        find(tmp_path)


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    path = write_hades(tmp_path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ArtefactProblem, match="git lfs pull"):
        find_hades(tmp_path)


# --- PPMO, SDR and OBD ------------------------------------------------------------------------


def test_a_set_of_ppmo_is_what_was_published(tmp_path: Path) -> None:
    write_ppmo(tmp_path)
    (tmp_path / "other.ckpt").write_bytes(b"is not read")
    found = find_ppmo(tmp_path)
    (artefact,) = found.artefacts
    assert torch.equal(artefact.tensors["observations"], torch.arange(44.0).view(4, 11))
    assert artefact.tensors["log_std"].shape == (1, 3)
    assert artefact.card["settings"]["inner_learning_rate"] == 1.5
    assert artefact.card["environment"] == "mujoco/hopper"
    assert artefact.card["normalization"] == {"kind": "running", "statistics": "not published"}
    assert "not published" in found.notes[0]
    assert list(found.left_out.values()) == [["other.ckpt"]]


def distiller(**values: Any) -> dict[str, Any]:
    return {"distiller": {**ppmo_content()["distiller"], **values}}


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        ([1], "holds a list, expected a dictionary with 'distiller'"),
        ({"model": 1}, "has 'model', expected 'distiller'"),
        (distiller(more=1), "a file of another version"),
        (ppmo_content(17, 6), r"'x' is of shape \[4, 17\].*\[4, 11\]: a set for another environ"),
        (distiller(y_mean=torch.ones(3, 3)), r"'y_mean' is of shape \[3, 3\]"),
        (distiller(x=torch.zeros(0, 11)), "'x' is of shape"),
        (distiller(x=torch.zeros(4, 11).double()), "float64"),
        (distiller(x=torch.zeros(1, 11).expand(4, 11)), "'x' is of shape"),
        (distiller(inner_lr=torch.tensor(torch.nan)), "finite"),
        (distiller(inner_lr=1.5), "'inner_lr' is a float"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_ppmo_that_does_not_fit_is_refused(whole: Any, says: str, tmp_path: Path) -> None:
    write_ppmo(tmp_path, whole)
    with pytest.raises(ArtefactProblem, match=says):
        find_ppmo(tmp_path)


def test_a_hostile_or_doubled_file_of_ppmo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    write_ppmo(tmp_path / "copy")
    write_ppmo(tmp_path)
    with pytest.raises(ArtefactProblem, match="has a set twice"):
        find_ppmo(tmp_path)
    write_ppmo(tmp_path, {"distiller": shutil.rmtree})
    with pytest.raises(ArtefactProblem, match=r"nothing of it was run.*authors' repository again"):
        find_ppmo(tmp_path)


@pytest.mark.parametrize("source", ["hades", "ppmo", "sdr"])
def test_a_file_that_does_not_fit_into_memory_is_not_read(source: str, tmp_path: Path) -> None:
    """A file with a hole takes no room on the disk, whatever its size."""
    density = tmp_path / "log_density_maf_hopper-medium.npy"
    density.write_bytes(b"")
    path = {"hades": write_hades(tmp_path), "ppmo": write_ppmo(tmp_path), "sdr": density}[source]
    with path.open("r+b") as file:
        file.truncate(2**40)
    find = {"hades": find_hades, "ppmo": find_ppmo, "sdr": find_sdr}[source]
    with pytest.raises(ObdBenchError, match=f"{path.name}.*has 1,099,511,627,776 bytes"):
        find(tmp_path)


def test_densities_are_found_by_their_dataset(tmp_path: Path) -> None:
    values = np.array([-80, 1, 5, np.nan], dtype=np.float32)
    (tmp_path / "state_density").mkdir()
    np.save(tmp_path / "state_density" / "log_density_maf_hopper-medium.npy", values)
    np.save(tmp_path / "other.npy", values)
    found = find_sdr(tmp_path)
    (artefact,) = found.artefacts
    assert artefact.name == "sdr/hopper-medium"
    assert artefact.card["dataset"] == "d4rl/hopper-medium-v2"
    assert (artefact.card["transitions"], artefact.card["not_finite"]) == (4, 1)
    assert artefact.card["published"]["smallest"] == -80
    np.testing.assert_array_equal(artefact.tensors["log_density"].numpy(), values)
    assert list(found.left_out.values()) == [["other.npy"]]
    assert "walker2d-medium (1 of 9)" in found.notes[0]


@pytest.mark.parametrize(
    "values",
    [np.zeros((3, 1), np.float32), np.zeros(3), np.zeros(0, np.float32), np.array(["a"])],
    ids=["shape", "float64", "empty", "text"],
)
def test_densities_of_another_form_are_refused(values: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "log_density_maf_hopper-medium.npy", values)
    with pytest.raises(ArtefactProblem, match="expected a float32 log density per transition"):
        find_sdr(tmp_path)


def test_an_array_whose_head_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log_density_maf_hopper-medium.npy"
    np.save(path, np.zeros(7, np.float32))
    path.write_bytes(
        path.read_bytes().replace(b"(7,), }" + b" " * 13, b"(7000000000000,), }" + b" ")
    )
    assert b"7000000000000" in path.read_bytes()
    with pytest.raises(ArtefactProblem, match="cannot be read as a numpy array"):
        find_sdr(tmp_path)


def test_teachers_are_found_in_a_clone_and_in_a_flat_folder(tmp_path: Path) -> None:
    nested = tmp_path / "offline_policy_checkpoints" / "Cal-QL-hopper-medium-v2" / "checkpoint.pt"
    nested.parent.mkdir(parents=True)
    flat = tmp_path / "Cal-QL-walker2d-medium-replay-v2.pt"
    for path in (nested, flat, tmp_path / "Cal-QL-ant-medium-v2.pt"):
        path.write_bytes(b"")
    paths, found = find_teachers(tmp_path)
    assert paths == {"hopper-medium-v2": nested, "walker2d-medium-replay-v2": flat}
    assert list(found.left_out.values()) == [["Cal-QL-ant-medium-v2.pt"]]
    assert "(2 of 9)" in found.notes[0]
    (tmp_path / "Cal-QL-hopper-medium-v2.pt").write_bytes(b"")
    with pytest.raises(ArtefactProblem, match="for hopper-medium-v2; expected one"):
        find_teachers(tmp_path)


# --- the store --------------------------------------------------------------------------------


def artefact(name: str = "hades/a/seed0", value: float = 1.0) -> Artefact:
    return Artefact(name, {"kind": "set"}, {"observations": torch.full((2, 3), value)})


def test_what_is_stored_is_loaded_and_replaced_together(tmp_path: Path) -> None:
    store_artefacts([artefact(), artefact("hades/a/seed1")], "hades", tmp_path)
    store_artefacts([artefact("sdr/x")], "sdr", tmp_path)
    assert stored_names(tmp_path) == ["hades/a/seed0", "hades/a/seed1", "sdr/x"]
    store_artefacts([artefact(value=2.0)], "hades", tmp_path)
    assert stored_names(tmp_path) == ["hades/a/seed0", "sdr/x"]
    found = load_artefact("hades/a/seed0", tmp_path)
    assert found.tensors["observations"].unique().tolist() == [2.0]
    assert (found.card["kind"], found.card["name"]) == ("set", "hades/a/seed0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hades", "sdr"]


def test_the_longest_name_of_the_authors_is_stored(tmp_path: Path) -> None:
    name = (
        "hades/half_width/minatar/virtual_batch_norm/5k_generations/overfit/SpaceInvaders-MinAtar/"
        "D16/greedy_actFalse/seed0"
    )
    store_artefacts([artefact(name)], "hades", tmp_path)
    assert load_artefact(name, tmp_path).name == name


def test_a_store_that_fails_half_way_keeps_the_earlier_import(tmp_path: Path) -> None:
    store_artefacts([artefact()], "hades", tmp_path)
    with pytest.raises(BadName, match="A part of the name of an artefact is"):
        store_artefacts([artefact(value=2.0), artefact("hades/../x")], "hades", tmp_path)
    assert load_artefact("hades/a/seed0", tmp_path).tensors["observations"][0, 0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hades"]


def test_a_last_rename_that_fails_keeps_the_earlier_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_artefacts([artefact()], "hades", tmp_path)
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "hades" and target == tmp_path / "hades":
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        store_artefacts([artefact(value=2.0)], "hades", tmp_path)
    assert load_artefact("hades/a/seed0", tmp_path).tensors["observations"][0, 0] == 1


def test_an_altered_artefact_is_not_loaded(tmp_path: Path) -> None:
    def altered(name: str, change: Callable[[bytes], bytes], says: str) -> None:
        store_artefacts([artefact()], "hades", tmp_path)
        path = tmp_path / name
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(ArtefactProblem, match=says):
            load_card("hades/a/seed0", tmp_path)

    altered("hades/a/seed0.safetensors", lambda b: b[:-1] + b"\x01", "it was altered")
    altered("hades/a/seed0.json", lambda b: b.replace(b'"set"', b'"sat"'), "was altered")
    altered("hades/a/seed0.json", lambda b: b[:-5], "cannot be read as the card")
    altered("hades/a/seed0.json", lambda _: b"[" * 100_000, "cannot be read as the card")
    altered("hades/a/seed0.json", lambda _: b"[]", "cannot be read as the card")
    (tmp_path / "hades/a/seed0.safetensors").unlink()
    store_artefacts([artefact()], "hades", tmp_path)
    (tmp_path / "hades/a/seed0.safetensors").unlink()
    with pytest.raises(ArtefactProblem, match="cannot be read"):
        load_artefact("hades/a/seed0", tmp_path)
    with pytest.raises(ArtefactProblem, match="Did you mean 'hades/a/seed0'"):
        load_artefact("hades/a/sed0", tmp_path)
    with pytest.raises(BadName):
        load_artefact("../hades", tmp_path)


# --- the authors' own files -------------------------------------------------------------------


@needs("hades_authors")
def test_the_authors_sets_are_what_is_known_of_them(tmp_path: Path) -> None:
    """Scores, pairs and students of four files as another reader of them found them."""
    facts = json.loads((SHARED / "facts" / "hades_authors_files.json").read_text())["files"]
    known = {entry["file"].removeprefix("hades_authors/"): entry for entry in facts}
    for cell in ("brax/distill/hopper/D4/seed2", "mnist/FashionMNIST/D10/seed1"):
        (tmp_path / RESULTS / cell).parent.mkdir(parents=True)
        shutil.copytree(SHARED / "hades_authors" / RESULTS / cell, tmp_path / RESULTS / cell)
    shutil.copytree(SHARED / "hades_authors" / "normalize_params", tmp_path / "normalize_params")
    found = find_hades(tmp_path).artefacts
    assert len(found) == 2
    for one in found:
        fact, card = known[one.card["file"]], one.card
        assert card["pairs"] == fact["pairs"]
        assert card["generation"] == fact["generations"]
        assert card["fixed_initialization"] == fact["fixed_init"]
        assert card["settings"]["UPDATE_EPOCHS"] == fact["student"]["steps"]
        assert one.tensors["fitness_last_population"].shape == (fact["population"],)
        published = card["published"]
        if fact["train_accuracy"] is None:
            mean = published["mean_of_last_20_generations"]
            assert round(mean, 2) == fact["mean_population_return_last_20_generations"]
        else:
            assert round(published["train_accuracy"], 4) == fact["train_accuracy"]


@needs("ppmo_authors")
def test_ppmo_authors_sets_are_what_is_known_of_them() -> None:
    rates = {one.name: one.card["settings"]["inner_learning_rate"]
             for one in find_ppmo(SHARED / "ppmo_authors").artefacts}  # fmt: skip
    assert {name: round(rate, 2) for name, rate in rates.items()} == {
        "ppmo/hopper": 1.70,
        "ppmo/walker2d": 3.15,
    }


@needs("density")
def test_the_authors_densities_are_what_is_known_of_them() -> None:
    facts = json.loads((SHARED / "facts" / "sdw_paper.json").read_text())
    known = facts["measured_on_the_authors_log_densities"]["hopper-medium-replay"]
    (one,) = find_sdr(SHARED / "density").artefacts
    assert one.card["transitions"] == known["n"]
    assert round(one.card["published"]["median"], 2) == known["median_log_p"]
    assert round(one.card["published"]["smallest"]) == known["min"]
