"""The plan of a study: which runs there are, what each is called, and whether they belong to what a folder holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from softflow.errors import UserError, one_line
from softflow.files import written_whole
from softflow.runs.layers import CHANGEABLE, LENGTH
from softflow.training.checkpoint_folders import path_safe
from softflow.training.config import WITHOUT_EFFECT, RunConfig
from softflow.training.run_folder import RunFolder

PLAN = "plan.json"
"""The file of a study that names its runs and their settings."""
SET_BY_STUDY = {
    "algo": "--algos", "env": "--envs", "seed": "--seeds", "run_dir": "FOLDER", "runs": "FOLDER", "resume": "FOLDER",
}  # fmt: skip
"""Settings that flags and the grid may not set, and what sets them."""
MAY_DIFFER = {*WITHOUT_EFFECT, *CHANGEABLE} - {LENGTH, "eval_episodes"}
"""Settings that may differ between the runs of a cell, because results do not depend on them beyond noise."""


@dataclass(frozen=True)
class Choice:
    """A point on the axes of a study."""

    algo: str
    env: str
    seed: int
    grid: Mapping[str, str]
    """The text of each further setting, by its dotted key."""


@dataclass(frozen=True)
class Planned:
    """A run of a study."""

    choice: Choice
    arguments: Sequence[str]
    """Flags of `softflow-train`, without `--seed` and `--run-dir`."""
    settings: Mapping[str, Any]
    """All settings, nested as in YAML."""

    @property
    def cell(self) -> tuple[str, ...]:
        """Environment, method and the values of the grid: what runs that differ only in their seed share."""
        return self.choice.env, self.choice.algo, *(shown(value_at(self.settings, key)) for key in self.choice.grid)

    @property
    def name(self) -> str:
        """The run folder, relative to that of the study."""
        env, algo, *values = self.cell
        grid = [f"_{path_safe(f'{key}={value}')}" for key, value in zip(self.choice.grid, values, strict=True)]
        return f"{path_safe(env)}/{path_safe(Path(algo).stem)}{''.join(grid)}_s{self.choice.seed}"


Resolve = Callable[[Choice], Planned]
"""Resolves the settings of a run as `softflow-train` does. Raises `UserError` if one is not valid."""


def seeds_of(texts: Sequence[str]) -> list[int]:
    """Return the seeds of texts such as `3` and `0..4`, which includes both ends.

    Raises:
        UserError: A text is neither, or a seed is given twice or too high.
    """
    seeds = list[int]()
    for text in texts:
        first, dots, last = text.partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()) or int(last or first) < int(first):
            raise UserError(f"--seeds: {text!r} is no seed such as 3, and no range such as 0..4")
        try:
            RunConfig(seed=int(last or first))
        except ValueError as error:
            raise UserError(one_line(error)) from error
        seeds += range(int(first), int(last or first) + 1)
    return require_different("--seeds", seeds)


def grid_of(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each setting of `--grid`, by its dotted key, from texts such as `num_demos=100,200`.

    Raises:
        UserError: A text is no such text, a setting or value is given twice, or a setting has an axis of its own.
    """
    grid = dict[str, list[str]]()
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name and equals):
            raise UserError(f"--grid: {text!r} is no setting with values, such as online.learning_rate=1e-4,3e-4")
        key = name.removeprefix("--").replace("-", "_")
        require_free(key, f"--grid {key}")
        if key in grid:
            raise UserError(f"--grid {key} is given twice: give all values at once, separated by commas")
        grid[key] = require_different(f"--grid {key}", _split(values))
    return grid


