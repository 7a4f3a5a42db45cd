"""Outer steps for a CUDA device where there is none: pretended, fake, and drawn ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from baselines import outer_loop
from baselines.cuda_step import AHEAD, captured, each_tensor, prefetched, tensors
from baselines.meta_gradient import InnerLoop
from baselines.native_engine import ENGINE
from baselines.obd import AV_PBC_PUBLISHED, DBC, AvPBC
from baselines.outer_loop import OBD, Draw, OuterRun, Pack, advance, inner_loop
from benchmark.errors import ObdBenchError
from benchmark.method import State
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import NotFinite
from tests.baselines.pretended_cuda import Device, pretend
from tests.baselines.test_meta_gradient import Setup
from tests.baselines.toy import SMALL, STUDENT, Recorder, toy_problem

CPU = torch.device("cpu")
METHODS: list[OBD] = [AvPBC(**SMALL), DBC(**SMALL), replace(AV_PBC_PUBLISHED, **SMALL)]
STUDENTS = [
    STUDENT,
    replace(STUDENT, head="mean", momentum=0.5),
    replace(STUDENT, name="residual", depth=4, width=6),
]


def made_runs(methods: Sequence[OBD], student: StudentSpec = STUDENT) -> list[OuterRun]:
    """One run of each, every one with a recorder of its own."""
    return [
        method.outer_run(toy_problem(type(method), student=method.student_for(student)), Recorder())
        for method in methods
    ]


# --- a device that is pretended -----------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = pretend(monkeypatch)
    monkeypatch.setattr(outer_loop, "checked_device", lambda _: device)
    return device


@pytest.mark.parametrize("student", STUDENTS, ids=["plain", "momentum", "residual"])
@pytest.mark.parametrize("methods", [METHODS[:2], METHODS[2:]], ids=["packed", "published"])
def test_replayed_steps_give_the_numbers_of_the_cpu(
    methods: list[OBD], student: StudentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: the same draws, and each replay reads its own."""
    monkeypatch.setenv(ENGINE, "torch")
    expected = made_runs(methods, student)
    advance(expected)
    device = pretend(monkeypatch)
    monkeypatch.setattr(outer_loop, "checked_device", lambda _: device)
    found = made_runs(methods, student)
    advance(found)
    for run, other in zip(found, expected, strict=True):
        assert run.monitor.states.keys() == other.monitor.states.keys() == set(range(7))
        for step, state in other.monitor.states.items():
            for name, tensor in state.tensors.items():
                assert run.monitor.states[step].tensors[name].equal(tensor), (step, name)


@pytest.mark.parametrize(("scored", "saved"), [(5, 100), (100, 5)], ids=["scored", "saved"])
def test_a_run_that_is_not_finite_is_neither_scored_nor_saved(
    scored: int, saved: int, cuda: Device
) -> None:
    """On a device nothing looks at the numbers before one of the two is due."""

    class Monitor(Recorder):
        def save(self, step: int, state: Callable[[], State]) -> None:
            if step == saved:
                super().save(step, state)

    monitor = Monitor(every=scored)
    method = DBC(**{**SMALL, "outer_learning_rate": 1e36})
    given = toy_problem(DBC, student=replace(STUDENT, learning_rate=1e30))
    with pytest.raises(NotFinite, match=r"pairs after the update of outer step [0-4]: "):
        advance([method.outer_run(given, monitor)])
    assert (set(monitor.results), monitor.states) == ({0}, {})


def test_a_pack_is_cut_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = made_runs([AvPBC(**SMALL)] * 5)
    size = outer_loop._bytes_of_run(inner_loop(runs[0].problem), runs[0])
    device = pretend(monkeypatch, free=3 * size)  # 0.8 of it holds two
    monkeypatch.setattr(outer_loop, "checked_device", lambda _: device)
    together: list[int] = []

    def counted(loop: InnerLoop, group: Sequence[OuterRun], place: torch.device) -> Pack:
        together.append(len(group))
        return Pack(loop, group, place)

    monkeypatch.setattr(outer_loop, "Pack", counted)
    advance(runs)
    assert together == [2, 2, 1]
    assert all(set(run.monitor.results) == set(range(7)) for run in runs)


def test_a_device_that_holds_no_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    device = pretend(monkeypatch, free=1000)
    monkeypatch.setattr(outer_loop, "checked_device", lambda _: device)
    with pytest.raises(ObdBenchError, match=r"One run needs 0\.00 GiB .* --device cpu"):
        advance(made_runs([AvPBC(**SMALL)]))


# --- draws ahead --------------------------------------------------------------------------------


def test_draws_ahead_are_those_of_the_cpu(cuda: Device) -> None:
    pack = Pack(inner_loop(toy_problem(AvPBC)), made_runs([AvPBC(**SMALL)] * 3), CPU)
    for ahead, inline in zip(
        prefetched(pack.draw, range(2, 9), cuda),  # type: ignore[arg-type]
        prefetched(pack.draw, range(2, 9), CPU),
        strict=True,
    ):
        for one, other in zip(tensors(ahead), tensors(inline), strict=True):
            assert one.equal(other)


