"""Taking in the Cal-QL checkpoints of CORL.

A checkpoint is a pickle inside a zip file, and a pickle may name any function to be called while it
is read. Three gates stand in the way: the zip file has to be laid out as `torch.save` lays it out;
its pickle, taken apart without running it, may name nothing but the globals in `_ADMITTED`; and
torch reads it with `weights_only=True`, with an inert class where CORL's own module was.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import re
import struct
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.scaling import STD_FLOOR
from benchmark.teachers.teacher import Layers, NetworkTeacher, TeacherProblem

# Every global that CORL's checkpoints name, as the pickle writes it.
_ADMITTED = frozenset(
    {
        "collections OrderedDict",
        "torch FloatStorage",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "__main__ Scalar",
        "__builtin__ set",
    }
)
_PROTOCOL = 2  # of every pickle that torch.save writes
_RECORD = re.compile(
    r"data\.pkl|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|data/[0-9]+"
)
_MODULE = {"actor": "base_network", "critic1": "network", "critic2": "network"}
_SAVE_AGAIN = (
    "Save it again with its state dictionaries alone: torch.save({'actor': actor.state_dict(), "
    "'critic1': critic_1.state_dict(), 'critic2': critic_2.state_dict()}, path)."
)


class UnsafeCheckpoint(TeacherProblem):
    """A checkpoint that names something other than tensors and plain containers."""


def import_corl(
    path: Path,
    *,
    observation_mean: Sequence[float],
    observation_std: Sequence[float],
    facts: Mapping[str, Any],
) -> NetworkTeacher:
    """Reads a Cal-QL checkpoint (`.pt`) of CORL; no code of the file is run.

    Args:
        path: The checkpoint: state dictionaries `actor` (tanh-Gaussian), `critic1` and `critic2`.
        observation_mean: Of the dataset that it learned from `[obs_dim]`.
        observation_std: Of the same dataset `[obs_dim]`, as measured: 1e-3 is added here, as CORL
            does before it divides. See `benchmark.datasets.d4rl_facts`.
        facts: What else is known of it (dataset, environment, ...), kept with the teacher. JSON
            values. `recipe`, `checkpoint` and `checkpoint_sha256` are filled in here.

    Raises:
        UnsafeCheckpoint: The file names a function or class that no such checkpoint needs.
        TeacherProblem: The file cannot be read, or its content does not fit together.
    """
    mean, std = _statistics(observation_mean, observation_std)
    content, sha256 = _read(path)
    actor = _layers(content, "actor", path)
    critics = [_layers(content, name, path) for name in ("critic1", "critic2")]
    _check_fit(actor, critics, len(mean), path)
    return NetworkTeacher(
        actor=actor,
        critics=[
            (torch.stack([first[0], second[0]]), torch.stack([first[1], second[1]]))
            for first, second in zip(*critics, strict=True)
        ],
        observation_mean=mean,
        observation_std=std + STD_FLOOR,
        action_noise="gaussian",
        facts={
            **facts,
            "recipe": "cal_ql",
            "checkpoint": path.name,
            "checkpoint_sha256": sha256,
        },
        log_std_multiplier=_constant(content, "log_std_multiplier", path),
        log_std_offset=_constant(content, "log_std_offset", path),
    )


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """The checkpoint's dictionary, through the three gates, and the sha256 of the file."""
    try:
        file = path.read_bytes()
    except OSError as error:
        raise TeacherProblem(f"The checkpoint {path} cannot be read: {error}.") from error
    _check_pickle(_pickle_of(file, path), path)
    try:
        # mmap bounds every tensor by the file, whatever sizes the pickle claims. The file is a
        # copy of what was checked: one that changes meanwhile would do harm when mapped.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _stand_ins():
            copy = Path(folder) / "checkpoint.pt"
            copy.write_bytes(file)
            content = torch.load(copy, map_location="cpu", weights_only=True, mmap=True)
    # What an unpickler meets in a malformed stream, each from another opcode.
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        Warning,  # where warnings are errors
        pickle.UnpicklingError,
        struct.error,
    ) as error:
        # torch's message advises to load without the guard: only its last part is passed on.
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise TeacherProblem(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason[:200]}). It "
            f"is damaged, or was not written by torch.save. {_SAVE_AGAIN}"
        ) from None
    if type(content) is not dict:
        raise TeacherProblem(
            f"{path} holds a {type(content).__name__}, expected a dictionary with 'actor', "
            f"'critic1' and 'critic2'. {_SAVE_AGAIN}"
        )
    return content, hashlib.sha256(file).hexdigest()


