"""Opening of the devices with which a person moves a robot."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from softflow.envs.options import check_options
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


def require_device(name: str, options: Mapping[str, Any]) -> type[Device]:
    """Return the class of a device, after checking its options as far as its constructor declares them.

    This is done before a robot or a window is opened.

    Raises:
        UserError: There is no such device, it has no such option, one has another type, or one is missing.
    """
    constructor, what = find_device(name), f"the device {name!r}"
    check_options(constructor, options, what)
    try:
        inspect.signature(constructor).bind("task", **options)
    except TypeError as error:
        raise UserError(f"{what}: {error}; --help lists the options of a device") from error
    return constructor


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
