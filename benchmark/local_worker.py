"""A worker process of `benchmark.local`: packs of runs that come as lines of JSON.

    python -m benchmark.local_worker

The other end of its standard input is held by the process that started it. However that one ends,
SIGKILL included, the pipe ends with it, and the worker saves the state of its runs and ends too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any

from benchmark.stopping import END, SECONDS_TO_SAVE, Stopped, StopRequest, stopped_by_signals

MARGIN_SECONDS = 5.0
READ_BYTES = 1 << 16


def main() -> None:
    """Do the runs; a signal, or the end of the pipe, saves their state and ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    stop, lines = StopRequest(), SimpleQueue[bytes]()
    threading.Thread(target=_listen, args=(lines, stop), daemon=True).start()
    try:
        _execute_packs(lines, **json.loads(lines.get()), stop=stop)
    except Stopped as stopped:
        print(f"Stopped: {stopped}.", file=sys.stderr)
        sys.exit(128 + END)


def _execute_packs(
    lines: SimpleQueue[bytes], conditions: dict[str, Any], done: int, stop: StopRequest
) -> None:
    """Do packs of runs as they come, until there is none.

    Args:
        lines: A pack each, its `runs` as `RunSpec.as_dict` and the times of their records `before`
            it was planned; null where there is no further one.
        conditions: Conditions as `Conditions.as_dict` gives them.
        done: File descriptor that is told after every pack.
        stop: Where the end is asked for.
    """
    # Heavy: until it is imported, the process ends at once with the pipe.
    from benchmark.run import Conditions, execute
    from benchmark.spec import RunSpec

    os.set_inheritable(done, False)
    here = Conditions.from_dict(conditions, stop=stop)
    with stopped_by_signals(stop, SECONDS_TO_SAVE):
        while (pack := json.loads(lines.get())) is not None:
            execute([RunSpec.from_dict(run) for run in pack["runs"]], here, pack["before"])
            with contextlib.suppress(BrokenPipeError):  # of a process that has died: it is noticed
                os.write(done, b".")


def _listen(lines: SimpleQueue[bytes], stop: StopRequest) -> None:
    """Take the lines of the pipe, and ask for the end when it ends.

    A method that does not hear of the end is killed.
    """
    held = b""
    # No lock is held, as sys.stdin.read() would when Python ends.
    while part := os.read(sys.stdin.fileno(), READ_BYTES):
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            lines.put(line)
    lines.put(b"null")  # for a worker that has just done its pack, and waits for another
    stop.ask()  # the signal is handled only when the step under way gives the interpreter back
    os.kill(os.getpid(), END)
    time.sleep(SECONDS_TO_SAVE + MARGIN_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
