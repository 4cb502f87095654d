"""Meta-World's tasks (arXiv 1910.10897) with its scripted policies as demonstrators; nothing was tuned for them.

    pip install --no-deps metaworld==3.1.1 && pip install scipy imageio "mujoco>=3.4,<3.5"
    PYTHONPATH=. softflow-train --algo softflow --env benchmarks.tasks.metaworld:MetaWorld/hammer-v3 \\
        --env-options.sparse-success true --num-demos 20

metaworld 3.1.1 asks for MuJoCo 3.3.0, but softflow needs at least 3.4. It runs with 3.4, and fails with 4.0.
"""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.envs import register_task
from softflow.errors import UserError

TASKS = ("peg-insert-side-v3", "pick-place-v3", "push-v3", "hammer-v3", "door-open-v3", "box-close-v3", "stick-push-v3")
STEPS = 200
"""Time limit of an episode. The scripted policies take 50 to 160 steps without noise."""


class Drawn(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Draw each episode from the whole range of starts and goals, by the seed of ``reset``, and observe the goal.

    Its environments ignore the seed and hide the goal, and `Meta-World/MT1` draws from 50 starts and goals alone.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        task = cast(Any, env)
        task._freeze_rand_vec, task.seeded_rand_vec = False, True
        task._partially_observable, task._set_task_called = False, True
        del task.sawyer_observation_space  # cached when the goal was still hidden
        task.observation_space = task.sawyer_observation_space
        super().__init__(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            cast(Any, self.unwrapped).seed(seed)
        return self.env.reset()


class ScriptedPolicy:
    """Demonstrates one episode with Meta-World's scripted policy; make one after each ``reset``.

    Args:
        env: One of this module's environments, wrapped or not.
        rng: Source of the noise.
        noise: Standard deviation of the noise on each number of the action, which lies in [-1, 1].

    Attributes:
        mode: Always -1, because the policies have no modes.

    Raises:
        UserError: ``noise`` is negative.
    """

    mode = -1

    def __init__(self, env: gymnasium.Env[Any, Any], rng: np.random.Generator, noise: float = 0.3) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        if noise < 0:
            raise UserError(f"noise must not be negative, got {noise}")
        assert env.spec is not None
        self._env, self._rng, self._noise = cast(Any, env.unwrapped), rng, noise
        self._policy = ENV_POLICY_MAP[env.spec.id.rpartition("/")[2]]()

    def act(self) -> NDArray[np.floating]:
        """Return the action (4,) in [-1, 1] for the environment's current state; every call draws new noise."""
        now = self._env._get_curr_obs_combined_no_goal()  # _get_obs would make this the previous observation
        observation = np.concatenate([now, now, self._env._get_pos_goal()])
        action = np.clip(self._policy.get_action(observation), -1, 1)
        return np.clip(action + self._rng.normal(0, self._noise, 4), -1, 1)


def make(task: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make a Meta-World environment by its own name, such as ``hammer-v3``."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    return Drawn(ALL_V3_ENVIRONMENTS[task](**options))


for _task in TASKS:
    gymnasium.register(f"MetaWorld/{_task}", entry_point=make, kwargs={"task": _task}, max_episode_steps=STEPS)
    register_task(f"{__name__}:MetaWorld/{_task}", demonstrator=ScriptedPolicy)
