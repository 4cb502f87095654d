"""Resolution of presets, files and user settings into the configuration of a new or resumed run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from softflow.errors import UserError
from softflow.policies import FlowPolicy
from softflow.runs.assembly import read_base
from softflow.runs.config import TrainConfig, class_for, config_class
from softflow.settings.fields import dotted_values, to_dict
from softflow.settings.presets import Selection, preset_layers, selecting_values
from softflow.settings.typed import Layer, from_layers, load_file
from softflow.training.config import RunConfig

SOURCE = "softflow.train"
"""The source that errors name for settings given in Python."""


def training_layers(selection: Selection, *above: Layer) -> list[Layer]:
    """Load the layers of a selection, including the settings of the base policy that it names, if any.

    The settings of the base override the presets. `--config FILE`, the flags and the layers `above` come on top; if
    they contradict the base, loading the base fails later.

    Raises:
        UserError: The base cannot be loaded, or its policy cannot be steered.
    """
    if selection.base is None:
        return preset_layers(selection, *above)
    policy = read_base(selection.base)
    if not isinstance(policy, FlowPolicy):
        raise UserError(
            f"base {selection.base}: a policy of kind {policy.kind!r} cannot be steered: give the run of its base"
        )
    if selection.flow not in (None, policy.flow_name):
        raise UserError(
            f"base {selection.base}: its flow is {policy.flow_name!r}, not {selection.flow!r}: give no flow"
        )
    values = {name: value for name, value in policy.describe().items() if not name.endswith("_dim")}
    presets = [
        Layer({name: value for name, value in layer.values.items() if name not in values}, layer.source)
        for layer in preset_layers(replace(selection, config=None))
    ]
    file = [load_file(selection.config)] if selection.config is not None else []
    return [*presets, Layer(values, selection.base), *file, *above]


def resolve(config: Mapping[str, Any], settings: Mapping[str, Any]) -> TrainConfig[Any]:
    """Resolve settings that are given in Python, on top of the presets and the file that they name.

    Args:
        config: Settings, with the same keys as in YAML.
        settings: Further settings, which override those of `config`.

    Raises:
        UserError: A key is unknown or missing, a value has the wrong type, or a preset does not exist.
    """
    above = [Layer(settings_of(values), SOURCE) for values in (config, settings)]
    given = {**above[0].values, **above[1].values}
    file = selecting_values(given.get("algo"), given.get("config"))
    chosen = {"algo": RunConfig.algo, "env": RunConfig.env, **file, **given}
    names = [field.name for field in fields(Selection)]
    selection = Selection(**{name: chosen[name] for name in names if isinstance(chosen.get(name), str)})
    layers = training_layers(selection, *above)
    return from_layers(config_class(selection), layers)


def resolve_resumed(saved: TrainConfig[Any], changes: Mapping[str, Any]) -> TrainConfig[Any]:
    """Resolve the configuration of a resumed run with `changes` given in Python, with the same keys as in YAML.

    Raises:
        UserError: A key is unknown, a value has the wrong type, or `require_resumable` refuses a change.
    """
    layers = [Layer(to_dict(saved), "config.yaml"), Layer(settings_of(changes), SOURCE)]
    config = from_layers(class_for(saved.algorithm), layers)
    require_resumable(saved, config)
    return config


LENGTH = "online.steps"
"""May only increase. Schedules over the stage then continue as if it had had the new length from the start."""
CHANGEABLE = (
    "device", "threads", "vectorization_mode", "env_time_limit", "on_env_error", "eval_episodes", "log_every",
    "save_minutes", LENGTH,
)  # fmt: skip


def require_resumable(saved: TrainConfig[Any], config: TrainConfig[Any]) -> None:
    """Raise `UserError` if `config` changes settings of a resumed run other than `CHANGEABLE`."""
    before, after = dotted_values(saved), dotted_values(config)
    if changed := [key for key in before if key not in CHANGEABLE and after[key] != before[key]]:
        may_change = ", ".join(key for key in CHANGEABLE if key in before)
        raise UserError(
            f"a resumed run keeps its settings: {', '.join(changed)} cannot be changed; start a new run, or change "
            f"nothing but {may_change}"
        )
    if LENGTH in before and after[LENGTH] < before[LENGTH]:
        raise UserError(f"{LENGTH} of a resumed run may only grow: it is {before[LENGTH]}, got {after[LENGTH]}")


def settings_of(value: Any) -> Any:
    """Convert paths and numpy scalars among settings given in Python to strings and numbers, as in YAML."""
    if isinstance(value, Mapping):
        return {key: settings_of(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value
