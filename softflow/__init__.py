"""Reinforcement learning of dexterous robot policies, with a flow over action chunks and a chunk critic."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softflow.data import Episode
    from softflow.errors import UserError
    from softflow.policies import Policy
    from softflow.runs.run import Run, load, record_demonstrations, train
    from softflow.task import TaskSpec

__all__ = ["Episode", "Policy", "Run", "TaskSpec", "UserError", "load", "record_demonstrations", "train"]
__version__ = "0.2.0"

_MODULES = {
    "Episode": "softflow.data",
    "Policy": "softflow.policies",
    "Run": "softflow.runs.run",
    "TaskSpec": "softflow.task",
    "UserError": "softflow.errors",
    "load": "softflow.runs.run",
    "record_demonstrations": "softflow.runs.run",
    "train": "softflow.runs.run",
}
"""Modules of the public names. A module is imported on first use of one of its names, because most import torch."""


def _refuse_shadows() -> None:
    """Raise `ImportError` if another `flows` or `critics` package precedes softflow's own on Python's path.

    This reads their source instead of importing them, so that `import softflow` does not import torch.
    """
    for package, content in (("flows", "ChunkFlow"), ("critics", "ChunkCritic")):
        spec = find_spec(package)
        if spec is None:
            raise ImportError(f"softflow's own package {package!r} is missing: install softflow again.")
        if spec.origin is None or content not in Path(spec.origin).read_text(encoding="utf-8", errors="ignore"):
            place = spec.origin or ", ".join(spec.submodule_search_locations or ())
            raise ImportError(
                f"softflow needs its own package {package!r}, but {place} comes before it on Python's path: "
                "rename or remove that file, or run from another working directory."
            )


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_refuse_shadows()

from softflow import gymnasium_ids  # noqa: E402, F401  (registers the environments on import)
