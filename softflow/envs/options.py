"""Checks of options that a user gives by name, against the annotations of the constructor that takes them."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from softflow.errors import UserError, did_you_mean

ObservationKind = Literal["state", "pixels"]
"""What a task that can also be seen lets a policy observe."""
_NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", type(None): "null"}


def check_options(constructor: Callable[..., Any], options: Mapping[str, Any], what: str) -> None:
    """Check that each option has the type of the constructor's annotation, if files and flags can express that type.

    Options without an annotation, as in many third-party environments, are left to the constructor.

    Raises:
        UserError: An option of `what` has another type, or is a number that is not finite.
    """
    annotations = _annotations(constructor)
    for name, value in options.items():
        if not all(map(math.isfinite, _floats(value))):
            raise UserError(f"{what}: {name} must be finite, got {value}")
        if name in annotations and not _is(value, annotations[name]):
            raise UserError(f"{what}: {name} must be {_describe(annotations[name])}, got {value!r}")


def check_observation(kind: str) -> None:
    """Check that a task's option `observation` is an `ObservationKind`.

    Raises:
        UserError: It is something else.
    """
    if kind not in get_args(ObservationKind):
        raise UserError(f"no observation {kind!r}: {did_you_mean(kind, get_args(ObservationKind))}")


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _floats(item)


def _annotations(constructor: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of the constructor's arguments; for a class, including those passed on to its bases."""
    if not inspect.isclass(constructor):
        return _hints(constructor)
    annotations: dict[str, Any] = {}
    for cls in reversed(inspect.getmro(constructor)):
        annotations |= _hints(vars(cls).get("__init__"))
    return annotations


def _hints(function: Any) -> dict[str, Any]:
    if not inspect.isfunction(function):
        return {}
    try:
        return get_type_hints(function)
    except (NameError, TypeError):  # an annotation names something that only type checkers import
        return {}


def _is(value: Any, annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_is(value, member) for member in get_args(annotation))
    if get_origin(annotation) is Literal:
        return isinstance(value, str)  # the constructor's own error lists the allowed texts
    if annotation is float:
        return type(value) in (int, float)
    return type(value) is annotation if annotation in _NAMES else True


def _describe(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_describe(member) for member in get_args(annotation))
    return "a text" if get_origin(annotation) is Literal else _NAMES.get(annotation, str(annotation))
