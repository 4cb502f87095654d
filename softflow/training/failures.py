"""What went wrong in an environment, in one line, and whether the run goes on without the episode."""

from __future__ import annotations

import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Literal, NamedTuple

from softflow.boundary import MalformedStep
from softflow.errors import EpisodeLost, UserError, one_line, place_of

OnEnvError = Literal["stop", "restart"]
LONGEST_ERROR = 200
"""Characters kept of what an environment raised: the line says more than that."""
ERRORS_IN_A_ROW = 10
"""So many errors without one episode that ends as it should stop a run that would drop them."""


class EnvironmentFailed(UserError):
    """An environment misbehaved, and the run stops. Says which, in which episode and step, and what it raised."""


@dataclass(frozen=True)
class Failure:
    """Why an episode cannot go on. It crosses from the process of an environment as it is.

    Attributes:
        message: one line, with the place in the code.
        traceback: of the error; empty where there is none, of a process that died.
        is_error: False if the episode alone is lost (`EpisodeLost`) and its environment is in order.
    """

    message: str
    traceback: str = ""
    is_error: bool = True

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What an environment raised in `reset` or `step`, one of `ENVIRONMENT_ERRORS`."""
        if isinstance(error, EpisodeLost):
            return cls(one_line(error), is_error=False)
        if isinstance(error, MalformedStep):
            return cls(one_line(error))
        details = "".join(traceback.format_exception(error))
        what = shorten(one_line(error), LONGEST_ERROR, placeholder=" ...")
        return cls(f"{type(error).__name__}: {what} ({place_of(error)})", details)


class Lost(NamedTuple):
    """Takes the place of a recorded episode that came to nothing.

    Attributes:
        place: such as "step 7 of the demonstration with seed 3".
        failure: what happened there.
    """

    place: str
    failure: Failure

    @classmethod
    def of(cls, error: BaseException, place: str) -> Lost:
        return cls(place, Failure.of(error))

    def report(self, errors: EnvironmentErrors) -> None:
        """Warn, or raise `EnvironmentFailed`, as `errors` says."""
        if self.failure.is_error:
            errors.add(self.place, self.failure)
        else:
            warnings.warn(f"an episode was given up in {self.place}: {self.failure.message}", stacklevel=2)


class EnvironmentErrors:
    """What is done about the errors of environments.

    Args:
        on_error: "stop" at the first; "restart" drops its episode and goes on, up to `ERRORS_IN_A_ROW`.
        log: file to which tracebacks are appended.

    Attributes:
        count: errors so far.
    """

    def __init__(self, on_error: OnEnvError = "stop", log: Path | None = None) -> None:
        self.on_error, self.log, self.count = on_error, log, 0
        self._in_a_row = 0

    def add(self, what: str, failure: Failure) -> None:
        """`what` failed, such as "environment 3 in step 7".

        Raises:
            EnvironmentFailed: unless the run is to go on.
        """
        self.count += 1
        self._in_a_row += 1
        message = f"{what}: {failure.message}"
        if self.log is not None and failure.traceback:
            with suppress(OSError), self.log.open("a", encoding="utf-8") as file:
                file.write(f"{what}\n{failure.traceback}\n")
            message += f"; traceback in {self.log}"
        if self.on_error == "stop":
            raise EnvironmentFailed(f"{message}; --on-env-error restart would drop the episode and go on")
        if self._in_a_row >= ERRORS_IN_A_ROW:
            raise EnvironmentFailed(f"{self._in_a_row} errors without one good episode, the last in {message}")
        warnings.warn(f"an episode was dropped: {message}", stacklevel=2)

    def episode_ended(self) -> None:
        """An episode has come to its end as it should."""
        self._in_a_row = 0
