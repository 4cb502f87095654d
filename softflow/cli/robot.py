"""`softflow-robot`: run a trained policy on a robot, real or simulated, at a fixed rate."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from softflow.cli.command_line import as_json, parse_command_line, run_main
from softflow.data.summary import count
from softflow.errors import UserError, did_you_mean
from softflow.runs.run_robot import RobotConfig, RobotSession
from softflow.settings.fields import Flat, keys_of
from softflow.settings.presets import known_layers

COMMANDS = {"run": "Run a trained policy on a robot, real or simulated, at a fixed rate."}


@dataclass
class RunRobotConfig:
    """Settings of `softflow-robot run`."""

    run: Positional[str]
    """Run folder, whose best policy acts, or a checkpoint's folder in it."""
    session: Flat[RobotConfig]
    json: bool = False
    """Whether to print the result as one JSON object."""


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
    config = parse_command_line(
        RunRobotConfig,
        arguments,
        prog="softflow-robot run",
        description=COMMANDS["run"],
        layers_for=lambda selection: known_layers(selection, keys_of(RunRobotConfig)),
    )
    session = RobotSession(config.run, config.session)
    try:
        session.episodes()
    finally:  # what was measured is worth printing also if the robot was stopped
        report = session.report()
        if report.get("deadlines"):
            print(as_json(report) if config.json else _in_words(report))


def _in_words(report: Mapping[str, Any]) -> str:
    is_timed = report["clock"] == "real"
    lines = [f"{report['episodes']} episodes at {report['rate']:g} Hz{'' if is_timed else ' of simulated time'}"]
    if report["episodes"]:
        low, high = report["success_ci95"]
        lines[0] += f", success {report['success_rate']:.2f} [{low:.2f}, {high:.2f}]"
    if is_timed:
        lines.append(f"{report['missed']:,} of {report['deadlines']:,} deadlines missed")
        lines.append(f"{report['late_chunks']:,} steps without a chunk in time")
        for name, what in (("jitter_ms", "delay of commands"), ("latency_ms", "from observation to command")):
            p50, p99, highest = report[name].values()
            lines.append(f"{what}: {p50:.2f} ms (p50), {p99:.2f} ms (p99), {highest:.2f} ms (longest)")
    if report["takeovers"]:
        steps = f"{report['human_steps']:,} of {report['deadlines']:,} steps"
        lines.append(f"{count(report['takeovers'], 'takeover')}: a person acted at {steps}")
    if "guard" in report:
        lines.append("guard: " + ", ".join(f"{name} {count}" for name, count in report["guard"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
