"""The Python interface of the commands: train, inspect, evaluate, export and resume a run.

run = softflow.train("softflow", env="tape_cut", preset="quick", imitation={"updates": 600})
print(run.evaluate(episodes=100).success_rate)
policy = softflow.load(run.path)
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

from softflow.data import Dataset, Episode, load_dataset, task_of
from softflow.errors import UserError, one_line
from softflow.policies import ChunkGuard, Policy
from softflow.runs.assembly import config_path_of, load_deployed, load_run, require_device
from softflow.runs.calibrate_guard import make_guard
from softflow.runs.config import TrainConfig, read_config
from softflow.runs.evaluator import EvaluationConfig, Evaluator
from softflow.runs.exporting import export_run
from softflow.runs.given_demonstrations import DEMONSTRATIONS, DemonstrationFile
from softflow.runs.layers import demonstrations_of_base, resolve, resolve_resumed, settings_of
from softflow.runs.recording import RecordingConfig, correct, demonstrate
from softflow.runs.training import new_folder, train_run
from softflow.settings.typed import from_dict
from softflow.training.evaluation import OTHER_SEEDS, Evaluation
from softflow.training.run_folder import RunFolder

AnyPath = str | PathLike[str]


def train(
    preset_or_config: AnyPath | Mapping[str, Any] = "softflow",
    *,
    env: str | None = None,
    demos: AnyPath | Dataset | Sequence[Episode] | None = None,
    run_dir: AnyPath | None = None,
    **settings: Any,
) -> Run:
    """Train a policy as `softflow-train` does: the same settings, checks and, for the same seed, the same metrics.

    This seeds the global random states and sets torch's number of threads. Ctrl-C in the main thread saves a checkpoint
    and raises KeyboardInterrupt; `Run.resume` continues from there.

    Args:
        preset_or_config: Preset of an algorithm, as a name or a YAML file; or a mapping of settings with the same keys
            as in YAML. Its key `algo` names the preset below these settings.
        env: Environment: a short name, or a gymnasium id such as `module:Id-v0`.
        demos: Demonstrations: a file in a known format, a `Dataset`, or episodes. The first `num_demos` are used. By
            default the environment's own demonstrator records them.
        run_dir: The run folder, which must not exist. By default a new one is created in `runs`.
        settings: Any other settings of `softflow-train --help`, nested ones as mappings: `seed=3`, `preset="quick"`,
            `imitation={"updates": 600}`.

    Raises:
        UserError: A setting, file or demonstration is invalid. A run without a checkpoint leaves nothing behind.
        FloatingPointError: Training diverged before its first checkpoint.
        KeyboardInterrupt: Training was interrupted.
    """
    given = None
    if demos is not None and not isinstance(demos, str | PathLike):
        given = _as_dataset(demos, "demos")
        demos = None
    if not isinstance(preset_or_config, Mapping):
        if "algo" in settings:
            raise UserError("algo and preset_or_config both name the algorithm: give one of them")
        settings["algo"], preset_or_config = preset_or_config, {}
    paths = {name: None if path is None else _expanded(path) for name, path in (("demos", demos), ("run_dir", run_dir))}
    named = {"env": env, **paths}
    settings |= {name: value for name, value in named.items() if value is not None}
    config = resolve(preset_or_config, settings)
    if config.run.resume is not None:
        raise UserError("resume is not a setting of a new run: call softflow.Run(path).resume()")
    if given is not None and config.run.demos is not None:
        if config.run.demos != demonstrations_of_base(config.method):
            raise UserError(f"demos is given as episodes and as the file {config.run.demos}: give one of them")
        config = replace(config, run=replace(config.run, demos=None))
    with new_folder(config) as folder:
        train_run(config, folder, given)
    return Run(folder.given)


def load(path: AnyPath, device: str = "cpu", guard: AnyPath | None = None) -> Policy:
    """Load the best policy of a run folder, or that of a checkpoint folder at any location.

    A line on standard error says which policy of the run it is.

    If the folder belongs to a run with a `config.yaml`, this imports the module of the algorithm that it names.

    Args:
        path: The folder.
        device: The device of the policy, in torch's notation.
        guard: A folder that `softflow-guard` wrote. The policy then acts behind this guard.

    Raises:
        UserError: The policy or guard is missing or cannot be loaded, or they belong to different tasks.
    """
    require_device(device)
    given = _expanded(path)
    loaded = load_run(given, device)[0] if config_path_of(given).is_file() else load_deployed(given, device)
    policy = Policy(loaded.policy, ChunkGuard.load(_expanded(guard), device) if guard is not None else None)
    loaded.say_choice()
    return policy


def record_demonstrations(env: str = "tape_cut", episodes: int = 200, **settings: Any) -> Dataset:
    """Record demonstrations of an environment's own demonstrator, as `softflow-demo` does.

    Args:
        env: Environment: a short name or a gymnasium id.
        episodes: Number of episodes, including failures.
        settings: Fields of `softflow.runs.recording.RecordingConfig`, such as `seed` and `env_options`.

    Raises:
        UserError: A setting is invalid, or the environment has no demonstrator or failed.
    """
    given = settings_of({"env": env, "episodes": episodes, **settings})
    return demonstrate(from_dict(RecordingConfig, given, "record_demonstrations"))


class Metric(NamedTuple):
    """One value of a scalar."""

    stage: str
    step: int
    """Number of updates in the stage so far, or of primitive environment steps if the stage acts."""
    value: float


class Run:
    """A run of `softflow.train` or `softflow-train`. It may still be training.

    Args:
        path: Run folder, or a checkpoint's folder in it, whose policy then replaces the best one of the run.

    Raises:
        UserError: The folder is neither of these.

    Attributes:
        path: The absolute path of the run folder.
    """

    def __init__(self, path: AnyPath) -> None:
        self._given = str(Path(_expanded(path)).absolute())
        self.path = RunFolder.open(config_path_of(self._given).parent).path

    def __fspath__(self) -> str:
        """Return the folder as it was given, so that a run can be used as a path: `softflow.train(..., base=run)`."""
        return self._given

    def __repr__(self) -> str:
        return f"Run({self._given!r})"

    @property
    def config(self) -> TrainConfig[Any]:
        """All settings: `config.run` has those that all algorithms share, `config.method` those of this one."""
        return read_config(str(self.path / "config.yaml"))

    def policy(self, device: str = "cpu") -> Policy:
        """Load the policy onto a device, given in torch's notation."""
        return load(self, device)

    def evaluate(self, episodes: int = 50, *, seed: int = OTHER_SEEDS, **settings: Any) -> Evaluation:
        """Evaluate the policy on held-out episodes, as `softflow-eval` does. This seeds the global random states.

        Args:
            episodes: Number of episodes.
            seed: Seed of the first episode. The others use consecutive seeds. The best policy was chosen on the
                episodes from seed 1000000, so its success rate on those is biased upwards.
            settings: Fields of `softflow.runs.evaluator.EvaluationConfig`, such as `env_options` and `guard`. The
                fields `csv` and `video` name files to write.

        Raises:
            UserError: A setting is invalid, or the environment failed.
        """
        return self.evaluate_episodes(episodes, seed=seed, **settings)[0]

    def evaluate_episodes(
        self, episodes: int = 50, *, seed: int = OTHER_SEEDS, **settings: Any
    ) -> tuple[Evaluation, list[Episode]]:
        """Evaluate as `evaluate` does, and also return the finished episodes in the order in which they ended."""
        given = settings_of({"episodes": episodes, "seed": seed, **settings})
        evaluator = Evaluator(self._given, from_dict(EvaluationConfig, given, "evaluate"))
        result, ended = evaluator.evaluate()
        evaluator.write(ended)
        return result, ended

    def metrics(self) -> dict[str, list[Metric]]:
        """Read the scalars logged so far, by name. Each is a list of (stage, step, value) in chronological order.

            stage, step, value = zip(*run.metrics()["rollout/success_rate"])
            table = pandas.DataFrame(run.metrics()["flow/nll"])

        The run may be writing its last line, which is then left out.

        Raises:
            UserError: Nothing has been logged yet, or the file is damaged.
        """
        path = self.path / "metrics.csv"
        if not path.is_file():
            raise UserError(f"{path}: no such file: the run has not begun to train")
        found: dict[str, list[Metric]] = {}
        with path.open(newline="", encoding="utf-8") as file:
            try:
                for row in csv.DictReader(line for line in file if line.endswith("\n")):
                    metric = Metric(row["stage"], int(row["step"]), float(row["value"]))
                    found.setdefault(row["name"], []).append(metric)
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise UserError(
                    f"{path} is damaged: each line must have a stage, a step, a name and a value ({one_line(error)})"
                ) from error
        return found

    def demonstrations(self) -> Dataset:
        """Load the demonstrations that the run learnt from."""
        return load_dataset(self.path / DEMONSTRATIONS)

    def export(self, path: AnyPath, format: str) -> float:
        """Write the policy's greedy choice to a file that runs without softflow, as `softflow-export` does.

        Args:
            path: The file to write. It must not exist.
            format: `onnx`, `torchscript` or `torch_export`.

        Returns:
            The largest difference between actions of the file and the policy, in units of half the action range.

        Raises:
            UserError: The policy cannot be exported, or the file cannot be written.
        """
        return export_run(self._given, Path(_expanded(path)), format)[1]

    def resume(
        self,
        *,
        demos: AnyPath | Dataset | Sequence[Episode] | None = None,
        demos_format: str | None = None,
        demo_map: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> Run:
        """Resume the run from its last checkpoint to its end or, with `online={"steps": ...}`, beyond it.

        Args:
            demos: Further demonstrations, from which the run learns as well from now on: a file in a known format, a
                `Dataset`, or episodes. All of them are added, except for those that the run has already.
            demos_format: The name of the file's format. By default, the format is recognised by the content.
            demo_map: What the file calls parts of the environment, by their names in the environment.
            changes: Settings to change, with the same keys as in YAML (allowed ones: docs/reference/run-folder.md).

        Returns:
            This run.

        Raises:
            UserError: A change is not allowed, another process is training the run, or as in `train`.
        """
        with RunFolder.resume(self._given) as folder:
            saved = self.config
            saved = replace(saved, run=replace(saved.run, resume=folder.given))
            path = _expanded(demos) if isinstance(demos, str | PathLike) else None
            more: Dataset | DemonstrationFile | None = DemonstrationFile.of(path, demos_format, demo_map)
            if demos is not None and path is None:
                more = _as_dataset(demos, "demos")
            train_run(resolve_resumed(saved, changes), folder, more=more)
        return self

    def record_corrections(self, episodes: int = 50, **settings: Any) -> Dataset:
        """Record takeovers from the policy by its environment's supervisor, as `softflow-demo --corrections` does.

        The dataset holds all episodes that were watched. Their array `human` says at which steps the supervisor acted.

        Args:
            episodes: Number of episodes in which the supervisor takes over.
            settings: Fields of `softflow.runs.recording.RecordingConfig`, such as `seed` and `demonstrator_options`.

        Raises:
            UserError: A setting is invalid, the environment has no supervisor, or the policy fails too rarely.
        """
        run = self.config.run
        known = {"env": run.env, "env_options": run.env_options, "success": run.success, "episodes": episodes}
        return correct(self._given, from_dict(RecordingConfig, settings_of({**known, **settings}), "corrections"))

    def make_guard(
        self, held_out: AnyPath | Dataset | Sequence[Episode], quantile: float = 0.05, rate_factor: float | None = None
    ) -> ChunkGuard:
        """Calibrate a guard of the policy on demonstrations that the run did not learn from, as `softflow-guard` does.

        Args:
            held_out: The demonstrations: a file of a known format, a `Dataset`, or episodes.
            quantile: Fraction of their chunks, and of their observations, that may be flagged.
            rate_factor: Limit of the change of each action per step, as a multiple of the largest demonstrated change.
                None sets no limit.

        Raises:
            UserError: The policy has no exact density, or the demonstrations cannot calibrate it.
        """
        given = held_out if isinstance(held_out, str | PathLike) else _as_dataset(held_out, "held_out")
        return make_guard(self._given, given, quantile, rate_factor).guard


def _expanded(path: AnyPath) -> str:
    """A path as text, `~` expanded as a shell would."""
    return os.path.expanduser(fspath(path))


def _as_dataset(given: Any, name: str) -> Dataset:
    """Return a `Dataset` as it is, and episodes with the task that they know. Raise `UserError` for anything else."""
    if isinstance(given, Dataset):
        return given
    episodes = list(given)
    if others := [type(one).__name__ for one in episodes if not isinstance(one, Episode)]:
        raise UserError(f"{name} holds a {others[0]}: give a file, or episodes (softflow.data.Episode)")
    return Dataset(episodes, task_of(episodes))
