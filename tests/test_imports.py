"""The layers of the project: imports run downwards only, and files stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("flows", "critics", "softflow", "configs", "examples", "tests", "benchmarks")
MAX_LINES = 350

# What each part may import of the others. `envs` stands apart: only the commands know it.
BOTTOM = {
    "flows", "critics",
    "softflow.boundary", "softflow.errors", "softflow.files", "softflow.named_classes", "softflow.task",
}  # fmt: skip
TRAINING = BOTTOM | {"softflow.policies", "softflow.data", "softflow.algos", "softflow.console"}
PUBLIC = {
    "softflow.data", "softflow.errors", "softflow.gymnasium_ids", "softflow.policies", "softflow.runs", "softflow.task",
}  # fmt: skip
"""What `import softflow` imports when one of its names is first used."""
ALLOWED = {
    "flows": set(),
    "critics": set(),
    "softflow": PUBLIC,
    "softflow.critics": {"critics", "softflow.same_modules"},
    "softflow.flows": {"flows", "softflow.same_modules"},
    "softflow.gymnasium_ids": set(),
    "softflow.same_modules": set(),
    "softflow.__main__": {"softflow.errors"},
    "softflow.boundary": set(),
    "softflow.console": set(),
    "softflow.errors": set(),
    "softflow.files": {"softflow.errors"},
    "softflow.named_classes": {"flows", "softflow.errors"},
    "softflow.task": {"softflow.errors"},
    "softflow.settings": {"softflow.errors", "softflow.files", "softflow.configs", "softflow.envs", "softflow.algos"},
    "softflow.envs": {"flows", "softflow.boundary", "softflow.errors", "softflow.task"},
    "softflow.teleop": {"flows", "softflow.errors", "softflow.named_classes", "softflow.task"},
    "softflow.policies": BOTTOM,
    "softflow.data": BOTTOM | {"softflow.console"},
    "softflow.formats": BOTTOM | {"softflow.data", "softflow.console"},
    "softflow.algos": BOTTOM | {"softflow.policies", "softflow.data", "softflow.console"},
    "softflow.training": TRAINING,
    "softflow.robot": BOTTOM | {"softflow.data", "softflow.training", "softflow.console"},
    "softflow.runs": TRAINING
    | {"softflow.training", "softflow.envs", "softflow.settings", "softflow.teleop", "softflow.robot"},
    "softflow.report": TRAINING | {"softflow.training", "softflow.settings", "softflow.runs"},
    "softflow.studies": TRAINING | {"softflow.training", "softflow.settings", "softflow.runs", "softflow.report"},
    "softflow.cli": TRAINING
    | {
        "softflow.report",
        "softflow.training",
        "softflow.envs",
        "softflow.settings",
        "softflow.runs",
        "softflow.formats",
        "softflow.studies",
        "softflow.teleop",
    },
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """The key of `ALLOWED` that a module belongs to, None for other people's modules."""
    top, *below = module.split(".")
    if top != "softflow":
        return top if top in ALLOWED else None
    return f"softflow.{below[0]}" if below else "softflow"


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if is_package else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            origin = ".".join(filter(None, (package if node.level else "", node.module)))
            if origin == "softflow":  # `from softflow import envs` imports a part, `... import __version__` does not
                yield from (f"softflow.{alias.name}" for alias in node.names if f"softflow.{alias.name}" in ALLOWED)
            else:
                yield origin


def forbidden(source: str, module: str, is_package: bool = False) -> list[str]:
    part = part_of(module)
    assert part in ALLOWED, f"{module} belongs to no layer: add it to ALLOWED"
    targets = {name: part_of(name) for name in imported_modules(source, module, is_package)}
    return sorted(name for name, target in targets.items() if target and target != part and target not in ALLOWED[part])


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def test_imports_run_downwards() -> None:
    files = python_files("flows", "critics", "softflow")
    upwards = {
        str(file.relative_to(ROOT)): names
        for file in files
        if (names := forbidden(file.read_text(encoding="utf-8"), module_name(file), file.name == "__init__.py"))
    }
    assert len(files) > 10
    assert not upwards


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("flows.coupling", "import softflow"),
        ("flows.coupling", "import critics"),
        ("critics.ensemble", "def f():\n    from softflow.errors import UserError"),
        ("softflow.data.replay", "from softflow import policies"),
        ("softflow.policies.chunk", "from ..algos import softflow"),
        ("softflow.training.loop", "import softflow.settings.typed"),
        ("softflow.algos.softflow", "from softflow.envs.tape_cut.env import TapeCutEnv"),
    ],
)
def test_an_import_upwards_is_found(module: str, source: str) -> None:
    assert forbidden(source, module)


def test_processes_that_step_environments_need_no_torch() -> None:
    code = "import sys, softflow.training.vector, softflow.envs, softflow.data.readers; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_files_are_short() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in python_files(*FOLDERS)}
    assert not {str(file.relative_to(ROOT)): lines for file, lines in lengths.items() if lines > MAX_LINES}
