"""The control loop: a thread that sends an action at each deadline and waits for nothing else.

Three threads run while an episode does:

    control      sleeps until a deadline, reads the stop signal, asks whether a person acts, and sends the action of the
                 person or the one that the plan has for this step
    observation  records the step that was sent, and takes the next observation
    inference    asks the policy for the next chunk, from the newest observation
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.boundary import as_flag
from softflow.data.recording import Recorder
from softflow.robot.brake import Brake
from softflow.robot.lead import REHEARSALS, measured_lead
from softflow.robot.messages import Ending, Seen, Sent, Wanted, no_last_observation
from softflow.robot.plan import Chunk, Move, NoChunk, Plan, Proposal, require_chunk
from softflow.robot.robot import Robot, posture_of, send
from softflow.robot.settings import LoopSettings
from softflow.robot.stop_signal import StopSignal
from softflow.robot.takeover import Nobody, Takeover
from softflow.robot.timing import Timing
from softflow.robot.worker import Worker
from softflow.task import TaskSpec

Native = NDArray[np.floating]
Choose = Callable[[Mapping[str, Any], Native | None], Native | Proposal]
"""An observation and the previous action (N,), None at the start of an episode -> a whole chunk (H, N). A `Proposal`
also has the chunk before it was clipped, which is recorded."""
Limit = Callable[[Native, Native | None], Native]
"""An action (N,) and the previous one -> the action within its limits."""

FIRST_CHUNK = 60.0
"""Seconds that the first observation and chunk of an episode may take. The robot is at rest meanwhile."""


class ControlLoop:
    """Controls a robot by a policy, episode after episode.

    Args:
        robot: The robot. It is not closed.
        task: What the policy observes and does.
        choose: The policy, in this process or, with a `PolicyProcess`, in another one. It is called from the inference
            thread. `NoChunk` is treated like a late chunk, and so is an answer that is no chunk of finite numbers. Any
            other error stops the robot.
        settings: The settings.
        limit: Limits the change from the robot's posture to the first action, and from each action to the next.
        recording: Where to record every step. None records nothing.
        takeover: Who may take over from the policy. By default nobody.

    Attributes:
        stop: Stops the robot when it is set, from any thread.
        timing: How well deadlines are kept, over all episodes.

    Raises:
        UserError: The robot has another task.
    """

    def __init__(
        self,
        robot: Robot,
        task: TaskSpec,
        choose: Choose,
        settings: LoopSettings,
        limit: Limit | None = None,
        recording: Recorder | None = None,
        takeover: Takeover | None = None,
    ) -> None:
        robot.require_task(task)
        self._robot, self._task, self._choose, self._settings = robot, task, choose, settings
        self._limit, self._recording, self._takeover = limit, recording, takeover or Nobody()
        self._ends = np.cumsum([part.size for part in task.action])[:-1]
        self._ahead = 0.5 / settings.rate if settings.observe_ahead is None else settings.observe_ahead
        self._lead = 0 if settings.synchronous else settings.lead
        self.stop, self.timing = StopSignal(), Timing(settings.rate)
        self._brake = Brake(robot, self.stop, settings.patience)
        self._observer = Worker("observation or recording", self._observe, self.stop)
        self._thinker = Worker("the policy", self._think, self.stop)
        self._observing = 0.0  # how long the last observation took
        self._busy: tuple[float, str] | None = None

    def run_episode(self) -> Ending:
        """Reset the robot and control it until the episode ends.

        Raises:
            Stopped: By the signal, by an error, or because the robot, its observations or the policy were late.
            KeyboardInterrupt: Ctrl-C. The robot has been stopped; if it could not be, `Stopped` is raised.
        """
        self.stop.check()
        self._plan = Plan(self._settings.n_action_steps, self._settings.late)
        self._seen: Seen | None = None
        self._last: Native | None = None
        self._steps, self._human_acts, self._has_ended, self._has_sent_all = 0, False, False, False
        self._trouble = ""  # why there was no chunk
        is_over = threading.Event()  # not Thread.join: if ^C interrupts that, Python 3.11 takes the thread for ended
        try:
            self._attempt("the robot's reset", self._reset)
            self._attempt("the takeover's reset", self._takeover.reset)
            gc.freeze()  # a collection of all that was imported takes longer than a period
            threading.Thread(target=self._control, args=(is_over,), name="control", daemon=True).start()
            self._supervise(is_over)
        except KeyboardInterrupt:
            self.stop.set("interrupted")
            if not is_over.wait(self._settings.stall):  # it was not begun, or a command blocks it
                self._brake()
            self.stop.require_stopped()  # an interruption must not hide that it was not
            raise
        finally:
            gc.unfreeze()
        success = self._is_success()
        self.stop.check()
        if self._recording is not None and self._seen is not None:
            self._recording.end(self._seen.row, self._has_ended and success, success)
        return Ending(self._steps, success)

    def close(self) -> None:
        """End the threads."""
        self._observer.close()
        self._thinker.close()

    # ------------------------------------------------------------------------------------------------- main thread

    def _attempt(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self.stop.fail(what, error)

    def _reset(self) -> None:
        self._robot.reset()
        self._before = None if self._limit is None else posture_of(self._robot, self._task)

    def _is_success(self) -> bool:
        if self.stop.is_set():
            return False
        try:
            return as_flag("is_success", self._robot.is_success())
        except Exception as error:
            self.stop.fail("the robot's is_success", error)
            return False

    def _supervise(self, is_over: threading.Event) -> None:
        """Wait for the end of the control thread. If the robot or a person blocks it, stop the robot from here."""
        settings = self._settings
        while not is_over.wait(0.01):
            self._attempt("the takeover", lambda: self._takeover.look(self.stop))
            busy = self._busy
            if busy is not None and settings.real_time and time.perf_counter() - busy[0] > settings.stall:
                self.stop.set(f"{busy[1]} has not returned for {settings.stall:g} s")
                self._brake()
                return
            if settings.late == "stop" and self._steps and not self._has_sent_all and self._is_stalled():
                self.stop.set(self._why_late(f"at step {self._steps}"))

    # ---------------------------------------------------------------------------------------------- control thread

    def _control(self, is_over: threading.Event) -> None:
        try:
            self._execute()
        except BaseException as error:  # of the robot
            self.stop.fail("the control loop", error)
        finally:
            self._brake()
            self._wait_for_last_observation()
            is_over.set()

    def _execute(self) -> None:
        """Send the actions of one episode."""
        self._observer.submit(None)
        if not (self._wait_for_observation(FIRST_CHUNK) and self._rehearse() and self._next_chunk(FIRST_CHUNK)):
            return
        settings = self._settings
        period, late, due = 1 / settings.rate, 0, time.perf_counter()
        for step in range(settings.max_steps):
            if not self._is_ready(step):
                return
            if self.stop.wait(due - time.perf_counter()):
                return
            if self._robot.is_stopped():
                return self.stop.set(f"its own emergency stop is pressed, at step {step}")
            move = self._move(step, self._is_stalled())
            if move is None:
                return self.stop.set(self._why_late(f"at step {step}"))
            late = late + 1 if move.is_late else 0
            if late * period > settings.patience:
                return self.stop.set(self._why_late(f"for {settings.patience:g} s, at step {step}"))
            action = move.action if self._limit is None else self._limit(move.action, self._before)
            sent = time.perf_counter()
            self._command(action)
            self.timing.add(move, due if settings.real_time else sent, sent)
            assert self._seen is not None
            due += period if settings.real_time else 0.0
            due = max(due, time.perf_counter())  # a late command is not made up for by earlier ones
            self._last, self._before, self._steps = action, action, step + 1
            self._observer.submit(Sent(self._seen, action, move, step + 1, due - self._ahead))
            self._has_ended = self._robot.has_ended()
            if self._has_ended or self._takeover.has_ended():
                break
        self._has_sent_all = True
        self.stop.comes(self._has_seen_all, period + settings.stall)

    def _is_ready(self, step: int) -> bool:
        """Wait for the chunk or the observation that the step needs. Return False if the robot was stopped."""
        settings = self._settings
        if settings.synchronous and step >= self._plan.until and not self._human_acts:
            return self._next_chunk(settings.patience)
        return settings.real_time or self._wait_for_observation(settings.patience)

    def _move(self, step: int, is_stalled: bool) -> Move | None:
        """Return what to execute: the action of a person who has taken over, or what the plan has. None to stop."""
        self._busy = time.perf_counter(), "the takeover"
        try:
            action = self._takeover.act(self._last)
        finally:
            self._busy = None
        if action is not None:
            is_first, self._human_acts = not self._human_acts, True
            return Move(action, None, is_first, is_late=False, human=True)
        if self._human_acts:
            self._plan_anew()
        return self._plan.move(step, is_stalled)

    def _plan_anew(self) -> None:
        """Drop the chunks from before a takeover, and have one computed from the newest observation."""
        self._plan = Plan(self._settings.n_action_steps, self._settings.late, held=self._last)
        self._human_acts = False
        if self._settings.synchronous:
            self._next_chunk(self._settings.patience)
        elif self._seen is not None and self._seen.step == self._steps and not self._thinker.unfinished:
            self._thinker.submit(Wanted(self._seen, self._plan))

    def _command(self, action: Native) -> None:
        named = dict(zip((part.name for part in self._task.action), np.split(action, self._ends), strict=True))
        self._busy = time.perf_counter(), "a command"
        try:
            send(self._robot, named)
        finally:
            self._busy = None

    def _rehearse(self) -> bool:
        """Measure observations and chunks, unless the lead is given. Return False if the robot was stopped."""
        if self._lead is not None:
            return True
        took = list[float]()
        for _ in range(REHEARSALS - 1):  # after the first one, which was taken already
            self._observer.submit(None)
            if not self._wait(lambda: not self._observer.unfinished, "observation", FIRST_CHUNK):
                return False
            took.append(self._observing)
        self._thinker.submit(max(took))
        return self._wait(lambda: self._lead is not None, "chunk", FIRST_CHUNK)

    def _next_chunk(self, patience: float) -> bool:
        """Wait for a chunk of the newest observation. Return False if the robot was stopped."""
        if self._plan.has_next:
            return True
        if not self._wait_for_observation(patience):
            return False
        assert self._seen is not None
        self._thinker.submit(Wanted(self._seen, self._plan, is_awaited=True))
        return self._wait(lambda: self._plan.has_next, "chunk", patience)

    def _wait_for_observation(self, patience: float) -> bool:
        """Wait for the observation after the last command. Return False if the robot was stopped."""
        return self._wait(self._has_seen_all, "observation", patience)

    def _wait_for_last_observation(self) -> None:
        """Wait for the last observation of an episode that has ended. If it was late, the robot is at rest already."""
        settings = self._settings
        patience = 0.0 if settings.late == "stop" else settings.patience
        if self._has_sent_all and not self.stop.comes(self._has_seen_all, patience):
            waited = 1 / settings.rate + settings.stall + patience
            unrecorded = max(self._observer.unfinished - 1, 0)  # a step is recorded before its observation begins
            recorded = None if self._recording is None else self._steps - unrecorded
            self.stop.set(no_last_observation(waited, self._steps, recorded))

    def _has_seen_all(self) -> bool:
        return self._seen is not None and self._seen.step == self._steps

    def _wait(self, is_there: Callable[[], bool], what: str, patience: float) -> bool:
        """Wait until something is there, or the robot is stopped. The latter happens if it takes too long."""
        if self.stop.comes(is_there, patience):
            return True
        self.stop.set(f"no {what} for {patience:.3g} s")  # without effect if it was stopped
        return False

    def _is_stalled(self) -> bool:
        """Return whether an observation is overdue."""
        return self._observer.waiting() > self._settings.stall + 1 / self._settings.rate

    def _why_late(self, when: str) -> str:
        if self._observer.waiting() > self._settings.stall:
            return f"no observation {when}: let `observe` return the newest data, or set a longer `stall`"
        return f"no chunk in time {when}{self._trouble}"

    # ------------------------------------------------------------------------------------------------ other threads

    def _observe(self, sent: Sent | None) -> None:
        """Record a step, and take the observation after it unless further steps have been sent already."""
        if sent is not None:
            if self._recording is not None:
                sent.record(self._recording, self._task, is_limited=self._limit is not None)
            self.stop.wait(sent.observe_at - time.perf_counter())
        if self._observer.unfinished > 1:
            return
        begun = time.perf_counter()
        observation = self._robot.observe()
        self._observing = time.perf_counter() - begun
        rows, is_batch = self._task.rows(observation)
        if is_batch:
            raise ValueError("observe returned a batch: return the parts of one observation, without a batch axis")
        seen = self._seen = Seen(observation, rows[0], 0 if sent is None else sent.step, time.perf_counter())
        if sent is not None and self._is_time_to_think(sent.step):
            self._thinker.submit(Wanted(seen, self._plan))

    def _is_time_to_think(self, step: int) -> bool:
        if self._human_acts or self._settings.synchronous or self._thinker.unfinished or self._plan.has_next:
            return False
        assert self._lead is not None
        return step >= self._plan.until - self._lead

    def _think(self, wanted: Wanted | float) -> None:
        """Compute a chunk, or rehearse it with the time that an observation takes."""
        try:
            if isinstance(wanted, float):
                assert self._seen is not None
                self._lead = measured_lead(partial(self._propose, self._seen), wanted, self._settings.rate, self._ahead)
                return
            seen = wanted.seen
            actions, drawn = self._propose(seen)
            wanted.plan.deliver(Chunk(actions, seen.step, seen.time, drawn))
            self._trouble = ""
        except NoChunk as error:
            self._trouble = f": {error}"
            if isinstance(wanted, float) or wanted.is_awaited:
                self.stop.set(str(error), error)

    def _propose(self, seen: Seen) -> Proposal:
        return require_chunk(self._choose(seen.observation, self._last), len(self._task.low))
