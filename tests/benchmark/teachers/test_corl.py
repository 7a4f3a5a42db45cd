"""A CORL checkpoint becomes the same policy and value here; a hostile file runs nothing."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.datasets.d4rl_facts import d4rl_environment, d4rl_reference, d4rl_statistics
from benchmark.teachers.cal_ql import CORLCalQL
from benchmark.teachers.corl import import_corl
from benchmark.teachers.teacher import NetworkTeacher, TeacherProblem, evaluate_teacher
from benchmark.teachers.teacher_files import AUTHORS, load_teacher, save_teacher
from benchmark.torch_files import only_scalar

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
OBSERVATIONS, ACTIONS, WIDTH = 5, 2, 8
MEAN = [0.1, -0.2, 0.3, 0.0, 1.0]
STD = [1.0, 0.5, 0.05, 2.0, 0.3]

needs_checkpoints = pytest.mark.skipif(
    not (SHARED / "checkpoints").is_dir(), reason=f"no authors' checkpoints in {SHARED}"
)


class Scalar(nn.Module):
    """CORL's own, which its checkpoints hold as a whole object of `__main__`."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.tensor(value))


class Actor(nn.Module):
    """CORL's TanhGaussianPolicy, its parameters under the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.base_network = nn.Sequential(
            *(nn.Linear(OBSERVATIONS, WIDTH), nn.ReLU()),
            *(nn.Linear(WIDTH, WIDTH), nn.ReLU()),
            nn.Linear(WIDTH, 2 * ACTIONS),
        )
        self.log_std_multiplier, self.log_std_offset = Scalar(1.3), Scalar(-0.7)

    def forward(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = torch.split(self.base_network(normalised), ACTIONS, dim=-1)
        log_std = self.log_std_multiplier.constant * raw + self.log_std_offset.constant
        return mean, log_std.clamp(-20.0, 2.0)


class Critic(nn.Module):
    """CORL's FullyConnectedQFunction."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(OBSERVATIONS + ACTIONS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
        )


def checkpoint() -> dict[str, Any]:
    """What CORL's Cal-QL saves, small."""
    torch.manual_seed(0)
    actor, critics = Actor(), (Critic(), Critic())
    return {
        "actor": actor.state_dict(),
        "critic1": critics[0].state_dict(),
        "critic2": critics[1].state_dict(),
        "actor_optim": torch.optim.Adam(actor.parameters()).state_dict(),
        "sac_log_alpha": Scalar(0.5),
        "total_it": 1_000_000,
    }


def same(found: NetworkTeacher, expected: NetworkTeacher) -> bool:
    """Whether two teachers have the same networks to the bit."""
    pairs = zip(found.actor + found.critics, expected.actor + expected.critics, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def load(path: Path, **options: Any) -> NetworkTeacher:
    defaults = {"observation_mean": MEAN, "observation_std": STD, "facts": {}}
    return import_corl(path, **{**defaults, **options})


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Saves an object as CORL does: from a script, whose classes are in `__main__`."""

    def save(content: Any, **options: Any) -> Path:
        with monkeypatch.context() as patch:
            for cls in (Scalar, Payload):
                patch.setattr(cls, "__module__", "__main__")
                patch.setattr(sys.modules["__main__"], cls.__name__, cls, raising=False)
            torch.save(content, tmp_path / "checkpoint.pt", **options)
        return tmp_path / "checkpoint.pt"

    return save


def rewrite(
    path: Path,
    change: Callable[[str, bytes], bytes],
    rename: Callable[[str], str] = str,
) -> None:
    """Write the zip file anew, each record as the two functions give its content and name."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records:
            archive.writestr(rename(name), change(name, content))


# --- what a checkpoint becomes


def test_the_teacher_computes_what_corl_computes(write: Callable[..., Path]) -> None:
    saved = checkpoint()
    teacher = load(write(saved))
    actor, critic = Actor(), Critic()
    actor.load_state_dict(saved["actor"])
    critic.load_state_dict(saved["critic1"])
    observations = 3 * torch.randn(50, OBSERVATIONS)
    normalised = (observations - torch.tensor(MEAN)) / (torch.tensor(STD) + 1e-3)
    with torch.no_grad():
        mean, log_std = actor(normalised)
        value = critic.network(torch.cat((normalised, mean.tanh()), 1))[:, 0]
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(7))
    sample = teacher.sample(observations, torch.Generator().manual_seed(7))
    assert (teacher.observation_dim, teacher.action_dim) == (OBSERVATIONS, ACTIONS)
    torch.testing.assert_close(teacher.act(observations), mean.tanh())
    torch.testing.assert_close(sample, (mean + log_std.exp() * noise).tanh())
    torch.testing.assert_close(teacher.q(observations, mean.tanh()), value)


