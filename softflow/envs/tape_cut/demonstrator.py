"""Scripted demonstrator of TapeCut, which reads the simulator's state and succeeds in two episodes of three."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.envs.simulation import Array
from softflow.envs.tape_cut.env import WRIST_STEP, TapeCutEnv
from softflow.envs.tape_cut.scene import HAND, WRIST
from softflow.errors import UserError

OPEN_WIDTH = 0.042  # m, half the distance between the pads
HOLD_WIDTH = 0.0205  # m, holds the handles without closing the blades
HOVER_HEIGHT = 0.20  # m, height of the palm above the table while it lines up
CARRY_HEIGHT = 0.24
RETREAT_HEIGHT = 0.26
STANDOFF = 0.055  # m, distance at which the blades stop in front of the ribbon before they are pushed over it
CUT_POINT = 0.047  # m, target distance of the ribbon from the pivot
SLIP_STEPS = 6  # steps without any touch after which the scissors count as dropped
HOLDING = ("lift", "carry", "insert", "cut", "reopen")


class TapeCutDemonstrator:
    """Demonstrates one episode; make a new one after each ``reset``.

    Args:
        env: A TapeCut environment. It may be wrapped if its action space is unchanged.
        rng: Source of the mode, the offsets and the noise.
        mode: Which of four equally good strategies to use, 0 to 3; None draws one. Modes 2 and 3 grasp with the hand
            turned by 180 degrees. Modes 1 and 3 cut the ribbon from its other side.
        sloppiness: Scale of the errors drawn once per episode: grasp position, grip width and cutting position.
            Higher values give more varied demonstrations that fail more often; 0 removes these errors.
        noise: standard deviation of the time-correlated noise on the wrist's actions, which lie in [-1, 1]. The noise
            on the fingers is 0.15 times as large.

    Attributes:
        mode: The mode of this episode: bit 1 (value 2) turns the hand for the grasp, bit 0 (value 1) selects the side
            from which the ribbon is cut.
        phase: ``above``, ``down``, ``close`` on the handles, ``lift``, ``carry`` to the ribbon, ``insert`` the blades
            over it, ``cut``, ``reopen`` to try again, or ``retreat`` after a drop.
        crossing_offset: Target position (3,) of the ribbon in m from the pivot: along the blades, lateral, up.
        crossing_yaw: Angle in rad by which the blades are turned away from square to the ribbon.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        rng: np.random.Generator,
        mode: int | None = None,
        sloppiness: float = 1.0,
        noise: float = 0.15,
    ) -> None:
        if not isinstance(env.unwrapped, TapeCutEnv):
            raise UserError(f"the demonstrator of TapeCut cannot act in {env.unwrapped}")
        if mode not in (None, 0, 1, 2, 3):
            raise UserError(f"mode must be 0, 1, 2 or 3, got {mode!r}")
        self.env, self.rng = env.unwrapped, rng
        if mode is None:
            other_side = int(rng.random() >= 0.5)
            mode = 2 * int(rng.random() < 0.5) + other_side
        self._choose(mode)

        def offset(deviation: float) -> float:
            return rng.normal(0, deviation) * sloppiness

        self._grasp_offset = np.array([offset(0.005), offset(0.004), offset(0.004)])  # m: along, across, up
        self._grasp_yaw = offset(0.06)
        self._hold_width = float(np.clip(HOLD_WIDTH + offset(0.0015), 0.016, 0.024))
        self.crossing_offset = np.array([CUT_POINT + offset(0.006), offset(0.0025), offset(0.003)])
        self.crossing_yaw = offset(0.08)

        self._noise_scale = np.full(self.env.targets.size, 0.15 * noise)
        self._noise_scale[WRIST] = noise
        self._noise = np.zeros(self._noise_scale.size)
        self.phase, self._elapsed, self._untouched = "above", 0, 0
        self._width = OPEN_WIDTH
        self._grasp_target = self._targets[:4].copy()  # wrist x, y, z, yaw at the start of closing

    def act(self) -> NDArray[np.float64]:
        """Return the action (A,) in [-1, 1] for the environment's current state; every call draws new noise."""
        self._elapsed += 1
        self._notice_drop()
        motion = getattr(self, f"_{self.phase}")()  # change of the wrist's targets in m and rad
        scene = self.env.scene
        low, high = scene.control_low[HAND], scene.control_high[HAND]
        fingers = 2 * (scene.hand.pinch(self._width) - low) / (high - low) - 1
        action = np.concatenate([motion / WRIST_STEP, fingers])
        self._noise = 0.6 * self._noise + 0.8 * self.rng.normal(size=action.size)
        return np.clip(action + self._noise_scale * self._noise, -1, 1)

    def _choose(self, mode: int) -> None:
        self.mode = mode
        self._turned, self._side = bool(mode & 2), -1 if mode & 1 else 1
        self._sign = -1.0 if self._turned else 1.0  # sign of wrist pitch and roll relative to the scissors
        self._turn = -self._side * math.pi if self._turned else 0.0  # this direction leaves the wrist room for the cut

    def _go(self, phase: str) -> None:
        self.phase, self._elapsed = phase, 0

    def _notice_drop(self) -> None:
        self._untouched = self._untouched + 1 if self.phase in HOLDING and not self._touches else 0
        if self._untouched > SLIP_STEPS:
            self._untouched = 0
            self._go("retreat")

    # -- grasping

    def _above(self) -> Array:
        self._width = OPEN_WIDTH
        motion = self._approach(HOVER_HEIGHT)
        lined_up = np.abs(motion[:2]).max() < 0.006 and abs(motion[3]) < 0.05
        if (lined_up and abs(self._height - HOVER_HEIGHT) < 0.02) or self._elapsed > 40:
            self._go("down")
        return motion

    def _down(self) -> Array:
        scene = self.env.scene
        height = self.env.geometry.grip_point[2] + scene.palm_above_grip + max(self._grasp_offset[2], -0.001)
        motion = self._approach(height)
        self._grasp_target = self._targets[:4].copy()
        if abs(self._height - height) < 0.003:
            self._go("close")
        return motion

    def _close(self) -> Array:
        self._width = max(self._width - 0.0035, self._hold_width)
        if self._width <= self._hold_width and self._elapsed > 10:
            self._go("lift")
        return np.concatenate([self._grasp_target - self._targets[:4], self._level()])

    def _lift(self) -> Array:
        motion = np.zeros(6)
        motion[:4] = self._grasp_target - self._targets[:4]
        low = self.env.geometry.pivot[2] < 0.15
        motion[2] = np.clip(CARRY_HEIGHT - self._targets[2], -0.014, 0.014) if low else 0
        motion[4] = self._straighten()
        if self.env.geometry.pivot[2] > 0.13 or self._elapsed > 30:
            self._go("carry")
        return motion

    def _retreat(self) -> Array:
        self._width = OPEN_WIDTH
        if self._height > 0.24:
            self._go("above")
        return np.array([0, 0, RETREAT_HEIGHT - self._targets[2], 0, *self._level()])

    def _approach(self, height: float) -> Array:
        """Return the wrist motion (6,) that moves the open hand over the handles, with the palm at ``height``."""
        geometry, targets = self.env.geometry, self._targets
        forward, left = _level_axes(geometry.axes[0, 0], geometry.axes[0, 1])
        goal = geometry.grip_point + self._grasp_offset[0] * forward + self._grasp_offset[1] * left
        yaw = self._heading + self._turn + self._grasp_yaw
        return np.concatenate([np.array([goal[0], goal[1], height, yaw]) - targets[:4], self._level()])

    # -- cutting

    def _carry(self) -> Array:
        self._width = self._hold_width
        error, yaw_error, _, left = self._crossing_error(STANDOFF)
        turn = _bounded(0.5 * yaw_error, 0.13)
        shift = 0.5 * error - self._swing(turn)
        near = np.abs(error).max() < 0.012 and abs(yaw_error) < 0.1 and abs(error @ left) < 0.004
        if near or self._elapsed > 70:
            self._go("insert")
        return self._shift(shift, 0.018, turn)

    def _insert(self) -> Array:
        error, yaw_error, forward, _ = self._crossing_error()
        if (abs(error @ forward) < 0.008 and self._elapsed > 4) or self._elapsed > 25:
            self._go("cut")
        return self._shift(0.5 * error, 0.010, 0.4 * yaw_error)

    def _cut(self) -> Array:
        self._width = max(self._width - 0.003, 0.0)
        if self._elapsed > 16:
            self._go("reopen")
        return self._stay_on_crossing()

    def _reopen(self) -> Array:
        self._width = min(self._width + 0.003, self._hold_width)
        motion = self._stay_on_crossing()
        if self._elapsed > 10:
            along = np.clip(CUT_POINT + self.rng.normal(0, 0.006), 0.03, 0.06)
            self.crossing_offset, self.crossing_yaw = np.array([along, 0.0, 0.0]), 0.0
            self._go("insert")
        return motion

    def _stay_on_crossing(self) -> Array:
        error, yaw_error, _, _ = self._crossing_error()
        return self._shift(0.5 * error, 0.010, 0.4 * yaw_error)

    def _crossing_error(self, standoff: float = 0.0) -> tuple[Array, float, Array, Array]:
        """Return how far the ribbon is from the crossing offset (plus ``standoff`` in front of the blades).

        Returns:
            The errors of the pivot (3,) and of the blades' yaw, and the unit vectors forward (through the ribbon) and
            left.
        """
        geometry, fixture = self.env.geometry, self.env.fixture
        yaw = fixture[3] + self._side * math.pi / 2
        forward, left = _level_axes(np.cos(yaw), np.sin(yaw))
        seam = np.array([fixture[0], fixture[1], self.env.scene.seam_height + fixture[2]])
        along, sideways, up = self.crossing_offset
        goal = seam - (along + standoff) * forward + sideways * left + np.array([0.0, 0.0, up])
        coming = self.env.coming_motion
        yaw_error = wrapped(yaw + self.crossing_yaw - self._heading - coming[3])
        return goal - geometry.pivot - coming[:3] - self._swing(coming[3]), yaw_error, forward, left

    def _swing(self, turn: float) -> Array:
        """Return the displacement (3,) of the pivot when the wrist turns about the palm."""
        lever = self.env.geometry.pivot - self.env.scene.palm_position
        return turn * np.array([-lever[1], lever[0], 0.0])

    def _shift(self, shift: Array, limit: float, turn: float) -> Array:
        """Return a wrist motion (6,) by ``shift`` (3,), limited per axis, and ``turn`` that keeps the blades level."""
        roll = self._sign * _bounded(-0.2 * self.env.geometry.axes[1, 2], 0.03)
        return np.array([*np.clip(shift, -limit, limit), turn, self._straighten(), roll])

    # -- wrist

    def _straighten(self) -> float:
        """Return the change of pitch that levels the blades."""
        return self._sign * 0.3 * self.env.geometry.axes[0, 2]

    def _level(self) -> Array:
        """Return the changes of pitch and roll that level the palm."""
        return -self._targets[4:6]

    @property
    def _targets(self) -> Array:
        """Targets (6,) of the wrist once all delayed actions have arrived."""
        return self.env.targets[WRIST] + self.env.coming_motion

    @property
    def _height(self) -> float:
        return float(self.env.scene.wrist_position[2])

    @property
    def _heading(self) -> float:
        """Yaw of the scissors in rad."""
        return np.arctan2(self.env.geometry.axes[0, 1], self.env.geometry.axes[0, 0])

    @property
    def _touches(self) -> bool:
        """Whether any finger touches the scissors."""
        return bool(self.env.geometry.touch.max() > 0.05)


def wrapped(angle: float) -> float:
    """Wrap the angle to [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _bounded(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def _level_axes(x: float, y: float) -> tuple[Array, Array]:
    """Return the horizontal vector (x, y, 0) and the vector a quarter turn to its left."""
    return np.array([x, y, 0.0]), np.array([-y, x, 0.0])
