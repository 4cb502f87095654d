"""Registries of classes and functions by name, which installed packages extend with entry points.

A name may come from an untrusted file. Registered names take precedence. Any other name is looked up among the entry
points of installed packages. That package is then imported, and the logger `flows.plugins` logs its name as a warning.
Packages in the current folder do not count as installed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, distributions
from typing import Any, Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")


class Registry(Generic[T]):
    """Classes or functions of one kind, by name.

    Args:
        kind: The word for an entry in error messages, such as "flow".
        group: The entry point group in which installed packages add entries.
        base: The base class of all entries. None if they need not be classes.
    """

    def __init__(self, kind: str, group: str, base: type | None = None) -> None:
        self.kind, self.group, self.base = kind, group, base
        self._things: dict[str, T | str] = {}
        self._announced: set[str] = set()

    def register(self, name: str, thing: T | str) -> None:
        """Register a class or function under a name.

        Args:
            name: The name.
            thing: The class or function, or "module:attribute", which is imported on first use.

        Raises:
            ValueError: The name is already registered.
        """
        if name in self._things:
            owner = self._things[name]
            owner = owner if isinstance(owner, str) else getattr(owner, "__qualname__", repr(owner))
            raise ValueError(f"{self.kind} {name!r} is already registered, by {owner}")
        self._things[name] = thing

    def decorator(self, name: str) -> Callable[[S], S]:
        """Return a decorator that registers a class or function under a name."""

        def register(thing: Any) -> Any:
            self.register(name, thing)
            return thing

        return register

    def names(self) -> list[str]:
        """Return the names that `find` accepts, sorted. Nothing is imported."""
        return sorted({*self._things, *(point.name for point in self._entry_points())})

    def find(self, name: str) -> T:
        """Return the class or function with a name, importing it if necessary.

        Raises:
            ValueError: The name is unknown (the message suggests the nearest valid one), two installed packages define
                it differently, or it is not a subclass of `base`.
            ImportError: Importing it fails.
        """
        thing = self._things.get(name)
        if thing is None:
            return self._load(self._point(name))
        return self._load(EntryPoint(name, thing, self.group)) if isinstance(thing, str) else thing

    def _point(self, name: str) -> EntryPoint:
        points = {point.value: point for point in self._entry_points() if point.name == name}
        if not points:
            raise ValueError(f"unknown {self.kind} {name!r}{hint(name, self.names())}")
        if len(points) > 1:
            owners = " and by ".join(map(_owner, points.values()))
            raise ValueError(f"{self.kind} {name!r} is defined more than once, by {owners}: remove one")
        [point] = points.values()
        if name not in self._announced:
            logging.getLogger(__name__).warning("%s %r comes from %s", self.kind, name, _owner(point))
            self._announced.add(name)
        return point

    def _load(self, point: EntryPoint) -> Any:
        try:
            thing = point.load()
        except (Exception, SystemExit) as error:  # a package may raise anything when it is imported
            raise ImportError(
                f"{self.kind} {point.name!r} cannot be imported from {_owner(point)}: {error!r}"
            ) from error
        if self.base is not None and not (isinstance(thing, type) and issubclass(thing, self.base)):
            package = self.base.__module__.rpartition(".")[0] or self.base.__module__  # where it is exported
            base = f"{package}.{self.base.__qualname__}"
            raise ValueError(f"{self.kind} {point.name!r}: {_owner(point)} is not a subclass of {base}")
        return thing

    def _entry_points(self) -> list[EntryPoint]:
        """Return the entry points of installed packages, counting only the importable version of each package."""
        packages: dict[str, Iterable[EntryPoint]] = {}
        for distribution in distributions(path=_outside_the_current_folder()):
            if points := distribution.entry_points.select(group=self.group):
                packages.setdefault(distribution.metadata["Name"], points)
        return [point for points in packages.values() for point in points]


def hint(name: str, valid: Iterable[str]) -> str:
    """Return a suffix for errors about an unknown name: the most similar valid name, and all valid names."""
    nearest = get_close_matches(name, valid, n=1, cutoff=0.0)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{guess} (valid: {', '.join(sorted(valid))})"


def _outside_the_current_folder() -> list[str]:
    """Return `sys.path` without the current folder, which Python may have added."""
    absolute = (entry for entry in sys.path if os.path.isabs(entry))
    return [entry for entry in absolute if not (os.path.exists(entry) and os.path.samefile(entry, os.curdir))]


def _owner(point: EntryPoint) -> str:
    """Return the object reference of an entry point and its package, for messages."""
    return f"{point.value} of the package {point.dist.name!r}" if point.dist else point.value
