"""Peg insertion: a gripper carries a peg over a rim and inserts it into a hole. There is no physics engine."""

from softflow.envs.tasks import register_task

register_task(
    "softflow/PegInsertion-v0",
    short_name="peg_insertion",
    demonstrator=f"{__name__}.demonstrator:PegInsertionDemonstrator",
)
