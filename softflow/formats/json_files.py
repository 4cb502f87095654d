"""JSON files of a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from softflow.files import TEXT_LIMIT, SizeError, read_settings


def parse_json(path: Path, text: str) -> Any:
    """Parse JSON. Raise `ValueError` with the name of the file if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} is not JSON ({reason}): copy the dataset again") from error


def read_json(root: Path, path: Path, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """Read a JSON object of a dataset.

    Args:
        root: The folder of the dataset.
        path: The file, relative to it.
        limit: The largest size of the file in bytes.

    Raises:
        SizeError: The file is larger.
        ValueError: It is missing, not JSON, or no object.
    """
    if not (root / path).is_file():
        raise ValueError(f"{path} is missing: copy the dataset again")
    try:
        text = read_settings(root / path, limit)
    except SizeError as error:
        raise SizeError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): copy the dataset again") from error
    content = parse_json(path, text)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected an object: copy the dataset again")
    return content
