"""A point gripper picks up a peg, carries it over a rim and inserts it into a hole. There is no physics engine."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.envs.stateful import Array, Outcome, StatefulTask

Observation = dict[str, NDArray[np.float32]]

LENGTH: Final = 0.1
"""Length of the peg in m."""
GRASP_HEIGHT: Final = 0.01
"""Height in m of the centre line of a lying peg."""
RIM_HEIGHT: Final = 0.06
"""Height of the rim in m."""
RIM_HALF_WIDTH: Final = 0.02
"""Half of the rim's width in m. The rim runs along the y axis through x = 0."""
POST_HALF_WIDTH: Final = 0.04
"""The post stands on the rim where |y| is below this number, in m. It is too high to be passed above."""


class PegInsertionEnv(StatefulTask[Observation]):
    """A gripper grasps the head of a lying peg, carries it over a rim and inserts it into a hole.

    A few demonstrations of this task put a policy to the test: its moves are small compared with the bounds of the
    action, its gripper command has two values, a post on the rim can be passed on either side, and a narrow tolerance
    decides.

    Observation, a Dict of float32 arrays:

        gripper (3,)    position in m
        opening (1,)    1 is open; 0 is closed; a held peg keeps it at 0.2
        head (3,)       vector from the gripper to the peg's head in m
        tail (3,)       vector from the gripper to the peg's other end in m
        hole (2,)       vector from the gripper to the hole's axis in m

    Action (4,): displacement of the gripper in x, y ([-0.05, 0.05] m) and z ([-0.03, 0.06] m), and the gripper command
    in [0, 1]: above 0.5 it closes, otherwise it opens, by 0.4 per step. The displacement is exact unless the table, the
    rim or the post is in the way of the lowest point.

    Closing within 0.01 m of the head grasps the peg. It then hangs from the gripper upright, with the offset of the
    grasp. Opening drops it, and it falls flat in a random direction. The hanging peg enters the hole if its tail is
    within 0.005 m of the hole's axis.

    Reward: 1 when the tail is 0.02 m deep in the hole, which ends the episode. The episode is truncated after 120
    steps.
    """

    MAX_STEPS = 120
    LOW, HIGH = (-0.05, -0.05, -0.03, 0.0), (0.05, 0.05, 0.06, 1.0)
    START_LOW, START_HIGH = (-0.15, -0.05, 0.15), (-0.05, 0.05, 0.2)  # m, of the gripper
    PEG_LOW, PEG_HIGH = (-0.25, -0.1), (-0.15, 0.1)  # m, of the centre
    HOLE_LOW, HOLE_HIGH = (0.12, -0.1), (0.22, 0.1)  # m
    MAX_ANGLE = 1.0  # rad, between the lying peg and the x axis
    REACH, CEILING = 0.4, 0.4  # m, limits of the gripper: |x| and |y|, z
    SPEED, HELD_OPENING = 0.4, 0.2  # of the fingers per step; opening with the peg in between
    GRASP_TOLERANCE, HOLE_TOLERANCE, DEPTH = 0.01, 0.005, 0.02  # m

    def __init__(self) -> None:
        sizes = {"gripper": 3, "opening": 1, "head": 3, "tail": 3, "hole": 2}
        parts: dict[str, spaces.Space[Any]] = {}
        for name, size in sizes.items():
            parts[name] = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        low, high = np.array(self.LOW, np.float32), np.array(self.HIGH, np.float32)
        super().__init__(spaces.Dict(parts), spaces.Box(low, high, dtype=np.float32))

    def _start(self, rng: np.random.Generator) -> Array:
        gripper = rng.uniform(self.START_LOW, self.START_HIGH)
        x, y = rng.uniform(self.PEG_LOW, self.PEG_HIGH)
        head, tail = self._lying(x, y, rng)
        return np.array([*gripper, 1.0, *head, *tail, *rng.uniform(self.HOLE_LOW, self.HOLE_HIGH), False])

    def _move(self, action: Array) -> Outcome:
        gripper, opening, head, tail, hole, held = self.parts()
        offset = [head[0] - gripper[0], head[1] - gripper[1]] if held else [0.0, 0.0]
        gripper, depth = self._moved(gripper, action.tolist(), offset, LENGTH if held else 0.0, hole)
        if action[3] > 0.5:
            opening = max(opening - self.SPEED, self.HELD_OPENING if held else 0.0)
            if not held and opening <= self.HELD_OPENING and math.dist(gripper, head) <= self.GRASP_TOLERANCE:
                held, opening = True, self.HELD_OPENING
                offset = [head[0] - gripper[0], head[1] - gripper[1]]
        else:
            opening = min(opening + self.SPEED, 1.0)
            if held:
                held = False
                head, tail = self._lying(gripper[0], gripper[1], self.np_random)
        if held:
            head = [gripper[0] + offset[0], gripper[1] + offset[1], gripper[2]]
            tail = [head[0], head[1], head[2] - LENGTH]
        self.state = np.array([*gripper, opening, *head, *tail, *hole, held])
        inserted = held and depth >= self.DEPTH
        return Outcome(float(inserted), inserted, inserted)

    def observe(self) -> Observation:
        gripper = self.state[:3]
        return {
            "gripper": gripper.astype(np.float32),
            "opening": self.state[3:4].astype(np.float32),
            "head": (self.state[4:7] - gripper).astype(np.float32),
            "tail": (self.state[7:10] - gripper).astype(np.float32),
            "hole": (self.state[10:12] - gripper[:2]).astype(np.float32),
        }

    def parts(self) -> tuple[list[float], float, list[float], list[float], list[float], bool]:
        """Return the gripper's position and opening, the peg's head and tail, the hole, and whether the peg is held."""
        state = self.state.tolist()
        return state[:3], state[3], state[4:7], state[7:10], state[10:12], bool(state[12])

    def _moved(
        self, gripper: list[float], by: list[float], offset: list[float], length: float, hole: list[float]
    ) -> tuple[list[float], float]:
        """Return the new position, and how deep the lowest point is in the hole in m.

        The lowest point is the gripper itself or, ``length`` below it and beside it by ``offset``, the held peg's tail.
        """
        x, y, z = gripper
        low_x, low_y = x + offset[0], y + offset[1]
        floor = RIM_HEIGHT if abs(low_x) < RIM_HALF_WIDTH else 0.0
        if length and math.hypot(low_x - hole[0], low_y - hole[1]) <= self.HOLE_TOLERANCE:
            floor = -self.DEPTH
        z = min(max(z + by[2], floor + length), self.CEILING)
        if z < length:  # in the hole
            return [x, y, z], length - z
        moved_x = min(max(low_x + by[0], offset[0] - self.REACH), offset[0] + self.REACH)
        moved_y = min(max(low_y + by[1], offset[1] - self.REACH), offset[1] + self.REACH)
        if abs(low_x) >= RIM_HALF_WIDTH:  # beside the rim, which stops x if it is too high or the post is there
            if z - length < RIM_HEIGHT or abs(moved_y) < POST_HALF_WIDTH:
                side = math.copysign(1.0, low_x)
                moved_x = side * max(side * moved_x, RIM_HALF_WIDTH)
        elif abs(moved_x) < RIM_HALF_WIDTH and abs(moved_y) < POST_HALF_WIDTH:  # above the rim, beside the post
            moved_y = math.copysign(POST_HALF_WIDTH, low_y)
        return [moved_x - offset[0], moved_y - offset[1], z], 0.0

    def _lying(self, x: float, y: float, rng: np.random.Generator) -> tuple[list[float], list[float]]:
        """Return the ends of a peg that lies around (x, y) in a random direction, clear of the rim."""
        angle = rng.uniform(-self.MAX_ANGLE, self.MAX_ANGLE)
        x = math.copysign(max(abs(x), RIM_HALF_WIDTH + LENGTH / 2), x)
        along, across = LENGTH / 2 * math.cos(angle), LENGTH / 2 * math.sin(angle)
        return [x + along, y + across, GRASP_HEIGHT], [x - along, y - across, GRASP_HEIGHT]
