"""CubeRotate: a hand turns a cube with its fingertips."""

from softflow.envs.tasks import register_task

register_task(
    "softflow/CubeRotate-v0",
    short_name="cube_rotate",
    demonstrator=f"{__name__}.demonstrator:CubeRotateDemonstrator",
)
