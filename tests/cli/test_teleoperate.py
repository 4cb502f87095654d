"""softflow-demo --teleop: what a person did with the keys is what the file holds."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from softflow.data import Episode, load_dataset, load_demonstrations, read_dataset
from softflow.data.summary import count
from softflow.envs import make_env
from softflow.files import WriteError
from softflow.formats.lerobot import writer
from softflow.runs import record_teleoperation
from softflow.teleop import display
from tests.teleop.scripted import DEVICE, ENV, FAR, Plane

ROOT = Path(__file__).parents[2]
DEMO = f"softflow-demo --env {ENV} --teleop {DEVICE} --teleop-rate 1000 --out d.npz"
REST = 0.0, -0.5  # zero in native units, where the second number has the bounds -0.5 and 1.5


def allow_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(display, "UNSEEN", ())


@pytest.fixture
def record(command: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`record("space q|return")` runs the command with these keys."""
    allow_no_display(monkeypatch)
    monkeypatch.setattr(Plane, "total", 0)
    return lambda script, flags="": command(f"{DEMO} {flags} --demonstrator-options.script", script)


def start(seed: int) -> np.ndarray:
    return make_env(ENV).reset(seed=seed)[0]


def recorded() -> list[Episode]:
    return load_demonstrations("d.npz")


def test_the_actions_are_those_of_the_keys(record: Any) -> None:
    result = record("space|q w|-q||-w a|=|return", "--json")
    assert result.status == 0, result
    [episode] = recorded()
    # half of the way from rest to the bound
    up, down = (0.5, -0.5 + 0.5 * 1.5), (-0.5, REST[1])
    expected = [REST, up, (0.0, up[1]), (0.0, up[1]), down, (-0.6, REST[1])]
    np.testing.assert_array_equal(episode.action, np.float32(expected))
    native = np.array([1, 1]) * episode.action + np.array([0, 0.5])
    np.testing.assert_allclose(episode.observation, start(0) + np.cumsum([(0, 0), *native], 0), atol=1e-6)
    assert (episode.terminated, episode.truncated, episode.is_success) == (False, True, False)
    assert json.loads(result.out) | {"file": "d.npz", "episodes": 1, "steps": 6} == json.loads(result.out)
    task = load_dataset("d.npz").task
    assert task is not None and task.name == "Plane-v0" and task.rate is None


def test_a_key_that_is_released_in_the_same_pass_counts_for_one_step(record: Any) -> None:
    assert record("space|q -q||return").status == 0
    np.testing.assert_array_equal(recorded()[0].action[:, 0], np.float32([0, 0.5, 0]))


def test_a_paused_episode_does_not_move(record: Any) -> None:
    assert record("space q||space|||space|return").status == 0
    np.testing.assert_array_equal(recorded()[0].action[:, 0], np.float32([0.5] * 3))


def test_a_discarded_episode_is_repeated_from_the_same_start(record: Any) -> None:
    assert record("space q|||backspace -q|space|return|space||return").status == 0
    first, second = recorded()
    assert (len(first), len(second)) == (1, 2)
    for seed, episode in enumerate((first, second)):
        np.testing.assert_array_equal(episode.observation[0], start(seed))
        assert not episode.action[:, 0].any()


@pytest.mark.parametrize("end", ["escape", "close"])
def test_who_quits_keeps_the_whole_episodes_alone(record: Any, end: str) -> None:
    result = record(f"space||return|space|{end}")
    assert result.status == 0 and result.out.startswith("d.npz: 1 episode, 2 steps")
    assert [len(episode) for episode in recorded()] == [2]


def test_enter_before_the_first_step_keeps_nothing(record: Any) -> None:
    assert "no episode was kept" in record("return|escape").err
    assert not Path("d.npz").exists()


def test_recording_ends_with_the_last_episode(record: Any) -> None:
    result = record("space|return|space|return|space|return", "--episodes 2")
    assert result.status == 0 and len(recorded()) == 2


