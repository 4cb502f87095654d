"""The environments of softflow by the ids that `gymnasium.make` takes. No simulator is imported before one is made.

Without gymnasium's TimeLimit: the environments keep their time limits themselves, as `max_steps`.
"""

import gymnasium

for _name, _class in {
    "CubeRotate": "cube_rotate.env:CubeRotateEnv",
    "DelayedCorridor": "diagnostics.tasks:DelayedCorridorEnv",
    "DriftingGoal": "diagnostics.tasks:DriftingGoalEnv",
    "TapeCut": "tape_cut.env:TapeCutEnv",
    "TwoRoutes": "diagnostics.tasks:TwoRoutesEnv",
    "WrongMode": "diagnostics.tasks:WrongModeEnv",
}.items():
    gymnasium.register(f"softflow/{_name}-v0", entry_point=f"softflow.envs.{_class}")
