"""Flows by name. Other packages bring theirs with the decorator, or with an entry point of the group `softflow.flows`
(`my_flow = my_package.my_flow:MyFlow`).

A name may come from a file of a stranger's. It means a registered flow if there is one. Otherwise it means the entry
point of an installed package, which is then imported, and a warning of the logger `flows.registry` names the package.
What lies in the current folder is not installed.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, distributions
from typing import Any, TypeVar

from flows.base import ChunkFlow
from flows.bounds import BoundedFlow

DEFAULT_FLOW = "coupling"
ENTRY_POINT_GROUP = "softflow.flows"
SHARED_OPTIONS = ("bounds", "noise", "noise_law")  # of `make_flow` itself, for every flow

Flow = TypeVar("Flow", bound=type[ChunkFlow])
_registered: dict[str, type[ChunkFlow]] = {}
_announced: set[str] = set()  # flows of packages that were asked for

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
    return sorted({*_registered, *_BACKENDS, *(point.name for point in _entry_points())})


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
            installed packages give to different flows.
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
    if name in _registered:
        return _registered[name]
    if name in _BACKENDS:
        return _load(EntryPoint(name, _BACKENDS[name], ENTRY_POINT_GROUP))
    points = {point.value: point for point in _entry_points() if point.name == name}
    if not points:
        raise ValueError(f"unknown flow {name!r}{_hint(name, available_flows())}")
    if len(points) > 1:
        owners = " and by ".join(map(_owner, points.values()))
        raise ValueError(f"flow {name!r} is defined more than once, by {owners}: remove one")
    [point] = points.values()
    if name not in _announced:
        logging.getLogger(__name__).warning("flow %r is %s", name, _owner(point))
        _announced.add(name)
    return _load(point)


def _load(point: EntryPoint) -> type[ChunkFlow]:
    try:
        flow = point.load()
    except Exception as error:  # whatever a package does when it is imported
        raise ImportError(f"flow {point.name!r} cannot be imported from {_owner(point)}: {error!r}") from error
    if not (isinstance(flow, type) and issubclass(flow, ChunkFlow)):
        raise ValueError(f"flow {point.name!r}: {_owner(point)} is not a subclass of flows.ChunkFlow")
    return flow


def _entry_points() -> list[EntryPoint]:
    """Those of installed packages. Of two versions of a package, the one that would be imported counts."""
    packages: dict[str, Iterable[EntryPoint]] = {}
    for distribution in distributions(path=_outside_the_current_folder()):
        if points := distribution.entry_points.select(group=ENTRY_POINT_GROUP):
            packages.setdefault(distribution.metadata["Name"], points)
    return [point for points in packages.values() for point in points]


def _outside_the_current_folder() -> list[str]:
    """Python's path without the current folder, which Python itself may have put there."""
    absolute = (entry for entry in sys.path if os.path.isabs(entry))
    return [entry for entry in absolute if not (os.path.exists(entry) and os.path.samefile(entry, os.curdir))]


def _owner(point: EntryPoint) -> str:
    """Where an entry point leads, and the package that brings it."""
    return f"{point.value} of the package {point.dist.name!r}" if point.dist else point.value


def _hint(name: str, valid: Iterable[str]) -> str:
    nearest = get_close_matches(name, valid, n=1, cutoff=0.0)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{guess} (valid: {', '.join(sorted(valid))})"
