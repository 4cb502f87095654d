"""Parsing of command lines into typed configurations, and conversion of errors into exit statuses.

Settings come from the following layers, of which later ones override earlier ones: the preset of the algorithm, the
preset of the environment, `--preset NAME`, `--config FILE`, and the flags.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import math
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, get_origin

import tyro
import yaml

from softflow import __version__
from softflow.cli.dict_flags import ANYTHING, TEXTS, flag_name, take_dict_flags
from softflow.cli.option_help import option_help
from softflow.console import console, plain_warnings
from softflow.errors import UserError, nearest, one_line, place_of
from softflow.settings.fields import (
    class_of,
    dotted_fields,
    dotted_values,
    field_texts,
    fields_of,
    is_nested,
    keys_of,
    to_dict,
)
from softflow.settings.presets import Selection, preset_layers, selecting_values
from softflow.settings.typed import (
    RENAMED,
    ConfigError,
    Layer,
    as_number,
    from_dict,
    from_layers,
    read_yaml,
)
from softflow.training.interruption import Interrupted, terminable

T = TypeVar("T")

TRUTHS = ("true", "false", "yes", "no", "on", "off")
"""Values that are sometimes given to switches, in lower case. None of them is a likely positional argument."""
BROKEN_PIPE = 13
"""The number of SIGPIPE, which Windows does not have."""


class HelpShown(Exception):
    """Raised after help has been printed, to end the command."""


def parse_command_line(
    cls: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    layers_for: Callable[[Selection], Sequence[Layer]] | None = None,
) -> T:
    """Parse the flags of a command on top of its presets.

    `--help` shows the values of the presets as defaults, and lists the options of the chosen flow, encoder, environment
    and demonstrator. Fields of a nested dataclass take a prefix, as in `--imitation.updates 100`; fields of a flat part
    (`Flat`) take none. A dict accepts any key: `--flow-options.width 192`. A dict of `Any` also accepts several keys at
    once: `--env-options '{width: 192, maze_map: [[1, 1], [1, 0]]}'`. A dict of texts takes them as pairs:
    `--demo-map wrist=images.left state=joints`. Earlier names of flags are accepted with a note.

    Args:
        cls: The command's dataclass, possibly generic as in `TrainConfig[SoftFlowConfig]`, with a docstring below every
            field. Fields without a default are required. Its keys `algo`, `env`, `preset` and `config` select layers.
        argv: The arguments without the program name.
        prog: The name of the command.
        description: The description of the command in `--help`.
        layers_for: Returns the layers below the flags. By default it is `preset_layers`.

    Raises:
        ConfigError: A flag, key, preset or value is unknown. The message is one line.
        HelpShown: The arguments contain `--help`.
    """
    argv = _with_new_names(cls, argv)
    _check_flags(cls, argv)
    layers = (layers_for or preset_layers)(read_selection(cls, argv))
    argv, free = take_dict_flags(cls, argv)
    default = from_layers(cls, [*layers, *free], missing=tyro.MISSING)
    if {"-h", "--help"} & set(argv):
        _describe_fields(cls)
    try:
        config = _parse(cls, argv, default, prog, description)
    except HelpShown:
        print(option_help(_known_values(cls, argv, default)), end="")
        raise
    return from_dict(cls, to_dict(config), source="command line")


def _parse(cls: type[T], argv: Sequence[str], default: T, prog: str, description: str) -> T:
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(
                cls, prog=prog, description=description, args=argv, default=default, registry=_values_like_yaml()
            )
    except SystemExit as stop:
        if not stop.code:
            raise HelpShown from None
        raise ConfigError(_one_line(stderr.getvalue())) from None
    except ValueError as error:  # from a dataclass's own check; since 1.0.16 tyro reports it as a SystemExit
        raise ConfigError(str(error)) from None


def _describe_fields(cls: Any) -> None:
    """Give tyro the texts below the fields. It would keep their line breaks, which rarely suit the terminal."""
    texts = field_texts(class_of(cls))
    for field in dataclasses.fields(class_of(cls)):
        if field.name in texts:
            field.metadata = MappingProxyType({**field.metadata, "help": texts[field.name]})
    for known in fields_of(cls).values():
        if is_nested(known.annotation):
            _describe_fields(known.annotation)


def _known_values(cls: type, argv: Sequence[str], default: object) -> dict[str, Any]:
    """Return the settings by key for `--help`: those of the flags if they are valid, otherwise those of the presets."""
    try:
        config = _parse(cls, [argument for argument in argv if argument not in ("-h", "--help")], default, "", "")
    except ConfigError:
        config = default
    return {key: value for key, value in dotted_values(config).items() if value is not tyro.MISSING}


def read_selection(cls: type, argv: Sequence[str]) -> Selection:
    """Read a `Selection` from the flags, else from the file that `--config` names, else from the defaults of `cls`.

    With a base, which has an environment of its own, there is no default environment.
    """
    names = [field.name for field in dataclasses.fields(Selection)]
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}")
    flags = {name: value for name, value in vars(parser.parse_known_args(argv)[0]).items() if value is not None}
    defaults = {name: field.default for name, field in keys_of(cls).items() if isinstance(field.default, str)}
    for name in ("flow", "reward"):  # presets or the base may set them
        defaults.pop(name, None)
    file = selecting_values(flags.get("algo"), flags.get("config", defaults.get("config")))
    defaults.pop("algorithm", None)
    if "base" in flags or "base" in file:
        defaults.pop("env", None)  # it is inherited from the base
    return Selection(**{name: flags.get(name, file.get(name, defaults.get(name))) for name in names})


def run_main(function: Callable[[Sequence[str]], int | None], prints_result: bool = True) -> Callable[..., int]:
    """Turn `function(argv)` into a command's `main(argv=None)`, which returns its exit status.

    0 means success. 1 is what `function` returns if it has checked something and found it wrong. 2 means bad input (a
    `UserError` or an error of the operating system, reported in one line on stderr), numbers that are not finite, or
    third-party code that called `sys.exit`. 130 means interrupted, 143 ended by SIGTERM, 141 that the reader of the
    result, such as `head`, has closed its pipe, of which nothing is said. Other errors are bugs and keep their
    traceback.

    Args:
        function: The implementation of the command.
        prints_result: Whether the command fails if standard output cannot be written.
    """

    @functools.wraps(function)
    def main(argv: Sequence[str] | None = None) -> int:
        with console() as out, plain_warnings(), terminable():
            status = _status_of(function, sys.argv[1:] if argv is None else argv)
            out.flush()
            if status < 2 and prints_result and isinstance(out.error, BrokenPipeError):
                return 128 + BROKEN_PIPE
            if status < 2 and prints_result and out.error is not None:
                print(f"error: standard output cannot be written ({out.error.strerror})", file=sys.stderr)
                status = 2
            return status

    return main


def _status_of(function: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    if "--version" in argv:
        print("softflow", __version__)
        return 0
    try:
        return function(argv) or 0
    except HelpShown:
        pass
    except SystemExit as stop:
        print(f"error: unfinished: {place_of(stop)} called sys.exit({stop.code!r})", file=sys.stderr)
        return 2
    except (UserError, FloatingPointError) as error:
        print("error:", one_line(error), file=sys.stderr)
        return 2
    except OSError as error:  # such as a path that does not exist
        print("error:", one_line(error), file=sys.stderr)
        return 2
    except MemoryError as error:
        print("error: not enough memory, ask for less:", one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return 128 + (stop.number if isinstance(stop, Interrupted) else signal.SIGINT)
    return 0


def as_json(result: Mapping[str, Any]) -> str:
    """Convert a command's result to one JSON object. Numbers that are not finite become null, as JSON has none."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: finite(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(result), allow_nan=False)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _with_new_names(cls: type, argv: Sequence[str]) -> list[str]:
    """Rename the flags of earlier versions, each with a note on stderr."""
    flags = {f"--{flag_name(key)}" for key, _ in dotted_fields(cls)}
    given = {flag_name(argument.partition("=")[0]) for argument in argv}
    renamed = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        parent, dot, name = flag_name(flag).rpartition("." if "." in flag else "--")
        new = f"{parent}{dot}{flag_name(RENAMED.get(name.replace('-', '_'), name))}"
        if flag_name(flag) not in flags and new in flags:
            if new in given:
                raise ConfigError(f"{flag} is the earlier name of {new}, and both are given: remove {flag}")
            print(f"{flag} is called {new} now", file=sys.stderr)
            argument = f"{new}{equals}{value}"
        renamed.append(argument)
    return renamed


