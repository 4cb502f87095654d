"""`softflow`, `python -m softflow`, and every command's module by itself, are the commands."""

from __future__ import annotations

import configparser
import importlib
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import softflow
from softflow.__main__ import COMMANDS, main, script

ROOT = Path(__file__).parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
SCRIPTS = dict(line.split(" = ") for line in SETUP["options.entry_points"]["console_scripts"].strip().split("\n"))
UMBRELLA = SCRIPTS.pop("softflow")


def test_the_commands_are_those_that_are_installed() -> None:
    assert UMBRELLA == "softflow.__main__:main"
    assert {f"softflow-{name}": "softflow.__main__:script" for name in COMMANDS} == SCRIPTS


def test_a_script_is_the_command_of_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["/usr/bin/softflow-export", "nowhere", "--format", "onnx", "--out", "policy.onnx"]
    )
    assert script() == 2
    assert capsys.readouterr().err.endswith("nowhere: no such run folder\n")


def test_an_interrupt_of_the_imports_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(module: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["softflow-train"])
    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert script() == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # which a process of its own would not have
@pytest.mark.parametrize("name", COMMANDS)
def test_every_module_is_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"softflow-{name}", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    assert not stopped.value.code and f"usage: softflow-{name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert first == list(COMMANDS)


@pytest.mark.parametrize("arguments", [["--version"], *([name, "--version"] for name in COMMANDS)])
def test_every_command_has_its_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr() == (f"softflow {softflow.__version__}\n", "")


def test_the_other_arguments_are_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nowhere", "--format", "onnx", "--out", "policy.onnx"]) == 2
    assert capsys.readouterr().err.endswith("nowhere: no such run folder\n")


def test_an_unknown_command_is_refused_with_the_nearest() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "softflow", "trian", "--seed", "3"]
    run = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "error: unknown command 'trian': did you mean 'train'?\n"
