"""The C++ engine where it differs from torch's: bf16, packs, refusals, and its name in records."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines import native_engine
from baselines.meta_gradient import MetaGradient, OuterBatch
from benchmark.errors import ObdBenchError
from benchmark.local import execute_here, execute_in_processes
from benchmark.run import Conditions
from benchmark.students.heads import HEADS
from obdbench.verify import compare
from tests.baselines.test_meta_gradient import NETWORKS, Setup, Skip, assert_same, unrolled
from tests.tiny_runs import execute, tiny_spec

needs_engine = pytest.mark.skipif(
    native_engine.library() is None, reason="the C++ engine is not built here"
)


def bf16(setup: Setup) -> Setup:
    return replace(setup, loop=replace(setup.loop, precision="bf16-adjoint"))


def has_bf16() -> bool:
    loaded = native_engine.library()
    return loaded is not None and bool(loaded.bf16_products())


needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16 products")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_is_built_where_there_is_a_compiler() -> None:
    assert native_engine.name("cpu") == "native"
    assert native_engine.name("cuda") == "torch"


@needs_engine
@pytest.mark.parametrize("batch", [1, 255, 256, 257, 600])
def test_takes_the_outer_batch_in_parts(batch: int) -> None:
    setup = Setup.draw(batch=batch, runs=2, weighted=True, head="sampled_trained")
    assert_same(setup.gradient(), unrolled(setup))


@needs_engine
def test_a_run_has_the_same_bits_alone_and_in_a_pack() -> None:
    together = Setup.draw(runs=3, width=24, pairs=20, dtype=torch.float32)
    packed = together.gradient()
    for index in range(3):
        alone = together.run(index).gradient()
        assert all(torch.equal(a[index], b[0]) for a, b in zip(packed, alone, strict=True))


@needs_engine
@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("head", ["mean", "sampled", "sampled_trained"])
def test_trains_as_torch_does(
    steps: int, momentum: float, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup.draw(head=head, momentum=momentum, steps=steps, runs=2, skip=(1, 3))
    found = setup.loop.train(setup.initial, setup.pairs, setup.noise)
    monkeypatch.setenv(native_engine.ENGINE, "torch")
    expected = setup.loop.train(setup.initial, setup.pairs, setup.noise)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@needs_engine
def test_a_shorter_call_and_a_longer_one_follow_in_the_same_memory() -> None:
    for steps in (6, 3, 9, 1):
        setup = Setup.draw(steps=steps, momentum=0.9, head="sampled_trained")
        assert_same(setup.gradient(), unrolled(setup))
        noise = setup.adjoint_noise if steps in (3, 9) else None
        assert torch.equal(setup.gradient(noise).loss, setup.gradient().loss)


@needs_bf16
@pytest.mark.parametrize(("depth", "skip"), NETWORKS)
@pytest.mark.parametrize("head", ["mean", "sampled", "sampled_trained"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("fresh", [False, True])
def test_the_bf16_adjoint_is_the_gradient_but_for_bf16s_rounding(
    depth: int, skip: Skip, head: str, momentum: float, fresh: bool
) -> None:
    # Odd sizes: brgemm takes rows and columns in pairs, so these are padded.
    exact = Setup.draw(
        depth=depth,
        skip=skip,
        head=head,
        momentum=momentum,
        runs=2,
        weighted=True,
        width=19,
        pairs=13,
    )
    noise = exact.adjoint_noise if fresh and HEADS[head].noisy else None
    expected, single = exact.gradient(noise), exact.to(torch.float32)
    noise = None if noise is None else noise.float()
    found = bf16(single).gradient(noise)
    # The forward pass is float32's to the last bit.
    assert torch.equal(found.loss, single.gradient(noise).loss)
    # A rounded factor is off by up to 2^-9 = 0.002; a product left out would be off by tenths.
    gradients = found._replace(loss=expected.loss)
    assert_same(MetaGradient(*(part.double() for part in gradients)), expected, 0.015)
    off = (found.actions.double() - expected.actions).norm() / expected.actions.norm()
    assert off > 1e-5  # it did take bf16


@needs_engine
@pytest.mark.parametrize("precision", ["float32", "bf16-adjoint"])
def test_numbers_that_are_not_finite_stay_so(precision: native_engine.Precision) -> None:
    if precision == "bf16-adjoint" and not has_bf16():
        pytest.skip("this processor has no bf16 products")
    setup = Setup.draw(dtype=torch.float32)
    setup.pairs.observations[0, 2, 1] = torch.nan
    found = replace(setup, loop=replace(setup.loop, precision=precision)).gradient()
    assert found.loss.isnan().all() and found.observations.isnan().any()


@needs_engine
def test_refuses_tensors_of_other_shapes_and_types() -> None:
    setup = Setup.draw()
    short = OuterBatch(*(None if part is None else part[:, :-1] for part in setup.outer))
    with pytest.raises(ValueError, match=r"outer_noise is torch.float64 \[1, 9, 3\].*\[1, 8, 3\]"):
        replace(setup, outer=short._replace(noise=setup.outer.noise)).gradient()
    with pytest.raises(ValueError, match=r"noise is torch.float32.*expected torch.float64"):
        replace(setup, noise=None if setup.noise is None else setup.noise.float()).gradient()


def test_bf16_is_refused_without_the_engine_or_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_engine, "library", lambda: None)
    with pytest.raises(ObdBenchError, match=r"C\+\+ compiler.*not built.*precision"):
        native_engine.require_bf16("cpu")

    class WithoutBf16:
        @staticmethod
        def bf16_products() -> int:
            return 0

    monkeypatch.setattr(native_engine, "library", WithoutBf16)
    with pytest.raises(ObdBenchError, match="AMX"):
        native_engine.require_bf16("cpu")
    with pytest.raises(ObdBenchError, match="runs on the CPU"):
        native_engine.require_bf16("cuda")


def test_another_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_engine.ENGINE, "fast")
    with pytest.raises(ObdBenchError, match="OBDBENCH_ENGINE is 'fast'; expected"):
        native_engine.name("cpu")


@needs_engine
def test_a_record_names_its_engine_and_verification_reads_it(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec("dbc", small_dataset_name)
    native = execute(spec, tmp_path / "native")
    monkeypatch.setenv(native_engine.ENGINE, "torch")
    plain = execute(spec, tmp_path / "torch")
    assert (native.provenance.engine, plain.provenance.engine) == ("native", "torch")
    assert native.run_id == plain.run_id
    # Bits hold within an engine, not across: other returns are no contradiction there.
    assert compare(native, plain).changed == ("engine: native -> torch",)
    assert compare(native, plain).verdict in ("exact", "within tolerance")


@needs_bf16
def test_the_precision_is_a_setting_of_the_run(small_dataset_name: str, tmp_path: Path) -> None:
    plain = tiny_spec("dbc", small_dataset_name)
    narrow = tiny_spec("dbc", small_dataset_name, precision="bf16-adjoint")
    assert plain.run_id != narrow.run_id
    assert plain.method_instance.pack_key() != narrow.method_instance.pack_key()
    record = execute(narrow, tmp_path)
    assert record.status == "complete" and record.parameters["precision"] == "bf16-adjoint"
    other = execute(plain, tmp_path)
    assert [c.sha256 for c in record.checkpoints] != [c.sha256 for c in other.checkpoints]


def test_a_run_that_asks_for_bf16_without_the_engine_fails_with_a_sentence(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_engine, "library", lambda: None)
    record = execute(tiny_spec("dbc", small_dataset_name, precision="bf16-adjoint"), tmp_path)
    assert record.status == "failed" and record.error is not None
    assert "only the C++ engine has" in record.error.message


def test_a_sweep_that_asks_for_bf16_without_the_engine_is_refused_before_its_first_run(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_engine, "library", lambda: None)
    runs = [
        tiny_spec("random", small_dataset_name),
        tiny_spec("dbc", small_dataset_name, precision="bf16-adjoint"),
    ]
    for refused in (
        lambda: execute_here(runs, Conditions(tmp_path)),
        lambda: execute_in_processes(runs, Conditions(tmp_path), 2),
    ):
        with pytest.raises(ObdBenchError, match="only the C\\+\\+ engine has"):
            refused()
    assert not list(tmp_path.iterdir())


def test_an_extension_for_another_processor_or_torch_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = native_engine.library.__wrapped__
    loaded: list[str] = []
    monkeypatch.setattr(native_engine.ctypes, "CDLL", loaded.append)
    monkeypatch.setattr(native_engine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert load() is None and not loaded
    monkeypatch.undo()
    if (built := native_engine.library()) is not None:
        assert built.built_for().decode() == torch.__version__.partition("+")[0]
        monkeypatch.setattr(torch, "__version__", "1.0")
        assert load() is None
