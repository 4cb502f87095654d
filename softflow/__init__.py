"""Fine-tune dexterous robot policies by reinforcement learning: a flow over action chunks and a chunk critic."""

from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"


def _refuse_shadows() -> None:
    """Raise `ImportError` if another `flows` or `critics` comes before ours on Python's path.

    Looks at the source instead of importing it, so that `import softflow` does not import torch.
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


_refuse_shadows()

from softflow import gymnasium_ids  # noqa: E402, F401  (registers them, like other packages of environments)
