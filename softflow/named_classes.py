"""Classes that a user names: by a registered name, or as `module:Class`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeVar

from softflow.errors import UserError, did_you_mean, import_error, import_hint

if TYPE_CHECKING:
    from flows.plugins import Registry

T = TypeVar("T")


def names_in(kind: str, name: str) -> dict[str, Any]:
    """Import the module of `module:name` and return everything in it by name. `kind` is for errors.

    Raises:
        UserError: The module cannot be imported.
    """
    module_name = name.partition(":")[0]
    try:
        return vars(importlib.import_module(module_name))
    except (Exception, SystemExit) as error:  # an import runs arbitrary code
        hint = import_hint(module_name, error)
        raise UserError(f"{kind} {name!r}: cannot import {module_name!r} ({import_error(error)}){hint}") from error


def find_class(registry: Registry[type[T]], name: str) -> type[T]:
    """Return the class of a name: a name of the registry, or `module:Class` for any other subclass of its base.

    Raises:
        UserError: There is no such class, or its module cannot be imported.
    """
    kind, base = registry.kind, registry.base or object
    if ":" not in name:
        if name not in (names := registry.names()):
            hint = did_you_mean(name, names)
            end = "" if hint.endswith("?") else "."
            raise UserError(f"unknown {kind} {name!r}: {hint}{end} Those of other modules are named module:Class.")
        try:
            return registry.find(name)
        except (ValueError, ImportError) as error:
            raise UserError(str(error)) from error
    module_name, _, class_name = name.partition(":")
    found = names_in(kind, name)
    classes = {key: value for key, value in found.items() if isinstance(value, type)}
    subclasses: dict[str, Any] = {
        key: value for key, value in classes.items() if issubclass(value, base) and value != base
    }
    if class_name not in subclasses:
        package, base_name = base.__module__.rpartition(".")[0], base.__qualname__
        exported = f"{package}.{base_name}"
        if class_name in classes and classes[class_name].__module__ == module_name:
            raise UserError(
                f"{kind} {name!r}: the class {class_name!r} does not derive from {exported}: write "
                f"`from {package} import {base_name}` and `class {class_name}({base_name})`"
            )
        raise UserError(
            f"{kind} {name!r}: {module_name!r} has no subclass of {exported} called {class_name!r}: "
            f"{did_you_mean(class_name, subclasses)}"
        )
    return subclasses[class_name]
