"""Environments in processes of their own: the same runs, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from softflow.training.run_folder import RunFolder

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
LENGTHS = "--imitation.updates 2 --warmup.updates 1 --offline.updates 1 --online.updates-per-step 0.005"
SIZES = "--num-demos 3 --num-envs 2 --eval-episodes 3 --threads 1 --batch-size 16"
TRAIN = f"softflow-train --preset quick {LENGTHS} {SIZES}"


def metrics(run: str) -> list[str]:
    """All that does not depend on the clock."""
    return [line for line in Path(run, "metrics.csv").read_text().splitlines() if "time/" not in line]


def test_a_run_does_not_depend_on_where_its_environments_are(command: Any) -> None:
    for run, mode in (("one", "sync"), ("many", "async")):
        result = command(f"{TRAIN} --online.steps 450 --run-dir {run} --vectorization-mode {mode}")
        assert result.status == 0, result
    assert metrics("one") == metrics("many")
    assert Path("one/demonstrations.npz").read_bytes() == Path("many/demonstrations.npz").read_bytes()
    one, many = (command(f"softflow-eval one --episodes 3 --vectorization-mode {mode}") for mode in ("sync", "async"))
    assert one == many and one.status == 0
    # As in training, unless told otherwise: only of other processes can a time limit be asked.
    assert command("softflow-eval many --episodes 3 --env-time-limit 60") == many
    assert "needs vectorization_mode async" in command("softflow-eval one --env-time-limit 60").error()


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_processes_may_be_started_in_any_way(method: str, tmp_path: Path) -> None:
    """What systems other than Linux, and newer Pythons on it, start them by, hands over no more than can be pickled."""
    code = f"""if __name__ == "__main__":
        import multiprocessing, sys; from softflow.cli.train import main
        multiprocessing.set_start_method("{method}"); sys.exit(main())"""
    (tmp_path / "train.py").write_text(code)
    flags = f"{TRAIN.removeprefix('softflow-train')} --online.steps 300 --run-dir run --vectorization-mode async"
    done = subprocess.run(
        [sys.executable, "train.py", *flags.split()], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_demonstrations_do_not_depend_on_how_many_record_them(command: Any) -> None:
    for name, flags in (("one", "--num-envs 1"), ("three", "--num-envs 3"), ("cores", "")):
        assert command(f"softflow-demo --episodes 4 {flags} --out {name}.npz").status == 0
    assert Path("one.npz").read_bytes() == Path("three.npz").read_bytes() == Path("cores.npz").read_bytes()


@contextmanager
def started(flags: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`softflow-train` as on a terminal, where ^C is not ignored; none of its processes outlives the test."""
    code = "import sys; from softflow.cli.train import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, *flags.split()],
        cwd=folder,
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("mode", [pytest.param("sync", marks=pytest.mark.slow), "async"])
def test_interrupted_at_the_keyboard(mode: str, tmp_path: Path) -> None:
    """^C goes to all processes at once."""
    flags = f"--env two_routes {LENGTHS} {SIZES} --flow-options.width 8 --critic-width 8 --online.steps 100000"
    flags += f" --run-dir run --vectorization-mode {mode}"
    metrics_file, deadline = tmp_path / "run/metrics.csv", time.monotonic() + 120
    with started(flags, tmp_path) as process:
        while not (metrics_file.exists() and "online" in metrics_file.read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in errors and errors.endswith("interrupted\n"), errors
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # nobody is left
    assert RunFolder.open(tmp_path / "run").last_checkpoint().is_dir()
