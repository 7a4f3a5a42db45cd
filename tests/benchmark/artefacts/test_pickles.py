"""Arrays are read from pickles; nothing that a pickle names is looked up, called or imported."""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.artefacts.artefact import ArtefactProblem
from benchmark.artefacts.pickles import _INSTRUCTIONS, Inert, array, read_pickle
from tests.published_files import EvoState, Jax, dumps, hades_content

PATH = Path("published.pkl")


def read(content: bytes) -> Any:
    return read_pickle(content, PATH)


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 1, 3)])
def test_an_array_is_what_numpy_makes_of_it(shape: tuple[int, ...], dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    for content in (dumps({"x": Jax(values, dtype)}), dumps({"x": values})):
        found = array(read(content)["x"])
        assert found is not None
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)


def test_plain_containers_are_what_they_were() -> None:
    content = {"a": [1, -2, 2**40, 0.5, None, True], "b": ({}, [], "ä", b"x"), 3: [[1]]}
    assert read(dumps(content)) == content


def test_a_state_keeps_its_name_and_its_values() -> None:
    found = read(dumps(EvoState(mean=Jax([1.0, 2.0]))))
    assert (found.name, list(found.state)) == ("evosax.strategies.open_es.EvoState", ["mean"])
    assert array(found) is None
    assert array(found.state["mean"]).tolist() == [1.0, 2.0]


# --- what is refused --------------------------------------------------------------------------


class Payload:
    """Calls a function when it is unpickled the ordinary way."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def inside(payload: Any) -> dict[str, Any]:
    """Places for something hostile in a file of the authors' layout."""
    content = hades_content("brax/distill/hopper/D2/seed0")
    return {
        "alone": payload,
        "setting": {**content, "config": {**content["config"], "LR": payload}},
        "state": {**content, "state": EvoState(mean=payload)},
        "list": {**content, "fitness_over_gen": [Jax(0.0), [({"deep": [payload]},)]]},
        "further key": {**content, "payload": payload},
    }


@pytest.mark.parametrize("place", list(inside(None)))
def test_a_hostile_file_in_the_same_layout_runs_nothing(place: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    pickle.loads(dumps(Payload(os.system, f"touch {ran}")))
    ran.unlink()  # it is hostile: Python's own reader ran it
    for payload in (
        Payload(os.system, f"touch {ran}"),
        Payload(eval, f"open({str(ran)!r}, 'w')"),
        Payload(getattr, Path, "home"),
        Payload(__import__, "this"),
        Payload(np.load, str(ran)),
        Payload(pickle.loads, b"."),
    ):
        content = dumps(inside(payload)[place])
        with pytest.raises(ArtefactProblem, match=r"names '.*'; expected arrays and plain") as told:
            read(content)
        assert "Nothing of it was run" in str(told.value)
    assert not ran.exists()


def test_what_a_call_returns_is_not_called() -> None:
    """`REDUCE` of the result of a `REDUCE`: the way to a function that no name leads to."""
    jax = b"\x8c\x0ejax._src.array\x8c\x12_reconstruct_array\x93"
    call = b"\x80\x04" + jax + b")R"
    assert isinstance(read(call + b"."), Inert)
    with pytest.raises(ArtefactProblem, match=r"calls what jax.* returns"):
        read(call + b")R.")
    with pytest.raises(ArtefactProblem, match="calls a dict"):
        read(b"\x80\x04})R.")
    with pytest.raises(ArtefactProblem, match="sets the state of a dict"):
        read(b"\x80\x04}}b.")
    with pytest.raises(ArtefactProblem, match="sets the state of jax"):  # of the name itself
        read(b"\x80\x04" + jax + b"}b.")
    with pytest.raises(ArtefactProblem, match="sets the state of what"):  # twice
        read(call + b"}b}b.")


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda o: o.name)
def test_every_other_instruction_is_refused(opcode: pickletools.OpcodeInfo) -> None:
    code = opcode.code.encode("latin-1")
    with pytest.raises(ArtefactProblem) as told:
        read(b"\x80\x04(" + code + b"os\nsystem\n\x00\x00\x00\x00\x00\x00\x00\x00.")
    if opcode.name not in _INSTRUCTIONS:
        assert "has the instruction" in str(told.value)


@pytest.mark.parametrize(
    "shape",
    [(2**40,), (10**30,), (2**32, 2**32), (0, 10**30), (-1,), (True,), (1,) * 70, (2.0,)],
    ids=str,
)
def test_a_claimed_shape_allocates_nothing(shape: tuple[Any, ...]) -> None:
    values = Jax([1.0])
    function, arguments, (version, _, *rest) = values.values.__reduce__()  # type: ignore[misc]

    class Claims:
        def __reduce__(self) -> Any:
            return function, arguments, (version, shape, *rest)

    tracemalloc.start()
    try:
        assert array(read(dumps({"x": Claims()}))["x"]) is None
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "claims",
    [
        b"r\xff\xff\xff\x7f",  # a memo of 2^31 entries: the reader in C would allocate it
        b"B\xff\xff\xff\x7f",  # bytes, of which the file has few
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",  # a frame
        b"X\xff\xff\xff\x7f",  # text
    ],
    ids=["memo", "bytes", "frame", "text"],
)
def test_a_claimed_size_allocates_nothing(claims: bytes) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(ArtefactProblem):
            read(b"\x80\x04N" + claims + b".")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_objects_of_other_types_are_not_arrays() -> None:
    for value in (
        np.array(["a"]),
        np.array([1 + 2j]),
        np.array([True]),
        np.float32([1]).T[:, None],
    ):
        found = array(read(dumps({"x": value}))["x"])
        assert found is None or np.array_equal(found, value)
    with pytest.raises(ArtefactProblem):  # an array of objects holds further calls
        read(dumps(np.array([Payload(os.getcwd)], dtype=object)))


def test_a_file_that_is_cut_off_or_damaged_is_one_sentence() -> None:
    whole = dumps(hades_content("brax/distill/hopper/D2/seed0"))
    for end in range(0, len(whole), 101):
        with pytest.raises(ArtefactProblem, match=r"published\.pkl is damaged or cut off"):
            read(whole[:end])
    draw = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            read(bytes(damaged))
        except ArtefactProblem as problem:
            assert str(problem).startswith("published.pkl ")
