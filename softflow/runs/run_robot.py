"""A run's policy on a robot: episodes at a fixed rate, and a report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from softflow.console import remark
from softflow.data.recording import Recording
from softflow.errors import UserError
from softflow.policies.action_limits import StepLimits
from softflow.robot import ControlLoop, LoopSettings, Robot
from softflow.robot.control import Limit, Native
from softflow.robot.plan import Late, Proposal
from softflow.robot.policy_process import PolicyProcess
from softflow.runs.assembly import config_path_of, require_new_file
from softflow.runs.config import read_config
from softflow.runs.episode_files import EpisodeFiles
from softflow.runs.robots import control_rate, open_robot, recorded, require_robot, run_episodes, success_of
from softflow.runs.served_learner import is_of_learner, serve_learner, settings_of_learner
from softflow.runs.served_policy import Answer, Served, serve_policy
from softflow.runs.takeovers import SUPERVISOR, open_takeover
from softflow.task import TaskSpec
from softflow.training.config import EnvOptions
from softflow.training.evaluation import ROBOT_SEEDS
from softflow.training.random_state import seed_all
from softflow.training.spool import Spool


@dataclass
class RobotConfig:
    """Settings of episodes on a robot."""

    robot: str
    """Robot: `module:Class` for a class of your own, or the name of an environment, which is then simulated in real
    time."""
    robot_options: EnvOptions = field(default_factory=dict)
    """Arguments of the class, or of the environment beyond those of the run."""
    episodes: int = 10
    """Number of episodes."""
    rate: float | None = None
    """Control rate in hertz. By default, the rate of the policy's task, or that of the robot's task if the policy's is
    not known."""
    late: Late = "hold"
    """Reaction to a late chunk, or to observations that stop: `hold` the last action, `extend` the old chunk by the
    rest of its horizon and then hold, or `stop` the robot."""
    synchronous: bool = False
    """Whether to wait for each chunk before continuing. The control loop misses deadlines while it waits."""
    lead: int | None = None
    """Number of steps before the end of a chunk at which the computation of the next one starts. Higher values are
    safer against late chunks, but act on older observations. By default it is measured."""
    observe_ahead: float | None = None
    """Time in seconds before each deadline at which an observation starts. By default, half a control period."""
    seconds: float = 60.0
    """Maximum duration of an episode in seconds."""
    stall: float = 0.1
    """Time limit in seconds. An observation that takes longer counts as late, see `late`. A command that takes longer
    stops the robot, unless the clock is simulated."""
    patience: float = 1.0
    """Time in seconds without a new chunk after which the robot is stopped, whatever `late` is. A late last observation
    of an episode is waited for as long, with the robot at rest, unless `late` is `stop`."""
    out: str | None = None
    """Recording to write. It must not exist. With a learner's folder as RUN, it is a folder in which this robot keeps
    its episodes, one per file. softflow-train and softflow-data read both."""
    guard: str | None = None
    """Folder that softflow-guard wrote. The policy then acts behind this guard, and a person's actions stay within its
    limits."""
    takeover: str | None = None
    """Who may take over from the policy: a person with a device (`keyboard`, `gamepad`, a registered name or
    `module:Class`), or the `supervisor` of a simulated robot. By default nobody may."""
    takeover_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Arguments of the device or of the supervisor."""
    takeover_steps: int | None = None
    """Number of steps after which a supervisor returns control to the policy. By default it acts until the end of the
    episode."""
    clock: Literal["real", "simulated"] = "real"
    """Clock of a simulated robot. `real` runs in real time. With `simulated`, the simulation waits for each chunk and
    runs as fast as it can."""
    seed: int = ROBOT_SEEDS
    """Seed of the first episode of a simulated robot. The others use consecutive seeds. By default, they are
    neither those of training and its evaluations nor those of `softflow-eval`."""
    device: str = "cpu"
    """Device of the policy, in torch's notation: `cpu`, `cuda`, `cuda:1`."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"rate must be a positive number of hertz, got {self.rate:g}")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds must be a number above 0, got {self.seconds:g}")
        if self.takeover_steps is not None and (self.takeover != SUPERVISOR or self.takeover_steps < 1):
            raise ValueError(f"takeover_steps is at least 1, with takeover {SUPERVISOR}, got {self.takeover_steps}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in 0 ... 2^63 - 1, got {self.seed}")


class RobotSession:
    """Episodes of a run's policy on a robot.

    Args:
        run: Run folder, whose best policy acts, or a checkpoint's folder in it.
        config: The settings.

    Raises:
        UserError: The run, the robot, the guard or a setting is invalid, or the file to write exists.
    """

    def __init__(self, run: str, config: RobotConfig) -> None:
        if config.takeover is None and config.takeover_options:
            raise UserError("takeover_options are those of a device or a supervisor: give --takeover as well")
        if not Path(run).is_dir():
            raise UserError(
                f"{run}: no such run folder: give the folder of a run or, to learn while the robot works, the folder "
                "of softflow-train --robots, which must have started"
            )
        self._learner = Spool(run) if is_of_learner(run) else None
        if self._learner is not None:
            trained, learnt = settings_of_learner(run)
            _require_for_learner(run, learnt, config)
        else:
            trained = read_config(str(config_path_of(run)))
            if config.out is not None:
                require_new_file(Path(config.out), "--out")
        require_robot(config.robot)  # before the policy is loaded, which takes long
        self._run, self._config = trained.run, config
        serve = serve_policy if self._learner is None else serve_learner
        self._process = PolicyProcess(partial(serve, run, config.device, config.guard, config.seed))
        self._served: Served = self._process.description
        self._rate = self._served.task.rate if config.rate is None else config.rate
        try:
            if self._rate is not None:  # otherwise the robot may know it
                self._settings(self._rate)
        except UserError:  # before the robot is opened
            self._process.close()
            raise
        self._judged = Counter[str]()
        self._endings = list[bool]()
        self._loop: ControlLoop | None = None
        self._files: EpisodeFiles | None = None

    def episodes(self) -> None:
        """Run the episodes. The robot is stopped and closed at the end, and after any error.

        Raises:
            Stopped: The robot was stopped.
            UserError: The robot cannot be opened, or has another task.
        """
        config = self._config
        seed_all(config.seed)
        with closing(self._process), closing(self._opened()) as robot:
            task, limits = self._served.task, self._served.limits
            robot.require_task(task)
            self._rate = control_rate(config.rate, robot, task)
            executed, settings = replace(task, rate=self._rate), self._settings(self._rate)
            limit = None if limits is None else _limit(task, limits)
            takeover = config.takeover, config.takeover_options, config.takeover_steps
            with (
                open_takeover(*takeover, robot, executed, config.seed) as person,
                self._recorded(executed) as file,
                closing(ControlLoop(robot, task, self._choose, settings, limit, file, person)) as self._loop,
            ):
                if config.late == "stop":
                    self._process.when_ended(self._loop.stop.set)
                if self._served.choice is not None:
                    remark(self._served.choice)
                run_episodes(self._loop, config.episodes, self._endings)

    def report(self) -> dict[str, Any]:
        """Return the number of episodes that ended, their success with its 95 % interval, and the timing so far."""
        return {
            **success_of(self._endings),
            "rate": self._rate,
            "clock": self._config.clock,
            **({} if self._loop is None else self._loop.timing.summary()),
            **({} if self._served.limits is None else {"guard": dict(self._judged)}),
        }

    def _settings(self, rate: float) -> LoopSettings:
        config = self._config
        try:
            return LoopSettings(
                rate,
                self._served.n_action_steps,
                config.late,
                config.synchronous or config.clock == "simulated",
                config.lead,
                max(round(config.seconds * rate), 1),
                config.stall,
                config.observe_ahead,
                config.patience,
                real_time=config.clock == "real",
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    @contextmanager
    def _recorded(self, task: TaskSpec) -> Iterator[Recording | EpisodeFiles | None]:
        """Yield what records, and close it."""
        path = self._config.out
        if self._learner is None:
            with recorded(path, task) as recording:
                yield recording
            return
        assert path is not None, "a robot of a learner keeps its episodes"
        with closing(EpisodeFiles(path, self._learner, task)) as self._files:
            yield self._files

    def _opened(self) -> Robot:
        config, run = self._config, self._run
        options = {**(run.env_options if config.robot == run.env else {}), **config.robot_options}
        simulated = replace(run, env=config.robot, env_options=options)
        return open_robot(simulated, self._rate, config.seed, is_timed=config.clock == "real")

    def _choose(self, observation: Mapping[str, Any], previous: Native | None) -> Proposal:
        rows, _ = self._served.task.rows(observation)
        arm = () if self._files is None else (self._files.arm,)
        answer: Answer = self._process.ask(rows[0], previous, *arm)
        self._judged.update(chunks=1, **answer.judged)
        return answer.proposal


def _require_for_learner(folder: str, task: TaskSpec, config: RobotConfig) -> None:
    """Raise `UserError` if a learner cannot learn from a robot with these settings."""
    if config.out is None:
        raise UserError(
            f"{folder} is the folder of a learner: give --out FOLDER, in which this robot keeps its episodes"
        )
    if None not in (task.rate, config.rate) and not math.isclose(task.rate or 0, config.rate or 0, rel_tol=1e-3):
        raise UserError(
            f"{folder}: its learner learns at {task.rate:g} Hz, not at {config.rate:g} Hz: leave out --rate"
        )


def _limit(task: TaskSpec, limits: StepLimits) -> Limit:
    """Return a function that limits an action relative to the previous one, where the guard has seen only chunks."""

    def limit(action: Native, previous: Native | None) -> Native:
        before = None if previous is None else task.unit_actions(previous)
        return task.native_actions(limits.apply(task.unit_actions(action), before))

    return limit
