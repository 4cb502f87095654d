"""Recording of demonstrations by a person, who moves a device and watches a window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count as count_up
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softflow.console import remark
from softflow.data import Dataset, Episode, save_demonstrations
from softflow.data.summary import count
from softflow.envs import name_actions
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.runs.devices import make_device, pygame_needed, require_device
from softflow.runs.recorder import Recorder, Take, task_of
from softflow.runs.video import picture_of
from softflow.task import TaskSpec
from softflow.teleop import Command, Device
from softflow.teleop.pace import Pace
from softflow.teleop.status import Phase, Status
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.failures import EnvironmentErrors, Lost
from softflow.training.global_state import environments_turn
from softflow.training.progress import StageProgress
from softflow.training.success import SuccessRule

if TYPE_CHECKING:
    from softflow.teleop.window import Window

SPARING = 20
"""The time between two writings of the file is at least this multiple of the time that one takes."""


def record_teleoperation(
    make: Callable[[], Env],
    device: str,
    path: Path,
    episodes: int,
    seed: int,
    rate: float | None = None,
    options: Mapping[str, Any] | None = None,
    errors: EnvironmentErrors | None = None,
    success: SuccessRule | None = None,
) -> Dataset:
    """Record the demonstrations of a person until there are enough, or the person quits.

    The file is also written while the recording goes on, and if it is interrupted or fails.

    Args:
        make: Makes an environment with `render_mode="rgb_array"`.
        device: The device that the person moves: a registered name, or `module:Class`.
        path: The file to write.
        episodes: The number of episodes to keep.
        seed: The seed of the episodes. An episode that is discarded is repeated with the same seed.
        rate: The control rate in hertz. By default that of the environment.
        options: Arguments of the device.
        errors: Counts the errors of the environment, and decides whether recording continues after them.
        success: The rule by which episodes count as successes. If the environment never says `is_success`, the person
            marks the successes.

    Raises:
        UserError: There is no such device, no display or no known control rate, or no episode was kept.
        EnvironmentFailed: The environment or the device raised an error, and `errors` stops the recording.
    """
    with pygame_needed():
        from softflow.teleop.window import Window
    require_device(device, options or {})
    with environments_turn():
        environment = CheckedEnvironment(make(), success)
    task = task_of(environment, success)
    recorded = _GrowingFile(path, task)
    pace = Pace(_control_rate(environment) if rate is None else rate)
    try:
        with Window(f"softflow-demo: {task.name}") as window, StageProgress("demonstrations", episodes) as bar:
            moved = make_device(device, replace(task, rate=pace.rate), options or {})
            recorder = _PersonRecorder(make, seed, success, environment, window, moved, episodes, pace)
            for episode in islice(recorder.episodes(errors or EnvironmentErrors()), episodes):
                recorded.add(episode)
                bar.update(1, success=float(np.mean([one.is_success for one in recorded.episodes])))
    except _Quit:
        pass
    except BaseException:
        if recorded.episodes:
            recorded.write()
            remark(f"{path} holds what was kept: {count(len(recorded.episodes), 'episode')}")
        raise
    if not recorded.episodes:
        raise UserError("no episode was kept, so no file was written")
    recorded.write()
    return Dataset(recorded.episodes, recorded.task)


class _GrowingFile:
    """The episodes kept so far, and their file.

    The file is written after each episode, so that even a crash of the process loses nothing. If that takes long, as it
    does with many images, it is written less often.
    """

    def __init__(self, path: Path, task: TaskSpec) -> None:
        self.path, self.task, self.episodes = path, task, list[Episode]()
        self._took, self._ended = 0.0, time.monotonic()

    def add(self, episode: Episode) -> None:
        self.episodes.append(replace(episode, task=self.task))
        if time.monotonic() - self._ended >= SPARING * self._took:
            self.write()

    def write(self) -> None:
        begun = time.monotonic()
        save_demonstrations(self.path, self.episodes, self.task)
        self._ended = time.monotonic()
        self._took = self._ended - begun


class _Quit(BaseException):
    """The person quits. It is no `Exception`, so that it does not count as an error of the environment."""


class _PersonRecorder(Recorder):
    """Records the episodes of a person."""

    def __init__(
        self,
        make: Callable[[], Env],
        seed: int,
        success: SuccessRule | None,
        environment: CheckedEnvironment,
        window: Window,
        device: Device,
        episodes: int,
        pace: Pace,
    ) -> None:
        super().__init__(make, seed, success)
        self.environment = environment
        self._stopped: BaseException | None = None
        self._window, self._device, self._pace = window, device, pace
        self._kept, self._successes, self._wanted = 0, 0, episodes
        spec = TaskSpec.from_env(environment)
        self._task, self._names = spec.name, [name_actions(environment, row) for row in np.eye(spec.action_dim) > 0]

    def episodes(self, errors: EnvironmentErrors) -> Iterator[Episode]:
        """Yield the episodes that the person keeps. Raise `_Quit` when the person quits."""
        for index in count_up():
            shown = self(index)
            if isinstance(shown, Lost):
                shown.report(errors)
                continue
            errors.episode_ended()
            yield shown
            if self._stopped is not None:
                raise self._stopped

    def show(self, environment: CheckedEnvironment, index: int) -> Episode:
        while (episode := self._attempt(environment, index)) is None:
            pass
        self._kept, self._successes = self._kept + 1, self._successes + episode.is_success
        if self._pace.is_late:
            remark(
                f"episode {self._kept} ran at {self._pace.reached:.3g} Hz instead of {self._pace.rate:g} Hz: use "
                "smaller images, or give a lower --teleop-rate"
            )
        return episode

    def _attempt(self, environment: CheckedEnvironment, index: int) -> Episode | None:
        """Return the episode, or None if the person discards it."""
        take = Take(environment, self.seed_of(index))
        self._device.reset()
        self._pace.restart()
        self._is_running = self._is_marked = False
        self._action: NDArray[np.floating] = np.zeros(len(self._names))
        self._picture = picture_of(environment)
        try:
            while (command := self._pass(take)) is None:
                pass
        except (_Quit, KeyboardInterrupt) as stop:
            if not take.has_ended:
                raise
            self._stopped, command = stop, Command.KEEP  # the episode is whole
        return None if command is Command.DISCARD else take.finish(self._is_success(take))

    def _pass(self, take: Take) -> Command | None:
        """Make a step, unless the episode is paused or has ended. Return the command that ends the take, if any."""
        for command in self._window.listen(self._device):
            if command is Command.QUIT:
                raise _Quit
            if command is Command.DISCARD or (command is Command.KEEP and len(take)):
                return command
            self._is_running ^= command is Command.PAUSE
            self._is_marked ^= command is Command.SUCCESS
        moves = self._is_running and not take.has_ended
        if moves:
            self._action = self._device.act()
            take.step(self._action)
            self._picture = picture_of(take.environment)
        self._window.draw(self._picture, self._status(take))
        self._pace.wait(counts=moves)
        return None

    def _is_success(self, take: Take) -> bool:
        return take.is_success if take.environment.judges_success else self._is_marked

    def _phase(self, take: Take) -> Phase:
        if take.has_ended:
            return Phase.ENDED
        if self._is_running:
            return Phase.RECORDING
        return Phase.PAUSED if len(take) else Phase.READY

    def _status(self, take: Take) -> Status:
        return Status(
            task=self._task,
            episodes=self._wanted,
            kept=self._kept,
            successes=self._successes,
            names=self._names,
            labels=self._device.labels(),
            action=self._action,
            settings=self._device.settings(),
            hints=self._device.HINTS,
            steps=len(take),
            earned=take.earned,
            rate=self._pace.rate,
            reached=self._pace.reached,
            is_late=self._pace.is_late,
            phase=self._phase(take),
            is_success=self._is_success(take),
            is_judged=take.environment.judges_success,
        )


def _control_rate(environment: CheckedEnvironment) -> float:
    """Return the control rate of an environment in hertz, or the rate at which gymnasium shows it in real time."""
    rate = TaskSpec.from_env(environment).rate or environment.metadata.get("render_fps")
    if not rate:
        raise UserError("the environment does not say its control rate: give --teleop-rate, in steps per second")
    return float(rate)
