"""Flags of dict fields, whose keys are not fields of a dataclass."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, get_origin

import yaml

from softflow.errors import one_line
from softflow.settings.fields import dotted_fields
from softflow.settings.typed import ConfigError, Layer, read_yaml

ANYTHING = dict[str, Any]
"""The type of a field that takes several keys at once, as YAML."""
TEXTS = dict[str, str]
"""The type of a field that takes pairs of texts."""


def flag_name(key: str) -> str:
    """Return a key as it stands in a flag."""
    return key.replace("_", "-")


def take_dict_flags(cls: type, argv: Sequence[str]) -> tuple[list[str], list[Layer]]:
    """Separate the flags of dict fields. Their values are read as YAML, and those of a whole dict of texts as pairs.

    Raises:
        ConfigError: A value is missing, or is neither.
    """
    free = {f"--{flag_name(key)}": (key, annotation) for key, annotation in dotted_fields(cls) if _is_dict(annotation)}
    kept: list[str] = []
    layers: list[Layer] = []
    arguments = deque(argv)
    while arguments:
        argument = arguments.popleft()
        flag, equals, text = argument.partition("=")
        field = next((field for field in free if f"{flag_name(flag)}.".startswith(f"{field}.")), None)
        is_whole = field == flag_name(flag)
        if field is None or (is_whole and free[field][1] not in (ANYTHING, TEXTS)):
            kept.append(argument)
            continue
        option, dot, inner = flag[len(field) + 1 :].partition(".")
        if is_whole and free[field][1] == TEXTS:
            values: Any = _pairs(flag, [text] if equals else [], arguments)
        else:
            value = text if equals else arguments.popleft() if arguments else "--"
            values = _as_yaml(flag, value)
        if dot:
            raise ConfigError(f"{flag}: give the whole of {option!r}: {field}.{option} '{{{inner}: {value}, ...}}'")
        for name in reversed([*free[field][0].split("."), *([] if is_whole else [option.replace("-", "_")])]):
            values = {name: values}
        layers.append(Layer(values, flag))
    return kept, layers


def _as_yaml(flag: str, value: str) -> Any:
    if value.startswith("--"):
        raise ConfigError(f"{flag} needs a value")
    try:
        return read_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{flag}: {value!r} is not valid YAML: {one_line(error)}") from error


def _pairs(flag: str, given: list[str], arguments: deque[str]) -> dict[str, str]:
    """Take the pairs NAME=OTHER_NAME that follow a flag from the arguments."""
    while arguments and "=" in arguments[0] and not arguments[0].startswith("--"):
        given.append(arguments.popleft())
    if not given:
        raise ConfigError(f"{flag} needs pairs such as NAME=OTHER_NAME")
    pairs = dict[str, str]()
    for pair in given:
        name, _, other = pair.partition("=")
        if not (name and other):
            raise ConfigError(f"{flag} needs pairs such as NAME=OTHER_NAME, got {pair!r}")
        if name in pairs:
            raise ConfigError(f"{flag} has {name!r} twice, as {pairs[name]!r} and {other!r}")
        pairs[name] = other
    return pairs


def _is_dict(annotation: Any) -> bool:
    return get_origin(annotation) is dict
