"""The processor's name, and whether MKL is asked to round alike."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

import benchmark.processor
from benchmark.processor import PRODUCTS, processor, round_alike
from benchmark.provenance import provenance


def describe(monkeypatch: pytest.MonkeyPatch, **words: str) -> None:
    monkeypatch.setattr(benchmark.processor, "_described", lambda key: words.get(key, ""))


@pytest.mark.parametrize(
    ("vendor", "set_to", "expected"),
    [
        ("AuthenticAMD", None, "AUTO"),
        ("AuthenticAMD", "COMPATIBLE", "COMPATIBLE"),  # whoever set it has decided
        ("GenuineIntel", None, None),  # records of older versions keep their bits
        ("", None, None),
    ],
)
def test_mkl_is_asked_to_round_alike_where_it_does_not(
    vendor: str, set_to: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {} if set_to is None else {PRODUCTS: set_to}
    monkeypatch.setattr(benchmark.processor.os, "environ", environment)
    describe(monkeypatch, vendor_id=vendor)
    round_alike()
    assert environment.get(PRODUCTS) == expected


def test_the_processor_is_named_in_the_provenance(monkeypatch: pytest.MonkeyPatch) -> None:
    describe(monkeypatch, **{"model name": "Some Processor 9000"})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert processor() == "Some Processor 9000, AVX512"
    assert provenance("cpu")["device"] == "cpu (Some Processor 9000, AVX512)"
    describe(monkeypatch)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert processor() == f"{platform.processor() or platform.machine()}, AVX2"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux says so there")
def test_the_name_is_linuxs() -> None:
    name = processor().rpartition(", ")[0]
    assert f": {name}\n" in Path("/proc/cpuinfo").read_text()
