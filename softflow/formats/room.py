"""The space that the observations of a dataset take on the disk while it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softflow.console import remark
from softflow.data.row_file import current_file
from softflow.errors import UserError
from softflow.task import TaskSpec

SAID_FROM = 10**8
"""Bytes from which on the space is worth a line."""


def take_room(path: Path, task: TaskSpec, lengths: Sequence[int]) -> None:
    """Say how much space episodes of these lengths are going to take, if their observations have images.

    Raises:
        UserError: The disk has less.
    """
    file = current_file()
    if file is None or task.layout is None:
        return
    size = task.row_size * sum(length + 1 for length in lengths)
    try:
        file.require_room(size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if size >= SAID_FROM:
        remark(f"{path}: its observations take {size / 1e9:,.1f} GB in a temporary file in {file.folder}")
