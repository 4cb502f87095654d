"""How long the success of own episodes stays below that of the policy with which they began."""

from __future__ import annotations

from softflow.report.history import HeldOutResult, History

DEPTH = 0.1
"""How far success is below its initial value in a dip."""


def before_acting(run: History) -> HeldOutResult | None:
    """Return the evaluation before the policy starts to act, None if there is none."""
    before = [result for result in run.evaluations if result.environment_steps == 0]
    return before[-1] if before else None


def longest_dip(run: History) -> float:
    """Return the longest span of environment steps with own success more than `DEPTH` below its initial value.

    The initial value is the success on held-out episodes before the policy starts to act.
    """
    before = before_acting(run)
    if before is None:
        return 0.0
    longest, start = 0.0, None
    for steps, success in run.own_success:
        if success >= before.successes / before.episodes - DEPTH - 1e-9:
            start = None
        else:
            start = steps if start is None else start
            longest = max(longest, float(steps - start))
    return longest