def test_draws_are_not_far_ahead_and_end_with_who_takes_them(cuda: Device) -> None:
    drawn: list[int] = []
    before = threading.active_count()

    def draw(step: int, each: Callable[..., Any]) -> Tensor:
        drawn.append(step)
        return torch.stack(list(each(lambda x: torch.tensor(x + step), range(3))))

    made = prefetched(draw, range(1000), cuda)  # type: ignore[arg-type]
    assert next(made).tolist() == [0, 1, 2]
    assert next(made).tolist() == [1, 2, 3]
    time.sleep(0.05)
    assert max(drawn) <= 1 + AHEAD
    made.close()
    assert threading.active_count() == before


def test_an_error_in_a_draw_is_raised_where_it_is_taken(cuda: Device) -> None:
    def draw(step: int, each: Callable[..., Any]) -> Tensor:
        raise ZeroDivisionError(step)

    with pytest.raises(ZeroDivisionError):
        next(prefetched(draw, range(3), cuda))  # type: ignore[arg-type]


def test_on_the_cpu_a_step_is_itself() -> None:
    assert captured(torch.neg, (), CPU) is torch.neg


# --- placement, on a CUDA device that PyTorch only imagines ---------------------------------------


class OnDevice(TorchDispatchMode):
    """Fails where an operation gives a tensor that is not on the device, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for leaf in tensors((result,)):
            if isinstance(leaf, Tensor):
                assert leaf.is_cuda, f"{func} gives a tensor on {leaf.device}"
        self.calls += 1
        return result


def imagined_step(method: OBD, student: StudentSpec, runs: int = 3) -> int:
    """Do a whole outer step on fake CUDA tensors; give the number of operations."""
    made = made_runs([method] * runs, student)
    pack = Pack(inner_loop(made[0].problem), made, CPU)
    drawn = pack.draw(0)
    with FakeTensorMode():

        def fake(tensor: Tensor) -> Tensor:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")

        draw: Draw = each_tensor(fake, drawn)
        pack.pairs, pack.velocity = each_tensor(fake, (pack.pairs, pack.velocity))
        pack.norms = fake(pack.norms)
        with torch.no_grad(), OnDevice() as mode:
            pack.norms.select(1, 0).add_(pack.step(draw))
    return mode.calls


@pytest.mark.parametrize("student", STUDENTS, ids=["plain", "momentum", "residual"])
@pytest.mark.parametrize("method", METHODS, ids=["av_pbc", "dbc", "published"])
def test_a_whole_outer_step_stays_on_the_device(method: OBD, student: StudentSpec) -> None:
    assert imagined_step(method, student) > 100


@pytest.mark.parametrize(
    "fault",
    [
        lambda norms: norms + norms.cpu().to(norms.device),
        lambda norms: norms * float(norms.sum()),
        lambda norms: norms * torch.ones(len(norms)),
        lambda norms: norms if bool((norms > 0).all()) else -norms,
    ],
    ids=["copy to the host", "item", "a tensor of the CPU", "a branch on a number"],
)
def test_a_look_at_the_devices_numbers_would_be_found(
    fault: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = outer_loop.follow
    monkeypatch.setattr(outer_loop, "follow", lambda *arguments: fault(honest(*arguments)))
    with pytest.raises((AssertionError, RuntimeError)):
        imagined_step(METHODS[0], STUDENT)


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "kept"), [("sampled", 9), ("mean", 5)])
def test_stored_values_are_counted_as_by_hand(head: str, kept: int) -> None:
    """The formula of `baselines.device_memory`, and what an inner step really keeps."""
    pairs, batch, observation, action, hidden, steps = 7, 9, 5, 3, 8 + 8 + 8, 6
    setup = Setup.draw(head=head, steps=steps, dtype=torch.float32)
    outputs = action * (2 if head == "sampled" else 1)
    weights = (observation + 1) * 8 + 2 * (8 + 1) * 8 + (8 + 1) * outputs
    a_sample = 2 * hidden + kept * action
    numbers = steps * (weights + pairs * a_sample) + batch * (observation + a_sample)
    numbers += 2 * (weights + pairs * (observation + action))
    arguments = (setup.initial, setup.pairs, setup.outer, setup.noise)
    assert setup.loop.stored_bytes(*arguments) == 4 * numbers


def test_at_the_papers_size_a_run_keeps_a_quarter_of_a_gigabyte() -> None:
    setup = Setup.draw(observation_dim=11, width=256, pairs=256, steps=100, batch=2560)
    setup = setup.to(torch.float32)
    found = setup.loop.stored_bytes(setup.initial, setup.pairs, setup.outer, setup.noise)
    assert found == pytest.approx(231.8e6, rel=0.001)
