"""Presets: named settings in `configs/algos`, `configs/envs` and `configs/presets`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from softflow.errors import nearest
from softflow.settings.typed import ConfigError, Layer, load_file

Kind = Literal["algos", "envs", "presets"]
_NOUNS: dict[Kind, str] = {"algos": "algorithm", "envs": "environment", "presets": "preset"}


@dataclasses.dataclass(frozen=True)
class Selection:
    """The settings that select the presets, or the run, from which a command takes its other settings."""

    algo: str | None = None
    algorithm: str | None = None
    env: str | None = None
    preset: str | None = None
    config: str | None = None
    flow: str | None = None
    reward: str | None = None
    base: str | None = None
    corrections: str | None = None
    resume: str | None = None


def available_presets(kind: Kind) -> list[str]:
    """Return the names of the installed presets, sorted."""
    folder = _presets() / kind
    files = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def load_preset(kind: Kind, name: str) -> Layer:
    """Load `configs/<kind>/<name>.yaml` from the installed package, or the preset of a third-party registered task.

    Raises:
        ConfigError: The name is unknown, or the preset cannot be read.
    """
    available = available_presets(kind)
    if name not in available:
        if kind == "envs" and (layer := _preset_of_task(name)):
            return layer
        near, other = nearest(name, available), ""
        if kind == "envs":
            from softflow.envs.tasks import FOREIGN_IDS, nearest_environment, short_names

            available = sorted({*available, *short_names()})
            near, other = nearest_environment(name, available), f". {FOREIGN_IDS}"
        hint = f"did you mean {near!r}? " if near else ""
        raise ConfigError(f"unknown {_NOUNS[kind]} {name!r}: {hint}valid: {', '.join(available) or 'none'}{other}")
    return load_file(_presets() / kind / f"{name}.yaml", source=f"configs/{kind}/{name}.yaml")


def _preset_of_task(name: str) -> Layer | None:
    from softflow.envs.tasks import find_task  # imported here, because it loads the simulators

    task = find_task(name)
    if task is None or task.short_name != name:
        return None
    if isinstance(task.preset, str | Path):
        return load_file(str(task.preset))
    return Layer(dict(task.preset or {}), f"the preset of {task.env_id!r}")


def _presets() -> Traversable:
    try:
        return resources.files("softflow.configs")
    except ModuleNotFoundError as error:
        raise ConfigError("the presets are not installed: run `pip install -e .` in the checkout") from error


def selecting_values(algo: Any, config: Any) -> dict[str, str]:
    """Read the values of a preset of an algorithm that is a file, and of a `config` file, that may belong to a
    `Selection`. They do not include `algorithm`, which the presets decide."""
    files = [path for path in (algo, config) if isinstance(path, str) and (path is config or is_file(path))]
    values = {key: value for path in files for key, value in load_file(path).values.items() if isinstance(value, str)}
    values.pop("algorithm", None)
    return values


def is_file(algo: str) -> bool:
    """Whether the preset of an algorithm is a file, and not the name of one of ours."""
    return algo.endswith((".yaml", ".yml"))


def preset_layers(selection: Selection, *above: Layer) -> list[Layer]:
    """Load the layers that a selection names, followed by the layers `above`.

    If the selection names an algorithm itself, no preset of one is loaded. The preset of an algorithm may be any file,
    `my_preset.yaml`. A gymnasium id (`module:Id-v0`) needs no preset.

    Presets of environments, and presets such as `quick`, may contain settings for one algorithm below
    `algorithms: NAME:`. NAME can also be a preset of an algorithm, whose settings override those of the algorithm.
    An algorithm of another module also gets the settings of the one of softflow's from which it derives, below its own.
    If a layer names a flow, and a later layer or the selection names another, the earlier layer's `flow_options` are
    dropped.

    Raises:
        ConfigError: A preset is unknown or cannot be read, or that of an algorithm does not name it.
        UserError: The algorithm is unknown.
    """
    layers = []
    algorithm = selection.algorithm
    if algorithm is not None:  # then the preset of another algorithm does not count
        layers.append(Layer({"algorithm": algorithm}, "algorithm"))
    elif selection.algo is not None:
        preset = load_file(selection.algo) if is_file(selection.algo) else load_preset("algos", selection.algo)
        layers.append(preset)
        named = preset.values.get("algorithm")
        if is_file(selection.algo) and named is None:
            raise ConfigError(f"{preset.source}: no algorithm is named: add a line such as `algorithm: softflow`")
        algorithm = None if named is None else str(named)
    names = dict.fromkeys((_ancestor_of(algorithm), algorithm, selection.algo))
    if selection.env is not None and not re.search(r"[/:]|-v\d+$", selection.env):
        layers += _for_algorithm(load_preset("envs", selection.env), names)
    if selection.preset is not None:
        layers += _for_algorithm(load_preset("presets", selection.preset), names)
    if selection.config is not None:
        layers.append(load_file(selection.config))
    layers += above
    flows = [layer.values["flow"] for layer in layers if "flow" in layer.values]
    flow = selection.flow or (flows or [None])[-1]
    return [_without(layer, "flow_options") if layer.values.get("flow", flow) != flow else layer for layer in layers]


def known_layers(selection: Selection, known: Collection[str]) -> list[Layer]:
    """Load the layers of a selection for a command that has only the `known` ones of a training's settings."""
    return [
        Layer({name: value for name, value in layer.values.items() if name in known}, layer.source)
        for layer in preset_layers(selection)
    ]


def _ancestor_of(algorithm: str | None) -> str | None:
    if algorithm is None:
        return None
    from softflow.algos import ancestor_of  # imported here, because it loads torch

    return ancestor_of(algorithm)


def _without(layer: Layer, key: str) -> Layer:
    return Layer({name: value for name, value in layer.values.items() if name != key}, layer.source)


def _for_algorithm(layer: Layer, names: Iterable[str | None]) -> list[Layer]:
    """Split a preset into the settings for every algorithm, and those below `algorithms:` for each of `names`."""
    values = dict(layer.values)
    special = values.pop("algorithms", {})
    special_layers = [Layer(special[name], f"{layer.source} ({name})") for name in names if name in special]
    return [Layer(values, layer.source), *special_layers]