def _check_flags(cls: type, argv: Sequence[str]) -> None:
    fields = {flag_name(key): annotation for key, annotation in dotted_fields(cls)}
    switches = dict[str, str]()
    for key, annotation in fields.items():
        if annotation is bool:
            parent, dot, name = key.rpartition(".")
            off = f"{parent}{dot}no-{name}"
            switches |= dict.fromkeys((key, off), f"write --{key}, or --{off} to switch it off")
    valid = {"help", *fields, *switches}
    free = tuple(f"{key}." for key, annotation in fields.items() if get_origin(annotation) is dict)
    for argument, following in zip_longest(argv, argv[1:], fillvalue=""):
        flag, equals, _ = argument.partition("=")
        name = flag_name(flag.removeprefix("--"))
        if not argument.startswith("--"):
            continue
        if name not in valid and not name.startswith(free):
            near = nearest(f"--{name}", [f"--{key}" for key in valid])
            hint = f"did you mean {near!r}?" if near else "--help lists the flags"
            raise ConfigError(f"unknown flag {flag}: {hint}")
        if name in switches and (equals or following.lower() in TRUTHS):
            raise ConfigError(f"{flag} takes no value: {switches[name]}")


def _values_like_yaml() -> tyro.constructors.ConstructorRegistry:
    """Make integer flags accept `1e5`, as in YAML files, and show dicts as `take_dict_flags` reads them."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def integer(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type is not int:
            return None

        def parse(texts: list[str]) -> int:
            number = as_number(texts[0])
            if number is None or not float(number).is_integer():
                raise ValueError(f"{texts[0]!r} is not a whole number")
            return int(number)

        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=parse,
            is_instance=lambda value: type(value) is int,
            str_from_instance=lambda value: [str(value)],
        )

    @registry.primitive_rule
    def anything(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type != ANYTHING:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="YAML",
            instance_from_str=lambda texts: read_yaml(texts[0]),  # unused: `take_dict_flags` removes these flags
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda value: [yaml.safe_dump(value, default_flow_style=True, width=math.inf).strip()],
        )

    @registry.primitive_rule
    def texts(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type != TEXTS:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="NAME=OTHER_NAME ...",
            instance_from_str=lambda pairs: dict(pair.split("=", 1) for pair in pairs),  # unused, as above
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda value: [f"{name}={other}" for name, other in value.items()],
        )

    return registry


def _one_line(box: str) -> str:
    """Extract the message from the box that tyro draws: the text between the first two rules, without the frame.

    A class or a part of the settings that refused its values is named as its keys are, without the flat part above.
    """
    sections = re.split(r"[─-]{4,}", box)
    words = (sections[1] if len(sections) > 1 else box).translate(dict.fromkeys(map(ord, "│╭╮╰╯"), " ")).split()
    return re.sub(r"^Error parsing (?:[A-Z]\w*: |method(?:\.(?=\S+: )|: )|run: )", "", " ".join(words))
