"""Ranges of settings by their names: at every depth, with the value, and none for what is not set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from softflow.algos import SoftFlowConfig
from softflow.settings.ranges import check_ranges


@dataclass
class Stage:
    learning_rate: float = 1e-3
    kl_weight: float = 1.0
    updates: int | None = None


@dataclass
class Method:
    stage: Stage = field(default_factory=Stage)
    ema_rate: float = 0.5
    curiosity_weight: float = -1.0  # of another project, whose range nobody knows
    steps: Any = "auto"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Method(Stage(learning_rate=0)), r"stage\.learning_rate must be above 0, got 0"),
        (Method(Stage(learning_rate=float("inf"))), r"stage\.learning_rate must be above 0, got inf"),
        (Method(Stage(kl_weight=float("nan"))), r"stage\.kl_weight must be 0 or more, got nan"),
        (Method(Stage(updates=-5)), r"stage\.updates must be 0 or more, got -5"),
        (Method(ema_rate=1.5), "^ema_rate must be above 0 and at most 1, got 1.5"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(method: Method, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_ranges(method)


def test_bounds_are_in_range_and_unknown_names_are_free() -> None:
    check_ranges(Method(Stage(kl_weight=0, updates=0), ema_rate=1))
    check_ranges(SoftFlowConfig())
