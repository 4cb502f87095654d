"""Environments spread over processes: what they answer as a vector environment, and how their processes end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from softflow.errors import UserError
from softflow.training import processes
from softflow.training.failures import Failure
from softflow.training.processes import ProcessVectorEnv
from softflow.training.vector import closing


class Here(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observation (1,): the process that it runs in. A step does `act_at_home` in the process `home`, or
    `act_elsewhere` in another."""

    observation_space = gymnasium.spaces.Box(0, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, home: int, act_at_home: Any = None, act_elsewhere: Any = None) -> None:
        self.act = act_at_home if home == os.getpid() else act_elsewhere

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.array([os.getpid()], float), {}

    def step(self, action: np.ndarray) -> Any:
        if self.act is not None:
            self.act()
        return np.array([os.getpid()], float), 0.0, False, False, {}


def fail() -> None:
    raise ZeroDivisionError("a bug")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def wait() -> None:
    signal.pause()


def started(number: int, processes: int, time_limit: float | None = None, **acts: Any) -> ProcessVectorEnv:
    environments = ProcessVectorEnv([partial(Here, os.getpid(), **acts)] * number, processes, time_limit)
    environments.reset()
    return environments


ACTIONS = np.zeros((2, 1), np.float32)


def test_each_process_runs_its_share_and_this_one_the_last() -> None:
    with closing(started(5, 2)) as environments:
        where, *_ = environments.step(np.zeros((5, 1), np.float32))
        [other] = multiprocessing.active_children()
        assert where[:, 0].tolist() == [other.pid] * 3 + [os.getpid()] * 2
    assert not multiprocessing.active_children()


def test_a_method_is_called_in_every_process(restorable: Any) -> None:
    with closing(ProcessVectorEnv([restorable] * 3, 2)) as environments:
        environments.reset(seed=5)
        environments.step(np.zeros((3, 1), np.float32))
        states = environments.call("get_state")
    assert [(int(state["seed"]), int(state["steps"])) for state in states] == [(5, 1), (6, 1), (7, 1)]


NEVER_CLOSED = """
import os, signal
import gymnasium
from softflow.training.processes import ProcessVectorEnv

environments = ProcessVectorEnv([lambda: gymnasium.make("Pendulum-v1")] * 2, 2)
environments.reset(seed=0)
os.kill(environments._workers[0].process.pid, signal.SIGTERM)  # as a scheduler does that signals all processes of a job
environments.reset(seed=0)
"""


def test_who_forgets_to_close_them_ends_all_the_same() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", NEVER_CLOSED], cwd=root, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_it_is_the_vector_environment_that_gymnasium_makes(counting: Any) -> None:
    """Resets of all and of some, with one seed or a list; rewards, ends and what the environments say."""
    make = [partial(counting, lambda seed: 1 + seed % 3, lambda seed: seed % 2 > 0)] * 5
    disabled = {"autoreset_mode": AutoresetMode.DISABLED}
    with closing(SyncVectorEnv(make, **disabled)) as one, closing(ProcessVectorEnv(make, 3)) as many:
        assert many.metadata["autoreset_mode"] == AutoresetMode.DISABLED
        assert (many.observation_space, many.action_space) == (one.observation_space, one.action_space)
        for environments in (one, many):
            assert environments.reset(seed=2)[0][:, 0].tolist() == [2, 3, 4, 5, 6]
            environments.reset(seed=[4, 3, 0, 1, 8])
        actions = np.zeros((5, 1), np.float32)
        for ours, theirs in zip(one.step(actions), many.step(actions), strict=True):
            np.testing.assert_equal(theirs, ours)
        mask = np.array([False, False, True, True, False])
        seeds = [None, None, 5, 7, None]
        again = (each.reset(seed=seeds, options={"reset_mask": mask}) for each in (one, many))
        for ours, theirs in zip(*again, strict=True):
            np.testing.assert_equal(theirs, ours)


def failures(environments: ProcessVectorEnv) -> list[Failure | None]:
    """What the environments say in a step."""
    infos = environments.step(np.zeros((environments.num_envs, 1), np.float32))[-1]
    return list(infos.get("failure", [None] * environments.num_envs))


def test_an_error_in_another_process_costs_the_episodes_of_that_process() -> None:
    with closing(started(5, 2, act_elsewhere=fail)) as environments:
        error, *others, well, also_well = failures(environments)
        assert error.is_error and "ZeroDivisionError: a bug (test_processes.py:" in error.message
        assert "in fail" in error.traceback
        for other in others:
            assert not other.is_error and "shared with environment 0" in other.message
        assert well is also_well is None
        environments.reset(seed=1)
        assert len(multiprocessing.active_children()) == 1


