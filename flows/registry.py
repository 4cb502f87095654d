"""Flows by name. Other packages bring theirs with the decorator, or with an entry point of the group `softflow.flows`
(`my_flow = my_package.my_flow:MyFlow`); `flows.plugins` says what a name means.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from flows.base import ChunkFlow
from flows.bounds import BoundedFlow
from flows.plugins import Registry, hint

DEFAULT_FLOW = "coupling"
SHARED_OPTIONS = ("bounds", "noise", "noise_law")  # of `make_flow` itself, for every flow

Flow = TypeVar("Flow", bound=type[ChunkFlow])
FLOWS: Registry[type[ChunkFlow]] = Registry("flow", "softflow.flows", base=ChunkFlow)

# Ours that need another library, which is imported when one of them is asked for.
for _name, _flow in {
    "nflows_nsf": "nflows_backend:NflowsNSF",
    "nflows_realnvp": "nflows_backend:NflowsRealNVP",
    "zuko_maf": "zuko_backend:ZukoMAF",
    "zuko_nice": "zuko_backend:ZukoNICE",
    "zuko_nsf": "zuko_backend:ZukoNSF",
}.items():
    FLOWS.register(_name, f"flows.{_flow}")


def register_flow(name: str) -> Callable[[Flow], Flow]:
    """Class decorator that makes a `ChunkFlow` available as `make_flow(name, ...)`.

    Raises:
        ValueError: another class has this name.
    """
    return FLOWS.decorator(name)


def available_flows() -> list[str]:
    """Names that `make_flow` accepts, sorted."""
    return FLOWS.names()


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
    flow = FLOWS.find(name)
    dims = {"horizon": horizon, "action_dim": action_dim, "context_dim": context_dim}
    parameters = inspect.signature(flow).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD} - set(dims)
    for option in options:
        if option not in own:
            raise ValueError(f"unknown option {option!r} of flow {name!r}{hint(option, own | set(SHARED_OPTIONS))}")
    built = flow(**dims, **options)
    if (bounds, noise, noise_law) == ("raw", 0.0, "gaussian"):
        return built
    return BoundedFlow(built, bounds=bounds, noise=noise, noise_law=noise_law)
