"""The control loop: a thread that sends an action at each deadline and waits for nothing else.

Three threads run while an episode does:

    control      sleeps until a deadline, reads the stop signal, and sends the action that the plan has for this step
    observation  records the step that was sent, and takes the next observation
    inference    asks the policy for the next chunk, from the newest observation
"""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softflow.boundary import as_flag
from softflow.data.recording import Recording
from softflow.robot.plan import Chunk, NoChunk, Plan, require_chunk
from softflow.robot.robot import Robot
from softflow.robot.settings import LoopSettings
from softflow.robot.stop_signal import StopSignal
from softflow.robot.timing import Timing
from softflow.robot.worker import Worker
from softflow.task import TaskSpec

Native = NDArray[np.floating]
Choose = Callable[[Mapping[str, Any], Native | None], Native]
"""An observation and the previous action (N,), None at the start of an episode -> a whole chunk (H, N)."""
Limit = Callable[[Native, Native | None], Native]
"""An action (N,) and the previous one -> the action within its limits."""

REHEARSALS = 5
"""Number of chunks that are computed before the first episode, to measure how long one takes."""
MARGIN = 1.5
"""How much longer than in these an observation and a chunk may take without being late."""
POLL = 0.001
"""Seconds between two looks at what another thread provides."""
FIRST_CHUNK = 60.0
"""Seconds that the first observation and chunk of an episode may take. The robot is at rest meanwhile."""


class Ending(NamedTuple):
    """How an episode ended."""

    steps: int
    is_success: bool


class _Seen(NamedTuple):
    """An observation."""

    observation: Mapping[str, Any]
    row: NDArray[Any]  # (O,)
    step: int  # the number of commands sent before it
    time: float


class _Sent(NamedTuple):
    """A command to record."""

    before: _Seen
    action: Native
    step: int  # the number of commands sent so far
    observe_at: float  # when to take the observation after it


class _Wanted(NamedTuple):
    """A chunk to compute."""

    seen: _Seen
    plan: Plan  # that of the episode, which may be over before the chunk is there
    is_awaited: bool  # whether the control thread waits for it


