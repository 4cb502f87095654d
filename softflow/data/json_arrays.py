"""JSON as an array () of text, in files of arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from softflow.task import TaskSpec


def json_array(value: Any) -> np.ndarray:
    """Plain values as an array () of text."""
    return np.array(json.dumps(value))


def read_json(array: np.ndarray) -> Any:
    """The values of `json_array`. Raises `ValueError` if it is not JSON."""
    try:
        return json.loads(str(array))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def read_task(arrays: Mapping[str, np.ndarray]) -> TaskSpec | None:
    """The task of a file with these arrays, None if it does not say it. Raises `ValueError` if it is none."""
    return TaskSpec.build(read_json(arrays["task"])) if "task" in arrays else None
