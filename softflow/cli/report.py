"""`softflow-report`: write a page about runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from softflow.cli.command_line import parse_command_line, run_main
from softflow.errors import UserError
from softflow.report.report import write_report

DESCRIPTION = """\
Write one HTML page about runs: success, learning curves, values, own episodes, data, settings and films. Runs that
differ only in their seed are pooled. The page needs no other file and no network. Requires softflow[plot]."""


@dataclass
class ReportConfig:
    """Settings of `softflow-report`."""

    runs: Positional[tuple[str, ...]]
    """Run folders, and folders of softflow-study. The runs may still be training."""
    out: str = "report.html"
    """HTML file to write. An existing file is replaced."""
    films: int = 0
    """Number of successful and of failed episodes to film, for the best policy of each setting. Requires
    softflow[video] and an environment that renders."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(ReportConfig, argv, prog="softflow-report", description=DESCRIPTION)
    if not config.runs:
        raise UserError("name at least one run folder")
    if Path(config.out).suffix not in (".html", ".htm"):
        raise UserError(f"--out must end in .html, got {config.out!r}")
    if config.films < 0:
        raise UserError(f"--films must be 0 or more, got {config.films}")
    write_report(config.runs, Path(config.out), config.films)
    print(config.out)


if __name__ == "__main__":
    sys.exit(main())
