"""Environments, registered with gymnasium, and their demonstrators."""

import gymnasium

from softflow.envs.cube_rotate.demonstrator import CubeRotateDemonstrator
from softflow.envs.cube_rotate.env import CubeRotateEnv
from softflow.envs.description import describe_spaces, name_dimensions, time_limit
from softflow.envs.errors import UnstableSimulationError
from softflow.envs.packing import find_layout
from softflow.envs.registry import (
    Demonstrator,
    Supervisor,
    available_envs,
    make_demonstrator,
    make_env,
    make_supervisor,
    resolve_env_id,
)
from softflow.envs.tape_cut.demonstrator import TapeCutDemonstrator
from softflow.envs.tape_cut.env import TapeCutEnv
from softflow.envs.tape_cut.supervisor import TapeCutSupervisor

# Without gymnasium's TimeLimit: the environments keep their time limits themselves, as `max_steps`.
gymnasium.register("softflow/CubeRotate-v0", entry_point="softflow.envs.cube_rotate.env:CubeRotateEnv")
gymnasium.register("softflow/TapeCut-v0", entry_point="softflow.envs.tape_cut.env:TapeCutEnv")
for _task in ("TwoRoutes", "DelayedCorridor", "DriftingGoal", "WrongMode"):
    gymnasium.register(f"softflow/{_task}-v0", entry_point=f"softflow.envs.diagnostics.tasks:{_task}Env")

__all__ = [
    "CubeRotateDemonstrator",
    "CubeRotateEnv",
    "Demonstrator",
    "Supervisor",
    "TapeCutDemonstrator",
    "TapeCutEnv",
    "TapeCutSupervisor",
    "UnstableSimulationError",
    "available_envs",
    "describe_spaces",
    "find_layout",
    "make_demonstrator",
    "make_env",
    "make_supervisor",
    "name_dimensions",
    "resolve_env_id",
    "time_limit",
]
