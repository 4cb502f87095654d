"""Errors that a user can fix, errors that only cost an episode, and helpers for one-line messages and hints."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from traceback import extract_tb

LONGEST_MESSAGE = 600
"""Maximum length of the message that `one_line` returns, in characters: a message may quote a bad file at length."""


class UserError(ValueError):
    """Bad input. The message says in one line what is wrong and what to do.

    The commands print it without a traceback and exit with status 2.
    """


class EpisodeLost(RuntimeError):
    """Raised by a working environment whose episode cannot continue, for instance because the physics diverged.

    The episode is dropped and the next one starts, whereas any other error of an environment stops the run.
    """


class RemoteError(RuntimeError):
    """An error that another process raised. The message is that of `described`."""


class NotFinite(ValueError):
    """A number of observations is not finite.

    Args:
        message: Which number it is.
        row: The observation among those that were given.
    """

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """Return the valid word most similar to `word`, or None if none is similar.

    Dotted words with the same parent are compared without it, since a shared `imitation.` does not make two words
    similar. `updates` matches `imitation.updates`.
    """
    words = sorted(valid)
    parent = word[: word.rfind(".") + 1]
    siblings = [w.removeprefix(parent) for w in words if w.startswith(parent)]
    if match := get_close_matches(word.removeprefix(parent), siblings, n=1):
        return parent + match[0]
    others = [w for w in words if not w.startswith(parent)]
    matches = get_close_matches(word, others, n=1) or [w for w in words if w.endswith(f".{word}")]
    return matches[0] if matches else None


def did_you_mean(word: str, valid: Iterable[str], neighbours: Iterable[str] | None = None) -> str:
    """Return `"did you mean 'x'?"`, or `"valid: x, y, z"` if no valid word is similar.

    Args:
        word: The word given.
        valid: The valid words.
        neighbours: The words to list if none is similar; all valid words by default.
    """
    words = list(valid)
    match = nearest(word, words)
    if match is not None:
        return f"did you mean {match!r}?"
    return f"valid: {', '.join(sorted(words if neighbours is None else neighbours)) or 'none'}"


def import_hint(module: str, error: BaseException) -> str:
    """Return `": "` and what to do so that a module can be imported; an empty text if nothing is known to help.

    Args:
        module: The name of the module that a user gave.
        error: The error of its import.
    """
    if not isinstance(error, ModuleNotFoundError):
        return ""
    missing = error.name
    if missing and not f"{module}.".startswith(f"{missing}."):
        return f": is {missing!r} installed?"  # the module itself exists; one of its imports is missing
    if module.endswith(".py"):
        return f": name it {module.removesuffix('.py')!r}, without the .py"
    package = module.partition(".")[0]
    if Path(package).is_dir() or Path(f"{package}.py").is_file():
        return ": it is in the current folder, which Python does not search: set PYTHONPATH=."
    return ": is it installed, or its folder in PYTHONPATH?"


def import_error(error: BaseException) -> str:
    """Return an error of an import with the statement that raised it: `TypeError('...') at my_arm.py:12`."""
    places = [place for place in extract_tb(error.__traceback__) if place.name == "<module>"]
    if not places or isinstance(error, ModuleNotFoundError | SyntaxError):  # these name the module or the place
        return repr(error)
    return f"{error!r} at {Path(places[-1].filename).name}:{places[-1].lineno}"


def require_version(name: str, given: object, supported: int) -> None:
    """Raise `ValueError`, with advice, unless the format version of a file is the supported one."""
    if type(given) is not int:
        raise ValueError(f"{name} is {given!r}, expected one integer: softflow did not write this file")
    if given != supported:
        whose, do = ("a newer", "update this one") if given > supported else ("an older", "use that one")
        raise ValueError(f"{name} is {given}, this version of softflow reads {supported}: {whose} one wrote it, {do}")


def place_of(error: BaseException) -> str:
    """Return where an error was raised, such as `my_task.py:12, in step`."""
    place = extract_tb(error.__traceback__)[-1]
    return f"{Path(place.filename).name}:{place.lineno}, in {place.name}"


def described(error: BaseException) -> str:
    """Return the type, the message and the place of an error in one line."""
    if isinstance(error, RemoteError):
        return str(error)
    kind, text = type(error).__name__, one_line(error)
    is_named = isinstance(error, KeyError) or text == kind  # `one_line` begins with the type
    return f"{text if is_named else f'{kind}: {text}'} ({place_of(error)})"


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line of limited length, or the name of its type if it has no message."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # third-party errors may fail in __str__
        text = ""
    if isinstance(error, KeyError) or not text:  # the key alone is not informative
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."
