"""Control of a robot, real or simulated, by a policy at a fixed rate."""

from softflow.robot.control import ControlLoop
from softflow.robot.gymnasium_robot import GymnasiumRobot
from softflow.robot.lerobot_robot import LeRobotRobot
from softflow.robot.plan import NoChunk
from softflow.robot.policy_process import PolicyProcess
from softflow.robot.robot import Action, Robot, find_robot
from softflow.robot.settings import LoopSettings
from softflow.robot.stop_signal import Stopped, StopSignal
from softflow.robot.takeover import Takeover

__all__ = [
    "Action",
    "ControlLoop",
    "GymnasiumRobot",
    "LeRobotRobot",
    "LoopSettings",
    "NoChunk",
    "PolicyProcess",
    "Robot",
    "StopSignal",
    "Stopped",
    "Takeover",
    "find_robot",
]
