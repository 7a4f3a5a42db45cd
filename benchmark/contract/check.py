"""A check of a method, and its possible outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmark.contract.tiny import STUDENT, CannotBeMade
from benchmark.contract.trial import DoesNotRun, Trial
from benchmark.errors import ObdBenchError
from benchmark.method import Method, UndeclaredNeed, advice_on_divergence
from benchmark.synthetic_set import BadSyntheticSet, NotFinite

Outcome = Literal["passed", "FAILED", "not applicable", "not reached"]


class Broken(ObdBenchError):
    """A method that breaks the rule of a check; the message says how, and what to do."""


class NotApplicable(ObdBenchError):
    """A method to which a check does not apply; the message says why."""


@dataclass(frozen=True)
class CheckResult:
    """Result of one check of one method.

    Args:
        check: Name of the check.
        rule: Rule that the method must keep, one sentence.
        outcome: "not reached" where the method does not get as far, which another check reports.
        message: Reason, and what to do; for a passed check a remark, or empty.
        seconds: Wall time of the check.
    """

    check: str
    rule: str
    outcome: Outcome
    message: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the rule is kept, or does not apply."""
        return self.outcome in ("passed", "not applicable")

    def __str__(self) -> str:
        return f"{self.check} {self.outcome}. {self.rule} {self.message}".strip()


@dataclass(frozen=True)
class Check:
    """One rule for all methods.

    Args:
        name: Name of the check.
        rule: The rule, one sentence.
        look: Function that tests a method under trial. It raises Broken or NotApplicable, and may
            return a remark on a rule that is kept.
    """

    name: str
    rule: str
    look: Callable[[Trial], str | None] = field(repr=False)

    def __call__(
        self, method: Method | type[Method], settings: Mapping[str, Any] | None = None
    ) -> CheckResult:
        """Run only this check; for a test that is parametrised over checks.

        Args:
            method: A class, or an instance such as a preset.
            settings: Hyper-parameters to check it with, where the tiny ones do not suit it.
        """
        return self.judge(Trial(method, settings or {}))

    def judge(self, trial: Trial) -> CheckResult:
        """Run the check of a method under trial."""
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
                diverged = isinstance(stop.error, NotFinite)
                advice = f" {advice_on_divergence(trial.method, STUDENT)}" if diverged else ""
                return "FAILED", described(stop.error) + advice
            return "not reached", f"The method does not get through a run: see {owner}."
        except Exception as error:  # a method may fail in any way, and each is a row of the report
            return "FAILED", described(error)


def described(error: Exception) -> str:
    """Format an error as a sentence of a report."""
    if type(error) in (ObdBenchError, CannotBeMade):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _reported_by(error: Exception) -> str:
    """Name of the only check that reports a failing plain run."""
    if isinstance(error, CannotBeMade):
        return "plain_parameters"
    if isinstance(error, UndeclaredNeed):
        return "declares_what_it_touches"
    if isinstance(error, BadSyntheticSet):
        return "shapes_types_and_values"
    return "distils"
