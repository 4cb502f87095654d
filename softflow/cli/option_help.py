"""The part of `--help` that depends on the settings: the options of the chosen flow, encoder, environment and
demonstrator, which only their constructors declare."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from flows.registry import FLOWS, SHARED_OPTIONS, make_flow
from softflow.envs.registry import make_env, resolve_env_id
from softflow.envs.tasks import find_task
from softflow.errors import UserError, one_line
from softflow.policies.pixel_encoder import OWN_OPTIONS, PixelEncoder, find_trunk
from softflow.runs.assembly import config_path_of
from softflow.runs.config import read_config
from softflow.runs.takeovers import SUPERVISOR
from softflow.settings.fields import to_dict
from softflow.settings.signatures import Option, metavar, options_of
from softflow.teleop import find_device

Values = Mapping[str, Any]


def option_help(values: Values) -> str:
    """Describe the free options of a command, with one section for each setting that contains such options.

    Args:
        values: The command's settings by key, without the required ones that are not given yet.
    """
    sections = []
    for key, find in _SECTIONS.items():
        if key not in values:
            continue
        try:
            whose, options = find(values)
        except Exception as error:  # third-party modules must not break --help
            lines = _wrapped(f"--{_flag(key)} cannot be listed: {one_line(error)}", indent=0)
        else:
            lines = [f"Options of {whose}:"]
            for option in options:
                lines += _described(key, option, values[key].get(option.name, option.default))
        sections.append("\n".join(["", *lines, ""]))
    return "".join(sections)


def _described(key: str, option: Option, default: Any) -> Iterator[str]:
    default = "required" if default is inspect.Parameter.empty else f"default: {_shown(default)}"
    yield from _wrapped(f"--{_flag(key)}.{_flag(option.name)} {option.metavar} ({default})", indent=2)
    yield from _wrapped(option.text, indent=6)


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _wrapped(text: str, indent: int) -> list[str]:
    width, margin = shutil.get_terminal_size().columns, " " * indent
    return textwrap.wrap(text, max(width, 40), initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=repr)


def _flow(values: Values) -> tuple[str, list[Option]]:
    own = [option for option in options_of(FLOWS.find(values["flow"])) if option.name not in _DIMENSIONS]
    return f"the flow {values['flow']}", [*own, *_named(options_of(make_flow), SHARED_OPTIONS)]


def _encoder(values: Values) -> tuple[str, list[Option]]:
    name = values["encoder"] or inspect.signature(PixelEncoder).parameters["trunk"].default
    return f"the encoder {name}", [*_named(options_of(PixelEncoder), OWN_OPTIONS), *options_of(find_trunk(name))[1:]]


def _environment(values: Values) -> tuple[str, list[Option]]:
    name, given = _chosen_environment(values)
    spec = gymnasium.spec(resolve_env_id(name))
    entry_point: Any = spec.entry_point
    constructor = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    options = {option.name: option for option in options_of(constructor)}
    options |= {option.name: option for option in _named(options_of(gymnasium.make), ["max_episode_steps"])}
    for option, value in {"max_episode_steps": spec.max_episode_steps, **spec.kwargs, **given}.items():
        known = options.get(option, Option(option, metavar(type(value)), value, ""))
        options[option] = dataclasses.replace(known, default=value)
    return f"the environment {name}", [
        *options.values(),
        *_named(options_of(make_env), ["sparse_success", "observed_as"]),
    ]


def _demonstrator(values: Values) -> tuple[str, list[Option]]:
    if values.get("teleop"):
        return f"the device {values['teleop']}", options_of(find_device(values["teleop"]))[1:]
    name = resolve_env_id(_chosen_environment(values)[0])
    kind = "supervisor" if values.get("corrections") else "demonstrator"
    task = find_task(name)
    whose = task.load(kind) if task is not None else None
    if whose is None:
        raise UserError(f"{name} has no {kind}")
    return f"the {kind} of {name}", options_of(whose)[2:]


def _takeover(values: Values) -> tuple[str, list[Option]]:
    name = values["takeover"]
    if name is None:
        raise UserError("they are those of a device or supervisor, so name it by --takeover as well")
    if name != SUPERVISOR:
        return f"the device {name}", options_of(find_device(name))[1:]
    task = find_task(resolve_env_id(values["robot"]))
    whose = task.load(SUPERVISOR) if task is not None else None
    if whose is None:
        raise UserError(f"{values['robot']} has no supervisor")
    return f"the supervisor of {values['robot']}", options_of(whose)[2:]


def _chosen_environment(values: Values) -> tuple[str, Values]:
    """Return the environment, and its options in the run that names it, if any."""
    corrections = values.get("corrections")  # a run for softflow-demo, files for softflow-train
    run = corrections if isinstance(corrections, str) else values.get("run")
    if run is None:
        if not values.get("env"):
            raise UserError("they are those of the environment, so name it, or the run, as well")
        return values["env"], {}
    config = to_dict(read_config(str(config_path_of(run))))
    return config["env"], config["env_options"]


def _named(options: list[Option], names: Collection[str]) -> list[Option]:
    return [option for option in options if option.name in names]


_DIMENSIONS = ("horizon", "action_dim", "context_dim")
_SECTIONS = {
    "flow_options": _flow,
    "encoder_options": _encoder,
    "env_options": _environment,
    "demonstrator_options": _demonstrator,
    "takeover_options": _takeover,
}
