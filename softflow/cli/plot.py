"""`softflow-plot`: plot the success of runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from softflow.cli.command_line import parse_command_line, run_main
from softflow.errors import UserError
from softflow.report.groups import group_runs
from softflow.report.history import read_histories
from softflow.report.success_figure import SUFFIXES, save_success_figure

DESCRIPTION = """\
Plot success on held-out episodes against environment steps: the mean over seeds, with a 95 % interval over seeds and
episodes. Runs that differ only in their seed form one line. Every environment has its own axes. Requires
softflow[plot]."""


@dataclass
class PlotConfig:
    """Settings of `softflow-plot`."""

    runs: Positional[tuple[str, ...]]
    """Run folders, and folders of softflow-study. The runs may still be training."""
    out: str
    """File to write: .png, .svg or .pdf. An existing file is replaced."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(PlotConfig, argv, prog="softflow-plot", description=DESCRIPTION)
    if not config.runs:
        raise UserError("name at least one run folder")
    if Path(config.out).suffix not in SUFFIXES:
        raise UserError(f"--out must end in {', '.join(SUFFIXES)}, got {config.out!r}")
    save_success_figure(group_runs(read_histories(config.runs)), Path(config.out))
    print(config.out)


if __name__ == "__main__":
    sys.exit(main())
