"""Diagnostic tasks: small tasks without physics, each designed to test one claim about methods.

    two_routes         the mean of two good routes is bad: a Gaussian fails, a density with two modes does not
    delayed_corridor   credit over many steps: chunk values reach the decision in fewer updates than step values
    drifting_goal      every demonstration has the same small error: a bounded residual corrects it, the latent cannot
    wrong_mode         half of the demonstrations go to the wrong goal: the latent chooses, a bounded residual cannot

The optimal return of an episode is known (``OPTIMAL_RETURN``): only the last step is rewarded, with at most 1. The
demonstrators are in ``demonstrators.py``, and the results of the methods in ``docs/notebook/diagnostics.md``.

Each task can be observed as a picture instead. The picture shows what the numbers say and nothing else.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.envs.diagnostics.drawing import Canvas, Picture, View
from softflow.envs.options import ObservationKind, check_observation
from softflow.envs.stateful import Array, Outcome, StatefulTask
from softflow.errors import UserError

Observation = NDArray[np.float32] | dict[str, Picture]

STEP = 0.1
"""Distance in m that an action of 1 moves a point per step."""

PICTURE = "overview"
"""Name of the observed picture."""
OBSERVED_SIZE, RENDERED_SIZE = 64, 256
"""Height and width in pixels of the observed pictures, and of those that ``render`` returns."""
POINT_RADIUS = 0.04  # of the picture's side
# The ground is black, because a bright one outweighs the point in the features of an untrained encoder.
GROUND, WALL, PASSIVE, GOAL_COLOR, POINT_COLOR = (
    (0, 0, 0), (70, 70, 70), (50, 50, 50), (40, 140, 60), (255, 255, 255),
)  # fmt: skip


class DiagnosticTask(StatefulTask[Observation]):
    """Base class of the tasks: an array or a picture is observed, and actions lie in [-1, 1].

    Args:
        render_mode: ``"rgb_array"`` or None.
        observation: ``"state"`` for an array (O,), or ``"pixels"`` for a Dict of one picture from above, ``overview``,
            uint8 (64, 64, 3). A point outside of the picture is not seen.

    Raises:
        UserError: An argument has another value.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's way)
    OPTIMAL_RETURN: ClassVar[float] = 1.0
    """Highest possible undiscounted return."""
    OBSERVATION_DIM: ClassVar[int]
    """O, the length of the observed array."""
    ACTION_DIM: ClassVar[int]
    VIEW: ClassVar[View]
    """The part of the plane in the picture."""

    def __init__(self, render_mode: str | None = None, observation: ObservationKind = "state") -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            name = type(self).__name__.removesuffix("Env")
            raise UserError(f"{name} has no render_mode {render_mode!r}: use 'rgb_array' or None")
        check_observation(observation)
        self.render_mode, self.observation = render_mode, observation
        self._scenes = dict[int, tuple[Canvas, Picture]]()
        space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (self.OBSERVATION_DIM,), np.float32)
        if observation == "pixels":
            space = spaces.Dict({PICTURE: spaces.Box(0, 255, (OBSERVED_SIZE, OBSERVED_SIZE, 3), np.uint8)})
        super().__init__(space, spaces.Box(-1.0, 1.0, (self.ACTION_DIM,), np.float32))

    @abstractmethod
    def _observe(self) -> Array:
        """Return the observation (O,) of the current state."""

    @abstractmethod
    def _draw_scene(self, canvas: Canvas, picture: Picture) -> None:
        """Draw what is the same in every state."""

    @abstractmethod
    def _draw_state(self, canvas: Canvas, picture: Picture) -> None:
        """Draw the current state on the scene."""

    def observe(self) -> Observation:
        if self.observation == "pixels":
            return {PICTURE: self.draw(OBSERVED_SIZE)}
        return self._observe().astype(np.float32)

    def render(self) -> Picture | None:
        """Return a picture (256, 256, 3) from above, or None unless ``render_mode`` is ``"rgb_array"``."""
        return None if self.render_mode is None else self.draw(RENDERED_SIZE)

    def draw(self, size: int) -> Picture:
        """Return a picture (size, size, 3) of the current state from above."""
        if size not in self._scenes:
            canvas = Canvas(self.VIEW, size)
            scene = canvas.blank(GROUND)
            self._draw_scene(canvas, scene)
            self._scenes[size] = canvas, scene
        canvas, scene = self._scenes[size]
        picture = scene.copy()
        self._draw_state(canvas, picture)
        return picture

    def _draw_point(self, canvas: Canvas, picture: Picture, x: float, y: float) -> None:
        canvas.disc(picture, x, y, POINT_RADIUS * self.VIEW.side, POINT_COLOR)


