"""Looking at pictures in a process of its own: MuJoCo chooses its OpenGL when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def assert_sees(code: str) -> None:
    """Run code that prints "seen", or ends with "no graphics" where there are none; then the test is skipped."""
    root, reasons = Path(__file__).resolve().parents[1], []
    for backend in ("egl", "osmesa"):
        environment = os.environ | {"MUJOCO_GL": backend, "PYTHONPATH": str(root)}
        command = [sys.executable, "-W", "ignore", "-c", code]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        if result.returncode == 0:
            assert result.stdout.strip() == "seen"
            return
        reasons.append(f"MUJOCO_GL={backend}: {result.stderr.strip().splitlines()[-1]}")
        assert "no graphics" in result.stderr or "import mujoco" in result.stderr, result.stderr
    pytest.skip(f"no OpenGL on this machine ({'; '.join(reasons)})")
