"""What the rest of TapeCut knows of a hand: its joints, its pads, how it pinches; and TapeCut's own compact hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from softflow.envs.simulation import Array

FINGER_LENGTH, FINGER_ROOT, PAD_RADIUS = 0.045, 0.020, 0.0075  # m, of the compact hand's geometry
PAD_TILT = 0.1  # rad inwards


@dataclass(frozen=True)
class Hand:
    """A hand with thumb, first, middle and ring finger, and J joints, that hangs from the body ``palm``.

    It pinches what lies at the site ``grip``, thumb on -y and fingers on +y.
    """

    joints: tuple[str, ...]
    """In the order of actions, targets and observations."""
    pads: tuple[str, ...]
    """Geoms that hold the scissors."""
    open_pose: Array
    """(J,) rad, at the start of an episode."""
    pinch: Callable[[float], Array]
    """Joint targets (J,) in rad that hold the pads so many m from the palm's mid plane."""
    mount: Callable[[mujoco.MjSpec], None]
    """Puts the hand on the palm of the scene of ``scene.xml``."""


def compact_pinch(width: float) -> Array:
    """Joint targets (9,) that hold the pads ``width`` m from the palm's mid plane, the last links nearly vertical."""
    base = -np.arcsin(np.clip((width + PAD_RADIUS - FINGER_ROOT) / FINGER_LENGTH, -1, 1))
    return np.array([0.0, *(base, PAD_TILT - base) * 4])


COMPACT_HAND = Hand(
    joints=(
        "thumb_abd", "thumb_mcp", "thumb_ip",
        "first_mcp", "first_pip", "middle_mcp", "middle_pip", "ring_mcp", "ring_pip",
    ),
    pads=("thumb_pad_left", "thumb_pad_right", "first_pad", "middle_pad", "ring_pad"),
    open_pose=np.array([0.0, -0.5, 0.5, -0.5, 0.5, -0.5, 0.5, -0.5, 0.5]),
    pinch=compact_pinch,
    mount=lambda scene: None,  # the file has it
)  # fmt: skip
