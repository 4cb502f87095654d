"""TapeCut: a hand takes scissors out of their case and cuts a tape."""

from softflow.envs.tasks import register_task

register_task(
    "softflow/TapeCut-v0",
    short_name="tape_cut",
    demonstrator=f"{__name__}.demonstrator:TapeCutDemonstrator",
    supervisor=f"{__name__}.supervisor:TapeCutSupervisor",
    mirror=f"{__name__}.symmetry:find_tape_cut_mirror",
)
