"""The corrections of a run: episodes with takeovers of one round or several, or labelled decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from softflow.console import note
from softflow.data import (
    Corrections,
    Dataset,
    holds_corrections,
    human_steps,
    load_corrections,
    load_dataset,
    save_corrections,
    save_demonstrations,
)
from softflow.errors import UserError
from softflow.runs.given_demonstrations import DemonstrationFile, read_demonstrations
from softflow.training.config import RunConfig

CORRECTIONS = "corrections.npz"
"""File name of the copy of the corrections in the run folder."""


def first_corrections(config: RunConfig, paths: Sequence[str]) -> Corrections | Dataset:
    """Return the corrections of a new run: the episodes of all files, or the decisions of one.

    Raises:
        UserError: A file cannot be read or is of another task, nobody took over in it, or it holds decisions and there
            are others.
    """
    if not paths:
        raise UserError("corrections names no file: give at least one")
    for path in paths:
        if holds_corrections(path):
            if len(paths) > 1:
                raise UserError(
                    f"corrections {path}: it holds decisions of one policy: give it alone, or whole episodes"
                )
            return load_corrections(path)
    as_recorded = replace(config, demos_success="recorded")
    rounds = [read_demonstrations(as_recorded, DemonstrationFile(path)) for path in paths]
    for path, dataset in zip(paths, rounds, strict=True):
        taken_over = [human_steps(episode) for episode in dataset.episodes if human_steps(episode).any()]
        if not taken_over:
            raise UserError(
                f"corrections {path}: nobody took over in its {len(dataset.episodes)} episodes: the array human must "
                "say at which steps a person acted"
            )
        steps = sum(int(human.sum()) for human in taken_over)
        note(f"{path}: {len(taken_over)} of {len(dataset.episodes)} episodes were taken over, {steps:,} steps")
    episodes = [episode for dataset in rounds for episode in dataset.episodes]
    return Dataset(episodes, rounds[0].task)


def saved_corrections(folder: Path) -> Corrections | Dataset:
    """Return the corrections of a run that is resumed."""
    path = folder / CORRECTIONS
    return load_corrections(path) if holds_corrections(path) else load_dataset(path)


def save_copy(folder: Path, corrections: Corrections | Dataset) -> None:
    """Write the corrections to the run folder, from which the run is resumed."""
    if isinstance(corrections, Corrections):
        save_corrections(folder / CORRECTIONS, corrections)
    else:
        save_demonstrations(folder / CORRECTIONS, *corrections)
