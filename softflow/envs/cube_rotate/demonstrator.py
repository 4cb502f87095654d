"""A scripted demonstrator of CubeRotate: a finger gait that sees the cube's pose, and drops it every other time.

Opposite fingers work in pairs, thumb and middle, index and ring.  One pair holds the cube and goes around its axis with
it, a *stroke*, while the other lets go, goes back and takes hold of the faces that come next; then they change roles.
Azimuths are in degrees, a finger's relative to the face it works on when the cube's yaw is 0.
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

# Of a fingertip's target (m): so far inside the cube it only touches, so far outside it is near or free.
LIGHT = 0.006
NEAR = 0.004
FREE_RADIUS = 0.054  # from the axis

# Azimuths (degrees)
STROKE_END = 30.0  # where a stroke ends at the latest;
LONGER = 10.0  # the pair that takes the long strokes goes so much farther, the other pair stops so much sooner
SHORTEST_STROKE = 6.0
GRASP_START = -38.0  # where a pair takes hold at the earliest
CLEARANCE = 42.0  # between the fingers of both pairs
GRASP_REACH = 15.0  # how far past the end of the other pair's stroke a pair may take hold
RETURN_RATE = 12.0  # of a free finger in a step
GEAR = 1.33  # turn of the cube per azimuth of the fingers that turn it: the tips roll on the faces
FACE_OFFSET = 4.0  # a good grasp is so far from the middle of the face,
FACE_TOLERANCE = 20.0  # and a bearable one this much around it,
END_TOLERANCE = 24.0  # for a holding pair at the end of its stroke

# Steps
GRIP_STEPS = 4  # at the start, until the first pair holds alone
RETRACT_STEPS = 2
SHORTEST_STROKE_STEPS = 4
MAX_WAIT = 5  # for a touch of both fingers
TOUCH_FORCE = 0.5  # N
PRESSING = 0.001  # m further in, in each step without a touch

CENTRING = 0.15  # share of the cube's offset from the palm's axis that a holding pair takes back in a step
LEVELLING = 0.001  # m towards the home height in a step
SEEN_POSITION = 0.7e-3  # m, standard deviation of the error in what the demonstrator sees
SEEN_YAW = 1.4  # degrees


class CubeRotateDemonstrator:
    """Demonstrates one episode; make one after each ``reset``.

    Attributes:
        mode: which of four gaits is taken from the same start: bit 0 (value 1) set, index and ring finger make the
            first stroke, else thumb and middle finger; bit 1 (value 2) set, thumb and middle finger may take the
            longer strokes, else index and ring finger.
        phase: ``grip`` the cube with the first pair, then in turn ``stroke``, ``approach`` of the free pair to the
            faces, ``close`` until it touches, ``hand_over``.
        holding: the pair that holds the cube, 0 thumb and middle finger, 1 index and ring finger.

    Args:
        env: a CubeRotate environment, wrapped or not, as long as the action space is its own.
        rng: source of the mode, of what differs between episodes, and of the noise.
        mode: 0 to 3; drawn from ``rng`` if None.
        sloppiness: scale of what is drawn once per episode (how fast and how firmly it turns, how soon it closes and
            hands over) and of the errors in what it sees of the cube.
        noise: standard deviation of the white noise on the actions.
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
        self._squeeze = sloppy(0.011, rng.uniform(0.0105, 0.0155))  # m inside the cube
        self._close_steps = max(1, round(sloppy(2, int(rng.integers(1, 4)))))
        self._hand_over_steps = max(1, round(sloppy(3, int(rng.integers(2, 4)))))
        self._sloppiness, self._noise = sloppiness, noise

        self.phase, self._elapsed = "grip", 0
        self._look(sloppiness=0)
        # Targets of each pair, (2,): azimuth, distance from the centre, height.
        self._azimuth = np.full(2, _to_nearest_face(self._yaw))
        self._radius = np.full(2, self._contact_radius(0) - self._squeeze)
        self._height = np.full(2, self._centre[2] + TIP_HEIGHT)
        self._held_at = self._centre[:2].copy()  # the axis that the holding pair goes around
        self._held_radius = self._contact_radius(0)  # of its fingertips when they touch

    def act(self) -> NDArray[np.float64]:
        """The action (12,) in [-1, 1] for the environment's current state; the noise makes each call a new draw."""
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
        """See the cube: its centre (m, palm frame) and yaw (degrees)."""
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
        """The holding pair turns the cube; the free pair lets go and moves to where it will take hold."""
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
        """Once the free pair touches, it presses and the holding pair loosens; then they change roles."""
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
        """Distance of a fingertip that touches the nominal cube, ``offset`` degrees from the middle of a face."""
        return (Cube().half_size + self.env.scene.tip_radius) / math.cos(math.radians(offset))

    def _move_radius(self, pair: int, goal: float, steps: int) -> None:
        """The first of ``steps`` equal steps to ``goal``."""
        self._radius[pair] += (goal - self._radius[pair]) / steps

    # -- plans

    def _plan(self) -> tuple[float, float]:
        """Azimuths at which the stroke that begins now ends, and at which the free pair takes hold then."""
        start, latest = self._azimuth[self.holding], self._stroke_end[self.holding]

        def merit(plan: tuple[float, float]) -> float:
            end, grasp = plan
            stroke = end - start
            slip = _to_nearest_face(start - self._yaw) - (GEAR - 1) * stroke  # of the holding tips, off their faces
            cost = _beyond(slip, END_TOLERANCE) + self._grasp_cost(grasp, self._yaw + GEAR * stroke)
            return stroke + 0.9 * (STROKE_END - grasp) - cost  # this stroke's length and the next one's

        ends = np.arange(start + SHORTEST_STROKE, latest + 0.1, 3.0).tolist() or [start + SHORTEST_STROKE]
        return max(((end, grasp) for end in ends for grasp in self._grasps(end, 3.0)), key=merit)

    def _adjust_grasp(self) -> float:
        """Azimuth near the planned one at which the free pair takes hold of the cube as it is turned now."""

        def merit(grasp: float) -> float:
            return -0.9 * grasp - self._grasp_cost(grasp, self._yaw) - 0.2 * abs(grasp - self._grasp)

        return max(self._grasps(self._azimuth[self.holding], 2.0), key=merit)

    @staticmethod
    def _grasps(end: float, step: float) -> list[float]:
        """Azimuths that a pair can reach while the other one is at ``end``."""
        return np.arange(max(GRASP_START, end - 90 + CLEARANCE), end + GRASP_REACH, step).tolist()

    @staticmethod
    def _grasp_cost(grasp: float, yaw: float) -> float:
        offset = _to_nearest_face(grasp - yaw) - FACE_OFFSET
        return _beyond(offset, FACE_TOLERANCE) + 0.01 * offset**2


def _to_nearest_face(angle: float) -> float:
    """Degrees to it from the nearest multiple of 90, in [-45, 45)."""
    return (angle + 45) % 90 - 45


def _beyond(angle: float, tolerance: float) -> float:
    """Cost of an angle in degrees that is more than bearable."""
    return 0.15 * max(0.0, abs(angle) - tolerance) ** 2


def _bounded(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def _of_fingers(of_pairs: Array) -> Array:
    """What holds for each pair (2, ...), for thumb, index, middle and ring finger (4, ...)."""
    return np.concatenate([of_pairs, of_pairs])
