"""What softflow knows of an environment beyond gymnasium: its short name, who solves it, its symmetry and its preset.

A task is an environment that is registered with gymnasium, and one call of `register_task`. Another package makes the
call when its module is imported, which ``module:Id-v0`` asks for. Its short name is known without that if an entry
point of the group ``softflow.tasks`` has the same name; it leads to a module or a function that calls `register_task`:

    [options.entry_points]
    softflow.tasks =
        docking = my_package.docking
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError, one_line

if TYPE_CHECKING:
    from flows.plugins import Registry

Trajectory = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Observations (T + 1, O) and actions (T, A)."""
Mirror = Callable[..., Trajectory]
"""Observations (T + 1, O) and actions (T, A) of an episode -> those of its mirror image."""


class Demonstrator(Protocol):
    """Shows how to solve one episode; made after a ``reset`` and asked once per step."""

    mode: int
    """Which of its ways to solve the task this one takes."""

    def act(self) -> NDArray[np.floating]:
        """The action (A,) in [-1, 1] for the environment's current state."""
        ...


class Supervisor(Demonstrator, Protocol):
    """Watches a policy solve one episode, and when it fails, shows how to go on; made after a ``reset``."""

    def watch(self) -> bool:
        """Whether the policy has failed; asked once after each of its steps."""
        ...

    def take_over(self) -> None:
        """From the environment's current state on, the supervisor is the demonstrator."""
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
        """The module that registers the environment with gymnasium when it is imported, or an empty string."""
        return self.id.rpartition(":")[0]

    @property
    def env_id(self) -> str:
        """The environment's id in gymnasium's registry."""
        return self.id.rpartition(":")[2]

    def load(self, part: str) -> Any:
        """Return the ``demonstrator``, ``supervisor`` or ``mirror``, importing it if need be; None if there is none.

        Raises:
            UserError: importing it fails.
        """
        thing = getattr(self, part)
        if not isinstance(thing, str):
            return thing
        try:
            return EntryPoint(part, thing, "").load()
        except Exception as error:  # whatever a module does when it is imported
            raise UserError(f"the {part} of {self.env_id!r}: cannot import {thing!r} ({one_line(error)})") from error


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
    """Tell softflow what it cannot know of an environment from gymnasium.

    Args:
        id: the environment's id as ``gymnasium.make`` takes it, ``Id-v0``; ``module:Id-v0`` if importing a module
            registers it, which is then imported when the environment is made.
        short_name: what ``--env`` takes beside the id.
        demonstrator: called with an environment that has just been reset, a ``numpy.random.Generator`` and the options
            that a user gives; returns the `Demonstrator` of one episode. May be "module:attribute", which is imported
            when it is needed, as may the next two.
        supervisor: the same for a `Supervisor`.
        mirror: called with the options of an environment; returns what makes an episode's mirror image, None if with
            these options the task has no such symmetry.
        preset: settings that ``--env SHORT_NAME`` starts from: a mapping or a YAML file. None for those of softflow's
            own ``configs/envs``.
        install: what to give to ``pip install`` if the module of the id is missing.

    Raises:
        ValueError: the environment, or another one of this short name, is registered already.
    """
    task = Task(id, short_name, demonstrator, supervisor, mirror, preset, install)
    if task.env_id in _tasks:
        raise ValueError(f"task {task.env_id!r} is already registered")
    if short_name is not None and (other := _by_short_name(short_name)):
        raise ValueError(f"task {task.env_id!r}: the short name {short_name!r} is already that of {other.env_id!r}")
    _tasks[task.env_id] = task


def known_tasks() -> list[Task]:
    """The tasks that have been registered so far."""
    return list(_tasks.values())


def short_names() -> list[str]:
    """Short names of tasks, also of those that installed packages bring, sorted. Nothing of theirs is imported."""
    ours = (task.short_name for task in _tasks.values() if task.short_name)
    return sorted({*ours, *_packages().names()})


def find_task(name: str) -> Task | None:
    """The task of a short name, a gymnasium id or ``module:Id-v0``, None if there is none.

    A short name that is not registered is looked for among the entry points of installed packages, and imported.

    Raises:
        UserError: the package that brings the short name cannot be imported, or does not register it.
    """
    task = _by_short_name(name) or _tasks.get(name.rpartition(":")[2])
    if task or ":" in name or name in gymnasium.registry or name not in _packages().names():
        return task
    try:
        register = _packages().find(name)
        if callable(register):  # else it is a module, which has now been imported
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
    from flows.plugins import Registry  # here, because it brings torch, which environments do without

    return Registry("environment", group="softflow.tasks")
