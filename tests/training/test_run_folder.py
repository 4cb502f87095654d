"""Run folders: names, nothing overwritten, checkpoints that survive a crash."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softflow.errors import UserError
from softflow.training.run_folder import RunFolder
from softflow.training.run_lock import Holder


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


def test_a_folder_belongs_to_the_run_that_made_it(tmp_path: Path) -> None:
    """Also before anything is in it; in the end it may be used again, if nothing is."""
    new = tmp_path / "new"
    with RunFolder.create(tmp_path, "env", "algo", seed=0, run_dir=new) as folder:
        with pytest.raises(UserError, match=f"{new} is in use by process {os.getpid()} on .*: wait until it has ended"):
            RunFolder.create(tmp_path, "env", "algo", seed=0, run_dir=new)
        assert [path.name for path in new.iterdir()] == ["lock"]
        folder.config_path.write_text("seed: 0\n")
        with pytest.raises(UserError, match="is in use by process"):
            RunFolder.resume(new)
        assert RunFolder.open(new).path == new  # to read it
    with RunFolder.resume(new):
        assert (new / "lock").is_dir()
    assert [path.name for path in new.iterdir()] == ["config.yaml"]


def test_a_folder_that_a_killed_run_left_empty_is_taken(tmp_path: Path) -> None:
    (tmp_path / "new" / "lock").mkdir(parents=True)
    (tmp_path / "new" / "lock" / replace(Holder.here(), start="1").name).touch()  # its number is another's now
    with RunFolder.create(tmp_path, "env", "algo", seed=0, run_dir=tmp_path / "new") as folder:
        assert folder.path == tmp_path / "new"


@pytest.mark.parametrize("error", [UserError("refused"), KeyboardInterrupt()])
def test_a_run_that_ends_before_its_first_checkpoint_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for run_dir in ("mine", "a/b/c", None):
        with pytest.raises(type(error)):
            with RunFolder.create(tmp_path / "runs", "e", "a", 0, run_dir and tmp_path / run_dir) as folder:
                folder.save_settings(lambda path: path.write_text("seed: 0\n"))
                folder.tensorboard_path.mkdir()
                raise error
        assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
    with pytest.raises(type(error)):
        with RunFolder.create(tmp_path / "runs", "e", "a", 0) as folder:
            folder.save_checkpoint(0, writer("kept"))
            raise error
    assert content(RunFolder(folder.path).last_checkpoint()) == "kept" and not (folder.path / "lock").exists()


def test_folders_of_others_stay(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        with RunFolder.create(tmp_path / "runs", "env", "algo", seed=0):
            (tmp_path / "runs" / "env" / "theirs").mkdir()
            raise UserError("refused")
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "env", "theirs"]


def test_the_current_folder_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunFolder.create("runs", "env", "algo", seed=0, run_dir="run") as folder:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        folder.save_checkpoint(1, writer("one"))
    assert folder.given == "run" and folder.last_checkpoint() == tmp_path / "run" / "checkpoints" / "1"
    assert not any((tmp_path / "elsewhere").iterdir()) and not (tmp_path / "run" / "lock").exists()


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

    rmtree = shutil.rmtree

    def delete_half(folder: Path, **options: Any) -> None:
        if not str(folder).endswith(".replaced"):
            return rmtree(folder, **options)
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


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room, then continue with"),
        (errno.EDQUOT, "make room, then continue with"),
        (errno.EFBIG, r"allow larger files \(`ulimit -f`\), then continue with"),
        (errno.EROFS, "make it writable, then continue with"),
        (errno.EACCES, "make it writable, then continue with"),
        (errno.EMFILE, r"allow more open files \(`ulimit -n`\) or use fewer environments, then continue with"),
        (errno.EIO, "see to that, then continue with"),
    ],
)
def test_what_to_do_depends_on_why_it_cannot_be_written(number: int, advice: str, run: RunFolder) -> None:
    run.save_checkpoint(1, writer("one"))
    message = rf"^{run.path} cannot be written \({os.strerror(number)}\): {advice}: softflow-train --resume {run.path}$"
    with pytest.raises(UserError, match=message), run.writing():
        raise OSError(number, os.strerror(number))


def test_a_deleted_folder_has_to_be_put_back(run: RunFolder) -> None:
    run.save_checkpoint(1, writer("one"))
    shutil.rmtree(run.path)
    with pytest.raises(UserError, match=r"\(No such file or directory\): put back what was moved or deleted of it"):
        run.save_checkpoint(2, writer("two"))
    run.close()  # what remains of its lock does not matter


def test_settings_are_replaced_as_a_whole(run: RunFolder) -> None:
    def fill(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="make room"):
        run.save_settings(fill)
    assert run.config_path.read_text() == "seed: 0\n"
    run.save_settings(lambda path: path.write_text("seed: 1\n"))
    assert run.config_path.read_text() == "seed: 1\n"
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "lock"]


@pytest.mark.parametrize("crash_at", range(4))
def test_replacing_a_checkpoint_is_safe_at_every_step(
    crash_at: int, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save_checkpoint(1, writer("old"))
    calls = 0
    rename, replace_ = Path.rename, Path.replace

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == crash_at + 1:
            raise PowerCut

    monkeypatch.setattr(Path, "rename", lambda path, target: (count(), rename(path, target))[1])
    monkeypatch.setattr(Path, "replace", lambda path, target: (count(), replace_(path, target))[1])
    try:
        run.save_checkpoint(1, writer("new"))
        crashed = False
    except PowerCut:
        crashed = True
    assert crashed == (crash_at < 3)  # renamed aside, renamed into place, `last` replaced
    monkeypatch.undo()
    left = names(run)
    assert content(run.last_checkpoint()) == ("old" if crash_at < 2 else "new")
    assert names(run) == left  # it is read where it is
    run.save_checkpoint(1, writer("newest"))
    assert content(run.last_checkpoint()) == "newest"
    assert names(run) == ["1", "last"]


def test_a_run_that_has_saved_is_never_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder.create("", "", "", 0, tmp_path / "run") as run:
        run.save_settings(lambda path: path.write_text("seed: 0"))
        run.save_checkpoint(1, writer("whole"))
        shutil.rmtree(run.checkpoints_path)
        raise ZeroDivisionError
    assert run.config_path.is_file()


def test_a_folder_that_is_gone_does_not_hide_the_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder.create("", "", "", 0, tmp_path / "run") as run:
        shutil.rmtree(run.path)
        raise ZeroDivisionError
