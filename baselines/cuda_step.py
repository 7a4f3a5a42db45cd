"""Outer steps on a CUDA device: one graph launch each, with random numbers that are drawn ahead.

At OBD's sizes a GPU finishes a product sooner than Python can launch the next one: a captured graph
is launched whole. Random numbers are those of the CPU, bit for bit, drawn by threads while the
device works. The device is waited for only where its numbers are asked for, at scores and saves.

Untested on hardware: written where there is no GPU. The tests hold what a CPU can show.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

WARM_UP_CALLS = 3  # libraries allocate their workspaces before a capture, as PyTorch's guide asks
AHEAD = 2
"""Outer steps that are drawn, and that are launched, before the one that the device works on."""

T = TypeVar("T")
"""A tree (tuples, lists) of tensors; None stands where one is left out."""


Map = Callable[..., Iterable[Any]]
"""The built-in `map`, or one that calls the function in threads."""


def prefetched(draw: Callable[[int, Map], T], steps: range, device: torch.device) -> Generator[T]:
    """Draws of one step after the other: made when asked for on a CPU, ahead for a device.

    Args:
        draw: Makes the tensors of a step on the CPU, with what it is given in place of `map`.
        steps: Steps in order.
        device: Device that they are for.
    """
    if device.type == "cpu":
        yield from (draw(step, map) for step in steps)
        return
    threads = torch.get_num_threads()  # rounding depends on it: the same in threads of the pool
    with (
        ThreadPoolExecutor(AHEAD, "draws", torch.set_num_threads, (threads,)) as ahead,
        ThreadPoolExecutor(cores(), "draw", torch.set_num_threads, (threads,)) as pool,
    ):

        def made(step: int) -> T:
            # Page-locked memory is copied to the device while the CPU goes on; torch keeps it until
            # it has been copied.
            with torch.cuda.device(device):  # a new thread's device is the first one
                return each_tensor(Tensor.pin_memory, draw(step, pool.map))

        waiting: deque[Future[T]] = deque()
        for step in steps:
            waiting.append(ahead.submit(made, step))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def cores() -> int:
    """Cores that this process may use: fewer than the machine's within a job of a cluster."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def captured(
    step: Callable[[T], Tensor], state: Sequence[Tensor], device: torch.device
) -> Callable[[T], Tensor]:
    """Give `step` itself on a CPU, and a captured graph of it on a CUDA device.

    Args:
        step: Takes tensors of fixed shapes, changes `state` in place and gives a tensor.
        state: Tensors on the device that `step` changes.
        device: Where the work is done.
    """
    return step if device.type == "cpu" else _CapturedStep(step, state, device)


class _CapturedStep(Generic[T]):
    """A step on a CUDA device, captured at its first call and replayed at every call.

    Arguments are copied into fixed memory of the device. The host runs ahead of the device by at
    most `AHEAD` steps, so that little is lost where it is stopped.
    """

    def __init__(
        self, step: Callable[[T], Tensor], state: Sequence[Tensor], device: torch.device
    ) -> None:
        self.step, self.state, self.device = step, state, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._launched: deque[torch.cuda.Event] = deque()

    def __call__(self, arguments: T) -> Tensor:
        """Do the step; the result is overwritten by the next one, in the order of the device."""
        with torch.cuda.device(self.device), torch.no_grad():
            if self._graph is None:
                self._capture(arguments)
            else:
                # A graph reads and writes the addresses that it was captured with.
                for fixed, given in zip(tensors(self._inputs), tensors(arguments), strict=True):
                    fixed.copy_(given, non_blocking=True)
            assert self._graph is not None
            self._graph.replay()
            self._launched.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
            self._launched[-1].record()
            if len(self._launched) > AHEAD:
                self._launched.popleft().synchronize()
            return self._result

    def _capture(self, arguments: T) -> None:
        """Record one call on fixed memory, after warm-up calls on a side stream."""
        self._inputs = inputs = each_tensor(
            lambda tensor: tensor.to(self.device, copy=True), arguments
        )
        before = [tensor.clone() for tensor in self.state]
        # The side stream waits for the copies into `inputs`, and the current one for the warm-up.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self.step(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        for tensor, value in zip(self.state, before, strict=True):
            tensor.copy_(value)  # the warm-up's steps do not count
        self._graph = torch.cuda.CUDAGraph()
        # The threads that draw ahead go on allocating page-locked memory during the capture, which
        # the default mode forbids to every thread.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = self.step(inputs)


def tensors(tree: object) -> list[Tensor]:
    """All tensors in a fixed order, without those left out."""
    return [leaf for leaf in tree_leaves(tree) if leaf is not None]


def each_tensor(function: Callable[[Tensor], Tensor], tree: T) -> T:
    """The tree of what the function gives for every tensor."""
    found: T = tree_map_only(Tensor, function, tree)
    return found
