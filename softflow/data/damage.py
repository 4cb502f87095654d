"""Episodes of a dataset that cannot be read: an error says which one it is, or they are left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from softflow.errors import UserError, one_line

REPAIR = "repair the episode, or leave it out: softflow-data filter --drop-damaged"
"""What to do about an episode with a wrong number."""

_left_out: ContextVar[list[str] | None] = ContextVar("_left_out", default=None)


@contextmanager
def leaving_out_damaged() -> Iterator[list[str]]:
    """Leave out damaged episodes of all datasets that are read in the block.

    Yields:
        A list that gets a line for each episode that is left out: its place in the dataset and what is wrong.
    """
    left_out = list[str]()
    before = _left_out.set(left_out)
    try:
        yield left_out
    finally:
        _left_out.reset(before)


@contextmanager
def reading_episode(place: str) -> Iterator[None]:
    """Read an episode of a dataset in the block, which adds it to those that are read as its last act.

    Args:
        place: Which episode it is, such as "data/demo_3".

    Raises:
        ValueError: The block raised it, and damaged episodes are not left out. Its message begins with the place.
    """
    try:
        yield
    except ValueError as error:
        left_out = _left_out.get()
        if left_out is None or isinstance(error, UserError):  # such as a full disk, which is no damage
            raise ValueError(f"{place}: {error}") from error
        left_out.append(f"{place}: {one_line(error).removesuffix(f': {REPAIR}')}")
