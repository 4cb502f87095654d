"""Policies of other projects, as steering needs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from softflow.policies.bases.model import BaseModel


def is_foreign(base: str) -> bool:
    """Whether a base is `module:name` or an ONNX file, and not the folder of a run."""
    return base.endswith(".onnx") or re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", base) is not None


def open_base(base: str, options: Mapping[str, Any]) -> BaseModel:
    """Open the policy that a base names.

    Args:
        base: `module:name`, or the path of an ONNX file; see `is_foreign`.
        options: Arguments of the constructor if the name is that of a class.

    Raises:
        UserError: There is no such policy, it cannot be constructed, or it does not say what it needs.
    """
    if base.endswith(".onnx"):
        from softflow.policies.bases.onnx_file import OnnxFile  # imported here, because it needs an extra

        return OnnxFile(base, options)
    from softflow.policies.bases.python_policy import PythonPolicy

    return PythonPolicy(base, options)
