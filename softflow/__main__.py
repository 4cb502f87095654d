"""`softflow train ...` and `python -m softflow train ...`: the same as `softflow-train ...`, for every command."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from softflow import __version__
from softflow.errors import did_you_mean

COMMANDS = {
    "train": ("softflow.cli.train", "train a policy on demonstrations, then by reinforcement learning"),
    "eval": ("softflow.cli.evaluate", "evaluate a policy on held-out episodes"),
    "demo": ("softflow.cli.demonstrate", "record demonstrations, or corrections of a policy"),
    "export": ("softflow.cli.export", "export a policy to a file that runs without softflow"),
    "guard": ("softflow.cli.guard", "calibrate a guard, which monitors the policies of an environment"),
    "data": ("softflow.cli.data", "show, check, convert, repair, merge, filter and split datasets"),
    "robot": ("softflow.cli.robot", "run a policy on a robot, real or simulated, at a fixed rate"),
    "study": ("softflow.cli.study", "train methods, environments, settings and seeds, and tabulate the success"),
    "report": ("softflow.cli.report", "write an HTML page about runs: success, learning curves, episodes and settings"),
    "plot": ("softflow.cli.plot", "plot the success of runs"),
}
"""Module whose `main` runs the command, and a summary of the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command named by the first argument with the remaining arguments. Return its exit status."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: softflow COMMAND ...\n")
        for command, (_, what) in COMMANDS.items():
            print(f"  {command:8} {what}")
        print("\nsoftflow COMMAND --help lists the flags of a command, as softflow-COMMAND --help does.")
        print("softflow --version shows the version, and python -m softflow is the same command.")
        return 0
    if name == "--version":
        print("softflow", __version__)
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}:", did_you_mean(name, COMMANDS), file=sys.stderr)
        return 2
    try:
        command = importlib.import_module(COMMANDS[name][0]).main
    except KeyboardInterrupt:  # the import takes seconds; the command then handles ^C itself
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return command(arguments)


def script() -> int:
    """Run the command that an installed script is named after, such as `softflow-train`. Return its exit status."""
    return main([Path(sys.argv[0]).stem.removeprefix("softflow-"), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
