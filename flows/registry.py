"""Flows by name. Other packages bring theirs with the decorator, or with an entry point of the group `softflow.flows`
(`my_flow = my_package.my_flow:MyFlow`), which is loaded when asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from flows.base import ChunkFlow
from flows.bounds import BoundedFlow

DEFAULT_FLOW = "coupling"
ENTRY_POINT_GROUP = "softflow.flows"
SHARED_OPTIONS = ("bounds", "noise", "noise_law")  # of `make_flow` itself, for every flow

Flow = TypeVar("Flow", bound=type[ChunkFlow])
_registered: dict[str, type[ChunkFlow]] = {}

# Ours that need another library, which is imported when one of them is asked for.
_BACKENDS = {
    "nflows_nsf": "flows.nflows_backend:NflowsNSF",
    "nflows_realnvp": "flows.nflows_backend:NflowsRealNVP",
    "zuko_maf": "flows.zuko_backend:ZukoMAF",
    "zuko_nice": "flows.zuko_backend:ZukoNICE",
    "zuko_nsf": "flows.zuko_backend:ZukoNSF",
}


def register_flow(name: str) -> Callable[[Flow], Flow]:
    """Class decorator that makes a `ChunkFlow` available as `make_flow(name, ...)`.

    Raises:
        ValueError: another class has this name.
    """

    def register(flow: Flow) -> Flow:
        if name in _registered or name in _BACKENDS:
            owner = _BACKENDS.get(name) or _registered[name].__qualname__
            raise ValueError(f"flow {name!r} is already registered, by {owner}")
        _registered[name] = flow
        return flow

    return register


def available_flows() -> list[str]:
    """Names that `make_flow` accepts, sorted."""
    return sorted({*_registered, *(point.name for point in _entry_points())})


def make_flow(
    name: str,
    *,
    horizon: int,
    action_dim: int,
    context_dim: int,
    bounds: str = "raw",
    noise: float = 0.0,
    noise_law: str = "gaussian",
    **options: Any,
) -> ChunkFlow:
    """Build a registered flow.

    Args:
        name: one of `available_flows()`.
        horizon, action_dim, context_dim: see `ChunkFlow`.
        bounds: "raw" or "atanh"; this and the noise that training adds to its chunks: see `BoundedFlow`.
        noise: its standard deviation (gaussian) or half-width (uniform).
        noise_law: "gaussian" or "uniform".
        options: of this flow, see its class.

    Raises:
        ValueError: unknown name or option (the nearest valid one is given), or a bad value; or a name that two
            installed packages, or one and this library, give to different flows.
        ImportError: the name is that of an installed package's flow, or of a backend, and importing it fails.
    """
    flow = _find(name)
    dims = {"horizon": horizon, "action_dim": action_dim, "context_dim": context_dim}
    parameters = inspect.signature(flow).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD} - set(dims)
    for option in options:
        if option not in own:
            raise ValueError(f"unknown option {option!r} of flow {name!r}{_hint(option, own | set(SHARED_OPTIONS))}")
    built = flow(**dims, **options)
    if (bounds, noise, noise_law) == ("raw", 0.0, "gaussian"):
        return built
    return BoundedFlow(built, bounds=bounds, noise=noise, noise_law=noise_law)


def _find(name: str) -> type[ChunkFlow]:
    points = [point for point in _entry_points() if point.name == name]
    owners = {point.value: _owner(point) for point in points}
    if name in _registered:  # which a package's own decorator may have done, too
        target = f"{_registered[name].__module__}:{_registered[name].__qualname__}"
        owners[target] = target
    if len(owners) > 1:
        raise ValueError(f"flow {name!r} is defined more than once, by {' and by '.join(owners.values())}: rename one")
    if name in _registered:
        return _registered[name]
    if not points:
        raise ValueError(f"unknown flow {name!r}{_hint(name, available_flows())}")
    try:
        flow = points[0].load()
    except Exception as error:  # whatever a package does when it is imported
        raise ImportError(f"flow {name!r} cannot be imported from {_owner(points[0])}: {error!r}") from error
    if not (isinstance(flow, type) and issubclass(flow, ChunkFlow)):
        raise ValueError(f"flow {name!r}: {_owner(points[0])} is not a subclass of flows.ChunkFlow")
    return flow


def _entry_points() -> list[EntryPoint]:
    """Those of installed packages, and our backends, which take the same way."""
    backends = [EntryPoint(name, target, ENTRY_POINT_GROUP) for name, target in _BACKENDS.items()]
    return [*entry_points(group=ENTRY_POINT_GROUP), *backends]


def _owner(point: EntryPoint) -> str:
    """Where an entry point leads, and the package that brings it."""
    return f"{point.value} of the package {point.dist.name!r}" if point.dist else point.value


def _hint(name: str, valid: Iterable[str]) -> str:
    nearest = get_close_matches(name, valid, n=1, cutoff=0.0)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{guess} (valid: {', '.join(sorted(valid))})"
