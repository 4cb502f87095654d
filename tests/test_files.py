"""Files are written whole or not at all, and what is read is held to a limit that can be raised."""

from __future__ import annotations

from pathlib import Path

import pytest

from softflow.errors import UserError
from softflow.files import SIZE_LIMITS, TEXT_LIMIT, SizeError, WriteError, read_settings, require_size, written_whole
from tests.damage import full_disk


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "film.mp4"
    with written_whole(path) as unfinished:
        assert unfinished.name == "film.mp4"  # libraries go by the suffix
        unfinished.write_text("first")
        assert not path.exists()
    with written_whole(path) as unfinished:
        unfinished.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second" and list(path.parent.iterdir()) == [path]


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    with written_whole(tmp_path / "guard") as unfinished:
        unfinished.mkdir()
        (unfinished / "guard.json").write_text("{}")
        assert not (tmp_path / "guard").exists()
    assert (tmp_path / "guard" / "guard.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["guard"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(28, "No space left on device")])
def test_a_failure_leaves_what_was_there(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises((type(error), WriteError)), written_whole(path) as unfinished:
        unfinished.write_text("after")
        raise error
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_the_error_names_the_file_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(UserError) as full, full_disk(), written_whole(path) as unfinished:
        unfinished.write_text("more than ten bytes")
    assert str(full.value) == f"{path}: cannot be written: File too large"
    assert isinstance(full.value, OSError) and full.value.strerror == "File too large"
    path.write_text("")
    with (
        pytest.raises(UserError, match="file/below: cannot be written: Not a directory"),
        written_whole(path / "below"),
    ):
        pass
    with pytest.raises(UserError, match="folder: cannot be written: No such file"), written_whole(tmp_path / "folder"):
        pass  # and nothing was written


def test_names_may_be_as_long_as_the_system_lets_them(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    with written_whole(path) as unfinished:
        unfinished.write_text("")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("size", "limit"), [(101, 100), (2 * 10**9, 64 * 2**20), (10**30, 1)])
def test_a_limit_can_be_raised_as_the_error_says(size: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    require_size("it", limit, limit)
    with pytest.raises(SizeError) as refused:
        require_size("it", size, limit)
    monkeypatch.setenv(SIZE_LIMITS, str(refused.value).rpartition(f"{SIZE_LIMITS}=")[2])
    require_size("it", size, limit)
    monkeypatch.setenv(SIZE_LIMITS, "0.5")
    with pytest.raises(SizeError):
        require_size("it", limit, limit)


@pytest.mark.parametrize("factor", ["", "many", "0", "-1", "nan", "inf"])
def test_a_factor_that_is_none_is_refused(factor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIZE_LIMITS, factor)
    with pytest.raises(UserError, match=rf"{SIZE_LIMITS} must be a number above 0, got '{factor}'"):
        require_size("it", 1, 1)


def test_settings_are_read_up_to_their_limit(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("é" * (TEXT_LIMIT // 2), encoding="utf-8")
    assert read_settings(path) == "é" * (TEXT_LIMIT // 2)
    path.write_text("a" * (TEXT_LIMIT + 1))
    with pytest.raises(SizeError, match=r"100,001 bytes, more than the 100,000 bytes allowed; .*LIMITS=2$"):
        read_settings(path)