def test_a_process_that_dies_is_replaced() -> None:
    with closing(started(2, 2, act_elsewhere=die)) as environments:
        for _ in range(2):
            dead, well = failures(environments)
            assert dead.is_error and "ended (exit status -9)" in dead.message and well is None
            assert environments.call("close") == (None, None)  # those of the new process can be called
            where, infos = environments.reset()
            assert where[0, 0] != where[1, 0] and not infos
    assert not multiprocessing.active_children()


def test_one_that_dies_between_two_calls_is_noticed() -> None:
    with closing(started(2, 2)) as environments:
        [process] = multiprocessing.active_children()
        process.kill()
        process.join()
        dead, well = failures(environments)
        assert dead.is_error and well is None


def test_what_hangs_is_ended_and_named() -> None:
    """With a time limit no environment is in this process, where nothing could end it."""
    with closing(started(3, 2, act_at_home=fail, act_elsewhere=wait, time_limit=0.2)) as environments:
        assert len(multiprocessing.active_children()) == 2
        first, second, third = failures(environments)
        assert first.is_error and third.is_error and "within the time limit of 0.2 s" in first.message
        assert not second.is_error and "environment 0" in second.message
        where, _ = environments.reset()
        assert len(set(where[:, 0])) == 2 and os.getpid() not in where[:, 0]
    assert not multiprocessing.active_children()


def refuse() -> None:
    raise UserError("leave the option out")


def test_input_that_is_refused_elsewhere_is_refused_here() -> None:
    with pytest.raises(UserError, match=r"^leave the option out$"):
        with closing(started(2, 2, act_elsewhere=refuse)) as environments:
            environments.step(ACTIONS)


def test_processes_end_in_the_middle_of_a_step() -> None:
    """As when ^C comes while each of them simulates."""
    with pytest.raises(KeyboardInterrupt):
        with closing(started(2, 2, act_at_home=interrupt, act_elsewhere=wait)) as environments:
            environments.step(ACTIONS)
    assert not multiprocessing.active_children()


def test_processes_end_with_the_one_that_started_them() -> None:
    """Killed, so that it cannot tell them; each inherits an end of the pipe, which closes with the last of them."""

    def orphan() -> None:
        started(3, 3)
        theirs.send("started")
        die()

    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=orphan)
    process.start()
    theirs.close()
    assert ours.recv() == "started"
    process.join()
    assert ours.poll(10)
    with pytest.raises(EOFError):
        ours.recv()


def end_a_program() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; print(flush=True); signal.pause()"], stdout=-1)
    assert child.stdout is not None
    with child.stdout as ready:
        ready.readline()
        child.terminate()
        assert child.wait(timeout=30) == -signal.SIGTERM


def end_a_fork() -> None:
    ready, started = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(started, b"!")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    os.kill(pid, signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM


@pytest.mark.parametrize("end", [end_a_program, end_a_fork])
def test_what_an_environment_starts_can_be_terminated(end: Any) -> None:
    with closing(started(2, 2, act_elsewhere=end)) as environments:
        assert failures(environments) == [None, None]


def test_environments_that_do_not_close_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Here):
        def close(self) -> None:
            if os.getpid() != home:
                signal.pause()

    home = os.getpid()
    monkeypatch.setattr(processes, "CLOSING", 0.2)
    with pytest.warns(UserWarning, match="did not close within 0.2 s"):
        with closing(ProcessVectorEnv([partial(Endless, home)] * 2, 2)):
            pass
    assert not multiprocessing.active_children()


def leave() -> None:
    sys.exit(0)


def test_exit_elsewhere_is_an_error() -> None:
    with closing(started(2, 2, act_elsewhere=leave)) as environments:
        error, well = failures(environments)
        assert error.is_error and "SystemExit: 0 (test_processes.py:" in error.message and well is None


def test_environments_with_other_spaces_are_refused() -> None:
    class Other(Here):
        def __init__(self, home: int) -> None:
            super().__init__(home)
            if home != os.getpid():
                self.observation_space = gymnasium.spaces.Box(0, np.inf, (2,), np.float64)

    with pytest.raises(UserError, match=r"must have the same spaces, got .*Box\(0.0, inf, \(2,\), float64\)"):
        with closing(ProcessVectorEnv([partial(Other, os.getpid())] * 2, 2)) as environments:
            environments.reset()
