"""Flows by name.

Other packages add flows with the decorator, or with an entry point in the group `softflow.flows`
(`my_flow = my_package.my_flow:MyFlow`). `flows.plugins` describes how a name is resolved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from flows.base import ChunkFlow
from flows.bounds import BoundedFlow
from flows.normalized import NormalizedFlow
from flows.plugins import Registry, hint

DEFAULT_FLOW = "coupling"
SHARED_OPTIONS = ("bounds", "noise", "noise_law")  # options of `make_flow` that apply to every flow

Flow = TypeVar("Flow", bound=type[ChunkFlow])
FLOWS: Registry[type[ChunkFlow]] = Registry("flow", "softflow.flows", base=ChunkFlow)

# Flows of optional backends. The backend is imported on first use.
for _name, _flow in {
    "nflows_nsf": "nflows_backend:NflowsNSF",
    "nflows_realnvp": "nflows_backend:NflowsRealNVP",
    "zuko_maf": "zuko_backend:ZukoMAF",
    "zuko_nice": "zuko_backend:ZukoNICE",
    "zuko_nsf": "zuko_backend:ZukoNSF",
}.items():
    FLOWS.register(_name, f"flows.{_flow}")


def register_flow(name: str) -> Callable[[Flow], Flow]:
    """Return a class decorator that makes a `ChunkFlow` available as `make_flow(name, ...)`.

    Raises:
        ValueError: The name is already registered.
    """
    return FLOWS.decorator(name)


def available_flows() -> list[str]:
    """Return the names that `make_flow` accepts, sorted."""
    return FLOWS.names()


def find_flow(name: str, options: Iterable[str] = ()) -> type[ChunkFlow]:
    """Return the class of a flow, and check that it has these options.

    Raises:
        ValueError, ImportError: See `make_flow`.
    """
    if name not in FLOWS.names():
        raise ValueError(
            f"unknown flow {name!r}{hint(name, FLOWS.names())}; one of your own is known once its module is imported, "
            "or its package installed, see docs/explanation/flows.md"
        )
    flow = FLOWS.find(name)
    parameters = inspect.signature(flow).parameters.values()
    known = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    known = known - {"horizon", "action_dim", "context_dim"} | set(SHARED_OPTIONS)
    for option in options:
        if option not in known:
            raise ValueError(f"unknown option {option!r} of flow {name!r}{hint(option, known)}")
    return flow


def make_flow(
    name: str,
    *,
    horizon: int,
    action_dim: int,
    context_dim: int,
    bounds: str = "raw",
    noise: float | None = None,
    noise_law: str = "gaussian",
    normalize: bool = False,
    **options: Any,
) -> ChunkFlow:
    """Build a registered flow.

    Args:
        name: One of `available_flows()`.
        horizon, action_dim, context_dim: See `ChunkFlow`.
        bounds: "raw" or "atanh". "atanh" keeps nearly all samples near the box [-1, 1] and suits data at the bounds;
            see `BoundedFlow`.
        noise: Noise on the chunks in training, the standard deviation (gaussian) or the half-width (uniform). More
            noise smooths the density; 0 adds none. With `normalize` it is a fraction of each dimension's scale, and by
            default the fitted noise; otherwise it is in units of the action, and by default 0.
        noise_law: "gaussian" or "uniform".
        normalize: Whether the flow models normalised actions, with statistics that must be fitted; see
            `NormalizedFlow`.
        options: Options of the flow; see its class.

    Raises:
        ValueError: The name or an option is unknown (the message suggests the nearest valid one), a value is invalid,
            the flow cannot be normalised, or two installed packages define the name differently.
        ImportError: Importing the flow's package or backend fails.
    """
    flow = find_flow(name, options)
    built = flow(horizon=horizon, action_dim=action_dim, context_dim=context_dim, **options)
    if normalize:
        if built.open_box:
            raise ValueError(f"flow {name!r} has a density only within (-1, 1), so its actions cannot be normalised")
        return NormalizedFlow(built, bounds=bounds, noise=noise, noise_law=noise_law)
    if (bounds, noise or 0.0, noise_law) == ("raw", 0.0, "gaussian"):
        return built
    return BoundedFlow(built, bounds=bounds, noise=noise or 0.0, noise_law=noise_law)
