"""The table of a run's episodes, `episodes.csv`: one row for each own and each held-out episode that ended.

    stage,step,source,seed,arm,success,ending,length,return,value,achieved,nll
    online,2048,own,10000012,0,1,terminated,31,1.0,0.71,0.83,-0.61

`step` counts as in `metrics.csv`, and `source` is `own` or `held_out`. `value` and `achieved` are means over the
decisions of the episode: what the critic expected of the executed chunk, and the discounted sum of the rewards that
followed. An episode that was cut off (`ending` is `truncated`) may have achieved more than its rewards say. `nll` is
the mean negative log-likelihood, per dimension, of the chunks that the policy proposed and executed. A field is empty
where there is no such value.

Like `metrics.csv`, the table only contains what the seed determines.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import NamedTuple

from softflow.errors import UserError
from softflow.training.run_folder import RunFolder


class EpisodeRow(NamedTuple):
    """A row of the table. Its fields are the columns, which the module docstring explains."""

    stage: str
    step: int
    source: str
    seed: int
    arm: int
    success: bool
    ending: str
    length: int
    reward: float
    value: float | None
    achieved: float | None
    nll: float | None


HEADER = ["return" if name == "reward" else name for name in EpisodeRow._fields]


def as_text(row: EpisodeRow) -> list[str]:
    """Return the fields of a row as they are written."""
    values = [int(value) if isinstance(value, bool) else value for value in row]
    return ["" if value is None else value if isinstance(value, str) else repr(value) for value in values]


def read_episodes(folder: RunFolder) -> list[EpisodeRow] | None:
    """Read the table of a run. The run may be writing its last line, which is then left out.

    Returns:
        The rows in chronological order. None if there is no table: an earlier version trained the run, or it has not
        begun.

    Raises:
        UserError: The table is damaged.
    """
    path = folder.episodes_path
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        header, *rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines())) or [HEADER]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if header != HEADER:
        raise UserError(f"{path} is damaged: its columns are not {', '.join(HEADER)}")
    read: list[EpisodeRow] = []
    for number, fields in enumerate(rows, 2):
        try:
            read.append(_row(fields))
        except ValueError as error:
            raise UserError(f"{path}, line {number} is damaged: {error}") from error
    return read


def _row(fields: Sequence[str]) -> EpisodeRow:
    if len(fields) != len(HEADER):
        raise ValueError(f"{len(fields)} fields, expected {len(HEADER)}")
    stage, step, source, seed, arm, success, ending, length, reward, *measured = fields
    if source not in ("own", "held_out") or ending not in ("terminated", "truncated") or success not in ("0", "1"):
        raise ValueError(f"unknown source, ending or success: {source!r}, {ending!r}, {success!r}")
    value, achieved, nll = (float(text) if text else None for text in measured)
    numbers = int(length), float(reward), value, achieved, nll
    return EpisodeRow(stage, int(step), source, int(seed), int(arm), success == "1", ending, *numbers)
