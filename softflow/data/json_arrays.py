"""JSON stored as a text array of shape () in files of arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from softflow.task import TaskSpec


def json_array(value: Any) -> np.ndarray:
    """Return plain values as a text array of shape ()."""
    return np.array(json.dumps(value))


def read_json(array: np.ndarray) -> Any:
    """Return the values that `json_array` stored. Raise `ValueError` if the text is not JSON."""
    try:
        return json.loads(str(array))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def read_task(arrays: Mapping[str, np.ndarray]) -> TaskSpec | None:
    """Return the task in the arrays of a file, None if there is none. Raise `ValueError` if it is not valid."""
    return TaskSpec.build(read_json(arrays["task"])) if "task" in arrays else None
