"""Packages that bring entry points, as an installer leaves them."""

from __future__ import annotations

from pathlib import Path

MODULE = '''\
from flows import GaussianFlow

class ShyFlow(GaussianFlow):
    """A Gaussian that never strays far."""

    def __init__(self, *, width: int = 8, **sizes: int) -> None:
        super().__init__(width=width, log_std_bound=1.0, **sizes)
'''


def install(
    folder: Path, entry_points: str, package: str = "shy_flows", module: str = MODULE, group: str = "softflow.flows"
) -> Path:
    """What an installer leaves of a package: its modules, and beside them what they are called."""
    describe(folder, entry_points, package, group)
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(module)
    return folder


def describe(folder: Path, entry_points: str, package: str = "shy_flows", group: str = "softflow.flows") -> Path:
    """The description alone, which is all that an editable installation leaves beside the other packages."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry_points}\n")
    return folder
