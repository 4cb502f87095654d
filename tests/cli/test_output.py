"""Standard output and standard error that are closed, full, broken, or cannot show a name."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

import pytest

from softflow.training.run_folder import RunFolder
from tests.cli.conftest import SMALL
from tests.cli.server import ROOT

PENDULUM = "--env Pendulum-v1 --demos pendulum.npz --config small.yaml"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


def shell(line: str, folder: Path, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = line.replace("softflow-train", f"{sys.executable} -m softflow.cli.train")
    line = line.replace(
        "softflow-eval", f"{sys.executable} -c 'import sys; from softflow.cli.evaluate import main; sys.exit(main())'"
    )
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


@needs_full
@pytest.mark.parametrize("where", [">&- 2>/dev/full", "2>&-"])
def test_training_goes_on_when_nothing_can_be_written(where: str, demonstrations: Path, tmp_path: Path) -> None:
    """The second writes to a pipe that nobody reads."""
    (tmp_path / "small.yaml").write_text(SMALL)
    read, write = os.pipe()
    os.close(read)
    done = shell(f"softflow-train {PENDULUM} --run-dir run {where}", tmp_path, write)
    os.close(write)
    assert done.returncode == 0
    assert RunFolder.open(tmp_path / "run").last_checkpoint().is_dir()
    assert "online,420,eval/success_rate" in (tmp_path / "run" / "metrics.csv").read_text()


@needs_full
def test_a_result_that_is_lost_is_an_error(small_run: Path, tmp_path: Path) -> None:
    done = shell("softflow-eval run/checkpoints/online_420 --episodes 1 > /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: standard output cannot be written (No space left on device)\n",
    )


@pytest.mark.parametrize("line", ["softflow-data info pendulum.npz --json", "softflow-eval --help"])
def test_a_reader_that_closes_the_pipe_is_no_error(
    line: str, command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        result = command(line)
        assert (result.status, result.err) == (141, "")


@pytest.mark.parametrize("line", ["softflow-eval run --episodes 1", "softflow-export run --format torchscript --out a"])
def test_a_result_for_a_closed_stream_is_an_error(
    line: str, small_run: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert command(line).err.splitlines()[-1] == "error: standard output cannot be written (it is closed)"


def shown(stream: TextIO) -> str:
    stream.seek(0)
    return stream.read()


@pytest.mark.parametrize(("name", "as_shown"), [("é💥", r"\xe9\U0001f4a5"), (os.fsdecode(b"r\xff"), r"r\udcff")])
def test_a_folder_that_the_console_cannot_show(
    name: str, as_shown: str, command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    short = "--imitation.updates 1 --warmup.updates 0 --offline.updates 0 --online.steps 0"
    statuses = [
        command(line).status
        for line in (
            f"softflow-train {PENDULUM} {short} --run-dir {name}",
            f"softflow-eval {name} --episodes 1",
            f"softflow-train --resume {name} --seed 3",
            f"softflow-train {PENDULUM} --run-dir {name}",
        )
    ]
    assert statuses == [0, 0, 2, 2]
    assert f"run folder: {as_shown}\n" in shown(out) and "on 1 held-out episodes" in shown(out)
    refused, exists = shown(err).splitlines()[-2:]
    assert refused.startswith("error: a resumed run keeps its settings: seed")
    assert exists.startswith(f"error: {as_shown} exists; ")