class TwoRoutesEnv(DiagnosticTask):
    """A point moves to a goal behind a disc, passing it on either side.

    Claim: the mean of two good routes is bad. Both sides are equally good, and the demonstrations take them equally
    often from the same start. The disc is so near that the mean route runs into it within four steps.

    Observation (2,): position in m. The picture shows the point, the disc and the goal. Action (2,): velocity; 1 is
    0.1 m per step.

    Reward: 1 within 0.15 m of the goal, which ends the episode. A step that ends in the disc also ends it, with reward
    0. The episode is truncated after 60 steps. Demonstrations have a return of 1.00.
    """

    MAX_STEPS = 60
    START_X, START_Y = -0.65, 0.02  # m; y is drawn from [-START_Y, START_Y]
    RADIUS = 0.5  # m, of the disc, which is centred at the origin
    GOAL = np.array([1.0, 0.0])
    TOLERANCE = 0.15  # m
    OBSERVATION_DIM, ACTION_DIM = 2, 2
    VIEW = View(0.2, 0.0, 2.2)  # m

    def _start(self, rng: np.random.Generator) -> Array:
        return np.array([self.START_X, rng.uniform(-self.START_Y, self.START_Y)])

    def _move(self, action: Array) -> Outcome:
        self.state = self.state + STEP * action
        reached = bool(np.linalg.norm(self.GOAL - self.state) < self.TOLERANCE)
        return Outcome(float(reached), reached or bool(np.linalg.norm(self.state) < self.RADIUS), reached)

    def _observe(self) -> Array:
        return self.state

    def _draw_scene(self, canvas: Canvas, picture: Picture) -> None:
        canvas.disc(picture, 0, 0, self.RADIUS, WALL)
        x, y = self.GOAL
        canvas.disc(picture, x, y, self.TOLERANCE, GOAL_COLOR)

    def _draw_state(self, canvas: Canvas, picture: Picture) -> None:
        x, y = self.state
        self._draw_point(canvas, picture, x, y)


class DelayedCorridorEnv(DiagnosticTask):
    """At a fork the first action chooses one of two lanes; the reward reveals 31 steps later whether it was correct.

    Claim: a critic learns backwards from the reward, one backup at a time. A per-step critic needs 32 backups, and a
    critic of chunks of four needs 8. The chunk critic values the actions that were executed, so its target lacks the
    bias of an n-step return over another policy's actions. The observation has one number per cell, so a value cannot
    be generalized from nearby cells. With four corridors, an untrained critic is right in about half of them.

    Observation (260,): 1 for the current cell, 0 for the others. The picture shows the four corridors, one above the
    other, and the point in its cell. Nearby cells look alike in it. Action (1,): at the fork its sign chooses the lane.
    The point advances by itself, and later actions have no effect.

    Reward: at the 32nd step, which ends the episode, 1 in the correct lane and 0.5 in the other. The latter is not 0
    so that methods that imitate rewarded actions imitate both. Demonstrations take both lanes equally often and have a
    mean return of 0.75.
    """

    MAX_STEPS = 32
    CORRECT_LANE = (0, 1, 1, 0)  # of each corridor
    WRONG_REWARD = 0.5
    CELLS = 1 + 2 * MAX_STEPS  # of a corridor: the fork, then two lanes
    AT_FORK = -1  # stands for the lane before it is chosen
    OBSERVATION_DIM, ACTION_DIM = len(CORRECT_LANE) * CELLS, 1
    VIEW = View(16.0, 0.0, 36.0)  # cells; a step is one cell to the right
    CORRIDOR_Y = (13.5, 4.5, -4.5, -13.5)  # cells, of each fork
    LANE_Y = (-2.0, 2.0)  # cells, of each lane relative to the fork

    def _start(self, rng: np.random.Generator) -> Array:
        return np.array([rng.integers(len(self.CORRECT_LANE)), self.AT_FORK], np.float64)

    def _move(self, action: Array) -> Outcome:
        if self.steps == 1:
            self.state[1] = action[0] > 0
        corridor, lane = map(int, self.state)
        correct = lane == self.CORRECT_LANE[corridor]
        if self.steps < self.MAX_STEPS:
            return Outcome()
        return Outcome(1.0 if correct else self.WRONG_REWARD, True, correct)

    def _observe(self) -> Array:
        corridor, lane = map(int, self.state)
        cell = 0 if lane == self.AT_FORK else 1 + 2 * (self.steps - 1) + lane
        observation = np.zeros(len(self.CORRECT_LANE) * self.CELLS)
        observation[corridor * self.CELLS + cell] = 1
        return observation

    def _draw_scene(self, canvas: Canvas, picture: Picture) -> None:
        for fork in self.CORRIDOR_Y:
            canvas.rectangle(picture, (-0.5, 0.5), (fork + self.LANE_Y[0], fork + self.LANE_Y[1]), PASSIVE)
            for lane in self.LANE_Y:
                canvas.rectangle(picture, (-0.5, self.MAX_STEPS + 0.5), (fork + lane - 0.5, fork + lane + 0.5), PASSIVE)

    def _draw_state(self, canvas: Canvas, picture: Picture) -> None:
        corridor, lane = map(int, self.state)
        beside = 0.0 if lane == self.AT_FORK else self.LANE_Y[lane]
        self._draw_point(canvas, picture, self.steps, self.CORRIDOR_Y[corridor] + beside)


