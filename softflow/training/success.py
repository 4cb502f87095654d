"""Rules that decide which episodes count as successes, and their state during an episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softflow.boundary import as_flag
from softflow.errors import did_you_mean

NONE_SUCCEEDS = (
    "warning: no demonstration is a success: none solves the task, or info['is_success'] was never seen "
    "(docs/how-to/troubleshooting.md#my-success-is-never-seen)"
)
FEW = 10
"""Number of successful demonstrations below which there is a warning, if others fail."""
RULES = ("last", "any", "return>=X")


@dataclass(frozen=True)
class SuccessRule:
    """The rule that decides whether an episode is a success.

    Attributes:
        text: One of three rules. `last`: the last step reports `is_success`. `any`: at least one step reports
            `is_success`. `return>=X`: the undiscounted return is at least the number X, and `is_success` is ignored.

    Raises:
        ValueError: `text` is not one of these rules.
    """

    text: str = "last"

    def __post_init__(self) -> None:
        if self.text not in ("last", "any") and not math.isfinite(self.threshold):
            raise ValueError(f"success is {self.text!r}: {did_you_mean(self.text, RULES)} (X is a number)")

    @property
    def threshold(self) -> float:
        """The number X of `return>=X`. NaN for other rules."""
        name, _, number = self.text.partition(">=")
        try:
            return float(number) if name.strip() == "return" else math.nan
        except ValueError:
            return math.nan


class EpisodeSuccess:
    """Applies a rule to an episode step by step.

    Args:
        rule: The rule that decides whether an episode is a success.
    """

    def __init__(self, rule: SuccessRule) -> None:
        self._rule = rule
        self.begin()

    def begin(self) -> None:
        """Start a new episode."""
        self._said = self._was_said = self._is_told = False
        self._return = 0.0

    def add(self, info: Mapping[str, Any], reward: float) -> bool:
        """Add a step. Return whether the episode would be a success if it ended here.

        Raises:
            MalformedStep: `info["is_success"]` is neither true nor false.
        """
        self._said = as_flag("is_success", info.get("is_success", False))
        self._was_said |= self._said
        self._is_told |= "is_success" in info
        self._return += reward
        if self._rule.text == "last":
            return self._said
        return self._was_said if self._rule.text == "any" else self._return >= self._rule.threshold

    @property
    def is_overlooked(self) -> bool:
        """Whether the rule is `last`, and an earlier step reported success but the last one did not."""
        return self._rule.text == "last" and self._was_said and not self._said

    @property
    def is_judged(self) -> bool:
        """Whether the steps so far decide about the success: the rule is `return>=X`, or they said `is_success`."""
        return self._is_told or not math.isnan(self._rule.threshold)

    def state_dict(self) -> dict[str, float]:
        return {"was_said": float(self._was_said), "return": self._return}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._was_said, self._return = bool(state["was_said"]), float(state["return"])
