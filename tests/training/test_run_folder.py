"""Run folders: names, nothing overwritten, checkpoints that survive a crash."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from softflow.errors import UserError
from softflow.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path, "env", "algo", seed=0, run_dir=tmp_path / "run")
    folder.config_path.write_text("seed: 0\n")
    return folder


def writer(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "nested").mkdir()
        (path / "nested" / "weights").write_text(content)

    return write


def content(checkpoint: Path) -> str:
    return (checkpoint / "nested" / "weights").read_text()


def names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints_path.iterdir())


def test_folders_are_named_by_environment_algorithm_time_and_seed(tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path, "my_module:ns/Task-v0", "softflow", seed=3).path for _ in range(3)]
    assert len(set(runs)) == 3
    for path in runs:
        assert path.is_dir()
        assert path.parent == tmp_path / "my_module_ns_Task-v0" / "softflow"
    assert runs[0].name.endswith("_s3")


def test_an_environment_cannot_name_a_folder_outside(tmp_path: Path) -> None:
    assert tmp_path in RunFolder.create(tmp_path, "../../evil", "algo", seed=0).path.resolve().parents


def test_a_used_folder_is_refused(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(UserError, match=rf"{run.path} exists; choose another --run-dir or .* --resume {run.path}"):
        RunFolder.create(tmp_path, "env", "algo", seed=0, run_dir=run.path)
    assert run.config_path.read_text() == "seed: 0\n"
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot make the run folder"):
        RunFolder.create(tmp_path, "env", "algo", seed=0, run_dir=tmp_path / "file")
    with pytest.raises(UserError, match="cannot make the run folder"):
        RunFolder.create(tmp_path / "file", "env", "algo", seed=0)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert RunFolder.create("elsewhere", "env", "algo", seed=0, run_dir=tmp_path / "new").path == tmp_path / "new"


def test_open(tmp_path: Path, run: RunFolder) -> None:
    assert RunFolder.open(str(run.path)).path == run.path
    with pytest.raises(UserError, match="no such run folder"):
        RunFolder.open(tmp_path / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"not a run folder: it has no config\.yaml"):
        RunFolder.open(tmp_path / "other")


def test_no_checkpoint_yet(run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"has no checkpoint yet: .* delete it and start again"):
        run.last_checkpoint()


def test_the_newest_checkpoints_are_kept(run: RunFolder) -> None:
    for step in (0, 8, 9, 10, 100):  # by number, not by name
        assert run.save_checkpoint(step, writer(f"{step}"), keep=3) == run.checkpoints_path / str(step)
        assert run.last_checkpoint() == run.checkpoints_path / str(step)
    assert names(run) == ["10", "100", "9", "last"]
    assert run.save_checkpoint(101, writer("101"), keep=1) == run.last_checkpoint()
    assert names(run) == ["101", "last"]
    assert (run.checkpoints_path / "last").read_text() == "101\n"


def test_more_may_be_kept_than_there_are(run: RunFolder) -> None:
    for step in (1, 2, 3):
        run.save_checkpoint(step, writer(""), keep=5)
    assert names(run) == ["1", "2", "3", "last"]
    with pytest.raises(ValueError, match="keep must be at least 1"):
        run.save_checkpoint(4, writer(""), keep=0)


def test_a_crash_while_writing_leaves_the_checkpoint_before(run: RunFolder) -> None:
    run.save_checkpoint(1, writer("one"))

    def crash(path: Path) -> None:
        writer("half")(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint(2, crash)
    assert content(run.last_checkpoint()) == "one"
    assert not (run.checkpoints_path / "2").exists()
    run.save_checkpoint(2, writer("two"))
    assert content(run.last_checkpoint()) == "two"
    assert names(run) == ["1", "2", "last"]


class PowerCut(BaseException):
    pass


def test_a_crash_while_deleting_leaves_no_half_checkpoint(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        run.save_checkpoint(step, writer("whole"))

    def delete_half(folder: Path) -> None:
        (folder / "nested" / "weights").unlink()
        raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(shutil, "rmtree", delete_half)
        run.save_checkpoint(3, writer("whole"))
    assert [name for name in names(run) if name.isdigit()] == ["2", "3"]
    assert content(run.checkpoints_path / "2") == content(run.last_checkpoint()) == "whole"
    run.save_checkpoint(4, writer("whole"))
    assert names(run) == ["3", "4", "last"]


def test_a_full_disk_leaves_the_checkpoint_before(run: RunFolder) -> None:
    def fill(path: Path) -> None:
        writer("half")(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): make room, then start again"):
        run.save_checkpoint(1, fill)
    run.save_checkpoint(1, writer("one"))
    with pytest.raises(UserError, match=rf"make room, then continue with: softflow-train --resume {run.path}"):
        run.save_checkpoint(2, fill)
    assert content(run.last_checkpoint()) == "one" and names(run) == ["1", "last"]


@pytest.mark.parametrize("crash_at", range(4))
def test_replacing_a_checkpoint_is_safe_at_every_step(
    crash_at: int, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save_checkpoint(1, writer("old"))
    calls = 0
    rename, replace = Path.rename, Path.replace

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == crash_at + 1:
            raise PowerCut

    monkeypatch.setattr(Path, "rename", lambda path, target: (count(), rename(path, target))[1])
    monkeypatch.setattr(Path, "replace", lambda path, target: (count(), replace(path, target))[1])
    try:
        run.save_checkpoint(1, writer("new"))
        crashed = False
    except PowerCut:
        crashed = True
    assert crashed == (crash_at < 3)  # renamed aside, renamed into place, `last` replaced
    monkeypatch.undo()
    assert content(run.last_checkpoint()) == ("old" if crash_at < 2 else "new")
    assert run.last_checkpoint() == run.checkpoints_path / "1"
    run.save_checkpoint(1, writer("newest"))
    assert content(run.last_checkpoint()) == "newest"
    assert names(run) == ["1", "last"]
