"""Algorithms by name.

Other packages register theirs with the decorator `register_algorithm`, or with an entry point of the group
`softflow.algorithms` (`my_algorithm = my_package.my_algorithm:MyAlgorithm`). `flows.plugins` explains the names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TypeVar

from flows.plugins import Registry
from softflow.algos.base import Algorithm
from softflow.errors import UserError, did_you_mean

A = TypeVar("A", bound=type[Algorithm])

ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "softflow.algorithms", base=Algorithm)


def register_algorithm(name: str) -> Callable[[A], A]:
    """Return a class decorator that makes an `Algorithm` available in presets as `algorithm: NAME`.

    Raises:
        ValueError: Another class has this name.
    """
    return ALGORITHMS.decorator(name)


def find_algorithm(name: str) -> type[Algorithm]:
    """Return the algorithm class of a name: a registered name, or `module:Class` for any other class.

    Raises:
        UserError: There is no such algorithm, or its module cannot be imported.
    """
    if ":" not in name:
        if name not in (names := ALGORITHMS.names()):
            hint = did_you_mean(name, names)
            end = "" if hint.endswith("?") else "."
            raise UserError(f"unknown algorithm {name!r}: {hint}{end} Those of other modules are named module:Class.")
        try:
            return ALGORITHMS.find(name)
        except (ValueError, ImportError) as error:
            raise UserError(str(error)) from error
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # an import runs arbitrary code
        raise UserError(
            f"algorithm {name!r}: cannot import {module_name!r} ({error!r}): is it installed, or its folder in "
            "PYTHONPATH?"
        ) from error
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    algorithms = {key: value for key, value in classes.items() if issubclass(value, Algorithm) and value != Algorithm}
    if class_name not in algorithms:
        raise UserError(
            f"algorithm {name!r}: {module_name!r} has no subclass of softflow.algos.Algorithm called {class_name!r}: "
            f"{did_you_mean(class_name, algorithms)}"
        )
    return algorithms[class_name]
