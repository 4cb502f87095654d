"""Every example in Python runs as it stands, here or in the test of its page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

ELSEWHERE = {
    "README.md 0": "tests/runs/test_public_names.py",
    "docs/how-to/demonstrations.md 0": "tests/data/test_demonstrations.py",
    "docs/how-to/demonstrations.md 1": "tests/data/test_demonstrations.py",
    "docs/how-to/demonstrations.md 2": "tests/data/test_demonstrations.py",
    "docs/how-to/demonstrations.md 4": "tests/data/test_demonstrations.py",
    "docs/how-to/corrections.md 0": "tests/data/test_corrections.py",
    "docs/how-to/guard.md 1": "tests/runs/test_what_a_guard_flagged.py",
    "docs/how-to/lerobot.md 1": "tests/cli/test_your_data.py",
    "docs/how-to/robot.md 0": "tests/robot/test_documentation.py",
    "docs/how-to/steering.md 0": "tests/cli/test_foreign_base.py",
    "docs/how-to/teleoperation.md 0": "tests/teleop/test_documentation.py",
    "docs/how-to/teleoperation.md 1": "tests/teleop/test_documentation.py",
    "docs/reference/policies.md 0": "tests/runs/test_densities_and_values.py",
    "docs/start/your-data.md 0": "tests/cli/test_start_pages.py",
    "docs/start/your-environment.md 0": "tests/cli/test_start_pages.py",
    "docs/start/your-environment.md 1": "tests/cli/test_start_pages.py",
}
"""Examples by page and number, and the test that runs each."""

NEED_MORE = {
    "docs/how-to/datasets.md 1": "ogbench, which downloads data",
    "docs/how-to/demonstrations.md 3": "ogbench, which downloads data",
    "docs/explanation/architecture.md 0": "the two stages of a method, out of its class",
    "docs/explanation/seam.md 0": "a run, and a robot between the lines",
    "docs/how-to/guard.md 0": "a run and a robot",
    "docs/how-to/export.md 0": "a robot",
    "docs/how-to/tests.md 0": "pytest",
    "docs/how-to/environments.md 0": "a package of the reader",
    "docs/how-to/environments.md 1": "an environment of somebody else",
    "docs/how-to/datasets.md 0": "an environment of the reader",
    "docs/how-to/lerobot.md 0": "an environment of the reader",
}
"""Examples that need what is not here. They are compiled, and their imports must exist."""

BEFORE = {
    "docs/explanation/flows.md 1": "from nflows import transforms\ntransform = transforms.RandomPermutation(120)",
}
"""What the text before an example describes."""


def examples() -> dict[str, str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {
        f"{page.relative_to(ROOT).as_posix()} {number}": code
        for page in pages
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    }


EXAMPLES = examples()
HERE = sorted(EXAMPLES.keys() - ELSEWHERE.keys() - NEED_MORE.keys())


def test_no_example_is_forgotten() -> None:
    assert not {*ELSEWHERE, *NEED_MORE, *BEFORE} - EXAMPLES.keys()
    for name, place in ELSEWHERE.items():
        assert name.rpartition("/")[2].split()[0] in (ROOT / place).read_text(), place


@pytest.mark.parametrize("name", HERE)
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from softflow.cli import demonstrate

    monkeypatch.chdir(tmp_path)
    for file in ("d.npz", "demonstrations.npz"):
        assert demonstrate.main(["--env", "two_routes", "--episodes", "2", "--out", file]) == 0
    module = ModuleType("documented")  # without one, the annotations of its classes are evaluated in `builtins`
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(BEFORE.get(name, ""), vars(module))
    exec(compile(EXAMPLES[name], name, "exec"), vars(module))


@pytest.mark.parametrize("name", sorted(NEED_MORE))
def test_what_an_example_imports_exists(name: str) -> None:
    compile(EXAMPLES[name], name, "exec")
    for line in re.findall(
        r"^(?:from (?:softflow|flows|critics)\S* import .*|import softflow.*)$", EXAMPLES[name], re.M
    ):
        exec(line, {})
