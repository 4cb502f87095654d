"""`softflow-train`: train a policy in the stages of an algorithm."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from shlex import quote
from typing import Any

from flows import available_flows
from softflow.cli.command_line import parse_command_line, read_selection, run_main
from softflow.console import note
from softflow.envs import NO_ENVIRONMENT, available_envs
from softflow.runs.config import TrainConfig, class_for, config_class, read_config
from softflow.runs.given_demonstrations import DemonstrationFile
from softflow.runs.layers import require_resumable, training_layers
from softflow.runs.training import Trained, new_folder, train_run
from softflow.settings.fields import to_dict
from softflow.settings.presets import available_presets
from softflow.settings.typed import Layer
from softflow.training.config import RunConfig
from softflow.training.evaluated import best_of, unchanged_since
from softflow.training.run_folder import RunFolder


@partial(run_main, prints_result=False)  # failing to print must not fail the run
def main(argv: Sequence[str]) -> None:
    selection = read_selection(RunConfig, argv)
    if selection.resume is None:
        config = parse_new_run(argv)
        with new_folder(config) as folder:
            _train(config, None, folder)
    else:
        with RunFolder.resume(selection.resume) as folder:
            _train(*_resumed_config(folder, argv), folder)


def parse_new_run(argv: Sequence[str]) -> TrainConfig[Any]:
    """Resolve the settings of a new run from its flags and what they name. Raise `UserError` if one is invalid."""
    selection = read_selection(RunConfig, argv)
    settings = config_class(selection)
    return parse_command_line(settings, argv, **_command(), layers_for=lambda _: training_layers(selection))


def _train(config: TrainConfig[Any], more: DemonstrationFile | None, folder: RunFolder) -> None:
    try:
        trained = train_run(config, folder, more=more)
    except KeyboardInterrupt:
        if folder.has_checkpoint:
            print(f"\ncontinue with: softflow-train --resume {quote(folder.given)}", file=sys.stderr)
        raise
    note(_summary(trained, folder, has_environment=config.run.env != NO_ENVIRONMENT))


def _resumed_config(folder: RunFolder, argv: Sequence[str]) -> tuple[TrainConfig[Any], DemonstrationFile | None]:
    """Return the configuration of the run that is resumed in `folder`, changed by the flags in `argv`.

    The second result is the file of the demonstrations to add, if `--demos` names one. It is read as the flags say, not
    as the file that the run began with.
    """
    saved = read_config(str(folder.config_path))
    saved = replace(saved, run=replace(saved.run, resume=folder.given))
    nothing = replace(saved, run=replace(saved.run, demos=None, demos_format=None, demo_map={}))
    layers = [Layer(to_dict(nothing), str(folder.config_path))]
    config = parse_command_line(class_for(saved.algorithm), argv, **_command(), layers_for=lambda _: layers)
    flags, first = config.run, saved.run
    more = DemonstrationFile.of(flags.demos, flags.demos_format, flags.demo_map)
    run = replace(flags, demos=first.demos, demos_format=first.demos_format, demo_map=first.demo_map)
    config = replace(config, run=run)
    require_resumable(saved, config)
    return config, more


def _command() -> dict[str, str]:
    """Return the name and description for `--help`. The listed names include those of installed packages."""
    names = {
        "--algo": available_presets("algos"),
        "--env": available_envs(),
        "--preset": available_presets("presets"),
        "--flow": available_flows(),
    }
    lines = [f"{flag} takes one of: {', '.join(known)}." for flag, known in names.items()]
    what = "Train a policy over action chunks: imitation, then reinforcement learning."
    return {"prog": "softflow-train", "description": "\n".join([what, *lines])}


def _summary(trained: Trained, folder: RunFolder, has_environment: bool) -> str:
    if not trained.evaluations:
        robot = "" if has_environment else f"\nnext: softflow-robot run {quote(folder.given)} --robot MODULE:CLASS"
        return f"\nnothing was evaluated\nrun folder: {folder.given}{robot}"
    lines = ["", "success on held-out episodes, with 95 % intervals"]
    for stage, last in {one.stage: one for one in trained.evaluations}.items():
        lines.append(f"  after {stage:<14} {last.success}")
    best = best_of(trained.evaluations)
    if best is not None and best != trained.evaluations[-1]:
        where = f"{best.done:,} {best.unit} of {best.stage}"
        lines.append(f"  {'best policy':<20} {best.success}, {where}, which softflow-eval takes")
    if (unchanged := unchanged_since(folder)) is not None:
        lines.append(
            f"the best policy still has the weights of the one after {unchanged}: no later policy has proven itself. "
            "More steps give later ones a chance"
        )
    if trained.errors:
        lines.append(f"own episodes lost to errors of their environment: {trained.errors}")
    evaluation = f"softflow-eval {quote(folder.given)} --episodes 100"
    return "\n".join([*lines, f"run folder: {folder.given}", f"next: {evaluation}"])


if __name__ == "__main__":
    sys.exit(main())