class DriftingGoalEnv(DiagnosticTask):
    """A point has four steps to reach a goal that has drifted by 0.05 m from its displayed position.

    Claim: the demonstrations aim at the displayed goal, so no demonstrated chunk reaches the true one, and latents near
    those of the demonstrations do not help. A small residual is enough: 0.125 of the action box in each step.

    Observation (5,): position in m, the vector to the displayed goal in m, and the share of the time that is left. The
    picture shows the point, the displayed goal, and a bar at the bottom whose length is that share of the side.
    Action (2,): velocity; 1 is 0.1 m per step.

    Reward: at the last step, which ends the episode, 1 / (1 + (distance / 0.05 m)^2), with the distance to the true
    goal. Success: a distance of at most 0.025 m. Demonstrations end 0.05 +- 0.007 m away, never succeed and have a
    mean return of 0.5.
    """

    MAX_STEPS = 4
    DRIFT = np.array([0.03, 0.04])  # m
    SHOWN_LOW, SHOWN_HIGH = (0.2, -0.1), (0.3, 0.1)  # m, range of the displayed goal
    HALF_REWARD = 0.05  # m, distance from the goal at which the reward is 1/2
    TOLERANCE = 0.025  # m
    OBSERVATION_DIM, ACTION_DIM = 5, 2
    VIEW = View(0.16, 0.0, 0.48)  # m
    BAR_HEIGHT = 0.02  # m

    def _start(self, rng: np.random.Generator) -> Array:
        return np.concatenate([np.zeros(2), rng.uniform(self.SHOWN_LOW, self.SHOWN_HIGH)])

    def _move(self, action: Array) -> Outcome:
        self.state[:2] += STEP * action
        if self.steps < self.MAX_STEPS:
            return Outcome()
        position, shown = self.state[:2], self.state[2:]
        distance = float(np.linalg.norm(shown + self.DRIFT - position))
        return Outcome(1 / (1 + (distance / self.HALF_REWARD) ** 2), True, distance <= self.TOLERANCE)

    def _observe(self) -> Array:
        position, shown = self.state[:2], self.state[2:]
        return np.concatenate([position, shown - position, [self._time_left()]])

    def _time_left(self) -> float:
        return 1 - self.steps / self.MAX_STEPS

    def _draw_scene(self, canvas: Canvas, picture: Picture) -> None:
        """Leave the ground empty, because everything moves."""

    def _draw_state(self, canvas: Canvas, picture: Picture) -> None:
        left, bottom = self.VIEW.x - self.VIEW.side / 2, self.VIEW.y - self.VIEW.side / 2
        right = left + self._time_left() * self.VIEW.side
        canvas.rectangle(picture, (left, right), (bottom, bottom + self.BAR_HEIGHT), WALL)
        x, y, goal_x, goal_y = self.state
        canvas.disc(picture, goal_x, goal_y, self.TOLERANCE, GOAL_COLOR)
        self._draw_point(canvas, picture, x, y)


class WrongModeEnv(DiagnosticTask):
    """A signal tells which of two goals is correct, but the demonstrations go to either one regardless of it.

    Claim: the demonstrations contain the right behaviour, which only has to be chosen. The latent can choose between
    the goals. A residual, bounded to 0.2 of the action box, moves the point by only 0.15 m, and the goals are 1.2 m
    apart.

    Observation (3,): position in m, and the signal: 1 for the upper goal, -1 for the lower one. The picture shows the
    point and the goals; the correct one is green. Action (2,): velocity; 1 is 0.1 m per step.

    Reward: within 0.15 m of a goal, which ends the episode, 1 if the goal is correct and 0.25 otherwise. The latter is
    not 0 so that methods that imitate rewarded actions imitate both. The episode is truncated after 16 steps.
    Demonstrations have a mean return of 0.625.
    """

    MAX_STEPS = 16
    GOAL_X, GOAL_Y = 0.4, 0.6  # m, the upper goal; the lower one is at -GOAL_Y
    TOLERANCE = 0.15  # m
    WRONG_REWARD = 0.25
    OBSERVATION_DIM, ACTION_DIM = 3, 2
    VIEW = View(0.2, 0.0, 1.8)  # m

    def _start(self, rng: np.random.Generator) -> Array:
        return np.array([0.0, 0.0, rng.choice([-1.0, 1.0])])

    def _move(self, action: Array) -> Outcome:
        self.state[:2] += STEP * action
        x, y, signal = self.state
        if np.hypot(x - self.GOAL_X, abs(y) - self.GOAL_Y) >= self.TOLERANCE:
            return Outcome()
        correct = bool(y * signal > 0)
        return Outcome(1.0 if correct else self.WRONG_REWARD, True, correct)

    def _observe(self) -> Array:
        return self.state

    def _draw_scene(self, canvas: Canvas, picture: Picture) -> None:
        for y in (self.GOAL_Y, -self.GOAL_Y):
            canvas.disc(picture, self.GOAL_X, y, self.TOLERANCE, PASSIVE)

    def _draw_state(self, canvas: Canvas, picture: Picture) -> None:
        x, y, signal = self.state
        canvas.disc(picture, self.GOAL_X, signal * self.GOAL_Y, self.TOLERANCE, GOAL_COLOR)
        self._draw_point(canvas, picture, x, y)
