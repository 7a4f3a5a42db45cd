"""Pickles of NumPy and JAX arrays read without running them.

A pickle is a program: it may name any function of any module and call it. Here the names that
arrays and the states of evosax need become inert records, a call becomes a record of what would be
called with what, and every other name or instruction is refused. Nothing is looked up or called.

The reader is Python's own in pure Python, because its memo is a dictionary: the one in C allocates
as much memory as an instruction of five bytes asks for.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from benchmark.artefacts.artefact import ArtefactProblem
from benchmark.torch_files import UNREADABLE

_NUMPY_ARRAY = re.compile(r"numpy\.(core|_core)\.multiarray\._reconstruct")
_JAX_ARRAY = "jax._src.array._reconstruct_array"
_NAMES = re.compile(
    rf"{_NUMPY_ARRAY.pattern}|{re.escape(_JAX_ARRAY)}|numpy\.(ndarray|dtype)"
    r"|evosax(\.\w+)+\.(EvoState|OptState)"
)
_INSTRUCTIONS = (
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD",
)  # fmt: skip
_MOST_DIMENSIONS = 4
_TYPES = ("f4", "f8", "i4", "i8")


class _Refused(Exception):
    """Something in a pickle that is neither an array nor a plain container."""


@dataclass(eq=False, slots=True)
class Inert:
    """What a pickle names, or would have called.

    Attributes:
        name: Module and name, for example "jax._src.array._reconstruct_array".
        arguments: Arguments of the call; None where it is only named.
        state: What the result would have been set to.
    """

    name: str
    arguments: tuple[object, ...] | None = None
    state: object = None


def read_pickle(content: bytes, path: Path) -> object:
    """Plain containers, numbers, texts and `Inert` from the bytes of a pickle.

    Args:
        content: Bytes of the file.
        path: File that they come from, for the message.

    Raises:
        ArtefactProblem: It is damaged, or names or does anything but arrays and plain containers.
    """
    try:
        return _Reader(io.BytesIO(content)).load()
    except _Refused as refused:
        raise ArtefactProblem(
            f"{path} {refused}; expected arrays and plain containers only. Nothing of it was run "
            f"or imported; do not load it with Python's pickle."
        ) from None
    except UNREADABLE as error:
        raise ArtefactProblem(
            f"{path} is damaged or cut off: it cannot be read as a pickle "
            f"({type(error).__name__}). Clone the repository again."
        ) from None


def array(value: object) -> NDArray[Any] | None:
    """The array that an inert call would have made, at most 4 dimensions; None where it is none.

    Its size is that of the bytes in the file, whatever shape the file claims.
    """
    match value:
        case Inert(name=name, arguments=(Inert(name=inner), _, state, *_)) if name == _JAX_ARRAY:
            made_by = inner
        case Inert(name=made_by, arguments=tuple(), state=state):
            pass
        case _:
            return None
    match state:
        case (1, tuple(shape), Inert(name="numpy.dtype") as dtype, False, bytes(content)):
            known = _NUMPY_ARRAY.fullmatch(made_by) and len(shape) <= _MOST_DIMENSIONS
        case _:
            return None
    match dtype:
        case Inert(arguments=(str(code), *_), state=(3, "<", *_)) if code in _TYPES and known:
            sound = all(type(size) is int and size > 0 for size in shape)
            if not sound or math.prod(shape) * np.dtype(code).itemsize != len(content):
                return None
            return np.frombuffer(content, dtype=f"<{code}").reshape(shape)
        case _:
            return None


class _Reader(pickle._Unpickler):
    """Python's reader with the listed instructions, of which none calls or looks up anything."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {}
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if not _NAMES.fullmatch(found := f"{module}.{name}"):
            raise _Refused(f"names {found[:100]!r}")
        return Inert(found)

    def load_call(self) -> None:
        """Put a record of the call in place of a name and its arguments."""
        arguments, named = self.stack.pop(), self.stack.pop()
        if not isinstance(named, Inert) or named.arguments is not None:
            raise _Refused(f"calls {_said(named)}")
        if not isinstance(arguments, tuple):
            raise TypeError("the arguments of a call")
        self.stack.append(Inert(named.name, arguments))

    def load_build(self) -> None:
        """Keep the state that an object would have been set to, once."""
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, Inert) or made.arguments is None or made.state is not None:
            raise _Refused(f"sets the state of {_said(made)}")
        made.state = state


def _said(value: object) -> str:
    """What a value is, for messages."""
    if isinstance(value, Inert):
        return value.name if value.arguments is None else f"what {value.name} returns"
    return f"a {type(value).__name__}"


def _refuse(code: int) -> Callable[[Any], None]:
    def load(_: _Reader) -> None:
        raise _Refused(f"has the instruction {chr(code)!r} of pickle")

    return load


def _instructions() -> dict[int, Callable[[Any], None]]:
    known = {getattr(pickle, name)[0] for name in _INSTRUCTIONS}
    own = {pickle.REDUCE[0]: _Reader.load_call, pickle.NEWOBJ[0]: _Reader.load_call}
    own[pickle.BUILD[0]] = _Reader.load_build
    python = cast(dict[int, Callable[[Any], None]], pickle._Unpickler.dispatch)
    return {
        code: own.get(code, load) if code in known else _refuse(code)
        for code, load in python.items()
    }


_Reader.dispatch = _instructions()
