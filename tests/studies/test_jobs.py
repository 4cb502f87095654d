"""Jobs: what is skipped, resumed, tried again and said, and what a signal or a kill leaves. A script plays the run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from softflow.errors import UserError
from softflow.studies import jobs
from softflow.studies.jobs import FINISHED, Job
from softflow.studies.runners import LocalRunner, run_jobs
from softflow.training.interruption import Interrupted
from softflow.training.run_folder import RunFolder

RUN = """
import json, pathlib, signal, sys, time
action, *flags = sys.argv[1:]
folder = pathlib.Path(flags[1])
print(*flags, flush=True)
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").touch()
if action == "fail":
    if flags[0] == "--run-dir":
        (folder / "checkpoints" / "last").write_text("1")
    sys.exit("error: no disk")
if action == "fail once" and flags[0] == "--run-dir":
    (folder / "checkpoints" / "last").write_text("1")
    sys.exit("error: no disk")
if action == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "waits").touch()
    time.sleep(600)
if action == "wait":
    def end(*_):
        (folder / "checkpoints" / "last").write_text("1")
        sys.exit(143)
    signal.signal(signal.SIGTERM, end)
    (folder / "waits").touch()
    time.sleep(600)
"""
EVALUATION = 'import json, sys; print(json.dumps({"episodes": int(sys.argv[-1]), "flags": sys.argv[1:]}))'
PATIENCE = 120.0
"""Seconds: a machine may be busy."""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Makes jobs of which each does what it is told."""
    monkeypatch.setattr(jobs, "EVALUATE", [sys.executable, "-c", EVALUATION])

    def job(name: str, action: str = "succeed", **settings: object) -> Job:
        class Pretended(Job):
            def _call(self, command, *streams):  # type: ignore[no-untyped-def]
                given = command[len(jobs.TRAIN) :]
                if command[: len(jobs.TRAIN)] == jobs.TRAIN:
                    command = [sys.executable, "-c", RUN, action, *given]
                return super()._call(command, *streams)

        return Pretended(tmp_path / "room" / name, ["--seed", "3"], **settings)  # type: ignore[arg-type]

    return job


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_finished_job_is_skipped(make: Callable[..., Job]) -> None:
    done = list[Job]()
    job = make("a")
    assert not run_jobs([job], LocalRunner(1), done.append)
    text = job.log.read_text()
    assert done == [job] and f"--run-dir {job.run_dir} --seed 3\n" in text
    assert text.startswith("$ softflow-train --run-dir ")
    assert not run_jobs([make("a")], LocalRunner(1), done.append)
    assert len(done) == 1 and job.log.read_text() == text


def test_an_evaluation_follows_with_the_episodes_of_the_job(make: Callable[..., Job]) -> None:
    evaluated = {"imitation": ["--stage", "imitation"]}
    first = make("a", evaluated=evaluated, episodes=7)
    assert not first.finished and first.run() and first.finished
    result = json.loads(first.evaluation("imitation").read_text())
    assert result["flags"] == [
        str(first.run_dir), "--json", "--num-envs", "10", "--stage", "imitation", "--episodes", "7"
    ]  # fmt: skip
    more = make("a", evaluated=evaluated, episodes=8)
    assert not more.finished and more.run()  # the run is not repeated, its evaluation is
    assert more.log.read_text().count(FINISHED) == 1
    assert json.loads(more.evaluation("imitation").read_text())["episodes"] == 8


def test_a_run_that_was_lengthened_is_evaluated_again(make: Callable[..., Job]) -> None:
    def job() -> Job:
        return make("a", evaluated={"deployed": []}, episodes=7)

    assert job().run()
    last = job().run_dir / "checkpoints" / "last"
    for checkpoint in ("1000", "2000"):
        last.write_text(checkpoint)
        assert not job().finished and job().run() and job().finished
        assert json.loads(job().evaluation("deployed").read_text())["checkpoint"] == checkpoint
    assert job().log.read_text().count(FINISHED) == 1
    shutil.rmtree(last.parent)  # to save space
    assert job().finished


def test_a_failed_job_goes_on_from_its_checkpoint(make: Callable[..., Job], capsys: pytest.CaptureFixture[str]) -> None:
    job = make("a", "fail once")
    assert not run_jobs([job], LocalRunner(1), lambda _: None, retries=1)
    lines = [line for line in job.log.read_text().splitlines() if line.startswith("$ ")]
    assert [line.split()[2] for line in lines] == ["--run-dir", "--resume"]
    assert f"room/a: failed, and is tried again; see {job.log}\nroom/a: 0.0 minutes\n" == capsys.readouterr().out


