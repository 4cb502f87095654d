"""Diagnostic tasks: small tasks, each of which exposes one weakness of a method."""

from softflow.envs.tasks import register_task

for _short_name, _name in {
    "delayed_corridor": "DelayedCorridor",
    "drifting_goal": "DriftingGoal",
    "two_routes": "TwoRoutes",
    "wrong_mode": "WrongMode",
}.items():
    register_task(
        f"softflow/{_name}-v0",
        short_name=_short_name,
        demonstrator=f"{__name__}.demonstrators:{_name}Demonstrator",
    )
