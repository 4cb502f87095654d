"""A summary of a dataset, as plain values and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softflow.data.action_statistics import action_statistics
from softflow.data.demonstrations import Dataset, check_compatible
from softflow.data.episodes import Episode
from softflow.data.imitable import ImitationRule, episode_return
from softflow.task import TaskSpec
from softflow.task.words import heading, observation_lines, table

CONSTANT, FEW_VALUED, CONTINUOUS, FIXED = "constant", "few values", "continuous", "fixed"
"""What a number of the action does in the data: never changes, takes few values, or anything else. A fixed number has
only one value within its bounds."""


def summary_of(dataset: Dataset) -> dict[str, Any]:
    """Summarise a dataset in plain values that JSON has.

    The values of `task` are those of `TaskSpec.describe`, or None. `observation_dim` counts the numbers, or bytes where
    there are images, of one observation. `length` (in steps) and `return` have `min`,
    `median` and `max`. Each entry of `actions` is one number of the native action: its `name`, the `min` and `max` in
    the data, the bounds `low` and `high`, and what it does, as `values`. Without a task, actions are in [-1, 1].
    `repeated_final_observations` counts the episodes whose final observation equals the one before, as it does where
    the true one was not recorded. `takeovers` counts the episodes in which a person acted in place of the policy, and
    `human_steps` the steps at which this was so. `imitate` is what `--imitate auto` chooses: the `rule`, and a `line`
    that says why.

    Raises:
        DemonstrationError: The dimensions of an episode differ from those of the task or of the first episode.
    """
    episodes, task = dataset
    first = episodes[0]
    if task is not None:
        check_compatible(episodes, task.observation_size, task.action_dim)
    else:
        check_compatible(episodes, first.layout or first.observation_dim, first.action_dim)
    chosen = ImitationRule().choose(episodes)
    return {
        "task": None if task is None else task.describe(),
        "observation_dim": first.observation_dim,
        "observation_dtype": first.observation.dtype.name,
        "action_dim": first.action_dim,
        "episodes": len(episodes),
        "steps": sum(map(len, episodes)),
        "successes": sum(episode.is_success for episode in episodes),
        "terminated": sum(episode.terminated for episode in episodes),
        "length": _spread([len(episode) for episode in episodes]),
        "return": _spread([episode_return(episode) for episode in episodes]),
        "actions": _actions(episodes, task),
        "repeated_final_observations": sum(
            np.array_equal(episode.observation[-1], episode.observation[-2]) for episode in episodes
        ),
        "takeovers": sum(episode.human is not None and bool(episode.human.any()) for episode in episodes),
        "human_steps": sum(int(episode.human.sum()) for episode in episodes if episode.human is not None),
        "imitate": {"rule": chosen.rule.text, "line": chosen.describe(episodes)},
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _actions(episodes: Sequence[Episode], task: TaskSpec | None) -> list[dict[str, Any]]:
    """Return the range of each number of the action, in native units if the task is known."""
    statistics = action_statistics(episodes)
    extremes = np.stack(
        [
            np.min([episode.action.min(0) for episode in episodes], 0),
            np.max([episode.action.max(0) for episode in episodes], 0),
        ]
    ).astype(np.float64)
    values = np.where(statistics.constant, CONSTANT, np.where(statistics.few_valued, FEW_VALUED, CONTINUOUS)).tolist()
    if task is None:
        names = [f"action[{index}]" for index in range(len(values))]
        low, high = np.full((2, len(values)), [[-1.0], [1.0]])
    else:
        names = task.action_names
        low, high, extremes = task.low, task.high, task.native_actions(extremes, np.float64)
        learnt = iter(values)
        values = [next(learnt) if is_free else FIXED for is_free in low < high]
    columns = (names, *extremes.tolist(), low.tolist(), high.tolist(), values)
    keys = ("name", "min", "max", "low", "high", "values")
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]


def in_words(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of text that say what `summary_of` returned."""
    episodes, task = summary["episodes"], summary["task"]
    yield f"{count(episodes, 'episode')}, {count(summary['steps'], 'step')}, {count(summary['successes'], 'success')}"
    for name, unit in (("length", " steps"), ("return", "")):
        spread = summary[name]
        yield f"{name}: {spread['min']:g} to {spread['max']:g}{unit}, median {spread['median']:g}"
    yield f"ends: {summary['terminated']} terminated, {episodes - summary['terminated']} truncated"
    if taken := summary["takeovers"]:
        share = summary["human_steps"] / summary["steps"]
        yield (
            "a person acted at every step"
            if share == 1
            else f"takeovers: in {taken:,} of {count(episodes, 'episode')}; a person acted at {share:.1%} of the steps"
        )
    if repeated := summary["repeated_final_observations"]:
        yield (
            f"final observation: equal to the one before in {repeated:,} of {count(episodes, 'episode')}, so the true "
            "one may not have been recorded"
        )
    else:
        yield "final observation: different from the one before in every episode"
    if task is None:
        yield (
            f"task: not in the file; observations are rows of {summary['observation_dim']:,} "
            f"{summary['observation_dtype']}, actions are in [-1, 1]"
        )
    else:
        yield f"task: {heading(task)}"
        yield "observations:"
        yield from observation_lines(task)
    yield "actions, with their range in the data:"
    yield from table([_action(action) for action in summary["actions"]])
    yield summary["imitate"]["line"]


def count(number: int, what: str) -> str:
    """Return a number with a noun in singular or plural."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def _action(action: Mapping[str, Any]) -> tuple[str, ...]:
    data = f"{action['min']:.4g} to {action['max']:.4g}"
    note = "" if action["values"] == CONTINUOUS else action["values"]
    return action["name"], data, f"bounds {action['low']:.4g} to {action['high']:.4g}", note
