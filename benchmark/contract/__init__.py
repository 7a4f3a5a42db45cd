"""The battery that every method is held to, the suite's own and a third party's alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.contract.check import Check, CheckResult
from benchmark.contract.checks import CHECKS
from benchmark.contract.trial import Trial
from benchmark.method import Method

__all__ = ["CHECKS", "Check", "CheckResult", "check_method"]


def check_method(
    method_class: type[Method], settings: Mapping[str, Any] | None = None
) -> list[CheckResult]:
    """Every check of a method, on toy problems in memory; a second or two.

    Args:
        method_class: Registered or not.
        settings: Hyper-parameters to check it with, where the tiny ones do not suit it.

    Returns:
        One result a check, in the order of `CHECKS`.
    """
    trial = Trial(method_class, settings or {})
    return [check.judge(trial) for check in CHECKS]
