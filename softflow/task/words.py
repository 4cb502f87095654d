"""A task in words, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def heading(task: Mapping[str, Any]) -> str:
    """Return the name, the control rate and the success rule of a task that `TaskSpec.describe` described."""
    rate = "control rate not known" if task["rate"] is None else f"{task['rate']:g} Hz"
    return f"{task['name'] or 'without a name'}, {rate}, success rule {task['success']}"


def observation_lines(task: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each part of its observation: the name, the dtype, the shape, and what else is known."""
    return table([_part(part) for part in task["observation"]])


def task_in_words(task: Mapping[str, Any], numbers: Sequence[str]) -> str:
    """Return the text of a task.

    Args:
        task: What `TaskSpec.describe` returned.
        numbers: The names of all numbers of an action, `TaskSpec.action_names`.
    """
    bounds = [bound for part in task["action"] for bound in zip(part["low"], part["high"], strict=True)]
    actions = [(name, f"{low:.4g} to {high:.4g}") for name, (low, high) in zip(numbers, bounds, strict=True)]
    return "\n".join(
        [f"task: {heading(task)}", "observations:", *observation_lines(task), "actions, with bounds:", *table(actions)]
    )


def _part(part: Mapping[str, Any]) -> tuple[str, ...]:
    shape = " x ".join(map(str, part["shape"])) or "one number"
    notes = [f"image {part['axes']}"] if "axes" in part else []
    if "value_range" in part:
        notes.append("black {:g}, white {:g}".format(*part["value_range"]))
    if "categories" in part:
        notes.append(f"categories: {', '.join(map(str, part['categories']))}")
    notes += part.get("names", ())
    return part["name"], f"{part['dtype']} {shape}", ", ".join(notes)


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the rows as indented lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
