"""A second name for a package, under which its modules are the same objects, so that nothing is defined twice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def stand_in(alias: str, package: str) -> None:
    """Make a package available under a second name. The `__init__` of that name calls this function.

    Args:
        alias: The second name, such as `softflow.flows`.
        package: The name of the package, such as `flows`.
    """
    sys.modules[alias] = import_module(package)
    sys.meta_path.insert(0, _SameModules(f"{alias}.", f"{package}."))


class _SameModules(MetaPathFinder, Loader):
    def __init__(self, alias: str, package: str) -> None:
        self.alias, self.package = alias, package

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(self.alias) or find_spec(self._real(name)) is None:
            return None
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._real(spec.name))
        spec.loader_state = module.__spec__  # Python is about to replace it
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state

    def _real(self, name: str) -> str:
        return self.package + name.removeprefix(self.alias)
