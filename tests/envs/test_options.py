"""Options of environments and demonstrators by name: of a wrong type, they are refused before anything is made."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import pytest

from softflow.envs import make_demonstrator, make_env, make_supervisor
from softflow.envs.options import check_options
from softflow.errors import UserError


class Base:
    def __init__(
        self, steps: int = 1, scale: float = 1.0, name: str | None = None, kind: Literal["a", "b"] = "a"
    ) -> None:
        pass


class Derived(Base):
    def __init__(self, flag: bool = False, untyped=None, **options: Any) -> None:
        super().__init__(**options)


@pytest.mark.parametrize(
    "options",
    [dict(steps=3, scale=2, name=None, kind="z"), dict(scale=0.5, name="x", flag=True, untyped=[1], other="y")],
)
def test_options_of_the_right_type(options: dict[str, Any]) -> None:
    check_options(Derived, options, "it")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (dict(steps="3"), "it: steps must be a whole number, got '3'"),
        (dict(steps=3.0), "it: steps must be a whole number, got 3.0"),
        (dict(steps=True), "it: steps must be a whole number, got True"),
        (dict(scale="x"), "it: scale must be a finite number, got 'x'"),
        (dict(scale=float("inf")), "it: scale must be finite, got inf"),
        (dict(name=3), "it: name must be a text or null, got 3"),
        (dict(kind=1), "it: kind must be a text, got 1"),
        (dict(flag=1), "it: flag must be true or false, got 1"),
        (dict(untyped=float("nan")), "it: untyped must be finite, got nan"),
    ],
)
def test_options_of_a_wrong_type(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_options(Derived, option, "it")
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["tape_cut", "cube_rotate", "Pendulum-v1"])
@pytest.mark.parametrize(
    "options",
    [
        dict(max_steps="x"),
        dict(max_episode_steps="x"),
        dict(randomize="x"),
        dict(g="x", rate=1),
        dict(name="x"),
        dict(id="x"),
    ],
)
def test_environments_refuse_in_one_kind_of_error(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        make_env(name, **options)


@pytest.mark.parametrize("error", [ValueError("a bug"), AssertionError()])
def test_an_environment_that_cannot_be_made_is_one_line_with_the_place(error: Exception) -> None:
    def broken() -> gymnasium.Env:
        raise error

    gymnasium.register("tests/Broken-v0", entry_point=broken)
    try:
        said = rf"Broken-v0' cannot be made: {type(error).__name__}.* \(test_options.py:\d+, in broken\)$"
        with pytest.raises(UserError, match=said) as caught:
            make_env("tests/Broken-v0")
        assert caught.value.__cause__ is error
    finally:
        gymnasium.registry.pop("tests/Broken-v0")


@pytest.mark.parametrize("make", [make_demonstrator, make_supervisor])
@pytest.mark.parametrize(
    "options", [dict(noise="x"), dict(mode="x"), dict(rng=1), dict(env=1), dict(sloppiness=np.nan)]
)
def test_demonstrators_and_supervisors_too(make: Any, options: dict[str, Any]) -> None:
    env = make_env("tape_cut")
    env.reset(seed=0)
    with pytest.raises(UserError, match="of 'softflow/TapeCut-v0'"):
        make(env, np.random.default_rng(0), **options)
