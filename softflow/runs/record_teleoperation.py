"""Recording of demonstrations by a person, who moves a device and watches a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softflow.console import remark
from softflow.data import Dataset, Episode, save_demonstrations
from softflow.envs import name_actions
from softflow.envs.registry import Env, options_checked
from softflow.errors import UserError
from softflow.runs.recorder import Recorder, Take
from softflow.runs.video import picture_of
from softflow.task import TaskSpec
from softflow.teleop import Command, Device, find_device
from softflow.teleop.pace import Pace
from softflow.teleop.status import Phase, Status
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.failures import EnvironmentErrors, Lost
from softflow.training.global_state import environments_turn
from softflow.training.progress import StageProgress
from softflow.training.success import SuccessRule

if TYPE_CHECKING:
    from softflow.teleop.window import Window


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

    The file is written after every episode, so that nothing is lost if the recording is interrupted.

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
    errors, recorded, index = errors or EnvironmentErrors(), list[Episode](), 0
    Window = _window_class()
    find_device(device)
    with environments_turn():
        environment = CheckedEnvironment(make(), success)
    rate = _control_rate(environment) if rate is None else rate
    with (
        Window(f"softflow-demo: {TaskSpec.from_env(environment).name}") as window,
        StageProgress("demonstrations", episodes) as bar,
    ):
        moved = _make_device(device, replace(TaskSpec.from_env(environment), rate=rate), options or {})
        recorder = _PersonRecorder(make, seed, success, environment, window, moved, episodes, Pace(rate))
        task = recorder.task_of(environment)
        try:
            while len(recorded) < episodes and recorder.stopped is None:
                shown = recorder(index)
                index += 1
                if isinstance(shown, Lost):
                    shown.report(errors)
                    continue
                recorded.append(replace(shown, task=task))
                save_demonstrations(path, recorded, task)
                errors.episode_ended()
                bar.update(1, success=float(np.mean([episode.is_success for episode in recorded])))
            if recorder.stopped is not None:
                raise recorder.stopped
        except _Quit:
            pass
        except BaseException:
            if recorded:
                remark(f"{path} holds the {len(recorded)} episodes that were kept")
            raise
    if not recorded:
        raise UserError("no episode was kept, so no file was written")
    return Dataset(recorded, task)


class _Quit(BaseException):
    """The person quits. It is no `Exception`, so that it does not count as an error of the environment."""


class _PersonRecorder(Recorder):
    """Records the episodes of a person.

    Attributes:
        stopped: What ends the recording after the latest episode: the person, or an interrupt. None if it goes on.
    """

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
        self.stopped: BaseException | None = None
        self._window, self._device, self._pace = window, device, pace
        self._kept, self._successes, self._episodes = 0, 0, episodes
        spec = TaskSpec.from_env(environment)
        self._task, self._names = spec.name, [name_actions(environment, row) for row in np.eye(spec.action_dim) > 0]

    def show(self, environment: CheckedEnvironment, index: int) -> Episode:
        while (episode := self._attempt(environment, index)) is None:
            pass
        self._kept, self._successes = self._kept + 1, self._successes + episode.is_success
        if self._pace.is_late:
            remark(
                f"episode {self._kept} ran at {self._pace.reached:.3g} Hz instead of {self._pace.rate:g} Hz: let the "
                "environment render smaller pictures, or give a lower --teleop-rate"
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
            self.stopped, command = stop, Command.KEEP  # the episode is whole
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
            episodes=self._episodes,
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


def _window_class() -> type[Window]:
    try:
        from softflow.teleop.window import Window
    except ModuleNotFoundError as error:
        raise UserError("teleoperation needs pygame: pip install 'softflow[teleop]'") from error
    return Window


def _make_device(name: str, task: TaskSpec, options: Mapping[str, Any]) -> Device:
    constructor = find_device(name)
    with options_checked(f"the device {name!r}", constructor, options):
        return constructor(task, **options)
