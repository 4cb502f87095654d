"""Flows by name. Other packages bring theirs with the decorator, or with an entry point of the group `softflow.flows`
(`my_flow = my_package.my_flow:MyFlow`), which is loaded when asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from flows.base import ChunkFlow

DEFAULT_FLOW = "coupling"
ENTRY_POINT_GROUP = "softflow.flows"

Flow = TypeVar("Flow", bound=type[ChunkFlow])
_registered: dict[str, type[ChunkFlow]] = {}


def register_flow(name: str) -> Callable[[Flow], Flow]:
    """Class decorator that makes a `ChunkFlow` available as `make_flow(name, ...)`.

    Raises:
        ValueError: another class has this name.
    """

    def register(flow: Flow) -> Flow:
        if name in _registered:
            raise ValueError(f"flow {name!r} is already registered, by {_registered[name].__qualname__}")
        _registered[name] = flow
        return flow

    return register


def available_flows() -> list[str]:
    """Names that `make_flow` accepts, sorted."""
    return sorted({*_registered, *_entry_points()})


def make_flow(name: str, *, horizon: int, action_dim: int, context_dim: int, **options: Any) -> ChunkFlow:
    """Build a registered flow.

    Args:
        name: one of `available_flows()`.
        horizon, action_dim, context_dim: see `ChunkFlow`.
        options: of this flow, see its class.

    Raises:
        ValueError: unknown name or option (the nearest valid one is given), or a bad value.
    """
    flow = _find(name)
    dims = {"horizon": horizon, "action_dim": action_dim, "context_dim": context_dim}
    known = set(inspect.signature(flow).parameters) - set(dims)
    for option in options:
        if option not in known:
            raise ValueError(f"unknown option {option!r} of flow {name!r}{_hint(option, known)}")
    return flow(**dims, **options)


def _find(name: str) -> type[ChunkFlow]:
    if name in _registered:
        return _registered[name]
    found = _entry_points()
    if name not in found:
        raise ValueError(f"unknown flow {name!r}{_hint(name, available_flows())}")
    flow = found[name].load()
    if not (isinstance(flow, type) and issubclass(flow, ChunkFlow)):
        raise ValueError(f"flow {name!r}: its entry point {found[name].value} is not a subclass of flows.ChunkFlow")
    return flow


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _hint(name: str, valid: Iterable[str]) -> str:
    nearest = get_close_matches(name, valid, n=1, cutoff=0.0)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{guess} (valid: {', '.join(sorted(valid))})"
