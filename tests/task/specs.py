"""A task with every kind of part, and one observation and action of it."""

from __future__ import annotations

import numpy as np

from softflow.task import ActionPart, ObservationPart, TaskSpec

ARM = ActionPart("arm", (-1.0, 0.0), (3.0, 0.5))
LOCK = ActionPart("lock", (0.25,), (0.25,))
GRIPPER = ActionPart("gripper", (-1.0,), (1.0,))

NUMBERS = TaskSpec(
    observation=(
        ObservationPart("robot/joints", (2,)),
        ObservationPart("gear", (), "int64", categories=(3,), starts=(1,)),
        ObservationPart("buttons", (2,), "int8"),
        ObservationPart("grid", (2,), "int64", categories=(2, 3)),
        ObservationPart("force", (), "float64"),
    ),
    action=(ARM, LOCK, GRIPPER),
    rate=50.0,
    success="any",
    name="bench",
)
OBSERVED = {
    "robot": {"joints": np.array([0.5, -2.0], np.float32)},
    "gear": np.int64(3),
    "buttons": np.array([1, 0], np.int8),
    "grid": np.array([1, 0]),
    "force": 7.25,
}
ROW = [0.5, -2, *(0, 0, 1), 1, 0, *(0, 1, 1, 0, 0), 7.25]

PICTURE = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)  # channels, height, width
IMAGES = TaskSpec(
    observation=(
        ObservationPart("wrist", (2, 3, 4), "uint8", axes="CHW"),
        ObservationPart("depth", (3, 4), "float32", axes="HW", value_range=(0.5, 2.5)),
        ObservationPart("joints", (2,)),
    ),
    action=(GRIPPER,),
)
SEEN = {"wrist": PICTURE, "depth": np.full((3, 4), 1.0, np.float32), "joints": np.array([1.5, 2.5])}
