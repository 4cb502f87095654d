"""Options of a constructor as its signature and its docstring say."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

import pytest

from softflow.settings.signatures import Option, metavar, options_of

if TYPE_CHECKING:
    from nowhere import Unknown


class Base:
    """A base.

    Args:
        width, height: Size in
            ``pixels``.
        depth: Layers.
    """

    def __init__(self, width: int = 3, *, height: float | None = None, depth: int = 2) -> None: ...


class Derived(Base):
    """A class whose constructor is its base's.

    Args:
        depth (int): Layers, see :class:`Base`.
    """


class Own(Base):
    def __init__(self, first, mode: Literal["a", "b"] = "a", noise=0.5, tilt=None, *rest: Any, **options: Any) -> None:  # type: ignore[no-untyped-def]
        """Make one.

        Args:
            mode: Which.
        """


def unreadable(size: Unknown, depth: int = 2) -> None: ...


def test_a_class_has_its_bases_texts() -> None:
    assert options_of(Derived) == [
        Option("width", "INT", 3, "Size in `pixels`."),
        Option("height", "FLOAT|null", None, "Size in `pixels`."),
        Option("depth", "INT", 2, "Layers, see `Base`."),
    ]


def test_what_has_no_annotation_is_of_its_defaults_type() -> None:
    assert options_of(Own) == [
        Option("first", "YAML", inspect.Parameter.empty, ""),
        Option("mode", "a|b", "a", "Which."),
        Option("noise", "FLOAT", 0.5, ""),
        Option("tilt", "YAML", None, ""),
    ]
    assert [(option.name, option.metavar) for option in options_of(unreadable)] == [("size", "YAML"), ("depth", "INT")]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [(bool, "true|false"), (int | str | None, "INT|STR|null"), (dict[str, int], "YAML"), (list, "YAML"), (Any, "YAML")],
)
def test_metavars(annotation: Any, expected: str) -> None:
    assert metavar(annotation) == expected
