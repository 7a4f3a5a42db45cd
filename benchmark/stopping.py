"""Asking work to save its state and end: what a signal handler may do at any moment."""

from __future__ import annotations

from dataclasses import dataclass


class Stopped(BaseException):
    """Work ended because it was asked to; its state is saved and the same call goes on from it."""


@dataclass
class StopRequest:
    """Whether somebody asked; the work looks at it where its state is whole."""

    asked: bool = False

    def ask(self) -> None:
        """Asks. Safe in a signal handler."""
        self.asked = True

    def check(self) -> None:
        """For places where nothing is left to save.

        Raises:
            Stopped: Somebody asked.
        """
        if self.asked:
            raise Stopped("asked to stop")
