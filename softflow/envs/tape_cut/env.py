"""TapeCut: a hand takes spring scissors out of an open case and cuts a taut ribbon.

This module defines actions, rules, rewards and episodes. The scene is in ``scene.py``, the geometry for the rules in
``geometry.py``, and the observation in ``observation.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.envs.cameras import Cameras, Picture, with_inset
from softflow.envs.generator_state import load_random_state, save_random_state
from softflow.envs.look import Look
from softflow.envs.options import ObservationKind, check_observation
from softflow.envs.simulation import Array, Info, Observation, RewardKind, SimulatedTask, clip
from softflow.envs.tape_cut.adroit import ADROIT_HAND
from softflow.envs.tape_cut.geometry import TapeCutGeometry, measure, mistake
from softflow.envs.tape_cut.hand import COMPACT_HAND
from softflow.envs.tape_cut.observation import felt, observation_size, observe
from softflow.envs.tape_cut.scene import HAND, WRIST, TapeCutScene, Variation
from softflow.errors import UserError, did_you_mean

Observed = Observation | dict[str, NDArray[Any]]
CAMERAS = ("overview", "hand")
"""Cameras of the observation. Their names are part of it, so a policy of other views is refused: rename what moves."""

# Rules
CUT_FORCE = 3.0  # N, force of each blade on the ribbon, in opposite directions
OPEN_GAP = 0.008  # m, minimum gap of the open jaws with the ribbon between them
CUT_GAP = 0.006  # m, gap to which the jaws must close from there
GRASP_FORCE = 0.15  # N, minimum force of the thumb and of any one finger on the scissors
LIFT_HEIGHT = 0.075  # m, height of the pivot above its position in the case
TABLE_EXTENT = 0.8  # m, distance from the origin in x or y beyond which the scissors are lost
FALL_DEPTH = 0.05  # m, depth below the table top at which the scissors are lost

STAGE_REWARDS = {"grasped": 0.125, "lifted": 0.125, "at_tape": 0.25, "cut": 0.5}  # sum 1

CLOSE_UP = 110.0, -22.0, 0.3  # azimuth and elevation in degrees, distance in m of the camera of the inset

# Actions: the change of a wrist target for an action of 1, and its largest distance from the wrist (m or rad).
WRIST_STEP = np.array([0.02, 0.02, 0.02, 0.15, 0.08, 0.08])
WRIST_LEASH = np.array([0.05, 0.05, 0.05, 0.35, 0.25, 0.25])
HAND_STEP = 0.20  # rad, largest change of a finger target per step

# Ranges of the uniform draws in `reset`, in the order of the draws (m, rad; the scissors' are relative to the case).
RESET_RANGES = {
    "case_x": (-0.03, 0.03), "case_y": (-0.04, 0.04), "case_yaw": (-0.25, 0.25),
    "fixture_x": (0.28, 0.33), "fixture_y": (-0.05, 0.05), "fixture_z": (0.0, 0.02), "fixture_yaw": (-0.3, 0.3),
    "scissors_x": (-0.006, 0.006), "scissors_y": (-0.008, 0.008), "scissors_yaw": (-0.12, 0.12),
    "wrist_x": (0.0, 0.10), "wrist_y": (-0.06, 0.06), "wrist_z": (0.23, 0.27), "wrist_yaw": (-0.25, 0.25),
}  # fmt: skip
# Ranges of the uniform draws for `randomize`: factors of the model's values.
VARIATION_RANGES = {"pad_friction": (0.7, 1.3), "scissors_mass": (0.75, 1.4), "spring": (0.8, 1.25)}
HANDS = {"compact": COMPACT_HAND, "adroit": ADROIT_HAND}


class TapeCutEnv(SimulatedTask):
    """Take the scissors out of the case and cut the ribbon, at 20 Hz within 200 steps.

    Action, ``Box(-1, 1, (6 + J,))``: six changes of the wrist's target (x, y, z, yaw, pitch, roll; 1 is ``WRIST_STEP``)
    and the absolute targets of the hand's J joints (-1 to 1 spans the joint's range; a target moves by at most
    ``HAND_STEP`` per step).

    Observation. ``"state"``, (O,): the blocks of ``OBSERVATION_BLOCKS`` and ``FINE_BLOCKS`` (``observation.py``, which
    gives their units). ``"pixels"``, a Dict: images (image_size, image_size, 3), uint8, from the cameras
    ``overview`` and ``hand``, and ``proprioception``, the blocks that the hand's own sensors provide
    (``FELT_BLOCKS``).

    Rules. *grasped*: the thumb and a finger press on the scissors. *lifted*: grasped, and the pivot is ``LIFT_HEIGHT``
    above its position in the case. *at_tape*: lifted, and both edges of the ribbon are between the blades. *cut*: the
    jaws have closed from ``OPEN_GAP`` to ``CUT_GAP`` while the ribbon stayed between them, and both blades press on it
    from opposite sides with ``CUT_FORCE``.

    Reward. ``"sparse"``: 1 at the cut. ``"staged"``: ``STAGE_REWARDS`` when a stage is first reached in the episode,
    in any order; the four rewards sum to 1.

    Episode. ``terminated`` at the cut (unless ``terminate_on_success=False``) or when the scissors have left the
    table; ``truncated`` at ``max_steps``. ``info`` has ``is_success`` and ``stages``, the stages reached so far.

    Args:
        render_mode: ``"rgb_array"`` or None. None never initializes OpenGL, unless the observation is ``"pixels"``.
        reward: ``"sparse"``, 1 at the cut, or ``"staged"``, rewards for four stages that sum to 1.
        terminate_on_success: Whether the cut ends the episode.
        max_steps: Time limit of an episode in steps of 0.05 s.
        randomize: Whether each episode draws the pads' friction, the scissors' mass and the spring's stiffness
            (``VARIATION_RANGES``).
        latency: Delay of actions in steps of 0.05 s. The initial targets hold until the first action arrives.
        sensor_noise: Standard deviation in m of the error, drawn at each step, in the observed positions of scissors
            and ribbon. The error of the scissors' yaw is 10 rad per m of it. Flags, forces and joints are exact. Only
            for the observation ``"state"``.
        hand: ``"compact"`` with 9 joints, or ``"adroit"``, gymnasium-robotics' Adroit hand, with 22 joints.
        observation: ``"state"`` for one vector, or ``"pixels"`` for camera images and proprioception.
        image_size: Height and width of the observed images in pixels.
        random_look: Size of the changes of light and colours that each episode draws, in [0, 1]; see ``Look``. 0 keeps
            those of the scene. Motions do not depend on it. Only for the observation ``"pixels"``.
        width: Width of rendered images in pixels.
        height: Height of rendered images in pixels.
        camera: Camera for ``render``: ``"front"``, ``"side"``, ``"overview"`` or ``"hand"``.
        inset: Whether rendered images have a close-up of the ribbon in their upper right corner.

    Raises:
        UserError: An argument has an invalid value, or gymnasium-robotics is needed but not installed. In ``reset``:
            images are observed, but no OpenGL context can be created.
        UnstableSimulationError: In ``reset`` or ``step``, the physics diverges.
        ValueError: In ``step``, the action has another shape or is not finite.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        reward: RewardKind = "sparse",
        terminate_on_success: bool = True,
        max_steps: int = 200,
        randomize: bool = False,
        latency: int = 0,
        sensor_noise: float = 0.0,
        hand: str = "compact",
        observation: ObservationKind = "state",
        image_size: int = 96,
        random_look: float = 0.0,
        width: int = 640,
        height: int = 480,
        camera: str = "front",
        inset: bool = False,
    ) -> None:
        if not 0 <= sensor_noise < np.inf:
            raise UserError(f"sensor_noise must be 0 m or more, got {sensor_noise}")
        if hand not in HANDS:
            raise UserError(f"TapeCut has no hand {hand!r}: {did_you_mean(hand, list(HANDS))}")
        check_observation(observation)
        if image_size < 1:
            raise UserError(f"image_size must be at least 1 pixel, got {image_size}")
        if sensor_noise and observation == "pixels":
            raise UserError("sensor_noise is of the observation 'state': leave it out with 'pixels'")
        if not 0 <= random_look <= 1:
            raise UserError(f"random_look must lie in [0, 1], got {random_look}")
        if random_look and observation == "state":
            raise UserError("random_look is of the observation 'pixels': leave it out with 'state'")
        self.randomize, self.sensor_noise, self.inset = randomize, sensor_noise, inset
        self.scene = TapeCutScene(HANDS[hand])
        super().__init__(
            self.scene,
            observation_size(len(self.scene.hand.joints)),
            render_mode=render_mode,
            reward=reward,
            terminate_on_success=terminate_on_success,
            max_steps=max_steps,
            latency=latency,
            width=width,
            height=height,
            camera=camera,
        )
        self._felt = felt(len(self.scene.hand.joints))
        self._look = Look(self.scene.model, random_look) if random_look else None
        self._cameras: Cameras | None = None
        if observation == "pixels":
            self._cameras = Cameras(self.scene.model, CAMERAS, image_size)
            picture = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
            proprioception = spaces.Box(-np.inf, np.inf, (len(self._felt),), np.float32)
            pictures: dict[str, spaces.Space[Any]] = dict.fromkeys(CAMERAS, picture)
            self.observation_space = spaces.Dict({**pictures, "proprioception": proprioception})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observed, Info]:
        super().reset(seed=seed)
        drawn = {name: self.np_random.uniform(low, high) for name, (low, high) in RESET_RANGES.items()}
        x, y, yaw = drawn["case_x"], drawn["case_y"], drawn["case_yaw"]
        dx, dy = drawn["scissors_x"], drawn["scissors_y"]
        self.case = np.array([x, y, yaw])
        self.fixture = np.array([drawn[f"fixture_{name}"] for name in ("x", "y", "z", "yaw")])
        scissors_x = x + np.cos(yaw) * dx - np.sin(yaw) * dy
        scissors_y = y + np.sin(yaw) * dx + np.cos(yaw) * dy
        scissors = np.array([scissors_x, scissors_y, yaw + drawn["scissors_yaw"]])
        wrist = np.array([*(drawn[f"wrist_{name}"] for name in ("x", "y", "z", "yaw")), 0.0, 0.0])
        if self.randomize:
            self.scene.vary(Variation(*(self.np_random.uniform(*bounds) for bounds in VARIATION_RANGES.values())))
        if self._look is not None:
            self._look.draw(self.np_random)
        fingers = self.scene.hand.open_pose
        self.scene.place(self.case, self.fixture, scissors, wrist, fingers)
        self.targets = np.concatenate([wrist, fingers])
        self.steps = 0
        self._forget_actions()
        self.armed = False  # the ribbon has been between open jaws and has not left them since
        self.reached = dict.fromkeys(STAGE_REWARDS, False)
        self._running = True
        self._measure()
        self._reach_stages()
        return self._observe(), self._info()

    def step(self, action: NDArray[np.floating]) -> tuple[Observed, float, bool, bool, Info]:
        arriving = self._arriving(self._checked(action))
        if arriving is not None:
            self.targets = self._move_targets(arriving)
        self.scene.advance(self.targets)
        self.steps += 1
        self._measure()
        was_cut = self.cut
        self._try_cut()
        staged = self._reach_stages()
        reward = staged if self.reward == "staged" else float(self.cut and not was_cut)
        terminated = (self.cut and self.terminate_on_success) or self._lost()
        return self._observe(), reward, terminated, self.steps >= self.max_steps, self._info()

    # -- actions

    @property
    def coming_motion(self) -> Array:
        """Change (6,) of the wrist's targets, in m and rad, from delayed actions that have not arrived yet."""
        return np.nansum(self._on_their_way[:, WRIST], 0) * WRIST_STEP

    def _move_targets(self, action: Array) -> Array:
        scene, old = self.scene, self.targets
        low, high = scene.control_low, scene.control_high
        position = scene.wrist_position
        wrist = clip(old[WRIST] + action[WRIST] * WRIST_STEP, position - WRIST_LEASH, position + WRIST_LEASH)
        hand = low[HAND] + (action[HAND] + 1) * 0.5 * (high[HAND] - low[HAND])
        hand = clip(hand, old[HAND] - HAND_STEP, old[HAND] + HAND_STEP)
        return clip(np.concatenate([wrist, hand]), low, high)

    # -- rules

    @property
    def cut(self) -> bool:
        """Whether the ribbon is cut."""
        return self.scene.severed_at is not None

    def _measure(self) -> None:
        self._check_stability()
        self.geometry: TapeCutGeometry = measure(self.scene)
        touch = self.geometry.touch
        self.grasped = bool(touch[0] > GRASP_FORCE and touch[1:].max() > GRASP_FORCE)
        self.lifted = self.grasped and bool(self.geometry.pivot[2] > self.scene.rest_height + LIFT_HEIGHT)

    def _try_cut(self) -> None:
        seen = self.geometry
        self.armed = seen.between_blades and (self.armed or seen.gap >= OPEN_GAP)
        if not self.cut and self.armed and seen.gap <= CUT_GAP and seen.pinch >= CUT_FORCE:
            self.scene.sever(seen.crossing)

    def _reach_stages(self) -> float:
        """Record the stages reached now, and return the reward for new ones."""
        now = {
            "grasped": self.grasped,
            "lifted": self.lifted,
            "at_tape": self.lifted and self.geometry.between_blades,
            "cut": self.cut,
        }
        new = [stage for stage, holds in now.items() if holds and not self.reached[stage]]
        self.reached.update(dict.fromkeys(new, True))
        return sum((STAGE_REWARDS[stage] for stage in new), 0.0)

    def _lost(self) -> bool:
        x, y, z = self.geometry.pivot.tolist()
        return z < -FALL_DEPTH or max(abs(x), abs(y)) > TABLE_EXTENT

    # -- observation

    def _info(self) -> Info:
        return {"is_success": self.cut, "stages": dict(self.reached)}

    def render(self) -> Picture | None:
        picture = super().render()
        if picture is None or not self.inset:
            return picture
        close_up = mujoco.MjvCamera()
        close_up.azimuth, close_up.elevation, close_up.distance = CLOSE_UP
        close_up.lookat = self.geometry.seam
        return with_inset(picture, self._picture(close_up))

    def close(self) -> None:
        super().close()
        if self._cameras is not None:
            self._cameras.close()

    def _observe(self) -> Observed:
        if self._cameras is None:
            return self._state()
        return {**self._cameras.draw(self.scene.data), "proprioception": self._state()[self._felt]}

    def _state(self) -> Observation:
        geometry, fixture = self.geometry, self.fixture
        if self.sensor_noise:
            geometry, moved = mistake(geometry, self.scene.grip_x, self.sensor_noise, self.np_random)
            fixture = np.array([*(fixture[:3] + moved), fixture[3]])
        return observe(
            self.scene,
            geometry,
            targets=self.targets,
            fixture=fixture,
            case=self.case,
            grasped=self.grasped,
            lifted=self.lifted,
            armed=self.armed,
            cut=self.cut,
        )

    # -- state

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return the complete state, including the random generator, as arrays that need no pickling."""
        look = {} if self._look is None else {"look": self._look.numbers}
        return {
            **self.scene.save(),
            **look,
            "targets": self.targets.copy(),
            "fixture": self.fixture.copy(),
            "case": self.case.copy(),
            "steps": np.array(self.steps),
            "on_their_way": self._on_their_way.copy(),
            "armed": np.array(self.armed),
            "reached": np.array(list(self.reached.values())),
            "random": save_random_state(self.np_random),
        }

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> Observed:
        """Restore a state from ``get_state`` of this or another instance; later steps are reproduced bit for bit.

        Returns:
            The observation of that state.

        Raises:
            KeyError: An entry is missing.
        """
        if self._look is not None:
            self._look.set(state["look"])
        self.scene.load(state)
        self.targets, self.fixture, self.case = (np.array(state[name]) for name in ("targets", "fixture", "case"))
        self.steps, self.armed = int(state["steps"]), bool(state["armed"])
        self._on_their_way = np.array(state["on_their_way"])
        self.reached = dict(zip(STAGE_REWARDS, map(bool, state["reached"]), strict=True))
        load_random_state(self.np_random, state["random"])
        self._running = True
        self._measure()
        return self._observe()
