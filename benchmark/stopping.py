"""Requests that work save its state and end, which a signal handler may make at any moment."""

from __future__ import annotations

from dataclasses import dataclass


class Stopped(BaseException):
    """Work ended on request; its state is saved and the same call goes on from it."""


@dataclass
class StopRequest:
    """A request to stop, which the work looks at where its state is whole."""

    asked: bool = False

    def ask(self) -> None:
        """Make the request; safe in a signal handler."""
        self.asked = True

    def check(self) -> None:
        """End the work if a stop was requested, where nothing is left to save.

        Raises:
            Stopped: A stop was requested.
        """
        if self.asked:
            raise Stopped("asked to stop")