def test_both_critics_are_kept(write: Callable[..., Path]) -> None:
    saved = checkpoint()
    weight, bias = load(write(saved)).critics[-1]
    for index, name in enumerate(("critic1", "critic2")):
        assert torch.equal(weight[index], saved[name]["network.2.weight"])
        assert torch.equal(bias[index], saved[name]["network.2.bias"])


def test_an_imported_teacher_outlives_its_file_and_can_be_saved(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(checkpoint())
    teacher = load(path, facts={"dataset": "hopper-medium-v2", "recipe": "other"})
    observations = torch.randn(4, OBSERVATIONS)
    before = teacher.act(observations)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(teacher.act(observations), before)
    save_teacher(teacher, tmp_path / "teacher.safetensors")
    again = load_teacher(tmp_path / "teacher.safetensors")
    assert torch.equal(again.act(observations), before)
    assert again.facts["dataset"] == "hopper-medium-v2"
    assert again.facts["recipe"] == AUTHORS
    assert again.facts["checkpoint"] == "checkpoint.pt"
    assert len(again.facts["checkpoint_sha256"]) == 64


# --- what others save, which is the same networks


def renamed(change: Callable[[str], str], *networks: str) -> Callable[[dict[str, Any]], Any]:
    def rename(saved: dict[str, Any]) -> dict[str, Any]:
        new = {
            name: {change(key): value for key, value in saved[name].items()} for name in networks
        }
        return {**saved, **new}

    return rename


def one_dictionary(saved: dict[str, Any], before: str = "") -> dict[str, Any]:
    networks = ("actor", "critic1", "critic2")
    return {f"{before}{n}.{key}": value for n in networks for key, value in saved[n].items()}


ALL = ("actor", "critic1", "critic2")
LAYOUTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str | None]] = {
    "DataParallel": (renamed("module.{}".format, *ALL), "'module' removed from a name (16 times)"),
    "torch.compile": (
        renamed("_orig_mod.{}".format, "actor"),
        "'_orig_mod' removed from a name (8 times)",
    ),
    "both": (
        renamed("_orig_mod.module.{}".format, "critic2"),
        "'_orig_mod' removed from a name (4 times), 'module' removed from a name (4 times)",
    ),
    "a wrapped part": (
        renamed(lambda key: key.replace("network.", "network.module."), "critic1"),
        "'module' removed from a name (4 times)",
    ),
    "some keys": (
        renamed(lambda key: f"module.{key}" if "bias" in key else key, *ALL),
        "'module' removed from a name (7 times)",
    ),
    "in a state_dict": (lambda saved: {"state_dict": saved, "epoch": 3}, None),
    "a state_dict each": (
        lambda saved: {n: {"state_dict": saved[n], "lr": 1.0} for n in ALL},
        None,
    ),
    "one dictionary": (one_dictionary, None),
    "one dictionary, wrapped": (
        lambda saved: {"state_dict": one_dictionary(saved, "module.")},
        "'module' removed from a name (16 times)",
    ),
    "parameters": (
        lambda saved: {
            **saved,
            **{n: {k: nn.Parameter(v) for k, v in saved[n].items()} for n in ALL},
        },
        None,
    ),
    "more keys": (
        lambda saved: {**saved, "actor": {**saved["actor"], "log_alpha": torch.ones(3).int()}},
        None,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_of_the_same_networks_is_the_same_teacher(
    write: Callable[..., Path], layout: str
) -> None:
    saved = checkpoint()
    expected = load(write(saved))
    change, said = LAYOUTS[layout]
    found = load(write(change(saved)))
    assert same(found, expected)
    assert (found.log_std_multiplier, found.log_std_offset) == (
        expected.log_std_multiplier,
        expected.log_std_offset,
    )
    assert found.facts.get("checkpoint_converted") == said
    assert "checkpoint_converted" not in expected.facts


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_precision_is_converted_to_float32(
    write: Callable[..., Path], dtype: torch.dtype
) -> None:
    saved = checkpoint()
    other = {**saved, **{n: {k: v.to(dtype) for k, v in saved[n].items()} for n in ALL}}
    rounded = {n: {k: v.float() for k, v in other[n].items()} for n in ALL}
    found = load(write(other))
    assert same(found, load(write(rounded)))
    assert {tensor.dtype for layer in found.actor + found.critics for tensor in layer} == {
        torch.float32
    }
    said = f"{dtype} converted to torch.float32 (16 times)"
    assert found.facts["checkpoint_converted"] == said


def test_a_dictionary_that_contains_itself_ends(write: Callable[..., Path]) -> None:
    saved = checkpoint()
    saved["model"] = saved
    with pytest.raises(TeacherProblem, match="twice, the second time as 'model"):
        load(write(saved))
    saved = {"model": {}, "state_dict": {}}
    saved["model"] = saved["state_dict"] = saved
    with pytest.raises(TeacherProblem, match="'actor' is missing"):
        load(write(saved))


def test_numpy_arrays_are_refused_with_what_to_do(write: Callable[..., Path]) -> None:
    saved = checkpoint()
    saved["actor"] = {key: value.numpy() for key, value in saved["actor"].items()}
    with pytest.raises(TeacherProblem, match=r"numpy.*tensors of numpy arrays with torch\.from_"):
        load(write(saved))


# --- hostile files


class Payload:
    """Unpickles as a call that leaves a mark."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call = (call, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Innocent:
    """An object of the attacker's own class in `__main__`."""


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that exists if a payload ran; no test that asks for it may leave it behind."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "code of the checkpoint was run"


def hostile(content: object) -> dict[str, Any]:
    return {**checkpoint(), "total_it": content}


def test_the_mark_is_left_by_an_unguarded_load(write: Callable[..., Path], tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    path = write(hostile(Payload(os.system, f"touch {tmp_path / 'ran'}")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["__main__"], "Scalar", Scalar, raising=False)
        torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("call", "argument", "reason"),
    [
        (os.system, "touch {}", r"GLOBAL (posix|nt)\.system"),
        (eval, "open({!r}, 'w')", "GLOBAL eval"),
        (exec, "open({!r}, 'w')", "GLOBAL exec"),
        (os.mkdir, "{}", r"GLOBAL (posix|nt)\.mkdir"),
        (torch._utils._rebuild_qtensor, "{}", r"_rebuild_qtensor\(\) missing"),
    ],
)
def test_a_call_is_refused_by_name(
    write: Callable[..., Path], mark: Path, call: Any, argument: str, reason: str, protocol: int
) -> None:
    path = write(hostile(Payload(call, argument.format(str(mark)))), pickle_protocol=protocol)
    with pytest.raises(TeacherProblem, match=reason if protocol == 2 else "protocol 4") as caught:
        load(path)
    assert caught.match("nothing of it was run.*load it there")
    assert caught.match(r"torch\.save\(\{'actor': actor\.state_dict\(\)")
    advice = re.compile("weights_only`? ?(=|set)|safe_globals")  # of torch, to leave the gate open
    assert not advice.search(str(caught.value))


def test_a_name_is_read_as_it_stands(write: Callable[..., Path]) -> None:
    path = write(checkpoint())
    escaped = b"c__main__\n\\x53calar\n"  # 'Scalar' to who resolves backslashes
    rewrite(path, lambda name, old: old.replace(b"c__main__\nScalar\n", escaped))
    with pytest.raises(TeacherProblem, match="x53calar was not an allowed global"):
        load(path)


def test_a_class_of_main_under_another_name_is_refused(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Innocent, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Innocent", Innocent, raising=False)
    path = write(hostile(Innocent()))
    for admitted in ([], [Innocent]):  # by the caller, for another file
        with (
            torch.serialization.safe_globals(admitted),
            pytest.raises(TeacherProblem, match=r"GLOBAL __main__\.Innocent was not an"),
        ):
            load(path)


def test_the_scalar_of_the_real_main_is_never_used(
    write: Callable[..., Path], mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trap:
        def __new__(cls, *arguments: object) -> Trap:
            mark.touch()
            return super().__new__(cls)

        def __setstate__(self, state: object) -> None:
            mark.touch()

    monkeypatch.setattr(Trap, "__module__", "__main__")
    Trap.__qualname__ = "Scalar"
    monkeypatch.setattr(sys.modules["__main__"], "Scalar", Trap, raising=False)
    path = write(checkpoint())
    load(path)
    with torch.serialization.safe_globals([Trap]):  # admitted by the user, for another file
        load(path)
        assert Trap in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("fails", [False, True])
def test_the_list_of_admitted_globals_is_left_as_it_was(
    write: Callable[..., Path], fails: bool
) -> None:
    path = write(checkpoint())
    if fails:  # OrderedDict() as its own state
        bad = b"\x80\x02ccollections\nOrderedDict\n)RK\x01b."
        rewrite(path, lambda name, old: bad if name.endswith("data.pkl") else old)
    with torch.serialization.safe_globals([Innocent]):
        before = set(torch.serialization.get_safe_globals())
        if fails:
            with pytest.raises(TeacherProblem, match="cannot be read as a checkpoint"):
                load(path)
        else:
            load(path)
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code:UserWarning")
@pytest.mark.parametrize("legacy", ["torch", "pickle"])
def test_a_file_that_is_no_zip_is_refused(
    write: Callable[..., Path], mark: Path, tmp_path: Path, legacy: str
) -> None:
    content = hostile(Payload(os.system, f"touch {mark}"))
    path = tmp_path / "checkpoint.pt"
    if legacy == "torch":
        write(content, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content["total_it"]))
    with pytest.raises(TeacherProblem, match="File is not a zip file"):
        load(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    traced = torch.jit.trace(nn.Linear(2, 1), torch.zeros(1, 2))  # type: ignore[no-untyped-call]
    torch.jit.save(traced, path)
    with pytest.raises(TeacherProblem, match="a TorchScript archive, for example, holds code"):
        load(path)


@pytest.mark.parametrize(
    ("name", "compression"),
    [
        ("../../ran", zipfile.ZIP_STORED),
        ("/tmp/ran", zipfile.ZIP_STORED),
        ("checkpoint/../ran", zipfile.ZIP_STORED),
        ("checkpoint/data/../../ran", zipfile.ZIP_STORED),
        ("checkpoint/data/x", zipfile.ZIP_STORED),
        ("checkpoint\\..\\ran", zipfile.ZIP_STORED),
        ("other/data.pkl", zipfile.ZIP_STORED),
        ("checkpoint/data.pkl", zipfile.ZIP_STORED),
        ("checkpoint/data/999", zipfile.ZIP_DEFLATED),  # a small file may not become a large one
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_foreign_record_is_refused(
    write: Callable[..., Path], mark: Path, name: str, compression: int
) -> None:
    path = write(checkpoint())
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr(name, b"\0" * 1_000_000)
    with pytest.raises(TeacherProblem, match=r"not one that torch\.save wrote"):
        load(path)


def test_a_folder_that_climbs_is_refused(write: Callable[..., Path]) -> None:
    path = write(checkpoint())
    rewrite(path, lambda name, old: old, lambda name: name.replace("checkpoint/", "../", 1))
    with pytest.raises(TeacherProblem, match=r"not one that torch\.save wrote"):
        load(path)


def test_a_tensor_that_claims_more_than_its_memory_is_refused(write: Callable[..., Path]) -> None:
    path = write({"actor": torch.ones(77)})
    small, large = b"K\x4d", b"J" + struct.pack("<i", 10_000_000)  # of storage and of tensor
    rewrite(path, lambda name, old: old.replace(small, large) if name.endswith("pkl") else old)
    with pytest.raises(TeacherProblem, match="cannot be read as a checkpoint"):
        load(path)


def test_a_tensor_that_repeats_its_memory_is_refused(write: Callable[..., Path]) -> None:
    """A zero stride makes a tensor of any size from one number."""
    saved = checkpoint()
    saved["actor"]["base_network.0.weight"] = torch.ones(1, 1).expand(2**40, 2**20)
    with pytest.raises(TeacherProblem, match=r"'base_network\.0\.weight'.*contiguous"):
        load(write(saved))


def test_any_damage_to_the_zip_file_is_a_clear_error(write: Callable[..., Path]) -> None:
    """Or it makes no difference, such as damage to a date."""
    path = write(checkpoint())
    intact, teacher = path.read_bytes(), load(path)
    generator = random.Random(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(intact)
        damaged[-generator.randint(1, 2500)] = generator.randrange(256)  # among the directory
        path.write_bytes(damaged)
        try:
            found = load(path)
        except TeacherProblem:
            refused += 1
        else:
            assert same(found, teacher)
    assert refused > 50


def test_any_damage_to_the_pickle_is_a_clear_error(write: Callable[..., Path], mark: Path) -> None:
    path = write(checkpoint())
    intact = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(intact)) as archive:
        pickled = archive.read("checkpoint/data.pkl")

    def refused(new: bytes) -> bool:
        path.write_bytes(intact)
        rewrite(path, lambda name, old: new if name.endswith("pkl") else old)
        try:
            load(path)
        except TeacherProblem:
            return True
        return False

    generator = random.Random(0)
    found = []
    for _ in range(100):
        damaged = bytearray(pickled)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        found.append(refused(bytes(damaged)))
    assert sum(found) > 50
    assert all(refused(pickled[:size]) for size in range(0, len(pickled), 29))


# --- broken files


@pytest.mark.parametrize("kept", [0, 3, 4, 1000, -1])
def test_a_truncated_file_is_refused(write: Callable[..., Path], kept: int) -> None:
    path = write(checkpoint())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TeacherProblem, match=r"not a zip file.*copy it again"):
        load(path)


def test_a_flipped_bit_is_found(write: Callable[..., Path]) -> None:
    saved = checkpoint()
    path = write(saved)
    content = bytearray(path.read_bytes())
    content[content.index(saved["actor"]["base_network.0.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(TeacherProblem, match=r"checksum of 'checkpoint/data/\d+' is wrong"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherProblem, match=r"none\.pt cannot be read"):
        load(tmp_path / "none.pt")


Change = Callable[[dict[str, Any]], object]


def put(key: str, value: Any, *networks: str) -> Change:
    return lambda saved: [saved[network].update({key: value}) for network in networks or ("actor",)]


def drop(*keys: str) -> Change:
    return lambda saved: [saved["actor"].pop(key) for key in keys]


def give(outputs: int, last: str, *networks: str) -> Change:
    """Replace the last layer by one of so many outputs."""
    layer = {f"{last}.weight": torch.ones(outputs, WIDTH), f"{last}.bias": torch.ones(outputs)}
    return lambda saved: [saved[network].update(layer) for network in networks]


FIRST, MIDDLE = "base_network.0.bias", ("base_network.2.weight", "base_network.2.bias")
OFFSET, CRITIC = "log_std_offset.constant", "network.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved.pop("actor"), "'actor' is missing.*has 'critic1', 'critic2', "),
        (lambda saved: saved.pop("critic2"), "'critic2' is missing"),
        (lambda saved: saved.update(actor=[1]), "'actor' is a list, expected a state dictionary"),
        (drop(MIDDLE[0]), r"'actor' has no 'base_network\.2\.weight'.* keys: .*network\.2\.bias'"),
        (drop(MIDDLE[1]), r"'base_network\.2\.bias' of 'actor' is missing"),
        (drop(*MIDDLE), r"'actor' has no 'base_network\.2\.weight'; expected .* without a gap"),
        (drop(OFFSET), r"'log_std_offset\.constant' of 'actor' is missing"),
        (put(OFFSET, torch.ones(2)), r"'log_std_offset\.constant' of 'actor' is of shape \(2,\)"),
        (put(FIRST, torch.ones(9)), r"base_network\.0 of 'actor' has weight \(8, 5\) and .*\(9,\)"),
        (put(MIDDLE[0], torch.ones(8, 3)), r"weight \(8, 3\) and bias \(8,\), expected 8 inputs"),
        (put(FIRST, torch.full((8,), torch.inf)), "8 of 8 numbers .* are not finite"),
        (put("network.2.bias", torch.tensor([torch.nan]), "critic2"), "1 of 1 .* are not finite"),
        (put(FIRST, 1.0), r"'base_network\.0\.bias' of 'actor' is a float, expected"),
        (put(FIRST, torch.ones(8).int()), r"is of shape \(8,\), type torch\.int32, expected"),
        (
            put(MIDDLE[0], torch.rand(8, 8).t()),
            r"type torch\.float32, not contiguous, expected a contiguous tensor",
        ),
        (put(FIRST, torch.ones(8).to_sparse()), "is a sparse_coo tensor; expected an ordinary one"),
        (
            put(FIRST, torch.full((8,), 1e300, dtype=torch.float64)),
            "8 of 8 numbers .* larger than float32",
        ),
        (
            put(f"module.{FIRST}", torch.ones(8)),
            r"has 'base_network\.0\.bias' of 'actor' twice, the second time as 'actor\.module",
        ),
        (put(CRITIC, torch.ones(8), "critic1"), r"'network\.0\.weight' of 'critic1' is .* \(8,\)"),
        (put(CRITIC, torch.ones(8, 4), "critic1", "critic2"), r"\(8, 4\).* expected 7 inputs"),
        (give(3, "base_network.4", "actor"), "has 3 outputs, expected an even number"),
        (
            give(2, "network.2", "critic2"),
            r"'critic1' have .* \(1, 8\)\], .* 'critic2' .* \(2, 8\)",
        ),
        (give(2, "network.2", "critic1", "critic2"), r"\(2, 8\)\]; expected the same, and 1 out"),
    ],
)
def test_a_checkpoint_that_does_not_hold_together_is_refused(
    write: Callable[..., Path], change: Change, message: str
) -> None:
    saved = checkpoint()
    change(saved)
    with pytest.raises(TeacherProblem, match=message):
        load(write(saved))


def test_a_file_of_another_content_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(TeacherProblem, match="holds a list, expected a dictionary"):
        load(write([1, 2]))


def test_statistics_of_another_dataset_are_refused(write: Callable[..., Path]) -> None:
    path = write(checkpoint())
    with pytest.raises(TeacherProblem, match=r"weight \(8, 5\).*expected 17 inputs.*statistics"):
        load(path, observation_mean=[0.0] * 17, observation_std=[1.0] * 17)
    for mean, std in ((MEAN, STD[:4]), (MEAN, [-1.0, *STD[1:]]), ([torch.nan, *MEAN[1:]], STD)):
        with pytest.raises(TeacherProblem, match=r"must be finite and of one length"):
            load(path, observation_mean=mean, observation_std=std)


# --- the authors' own checkpoints


EPISODES = 20
FACT_EPISODES = 4
FACTS = {"medium-replay": 83.7, "medium": 53.0, "medium-expert": 105.4}  # facts/d4rl_v2.json


@needs_checkpoints
@pytest.mark.parametrize("quality", FACTS)
def test_the_authors_checkpoints_earn_what_is_known_of_them(quality: str) -> None:
    """Within three standard errors of the difference of the two means.

    Over 100 episodes of each policy, one standard deviation is 15, 12 and 22 normalized return;
    what is known was measured over 4 episodes.
    """
    name = f"hopper-{quality}-v2"
    mean, std = d4rl_statistics(name)
    path = SHARED / "checkpoints" / f"Cal-QL-{name}.pt"
    teacher = import_corl(path, observation_mean=mean, observation_std=std, facts={"dataset": name})
    reference = d4rl_reference(name)
    found = evaluate_teacher(teacher, d4rl_environment(name), reference, EPISODES, 0)
    deviation = 100 * found["return_sd"] / (reference.expert - reference.random)
    tolerance = 3 * deviation * (1 / EPISODES + 1 / FACT_EPISODES) ** 0.5
    assert deviation < 30
    assert found["normalized_return"] == pytest.approx(FACTS[quality], abs=tolerance)


@needs_checkpoints
@pytest.mark.parametrize("quality", FACTS)
def test_the_authors_checkpoints_hold_the_settings_of_cal_ql_corl(quality: str) -> None:
    path = SHARED / "checkpoints" / f"Cal-QL-hopper-{quality}-v2.pt"
    with only_scalar():
        content = torch.load(path, map_location="cpu", weights_only=True)
    recipe = CORLCalQL()
    assert content["total_it"] == recipe.steps
    for name, rate in [
        ("critic_1_optimizer", recipe.learning_rate),
        ("critic_2_optimizer", recipe.learning_rate),
        ("actor_optim", recipe.actor_learning_rate),
        ("sac_log_alpha_optim", recipe.actor_learning_rate),
    ]:
        assert content[name]["param_groups"][0]["lr"] == rate
    # Adam has a slot for the two scalars, and both have moved: they are trained.
    assert len(content["actor_optim"]["state"]) == 2 * (recipe.actor_layers + 1) + 2
    scalars = [content["actor"][f"log_std_{name}.constant"] for name in ("multiplier", "offset")]
    assert recipe.log_std_scalars == "trained" and scalars[0] != 1 and scalars[1] != -1
    assert not content["cql_log_alpha_optim"]["state"], "without CQL's Lagrange multiplier"
    hidden = {tuple(w.shape) for key, w in content["actor"].items() if key.endswith("weight")}
    assert hidden == {(recipe.width, 11), (recipe.width, recipe.width), (6, recipe.width)}
    inner = [w for key, w in content["critic1"].items() if w.shape == (recipe.width, recipe.width)]
    assert len(inner) == 1, "two hidden layers in a critic"


@needs_checkpoints
def test_the_authors_policies_need_the_statistics() -> None:
    path = SHARED / "checkpoints" / "Cal-QL-hopper-medium-expert-v2.pt"
    teacher = import_corl(path, observation_mean=[0.0] * 11, observation_std=[1.0] * 11, facts={})
    found = evaluate_teacher(teacher, "Hopper-v4", d4rl_reference("hopper"), 5, 0)
    assert found["normalized_return"] < 20


@pytest.mark.parametrize("kind", ["sparse_coo", "sparse_csr", "nested", "meta"])
@pytest.mark.filterwarnings("ignore")  # torch calls some of these kinds a prototype
def test_a_tensor_of_another_kind_is_named(kind: str, write: Callable[..., Path]) -> None:
    plain = torch.zeros(4, 4)
    made: dict[str, Callable[[], Tensor]] = {
        "sparse_coo": plain.to_sparse,
        "sparse_csr": plain.to_sparse_csr,
        "nested": lambda: torch.nested.nested_tensor([plain, plain]),
        "meta": lambda: torch.empty(10**12, 4, device="meta"),
    }
    path = write({**checkpoint(), "actor": {"x": made[kind]()}})
    with pytest.raises(TeacherProblem, match=f"'actor.x' is a {kind} tensor; expected an ordinary"):
        load(path)
