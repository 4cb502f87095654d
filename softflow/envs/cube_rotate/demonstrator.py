"""Scripted demonstrator of CubeRotate: a finger gait that reads the cube's pose and drops the cube every other time.

Opposite fingers work in pairs: thumb and middle, index and ring. One pair holds the cube and turns it about its axis,
which is called a *stroke*. Meanwhile the other pair lets go, moves back and grasps the next faces; then they swap
roles. Azimuths are in degrees; a finger's azimuth is relative to the face it works on when the cube's yaw is 0.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.envs.cube_rotate.env import CubeRotateEnv
from softflow.envs.cube_rotate.kinematics import tips_around
from softflow.envs.cube_rotate.scene import TIP_HEIGHT, Cube
from softflow.envs.simulation import Array
from softflow.errors import UserError

# Targets of the fingertips (m)
LIGHT = 0.006  # depth inside the cube at which a finger only touches it
NEAR = 0.004  # distance outside the cube of an approaching finger
FREE_RADIUS = 0.054  # distance of a free finger from the axis

# Azimuths (degrees)
STROKE_END = 30.0  # latest end of a stroke
LONGER = 10.0  # added to STROKE_END for the pair with the long strokes, subtracted for the other pair
SHORTEST_STROKE = 6.0
GRASP_START = -38.0  # earliest azimuth at which a pair grasps
CLEARANCE = 42.0  # between the fingers of the two pairs
GRASP_REACH = 15.0  # how far beyond the end of the other pair's stroke a pair may grasp
RETURN_RATE = 12.0  # of a free finger per step
GEAR = 1.33  # turn of the cube per azimuth of the fingers that turn it; the tips roll on the faces
FACE_OFFSET = 4.0  # best offset of a grasp from the middle of the face
FACE_TOLERANCE = 20.0  # deviation from FACE_OFFSET beyond which a grasp is penalized
END_TOLERANCE = 24.0  # largest unpenalized offset of a holding pair at the end of its stroke

# Steps
GRIP_STEPS = 4  # at the start, until the first pair holds the cube alone
RETRACT_STEPS = 2
SHORTEST_STROKE_STEPS = 4
MAX_WAIT = 5  # until both fingers touch
TOUCH_FORCE = 0.5  # N
PRESSING = 0.001  # m, additional depth in each step without a touch

CENTRING = 0.15  # share of the cube's offset from the palm's axis that a holding pair removes per step
LEVELLING = 0.001  # m per step towards the home height
SEEN_POSITION = 0.7e-3  # m, standard deviation of the demonstrator's error in the cube's position
SEEN_YAW = 1.4  # degrees, standard deviation of its error in the cube's yaw


class CubeRotateDemonstrator:
    """Demonstrates one episode; make a new one after each ``reset``.

    Args:
        env: A CubeRotate environment. It may be wrapped if its action space is unchanged.
        rng: Source of the mode, the variation between episodes and the noise.
        mode: Which of four gaits to use, 0 to 3; None draws one. Index and ring finger make the first stroke in modes 1
            and 3, thumb and middle finger in modes 0 and 2. Index and ring finger make the longer strokes in modes 0
            and 1, thumb and middle finger in modes 2 and 3.
        sloppiness: Scale of the variation between episodes (speed, grip, timing) and of the errors in the cube's
            observed pose. 0 removes both.
        noise: Standard deviation of the white noise on the actions, which lie in [-1, 1].

    Attributes:
        mode: The mode of this episode: bit 0 (value 1) selects the pair that makes the first stroke, bit 1 (value 2)
            the pair with the longer strokes.
        phase: ``grip`` of the cube by the first pair, then in turn ``stroke``, ``approach`` of the free pair to the
            faces, ``close`` until it touches, and ``hand_over``.
        holding: The pair that holds the cube: 0 is thumb and middle finger, 1 is index and ring finger.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        rng: np.random.Generator,
        mode: int | None = None,
        sloppiness: float = 1.0,
        noise: float = 0.015,
    ) -> None:
        if not isinstance(env.unwrapped, CubeRotateEnv):
            raise UserError(f"the demonstrator of CubeRotate cannot act in {env.unwrapped}")
        if mode not in (None, 0, 1, 2, 3):
            raise UserError(f"mode must be 0, 1, 2 or 3, got {mode!r}")
        self.env, self.rng = env.unwrapped, rng
        self.mode = int(rng.integers(4)) if mode is None else mode
        self.holding = self.mode & 1
        longer = LONGER if self.mode & 2 else -LONGER
        self._stroke_end = (STROKE_END + longer, STROKE_END - longer)  # of each pair

        def sloppy(clean: float, drawn: float) -> float:
            return clean + sloppiness * (drawn - clean)

        self._stroke_rate = sloppy(4.5, rng.uniform(3.5, 7.0))  # degrees per step
        self._squeeze = sloppy(0.011, rng.uniform(0.0105, 0.0155))  # m, depth of the targets inside the cube
        self._close_steps = max(1, round(sloppy(2, int(rng.integers(1, 4)))))
        self._hand_over_steps = max(1, round(sloppy(3, int(rng.integers(2, 4)))))
        self._sloppiness, self._noise = sloppiness, noise

        self.phase, self._elapsed = "grip", 0
        self._look(sloppiness=0)
        # Targets (2,) of the two pairs: azimuth, distance from the centre, height.
        self._azimuth = np.full(2, _to_nearest_face(self._yaw))
        self._radius = np.full(2, self._contact_radius(0) - self._squeeze)
        self._height = np.full(2, self._centre[2] + TIP_HEIGHT)
        self._held_at = self._centre[:2].copy()  # position of the axis that the holding pair turns about
        self._held_radius = self._contact_radius(0)  # radius at which its fingertips touch

    def act(self) -> NDArray[np.float64]:
        """Return the action (12,) in [-1, 1] for the environment's current state; every call draws new noise."""
        self._look(self._sloppiness)
        self._elapsed += 1
        getattr(self, f"_{self.phase}")()
        home = self.env.scene.cube_home
        self._held_at *= 1 - CENTRING
        self._height[self.holding] += _bounded(home[2] + TIP_HEIGHT - self._height[self.holding], LEVELLING)
        centre = np.array([self._centre[:2], self._centre[:2]])
        centre[self.holding] = self._held_at
        azimuth = np.radians(self._azimuth)
        tips = tips_around(*(_of_fingers(of_pairs) for of_pairs in (centre, azimuth, self._radius, self._height)))
        action = self.env.joint_action(self.env.scene.kinematics.joint_angles(tips))
        return np.clip(action + self._noise * self.rng.standard_normal(action.size), -1, 1)

    @property
    def free(self) -> int:
        """The pair that does not hold the cube."""
        return 1 - self.holding

    def _look(self, sloppiness: float) -> None:
        """Observe the cube's centre (m, palm frame) and yaw (degrees), with errors."""
        self._centre = self.env.scene.cube_position + sloppiness * SEEN_POSITION * self.rng.standard_normal(3)
        self._yaw = math.degrees(self.env.yaw) + sloppiness * SEEN_YAW * float(self.rng.standard_normal())

    def _go(self, phase: str) -> None:
        self.phase, self._elapsed = phase, 0

    # -- phases

    def _grip(self) -> None:
        left = GRIP_STEPS + 1 - self._elapsed
        self._move_radius(self.free, self._contact_radius(0) - LIGHT, left)
        self._move_radius(self.holding, self._contact_radius(0) - self._squeeze, left)
        if left == 1:
            self._begin_stroke()

    def _stroke(self) -> None:
        """Turn the cube with the holding pair, while the free pair lets go and moves to its next grasp."""
        self._azimuth[self.holding] += min(self._stroke_rate, self._end - self._azimuth[self.holding])
        if self._elapsed <= RETRACT_STEPS:
            self._move_radius(self.free, FREE_RADIUS, RETRACT_STEPS + 1 - self._elapsed)
        else:
            self._azimuth[self.free] += _bounded(self._grasp - self._azimuth[self.free], RETURN_RATE)
        ended = self._end - self._azimuth[self.holding] < 0.1
        back = abs(self._azimuth[self.free] - self._grasp) < 0.1
        if ended and back and self._elapsed >= SHORTEST_STROKE_STEPS:
            self._azimuth[self.free] = self._adjust_grasp()
            self._height[self.free] = self._centre[2] + TIP_HEIGHT
            offset = abs(_to_nearest_face(self._azimuth[self.free] - self._yaw))
            self._touch_radius = self._contact_radius(min(30, offset))
            self._go("approach")

    def _approach(self) -> None:
        self._radius[self.free] = self._touch_radius + NEAR
        self._go("close")

    def _close(self) -> None:
        left = self._close_steps + 1 - self._elapsed
        self._move_radius(self.free, self._touch_radius - LIGHT, left)
        if left == 1:
            self._waited, self._handed_over = 0, 0
            self._go("hand_over")

    def _hand_over(self) -> None:
        """Once the free pair touches, tighten it and loosen the holding pair; then swap their roles."""
        if self.env.scene.touch[self.free :: 2].min() <= TOUCH_FORCE and self._waited < MAX_WAIT:
            self._waited += 1
            self._radius[self.free] -= PRESSING
            return
        left = self._hand_over_steps - self._handed_over
        self._handed_over += 1
        self._move_radius(self.free, self._touch_radius - self._squeeze, left)
        self._move_radius(self.holding, self._held_radius - LIGHT, left)
        if left == 1:
            self.holding, self._held_radius = self.free, self._touch_radius
            self._begin_stroke()

    def _begin_stroke(self) -> None:
        self._held_at = self._centre[:2].copy()
        self._end, self._grasp = self._plan()
        self._go("stroke")

    def _contact_radius(self, offset: float) -> float:
        """Return the radius at which a fingertip touches the nominal cube, ``offset`` degrees from a face's middle."""
        return (Cube().half_size + self.env.scene.tip_radius) / math.cos(math.radians(offset))

    def _move_radius(self, pair: int, goal: float, steps: int) -> None:
        """Make the first of ``steps`` equal steps to ``goal``."""
        self._radius[pair] += (goal - self._radius[pair]) / steps

    # -- plans

    def _plan(self) -> tuple[float, float]:
        """Return the azimuths at which the new stroke ends and at which the free pair then grasps."""
        start, latest = self._azimuth[self.holding], self._stroke_end[self.holding]

        def merit(plan: tuple[float, float]) -> float:
            end, grasp = plan
            stroke = end - start
            slip = _to_nearest_face(start - self._yaw) - (GEAR - 1) * stroke  # of the holding tips on their faces
            cost = _beyond(slip, END_TOLERANCE) + self._grasp_cost(grasp, self._yaw + GEAR * stroke)
            return stroke + 0.9 * (STROKE_END - grasp) - cost  # the lengths of this stroke and of the next one

        ends = np.arange(start + SHORTEST_STROKE, latest + 0.1, 3.0).tolist() or [start + SHORTEST_STROKE]
        return max(((end, grasp) for end in ends for grasp in self._grasps(end, 3.0)), key=merit)

    def _adjust_grasp(self) -> float:
        """Return the azimuth, near the planned one, at which the free pair grasps the cube at its current yaw."""

        def merit(grasp: float) -> float:
            return -0.9 * grasp - self._grasp_cost(grasp, self._yaw) - 0.2 * abs(grasp - self._grasp)

        return max(self._grasps(self._azimuth[self.holding], 2.0), key=merit)

    @staticmethod
    def _grasps(end: float, step: float) -> list[float]:
        """Return the azimuths that a pair can reach while the other one is at ``end``."""
        return np.arange(max(GRASP_START, end - 90 + CLEARANCE), end + GRASP_REACH, step).tolist()

    @staticmethod
    def _grasp_cost(grasp: float, yaw: float) -> float:
        offset = _to_nearest_face(grasp - yaw) - FACE_OFFSET
        return _beyond(offset, FACE_TOLERANCE) + 0.01 * offset**2


def _to_nearest_face(angle: float) -> float:
    """Return the angle relative to the nearest multiple of 90 degrees, in [-45, 45)."""
    return (angle + 45) % 90 - 45


def _beyond(angle: float, tolerance: float) -> float:
    """Return the cost of an angle in degrees beyond the tolerance."""
    return 0.15 * max(0.0, abs(angle) - tolerance) ** 2


def _bounded(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def _of_fingers(of_pairs: Array) -> Array:
    """Expand values of the pairs (2, ...) to thumb, index, middle and ring finger (4, ...)."""
    return np.concatenate([of_pairs, of_pairs])
