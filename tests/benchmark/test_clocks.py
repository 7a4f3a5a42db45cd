"""When state is saved: by the clock, on request, and at the same step for all runs of a pack."""

from __future__ import annotations

import pytest

from benchmark.clocks import SaveClock
from benchmark.stopping import Stopped, StopRequest


def test_a_clock_of_zero_saves_at_every_step() -> None:
    clock = SaveClock(0)
    assert [clock.due(step) for step in (0, 0, 1, 1)] == [True] * 4


def test_the_first_to_ask_at_a_step_decides_for_the_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes between the runs of a pack: still all of them save, or none."""
    now = [0.0]
    monkeypatch.setattr("benchmark.clocks.time.monotonic", lambda: now[0])
    clock = SaveClock(10)
    first = clock.due(1)
    now[0] = 11
    assert (first, clock.due(1)) == (False, False)
    assert (clock.due(2), clock.due(2)) == (True, True)
    assert clock.due(3) is False


def test_a_request_between_two_runs_of_a_pack_waits_for_the_next_step() -> None:
    stop = StopRequest()
    clock = SaveClock(3600, stop)
    assert clock.due(4) is False
    stop.ask()
    assert clock.due(4) is False
    assert (clock.due(5), clock.due(5)) == (True, True)
    with pytest.raises(Stopped):
        clock.due(6)
