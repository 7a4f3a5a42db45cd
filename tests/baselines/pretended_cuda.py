"""A CUDA device that is not there: its tensors lie on the CPU, and its graphs are lists of calls.

What it shows: that a step can be captured at all, that a replay takes new numbers from where the
capture found the old ones, and that nothing of the warm-up is left. What it cannot show: kernels,
streams, and speed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baselines.native_engine import ENGINE


class Device:
    """Stands for `torch.device("cuda")`."""

    type = "cuda"

    def __str__(self) -> str:
        return self.type


class Graph:
    """Stands for `torch.cuda.CUDAGraph`: operations with the memory that they read and write."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def replay(self) -> None:
        """Do the operations again, their results in the memory of the first ones."""
        for function, arguments, keywords, result in self.calls:
            found = function(*arguments, **keywords)
            for old, new in zip(tree_leaves(result), tree_leaves(found), strict=True):
                if isinstance(old, Tensor) and old is not new and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Capture(TorchDispatchMode):
    """Stands for `torch.cuda.graph`: what is called inside is recorded, and changes nothing."""

    def __init__(self, graph: Graph, capture_error_mode: str = "global") -> None:
        super().__init__()
        self.graph = graph
        if capture_error_mode == "global" and threading.active_count() > 1:
            raise RuntimeError("other threads may not allocate page-locked memory in a capture")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        keywords = kwargs or {}
        changed = [
            keywords.get(a.name, args[i] if i < len(args) else None)
            for i, a in enumerate(func._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        ]
        before = [tensor.clone() for tensor in changed]
        result = func(*args, **keywords)
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)  # a capture does not run
        self.graph.calls.append((func, args, keywords, result))
        return result


class Waited:
    """Stands for streams and events."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def pretend(monkeypatch: pytest.MonkeyPatch, free: int = 2**40) -> Device:
    """Let torch take a device for one of CUDA, with so many free bytes."""
    device, to = Device(), Tensor.to

    def moved(tensor: Tensor, *place: Any, **how: Any) -> Tensor:
        return tensor.clone() if place and place[0] is device else to(tensor, *place, **how)

    @contextlib.contextmanager
    def within(_: object) -> Iterator[None]:
        yield

    monkeypatch.setenv(ENGINE, "torch")  # the C++ engine would take the tensors for the CPU's
    monkeypatch.setattr(Tensor, "to", moved)
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    for name, stand_in in {
        "CUDAGraph": Graph,
        "graph": Capture,
        "Stream": Waited,
        "Event": Waited,
        "current_stream": Waited,
        "stream": within,
        "device": within,
        "mem_get_info": lambda _: (free, free),
        "memory_reserved": lambda _: 0,
        "memory_allocated": lambda _: 0,
        "max_memory_allocated": lambda _: 0,
        "reset_peak_memory_stats": lambda _: None,
        "synchronize": lambda _: None,
        "get_device_name": lambda _: "a pretended device",
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return device
