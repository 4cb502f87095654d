"""Errors of environments: their description in one line, and whether the run continues without the episode."""

from __future__ import annotations

import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Literal, NamedTuple

from softflow.boundary import MalformedFlag, MalformedStep
from softflow.errors import EpisodeLost, UserError, one_line, place_of

OnEnvError = Literal["stop", "restart"]
LONGEST_ERROR = 200
"""Maximum length in characters of an environment's error message, to leave room for the rest of the line."""
ERRORS_IN_A_ROW = 10
"""Number of errors without a complete episode in between that stops a run, even if it drops episodes with errors."""


class EnvironmentFailed(UserError):
    """An error of an environment stops the run. The message names the environment, episode, step and error."""


@dataclass(frozen=True)
class Failure:
    """The reason why an episode cannot continue, in a form that is sent between processes.

    Attributes:
        message: The reason in one line, with the place in the code.
        traceback: The traceback of the error. Empty if there is none, as for a process that died.
        is_error: Whether the environment failed. False if it works, but has lost its episode (`EpisodeLost`).
        recurs: Whether every other episode would fail as well.
    """

    message: str
    traceback: str = ""
    is_error: bool = True
    recurs: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an error, one of `ENVIRONMENT_ERRORS`, that an environment raised in `reset` or `step`."""
        if isinstance(error, EpisodeLost):
            return cls(one_line(error), is_error=False)
        if isinstance(error, MalformedStep):
            return cls(one_line(error), recurs=isinstance(error, MalformedFlag))
        details = "".join(traceback.format_exception(error))
        what = shorten(one_line(error), LONGEST_ERROR, placeholder=" ...")
        return cls(f"{type(error).__name__}: {what} ({place_of(error)})", details)


class Lost(NamedTuple):
    """Takes the place of a recorded episode that was lost.

    Attributes:
        place: Where it was lost, such as "step 7 of the demonstration with seed 3".
        failure: The reason.
    """

    place: str
    failure: Failure

    @classmethod
    def of(cls, error: BaseException, place: str) -> Lost:
        return cls(place, Failure.of(error))

    def report(self, errors: EnvironmentErrors) -> None:
        """Warn about a lost episode. Pass an error on to `errors`, which may raise `EnvironmentFailed`."""
        if self.failure.is_error:
            errors.add(self.place, self.failure)
        else:
            warnings.warn(f"an episode was given up in {self.place}: {self.failure.message}", stacklevel=2)


class EnvironmentErrors:
    """Handles the errors of environments.

    Args:
        on_error: "stop" stops the run at the first error. "restart" drops the episode and continues, unless there are
            `ERRORS_IN_A_ROW`.
        log: The file to which tracebacks are appended.

    Attributes:
        count: The number of errors so far.
    """

    def __init__(self, on_error: OnEnvError = "stop", log: Path | None = None) -> None:
        self.on_error, self.log, self.count = on_error, log, 0
        self._in_a_row = 0

    def add(self, what: str, failure: Failure) -> None:
        """Count and log an error, then stop the run or warn.

        Args:
            what: Where the error occurred, such as "environment 3, step 7".
            failure: The error.

        Raises:
            EnvironmentFailed: The run must stop.
        """
        self.count += 1
        self._in_a_row += 1
        message = f"{what}: {failure.message}"
        if self.log is not None and failure.traceback:
            with suppress(OSError), self.log.open("a", encoding="utf-8") as file:
                file.write(f"{what}\n{failure.traceback}\n")
            message += f"; traceback in {self.log}"
        if self.on_error == "stop":
            advice = "" if failure.recurs else "; use --on-env-error restart to drop the episode and continue"
            raise EnvironmentFailed(message + advice)
        if self._in_a_row >= ERRORS_IN_A_ROW:
            raise EnvironmentFailed(f"{self._in_a_row} errors without one good episode, the last in {message}")
        warnings.warn(f"an episode was dropped: {message}", stacklevel=2)

    def episode_ended(self) -> None:
        """Note that an episode ended without an error."""
        self._in_a_row = 0
