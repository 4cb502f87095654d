"""What `import softflow` offers, what it costs, and that the README's walk through it works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import softflow

ROOT = Path(__file__).parents[2]
SMALL = """\
env="two_routes", num_envs=2, num_demos=4, eval_episodes=2, collect_steps=40, threads=1, batch_size=16, critic_width=8,
    flow_options={"layers": 2, "width": 8, "components": 2}, warmup={"updates": 2}, offline={"updates": 2}, \
"""


def test_it_imports_neither_torch_nor_mujoco() -> None:
    code = "import softflow, sys; print(*{'torch', 'mujoco', 'tyro'} & sys.modules.keys(), *dir(softflow))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names = result.stdout.split()
    assert not {"torch", "mujoco", "tyro"} & set(names)
    assert set(softflow.__all__) <= set(names)


def test_every_public_name_is_there() -> None:
    assert [getattr(softflow, name).__name__ for name in softflow.__all__] == softflow.__all__
    with pytest.raises(AttributeError, match="module 'softflow' has no attribute 'trian'"):
        softflow.trian  # noqa: B018


def test_the_walk_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(import softflow\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for given, small in (
        ('env="tape_cut", ', SMALL), ('"updates": 6000', '"updates": 4'), ('"steps": 50_000', '"steps": 40'),
        ('"steps": 100_000', '"steps": 80'), ("episodes=100", "episodes=2"),
    ):  # fmt: skip
        assert given in code
        code = code.replace(given, small)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    run = names["run"]
    assert isinstance(run, softflow.Run) and run.config.method.online.steps == 80
    assert Path("policy.pt").is_file() and hasattr(names["policy"], "act")
