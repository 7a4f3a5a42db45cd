"""A check of a method, and its possible outcomes."""

from __future__ import annotations

import inspect
import time
import traceback
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
        place: File and line of the method that a failed check is about, `file.py:12`; empty for
            other outcomes, and for a method that was not defined in a file.
    """

    check: str
    rule: str
    outcome: Outcome
    message: str
    seconds: float
    place: str = ""

    @property
    def ok(self) -> bool:
        """Whether the rule is kept, or does not apply."""
        return self.outcome in ("passed", "not applicable")

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        return f"{place}{self.check} {self.outcome}. {self.rule} {self.message}".strip()


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
        outcome, message, error = self._outcome(trial)
        place = place_of(trial.kind, error) if outcome == "FAILED" and error else ""
        return CheckResult(self.name, self.rule, outcome, message, time.monotonic() - began, place)

    def _outcome(self, trial: Trial) -> tuple[Outcome, str, Exception | None]:
        try:
            return "passed", self.look(trial) or "", None
        except NotApplicable as reason:
            return "not applicable", str(reason), None
        except Broken as problem:
            return "FAILED", str(problem), problem
        except DoesNotRun as stop:
            owner = _reported_by(stop.error)
            if owner == self.name:
                diverged = isinstance(stop.error, NotFinite)
                advice = f" {advice_on_divergence(trial.method, STUDENT)}" if diverged else ""
                return "FAILED", described(stop.error) + advice, stop.error
            return "not reached", f"The method does not get through a run: see {owner}.", None
        except Exception as error:  # a method may fail in any way, and each is a row of the report
            return "FAILED", described(error), error


def place_of(kind: type[Method], error: BaseException) -> str:
    """The line of a method's own code that an error went through last, else that of its class."""
    own = [part for part in kind.__mro__ if issubclass(part, Method) and part is not Method]
    files = {file for part in own if (file := _file_of(part))}
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for part in reversed(chain):  # from the first error on
        frames = [f for f in traceback.extract_tb(part.__traceback__) if f.filename in files]
        if frames:
            return f"{frames[-1].filename}:{frames[-1].lineno}"
    if "distill" in vars(kind):
        code = kind.distill.__code__
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:
        return f"{_file_of(kind)}:{inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):  # defined in an interpreter
        return ""


def _file_of(kind: type[Method]) -> str | None:
    try:
        return inspect.getsourcefile(kind)
    except TypeError:  # of a module without a file
        return None


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
