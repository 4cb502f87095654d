"""Which episodes count as successes: a rule, and its verdict on the episode in progress."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softflow.boundary import as_flag
from softflow.errors import did_you_mean

RULES = ("last", "any", "return>=X")


@dataclass(frozen=True)
class SuccessRule:
    """When an episode is a success.

    Attributes:
        text: `last`: the last step says `is_success`; `any`: some step says so; `return>=X`: the undiscounted return
            is at least the number X, whatever the steps say.

    Raises:
        ValueError: any other text.
    """

    text: str = "last"

    def __post_init__(self) -> None:
        if self.text not in ("last", "any") and not math.isfinite(self.threshold):
            raise ValueError(f"success is {self.text!r}: {did_you_mean(self.text, RULES)} (X is a number)")

    @property
    def threshold(self) -> float:
        """X of `return>=X`, NaN without one."""
        name, _, number = self.text.partition(">=")
        try:
            return float(number) if name.strip() == "return" else math.nan
        except ValueError:
            return math.nan


class EpisodeSuccess:
    """The verdict on one episode, step by step.

    Args:
        rule: what counts as a success.
    """

    def __init__(self, rule: SuccessRule) -> None:
        self._text, self._threshold = rule.text, rule.threshold
        self.begin()

    def begin(self) -> None:
        """Forget the last episode."""
        self._said, self._total = False, 0.0

    def add(self, info: Mapping[str, Any], reward: float) -> bool:
        """Count a step. Returns whether the episode would be a success if it ended here.

        Raises:
            MalformedStep: `info["is_success"]` is neither true nor false.
        """
        said = as_flag("is_success", info.get("is_success", False))
        self._said = said or (self._said and self._text == "any")
        self._total += reward
        return self._said if math.isnan(self._threshold) else self._total >= self._threshold

    def state_dict(self) -> dict[str, float]:
        return {"said": float(self._said), "total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._said, self._total = bool(state["said"]), float(state["total"])
