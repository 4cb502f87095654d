"""The arrays of an observation as a robot gives it, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def arrays_by_name(observation: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the arrays of nested mappings by their keys, joined by "/".

    Args:
        observation: The mapping. If only one part is expected, its array may stand alone.
        names: The names of the parts that are expected.

    Raises:
        ValueError: It is no mapping, or a name is there twice, nested and not.
    """
    if not isinstance(observation, Mapping):
        if len(names) == 1:
            return {names[0]: observation}
        raise ValueError(f"an observation must be a mapping with the keys {', '.join(names)}, got {type(observation)}")
    named = list(_leaves(observation))
    given = dict(named)
    if len(given) < len(named):
        keys = [name for name, _ in named]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the observation has {twice!r} twice, nested and not: leave one out")
    return given


def _leaves(observation: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in observation.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}/")
        else:
            yield f"{above}{key}", value