class ControlLoop:
    """Controls a robot by a policy, episode after episode.

    Args:
        robot: The robot. It is not closed.
        task: What the policy observes and does.
        choose: The policy, in this process or, with a `PolicyProcess`, in another one. It is called from the inference
            thread. `NoChunk` is treated like a late chunk, and so is an answer that is no chunk of finite numbers. Any
            other error stops the robot.
        settings: The settings.
        limit: Limits the change from each action to the next, also where chunks meet. None does not limit it.
        recording: Where to record every step. None records nothing.

    Attributes:
        stop: Stops the robot when it is set, from any thread.
        timing: How well deadlines are kept, over all episodes.

    Raises:
        TaskMismatch: The robot has another task.
    """

    def __init__(
        self,
        robot: Robot,
        task: TaskSpec,
        choose: Choose,
        settings: LoopSettings,
        limit: Limit | None = None,
        recording: Recording | None = None,
    ) -> None:
        if robot.task is not None:
            task.require_same(robot.task, "the robot has another task than the policy")
        self._robot, self._task, self._choose, self._settings = robot, task, choose, settings
        self._limit, self._recording = limit, recording
        self._ends = np.cumsum([part.size for part in task.action])[:-1]
        self._ahead = 0.5 / settings.rate if settings.observe_ahead is None else settings.observe_ahead
        self._lead = 0 if settings.synchronous else settings.lead
        self.stop, self.timing = StopSignal(), Timing(settings.rate)
        self._observer = Worker("observation or recording", self._observe, self.stop)
        self._thinker = Worker("the policy", self._think, self.stop)
        self._observing = 0.0  # how long the last observation took
        self._busy_since: float | None = None

    def run_episode(self) -> Ending:
        """Reset the robot and control it until the episode ends.

        Raises:
            Stopped: The robot was stopped: by the signal, by an error, or because it, its observations or the policy
                were late. The message says why.
            KeyboardInterrupt: Ctrl-C. The robot has been stopped.
        """
        self.stop.check()
        self._plan = Plan(self._settings.n_action_steps, self._settings.late)
        self._seen: _Seen | None = None
        self._last: Native | None = None
        self._steps = 0
        self._trouble = ""  # why there was no chunk
        is_over = threading.Event()  # not Thread.join: if ^C interrupts that, Python 3.11 takes the thread for ended
        try:
            self._reset()
            gc.freeze()  # a collection of all that was imported takes longer than a period
            threading.Thread(target=self._control, args=(is_over,), name="control", daemon=True).start()
            self._supervise(is_over)
        except KeyboardInterrupt:
            self.stop.set("interrupted")
            if not is_over.wait(self._settings.stall):  # it was not begun, or a command blocks it
                self._halt_robot()
            raise
        finally:
            gc.unfreeze()
        success = self._is_success()
        self.stop.check()
        if self._recording is not None and self._seen is not None:
            self._recording.end(self._seen.row, self._robot.has_ended() and success, success)
        return Ending(self._steps, success)

    def close(self) -> None:
        """End the threads."""
        self._observer.close()
        self._thinker.close()

    # ------------------------------------------------------------------------------------------------- main thread

    def _reset(self) -> None:
        try:
            self._robot.reset()
        except Exception as error:
            self.stop.fail("the robot's reset", error)

    def _is_success(self) -> bool:
        if self.stop.is_set():
            return False
        try:
            return as_flag("is_success", self._robot.is_success())
        except Exception as error:
            self.stop.fail("the robot's is_success", error)
            return False

    def _supervise(self, is_over: threading.Event) -> None:
        """Wait for the end of the control thread. If a command blocks it, stop the robot from here."""
        while not is_over.wait(0.02):
            busy_since = self._busy_since
            if busy_since is not None and time.perf_counter() - busy_since > self._settings.stall:
                self.stop.set(f"a command has not returned for {self._settings.stall:g} s")
                self._halt_robot()
                return

    # ---------------------------------------------------------------------------------------------- control thread

    def _control(self, is_over: threading.Event) -> None:
        try:
            self._execute()
        except BaseException as error:  # of the robot
            self.stop.fail("the control loop", error)
        finally:
            self._halt_robot()
            is_over.set()

    def _halt_robot(self) -> None:
        try:
            self._robot.stop()
        except BaseException as error:
            self.stop.fail("stopping the robot", error)

    def _execute(self) -> None:
        """Send the actions of one episode."""
        self._observer.submit(None)
        if not (self._wait_for_observation(FIRST_CHUNK) and self._rehearse() and self._next_chunk(FIRST_CHUNK)):
            return
        period, late = 1 / self._settings.rate, 0
        due = time.perf_counter()
        for step in range(self._settings.max_steps):
            needs_chunk = self._settings.synchronous and step >= self._plan.until
            if needs_chunk and not self._next_chunk(self._settings.patience):
                return
            if self.stop.wait(due - time.perf_counter()):
                return
            if self._robot.is_stopped():
                return self.stop.set("its own emergency stop is pressed")
            move = self._plan.move(step, self._observer.waiting() > self._settings.stall + period)
            if move is None:
                return self.stop.set(self._why_late(f"at step {step}"))
            late = late + 1 if move.is_late else 0
            if late * period > self._settings.patience:
                return self.stop.set(self._why_late(f"for {self._settings.patience:g} s, at step {step}"))
            action = move.action if self._limit is None else self._limit(move.action, self._last)
            sent = time.perf_counter()
            self._command(action)
            self.timing.add(move, due, sent)
            assert self._seen is not None
            due = max(due + period, time.perf_counter())  # a late command is not made up for by earlier ones
            self._last, self._steps = action, step + 1
            self._observer.submit(_Sent(self._seen, action, step + 1, due - self._ahead))
            if self._robot.has_ended():
                break
        self._wait_for_observation(period + self._settings.stall)

    def _command(self, action: Native) -> None:
        named = dict(zip((part.name for part in self._task.action), np.split(action, self._ends), strict=True))
        self._busy_since = time.perf_counter()
        try:
            self._robot.command(named)
        finally:
            self._busy_since = None

    def _rehearse(self) -> bool:
        """Measure how long the policy takes, unless the lead is given. Return False if the robot was stopped."""
        if self._lead is not None:
            return True
        self._thinker.submit(None)
        return self._wait(lambda: self._lead is not None, "chunk", FIRST_CHUNK)

    def _next_chunk(self, patience: float) -> bool:
        """Wait for a chunk of the newest observation. Return False if the robot was stopped."""
        if self._plan.has_next:
            return True
        if not self._wait_for_observation(patience):
            return False
        assert self._seen is not None
        self._thinker.submit(_Wanted(self._seen, self._plan, True))
        return self._wait(lambda: self._plan.has_next, "chunk", patience)

    def _wait_for_observation(self, patience: float) -> bool:
        """Wait for the observation after the last command. Return False if the robot was stopped."""
        return self._wait(lambda: self._seen is not None and self._seen.step == self._steps, "observation", patience)

    def _wait(self, is_there: Callable[[], bool], what: str, patience: float) -> bool:
        """Wait until something is there, or the robot is stopped. The latter happens if it takes too long."""
        end = time.perf_counter() + patience
        while not is_there():
            if self.stop.wait(POLL):
                return False
            if time.perf_counter() > end:
                self.stop.set(f"no {what} for {patience:.3g} s")
                return False
        return not self.stop.is_set()

    def _why_late(self, when: str) -> str:
        if self._observer.waiting() > self._settings.stall:
            return f"no observation {when}"
        return f"no chunk in time {when}{self._trouble}"

    # ------------------------------------------------------------------------------------------------ other threads

    def _observe(self, sent: _Sent | None) -> None:
        """Record a step, and take the observation after it unless further steps have been sent already."""
        if sent is not None:
            if self._recording is not None:
                self._recording.step(sent.before.row, self._task.unit_actions(sent.action))
            self.stop.wait(sent.observe_at - time.perf_counter())
        if self._observer.unfinished > 1:
            return
        begun = time.perf_counter()
        observation = self._robot.observe()
        self._observing = time.perf_counter() - begun
        rows, is_batch = self._task.rows(observation)
        if is_batch:
            raise ValueError("observe returned a batch: return the parts of one observation, without a batch axis")
        seen = self._seen = _Seen(observation, rows[0], 0 if sent is None else sent.step, time.perf_counter())
        if sent is not None and self._is_time_to_think(sent.step):
            self._thinker.submit(_Wanted(seen, self._plan, False))

    def _is_time_to_think(self, step: int) -> bool:
        if self._settings.synchronous or self._thinker.unfinished or self._plan.has_next:
            return False
        assert self._lead is not None
        return step >= self._plan.until - self._lead

    def _think(self, wanted: _Wanted | None) -> None:
        """Compute a chunk, or rehearse it."""
        try:
            if wanted is None:
                return self._measure()
            seen = wanted.seen
            actions = require_chunk(self._choose(seen.observation, self._last), len(self._task.low))
            wanted.plan.deliver(Chunk(actions, seen.step, seen.time))
            self._trouble = ""
        except NoChunk as error:
            self._trouble = f": {error}"
            if wanted is None or wanted.is_awaited:
                self.stop.set(str(error), error)

    def _measure(self) -> None:
        """Set the lead so that an observation and its chunk are there in time."""
        assert self._seen is not None
        took, rate = [], self._settings.rate
        for _ in range(REHEARSALS):
            begun = time.perf_counter()
            chunk = require_chunk(self._choose(self._seen.observation, None), len(self._task.low))
            took.append(time.perf_counter() - begun)
        longest = self._observing + max(took[1:])  # the first one loads libraries
        lead = max(math.ceil((MARGIN * longest - self._ahead) * rate), 0)
        if lead >= len(chunk):
            raise ValueError(
                f"an observation and its chunk take {longest:.3g} s, and {len(chunk)} actions {len(chunk) / rate:.3g} "
                "s: lower the rate, or train with a longer horizon"
            )
        self._lead = lead
