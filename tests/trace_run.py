"""The way of a run: the frames from `obdbench run av_pbc` to the meta-gradient and to the scoring.

    python -m tests.trace_run

does a small run in a temporary folder and prints, for the first call of each, the functions of this
repository that are on the stack, outermost first, and the files that they are in.
"""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUN = (
    "obdbench run av_pbc hopper/medium-expert@2000 --protocol smoke --set outer_steps=1 "
    "--set synthetic_size=4 --set outer_batch=8 --set student.width=8 --set student.steps=2"
)

Frame = tuple[str, str]
"""File, relative to the repository, and qualified name of the function."""


def trace() -> dict[str, list[Frame]]:
    """The frames to the meta-gradient and to the scoring, outermost first."""
    from baselines.meta_gradient import InnerLoop
    from benchmark import evaluation
    from obdbench.cli import main

    found: dict[str, list[Frame]] = {}
    patched = (
        ("the meta-gradient", InnerLoop, "gradient"),
        ("the scoring", evaluation, "rollout"),
    )
    originals = [getattr(owner, name) for _, owner, name in patched]
    for (what, owner, name), original in zip(patched, originals, strict=True):
        setattr(owner, name, _noting(found, what, original))
    before = sys.argv
    sys.argv = RUN.split()
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, f"the run ended with {ended.code}"
    finally:
        sys.argv = before
        for (_, owner, name), original in zip(patched, originals, strict=True):
            setattr(owner, name, original)
    return found


def _noting(
    found: dict[str, list[Frame]], what: str, original: Callable[..., Any]
) -> Callable[..., Any]:
    """The function, noting the stack at its first call."""

    def function(*arguments: Any, **named: Any) -> Any:
        code = inspect.unwrap(original).__code__
        own = (str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname)
        found.setdefault(what, [*_stack(sys._getframe(1)), own])
        return original(*arguments, **named)

    return function


def _stack(frame: FrameType | None) -> list[Frame]:
    frames: list[Frame] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        inside = path.is_relative_to(ROOT) and ".venv" not in path.parts
        if inside and not path.is_relative_to(ROOT / "tests"):
            frames.append((str(path.relative_to(ROOT)), frame.f_code.co_qualname))
        frame = frame.f_back
    return frames[::-1]


def report(found: dict[str, list[Frame]]) -> str:
    """The frames as text, with the number of frames and of files."""
    lines = [f"$ {RUN}"]
    for what, frames in sorted(found.items()):
        lines.append(f"\nTo {what}, {len(frames)} frames:")
        width = max(len(file) for file, _ in frames)
        lines += [f"  {file:{width}}  {name}" for file, name in frames]
    files = {file for frames in found.values() for file, _ in frames}
    lines.append(f"\n{len(files)} files on the way")
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for variable in ("MINARI_DATASETS_PATH", "OBDBENCH_CACHE", "OBDBENCH_STORE"):
            os.environ[variable] = str(Path(folder) / variable.lower())
        print(report(trace()))
