"""The configuration of a run: the settings of every run, and those of its algorithm."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Generic, TypeVar, get_type_hints

from softflow.algos import ALGORITHMS, Algorithm
from softflow.errors import UserError, did_you_mean
from softflow.settings.fields import Flat
from softflow.settings.presets import Selection, preset_layers
from softflow.settings.typed import Layer, from_dict, load_file
from softflow.training.config import RunConfig

Method = TypeVar("Method")


@dataclass(kw_only=True)
class TrainConfig(Generic[Method]):
    """Settings of `softflow-train`, flat in YAML and as flags."""

    run: Flat[RunConfig] = field(default_factory=RunConfig)
    """The settings that are the same for every algorithm."""
    algorithm: str = "softflow"
    """Algorithm to train: one of `softflow.algos.ALGORITHMS`, or `module:Class`."""
    method: Flat[Method]
    """The settings that the algorithm's constructor takes."""


def config_class(selection: Selection) -> type[TrainConfig[Any]]:
    """Return the class of a configuration for the selected algorithm, such as `TrainConfig[SoftFlowConfig]`."""
    return class_for(_algorithm_of(preset_layers(selection)))


def read_config(path: str) -> TrainConfig[Any]:
    """Read the resolved configuration that a run wrote."""
    layer = load_file(path)
    return from_dict(class_for(_algorithm_of([layer])), layer.values, source=path)


def class_for(algorithm: str) -> type[TrainConfig[Any]]:
    """Return the class of a configuration for an algorithm, by the dataclass that its constructor takes.

    Raises:
        UserError: there is no such algorithm, or its constructor does not say what settings it takes.
    """
    constructor = find_algorithm(algorithm).__init__
    try:
        settings = get_type_hints(constructor).get("config")
    except NameError:  # a name that is imported for the type checker alone
        settings = None
    if not (isinstance(settings, type) and is_dataclass(settings)):
        raise UserError(
            f"algorithm {algorithm!r}: {constructor.__qualname__} must annotate `config` with the dataclass of its "
            "settings"
        )
    return TrainConfig[settings]  # type: ignore[valid-type]


def find_algorithm(name: str) -> type[Algorithm]:
    """Find the class that a preset's `algorithm` names: one of `ALGORITHMS`, or anyone's as `module:Class`.

    Raises:
        UserError: there is none, or its module cannot be imported.
    """
    if ":" not in name:
        if name not in ALGORITHMS:
            hint = did_you_mean(name, ALGORITHMS)
            raise UserError(f"unknown algorithm {name!r}: {hint} Those of other modules are named module:Class.")
        return ALGORITHMS[name]
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise UserError(
            f"algorithm {name!r}: cannot import {module_name!r} ({error!r}): is it installed, or its folder in "
            "PYTHONPATH?"
        ) from error
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    algorithms = {key: value for key, value in classes.items() if issubclass(value, Algorithm) and value != Algorithm}
    if class_name not in algorithms:
        raise UserError(
            f"algorithm {name!r}: {module_name!r} has no subclass of softflow.algos.Algorithm called {class_name!r}: "
            f"{did_you_mean(class_name, algorithms)}"
        )
    return algorithms[class_name]


def _algorithm_of(layers: Sequence[Layer]) -> str:
    name = TrainConfig.algorithm
    for layer in layers:
        name = str(layer.values.get("algorithm", name))
    return name
