"""Episodes of the simulated tasks, and what is told from them: the same to the bit, or not."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np

from softflow.envs import CubeRotateEnv, TapeCutEnv, make_demonstrator

State = dict[str, np.ndarray]


class Demonstration(NamedTuple):
    observations: np.ndarray
    """(T + 1, O)"""
    actions: np.ndarray
    """(T, A)"""
    steps: list[tuple[Any, ...]]
    """What each `step` returned, T."""
    mode: int

    @property
    def info(self) -> dict[str, Any]:
        """The info of the last step."""
        return self.steps[-1][4]


def demonstrate(env: gymnasium.Env, seed: int, **options: Any) -> Demonstration:
    """A whole episode of an environment of `make_env`; ``options`` are the demonstrator's."""
    first, _ = env.reset(seed=seed)
    demonstrator = make_demonstrator(env, np.random.default_rng(seed), **options)
    actions, steps = list[np.ndarray](), list[tuple[Any, ...]]()
    while not steps or not (steps[-1][2] or steps[-1][3]):
        actions.append(demonstrator.act())
        steps.append(env.step(actions[-1]))
    return Demonstration(np.array([first, *(step[0] for step in steps)]), np.array(actions), steps, demonstrator.mode)


def observed(env: gymnasium.Env, actions: np.ndarray, seed: int) -> np.ndarray:
    """Observations (T + 1, O) from the start of an episode under ``actions`` (T, A)."""
    return np.array([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])


def after(env: gymnasium.Env, actions: np.ndarray) -> list[Any]:
    """Everything that can be seen from ``actions`` and from the next episode."""
    seen: list[Any] = [env.step(action) for action in actions]
    return [*seen, env.reset(), env.step(actions[0])]


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare two results of `after`."""
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]


def stored(state: Mapping[str, np.ndarray]) -> State:
    """The state after a trip through a file that allows no pickling."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def assert_can_be_looked_at(env: CubeRotateEnv | TapeCutEnv, atol: float) -> None:
    """What is drawn is where the simulation is, up to one substep: within ``atol``, of m or of cosines."""
    model, data = env.scene.model, env.scene.data
    fields = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
    drawn = {field: getattr(data, field).copy() for field in fields}
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    for field, value in drawn.items():
        np.testing.assert_allclose(value, getattr(data, field), atol=atol)
