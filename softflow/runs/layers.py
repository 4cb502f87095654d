"""From presets, files and what a user gives to the configuration of a new run, or of one that is resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from softflow.errors import UserError
from softflow.policies import FlowPolicy
from softflow.runs.assembly import read_base
from softflow.runs.config import TrainConfig, class_for, config_class
from softflow.settings.fields import dotted_values, to_dict
from softflow.settings.presets import Selection, preset_layers
from softflow.settings.typed import Layer, from_layers, load_file
from softflow.training.config import RunConfig

SOURCE = "softflow.train"
"""What errors call settings that are given in Python."""


def training_layers(selection: Selection, *above: Layer) -> list[Layer]:
    """Load the presets of a selection, and what follows from the base that it names, if it steers one: above the
    presets, but below `--config FILE`, the flags and the layers `above`, which may contradict it and are then refused.

    Raises:
        UserError: the base cannot be loaded, or is no policy that can be steered.
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
    """Resolve what is given in Python, over the presets and the file that it names.

    Args:
        config: Settings with the keys of YAML.
        settings: More of them, which replace those of `config`.

    Raises:
        UserError: an unknown or missing key, a value of the wrong type, or a preset that does not exist.
    """
    above = [Layer(settings_of(values), SOURCE) for values in (config, settings)]
    given = {**above[0].values, **above[1].values}
    file = load_file(given["config"]).values if isinstance(given.get("config"), str) else {}
    chosen = {"algo": RunConfig.algo, "env": RunConfig.env, **file, **given}
    names = [field.name for field in fields(Selection)]
    selection = Selection(**{name: chosen[name] for name in names if isinstance(chosen.get(name), str)})
    layers = training_layers(selection, *above)
    return from_layers(config_class(selection), layers)


def resolve_resumed(saved: TrainConfig[Any], changes: Mapping[str, Any]) -> TrainConfig[Any]:
    """Resolve the configuration of a run that is resumed with changes, given in Python with the keys of YAML.

    Raises:
        UserError: an unknown key, a value of the wrong type, or what `require_resumable` refuses.
    """
    layers = [Layer(to_dict(saved), "config.yaml"), Layer(settings_of(changes), SOURCE)]
    config = from_layers(class_for(saved.algorithm), layers)
    require_resumable(saved, config)
    return config


LENGTH = "online.steps"
"""May grow. What is scheduled over the stage then goes on as if it had been as long from the start."""
CHANGEABLE = (
    "device", "threads", "vectorization_mode", "env_time_limit", "on_env_error", "eval_episodes", "log_every",
    "save_minutes", LENGTH,
)  # fmt: skip


def require_resumable(saved: TrainConfig[Any], config: TrainConfig[Any]) -> None:
    """Raise `UserError` if a resumed run would not keep the settings that have shaped what it has done so far."""
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
    """Replace paths among the values that are given in Python by texts, which YAML has for them."""
    if isinstance(value, Mapping):
        return {key: settings_of(item) for key, item in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value
