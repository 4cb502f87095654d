"""Options that may be whatever YAML can say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from softflow.errors import UserError

DEEPEST, MOST_VALUES = 16, 100_000
"""Levels and values of an option. By aliases, a short YAML text may have any number of both."""


def plain_copy(value: Any, place: str, scalar: Callable[[Any], Any]) -> Any:
    """A copy of lists and mappings of numbers, texts, true, false and null, each of which `scalar` converts.

    Raises:
        UserError: what is at `place` holds anything else, or is too large.
    """
    left = itertools.count(MOST_VALUES, -1)

    def copy(value: Any, levels: int) -> Any:
        if not levels or not next(left):
            raise UserError(f"{place} has more than {DEEPEST} levels or {MOST_VALUES:,} values")
        if isinstance(value, Mapping):
            return {copy(key, levels - 1): copy(item, levels - 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copy(item, levels - 1) for item in value]
        if value is None or type(value) in (bool, int, float, str):
            return scalar(value)
        raise UserError(
            f"{place} holds a {type(value).__name__}: give numbers, texts, true, false, null, lists, mappings"
        )

    return copy(value, DEEPEST)
