"""The parts of a method: modules, optimisers and other objects with a `state_dict`, and mappings of them by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


def leaves(parts: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the parts themselves, without the mappings."""
    for part in parts.values():
        if isinstance(part, Mapping):
            yield from leaves(part)
        else:
            yield part


def networks(parts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules among the parts with their names, `outer.inner`."""
    for name, part in parts.items():
        if isinstance(part, Mapping):
            yield from networks(part, f"{prefix}{name}.")
        elif isinstance(part, nn.Module):
            yield prefix + name, part


def modules(parts: Mapping[str, Any]) -> Iterator[nn.Module]:
    """Yield the modules among the parts, and all modules within them."""
    for part in leaves(parts):
        if isinstance(part, nn.Module):
            yield from part.modules()


def states(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of each part, in mappings like those of the parts."""
    return {name: states(part) if isinstance(part, Mapping) else part.state_dict() for name, part in parts.items()}


def load_states(parts: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Restore what `states` returned."""
    for name, part in parts.items():
        if isinstance(part, Mapping):
            load_states(part, state[name])
        else:
            part.load_state_dict(state[name])
