"""A person at the terminal, who starts episodes, ends them and judges them."""

from __future__ import annotations

import os
import select
import sys

from softflow.console import remark
from softflow.errors import UserError

ANSWERS = {"y": True, "n": False}


class Person:
    """Reads the lines that a person types at the terminal. What is asked goes to standard error.

    A line is read to its end and no further, so that a later one can be waited for.
    """

    def wait(self, request: str) -> None:
        """Print a request, and return when Enter is pressed. What was typed before is ignored.

        Raises:
            UserError: Standard input is closed.
        """
        while self.typed() is not None:
            pass
        remark(f"{request}, then press Enter")
        self._line()

    def judge(self, question: str) -> bool:
        """Ask a question until the answer is y or n.

        Raises:
            UserError: Standard input is closed.
        """
        while True:
            remark(f"{question} y or n, then Enter")
            if (answer := self._line()) in ANSWERS:
                return ANSWERS[answer]

    def typed(self) -> str | None:
        """Return a line that was typed meanwhile, or None at once if there is none.

        Raises:
            UserError: Standard input is closed.
        """
        ready, _, _ = select.select([sys.stdin], [], [], 0)
        return self._line() if ready else None

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            character = os.read(sys.stdin.fileno(), 1)
            if not character:
                raise UserError("this robot needs a person at the terminal, but standard input is closed")
            line += character
        return line.decode(errors="replace").strip().lower()
