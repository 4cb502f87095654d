"""Environments registered with gymnasium, and their demonstrators."""

from softflow.envs import absent, cube_rotate, diagnostics, external, peg_insertion, tape_cut  # noqa: F401  (each registers its tasks)
from softflow.envs.absent import NO_ENVIRONMENT
from softflow.envs.cube_rotate.demonstrator import CubeRotateDemonstrator
from softflow.envs.cube_rotate.env import CubeRotateEnv
from softflow.envs.description import describe_spaces, name_actions, name_dimensions, time_limit
from softflow.envs.errors import UnstableSimulationError
from softflow.envs.packing import find_layout
from softflow.envs.registry import (
    available_envs,
    make_demonstrator,
    make_env,
    make_supervisor,
    resolve_env_id,
)
from softflow.envs.tape_cut.demonstrator import TapeCutDemonstrator
from softflow.envs.tape_cut.env import TapeCutEnv
from softflow.envs.tape_cut.supervisor import TapeCutSupervisor
from softflow.envs.tasks import Demonstrator, Supervisor, register_task

__all__ = [
    "NO_ENVIRONMENT",
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
    "name_actions",
    "name_dimensions",
    "register_task",
    "resolve_env_id",
    "time_limit",
]
