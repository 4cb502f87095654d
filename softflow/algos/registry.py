"""Algorithms by name.

Other packages register theirs with the decorator `register_algorithm`, or with an entry point of the group
`softflow.algorithms` (`my_algorithm = my_package.my_algorithm:MyAlgorithm`). `flows.plugins` explains the names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flows.plugins import Registry
from softflow.algos.base import Algorithm
from softflow.named_classes import find_class

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
    return find_class(ALGORITHMS, name)
