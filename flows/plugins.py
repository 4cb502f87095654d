"""Things by name: ours, those that a program registers, and those that installed packages bring by entry points.

A name may come from a stranger's file. It means what is registered under it, if anything is. Otherwise it means the
entry point of an installed package, which is then imported, and a warning of the logger `flows.plugins` names the
package. What lies in the current folder is not installed.
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
    """Things of one kind by name.

    Args:
        kind: what error messages call one of them, such as "flow".
        group: the group of entry points by which installed packages bring theirs.
        base: the class whose subclasses they are; None if they are no classes.
    """

    def __init__(self, kind: str, group: str, base: type | None = None) -> None:
        self.kind, self.group, self.base = kind, group, base
        self._things: dict[str, T | str] = {}
        self._announced: set[str] = set()

    def register(self, name: str, thing: T | str) -> None:
        """Make a thing available by a name.

        Args:
            name: its name.
            thing: the thing, or "module:attribute", which is imported when it is asked for.

        Raises:
            ValueError: another thing has this name.
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
        """Return the thing of a name, importing it if need be.

        Raises:
            ValueError: nothing has this name (the nearest valid one is given), two installed packages give it to
                different things, or it is no subclass of `base`.
            ImportError: importing it fails.
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
            logging.getLogger(__name__).warning("%s %r is %s", self.kind, name, _owner(point))
            self._announced.add(name)
        return point

    def _load(self, point: EntryPoint) -> Any:
        try:
            thing = point.load()
        except Exception as error:  # whatever a package does when it is imported
            raise ImportError(
                f"{self.kind} {point.name!r} cannot be imported from {_owner(point)}: {error!r}"
            ) from error
        if self.base is not None and not (isinstance(thing, type) and issubclass(thing, self.base)):
            package = self.base.__module__.rpartition(".")[0] or self.base.__module__  # ours export them there
            base = f"{package}.{self.base.__qualname__}"
            raise ValueError(f"{self.kind} {point.name!r}: {_owner(point)} is not a subclass of {base}")
        return thing

    def _entry_points(self) -> list[EntryPoint]:
        """Those of installed packages. Of two versions of a package, the one that would be imported counts."""
        packages: dict[str, Iterable[EntryPoint]] = {}
        for distribution in distributions(path=_outside_the_current_folder()):
            if points := distribution.entry_points.select(group=self.group):
                packages.setdefault(distribution.metadata["Name"], points)
        return [point for points in packages.values() for point in points]


def hint(name: str, valid: Iterable[str]) -> str:
    """What to append to an error about an unknown name: the most similar valid one, and all of them."""
    nearest = get_close_matches(name, valid, n=1, cutoff=0.0)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{guess} (valid: {', '.join(sorted(valid))})"


def _outside_the_current_folder() -> list[str]:
    """Python's path without the current folder, which Python itself may have put there."""
    absolute = (entry for entry in sys.path if os.path.isabs(entry))
    return [entry for entry in absolute if not (os.path.exists(entry) and os.path.samefile(entry, os.curdir))]


def _owner(point: EntryPoint) -> str:
    """Where an entry point leads, and the package that brings it."""
    return f"{point.value} of the package {point.dist.name!r}" if point.dist else point.value
