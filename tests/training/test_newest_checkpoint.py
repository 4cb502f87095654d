"""The newest checkpoint of a run: none yet, a lost pointer to it, and a reader while others are saved or removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softflow.errors import UserError
from softflow.training.run_folder import RunFolder
from tests.training.test_run_folder import content, writer


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path, "env", "algo", seed=0, run_dir=tmp_path / "run")
    folder.config_path.write_text("seed: 0\n")
    return folder


def test_no_checkpoint_yet(run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"has no checkpoint yet: .* delete it and start again"):
        run.last_checkpoint()


@pytest.mark.parametrize("pointer", [None, "77"])
def test_a_lost_pointer_is_no_reason_to_delete_the_run(pointer: str | None, run: RunFolder) -> None:
    for step in (9, 100):
        run.save_checkpoint(step, writer(""))
    last = run.checkpoints_path / "last"
    last.unlink() if pointer is None else last.write_text(pointer)
    with pytest.raises(UserError, match=r"last is missing, or names a folder that is: .* write 100 into it"):
        run.last_checkpoint()
    last.write_text("100\n")
    assert run.last_checkpoint() == run.checkpoints_path / "100"


@pytest.mark.parametrize("saved_meanwhile", [(2, 3), (1,)])  # then the first is removed, or replaced
def test_a_reader_gets_the_next_checkpoint_if_its_own_is_removed(
    saved_meanwhile: tuple[int, ...], run: RunFolder
) -> None:
    run.save_checkpoint(1, writer("old"))
    attempts = list[Path]()

    def read(checkpoint: Path) -> str:
        attempts.append(checkpoint)
        if len(attempts) == 1:
            for step in saved_meanwhile:
                run.save_checkpoint(step, writer("new"), keep=1)
            raise UserError("half of it is another's")
        return content(checkpoint)

    assert RunFolder.open(run.path).read_best(read) == "new" and len(attempts) == 2


def test_a_damaged_checkpoint_is_read_once(run: RunFolder) -> None:
    run.save_checkpoint(1, writer("damaged"))
    attempts = list[Path]()

    def read(checkpoint: Path) -> None:
        attempts.append(checkpoint)
        raise UserError("damaged")

    with pytest.raises(UserError, match="damaged"):
        run.read_best(read)
    assert len(attempts) == 1


def test_a_reader_finds_the_newest_checkpoint_while_others_are_saved(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what it reads in `last` and its look at the folder, that one is removed."""
    run.save_checkpoint(1, writer("old"))
    read_text = Path.read_text

    def read_and_save(path: Path, **options: Any) -> str:
        text = read_text(path, **options)
        if text == "1\n":
            run.save_checkpoint(2, writer("new"), keep=1)
        return text

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", read_and_save)
        assert content(RunFolder.open(run.path).last_checkpoint()) == "new"
