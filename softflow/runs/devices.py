"""Opening of the devices by which a person moves a robot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from softflow.envs.registry import options_checked
from softflow.errors import UserError, one_line
from softflow.task import TaskSpec
from softflow.teleop import Device, find_device


@contextmanager
def pygame_needed() -> Iterator[None]:
    """Turn the error of an import that lacks pygame into a `UserError` that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError("teleoperation needs pygame: pip install 'softflow[teleop]'") from error


def make_device(name: str, task: TaskSpec, options: Mapping[str, Any]) -> Device:
    """Open the device of a name, or `module:Class`. The window must be open, because pygame gives no keys without one.

    Raises:
        UserError: There is no such device, it has no such option, or it cannot be opened.
    """
    constructor = find_device(name)
    what = f"the device {name!r}"
    try:
        with options_checked(what, constructor, options):
            return constructor(task, **options)
    except UserError:
        raise
    except Exception as error:  # of drivers, ports and packages
        raise UserError(f"{what} cannot be opened: {type(error).__name__}: {one_line(error)}") from error
