"""Options of a constructor, as its signature and docstring describe them for `--help`."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser


@dataclass(frozen=True)
class Option:
    """One argument of a constructor."""

    name: str
    metavar: str
    """Placeholder of the value, such as `INT` or `true|false`. It is `YAML` if the signature has no type."""
    default: Any
    """Default value, or `inspect.Parameter.empty` if the option is required."""
    text: str
    """Description from the docstring. Empty if there is none."""


def options_of(constructor: Callable[..., Any]) -> list[Option]:
    """Return the arguments of a class or a function, in order, without `*args` and `**kwargs`.

    Raises:
        ValueError: The constructor has no signature, like some that are written in C.
    """
    declared = constructor.func if isinstance(constructor, partial) else constructor
    hints, texts = _hints(declared), _texts(declared)
    return [
        Option(name, metavar(hints.get(name, _type_of(parameter.default))), parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _type_of(default: Any) -> Any:
    return Any if default is None else type(default)


def _hints(constructor: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
    except (NameError, TypeError):  # the name is only imported for type checkers
        return {}


def _texts(constructor: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions by argument. A class inherits those of its bases."""
    texts: dict[str, str] = {}
    for owner in _owners(constructor):
        try:
            described = docstring_parser.parse(inspect.getdoc(owner) or "").params
        except docstring_parser.ParseError:
            continue
        for parameter in described:
            for name in parameter.arg_name.split(","):
                texts.setdefault(name.strip(), _plain(parameter.description or ""))
    return texts


def _plain(text: str) -> str:
    """Remove line breaks, and reStructuredText's roles and double backquotes."""
    return re.sub(r":[a-z:]+:(?=`)", "", " ".join(text.split())).replace("``", "`")


def _owners(constructor: Callable[..., Any]) -> Iterator[Any]:
    if not inspect.isclass(constructor):
        yield constructor
        return
    for cls in inspect.getmro(constructor)[:-1]:  # all but object
        yield from (owner for owner in (cls, vars(cls).get("__init__")) if owner is not None)


_METAVARS = {bool: "true|false", int: "INT", float: "FLOAT", str: "STR"}


def metavar(annotation: Any) -> str:
    """Return the placeholder for a value of this type in `--help`."""
    if annotation is types.NoneType:
        return "null"
    if get_origin(annotation) in (Union, types.UnionType):
        return "|".join(dict.fromkeys(map(metavar, get_args(annotation))))
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return _METAVARS.get(annotation, "YAML") if isinstance(annotation, type) else "YAML"
