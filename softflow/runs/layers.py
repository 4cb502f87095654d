"""Resolution of presets, files and user settings into the configuration of a new or resumed run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from softflow.algos import find_algorithm
from softflow.envs import resolve_env_id
from softflow.errors import UserError
from softflow.policies import ChunkPolicy, FlowPolicy, ForeignPolicy, OneStepPolicy, SteeredPolicy
from softflow.policies.bases import is_foreign
from softflow.runs.assembly import config_path_of, load_deployed
from softflow.runs.config import TrainConfig, algorithm_of, class_for, config_class
from softflow.runs.given_demonstrations import DEMONSTRATIONS
from softflow.settings.fields import dotted_values, to_dict
from softflow.settings.presets import Selection, is_file, load_preset, preset_layers, selecting_values
from softflow.settings.typed import Layer, from_layers, load_file
from softflow.training.config import RunConfig
from softflow.training.global_state import environments_turn

SOURCE = "softflow.train"
"""The source that errors name for settings given in Python."""


INHERITED = "env", "env_options", "success", "num_demos", "imitate", "reward"
"""Settings of a base that a run which starts from it takes over, besides its demonstrations. How their file was read is
not among them, because the run has a copy in the names of the environment."""


def training_layers(selection: Selection, *above: Layer) -> list[Layer]:
    """Load the layers of a selection, including the settings of the base that it names, if any.

    The description of the base's policy overrides the presets. `--config FILE`, the flags and the layers `above` come
    on top; if they contradict the base, loading the base fails later.

    Unless another environment is selected, the environment and the demonstrations of the base are inherited as well.
    They override the presets of the algorithm and the environment, but not a preset that is a file, nor `--preset`.
    The rule `imitate` was resolved for the base's rewards, so it is not inherited if the run has others.

    Raises:
        UserError: The base cannot be loaded, or the algorithm cannot start from its policy.
    """
    base = selection.base
    if base is None:
        return preset_layers(selection, *above)
    if is_foreign(base):
        _require_steering(selection)
        return preset_layers(replace(selection, env=selection.env or RunConfig.env), *above)
    policy = load_deployed(base).policy.policy
    inherited = _inherited(selection)
    selection = replace(selection, env=selection.env or inherited.get("env", RunConfig.env))
    _require_base(selection, policy)
    flow, values = _settings_of_policy(policy)
    presets = [
        Layer({name: value for name, value in layer.values.items() if name not in flow}, layer.source)
        for layer in preset_layers(replace(selection, config=None))
    ]
    file = [load_file(selection.config)] if selection.config is not None else []
    return [*presets, Layer({**inherited, **flow, **values}, base), *file, *above]


def demonstrations_of_base(method: Any) -> str | None:
    """Return the file of the demonstrations of the base that the settings of a method name, if it is known."""
    base = getattr(method, "base", None)
    config = config_path_of(base) if base is not None and not is_foreign(base) else None
    return str(config.parent / DEMONSTRATIONS) if config is not None and config.is_file() else None


def _inherited(selection: Selection) -> dict[str, Any]:
    """Return the settings that are inherited from the base. A checkpoint that was moved out of its run has none."""
    assert selection.base is not None
    config = config_path_of(selection.base)
    if not config.is_file():
        return {}
    settings = load_file(str(config)).values  # read as text, because its algorithm's module need not be installed
    if selection.env is not None and not _is_environment(selection.env, str(settings.get("env"))):
        return {}
    inherited = {name: settings[name] for name in INHERITED if name in settings}
    inherited["demos"] = str(config.parent / DEMONSTRATIONS)
    explicit = dict[str, Any]()
    if selection.algo is not None and is_file(selection.algo):
        explicit.update(load_file(selection.algo).values)
    if selection.preset is not None:
        explicit.update(load_preset("presets", selection.preset).values)
    reward = settings.get("reward", RunConfig.reward)
    if (selection.reward or explicit.get("reward", reward)) != reward:
        inherited.pop("imitate", None)
    return {name: value for name, value in inherited.items() if name not in explicit}


def _is_environment(selected: str, of_base: str) -> bool:
    """Whether two names are of the same environment. Raise `UserError` if none is called `selected`."""
    if selected == of_base:
        return True
    with environments_turn():
        env_id = resolve_env_id(selected)
        try:
            return resolve_env_id(of_base) == env_id
        except UserError:  # the package of the base's environment is not installed, but that of the other one is
            return False


def _require_steering(selection: Selection) -> None:
    """Raise `UserError` if the algorithm does not steer, so that it needs a base of its own, or a flow is selected."""
    if not find_algorithm(algorithm_of(selection)).steers_foreign:
        raise UserError(
            f"base {selection.base}: {_chosen(selection)} cannot start from the policy of another project: give the "
            "run of a policy, or steer it with --algo rfs, latent_steering, residual or rfs_ppo"
        )
    if selection.flow is not None:
        raise UserError(f"base {selection.base} is no flow: give no flow")


def _require_base(selection: Selection, policy: ChunkPolicy) -> None:
    """Raise `UserError` if the algorithm cannot start from the policy of the base, or the selected flow is another."""
    method = find_algorithm(algorithm_of(selection))
    needed = method.base_kind
    if isinstance(policy, SteeredPolicy) and method.steers_steered:
        if isinstance(policy.root, ForeignPolicy):
            raise UserError(
                f"base {selection.base}: it steers the policy of another project, and cannot be steered again: give "
                f"--base {policy.root.reference}"
            )
    elif not isinstance(policy, needed):
        raise UserError(
            f"base {selection.base}: {_chosen(selection)} starts from a policy of kind {needed.kind!r}, not "
            f"{policy.kind!r}: {_ADVICE.get(needed.kind, 'give the run of a method with such a policy')}"
        )
    if selection.flow not in (None, policy.flow_name):
        raise UserError(
            f"base {selection.base}: its flow is {policy.flow_name!r}, not {selection.flow!r}: give no flow"
        )


def _chosen(selection: Selection) -> str:
    """Return the name by which the algorithm was chosen: its own, or else that of its preset."""
    return selection.algorithm or selection.algo or RunConfig.algo


_ADVICE = {
    FlowPolicy.kind: "give a run of imitation, filtered_imitation or softflow, or the base of a steered policy",
    OneStepPolicy.kind: "give a run of flow_q_learning",
}
"""What to do if the policy of a base is not of this kind."""


def _settings_of_policy(policy: ChunkPolicy) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that describe the flow of a base's policy, and those that describe the rest of it."""
    rest = dict[str, Any]()
    if isinstance(policy, SteeredPolicy):
        policy, rest = policy.root, {"base_heads": policy.heads}
    described = policy.describe()
    if isinstance(policy, OneStepPolicy):
        described, rest = policy.flow_policy.describe(), {"one_step": policy.options}
    return {name: value for name, value in described.items() if not name.endswith("_dim")}, rest


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
    chosen = {"algo": RunConfig.algo, **file, **given}
    if chosen.get("base") is None:  # otherwise the environment is inherited from it
        chosen = {"env": RunConfig.env, **chosen}
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
    "device", "threads", "vectorization_mode", "env_time_limit", "on_env_error", "eval_episodes", "eval_films",
    "log_every", "save_minutes", "actors", "actors_ahead", "actor_resources", "cluster", "publish_every", LENGTH,
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
    if isinstance(value, list | tuple):
        return [settings_of(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value
