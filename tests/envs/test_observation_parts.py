"""What parts of an observation are taken for: pixels where they belong, numbers, or an error that says what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from softflow.envs import describe_spaces, find_layout, make_env, name_actions, name_dimensions
from softflow.errors import UserError
from softflow.task import ActionPart, ObservationPart, TaskSpec

H, W = 16, 20
ACTION = spaces.Box(-1, 1, (1,), np.float32)


class Still(gymnasium.Env[Any, np.ndarray]):
    """Observes `seen`, again and again."""

    def __init__(self, space: spaces.Space[Any], seen: Any = None) -> None:
        self.observation_space, self.action_space, self.seen = space, ACTION, seen

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.seen, {}


@pytest.fixture(autouse=True)
def registered() -> Any:
    gymnasium.register("tests/Still-v0", entry_point=Still, disable_env_checker=True)
    yield
    gymnasium.registry.pop("tests/Still-v0")


def make(space: spaces.Space[Any], seen: Any = None, observed_as: Mapping[str, Any] | None = None) -> gymnasium.Env:
    # Not as an argument of the environment, which would be copied.
    env = make_env("tests/Still-v0", space=space, observed_as=observed_as)
    env.unwrapped.seen = seen
    return env


def bytes_of(shape: tuple[int, ...]) -> np.ndarray:
    """Each another number, as far as bytes go."""
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


def image(*shape: int, high: float = 255, dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(0, high, shape, dtype)


@pytest.mark.parametrize(
    ("shape", "to_hwc"),
    [
        ((H, W), lambda x: x[:, :, None]),
        ((H, W, 1), lambda x: x),
        ((H, W, 3), lambda x: x),
        ((H, W, 12), lambda x: x),
        ((3, H, W), lambda x: np.stack(list(x), -1)),
        ((4, H, W), lambda x: np.stack(list(x), -1)),
        ((4, H, W, 3), lambda x: np.concatenate(list(x), -1)),
        ((4, 3, H, W), lambda x: np.stack([channel for frame in x for channel in frame], -1)),
    ],
)
def test_pixels_come_where_they_belong(shape: tuple[int, ...], to_hwc: Any) -> None:
    pixels = bytes_of(shape)
    expected = to_hwc(pixels)
    for space, seen, name in (
        (image(*shape), pixels, "observation"),
        (spaces.Dict(eye=image(*shape), arm=spaces.Box(-1, 1, (2,))), {"eye": pixels, "arm": [0.5, 1]}, "eye"),
        (spaces.Dict(robot=spaces.Dict(eye=image(*shape))), {"robot": {"eye": pixels}}, "robot/eye"),
    ):
        env = make(space, seen)
        layout = find_layout(env)
        assert layout is not None and [part.name for part in layout.images] == [name]
        np.testing.assert_array_equal(layout.unpack(env.reset()[0])[name], expected)


@pytest.mark.parametrize(
    "space",
    [
        image(128),  # the memory of a machine
        image(4, 128),  # and its latest states
        spaces.Box(-np.inf, np.inf, (20, 39)),  # a stack of states
        spaces.Box(-1, 1, (64, 3)),
        spaces.Box(0, 1, (15, 64), np.float32),
        spaces.Box(0, 5, (20, 20), np.int64),
        spaces.Box(0, 1, (), np.float32),
    ],
)
def test_what_is_no_image_is_numbers(space: spaces.Box) -> None:
    seen = np.arange(np.prod(space.shape)).reshape(space.shape).astype(space.dtype)
    env = make(space, seen)
    assert find_layout(env) is None
    np.testing.assert_array_equal(env.reset()[0], seen.reshape(-1))
    assert describe_spaces(env).startswith(f"observation: {seen.size} number")


@pytest.mark.parametrize(
    ("space", "suggestion"),
    [
        (image(H, W, 3, high=1, dtype=np.float32), "HWC"),
        (image(3, H, W, high=1, dtype=np.float32), "CHW"),
        (image(4, H, W, 3, high=1, dtype=np.float64), "CHWK"),
        (image(H, W, high=1, dtype=np.float32), "HW"),
        (image(H, W, high=255, dtype=np.int64), "HW"),
        (image(H, W, 3, high=255, dtype=np.float32), "HWC"),
        (spaces.Box(-np.inf, np.inf, (H, W, 1)), "HWC"),
        (image(H, W, high=5), "HW"),  # the classes of pixels, or a board
        (image(7, 7, 3), "HWC"),  # an image too small for an encoder, or the codes of a grid
        (image(64, 64, 32), "HWC"),
        (image(32, 64, 64), "CHW"),
        (image(H, 3, W), "HCW"),
        (image(20, 64, 64, 3), "CHWK"),
    ],
)
def test_what_may_be_an_image_or_not_is_refused_until_it_is_said(space: spaces.Box, suggestion: str) -> None:
    for observed, name in ((space, "observation"), (spaces.Dict(a=spaces.Dict(b=space)), "a/b")):
        with pytest.raises(UserError) as caught:
            make(observed)
        message = str(caught.value)
        assert "'tests/Still-v0'" in message and f"observation {name!r}, {space.dtype}" in message
        assert f"--env-options.observed-as '{{{name}: numbers}}'" in message
        assert f"'{{{name}: {suggestion}}}'" in message and "gymnasium.wrappers.TransformObservation" in message
        assert find_layout(make(observed, observed_as={name: "numbers"})) is None


def test_the_user_says_what_is_an_image() -> None:
    stack = bytes_of((20, H, W, 3))
    env = make(image(20, H, W, 3), stack, {"observation": "KHWC"})
    layout = find_layout(env)
    assert layout is not None
    unpacked = layout.unpack(env.reset()[0])["observation"]
    np.testing.assert_array_equal(unpacked, np.concatenate(list(stack), -1))
    sideways = bytes_of((W, 3, H))
    env = make(image(W, 3, H), sideways, {"observation": "WCH"})
    np.testing.assert_array_equal(find_layout(env).unpack(env.reset()[0])["observation"], sideways.transpose(2, 0, 1))  # type: ignore[union-attr]
    assert find_layout(make(image(H, W, 3), observed_as={"observation": "numbers"})) is None


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(0, 1, np.float32), (0, 255, np.float64), (0, 255, np.int32), (-1, 1, np.float32)]
)
def test_other_pixels_are_rounded_where_the_user_says_that_they_are_some(low: int, high: int, dtype: Any) -> None:
    space = spaces.Box(low, high, (3, H, W), dtype)
    exact = bytes_of((3, H, W))
    seen = (low + exact.astype(np.float64) / 255 * (high - low)).astype(dtype)
    env = make(space, seen, {"observation": "CHW"})
    layout = find_layout(env)
    assert layout is not None
    np.testing.assert_array_equal(layout.unpack(env.reset()[0])["observation"], np.moveaxis(exact, 0, -1))


@pytest.mark.parametrize(
    ("space", "observed_as", "message"),
    [
        (image(H, W, 3), "HWC", "observed_as must be a mapping"),
        (image(H, W, 3), {"camera": "HWC"}, "observes no 'camera': valid: observation"),
        (spaces.Dict(camera=image(H, W, 3)), {"camra": "HWC"}, "did you mean 'camera'"),
        (image(H, W, 3), {"observation": "HW"}, r"'HW' does not fit .* shape \(16, 20, 3\)"),
        (image(H, W, 3), {"observation": "HCC"}, "does not fit"),
        (image(H, W, 3), {"observation": "ABC"}, "does not fit"),
        (image(H, W, 3), {"observation": 3}, "3 does not fit"),
        (spaces.Discrete(3), {"observation": "HW"}, "always numbers"),
        (spaces.Box(-np.inf, np.inf, (H, W)), {"observation": "HW"}, "cannot be scaled to the 256 values"),
        (spaces.Box(0, 0, (H, W)), {"observation": "HW"}, "cannot be scaled"),
        (spaces.Dict({"a/b": ACTION, "a": spaces.Dict(b=ACTION)}), {}, "two parts that are called 'a/b'"),
    ],
)
def test_what_does_not_fit_is_refused(space: spaces.Space[Any], observed_as: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(space, observed_as=observed_as)


def test_discrete_parts_are_numbers_as_gymnasium_flattens_them() -> None:
    space = spaces.Dict(
        buttons=spaces.MultiBinary(2),
        gear=spaces.Discrete(3, start=1),
        grid=spaces.MultiDiscrete([2, 3]),
        robot=spaces.Dict(joints=spaces.Box(-9, 9, (2,))),
    )
    seen = {"buttons": np.array([1, 0]), "gear": 3, "grid": [1, 0], "robot": {"joints": [0.5, -2]}}
    env = make(space, seen)
    expected = [1, 0, *(0, 0, 1), *(0, 1, 1, 0, 0), 0.5, -2]
    np.testing.assert_array_equal(env.reset()[0], expected)
    assert env.observation_space.contains(env.reset()[0])
    assert describe_spaces(env) == (
        "observation: buttons 2 numbers, gear 3 numbers (one-hot, Discrete(3, start=1)), "
        "grid 5 numbers (one-hot, MultiDiscrete([2 3])), robot/joints 2 numbers; action: 1 number in [-1, 1]"
    )
    packed = make(spaces.Dict(**space.spaces, eye=image(H, W)), {**seen, "eye": bytes_of((H, W))})
    layout = find_layout(packed)
    assert layout is not None
    np.testing.assert_array_equal(layout.numbers(packed.reset()[0]), expected)


@pytest.mark.parametrize(
    ("space", "seen", "message"),
    [
        (spaces.Dict(a=ACTION), {"b": [0]}, "has no 'a', only b"),
        (spaces.Dict(a=spaces.Box(-1, 1, (2,))), {"a": [0]}, r"a is int64 of shape \(1,\), its space has shape \(2,\)"),
        (spaces.Dict(a=ACTION), {"a": ["x"]}, "a is <U1 of shape"),
        (spaces.Dict(a=spaces.Discrete(3)), {"a": 3}, r"a is 3, which is not in Discrete\(3\)"),
        (spaces.Dict(a=spaces.Discrete(3)), {"a": -1}, r"a is -1, which is not in Discrete\(3\)"),
        (spaces.Dict(a=spaces.MultiBinary(2)), {"a": np.array([0, 2])}, r"is not in MultiBinary\(2\)"),
        (
            spaces.Dict(a=spaces.Box(0, 9, (1,), np.int64)),
            {"a": [0.5]},
            r"a\[0\] is 0.5, not a number of its space, int64",
        ),
        (image(H, W), np.full((H, W), 256), r"observation\[0, 0\] is 256, not a number of its space, uint8"),
        (image(H, W), np.zeros((W, H), np.uint8), r"shape \(20, 16\), its space has shape \(16, 20\)"),
    ],
)
def test_an_observation_that_is_not_in_its_space_is_an_error(space: spaces.Space[Any], seen: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(space, seen).reset()


def test_a_pixel_that_is_no_number_is_an_error() -> None:
    env = make(image(H, W, high=1, dtype=np.float32), np.full((H, W), np.nan, np.float32), {"observation": "HW"})
    with pytest.raises(ValueError, match=r"observation\[0, 0\] is nan, not a finite float32"):
        env.reset()


def test_what_is_taken_does_not_change_with_the_environments_buffers() -> None:
    seen = {"a": np.zeros(2, np.float32), "eye": np.zeros((H, W), np.uint8)}
    env = make(spaces.Dict(a=spaces.Box(-1, 1, (2,)), eye=image(H, W)), seen)
    first = env.reset()[0]
    seen["a"] += 1
    seen["eye"] += 1
    assert not first.any()


def test_descriptions() -> None:
    assert describe_spaces(make(spaces.Box(-1, 1, (9,)))) == "observation: 9 numbers; action: 1 number in [-1, 1]"
    space = spaces.Dict(wrist=image(H, W, 3), over=image(4, H, W, 3), joints=spaces.Box(-1, 1, (9,)))
    assert re.sub("; .*", "", describe_spaces(make(space))) == (
        "observation: wrist image 16x20x3 (uint8), over image 16x20x12 (4x16x20x3 uint8), joints 9 numbers"
    )


def test_dimensions_are_named_by_part_and_index() -> None:
    one = make(spaces.Box(-1, 1, (9,)))
    assert name_dimensions(one, np.isin(np.arange(9), [0, 3, 4, 5, 8])) == "0, 3-5, 8"
    parts = dict(a=spaces.Box(-1, 1, (3,)), b=image(H, W), c=spaces.Discrete(4), d=spaces.Box(-1, 1, (2,)))
    for several in (spaces.Dict(parts), spaces.Dict({name: part for name, part in parts.items() if name != "b"})):
        assert name_dimensions(make(several), np.isin(np.arange(9), [1, 2, 3, 6, 8])) == "a[1-2], c[0, 3], d[1]"


def test_actions_are_named_by_their_native_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second number has one possible value, so it is not among the three that are learnt."""
    low, high = np.array([-1, 0, -2, 0], np.float32), np.array([1, 0, 2, 9], np.float32)
    monkeypatch.setattr(f"{__name__}.ACTION", spaces.Box(low, high))
    env = make(spaces.Box(-1, 1, (2,)))
    assert name_actions(env, np.array([True, False, True])) == "0, 3"
    parts = (ActionPart("arm", (-1.0, 0.0, -2.0), (1.0, 0.0, 2.0)), ActionPart("gripper", (0.0,), (9.0,)))
    monkeypatch.setattr(TaskSpec, "from_env", lambda env: TaskSpec((ObservationPart("q", (2,)),), parts))
    assert name_actions(env, np.array([False, True, True])) == "arm[2], gripper[0]"
