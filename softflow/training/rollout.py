"""Execution of action chunks in many environments at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from softflow.data import Decision, Episode, EpisodeBuilder
from softflow.task import TaskSpec
from softflow.task.parts import ACTION_TOLERANCE
from softflow.training.failures import EnvironmentErrors, EnvironmentFailed, Failure
from softflow.training.global_state import environments_turn
from softflow.training.vector import EpisodeEnd

Act = Callable[[np.ndarray], np.ndarray]
"""A function from observations (B, O) to chunks (B, H, A)."""
Explore = Callable[[np.ndarray, np.ndarray], np.ndarray | Decision[np.ndarray]]
"""A function from observations (B, O) and the arms of their episodes, (B,) int64, to chunks (B, H, A). It may return a
`Decision`, whose record and proposals are stored in the episodes."""


def _first_arm() -> int:
    return 0


class Rollout:
    """Runs environments in parallel. Each executes the first actions of a chunk, then needs another chunk.

    Chunks are requested in one batch. The rollout makes every reset itself, with the next seed (there is no autoreset).
    An episode thus keeps its true final observation, and no action of a chunk is executed after its episode has ended.
    Each environment counts its own steps, so that its episodes are the same as if it ran alone.

    An environment that raises `EpisodeLost` loses its episode, with a warning, and starts the next. `errors` decides
    whether the same happens after other errors. `failures` counts the episodes lost in either way.

    Args:
        environments: A result of `softflow.training.vector.vectorize`.
        seeds: One seed per episode. Environments become idle when the seeds run out.
        errors: The handling of environments that raise errors. By default, the first error stops the rollout.
        assign: Returns the arm of the next episode, the index of the behaviour that executes it. Called once for each
            episode that starts.
    """

    def __init__(
        self,
        environments: VectorEnv[Any, Any, Any],
        seeds: Iterator[int],
        errors: EnvironmentErrors | None = None,
        assign: Callable[[], int] = _first_arm,
    ) -> None:
        self.failures = 0
        self._errors = EnvironmentErrors() if errors is None else errors
        self._environments, self._seeds, self._assign = environments, seeds, assign
        self._running: dict[int, EpisodeBuilder] = {}
        self._idle: set[int] = set()
        assert environments.single_action_space.shape is not None
        self._n_action_steps = environments.single_action_space.shape[0]
        task: TaskSpec | None = environments.metadata.get("task_spec")
        self._layout = task.layout if task is not None else None
        seen, _ = self._reset(options={"idle": True})  # ends episodes that another rollout has started in them
        self._observation = seen[:, -1]

    def execute_chunks(self, act: Explore) -> tuple[list[Episode], int]:
        """Execute one chunk in every environment. Return the episodes that ended and the number of primitive steps.

        The number is 0 if the seeds have run out and all episodes have ended.

        Raises:
            EnvironmentFailed: An environment failed, and `errors` stops the rollout.
            FloatingPointError: An action, a record or a proposed chunk is not finite.
        """
        self.start_episodes()
        running = list(self._running)
        if not running:
            return [], 0
        arms = np.array([builder.arm for builder in self._running.values()])
        decided = act(self._observation[running], arms)
        chunks = decided.chunk if isinstance(decided, Decision) else decided
        actions = np.zeros((self._environments.num_envs, self._n_action_steps, chunks.shape[-1]), np.float32)
        actions[running] = chunks[:, : self._n_action_steps]
        self._check(actions)
        if isinstance(decided, Decision):
            self._record(decided)
        with environments_turn():
            seen, _, terminated, truncated, infos = self._environments.step(actions)
        chunk = infos.get("chunk", {"steps": np.zeros(len(actions), int), "rewards": None})  # if all processes died
        steps, rewards = chunk["steps"], chunk["rewards"]
        episodes = []
        for index in running:
            failure = _entry(infos, "failure", index)
            if failure is not None:
                steps[index] = max(1, steps[index])  # unknown if its process died, but at least one
                self._give_up(index, failure, steps[index])
                continue
            builder, acted_on = self._running[index], [self._observation[index], *seen[index]]
            for i in range(steps[index]):
                builder.append(acted_on[i], actions[index, i], rewards[index, i])
            if terminated[index] or truncated[index]:
                del self._running[index]
                end: EpisodeEnd = infos["end"][index]
                ending = bool(terminated[index]), bool(truncated[index]), end.is_success
                episodes.append(builder.finish(seen[index, -1], *ending, outcome=end.outcome))
                self._errors.episode_ended()
        self._observation = seen[:, -1]
        return episodes, int(steps.sum())

    def collect(self, act: Explore, steps: int) -> tuple[list[Episode], int]:
        """Execute chunks for at least `steps` primitive steps. Return the episodes that ended and the number of steps.

        Unfinished episodes continue in the next call.
        """
        episodes, executed = [], 0
        while executed < steps:
            ended, count = self.execute_chunks(act)
            if not count:
                raise RuntimeError("no seeds are left to start an episode with")
            episodes += ended
            executed += count
        return episodes, executed

    @property
    def running_seeds(self) -> list[int]:
        """The seed of each running episode, in the order of the batch of observations."""
        return [_seed_of(builder) for builder in self._running.values()]

    @property
    def last_actions(self) -> list[np.ndarray | None]:
        """The last action (A,) of each running environment, in the order of the batch of observations.

        None at the start of an episode.
        """
        return [builder.last_action for builder in self._running.values()]

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the episodes in progress as arrays, numbers and strings. The iterator of seeds is not included."""
        environments: Any = self._environments  # gymnasium does not declare `call` of all vector environments
        with environments_turn():
            simulators = environments.call("get_state") if self._running else ()
        return [
            {
                "environment": index,
                "seed": builder.seed,
                "arm": builder.arm,
                "observation": self._observation[index],
                "episode": builder.state_dict(),
                "simulator": simulators[index],
            }
            for index, builder in self._running.items()  # in the order of the batch of observations
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> int:
        """Continue the episodes of `state_dict`. Restart those whose environment cannot restore its state.

        Returns:
            The number of episodes that were restarted.
        """
        number, begun_anew = self._environments.num_envs, 0
        for saved in state:
            index, simulator = saved["environment"], saved["simulator"]
            options = {"reset_mask": _mask([index], number), **({} if simulator is None else {"state": simulator})}
            seeds: Any = [saved["seed"] if i == index else None for i in range(number)]
            seen, infos = self._reset(seed=seeds, options=options)
            arm = saved.get("arm", 0)  # absent in older checkpoints
            self._running[index] = EpisodeBuilder(self._layout, arm, saved["seed"])
            failure = _entry(infos, "failure", index)
            if failure is not None:
                self._give_up(index, failure)
            elif simulator is None or _entry(infos, "begun_anew", index):
                self._observation[index] = seen[index, -1]
                begun_anew += 1
            else:
                self._observation[index] = saved["observation"]
                self._running[index].load_state_dict(saved["episode"])
        return begun_anew

    def begin_first(self, seeds: Sequence[int], arms: Sequence[int]) -> None:
        """Start the episodes of these seeds and arms before those of the iterator of seeds."""
        self._seeds = chain(seeds, self._seeds)
        self._assign = partial(next, chain(arms, iter(self._assign, None)))

    def start_episodes(self) -> None:
        """Start an episode in every environment without one, as long as there are seeds. The others become idle.

        Raises:
            EnvironmentFailed: See `execute_chunks`.
        """
        number, last = self._environments.num_envs, ""
        for _ in range(RESET_ATTEMPTS):
            free = [index for index in range(number) if index not in self._running and index not in self._idle]
            if not free:
                return
            seeds = dict(zip(free, self._seeds, strict=False))
            idle = [index for index in free if index not in seeds]
            if idle:
                self._reset(options={"reset_mask": _mask(idle, number), "idle": True})
                self._idle.update(idle)
            if seeds:
                each: Any = [seeds.get(index) for index in range(number)]  # gymnasium takes it but does not declare it
                seen, infos = self._reset(seed=each, options={"reset_mask": _mask(seeds, number)})
                for index in seeds:
                    self._observation[index] = seen[index, -1]
                    self._running[index] = EpisodeBuilder(self._layout, int(self._assign()), seeds[index])
                    failure = _entry(infos, "failure", index)
                    if failure is not None:
                        last = failure.message
                        self._give_up(index, failure)
        raise EnvironmentFailed(f"an environment failed in {RESET_ATTEMPTS} resets in a row: {last}")

    def _reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        with environments_turn():
            return self._environments.reset(**arguments)

    def _record(self, decision: Decision[np.ndarray]) -> None:
        """Store the records and the proposed chunks of a decision in the running episodes."""
        builders = list(self._running.items())
        if decision.record is not None:
            for (index, builder), record in zip(builders, decision.record, strict=True):
                self._require_finite("record of a decision", record, index)
                builder.decide(record)
        if decision.proposed is not None:
            executed = slice(None), slice(self._n_action_steps)
            difference = np.abs(decision.chunk[executed] - decision.proposed[executed].clip(-1, 1))
            own = (difference <= ACTION_TOLERANCE).all((1, 2))
            for (index, builder), proposed, is_own in zip(builders, decision.proposed, own, strict=True):
                self._require_finite("proposed chunk", proposed, index)
                builder.propose(proposed, is_own)

    def _require_finite(self, name: str, numbers: np.ndarray, index: int) -> None:
        if not np.isfinite(numbers).all():
            raise FloatingPointError(f"the {name} is not finite: {self._place(index, 1)}")

    def _check(self, actions: np.ndarray) -> None:
        """Raise `FloatingPointError` unless the policy's actions (N, n_action_steps, A) are finite."""
        if np.isfinite(actions).all():
            return
        index, step, number = np.argwhere(~np.isfinite(actions))[0].tolist()
        raise FloatingPointError(
            f"action[{number}] of the policy is {actions[index, step, number]} in {self._place(index, 1 + step)}"
        )

    def _place(self, index: int, executed: int = 0) -> str:
        """Describe where an error occurred: in a reset, or `executed` steps after the last one recorded."""
        where = f"step {len(self._running[index]) + executed}" if executed else "the reset"
        return f"environment {index}, {where} of the episode with seed {self._running[index].seed}"

    def _give_up(self, index: int, failure: Failure, executed: int = 0) -> None:
        place, steps = self._place(index, executed), len(self._running.pop(index)) + executed
        self.failures += 1
        if failure.is_error:
            self._errors.add(place, failure)
        else:
            warnings.warn(f"an episode was given up after {steps} steps: {failure.message}", stacklevel=3)


RESET_ATTEMPTS = 10
"""Maximum number of consecutive episodes that fail at their reset."""


def _seed_of(builder: EpisodeBuilder) -> int:
    assert builder.seed is not None
    return builder.seed


def _mask(indices: Iterable[int], number: int) -> np.ndarray:
    mask = np.zeros(number, bool)
    mask[list(indices)] = True
    return mask


def _entry(infos: dict[str, Any], name: str, index: int) -> Any:
    """Return `name` in the info of environment `index`, None if absent. gymnasium marks its presence in `_name`."""
    return infos[name][index] if name in infos and infos[f"_{name}"][index] else None
