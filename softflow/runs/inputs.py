"""What a run learns from: demonstrations, corrections, and the policy of a base."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from softflow.data import Corrections, Dataset, Episode, ImitationRule, check_compatible
from softflow.data.imitable import Choice
from softflow.envs import NO_ENVIRONMENT
from softflow.policies.bases import is_foreign
from softflow.runs.assembly import BASE, Deployed, for_demonstrations, load_deployed, make_mirror, require_policy
from softflow.runs.config import TrainConfig
from softflow.runs.given_corrections import first_corrections, save_copy, saved_corrections
from softflow.runs.given_demonstrations import (
    DemonstrationFile,
    first_demonstrations,
    not_among,
    save_copies,
    saved_demonstrations,
    with_more_demonstrations,
    without_environment,
)
from softflow.settings.fields import dotted_values
from softflow.task import TaskSpec
from softflow.task.layout import ObservationLayout, ObservationSize
from softflow.training.checkpoint import save_policy
from softflow.training.run_folder import RunFolder


@dataclass(frozen=True)
class Inputs:
    """What a run learns from.

    Attributes:
        dataset: The demonstrations to learn from, with their task if it is known.
        held_out: Demonstrations from which nothing is learnt.
        base_name: The base as the settings name it. None if there is none.
        base: The base's policy. None if there is none, if it is of another project, or if the run is resumed, because
            then the checkpoint contains it.
        corrections_name: The corrections as errors name them.
        corrections: Labelled decisions, or episodes with takeovers. None if there are none.
        imitated: The rule that says which steps are imitated.
        mirror: Returns the mirror image of an episode. None if episodes are not mirrored.
        from_data: The names of the settings that were not given, but follow from the demonstrations.
    """

    dataset: Dataset
    held_out: list[Episode]
    base_name: str | None
    base: Deployed | None
    corrections_name: str
    corrections: Corrections | Dataset | None
    imitated: Choice
    mirror: Callable[[Episode], Episode] | None
    from_data: Sequence[str] = ()

    @property
    def demonstrations(self) -> list[Episode]:
        return self.dataset.episodes

    @property
    def layout(self) -> ObservationLayout | None:
        """The layout of packed observations. None if they are not packed."""
        return self.demonstrations[0].layout

    @property
    def sizes(self) -> tuple[ObservationSize, int]:
        """The sizes of observations and actions."""
        return self.layout or self.demonstrations[0].observation_dim, self.demonstrations[0].action_dim

    @property
    def has_foreign_base(self) -> bool:
        """Whether the base is the policy of another project."""
        return self.base_name is not None and is_foreign(self.base_name)

    @property
    def imitated_steps(self) -> int:
        """The number of steps worth imitating, with those of mirror images."""
        return self.imitated.steps(self.demonstrations) * (2 if self.mirror else 1)

    @cached_property
    def learned_from(self) -> list[Episode]:
        """The demonstrations and their mirror images."""
        return self.with_images(self.demonstrations)

    def with_images(self, episodes: list[Episode]) -> list[Episode]:
        """Return episodes, followed by their mirror images."""
        return episodes + [self.mirror(episode) for episode in episodes] if self.mirror else episodes

    def require_task(self, task: TaskSpec, demonstrations_name: str) -> None:
        """Raise `UserError` if the demonstrations, the base or the corrections are of another task."""
        for what, other in (
            (demonstrations_name, self.dataset),
            (f"base {self.base_name}", self.base.policy if self.base is not None else None),
            (self.corrections_name, self.corrections),
        ):
            if other is not None and other.task is not None:
                task.require_same(other.task, what)
        check_compatible(self.demonstrations, task.observation_size, task.action_dim)

    def save(self, folder: RunFolder) -> None:
        """Write `from_data` and copies of demonstrations, corrections and the base's policy to the run folder."""
        with folder.writing():
            folder.from_data_path.write_text(f"{json.dumps(self.from_data)}\n", encoding="utf-8")
            save_copies(folder.path, self.dataset, self.held_out)
            if self.corrections is not None:
                save_copy(folder.path, self.corrections)
        if self.base is not None:
            folder.save_policy(BASE, partial(save_policy, policy=self.base.policy))


def read_inputs(
    config: TrainConfig[Any], folder: RunFolder, given: Dataset | None, more: Dataset | DemonstrationFile | None
) -> tuple[Inputs, TrainConfig[Any]]:
    """Read what a run learns from. A resumed run has copies in its folder.

    Args:
        config: The settings.
        folder: The folder of the run.
        given: Demonstrations to use instead of those that `config.run.demos` names.
        more: Demonstrations, or their file, that are added to those of a resumed run.

    Returns:
        The inputs, and the settings with those that follow from the inputs.

    Raises:
        UserError: A file or an episode is invalid or of another task, or the environment has no demonstrator.
    """
    resume = config.run.resume
    base_name, corrections_files = (getattr(config.method, name, None) for name in ("base", "corrections"))
    # Files that the configuration names are read first: environments may change the current folder.
    base = None
    if base_name is not None and not is_foreign(base_name) and not resume:  # a checkpoint contains it
        base = load_deployed(base_name)
    if config.run.env == NO_ENVIRONMENT and not resume:
        run, given = without_environment(config.run, given)
        config = replace(config, run=run)
    run = config.run
    corrections = _corrections(config, folder, corrections_files)
    if resume:
        dataset, held_out = saved_demonstrations(folder.path)
    else:
        dataset, held_out = first_demonstrations(run, given, partial(require_policy, config))
    if more is not None:
        dataset = with_more_demonstrations(run, dataset, more)
        held_out = not_among(dataset, held_out)
    imitated = ImitationRule(run.imitate).choose(dataset.episodes)
    run = replace(run, imitate=imitated.rule.text)  # what a resumed run finds in its settings and keeps
    mirror = make_mirror(run, dataset.episodes[0].layout)
    named = f"corrections {' '.join(corrections_files or ())}"
    inputs = Inputs(dataset, held_out, base_name, base, named, corrections, imitated, mirror)
    length = float(np.median([len(episode) for episode in inputs.demonstrations]))
    resolved = for_demonstrations(replace(config, run=run), inputs.imitated_steps, length)
    before, after = dotted_values(config.method), dotted_values(resolved.method)
    from_data = [name for name, value in after.items() if before[name] is None and value is not None]
    return replace(inputs, from_data=from_data), resolved


def _corrections(
    config: TrainConfig[Any], folder: RunFolder, files: Sequence[str] | None
) -> Corrections | Dataset | None:
    if files is None:
        return None
    return saved_corrections(folder.path) if config.run.resume else first_corrections(config.run, files)