def _pickle_of(file: bytes, path: Path) -> bytes:
    """The pickle in a zip file that is laid out as torch.save lays it out."""
    if not file.startswith(b"PK\x03\x04"):
        raise TeacherProblem(
            f"{path} is not a zip file: it is no checkpoint, or one that torch before 1.6 wrote, "
            f"whose format is not read here. {_SAVE_AGAIN}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            _check_records(archive.infolist(), path)
            damaged = archive.testzip()
            if damaged is not None:
                raise TeacherProblem(
                    f"{path} is damaged: the checksum of {damaged!r} is wrong. Copy it again."
                )
            root = archive.namelist()[0].partition("/")[0]
            order = f"{root}/byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise TeacherProblem(f"{path} is not little-endian. {_SAVE_AGAIN}")
            return archive.read(f"{root}/data.pkl")
    except (
        OSError,
        EOFError,
        OverflowError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        raise TeacherProblem(
            f"{path} cannot be read as a zip file ({error}). It is damaged or cut short: copy it "
            f"again."
        ) from error


def _check_records(records: list[zipfile.ZipInfo], path: Path) -> None:
    roots = {record.filename.partition("/")[0] for record in records}
    names = [record.filename.partition("/")[2] for record in records]
    if {"constants.pkl", "code"} & {name.partition("/")[0] for name in names}:
        raise UnsafeCheckpoint(
            f"{path} is a TorchScript archive, which holds code. None of it was run. {_SAVE_AGAIN}"
        )
    foreign = [
        record.filename
        for record, name in zip(records, names, strict=True)
        if not _RECORD.fullmatch(name)
        or record.compress_type != zipfile.ZIP_STORED
        or record.flag_bits & 1  # encrypted
    ]
    if foreign or len(roots) != 1 or roots & {"", ".", ".."} or len(set(names)) < len(names):
        raise TeacherProblem(
            f"{path} is a zip file, but not one that torch.save wrote: expected one folder with "
            f"'data.pkl', 'version' and uncompressed tensors 'data/0', 'data/1', ..., each once; "
            f"found {_some(foreign or [record.filename for record in records])}."
        )
    if "data.pkl" not in names:
        raise TeacherProblem(f"{path} is a zip file without 'data.pkl'. {_SAVE_AGAIN}")


def _check_pickle(content: bytes, path: Path) -> None:
    """Takes the pickle apart without running it and refuses what it should not name."""
    named: set[str] = set()
    newer: set[str] = set()
    try:
        with warnings.catch_warnings():
            # pickletools resolves backslashes in names. Unpicklers do not, nor is it done here.
            warnings.filterwarnings("ignore", "invalid escape sequence", DeprecationWarning)
            for opcode, argument, position in pickletools.genops(content):
                if opcode.name in ("GLOBAL", "INST") and position is not None:
                    module, name = content[position + 1 :].split(b"\n", 2)[:2]
                    named.add(f"{module.decode(errors='replace')} {name.decode(errors='replace')}")
                if opcode.proto > _PROTOCOL or (opcode.name == "PROTO" and argument != _PROTOCOL):
                    newer.add(opcode.name)
    except ValueError as error:
        raise TeacherProblem(
            f"The pickle in {path} is damaged ({error}). Copy the file again."
        ) from error
    foreign = named - _ADMITTED
    if foreign:
        raise UnsafeCheckpoint(
            f"{path} names {_some([name.replace(' ', '.') for name in sorted(foreign)])}, which "
            f"would be called or built while it is loaded. A Cal-QL checkpoint needs tensors and "
            f"plain containers alone; nothing of this file was run. If you trust where it comes "
            f"from, load it there. {_SAVE_AGAIN}"
        )
    if newer:
        raise UnsafeCheckpoint(
            f"The pickle in {path} uses {_some(sorted(newer))}, which torch.save's protocol "
            f"{_PROTOCOL} does not have; nothing of it was run. {_SAVE_AGAIN}"
        )


class _Scalar:
    """Where CORL's module `Scalar` was: takes any state, keeps it and does nothing."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


_LOADING = threading.Lock()


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Within it, torch's list of admitted globals is its own and `_Scalar`; then as it was before.

    The list belongs to the process. What the caller had admitted is taken out meanwhile: a
    `Scalar` among it would be built in the place of ours. (`__builtin__.set` torch admits itself.)
    """
    with _LOADING:
        admitted = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with torch.serialization.safe_globals([(_Scalar, "__main__.Scalar")]):
                yield
        finally:
            torch.serialization.add_safe_globals(admitted)


def _layers(content: dict[str, Any], network: str, path: Path) -> Layers:
    """Weight `[out, in]` and bias `[out]` of every linear layer of a network."""
    state = _state(content, network, path)
    module = _MODULE[network]
    pattern = re.compile(rf"{module}\.([0-9]{{1,3}})\.(?:weight|bias)")
    indices = {int(m[1]) for m in map(pattern.fullmatch, state) if m}
    expected = set(range(0, 2 * len(indices), 2))  # a ReLU between any two
    if not indices or indices != expected:
        raise TeacherProblem(
            f"{path}: {network!r} has linear layers {sorted(indices)} in {module!r}, expected 0, "
            f"2, 4, ... with a ReLU between them. Its keys: {_some(list(state))}."
        )
    layers = [
        (
            _tensor(state, f"{module}.{index}.weight", 2, network, path),
            _tensor(state, f"{module}.{index}.bias", 1, network, path),
        )
        for index in sorted(indices)
    ]
    width = None
    for index, (weight, bias) in zip(sorted(indices), layers, strict=True):
        if len(weight) != len(bias) or width not in (None, weight.shape[1]):
            raise TeacherProblem(
                f"{path}: layer {module}.{index} of {network!r} has weight {tuple(weight.shape)} "
                f"and bias {tuple(bias.shape)} after {width or 'the inputs'}: they do not fit."
            )
        width = len(bias)
    return layers


def _state(content: dict[str, Any], network: str, path: Path) -> dict[str, Any]:
    if network not in content:
        raise TeacherProblem(
            f"{path} has no {network!r}, expected a Cal-QL checkpoint with 'actor', 'critic1' and "
            f"'critic2'. It has {_some(list(content))}."
        )
    state = content[network]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise TeacherProblem(
            f"{path}: {network!r} is a {type(state).__name__}, expected a state dictionary of "
            f"tensors by name. {_SAVE_AGAIN}"
        )
    return state


def _tensor(state: dict[str, Any], key: str, dims: int, network: str, path: Path) -> Tensor:
    """A finite float32 tensor of its own memory: the file is let go."""
    value = state.get(key)
    if type(value) is not Tensor:
        found = "missing" if key not in state else f"a {type(value).__name__}"
        raise TeacherProblem(f"{path}: {key!r} of {network!r} is {found}, expected a tensor.")
    # A contiguous tensor is no larger than its memory in the file, so that it may be looked at.
    fits = value.dim() == dims and value.numel() > 0 and value.is_contiguous()
    if value.dtype != torch.float32 or not fits:
        raise TeacherProblem(
            f"{path}: {key!r} of {network!r} has shape {tuple(value.shape)} and type "
            f"{value.dtype}, expected {dims} dimensions of torch.float32, contiguous, not empty."
        )
    if not value.isfinite().all():
        bad = int((~value.isfinite()).sum())
        raise TeacherProblem(
            f"{path}: {bad} of {value.numel()} numbers in {key!r} of {network!r} are not finite: "
            f"the training diverged. Import an earlier checkpoint."
        )
    return value.detach().clone()


def _constant(content: dict[str, Any], name: str, path: Path) -> float:
    state = _state(content, "actor", path)
    return float(_tensor(state, f"{name}.constant", 0, "actor", path))


def _statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    means, stds = (torch.tensor(values, dtype=torch.float32) for values in (mean, std))
    valid = means.dim() == 1 and means.shape == stds.shape and bool(means.isfinite().all())
    if not valid or not bool((stds.isfinite() & (stds >= 0)).all()):
        raise TeacherProblem(
            f"The observation mean {tuple(means.shape)} and std {tuple(stds.shape)} must be finite "
            f"and of one length, the std not negative. Take them from the dataset that the policy "
            f"learned from."
        )
    return means, stds


def _check_fit(actor: Layers, critics: list[Layers], observation_dim: int, path: Path) -> None:
    inputs, outputs = actor[0][0].shape[1], len(actor[-1][1])
    if inputs != observation_dim:
        raise TeacherProblem(
            f"The policy in {path} takes {inputs} observations, the statistics are of "
            f"{observation_dim}: they are of another dataset. Give those of the dataset that it "
            f"learned from."
        )
    if outputs % 2:
        raise TeacherProblem(
            f"The policy in {path} has {outputs} outputs, expected an even number: a mean and a "
            f"log standard deviation for each action."
        )
    shapes = [[tuple(weight.shape) for weight, _ in layers] for layers in critics]
    if shapes[0] != shapes[1]:
        raise TeacherProblem(
            f"{path}: the layers of 'critic1' are {shapes[0]}, those of 'critic2' {shapes[1]}, "
            f"expected the same."
        )
    expected = inputs + outputs // 2
    if shapes[0][0][1] != expected or shapes[0][-1][0] != 1:
        raise TeacherProblem(
            f"{path}: the critics take {shapes[0][0][1]} numbers and give {shapes[0][-1][0]}, "
            f"expected {expected} ({inputs} observations, {outputs // 2} actions) and 1."
        )


def _some(names: Sequence[object]) -> str:
    """The first few of what a stranger's file holds: strings alone, cut to a length."""
    shown = [repr(name[:80]) if isinstance(name, str) else type(name).__name__ for name in names]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return (", ".join(shown[:8]) or "nothing") + more
