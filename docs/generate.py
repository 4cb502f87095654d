"""What the site has beyond the text of its pages: the API from docstrings, settings and commands from dataclasses.

A page asks for a part by a comment, which readers of the Markdown do not see:

    <!-- generated: api flows -->
    <!-- generated: settings softflow.training.config:RunConfig -->
    <!-- generated: methods -->
    <!-- generated: commands -->
    <!-- generated: presets envs -->

mkdocs calls `on_page_markdown`; `tests/docs` calls the rest without mkdocs.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from softflow.settings.fields import class_of, field_texts, fields_of, is_nested
from softflow.settings.signatures import metavar

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"^<!-- generated: (\w+) ?(.*?) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the comments of a page by what they ask for."""
    return MARK.sub(lambda mark: PARTS[mark[1]](*mark[2].split()), markdown)


def api(module: str) -> str:
    """List the public names of a module, for mkdocstrings to document. Plain values have no docstring."""
    found = import_module(module)
    names = [name for name in found.__all__ if inspect.isclass(getattr(found, name)) or callable(getattr(found, name))]
    return "\n\n".join(f"::: {module}.{name}" for name in names)


def settings(place: str) -> str:
    """Describe the settings of a dataclass `module:Class` in a table, with those of nested dataclasses."""
    module, _, name = place.partition(":")
    return table(getattr(import_module(module), name))


def methods() -> str:
    """Describe the settings of each algorithm that a preset names."""
    from softflow.algos import ALGORITHMS
    from softflow.runs.config import class_for

    parts = []
    for name in ALGORITHMS.names():
        if ":" not in name:
            method = fields_of(class_for(name))["method"].annotation
            parts.append(f"### `algorithm: {name}`\n\n{table(method)}")
    return "\n\n".join(parts)


def presets(kind: str) -> str:
    """Show the presets in a folder of `configs`."""
    files = sorted((ROOT / "configs" / kind).glob("*.yaml"))
    return "\n\n".join(f"### `{file.stem}`\n\n```yaml\n{file.read_text(encoding='utf-8')}```" for file in files)


def commands() -> str:
    """Describe the flags of every command but softflow-train, whose flags are the settings of a run."""
    from softflow.cli import data, demonstrate, evaluate, export, guard, plot, report, robot, study

    single = {
        "softflow-eval RUN": evaluate.EvalConfig,
        "softflow-demo": demonstrate.DemoConfig,
        "softflow-export RUN": export.ExportConfig,
        "softflow-guard RUN": guard.GuardConfig,
        "softflow-robot run RUN": robot.RunRobotConfig,
        "softflow-robot record": robot.RecordConfig,
        "softflow-robot link FOLDER": robot.FolderConfig,
        "softflow-study FOLDER": study.StudyConfig,
        "softflow-report RUN ...": report.ReportConfig,
        "softflow-plot RUN ...": plot.PlotConfig,
    }
    parts = [f"## `{usage}`\n\n{table(cls)}" for usage, cls in single.items()]
    for name, command in data.COMMANDS.items():
        parts.append(f"## `softflow-data {name}`\n\n{command.description}\n\n{table(command.settings)}")
    return "\n\n".join(parts)


def table(cls: Any) -> str:
    """Return the settings of a dataclass as a table in Markdown.

    Raises:
        ValueError: A setting has no text below it.
    """
    lines = ["| setting | value | default | |", "|---|---|---|---|"]
    for name, annotation, default, text in described(cls):
        value = metavar(annotation).replace("|", " \\| ")
        lines.append(f"| `{name}` | {value} | {shown(default)} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def described(cls: Any, base: object = None, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Yield the key of each setting, its annotation, its default and the text below it."""
    texts = field_texts(class_of(cls))
    for name, field in fields_of(cls, base).items():
        if is_nested(field.annotation):
            given = None if field.default is dataclasses.MISSING else field.default
            yield from described(field.annotation, given, prefix if field.is_flat else f"{prefix}{name}.")
        elif name not in texts:
            raise ValueError(f"{class_of(cls).__name__}.{name} has no text below it")
        else:
            yield f"{prefix}{name}", field.annotation, field.default, texts[name]


def shown(default: Any) -> str:
    """Return a default as it is written in YAML."""
    return "required" if default is dataclasses.MISSING else f"`{json.dumps(default, default=str)}`"


PARTS = {"api": api, "settings": settings, "methods": methods, "presets": presets, "commands": commands}
