"""Control of a robot, real or simulated, by a policy at a fixed rate."""

from softflow.robot.control import ControlLoop
from softflow.robot.gymnasium_robot import GymnasiumRobot
from softflow.robot.plan import NoChunk
from softflow.robot.policy_process import PolicyProcess
from softflow.robot.robot import Action, Robot, find_robot
from softflow.robot.settings import LoopSettings
from softflow.robot.stop_signal import Stopped, StopSignal

__all__ = [
    "Action",
    "ControlLoop",
    "GymnasiumRobot",
    "LoopSettings",
    "NoChunk",
    "PolicyProcess",
    "Robot",
    "StopSignal",
    "Stopped",
    "find_robot",
]