@pytest.mark.parametrize(("decision", "lengths"), [("return", [3]), ("backspace|space", []), ("close", [3])])
def test_a_person_decides_on_an_episode_that_the_environment_has_ended(
    record: Any, decision: str, lengths: list[int]
) -> None:
    result = record(f"space||||||{decision}", "--env-options.length 3")
    assert result.status == (0 if lengths else 2)
    assert [len(episode) for episode in (recorded() if lengths else [])] == lengths


@pytest.mark.parametrize(("keys", "marked"), [("tab", True), ("tab tab", False), ("", False)])
def test_a_person_marks_success_where_the_environment_does_not_say_it(record: Any, keys: str, marked: bool) -> None:
    assert record(f"space|{keys}|return").status == 0
    assert recorded()[0].is_success is marked


def test_a_mark_lasts_for_one_episode(record: Any) -> None:
    assert record("space|tab|return|space|return").status == 0
    assert [episode.is_success for episode in recorded()] == [True, False]


def test_an_environment_that_says_success_decides(record: Any) -> None:
    speed = "--env-options.says-success true --demonstrator-options.speed 1.0"
    assert record("space|tab|return|space q|||||return", speed).status == 0
    assert [episode.is_success for episode in recorded()] == [False, True]
    assert recorded()[1].observation[-1, 0] > FAR


def test_the_rule_decides_on_returns(record: Any) -> None:
    assert record("space|return|space|tab|return", "--success return>=0").status == 0
    assert [episode.is_success for episode in recorded()] == [True, True]


def test_an_error_of_the_environment_keeps_the_episodes_before(record: Any) -> None:
    result = record("space|return|space||", "--env-options.fails-at 3")
    assert result.status == 2 and len(recorded()) == 1
    *_, kept, error = result.err.splitlines()
    assert kept.endswith("d.npz holds what was kept: 1 episode")
    assert error.startswith("error: step 2 of the demonstration with seed 1: RuntimeError: the motor is hot")


def test_recording_goes_on_after_an_error_if_asked(record: Any) -> None:
    with pytest.warns(UserWarning, match="the motor is hot"):
        result = record("space|||space|return", "--env-options.fails-at 2 --on-env-error restart")
    assert result.status == 0 and "1 more episodes were dropped" in result.out
    np.testing.assert_array_equal(recorded()[0].observation[0], start(1))


@pytest.mark.parametrize(("length", "kept"), [(100, [1]), (3, [1, 3])])
def test_an_interrupt_keeps_the_whole_episodes(record: Any, length: int, kept: list[int]) -> None:
    """Also the one that the environment has ended, on which the person has not decided yet."""
    result = record("space|return|space|||||interrupt|", f"--env-options.length {length}")
    assert result.status == 130
    assert result.err.endswith(f"d.npz holds what was kept: {count(len(kept), 'episode')}\ninterrupted\n")
    assert [len(episode) for episode in recorded()] == kept


