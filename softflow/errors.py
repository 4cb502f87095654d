"""Errors that a user can put right, the hint that names what was probably meant, and what costs an episode alone."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from traceback import extract_tb

LONGEST_MESSAGE = 600
"""Characters of an error that `one_line` keeps: what is quoted of a bad file may be anything."""


class UserError(ValueError):
    """Bad input: the message says in one line what is wrong and what to do.

    The commands print it without a traceback and exit with status 2.
    """


class EpisodeLost(RuntimeError):
    """Raised by an environment that is in order, but whose episode came to nothing, as when physics diverges.

    The episode is dropped and the next one begun, whereas any other error of an environment stops the run.
    """


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """Return the valid word most like `word`, None if none is near.

    Of dotted words with the same parent only the rest is compared: `imitation.` alone makes no two words alike.
    `updates` is near `imitation.updates`.
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
    """Return `"did you mean 'x'?"`, or if no valid word is near `"valid: x, y, z"` (of the neighbours, if given)."""
    words = list(valid)
    match = nearest(word, words)
    if match is not None:
        return f"did you mean {match!r}?"
    return f"valid: {', '.join(sorted(words if neighbours is None else neighbours)) or 'none'}"


def require_version(name: str, given: object, supported: int) -> None:
    """Raises `ValueError`, which says what to do, unless a file's format version is the one that is read here."""
    if type(given) is not int:
        raise ValueError(f"{name} is {given!r}, expected one integer: not a file of softflow's")
    if given != supported:
        whose, do = ("a newer", "update this one") if given > supported else ("an older", "use that one")
        raise ValueError(f"{name} is {given}, this version of softflow reads {supported}: {whose} one wrote it, {do}")


def place_of(error: BaseException) -> str:
    """Where it was raised, such as `my_task.py:12, in step`."""
    place = extract_tb(error.__traceback__)[-1]
    return f"{Path(place.filename).name}:{place.lineno}, in {place.name}"


def one_line(error: BaseException) -> str:
    """What an error says, in one line that is not too long; of one that says nothing, its name."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # of other people's making
        text = ""
    if isinstance(error, KeyError) or not text:  # a key alone says little
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."
