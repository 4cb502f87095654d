"""A supervisor of TapeCut: watches a policy act, and where that fails, takes over and shows how to go on."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from softflow.envs.tape_cut.demonstrator import SLIP_STEPS, TapeCutDemonstrator, wrapped

PATIENCE = 40
"""Steps (2 s) within which the next stage must be reached: in episodes that succeed, of demonstrator and imitated
policies alike, each takes 30 in the median at most, and 40 in 19 cases of 20; only the demonstrator's carry to the
ribbon takes 49."""
YAW_RANGE = 3.6
"""rad that the wrist may turn to either side, a little less than its joint allows."""


class TapeCutSupervisor(TapeCutDemonstrator):
    """Watches one episode; make one after each ``reset``. After ``take_over`` it is the demonstrator of the rest.

    A policy has failed, as somebody beside it would see, when the scissors that it had lifted have left its hand, or
    when none of the stages ``grasped``, ``lifted``, ``at_tape``, ``cut`` was new for ``PATIENCE`` steps.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], rng: np.random.Generator, **options: Any) -> None:
        super().__init__(env, rng, **options)
        self._stages, self._waited = 0, 0

    def watch(self) -> bool:
        """Whether the policy has failed; to be asked after each of its steps."""
        stages = sum(self.env.reached.values())
        self._waited = 0 if stages > self._stages else self._waited + 1
        self._stages = stages
        self._untouched = 0 if self._touches else self._untouched + 1
        dropped = self.env.reached["lifted"] and self._untouched > SLIP_STEPS
        return dropped or self._waited >= PATIENCE

    def take_over(self) -> None:
        """Go on from the environment's current state, in the phase that it asks for, whichever of the four ways turns
        the wrist least."""
        held = self.env.grasped
        self._choose(min(range(4), key=lambda mode: self._turning(mode, held)))
        if not held:
            return self._go("retreat")
        self._width = self._hold_width
        self._grasp_target = self._targets[:4].copy()
        if not self.env.lifted:
            return self._go("lift")
        return self._go("insert" if self.env.geometry.between_blades else "carry")

    def _turning(self, mode: int, held: bool) -> float:
        """rad that the wrist has to turn until the blades face the ribbon; infinite where it cannot."""
        self._choose(mode)
        wrist, heading = self._targets[3], self._heading
        if held and self._turned != (math.cos(heading - wrist) < 0):
            return math.inf
        grasp = wrist if held else heading + self._turn
        cut = grasp + wrapped(self.env.fixture[3] + self._side * math.pi / 2 - heading)
        if max(abs(grasp), abs(cut)) > YAW_RANGE:
            return math.inf
        return abs(grasp - wrist) + abs(cut - grasp)
