"""A worker process of `benchmark.local`: runs that come as a line of JSON, while the pipe lasts.

    python -m benchmark.local_worker

The other end of its standard input is held by the process that started it. However that one ends,
SIGKILL included, the pipe ends with it, and the worker saves the state of its runs and ends too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from benchmark.stopping import END, SECONDS_TO_SAVE, Stopped, StopRequest, stopped_by_signals

MARGIN_SECONDS = 5.0


def main() -> None:
    """Do the runs; a signal, or the end of the pipe, saves their state and ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # the other process died before it had said what to do
    stop = StopRequest()
    threading.Thread(target=_end_with_the_pipe, args=(stop,), daemon=True).start()
    try:
        _execute_packs(**json.loads(line), stop=stop)
    except Stopped as stopped:
        print(f"Stopped: {stopped}.", file=sys.stderr)
        sys.exit(128 + END)


def _execute_packs(
    packs: list[list[dict[str, Any]]], conditions: dict[str, Any], stop: StopRequest
) -> None:
    """Do packs of runs, one after the other, given as plain values.

    Args:
        packs: Runs as `RunSpec.as_dict`.
        conditions: Conditions as `Conditions.as_dict` gives them.
        stop: Where the end is asked for.
    """
    # Heavy: until it is imported, the process ends at once with the pipe.
    from benchmark.run import Conditions, execute
    from benchmark.spec import RunSpec

    here = Conditions.from_dict(conditions, stop=stop)
    with stopped_by_signals(stop, SECONDS_TO_SAVE):
        for pack in packs:
            execute([RunSpec.from_dict(run) for run in pack], here)


def _end_with_the_pipe(stop: StopRequest) -> None:
    """Ask for the end when the pipe ends; a method that does not hear of it is killed."""
    os.read(sys.stdin.fileno(), 1)  # no lock is held, as sys.stdin.read() would when Python ends
    stop.ask()  # the signal is handled only when the step under way gives the interpreter back
    os.kill(os.getpid(), END)
    time.sleep(SECONDS_TO_SAVE + MARGIN_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
