"""Ranges of settings that several algorithms have under one name, so that a value out of range is refused at once."""

from __future__ import annotations

import math

from softflow.settings.fields import dotted_values

NOT_NEGATIVE = frozenset(
    "updates steps updates_per_step rounds epochs q_weight kl_weight nll_weight bc_weight hold_weight residual_weight "
    "entropy_weight distillation_weight weight_decay".split()
)
POSITIVE = frozenset("learning_rate critic_learning_rate value_learning_rate advantage_scale final_kl_weight".split())
RATES = frozenset("ema_rate target_rate".split())


def check_ranges(settings: object) -> None:
    """Check the numbers of an algorithm's settings and of their parts by their names. None is not checked.

    Raises:
        ValueError: A number is out of its range, infinite or NaN. The message has its dotted name.
    """
    for key, value in dotted_values(settings).items():
        name = key.rpartition(".")[2]
        if not isinstance(value, int | float):
            continue
        if name in NOT_NEGATIVE and not 0 <= value < math.inf:
            raise ValueError(f"{key} must be 0 or more, got {value:g}")
        if name in POSITIVE and not 0 < value < math.inf:
            raise ValueError(f"{key} must be above 0, got {value:g}")
        if name in RATES and not 0 < value <= 1:
            raise ValueError(f"{key} must be above 0 and at most 1, got {value:g}")
