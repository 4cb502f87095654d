"""Registration of softflow's environments with gymnasium. A simulator is only imported when its environment is made.

The environments have no `TimeLimit` wrapper, because they enforce their own time limit, `max_steps`.
"""

import gymnasium

for _name, _class in {
    "Absent": "absent:AbsentEnv",
    "CubeRotate": "cube_rotate.env:CubeRotateEnv",
    "DelayedCorridor": "diagnostics.tasks:DelayedCorridorEnv",
    "DriftingGoal": "diagnostics.tasks:DriftingGoalEnv",
    "PegInsertion": "peg_insertion.env:PegInsertionEnv",
    "TapeCut": "tape_cut.env:TapeCutEnv",
    "TwoRoutes": "diagnostics.tasks:TwoRoutesEnv",
    "WrongMode": "diagnostics.tasks:WrongModeEnv",
}.items():
    gymnasium.register(f"softflow/{_name}-v0", entry_point=f"softflow.envs.{_class}")
