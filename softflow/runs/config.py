"""The configuration of a run: the settings that all runs share, and those of its algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from softflow.algos import SoftFlowConfig, SteeringConfig, find_algorithm
from softflow.algos.settings import PolicyConfig
from softflow.errors import UserError
from softflow.settings.fields import Flat
from softflow.settings.presets import Selection, preset_layers
from softflow.settings.ranges import check_ranges
from softflow.settings.typed import Layer, from_dict, load_file
from softflow.training.config import RunConfig

Method = TypeVar("Method")

EARLIER: dict[type, Mapping[str, Any]] = {
    RunConfig: {"imitate": "reward_to_come"},
    PolicyConfig: {"normalize_actions": False, "imitation": {"initial_noise": 0.0}},
    SteeringConfig: {"trials": {"enabled": False}},
    SoftFlowConfig: {"trials": {"enabled": False}, "online": {"critic_updates": 1}},
}
"""What runs did before the settings existed, by the dataclass of their settings."""


@dataclass(kw_only=True)
class TrainConfig(Generic[Method]):
    """Settings of `softflow-train`, which are flat in YAML and as flags."""

    run: Flat[RunConfig] = field(default_factory=RunConfig)
    """Settings that every algorithm shares."""
    algorithm: str = "softflow"
    """Algorithm in place of a preset: a registered name such as `sac`, or `module:Class`. Usually `--algo` sets it."""
    method: Flat[Method]
    """Settings of the algorithm, as its constructor declares them."""

    def __post_init__(self) -> None:
        check_ranges(self.method)


def config_class(selection: Selection) -> type[TrainConfig[Any]]:
    """Return the configuration class of the selected algorithm, such as `TrainConfig[SoftFlowConfig]`."""
    return class_for(algorithm_of(selection))


def algorithm_of(selection: Selection) -> str:
    """Return the name of the selected algorithm."""
    return selection.algorithm or _algorithm_of(preset_layers(selection))


def chosen_name(config: TrainConfig[Any]) -> str:
    """Return the name by which the algorithm was chosen, for errors: that of its preset, or else its own."""
    return config.algorithm if config.run.algo == RunConfig.algo else config.run.algo


def read_config(path: str) -> TrainConfig[Any]:
    """Read the resolved configuration that a run wrote. What it lacks is what `EARLIER` says of its settings."""
    layer = load_file(path)
    config, values = class_for(_algorithm_of([layer])), layer.values
    (method,) = get_args(config)
    for settings, earlier in EARLIER.items():
        if settings is RunConfig or issubclass(method, settings):
            values = _completed(values, earlier)
    return from_dict(config, values, source=path)


def _completed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values, and defaults for the keys that they lack."""
    completed = {**defaults, **values}
    for name, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(completed[name], Mapping):
            completed[name] = _completed(completed[name], default)
    return completed


def class_for(algorithm: str) -> type[TrainConfig[Any]]:
    """Return the configuration class of an algorithm, from the dataclass that its constructor takes.

    Raises:
        UserError: There is no such algorithm, or its constructor does not annotate its settings.
    """
    constructor = find_algorithm(algorithm).__init__
    try:
        settings = get_type_hints(constructor).get("config")
    except (NameError, AttributeError):  # a name that is only imported for the type checker
        settings = None
    if not (isinstance(settings, type) and is_dataclass(settings)):
        raise UserError(
            f"algorithm {algorithm!r}: {constructor.__qualname__} must annotate `config` with the dataclass of its "
            "settings"
        )
    return TrainConfig[settings]  # type: ignore[valid-type]


def _algorithm_of(layers: Sequence[Layer]) -> str:
    name = TrainConfig.algorithm
    for layer in layers:
        name = str(layer.values.get("algorithm", name))
    return name
