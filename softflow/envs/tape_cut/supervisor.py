"""Supervisor of TapeCut, which watches a policy and takes over when it fails."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from softflow.envs.tape_cut.demonstrator import SLIP_STEPS, TapeCutDemonstrator, wrapped
from softflow.errors import UserError

PATIENCE = 40
"""Number of steps (40 steps are 2 s) within which the next stage must be reached.

In successful episodes, of the demonstrator and of imitated policies alike, a stage takes at most 30 steps in the median
and 40 at the 95th percentile. The only exception is the demonstrator's carry to the ribbon, which takes 49.
"""
YAW_RANGE = 3.6
"""Largest yaw of the wrist to either side in rad, slightly less than its joint allows."""


class TapeCutSupervisor(TapeCutDemonstrator):
    """Watches one episode, and demonstrates the rest of it after ``take_over``; make a new one after each ``reset``.

    A policy has failed when it has dropped the scissors after lifting them, or when it has reached no new stage
    (``grasped``, ``lifted``, ``at_tape``, ``cut``) for ``patience`` steps. A human observer could tell the same.

    It takes the arguments of the demonstrator, and one more.

    Args:
        patience: Number of steps within which the next stage must be reached. Lower values take over earlier, also from
            policies that would have succeeded.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        rng: np.random.Generator,
        mode: int | None = None,
        sloppiness: float = 1.0,
        noise: float = 0.15,
        patience: int = PATIENCE,
    ) -> None:
        super().__init__(env, rng, mode, sloppiness, noise)
        if patience < 1:
            raise UserError(f"patience must be at least 1 step, got {patience}")
        self._patience, self._stages, self._waited = patience, 0, 0

    def watch(self) -> bool:
        """Return whether the policy has failed; call it after each of the policy's steps."""
        stages = sum(self.env.reached.values())
        self._waited = 0 if stages > self._stages else self._waited + 1
        self._stages = stages
        self._untouched = 0 if self._touches else self._untouched + 1
        dropped = self.env.reached["lifted"] and self._untouched > SLIP_STEPS
        return dropped or self._waited >= self._patience

    def take_over(self) -> None:
        """Continue from the environment's current state, in the phase that fits it and the mode that turns the wrist
        least."""
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
        """Return the angle in rad that the wrist must turn for the cut, or infinity if it cannot."""
        self._choose(mode)
        wrist, heading = self._targets[3], self._heading
        if held and self._turned != (math.cos(heading - wrist) < 0):
            return math.inf
        grasp = wrist if held else heading + self._turn
        cut = grasp + wrapped(self.env.fixture[3] + self._side * math.pi / 2 - heading)
        if max(abs(grasp), abs(cut)) > YAW_RANGE:
            return math.inf
        return abs(grasp - wrist) + abs(cut - grasp)