def _split(text: str) -> list[str]:
    """Split a text at the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def require_free(key: str, where: str) -> None:
    """Raise `UserError` if a setting is one that the study itself sets."""
    if key in SET_BY_STUDY:
        raise UserError(f"{where}: the study sets it, use {SET_BY_STUDY[key]}")


def require_different(where: str, values: list[Any]) -> list[Any]:
    """Return the values. Raise `UserError` if there are none, or one is given twice or empty."""
    if not values or "" in values:
        raise UserError(f"{where}: a value is missing")
    if twice := [value for value in values if values.count(value) > 1]:
        raise UserError(f"{where}: {twice[0]!r} is given twice")
    return values


def choices(
    algos: Sequence[str], envs: Sequence[str], seeds: Sequence[int], grid: Mapping[str, Sequence[str]]
) -> list[Choice]:
    """Return all points on the axes. Those of the first seed come first, so that each cell has a result early."""
    points = product(seeds, envs, algos, product(*grid.values()))
    return [Choice(algo, env, seed, dict(zip(grid, values, strict=True))) for seed, env, algo, values in points]


class Plan:
    """The runs of a study, those of earlier calls and of this one.

    Args:
        folder: The folder of the study. It need not exist.

    Raises:
        UserError: It is the folder of a run, or its plan cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        if RunFolder(folder).config_path.is_file():
            raise UserError(f"{folder} is the folder of a run: choose another one for the study")
        self.folder, self.file = folder, folder / PLAN
        self.runs: dict[str, Planned] = {}
        if self.file.is_file():
            try:
                runs = json.loads(self.file.read_text(encoding="utf-8"))["runs"]
                planned = [Planned(Choice(**run.pop("choice")), **run) for run in runs]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{self.file} is no plan of a study ({one_line(error)}): restore it") from error
            self.runs = {run.name: run for run in planned}

    @property
    def grid(self) -> list[str]:
        """The settings on the grid."""
        return next((list(run.choice.grid) for run in self.runs.values()), [])

    def extend(self, wanted: Sequence[Choice], resolve: Resolve) -> list[Planned]:
        """Add runs, and return all that are wanted. Those that the folder has already must have the same settings.

        Raises:
            UserError: A setting is not valid, or differs from that of a run in the folder.
        """
        if self.runs and self.grid != list(wanted[0].grid):
            had, has = (", ".join(grid) or "nothing" for grid in (self.grid, wanted[0].grid))
            raise UserError(f"{self.folder} is a study with {had} on its grid, not {has}: choose another folder")
        planned = [resolve(choice) for choice in wanted]
        names = require_different("the runs", [run.name for run in planned])
        for name, run in zip(names, planned, strict=True):
            if name in self.runs:
                self._require_same(self.runs[name], run)
        for run in self._one_of_each_other_cell(names):
            try:
                again = resolve(run.choice)
            except UserError as error:
                raise UserError(f"{self.folder} holds {run.name}, which cannot have these settings: {error}") from error
            self._require_same(run, again)
        self.runs |= dict(zip(names, planned, strict=True))
        return planned

    def save(self) -> None:
        """Write the plan to the folder."""
        with written_whole(self.file) as file:
            file.write_text(json.dumps({"runs": list(map(asdict, self.runs.values()))}, indent=1), encoding="utf-8")

    def _one_of_each_other_cell(self, names: Sequence[str]) -> Iterator[Planned]:
        seen = {self.runs[name].cell for name in names if name in self.runs}
        for run in self.runs.values():
            if run.cell not in seen:
                seen.add(run.cell)
                yield run

    def _require_same(self, before: Planned, after: Planned) -> None:
        settings = json.loads(json.dumps(after.settings))  # as they are read from the plan
        for key, old, new in _differences(before.settings, settings):
            if key.partition(".")[0] not in MAY_DIFFER:
                raise UserError(
                    f"{self.folder} holds {before.name} with {key} {shown(old)}, not {shown(new)}: "
                    f"choose another folder, or put {key} on the grid of a new study"
                )


def _differences(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in {**before, **after}:
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}".lstrip("."))
    elif before != after:
        yield key, before, after


def value_at(settings: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key. None if there is none."""
    value: Any = settings
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def shown(value: Any) -> str:
    """Return a value as text, as it stands in YAML."""
    return value if isinstance(value, str) else json.dumps(value)
