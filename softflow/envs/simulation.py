"""Base classes of the simulated tasks: a MuJoCo model with its complete state, and an environment around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal, get_args

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from softflow.envs.cameras import open_renderer
from softflow.envs.errors import UnstableSimulationError
from softflow.errors import UserError, did_you_mean

Array = NDArray[np.float64]
Observation = NDArray[np.float32]
Info = dict[str, Any]
RewardKind = Literal["sparse", "staged"]

SUBSTEPS = 10  # of 5 ms: 20 control steps per second

# The next step depends only on the integrated state. Observations and images read the poses and forces below, which lag
# it by one substep, so a complete state includes them as well.
INTEGRATED = mujoco.mjtState.mjSTATE_INTEGRATION
DERIVED = (
    "xpos", "xmat", "site_xpos", "sensordata",
    "geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir",
)  # fmt: skip
INSTABILITIES = {int(getattr(mujoco.mjtWarning, f"mjWARN_{name}")): name for name in ("BADQPOS", "BADQVEL", "BADQACC")}


class Simulation:
    """A MuJoCo model and its data.

    A scene that modifies its model must save the modification in ``save`` and apply it again in ``load``.

    Args:
        spec: The model, for example from ``read_spec``.
    """

    def __init__(self, spec: mujoco.MjSpec) -> None:
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.control_low, self.control_high = self.model.actuator_ctrlrange.T.copy()

    def advance(self, targets: Array) -> None:
        """Simulate one control step with joint targets (nu,)."""
        self.data.ctrl[:] = targets
        mujoco.mj_step(self.model, self.data, SUBSTEPS)

    def instability(self) -> str | None:
        """Return how the simulation has diverged since MuJoCo's data were last reset, or None if it is stable."""
        counts = self.data.warning.number.tolist()
        for warning, name in INSTABILITIES.items():
            if counts[warning]:
                return f"MuJoCo warns of {name}"
        if not math.isfinite(self.data.qpos.sum() + self.data.qvel.sum()):  # cheaper than checking each number
            return "positions or velocities are not finite"
        return None

    def save(self) -> dict[str, Array]:
        """Return the complete state: the integrated state, and the poses and forces derived from it."""
        integrated = np.empty(mujoco.mj_stateSize(self.model, INTEGRATED))
        mujoco.mj_getState(self.model, self.data, integrated, INTEGRATED)
        return {"integrated": integrated, **{name: getattr(self.data, name).copy() for name in DERIVED}}

    def load(self, state: Mapping[str, Array]) -> None:
        """Restore a state from ``save``, of this scene or of another one with the same model."""
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, np.array(state["integrated"], np.float64), INTEGRATED)
        for name in DERIVED:
            getattr(self.data, name)[:] = state[name]


def read_spec(package: str) -> mujoco.MjSpec:
    """Read the model of ``scene.xml`` in a task's package."""
    return mujoco.MjSpec.from_string(files(package).joinpath("scene.xml").read_text(encoding="utf-8"))


class SimulatedTask(gymnasium.Env[Any, NDArray[np.floating]]):
    """Environment around a scene that checks options and actions, detects unstable physics and renders images.

    Args:
        scene: The scene to simulate.
        observation_size: O, the length of an observation.
        render_mode: ``"rgb_array"`` or None. None never initializes OpenGL.
        reward: ``"sparse"`` or ``"staged"``.
        terminate_on_success: Whether a success ends the episode.
        max_steps: Time limit of an episode in steps.
        latency: Delay of actions in steps. The initial targets hold until the first action arrives.
        width: Width of rendered images in pixels.
        height: Height of rendered images in pixels.
        camera: Name of the camera for ``render``.

    Raises:
        UserError: An option has an invalid value.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20, "control_rate": 20.0}  # noqa: RUF012 (gymnasium's way)

    def __init__(
        self,
        scene: Simulation,
        observation_size: int,
        *,
        render_mode: str | None,
        reward: RewardKind,
        terminate_on_success: bool,
        max_steps: int,
        latency: int,
        width: int,
        height: int,
        camera: str,
    ) -> None:
        name = type(self).__name__.removesuffix("Env")
        cameras = [scene.model.camera(i).name for i in range(scene.model.ncam)]
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"{name} has no render_mode {render_mode!r}: use 'rgb_array' or None")
        if reward not in get_args(RewardKind):
            raise UserError(f"{name} has no reward {reward!r}: {did_you_mean(reward, get_args(RewardKind))}")
        if max_steps < 1:
            raise UserError(f"max_steps must be at least 1, got {max_steps}")
        if width < 1 or height < 1:
            raise UserError(f"width and height must be at least 1 pixel, got {width} and {height}")
        if latency < 0:
            raise UserError(f"latency must be 0 or more steps, got {latency}")
        if camera not in cameras:
            raise UserError(f"{name} has no camera {camera!r}: {did_you_mean(camera, cameras)}")
        self.render_mode, self.reward, self.terminate_on_success = render_mode, reward, terminate_on_success
        self.max_steps, self.latency = max_steps, latency
        self.width, self.height, self.camera = width, height, camera
        self.action_space = spaces.Box(-1.0, 1.0, (scene.model.nu,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (observation_size,), np.float32)
        self.steps = 0
        self._simulation = scene
        self._on_their_way = np.empty((0, scene.model.nu))  # (latency, A), oldest first; NaN before the first
        self._renderer: mujoco.Renderer | None = None
        self._running = False

    def _forget_actions(self) -> None:
        """Clear the queue of delayed actions; ``reset`` must call this."""
        self._on_their_way = np.full((self.latency, self._simulation.model.nu), np.nan)

    def _arriving(self, action: Array) -> Array | None:
        """Return the delayed action (A,) that takes effect in this step, or None if none has arrived yet."""
        if not self.latency:
            return action
        arriving = self._on_their_way[0]
        self._on_their_way = np.concatenate([self._on_their_way[1:], action[None]])
        return None if np.isnan(arriving[0]) else arriving

    def _checked(self, action: NDArray[np.floating]) -> Array:
        """Return the action (A,) clipped to the bounds.

        Raises:
            ResetNeeded: No episode is running.
            ValueError: The action has another shape or is not finite.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded("call reset() before step(), also after an UnstableSimulationError")
        checked = np.asarray(action, np.float64)
        if checked.shape != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}, got {checked.shape}")
        if not np.isfinite(checked).all():
            raise ValueError(f"an action must be finite, got {action}")
        return clip(checked, -1.0, 1.0)

    def _check_stability(self) -> None:
        reason = self._simulation.instability()
        if reason is not None:
            self._running = False
            raise UnstableSimulationError(self.steps, reason)

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image (height, width, 3), or None unless ``render_mode`` is ``"rgb_array"``.

        Raises:
            RuntimeError: No OpenGL context can be created.
        """
        return None if self.render_mode is None else self._picture(self.camera)

    def _picture(self, camera: str | mujoco.MjvCamera) -> NDArray[np.uint8]:
        if self._renderer is None:
            self._renderer = open_renderer(self._simulation.model, self.height, self.width)
        self._renderer.update_scene(self._simulation.data, camera)
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def clip(values: Array, low: Any, high: Any) -> Array:
    return np.minimum(np.maximum(values, low), high)  # np.clip spends more time on checks than on clipping


def yaw_quaternion(angle: float) -> Array:
    """Return the quaternion (4,), in MuJoCo's order, of a rotation by ``angle`` rad about the vertical."""
    return np.array([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])
