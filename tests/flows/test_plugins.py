"""Things by name: what `test_flow_registry.py` does not show of a flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest

from flows.plugins import Registry


@pytest.fixture
def registry() -> Registry[Callable[..., float]]:
    return Registry("function", "softflow.tests")


def test_a_thing_may_be_given_or_named_or_decorated(registry: Registry[Callable[..., float]]) -> None:
    registry.register("sine", math.sin)
    registry.register("cosine", "math:cos")

    @registry.decorator("half")
    def half(x: float) -> float:
        return x / 2

    assert registry.names() == ["cosine", "half", "sine"]
    assert [registry.find(name) for name in registry.names()] == [math.cos, half, math.sin]


def test_a_name_is_given_once(registry: Registry[Callable[..., float]]) -> None:
    registry.register("sine", math.sin)
    registry.register("cosine", "math:cos")
    with pytest.raises(ValueError, match="function 'sine' is already registered, by sin"):
        registry.register("sine", math.cos)
    with pytest.raises(ValueError, match="function 'cosine' is already registered, by math:cos"):
        registry.decorator("cosine")(math.cos)
    assert registry.find("sine") is math.sin


def test_what_is_missing_is_named_when_it_is_asked_for(registry: Registry[Callable[..., float]]) -> None:
    registry.register("lost", "math:no_such_function")
    with pytest.raises(ImportError, match="function 'lost' cannot be imported from math:no_such_function: "):
        registry.find("lost")
    with pytest.raises(ValueError, match=r"unknown function 'lots'; did you mean 'lost'\? \(valid: lost\)"):
        registry.find("lots")


def test_a_base_is_required_of_what_is_imported() -> None:
    numbers: Registry[type] = Registry("number", "softflow.tests", base=Fraction)
    numbers.register("fraction", "fractions:Fraction")
    numbers.register("pi", "math:pi")
    assert numbers.find("fraction") is Fraction
    with pytest.raises(ValueError, match=r"number 'pi': math:pi is not a subclass of fractions\.Fraction"):
        numbers.find("pi")
