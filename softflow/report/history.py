"""What a run folder says about its run: settings, scalars, evaluations and own episodes.

The run may still be training, and an earlier version may have trained it, whose folders lack newer files and scalars.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError, one_line
from softflow.files import read_settings
from softflow.runs.config import read_config
from softflow.runs.run import Metric, Run
from softflow.settings.fields import dotted_values
from softflow.training.checkpoint_folders import EVALUATION
from softflow.training.episode_table import EpisodeRow, read_episodes
from softflow.training.evaluated import Evaluated, read_evaluation
from softflow.training.run_folder import RunFolder

SUCCESS = "eval/success_rate"
OWN_SUCCESS = "rollout/success_rate"


class HeldOutResult(NamedTuple):
    """One evaluation on held-out episodes.

    Attributes:
        stage: The name of its stage.
        number: Its index within the stage.
        step: The updates or environment steps done in the stage.
        environment_steps: The environment steps done in the whole run.
        successes: The number of successes.
        episodes: The number of episodes.
    """

    stage: str
    number: int
    step: int
    environment_steps: int
    successes: int
    episodes: int


@dataclass(frozen=True)
class History:
    """The history of a run.

    Attributes:
        folder: The run folder.
        settings: The settings by their dotted names. Those that an earlier version did not know have its behaviour.
        from_data: The names of the settings that were not given, but follow from the demonstrations.
        scalars: The scalars by name, in chronological order.
        episodes: The rows of `episodes.csv`. None if the run recorded none.
    """

    folder: RunFolder
    settings: dict[str, Any]
    from_data: frozenset[str]
    scalars: dict[str, list[Metric]]
    episodes: list[EpisodeRow] | None

    @property
    def name(self) -> str:
        """The path of the run folder, as it was given."""
        return self.folder.given

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", 0))

    @cached_property
    def lengths(self) -> dict[str, int]:
        """The updates or environment steps done in each stage, in the order of the stages."""
        order = self.scalars.get("train/n_updates", []) + self.scalars.get(SUCCESS, [])
        lengths = dict.fromkeys((metric.stage for metric in order), 0)
        for metrics in self.scalars.values():
            for stage, step, _ in metrics:
                lengths[stage] = max(lengths.get(stage, 0), step)
        for row in self.episodes or []:  # those of a stage that has just begun come before its scalars
            lengths[row.stage] = max(lengths.get(row.stage, 0), row.step)
        return lengths

    @cached_property
    def acting(self) -> set[str]:
        """The names of the stages that execute own episodes."""
        logged = {
            metric.stage for name, metrics in self.scalars.items() if name.startswith("rollout/") for metric in metrics
        }
        return logged | {row.stage for row in self.episodes or [] if row.source == "own"}

    def environment_steps(self, stage: str, step: int) -> int:
        """Return the environment steps of the whole run at a step of a stage."""
        stages = list(self.lengths)
        earlier = sum(self.lengths[name] for name in stages[: stages.index(stage)] if name in self.acting)
        return earlier + (step if stage in self.acting else 0)

    @property
    def acted_steps(self) -> int:
        """The environment steps of all stages."""
        return sum(self.lengths[stage] for stage in self.lengths if stage in self.acting)

    @property
    def own_success(self) -> NDArray[np.float64]:
        """The environment steps of the run and the moving success of own episodes: (N, 2)."""
        logged = self.scalars.get(OWN_SUCCESS, [])
        points = [(self.environment_steps(stage, step), rate) for stage, step, rate in logged]
        return np.array(points, dtype=np.float64).reshape(-1, 2)

    @cached_property
    def evaluations(self) -> list[HeldOutResult]:
        """The evaluations on held-out episodes, in order. A lost episode counts as a failure."""
        numbers = {(stage, step): round(n) for stage, step, n in self.scalars.get("eval/episodes", [])}
        results: list[HeldOutResult] = []
        for stage, step, rate in self.scalars.get(SUCCESS, []):
            episodes = numbers.get((stage, step), self.settings.get("eval_episodes", 0))
            number = sum(result.stage == stage for result in results)
            steps = self.environment_steps(stage, step)
            results.append(HeldOutResult(stage, number, step, steps, round(rate * episodes), episodes))
        return results

    @cached_property
    def best(self) -> Evaluated | None:
        """The evaluation of the best policy. None if there is none yet, or an earlier version trained the run.

        Raises:
            UserError: The file of this evaluation is damaged.
        """
        if not self.folder.policies():
            return None
        return self.folder.read_best(lambda path: read_evaluation(path) if (path / EVALUATION).is_file() else None)

    @property
    def ends_with_best(self) -> bool:
        """Whether the best policy is the one that was evaluated last."""
        last = self.evaluations[-1:]
        return self.best is not None and (self.best.stage, self.best.done) in [(one.stage, one.step) for one in last]


def read_histories(paths: Sequence[str]) -> list[History]:
    """Read run folders, and all runs in folders of `softflow-study`.

    Raises:
        UserError: One of them is not a run folder, or is damaged. Or a folder is given twice.
    """
    histories = [read_history(run) for path in paths for run in _runs_in(path)]
    seen: dict[Path, str] = {}
    for history in histories:
        place = history.folder.path.resolve()
        if place in seen:
            raise UserError(f"{history.name} and {seen[place]} are the same run: give it once")
        seen[place] = history.name
    return histories


def _runs_in(path: str) -> list[str]:
    """Return the path if it is a run folder, and otherwise the run folders in it, such as those of a study."""
    inside = [] if (Path(path) / "config.yaml").is_file() else sorted(Path(path).glob("*/*/config.yaml"))
    return [str(config.parent) for config in inside] or [path]


def read_history(path: str) -> History:
    """Read a run folder.

    Raises:
        UserError: The path is not a run folder, or the folder is damaged.
    """
    folder = RunFolder.open(path)
    settings = dotted_values(read_config(str(folder.config_path)))
    scalars = Run(path).metrics() if folder.metrics_path.is_file() else {}
    return History(folder, settings, _from_data(folder), scalars, read_episodes(folder))


def _from_data(folder: RunFolder) -> frozenset[str]:
    if not folder.from_data_path.is_file():  # an earlier version trained the run
        return frozenset()
    try:
        return frozenset(json.loads(read_settings(folder.from_data_path)))
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{folder.from_data_path}: not a list of names: {one_line(error)}") from error
