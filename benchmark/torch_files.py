"""Files of `torch.save` from others, read without running them.

Such a file is a pickle inside a zip file, and a pickle may name any function to be called while it
is read. One gate stands in the way: `torch.load(..., weights_only=True)`, an unpickler of torch's
own that builds tensors and plain containers and nothing that torch does not list as safe. To that
list one class is added, an inert one under the name of CORL's module `__main__.Scalar`.

Before that, the zip file is checked for damage and a foreign layout, which torch does not look for.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.files import UnfitFile, read_small

_RECORD = re.compile(
    r"(?!\.+/)[^/\\]+/(?:data\.pkl|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|data/[0-9]+)"
)
"""Names of the records of a zip file as torch.save lays it out: `folder/data.pkl`, ..."""

MOST_BYTES = 2**30
"""Bytes that a file of networks may have."""
UNREADABLE = (
    OSError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    # What else an unpickler meets in a malformed stream, each from another opcode.
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    Warning,  # where warnings are errors
    struct.error,
)
"""What the reading of a damaged or hostile file of pickle raises."""


@dataclass(frozen=True)
class TorchFile:
    """A kind of file that `torch.save` wrote.

    Args:
        error: Class of the error where a file is not of this kind.
        keys: Keys of the dictionary that it holds, for messages.
        advice: What to do where it cannot be read, a sentence.
    """

    error: type[ObdBenchError]
    keys: str
    advice: str

    def read(self, path: Path) -> tuple[dict[Any, Any], str]:
        """The dictionary of a file and the sha256 of the file; no code of it is run.

        Raises:
            ObdBenchError: One of class `error`: the file cannot be read, is damaged, or holds more
                than tensors and plain containers.
        """
        try:
            file = read_small(path, MOST_BYTES)
            self._check_zip(file, path)
            # mmap bounds every tensor by the file, whatever sizes the pickle claims. A file that
            # changes while it is mapped would do harm, so a copy is mapped.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, only_scalar():
                copy = Path(folder) / "checkpoint.pt"
                copy.write_bytes(file)
                content = torch.load(copy, map_location="cpu", weights_only=True, mmap=True)
        except (*UNREADABLE, UnfitFile) as error:
            # torch's message advises to load without the gate: only what it refused is passed on.
            told = re.split(r"WeightsUnpickler error:|from a trusted source\.\n", str(error))[-1]
            reason = re.split(r"\n| Please use", told.strip())[0][:200]
            if "numpy" in reason:
                reason += "; make tensors of numpy arrays with torch.from_numpy before you save"
            raise self.error(
                f"{path} cannot be read as a checkpoint of tensors and plain containers "
                f"({type(error).__name__}: {reason}); nothing of it was run. If it is damaged, "
                f"copy it again. If it holds other objects and you trust its origin, load it "
                f"there. {self.advice}"
            ) from None
        if type(content) is not dict:
            raise self.error(
                f"{path} holds a {type(content).__name__}, expected a dictionary with {self.keys}. "
                f"{self.advice}"
            )
        self._check_plain(content, path)
        return content, hashlib.sha256(file).hexdigest()

    def _check_plain(self, content: object, path: Path, where: str = "", depth: int = 3) -> None:
        """Raise for a tensor that has no numbers of its own: asking for them fails."""
        if isinstance(content, dict) and depth:
            for key, value in content.items():
                self._check_plain(value, path, f"{where}.{str(key)[:80]}", depth - 1)
        if isinstance(content, Tensor):
            kind = "nested" if content.is_nested else str(content.layout).removeprefix("torch.")
            kind = content.device.type if content.device.type != "cpu" else kind
            if kind != "strided":
                raise self.error(
                    f"{path}: {where.removeprefix('.')!r} is a {kind} tensor; expected an ordinary "
                    f"one (layout strided) with its numbers in the file. {self.advice}"
                )

    def _check_zip(self, file: bytes, path: Path) -> None:
        """Raise unless the zip file is undamaged and laid out by torch.save."""
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            names = archive.namelist()
            foreign = [
                record.filename
                for record in archive.infolist()
                if not _RECORD.fullmatch(record.filename)
                or record.compress_type != zipfile.ZIP_STORED  # no small file becomes a large one
            ]
            folders = {name.partition("/")[0] for name in names}
            if foreign or len(folders) != 1 or len(set(names)) < len(names):
                raise self.error(
                    f"{path} is a zip file, but not one that torch.save wrote (a TorchScript "
                    f"archive, for example, holds code): expected one folder with 'data.pkl', "
                    f"'version' and uncompressed tensors 'data/0', 'data/1', ..., each once; found "
                    f"{shown(foreign or names)}. {self.advice}"
                )
            if (damaged := archive.testzip()) is not None:
                raise self.error(
                    f"{path} is damaged: the checksum of {damaged!r} is wrong. Copy it again."
                )


class _Scalar:
    """An inert class in place of CORL's module `Scalar`: it takes any state and does nothing."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


_LOADING = threading.Lock()


@contextmanager
def only_scalar() -> Iterator[None]:
    """Admit only `_Scalar` in addition to torch's own list of safe globals; restore it afterwards.

    The list belongs to the process. The caller's additions are removed meanwhile: a `Scalar` among
    them would be built in place of the inert one.
    """
    with _LOADING:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with torch.serialization.safe_globals([(_Scalar, "__main__.Scalar")]):
                yield
        finally:
            torch.serialization.add_safe_globals(before)


def shown(names: Sequence[object]) -> str:
    """The first eight names of a file, shortened; objects that are not strings by their type."""
    texts = [repr(name[:80]) if isinstance(name, str) else type(name).__name__ for name in names]
    more = f" and {len(texts) - 8} more" if len(texts) > 8 else ""
    return (", ".join(texts[:8]) or "nothing") + more
