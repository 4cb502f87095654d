"""An environment that runs in one thread, whichever threads use it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import gymnasium

CLOSING = 2.0
"""Seconds that closing may take."""


class OneThread(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Runs an environment in a thread of its own, because an OpenGL context works only in the thread that made it.

    The thread is a daemon: a step that never returns does not keep the process alive.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="environment", daemon=True).start()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._call(partial(self.env.reset, seed=seed, options=options)).result()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self._call(partial(self.env.step, action)).result()

    def render(self) -> Any:
        return self._call(self.env.render).result()

    def close(self) -> None:
        """Close the environment, unless it is in a call that does not return."""
        with suppress(TimeoutError):
            self._call(self.env.close).result(CLOSING)

    def _call(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, function))
        return future

    def _run(self) -> None:
        while True:
            future, function = self._calls.get()
            try:
                future.set_result(function())
            except BaseException as error:  # also SystemExit: whoever called gets it
                future.set_exception(error)
