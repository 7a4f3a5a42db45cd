"""The contract: checks that every method must pass, the suite's own and a third party's alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.contract.check import Check, CheckResult
from benchmark.contract.rules import CHECKS
from benchmark.contract.trial import Trial
from benchmark.method import Method

__all__ = ["CHECKS", "Check", "CheckResult", "check_method"]


def check_method(
    method: Method | type[Method], settings: Mapping[str, Any] | None = None
) -> list[CheckResult]:
    """Run every check of a method, on toy problems in memory; it takes about a second.

    Args:
        method: A class, or an instance such as a preset; registered or not.
        settings: Hyper-parameters to check it with, where the tiny ones do not suit it.

    Returns:
        One result per check, in the order of `CHECKS`.
    """
    trial = Trial(method, settings or {})
    return [check.judge(trial) for check in CHECKS]
