"""`softflow-robot`: run a trained policy on a robot, real or simulated, at a fixed rate, or record demonstrations."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tyro.conf import Positional

from softflow.cli.command_line import as_json, parse_command_line, run_main
from softflow.data.summary import count
from softflow.errors import UserError, did_you_mean
from softflow.runs.ray_folder import link, serve
from softflow.runs.record_robot import RecordRobotConfig, RobotRecording
from softflow.runs.run_robot import RobotConfig, RobotSession
from softflow.settings.fields import Flat, keys_of
from softflow.settings.presets import known_layers

T = TypeVar("T")
NOTHING = {"p50": None, "p99": None, "max": None}

COMMANDS = {
    "run": "Run a trained policy on a robot, real or simulated, at a fixed rate.",
    "record": "Record demonstrations on a robot, real or simulated, which a person moves with a device.",
    "serve": "Share a learner's folder with a Ray cluster, until ^C. Run it on the learner's machine.",
    "link": "Keep a copy of the learner's folder on a robot's machine, for `softflow-robot run`, until ^C.",
}


@dataclass
class RunRobotConfig:
    """Settings of `softflow-robot run`."""

    run: Positional[str]
    """Run folder, whose best policy acts, the folder of one of its checkpoints, or the folder of a learner, see
    `softflow-train --robots`."""
    session: Flat[RobotConfig]
    json: bool = False
    """Whether to print the result as one JSON object."""


@dataclass
class RecordConfig:
    """Settings of `softflow-robot record`."""

    recording: Flat[RecordRobotConfig]
    json: bool = False
    """Whether to print the result as one JSON object."""


@dataclass
class FolderConfig:
    """Settings of a learner's folder in a cluster."""

    folder: Positional[str]
    """Folder of `softflow-train --robots`. On a robot's machine, the copy of this folder, which is created."""
    cluster: str = "auto"
    """Ray cluster: `auto` for the one that is running on this machine, or HOST:PORT for another one."""
    name: str | None = None
    """Name of the folder in the cluster. By default, the learner uses the folder's own name, and a robot the only name
    that there is."""

    def __post_init__(self) -> None:
        if self.cluster != "auto" and not self.cluster.rpartition(":")[2].isdecimal():
            raise ValueError(f"cluster must be auto or HOST:PORT, got {self.cluster!r}")


@run_main
def main(argv: Sequence[str]) -> None:
    name, *arguments = argv or ["--help"]
    if name in ("-h", "--help"):
        print("usage: softflow-robot COMMAND ...\n")
        for command, description in COMMANDS.items():
            print(f"  {command:8} {description}")
        print("\nsoftflow-robot COMMAND --help lists the flags of a command.")
        return
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}: {did_you_mean(name, COMMANDS)}")
    if name in ("serve", "link"):
        given = _parse(FolderConfig, name, arguments)
        (serve if name == "serve" else link)(given.folder, given.cluster, given.name)
        return
    session, as_object = _session(name, arguments)
    try:
        session.episodes()
    finally:  # what was measured is worth printing also if the robot was stopped
        report = session.report()
        if report.get("deadlines"):
            print(as_json(report) if as_object else _in_words(report))


def _session(name: str, arguments: Sequence[str]) -> tuple[RobotSession | RobotRecording, bool]:
    """Return the episodes of a command, and whether their report is to be printed as JSON."""
    if name == "record":
        recording = _parse(RecordConfig, name, arguments)
        return RobotRecording(recording.recording), recording.json
    running = _parse(RunRobotConfig, name, arguments)
    return RobotSession(running.run, running.session), running.json


def _parse(cls: type[T], name: str, arguments: Sequence[str]) -> T:
    return parse_command_line(
        cls,
        arguments,
        prog=f"softflow-robot {name}",
        description=COMMANDS[name],
        layers_for=lambda selection: known_layers(selection, keys_of(cls)),
    )


def _in_words(report: Mapping[str, Any]) -> str:
    is_timed = report.get("clock", "real") == "real"
    rate = f"{report['rate']:g} Hz{'' if is_timed else ' of simulated time'}"
    lines = [f"{count(report['episodes'], 'episode')} at {rate}"]
    if report["episodes"]:
        low, high = report["success_ci95"]
        lines[0] += f", success {report['success_rate']:.2f} [{low:.2f}, {high:.2f}]"
    if is_timed:
        lines.append(f"{report['missed']:,} of {report['deadlines']:,} deadlines missed")
        if "late_chunks" in report:
            lines.append(f"{report['late_chunks']:,} steps without a chunk in time")
        for name, what in (("jitter_ms", "delay of commands"), ("latency_ms", "from observation to command")):
            p50, p99, highest = report.get(name, NOTHING).values()
            if p50 is not None:
                lines.append(f"{what}: {p50:.2f} ms (p50), {p99:.2f} ms (p99), {highest:.2f} ms (longest)")
    if report.get("takeovers"):
        steps = f"{report['human_steps']:,} of {report['deadlines']:,} steps"
        lines.append(f"{count(report['takeovers'], 'takeover')}: a person acted at {steps}")
    if "guard" in report:
        lines.append("guard: " + ", ".join(f"{name} {count}" for name, count in report["guard"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
