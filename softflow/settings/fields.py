"""The keys of a configuration: the fields of a dataclass, including those of its flat parts.

    @dataclass
    class TrainConfig(Generic[Method]):
        algorithm: str
        run: Flat[RunConfig]
        method: Flat[Method]

`TrainConfig[SoftFlowConfig]` then accepts `algorithm` and the keys of `RunConfig` and `SoftFlowConfig`, in YAML and as
flags. The keys of a nested dataclass that is not flat are below its own name.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from softflow.errors import UserError

T = TypeVar("T")

_FLAT = tyro.conf.arg(name="")  # tyro then adds no prefix to the part's flags
Flat = Annotated[T, _FLAT]
"""A part of a dataclass whose keys are keys of the whole."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a dataclass."""

    annotation: Any
    default: Any
    """Default value, or `dataclasses.MISSING` if the field is required."""
    is_flat: bool


def class_of(annotation: Any) -> Any:
    """Return the class behind a generic such as `TrainConfig[SoftFlowConfig]`, or any other annotation unchanged."""
    return get_origin(annotation) or annotation


def is_nested(annotation: Any) -> bool:
    """Return whether values of this type have keys of their own."""
    return dataclasses.is_dataclass(class_of(annotation))


def fields_of(cls: Any, base: object = None) -> dict[str, Field]:
    """Return the fields of a dataclass by name. If an instance `base` is given, its values are the defaults."""
    plain, marked = _types_of(class_of(cls))
    chosen = dict(zip(getattr(class_of(cls), "__parameters__", ()), get_args(cls), strict=False))
    found = {}
    for field in dataclasses.fields(class_of(cls)):
        if not field.init:
            continue
        default = field.default if base is None else getattr(base, field.name)
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        annotation = plain[field.name]
        is_flat = _FLAT in getattr(marked[field.name], "__metadata__", ())
        found[field.name] = Field(chosen.get(annotation, annotation), default, is_flat)
    return found


@functools.cache  # every annotation is compiled, and a command asks some fifty times
def _types_of(cls: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the types of a class's fields by name, without and with what `Annotated` adds."""
    return get_type_hints(cls), get_type_hints(cls, include_extras=True)


def field_texts(cls: type) -> dict[str, str]:
    """Return the texts below the fields of a dataclass and its bases, each as one line."""
    texts: dict[str, str] = {}
    for owner in reversed([one for one in cls.__mro__ if dataclasses.is_dataclass(one)]):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except OSError:  # a class that was not read from a file
            continue
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
    return texts


def keys_of(cls: Any, base: object = None) -> dict[str, Field]:
    """Return the keys of a dataclass in YAML and as flags: its fields, with flat parts replaced by their own keys.

    Raises:
        UserError: Two parts have a key of the same name.
    """
    found: dict[str, Field] = {}
    for name, field in fields_of(cls, base).items():
        part = {name: field}
        if field.is_flat:
            part = keys_of(field.annotation, None if field.default is dataclasses.MISSING else field.default)
        if twice := sorted(found.keys() & part):
            whose = getattr(class_of(field.annotation), "__name__", field.annotation)
            raise UserError(f"{whose} and another part of {class_of(cls).__name__} both have {twice[0]!r}: rename one")
        found |= part
    return found


def dotted_fields(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `("imitation.updates", int)` and so on for every leaf of a nested dataclass."""
    for name, field in keys_of(cls).items():
        if is_nested(field.annotation):
            yield from dotted_fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation


def dotted_values(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested dataclass by the keys of `dotted_fields`."""
    values: dict[str, Any] = {}
    for name, field in fields_of(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            values |= dotted_values(value, prefix if field.is_flat else f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a dataclass to nested dicts of YAML types. Tuples become lists, and paths become strings."""
    values: dict[str, Any] = {}
    for name, field in fields_of(type(config)).items():
        value = getattr(config, name)
        values |= to_dict(value) if field.is_flat else {name: _plain(value)}
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
