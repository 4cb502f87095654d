"""`softflow-demo`: record demonstrations by an environment's demonstrator or a person, or corrections of a policy."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softflow.cli.command_line import as_json, parse_command_line, run_main
from softflow.cli.output import OutputConfig, new_file
from softflow.console import remark
from softflow.data import Dataset, Episode, human_steps, save_demonstrations
from softflow.data.summary import count
from softflow.errors import UserError
from softflow.runs.assembly import config_path_of
from softflow.runs.config import read_config
from softflow.runs.recording import RecordingConfig, correct, demonstrate, teleoperate
from softflow.settings.fields import Flat, keys_of
from softflow.settings.presets import Selection, known_layers
from softflow.settings.typed import Layer
from softflow.task import TaskSpec
from softflow.training.evaluation import summarize
from softflow.training.failures import EnvironmentErrors
from softflow.training.global_state import environments_turn
from softflow.training.success import NONE_SUCCEEDS


@dataclass
class DemoConfig:
    """Settings of `softflow-demo`."""

    recording: Flat[RecordingConfig] = field(default_factory=RecordingConfig)
    corrections: str | None = None
    """Run folder, or the folder of one of its checkpoints. The policy acts in the environment of the run, and the
    environment's supervisor takes over. A person takes over in `softflow-robot run --takeover`."""
    out: str | None = None
    """File to write. With `--to lerobot`, the folder to write; the .npz file is then written beside it. Neither may
    exist. By default `demonstrations` or `corrections`, with the ending .npz for a file."""
    output: Flat[OutputConfig] = field(default_factory=OutputConfig)
    json: bool = False
    """Whether to print the result as one JSON object."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(
        DemoConfig,
        argv,
        prog="softflow-demo",
        description="Record demonstrations by an environment's demonstrator or a person, or corrections of a policy.",
        layers_for=_layers,
    )
    name = "demonstrations" if config.corrections is None else "corrections"
    path = config.output.new(config.out or (f"{name}.npz" if config.output.to == "npz" else name))
    file = path
    if config.output.to == "lerobot":
        file = new_file(f"{path}.npz")  # which is there if the recording never ends as it should
        _require_rate(config)
    target, kept = path.absolute(), file.absolute()  # an environment may change the current folder
    errors = EnvironmentErrors(config.recording.on_env_error)
    try:
        episodes, task = _record(config, kept, errors)
        if target != kept:
            config.output.write(target, Dataset(episodes, task))
    except BaseException:
        if target != kept and kept.exists():
            remark(f"{path} was not written: {config.output.command(file, path)}")
        raise
    if config.corrections is None and not any(episode.is_success for episode in episodes):
        remark(NONE_SUCCEEDS)
    result = _of_demonstrations(episodes) if config.corrections is None else _of_corrections(episodes)
    if config.json:
        print(as_json({"file": str(path), **result, "errors": errors.count}))
        return
    taken_over = f"{result['taken_over']} of them taken over: " if "taken_over" in result else ""
    size = f"{count(result['episodes'], 'episode')}, {count(result['steps'], 'step')}"
    print(f"{path}: {size}, {taken_over}{_in_words(result)}")
    if errors.count:
        print(f"{errors.count} more episodes were dropped after errors of their environment")
    for mode, of_mode in result.get("modes", {}).items():
        print(f"  mode {mode}: {count(of_mode['episodes'], 'episode')}, {_in_words(of_mode)}")


def _record(config: DemoConfig, file: Path, errors: EnvironmentErrors) -> Dataset:
    """Record to an .npz file."""
    if config.recording.teleop is not None:
        if config.corrections is not None:
            raise UserError(
                "--teleop cannot be combined with --corrections: a person takes over in softflow-robot run "
                f"{config.corrections} --robot ENVIRONMENT --takeover {config.recording.teleop} --out FILE"
            )
        return teleoperate(config.recording, file, errors)
    if config.corrections is None:
        dataset = demonstrate(config.recording, errors)
    else:
        dataset = correct(config.corrections, config.recording, errors)
    save_demonstrations(file, *dataset)
    return dataset


def _require_rate(config: DemoConfig) -> None:
    """Check before a recording that its control rate will be known."""
    with environments_turn(), chdir("."), closing(config.recording.maker()()) as environment:
        config.output.require_rate(TaskSpec.from_env(environment))


def _of_demonstrations(episodes: Sequence[Episode]) -> dict[str, Any]:
    by_mode = {
        mode: summarize([episode for episode in episodes if episode.mode == mode]).as_dict()
        for mode in sorted({episode.mode for episode in episodes})
    }
    return {"steps": sum(map(len, episodes)), **summarize(episodes).as_dict(), "modes": by_mode}


def _of_corrections(episodes: Sequence[Episode]) -> dict[str, Any]:
    taken_over = [episode for episode in episodes if human_steps(episode).any()]
    return {
        "steps": sum(map(len, episodes)),
        **summarize(taken_over).as_dict(),
        "episodes": len(episodes),
        "taken_over": len(taken_over),
        "human_steps": sum(int(human_steps(episode).sum()) for episode in taken_over),
    }


def _in_words(result: Mapping[str, Any]) -> str:
    """Describe the success rate with its interval, and the mean outcomes that the environment measured."""
    low, high = result["success_ci95"]
    measured = "".join(f", mean {name} {mean:.3g}" for name, mean in result.get("outcome", {}).items())
    return f"success {result['success_rate']:.2f} [{low:.2f}, {high:.2f}]{measured}"


def _layers(selection: Selection) -> list[Layer]:
    """Return the presets of an environment or, for corrections, the environment settings of the run."""
    if selection.corrections is None:  # a preset of an environment is for training as well
        return known_layers(selection, keys_of(DemoConfig))
    run = read_config(str(config_path_of(selection.corrections))).run
    return [Layer({"env": run.env, "env_options": run.env_options, "success": run.success}, selection.corrections)]


if __name__ == "__main__":
    sys.exit(main())
