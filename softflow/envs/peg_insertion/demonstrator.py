"""Closed-loop, inaccurate demonstrator of the peg insertion."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.envs.peg_insertion.env import GRASP_HEIGHT, LENGTH, RIM_HEIGHT, PegInsertionEnv
from softflow.envs.stateful import Array
from softflow.errors import UserError

MARGIN = 0.04  # m, by which the lowest point passes above the rim
SIDE = 0.1  # m, distance from the post at which the peg passes it
PAST_RIM = 0.03  # m, x from where the peg goes to the hole
HOVER = 0.03  # m, height of the lowest point at which it is aligned
ALIGNED = 0.004  # m, distance from the aim at which the gripper descends
GRASP_ERROR, HOLE_ERROR = 0.007, 0.007  # m, standard deviations of each attempt's aim in x and y
MOVE_ERROR = 0.0015  # m, standard deviation of each step's displacement
SLOWEST, FASTEST = 0.01, 0.028  # m per step
OPEN, CLOSED = 0.0, 1.0


class PegInsertionDemonstrator:
    """Demonstrates one episode; make a new one after each ``reset``.

    It aims at the head of the peg and at the hole with an error, and draws another error after a failed attempt. Its
    commands to the gripper are 0 or 1.

    Args:
        env: A peg insertion. It may be wrapped.
        rng: Source of the mode, the speed and the noise.
        mode: 0 passes the post at positive y, 1 at negative y; None draws one with equal probabilities.
        noise: Scale of all errors, relative to the default of 1. Higher values give less accurate demonstrations, and
            more failures; 0 makes none.

    Attributes:
        mode: The mode of this episode.

    Raises:
        UserError: ``env`` is another environment, ``mode`` is not one of the two, or ``noise`` is negative.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], rng: np.random.Generator, mode: int | None = None, noise: float = 1.0
    ) -> None:
        if not isinstance(env.unwrapped, PegInsertionEnv):
            raise UserError(f"{type(self).__name__} cannot act in {env.unwrapped}")
        if mode not in (None, 0, 1):
            raise UserError(f"mode must be 0 or 1, got {mode!r}")
        if noise < 0:
            raise UserError(f"noise must not be negative, got {noise}")
        self._env, self._rng, self._noise = env.unwrapped, rng, noise
        self.mode = int(rng.integers(2)) if mode is None else mode
        self._speed = rng.uniform(SLOWEST, FASTEST)
        self._rising = False  # after a failed attempt
        self._attempt()

    def act(self) -> NDArray[np.float32]:
        """Return the action (4,) in [-1, 1] for the environment's current state; every call draws new noise."""
        gripper, opening, head, _, hole, held = self._env.parts()
        if held:
            move, command = self._insert(np.array(head), np.array(hole)), CLOSED
        else:
            move, command = self._grasp(np.array(gripper), np.array(head), opening)
        size = np.linalg.norm(move)
        if size > self._speed:
            move *= self._speed / size
        move += self._noise * self._rng.normal(0, MOVE_ERROR, 3)
        low, high = np.array(PegInsertionEnv.LOW), np.array(PegInsertionEnv.HIGH)
        return (2 * (np.array([*move, command]) - low) / (high - low) - 1).clip(-1, 1).astype(np.float32)

    def _attempt(self) -> None:
        self._grasp_error = self._noise * self._rng.normal(0, GRASP_ERROR, 2)
        self._hole_error = self._noise * self._rng.normal(0, HOLE_ERROR, 2)

    def _grasp(self, gripper: Array, head: Array, opening: float) -> tuple[Array, float]:
        """Return the displacement and the command without noise while the gripper is empty."""
        if opening == 0:  # closed beside the peg
            self._rising = True
            self._attempt()
        self._rising = self._rising and gripper[2] < HOVER
        if self._rising:
            return np.array([0.0, 0.0, HOVER + ALIGNED - gripper[2]]), OPEN
        away = head[:2] + self._grasp_error - gripper[:2]
        if np.linalg.norm(away) > ALIGNED:
            return np.array([*away, HOVER - gripper[2]]), OPEN
        down = GRASP_HEIGHT - gripper[2]
        return np.array([*away, down]), CLOSED if abs(down) < ALIGNED else OPEN

    def _insert(self, head: Array, hole: Array) -> Array:
        """Return the displacement without noise while the peg is held."""
        low = head[2] - LENGTH
        if low == 0 and np.linalg.norm(head[:2] - hole) > PegInsertionEnv.HOLE_TOLERANCE:  # it stands beside the hole
            self._rising = True
            self._attempt()
        self._rising = self._rising and low < HOVER
        if self._rising:
            return np.array([0.0, 0.0, HOVER + ALIGNED - low])
        if head[0] < PAST_RIM:
            up = RIM_HEIGHT + MARGIN - low
            way = np.array([PAST_RIM + ALIGNED, SIDE if self.mode == 0 else -SIDE]) - head[:2]
            return np.array([*(way if up < MARGIN / 2 else np.zeros(2)), up])  # first up
        away = hole + self._hole_error - head[:2]
        if np.linalg.norm(away) > ALIGNED:
            return np.array([*away, HOVER - low])
        return np.array([*away, -low - 2 * PegInsertionEnv.DEPTH])