def test_the_file_is_there_before_the_recording_ends(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    reset = Plane.reset

    def look(self: Plane, **options: Any) -> Any:
        lengths.append(len(recorded()) if Path("d.npz").exists() else 0)
        return reset(self, **options)

    monkeypatch.setattr(Plane, "reset", look)
    monkeypatch.setattr(record_teleoperation, "SPARING", 0)  # however long it takes
    assert record("space|return|space|return|escape").status == 0
    assert lengths == [0, 1, 2]


LEROBOT = "--out reach --to lerobot --rate 50 --text"
CONVERT = "softflow-data convert reach.npz reach --to lerobot --rate 50 --text 'go far'"


@pytest.fixture
def record_lerobot(command: Any, record: Any) -> Any:
    demo = DEMO.replace("--out d.npz", "")
    return lambda script, flags="": command(
        f"{demo} {flags} --demonstrator-options.script", script, *LEROBOT.split(), "go far"
    )


def test_a_recording_becomes_a_lerobot_dataset(record_lerobot: Any) -> None:
    result = record_lerobot("space q||return|space|return", "--episodes 2")
    assert result.status == 0 and result.out.startswith("reach: 2 episodes, 3 steps"), result
    written, kept = read_dataset("reach", "lerobot"), load_dataset("reach.npz")
    assert kept.task is not None and kept.task.rate is None and written.task == replace(kept.task, rate=50.0)
    assert [len(episode) for episode in written.episodes] == [2, 1]
    for one, other in zip(written.episodes, kept.episodes, strict=True):
        np.testing.assert_allclose(one.action, other.action, atol=1e-7)
        np.testing.assert_array_equal(one.observation[:-1], other.observation[:-1])
    assert pq.read_table("reach/meta/tasks.parquet")["task"].to_pylist() == ["go far"]


@pytest.mark.parametrize(
    ("script", "flags", "status"),
    [("space|return|space||", "--env-options.fails-at 3", 2), ("space|return|space|interrupt||", "", 130)],
)
def test_a_recording_that_does_not_end_says_how_it_is_converted(
    record_lerobot: Any, command: Any, script: str, flags: str, status: int
) -> None:
    result = record_lerobot(script, flags)
    assert result.status == status and f"reach was not written: {CONVERT}" in result.err.splitlines(), result
    assert not Path("reach").exists() and len(load_demonstrations("reach.npz")) == 1
    assert command(*shlex.split(CONVERT)).out == "reach: 1 episode, 1 step\n"


def test_a_folder_that_cannot_be_written_does_not_lose_the_recording(
    record_lerobot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(target: Path, *rest: Any) -> None:
        raise WriteError(28, "No space left on device", str(target))

    monkeypatch.setattr(writer, "write_lerobot", fail)
    result = record_lerobot("space|return")
    assert result.status == 2 and f"reach was not written: {CONVERT}" in result.err.splitlines(), result
    assert len(load_demonstrations("reach.npz")) == 1


def test_a_lerobot_recording_that_keeps_nothing_leaves_nothing(record_lerobot: Any) -> None:
    result = record_lerobot("return|escape")
    assert result.status == 2 and "was not written" not in result.err
    assert not Path("reach").exists() and not Path("reach.npz").exists()


def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    code = (
        "import sys; from softflow.teleop import display; from softflow.cli import demonstrate; display.UNSEEN = (); "
    )
    code += "sys.exit(demonstrate.main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, *DEMO.split()[1:], "--demonstrator-options.script"]
    environment = os.environ | {"SDL_VIDEODRIVER": "dummy", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*line, "space|return"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    success = "success 0.00 [0.00, 0.79]"
    assert done.stdout == f"d.npz: 1 episode, 1 step, {success}\n  mode -1: 1 episode, {success}\n"


def test_a_rate_that_cannot_be_kept_is_reported(record: Any) -> None:
    result = record("space|||return", "--teleop-rate 1e6")
    assert "episode 1 ran at " in result.err and " instead of 1e+06 Hz: use smaller images" in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--teleop keybord", "unknown device 'keybord': did you mean 'keyboard'?"),
        ("--teleop tests.teleop.scripted:Mouse", "has no subclass of softflow.teleop.Device called 'Mouse'"),
        (
            "--teleop tests.teleop.scripted:Plane",
            "the class 'Plane' does not derive from softflow.teleop.Device: write `from softflow.teleop import Device` "
            "and `class Plane(Device)`",
        ),
        ("--teleop no_module:Mouse", "device 'no_module:Mouse': cannot import 'no_module'"),
        ("--teleop gamepad", "no gamepad: none is connected; use the keyboard"),
        ("--teleop-rate 0", "teleop_rate is a positive number of hertz, with teleop, got 0.0"),
        ("--demonstrator-options.speed 2", "speed must be from 0.1 to 1, got 2"),
        ("--demonstrator-options.sped 1", "unexpected keyword argument 'sped'"),
        ("--demonstrator-options.toggle 2", "toggle must be indices from 0 to 1, such as '0' or"),
        ("--demonstrator-options.hold 1", "hold must be true or false, got 1"),
        ("--out reach", "reach must end in .npz, or be a folder with --to lerobot"),
        ("--rate 50", "--rate and --text are stored in LeRobot datasets only: add --to lerobot, or leave them out"),
        ("--to lerobot", "d.npz is the name of a file, --to lerobot writes a folder: leave out .npz"),
        ("--to lerobot --out small.yaml", "small.yaml exists; choose another folder"),
        ("--to lerobot --out reach", "--to lerobot: the control rate is not known: LeRobot needs it, so give it in"),
        (
            "--to lerobot --out reach --rate 1e9",
            "the control rate is 1e+09 Hz, LeRobot's times allow 0.001 to 1e+06 Hz",
        ),
        ("--env peg_insertion", "cannot be made with render_mode='rgb_array'"),
        ("--env tests.teleop.scripted:Blank-v0", "the environment does not render pictures"),
        ("--env-options.render-mode human", "teleop needs render_mode rgb_array, got 'human'"),
    ],
)
def test_bad_input_is_refused(command: Any, monkeypatch: pytest.MonkeyPatch, flags: str, message: str) -> None:
    allow_no_display(monkeypatch)
    result = command(f"{DEMO} {flags}")
    assert result.status == 2 and message in result.err.splitlines()[-1], result
    assert not Path("d.npz").exists() and not Path("reach").exists() and not Path("reach.npz").exists()


def test_a_file_beside_a_folder_is_not_overwritten(command: Any) -> None:
    Path("reach.npz").write_text("mine")
    assert "reach.npz exists; choose another file" in command("softflow-demo --to lerobot --out reach").error()


def test_the_packages_of_lerobot_are_missed_before_a_recording(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "softflow.formats.lerobot.writer")
    monkeypatch.setitem(sys.modules, "softflow.formats.lerobot.features", None)
    error = command("softflow-demo --to lerobot --out reach").error()
    assert "--to lerobot needs the package " in error and 'pip install "softflow[lerobot]"' in error


def test_a_rate_without_a_device_is_refused(command: Any) -> None:
    assert "with teleop, got 5.0" in command("softflow-demo --teleop-rate 5").error()


def test_without_a_display_it_says_so(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for driver in ("offscreen", "dummy"):
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
        for option, refusal in (("sped 1", "unexpected keyword argument 'sped'"), ("hold 1", "hold must be true or ")):
            line = f"softflow-demo --env {ENV} --teleop keyboard --demonstrator-options.{option}"
            assert refusal in command(line).error()  # and no window was opened
        message = command(f"softflow-demo --env {ENV} --teleop keyboard").error()
        assert "no window can be opened" in message and "teleoperation needs a display" in message


@pytest.mark.skipif(sys.platform != "linux", reason="SDL prints this line on Linux")
def test_sdl_prints_no_line_before_the_error(tmp_path: Path) -> None:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "softflow", "demo", "--env", ENV, "--teleop", "keyboard"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: no window can be opened (")
    assert done.stderr.count("\n") == 1


def test_without_pygame_it_says_what_to_install(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "softflow.teleop.window", None)
    assert "pip install 'softflow[teleop]'" in command(f"softflow-demo --env {ENV} --teleop keyboard").error()


def test_help_lists_the_options_of_the_device(command: Any) -> None:
    shown = command("softflow-demo --teleop keyboard --help").out
    assert "Options of the device keyboard:" in shown
    for option in ("speed FLOAT (default: 0.5)", "hold true|false (default: false)", 'toggle INT|STR (default: "")'):
        assert f"--demonstrator-options.{option}" in shown
