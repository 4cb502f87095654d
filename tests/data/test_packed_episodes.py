"""Episodes of packed observations: bytes from the environment to the file and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softflow.data import (
    Corrections,
    DemonstrationError,
    Episode,
    check_compatible,
    load_corrections,
    load_demonstrations,
    observation_statistics,
    observation_tensor,
    save_corrections,
    save_demonstrations,
)
from softflow.task.layout import ObservationLayout, Part
from tests.pictures import LAYOUT, lamp_episodes

EPISODES = lamp_episodes(3)
WIDER = ObservationLayout((Part("camera", (16, 32, 3), "uint8"),))
FLAT = Episode(np.zeros((2, LAYOUT.size)), np.zeros((1, 1)), np.zeros(1), True, False, False)


def test_observations_stay_bytes_and_are_read_only() -> None:
    [episode] = lamp_episodes(1)
    assert episode.observation.dtype == np.uint8 and episode.observation_dim == LAYOUT.size
    with pytest.raises(ValueError, match="read-only"):
        episode.observation[0] = 0
    np.testing.assert_array_equal(LAYOUT.numbers(episode.observation)[:, 1], np.arange(5))


def test_what_is_not_of_the_layout_is_refused() -> None:
    observation = EPISODES[0].observation
    nan = observation.copy()
    nan[2, LAYOUT.slices["joint"]] = np.frombuffer(np.float32([0, np.nan]).tobytes(), np.uint8)
    for wrong, message in (
        (observation.astype(np.float32), "must be uint8 of shape"),
        (observation[:, 1:], "must be uint8 of shape"),
        (nan, r"observation\[2\] holds a number that is not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(EPISODES[0], observation=wrong)


def test_a_file_keeps_bytes_and_layout(tmp_path: Path) -> None:
    save_demonstrations(tmp_path / "d.npz", EPISODES)
    read = load_demonstrations(tmp_path / "d.npz")
    assert [episode.layout for episode in read] == [LAYOUT] * 3
    for one, other in zip(read, EPISODES, strict=True):
        assert one.observation.dtype == np.uint8
        np.testing.assert_array_equal(one.observation, other.observation)
    save_demonstrations(tmp_path / "flat.npz", [FLAT])
    with np.load(tmp_path / "flat.npz") as arrays:
        assert "observation_layout" not in arrays
    with np.load(tmp_path / "d.npz") as arrays:
        np.savez(tmp_path / "bad.npz", **{**arrays, "observation_layout": np.array("{")})
        np.savez(tmp_path / "other.npz", **{**arrays, "observation_layout": np.array("[]")})
    for name in ("bad", "other"):
        with pytest.raises(DemonstrationError, match=f"{name}.npz: "):
            load_demonstrations(tmp_path / f"{name}.npz")


def test_pictures_of_another_environment_are_refused(tmp_path: Path) -> None:
    check_compatible(EPISODES, LAYOUT, 1)
    message = r"demonstration 0 hold camera uint8\[16, 16, 3\], joint float32\[2\], expected camera uint8\[16, 32, 3\]"
    with pytest.raises(DemonstrationError, match=message):
        check_compatible(EPISODES, WIDER, 1)
    with pytest.raises(DemonstrationError, match="expected numbers alone"):
        check_compatible(EPISODES, LAYOUT.size, 1)
    with pytest.raises(DemonstrationError, match="demonstration 1 hold numbers alone, expected camera"):
        save_demonstrations(tmp_path / "d.npz", [EPISODES[0], FLAT])


def test_statistics_are_those_of_the_numbers_acted_on() -> None:
    mean, std = observation_statistics(EPISODES)
    np.testing.assert_allclose([*mean, *std], [0.5, 1.5, 1, np.sqrt(1.25)])  # steps 0 to 3; what is constant gets 1
    alone, _ = observation_statistics([Episode(np.zeros((2, WIDER.size), np.uint8), *_ending(), layout=WIDER)])
    assert alone.shape == (0,)
    with pytest.raises(ValueError, match="different observation layouts"):
        observation_statistics([EPISODES[0], FLAT])


def _ending() -> tuple[np.ndarray, np.ndarray, bool, bool, bool]:
    return np.zeros((1, 1)), np.zeros(1), True, False, False


def test_corrections_keep_bytes(tmp_path: Path) -> None:
    observation = EPISODES[0].observation[:-1]
    chunk = np.zeros((2, 4, 2, 1))
    corrections = Corrections(observation, *chunk, np.zeros(4, int), np.array([True]))
    save_corrections(tmp_path / "c.npz", corrections)
    read = load_corrections(tmp_path / "c.npz").observation
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, observation)


def test_a_policy_is_given_bytes_or_float32() -> None:
    assert observation_tensor(EPISODES[0].observation.copy()).numpy().dtype == np.uint8
    assert observation_tensor(np.zeros((2, 3))).numpy().dtype == np.float32