def test_a_job_that_fails_is_said_with_its_last_lines_and_others_go_on(
    make: Callable[..., Job], capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = make("bad", "fail"), make("good")
    assert run_jobs([bad, good], LocalRunner(1), lambda _: None, retries=2) == [bad]
    assert good.finished and not bad.finished
    assert bad.log.read_text().count("error: no disk") == 3
    output = capsys.readouterr().out
    assert f"room/bad: failed; {bad.log} ends with\n" in output and output.count("is tried again") == 2
    assert "    error: no disk\n" in output and "stopped after" not in output


def test_what_was_killed_before_its_first_checkpoint_starts_again(make: Callable[..., Job]) -> None:
    job = make("a")
    job.run_dir.mkdir(parents=True)
    for name in ("config.yaml", "rest"):
        (job.run_dir / name).touch()
    assert job.run() and not (job.run_dir / "rest").exists()


def test_a_run_whose_folder_was_deleted_starts_again(make: Callable[..., Job]) -> None:
    job = make("a", evaluated={"deployed": []}, episodes=7)
    assert job.run()
    shutil.rmtree(job.run_dir)
    job.evaluation("deployed").write_text('{"episodes": 7}')  # of the run that was deleted
    assert not job.finished
    assert job.run() and job.finished and job.run_dir.is_dir()
    assert job.log.read_text().count(FINISHED) == 1
    assert "flags" in json.loads(job.evaluation("deployed").read_text())


def test_a_folder_in_use_is_left_alone(make: Callable[..., Job], capsys: pytest.CaptureFixture[str]) -> None:
    job = make("a")
    job.run_dir.mkdir(parents=True)
    (job.run_dir / "config.yaml").touch()
    with RunFolder.resume(job.run_dir):
        with pytest.raises(UserError, match="is in use by process"):
            job.run()
        assert run_jobs([job], LocalRunner(1), lambda _: None) == [job]
    assert "room/a: failed; " in (output := capsys.readouterr().out) and "is in use by process" in output
    assert (job.run_dir / "config.yaml").exists()


def test_an_interrupt_stops_what_runs_and_starts_nothing(make: Callable[..., Job]) -> None:
    running, waiting = make("running", "wait"), make("waiting", "wait")

    def interrupt() -> None:
        wait_for((running.run_dir / "waits").exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_jobs([running, waiting], LocalRunner(1), lambda _: None)
    assert (running.run_dir / "checkpoints" / "last").read_text() == "1"
    assert "\nstopped after" in running.log.read_text()
    assert not waiting.run_dir.exists()


def test_an_interrupt_while_jobs_are_given_stops_those_that_run(make: Callable[..., Job]) -> None:
    running = make("running", "wait")

    def given() -> Iterator[Job]:
        yield running
        wait_for((running.run_dir / "waits").exists)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(given(), LocalRunner(1), lambda _: None)
    assert "\nstopped after" in running.log.read_text()


@pytest.mark.parametrize(("number", "again"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_only_who_pressed_a_key_is_told_to_press_it_again(
    number: int, again: bool, make: Callable[..., Job], capsys: pytest.CaptureFixture[str]
) -> None:
    def given() -> Iterator[Job]:
        yield make("a", "wait")
        raise Interrupted(number)

    with pytest.raises(Interrupted):
        run_jobs(given(), LocalRunner(1), lambda _: None)
    said = capsys.readouterr().err
    assert "stopping: the runs save a checkpoint first" in said and ("press ^C again" in said) == again


def test_a_second_interrupt_ends_what_does_not_stop(make: Callable[..., Job]) -> None:
    job = make("a", "ignore")

    def interrupt_twice() -> None:
        wait_for((job.run_dir / "waits").exists)
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: job._is_stopped)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_twice).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job], LocalRunner(1), lambda _: None)
    assert time.monotonic() - started < PATIENCE and "\nstopped after" in job.log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of the end of its parent")
def test_a_run_saves_a_checkpoint_and_ends_when_its_study_is_killed(tmp_path: Path) -> None:
    code = f"""
import pathlib, sys
from softflow.studies import jobs
jobs.TRAIN = [sys.executable, "-c", {RUN!r}, "wait"]
jobs.Job(pathlib.Path({str(tmp_path / "room" / "a")!r}), []).run()
"""
    study = subprocess.Popen([sys.executable, "-c", code])
    wait_for((tmp_path / "room" / "a" / "waits").exists)
    study.kill()
    study.wait()
    wait_for((tmp_path / "room" / "a" / "checkpoints" / "last").exists)


def test_times_are_summed_over_the_parts_of_a_run(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", [])
    job.log.write_text("stopped after 60 s, 90 s of CPU\nfinished in 120 s\nfinished in 30 s, 30 s of CPU\n")
    assert (job.minutes, job.cpu_minutes) == (3.5, 2.0)
    job.run_dir.mkdir()
    (job.run_dir / "config.yaml").touch()
    assert job.finished and not Job(tmp_path / "other", []).finished
    job.log.write_text("what a run prints: finished in 3 s\n")
    assert not job.finished
