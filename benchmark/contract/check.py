"""What a check is, and what can come out of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmark.contract.tiny import CannotBeMade
from benchmark.contract.trial import DoesNotRun, Trial
from benchmark.errors import ObdBenchError
from benchmark.method import Method, UndeclaredNeed
from benchmark.synthetic_set import BadSyntheticSet

Outcome = Literal["passed", "FAILED", "not applicable", "not reached"]


class Broken(ObdBenchError):
    """A method breaks the rule of a check; the message says how, and what to do."""


class NotApplicable(ObdBenchError):
    """A check has nothing to look at in this method; the message says why."""


@dataclass(frozen=True)
class CheckResult:
    """What came out of one check.

    Args:
        check: Its name.
        rule: What it holds the method to.
        outcome: "not reached" where the method does not get as far, which another check reports.
        message: Why, and what to do; of a passed check, what is worth knowing.
        seconds: That it took.
    """

    check: str
    rule: str
    outcome: Outcome
    message: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, as far as this check can see."""
        return self.outcome in ("passed", "not applicable")

    def __str__(self) -> str:
        return f"{self.check} {self.outcome}. {self.rule} {self.message}".strip()


@dataclass(frozen=True)
class Check:
    """One rule for all methods.

    Args:
        name: Of the check.
        rule: One sentence.
        look: Looks at a method under trial. It raises Broken or NotApplicable, and may return what
            is worth knowing beside that the rule is kept.
    """

    name: str
    rule: str
    look: Callable[[Trial], str | None] = field(repr=False)

    def __call__(
        self, method_class: type[Method], settings: Mapping[str, Any] | None = None
    ) -> CheckResult:
        """This check of a method alone; for a test of one's own that is parametrised over checks.

        Args:
            method_class: The method.
            settings: Hyper-parameters to check it with, where the tiny ones do not suit it.
        """
        return self.judge(Trial(method_class, settings or {}))

    def judge(self, trial: Trial) -> CheckResult:
        """The result for a method under trial."""
        began = time.monotonic()
        outcome, message = self._outcome(trial)
        return CheckResult(self.name, self.rule, outcome, message, time.monotonic() - began)

    def _outcome(self, trial: Trial) -> tuple[Outcome, str]:
        try:
            return "passed", self.look(trial) or ""
        except NotApplicable as reason:
            return "not applicable", str(reason)
        except Broken as problem:
            return "FAILED", str(problem)
        except DoesNotRun as stop:
            owner = _reported_by(stop.error)
            if owner == self.name:
                return "FAILED", described(stop.error)
            return "not reached", f"The method does not get through a run: see {owner}."
        except Exception as error:  # a method may fail in any way, and each is a row of the report
            return "FAILED", described(error)


def described(error: Exception) -> str:
    """An error as a sentence of a report."""
    if type(error) in (ObdBenchError, CannotBeMade):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _reported_by(error: Exception) -> str:
    """Name of the one check that a failing plain run is put down to."""
    if isinstance(error, CannotBeMade):
        return "plain_parameters"
    if isinstance(error, UndeclaredNeed):
        return "declares_what_it_touches"
    if isinstance(error, BadSyntheticSet):
        return "shapes_types_and_values"
    return "distils"
