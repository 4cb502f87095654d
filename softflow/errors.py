"""Errors that a user can put right, and the hint that names what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input: the message says in one line what is wrong and what to do.

    The commands print it without a traceback and exit with status 2.
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
