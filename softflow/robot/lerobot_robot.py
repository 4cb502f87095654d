"""Any robot with LeRobot's interface, under the control of a policy."""

from __future__ import annotations

import importlib
import math
import pkgutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softflow.console import remark
from softflow.errors import UserError, did_you_mean, one_line
from softflow.robot.person import ANSWERS, Person
from softflow.robot.robot import LEROBOT, Action, Robot
from softflow.task import ObservationPart, TaskSpec

PREFIXES = ("observation.images.", "observation.")
"""What LeRobot's datasets put before the name of a camera or of a number."""
POSITION, VELOCITY = ".pos", ".vel"
"""How the names of position targets and of velocities end."""
HOME_RATE = 50.0
"""Commands per second on the way home."""
STOP_PATIENCE = 0.5
"""Seconds that `stop` waits for an observation or a command in progress."""
TOLERANCE = 1e-3
"""How much a number of an action may differ from what was sent without being called limited."""


class LeRobotRobot(Robot):
    """Maps the parts of a policy's task to the flat names of a `lerobot.robots.Robot`, each number by its name.

    A person at the terminal starts each episode, and may end it by typing y or n for a success or a failure. `stop`
    leaves position targets where they are, so that the motors hold the arm there, and sets velocities to zero. One
    observation or command at a time uses the robot, because its motors share a bus.

    Args:
        robot: A robot of LeRobot, or of a class with its interface. It is connected at the first reset.
        names: What the robot calls each number of a part, in the order of the part, or the camera of an image; by the
            name of the part. By default numbers have the names that the policy's demonstrations gave them, and a part
            of one number, or an image, has its own name, without LeRobot's prefixes.
        home: A target of each position by name, which is approached at the start of each episode. None leaves the robot
            where it is.
        home_seconds: How long the way home takes.

    Raises:
        UserError: `home` does not name the positions of the robot, or an action has neither a position nor a velocity.
    """

    def __init__(
        self,
        robot: Any,
        names: Mapping[str, str | list[str]] | None = None,
        home: Mapping[str, float] | None = None,
        home_seconds: float = 3.0,
    ) -> None:
        self._robot, self._names = robot, dict(names or {})
        self._home, self._home_seconds = home and {name: float(value) for name, value in home.items()}, home_seconds
        self._bus, self._person = threading.Lock(), Person()
        self._last: dict[str, float] | None = None
        self._is_success: bool | None = None
        self._has_ended = self._was_limited = False
        if unknown := [name for name in robot.action_features if not name.endswith((POSITION, VELOCITY))]:
            raise UserError(
                f"the robot's action {unknown[0]!r} is neither a position ({POSITION}) nor a velocity ({VELOCITY}), so "
                "how to stop it is not known: write a class of your own"
            )
        if home is not None:
            positions = [name for name in robot.action_features if name.endswith(POSITION)]
            _require_same_names("home", home, positions)
            if unseen := [name for name in home if name not in robot.observation_features]:
                raise UserError(f"home: the robot does not observe {unseen[0]!r}, so the way there is not known")

    # ---------------------------------------------------------------------------------------------------------- names

    def require_task(self, task: TaskSpec) -> None:
        """Find what the robot calls all parts of the task.

        Raises:
            UserError: A number, a camera or an action of the task is not the robot's, or the reverse.
        """
        parts = [part.name for part in task.observation] + [part.name for part in task.action]
        for name in self._names:
            if name not in parts:
                raise UserError(f"names: the policy has no part {name!r}: {did_you_mean(name, parts)}")
        shapes = {name: kind for name, kind in self._robot.observation_features.items() if isinstance(kind, tuple)}
        numbers = [name for name in self._robot.observation_features if name not in shapes]
        self._observed: dict[ObservationPart, list[str]] = {
            part: self._camera(part, shapes)
            if part.is_image
            else self._called("observation", part.name, math.prod(part.shape), numbers, part.names)
            for part in task.observation
        }
        actions = list(self._robot.action_features)
        self._commanded = {part.name: self._called("action", part.name, part.size, actions) for part in task.action}
        _require_same_names("the policy's action", (name for one in self._commanded.values() for name in one), actions)

    def _called(
        self, kind: str, part: str, size: int, known: list[str], recorded: tuple[str, ...] | None = None
    ) -> list[str]:
        """Return what the robot calls the numbers of a part. By default they have the names that were recorded."""
        default = _without_prefix(part) if recorded is None else list(recorded)
        called = self._names.get(part, default)
        names = [called] if isinstance(called, str) else called
        if len(names) != size:
            what = f"{len(names)} names" if part in self._names else "none of them has a name"
            raise UserError(
                f"{kind} {part!r} has {size} numbers, but {what}: give the robot's names in the order of the policy, "
                f"--robot-options.names '{{{part}: [...]}}', of {', '.join(known)}"
            )
        for name in names:
            if name not in known:
                raise UserError(f"{kind} {part!r}: the robot has no {name!r}: {did_you_mean(name, known)}")
        return names

    def _camera(self, part: ObservationPart, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return the name of the camera of an image."""
        camera = self._names.get(part.name, _without_prefix(part.name))
        if not isinstance(camera, str) or camera not in shapes:
            hint = did_you_mean(str(camera), shapes)
            raise UserError(f"observation {part.name!r}: the robot has no camera {camera!r}: {hint}")
        if shapes[camera] != part.packed.shape:
            raise UserError(
                f"observation {part.name!r}: the camera {camera!r} has images of shape {shapes[camera]}, the policy "
                f"{part.packed.shape}, as (height, width, channels)"
            )
        return [camera]

    # ------------------------------------------------------------------------------------------------------- episodes

    def reset(self) -> None:
        if not self._robot.is_connected:
            self._robot.connect()  # this may ask for a calibration
        self._has_ended, self._is_success, self._was_limited = False, None, False
        if self._home is not None:
            self._go_home(self._home)
        self._person.wait(
            "Set up the scene. In the episode, y or n and Enter ends it as a success or a failure; Ctrl-C stops the "
            "robot. Be ready"
        )

    def _go_home(self, home: Mapping[str, float]) -> None:
        """Approach the home pose in a straight line of the joints."""
        start = self._robot.get_observation()
        steps = max(round(self._home_seconds * HOME_RATE), 1)
        for share in np.linspace(0, 1, steps + 1)[1:]:
            target = {name: float(start[name] + share * (home[name] - start[name])) for name in home}
            self._send(target | {name: 0.0 for name in self._robot.action_features if name.endswith(VELOCITY)})
            time.sleep(1 / HOME_RATE)

    def observe(self) -> dict[str, Any]:
        with self._bus:
            given = self._robot.get_observation()
        for names in self._observed.values():
            for name in names:
                if name not in given:
                    raise ValueError(f"get_observation returned no {name!r}")
        return {
            part.name: part.unpack(np.array(given[names[0]])[None])[0]
            if part.is_image
            else np.array([given[name] for name in names]).reshape(part.shape)
            for part, names in self._observed.items()
        }

    def command(self, action: Action) -> None:
        self._send(
            {
                name: float(number)
                for part, names in self._commanded.items()
                for name, number in zip(names, action[part], strict=True)
            }
        )

    def posture(self) -> Action | None:
        """Return the observed positions, and velocities of zero. None if the robot does not observe a position."""
        moved = [name for names in self._commanded.values() for name in names if name.endswith(POSITION)]
        if not set(moved) <= set(self._robot.observation_features):
            return None
        with self._bus:
            seen = self._robot.get_observation()
        return {
            part: np.array([seen[name] if name in moved else 0.0 for name in names])
            for part, names in self._commanded.items()
        }

    def _send(self, wanted: dict[str, float]) -> None:
        with self._bus:
            self._last = wanted
            sent = self._robot.send_action(wanted)
        if ignored := [name for name in wanted if name not in sent]:
            raise ValueError(f"the robot takes {ignored[0]!r}, but send_action did not send it")
        limited = [name for name in wanted if abs(sent[name] - wanted[name]) > TOLERANCE * max(1, abs(wanted[name]))]
        if limited and not self._was_limited:
            self._was_limited = True
            name = limited[0]
            remark(
                f"the robot limits {name} from {wanted[name]:g} to {sent[name]:g}; a recording holds the former. This "
                "is said once in an episode"
            )

    def stop(self) -> None:
        """Send the last position targets again, and zero velocities."""
        if self._last is None:
            return
        if not self._bus.acquire(timeout=STOP_PATIENCE):
            raise RuntimeError("its last observation or command has not returned: cut the power if it moves")
        try:
            self._robot.send_action(
                {name: 0.0 if name.endswith(VELOCITY) else value for name, value in self._last.items()}
            )
        finally:
            self._bus.release()

    def has_ended(self) -> bool:
        if not self._has_ended and (typed := self._person.typed()) is not None:
            self._has_ended, self._is_success = True, ANSWERS.get(typed)
        return self._has_ended

    def is_success(self) -> bool:
        if self._is_success is None:
            self._is_success = self._person.judge("Was it a success?")
        return self._is_success

    def close(self) -> None:
        """Disconnect. Most arms of LeRobot then switch their torque off, and fall."""
        if self._robot.is_connected:
            self._robot.disconnect()


def open_lerobot(
    kind: str,
    /,
    names: Mapping[str, str | list[str]] | None = None,
    home: Mapping[str, float] | None = None,
    home_seconds: float = 3.0,
    **config: Any,
) -> LeRobotRobot:
    """Open a robot of LeRobot, or of an installed plugin of it, by its type. It is not connected yet.

    Args:
        kind: The type, such as "so101_follower".
        names: See `LeRobotRobot`, like the next two.
        config: The fields of the configuration of this type, such as `port`, `id` and `cameras`.

    Raises:
        UserError: lerobot is missing, it has no such type, or the configuration is not valid.
    """
    try:
        import draccus  # type: ignore[import-not-found]
        from lerobot import robots  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            f"the robot '{LEROBOT}{kind}' needs lerobot ({error}): pip install 'lerobot[hardware]'"
        ) from error
    _register(robots, kind)
    choices = robots.RobotConfig.get_known_choices()
    if kind not in choices:
        raise UserError(f"lerobot has no robot {kind!r}: {did_you_mean(kind, choices)}")
    try:
        made = draccus.decode(robots.RobotConfig, {"type": kind, **config})
    except Exception as error:  # a DecodingError of draccus, or what the configuration itself raises
        raise UserError(f"robot '{LEROBOT}{kind}': {one_line(error)}") from error
    return LeRobotRobot(robots.make_robot_from_config(made), names, home, home_seconds)


def _register(robots: Any, kind: str) -> None:
    """Import the modules that register the configurations of robots and cameras, and plugins if they are needed."""
    from lerobot import cameras

    for package in (cameras, robots):
        for module in pkgutil.iter_modules(package.__path__):
            if module.ispkg:
                try:
                    importlib.import_module(f"{package.__name__}.{module.name}")
                except ImportError:  # of another robot's driver; its type is then not among the choices
                    continue
    if kind not in robots.RobotConfig.get_known_choices():
        from lerobot.utils.import_utils import register_third_party_plugins  # type: ignore[import-not-found]

        register_third_party_plugins()


def _without_prefix(name: str) -> str:
    dotted = name.replace("/", ".")
    return next((dotted.removeprefix(prefix) for prefix in PREFIXES if dotted.startswith(prefix)), dotted)


def _require_same_names(what: str, given: Iterable[str], expected: Iterable[str]) -> None:
    counts, wanted = Counter(list(given)), list(expected)  # a list, because a mapping would be taken for counts
    for name, count in counts.items():
        if name not in wanted:
            raise UserError(f"{what} names {name!r}, which the robot does not take: {did_you_mean(name, wanted)}")
        if count > 1:
            raise UserError(f"{what} names {name!r} twice")
    for name in wanted:
        if name not in counts:
            raise UserError(f"{what} does not name {name!r}, which the robot takes")
