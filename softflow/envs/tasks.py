"""What softflow registers about an environment besides gymnasium: short name, demonstrator, symmetry and preset.

A task is an environment registered with gymnasium plus one call of `register_task`. Another package makes this call
when its module is imported; ``module:Id-v0`` triggers the import. To make the short name available without it, the
package declares an entry point of that name in the group ``softflow.tasks``. The entry point refers to a module or a
function that calls `register_task`:

    [options.entry_points]
    softflow.tasks =
        docking = my_package.docking
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError, nearest, one_line

if TYPE_CHECKING:
    from flows.plugins import Registry

Trajectory = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Observations (T + 1, O) and actions (T, A)."""
Mirror = Callable[..., Trajectory]
"""Maps the observations (T + 1, O) and actions (N, A) of an episode to those of its mirror image.

The first T actions are those executed. Further ones were only proposed; like the others, each is mirrored by itself."""


class Demonstrator(Protocol):
    """Demonstrates one episode. It is made after a ``reset``, and `act` is called once per step."""

    mode: int
    """Index of the way in which it solves the task."""

    def act(self) -> NDArray[np.floating]:
        """Return the action (A,) in [-1, 1] for the environment's current state."""
        ...


class Supervisor(Demonstrator, Protocol):
    """Watches a policy during one episode and takes over when it fails. It is made after a ``reset``."""

    def watch(self) -> bool:
        """Return whether the policy has failed; called once after each of its steps."""
        ...

    def take_over(self) -> None:
        """Become the demonstrator from the environment's current state on."""
        ...


@dataclass(frozen=True)
class Task:
    """The arguments of `register_task`."""

    id: str
    short_name: str | None = None
    demonstrator: Callable[..., Demonstrator] | str | None = None
    supervisor: Callable[..., Supervisor] | str | None = None
    mirror: Callable[..., Mirror | None] | str | None = None
    preset: Mapping[str, Any] | str | Path | None = None
    install: str | None = None

    @property
    def module(self) -> str:
        """Name of the module that registers the environment with gymnasium on import, or an empty string."""
        return self.id.rpartition(":")[0]

    @property
    def env_id(self) -> str:
        """Id of the environment in gymnasium's registry."""
        return self.id.rpartition(":")[2]

    def load(self, part: str) -> Any:
        """Return the ``demonstrator``, ``supervisor`` or ``mirror``, importing it if needed; None if there is none.

        Raises:
            UserError: The import fails.
        """
        thing = getattr(self, part)
        if not isinstance(thing, str):
            return thing
        try:
            return EntryPoint(part, thing, "").load()
        except Exception as error:  # importing a module can raise anything
            raise UserError(f"the {part} of {self.env_id!r}: cannot import {thing!r} ({one_line(error)})") from error


FOREIGN_IDS = (
    "The id of another package, or of a module of your own, is written module:Id-v0, such as "
    "gymnasium_robotics:PointMaze_UMaze-v3."
)
_tasks: dict[str, Task] = {}  # by `env_id`


def register_task(
    id: str,
    *,
    short_name: str | None = None,
    demonstrator: Callable[..., Demonstrator] | str | None = None,
    supervisor: Callable[..., Supervisor] | str | None = None,
    mirror: Callable[..., Mirror | None] | str | None = None,
    preset: Mapping[str, Any] | str | Path | None = None,
    install: str | None = None,
) -> None:
    """Register with softflow what gymnasium does not record about an environment.

    ``demonstrator``, ``supervisor`` and ``mirror`` may be strings "module:attribute", which are imported when needed.

    Args:
        id: The environment's id as ``gymnasium.make`` takes it: ``Id-v0``, or ``module:Id-v0`` if the module must be
            imported to register it.
        short_name: Name that ``--env`` accepts besides the id, if an installed package declares it as an entry point.
        demonstrator: Called with an environment that has just been reset, a ``numpy.random.Generator`` and the user's
            options. Returns the `Demonstrator` of one episode.
        supervisor: Called with the same arguments as ``demonstrator``. Returns a `Supervisor`.
        mirror: Called with the options of an environment. Returns the function that mirrors its episodes, or None if
            the task has no such symmetry with these options.
        preset: Settings that ``--env SHORT_NAME`` starts from: a mapping or a YAML file. None uses softflow's own file
            in ``configs/envs``, if there is one.
        install: Argument for ``pip install`` that the error suggests when the id's module is missing.

    Raises:
        ValueError: The environment, or another one with this short name, is already registered.
    """
    task = Task(id, short_name, demonstrator, supervisor, mirror, preset, install)
    if task.env_id in _tasks:
        raise ValueError(f"task {task.env_id!r} is already registered: call register_task once, with all arguments")
    if short_name is not None and (other := _by_short_name(short_name)):
        raise ValueError(f"task {task.env_id!r}: the short name {short_name!r} is already that of {other.env_id!r}")
    _tasks[task.env_id] = task


def known_tasks() -> list[Task]:
    """Return the tasks that have been registered so far."""
    return list(_tasks.values())


def short_names() -> list[str]:
    """Return the sorted short names of all tasks, including those of installed packages, without importing these."""
    ours = (task.short_name for task in _tasks.values() if task.short_name)
    return sorted({*ours, *_packages().names()})


def nearest_environment(name: str, shorts: Collection[str]) -> str | None:
    """Return the short name of `shorts` or the registered id most similar to a name, whatever its case and version."""
    known = {env_id.partition("-v")[0].lower(): env_id for env_id in gymnasium.registry}
    known |= {spelling: short for short in shorts for spelling in (short, short.replace("_", ""))}
    near = nearest(name.lower(), known)
    return None if near is None else known[near]


def find_task(name: str) -> Task | None:
    """Return the task for a short name, a gymnasium id or ``module:Id-v0``, or None if there is none.

    An unregistered short name is looked up among the entry points of installed packages, and imported.

    Raises:
        UserError: The package that declares the short name cannot be imported, or does not register it.
    """
    task = _by_short_name(name) or _tasks.get(name.rpartition(":")[2])
    if task or ":" in name or name in gymnasium.registry or name not in _packages().names():
        return task
    try:
        register = _packages().find(name)
        if callable(register):  # otherwise it is a module, and importing it has registered the task
            register()
    except (ValueError, ImportError) as error:
        raise UserError(f"environment {name!r}: {one_line(error)}") from error
    task = _by_short_name(name)
    if task is None:
        raise UserError(
            f"environment {name!r}: a package brings an entry point of this name, but loading it calls no "
            f"register_task(..., short_name={name!r})"
        )
    return task


def _by_short_name(name: str) -> Task | None:
    return next((task for task in _tasks.values() if task.short_name == name), None)


@cache
def _packages() -> Registry[Any]:
    from flows.plugins import Registry  # imported here because it imports torch, which environments do not need

    return Registry("environment", group="softflow.tasks")
