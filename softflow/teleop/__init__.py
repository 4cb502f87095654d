"""Teleoperation: devices with which a person moves a robot, and the window that shows it."""

import os

from softflow.teleop.device import Command, Device, find_device, register_device

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # standard output is for the results of commands

__all__ = ["Command", "Device", "find_device", "register_device"]
