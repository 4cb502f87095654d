"""Evaluation of a run's policy on held-out episodes, in the run's environment or a variant of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from softflow.console import remark
from softflow.data import Episode, observation_tensor
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.policies import BestOfN, ChunkGuard, GuardedPolicy
from softflow.runs.assembly import (
    BASE,
    load_run,
    make_environments,
    require_device,
    require_fit,
    require_new_file,
)
from softflow.runs.filming import film_policy
from softflow.runs.video import LARGEST_WIDTHS, SUFFIXES, Film, columns_of, write_films
from softflow.training.config import EnvOptions
from softflow.training.evaluation import OTHER_SEEDS, Evaluation, evaluate, evaluate_guarded, guard_shares
from softflow.training.failures import EnvironmentErrors, OnEnvError
from softflow.training.random_state import seed_all
from softflow.training.vector import VectorizationMode, closing


@dataclass
class EvaluationConfig:
    """Settings of an evaluation."""

    episodes: int = 50
    """Number of held-out episodes. More episodes narrow the confidence interval."""
    env_options: EnvOptions = field(default_factory=dict)
    """Arguments of the environment that override those of the run, for instance to make the task harder."""
    success: str | None = None
    """Which episodes count as successes: `last`, `any` or `return>=X` (see softflow-train). By default as in
    training."""
    seed: int = OTHER_SEEDS
    """Seed of the first episode. The others use consecutive seeds. The best policy of a run was chosen on the episodes
    from seed 1000000, so its success rate on those is biased upwards."""
    num_envs: int = 25
    """Number of parallel environments."""
    vectorization_mode: VectorizationMode | None = None
    """How environments run: `sync` steps them in turn in this process, `async` distributes them over one process per
    CPU core. By default as in training."""
    on_env_error: OnEnvError = "stop"
    """Reaction to an environment error: `stop`, or `restart` the environment and count a failure."""
    env_time_limit: float | None = None
    """Limit in seconds of wall time for a reset or a chunk. A longer one counts as an environment error. By default
    there is no limit. Requires vectorization mode `async`."""
    stage: str | None = None
    """Stage whose final policy is evaluated, such as `imitation`, or `base` for the policy of `--base` from which the
    run started. By default, the best policy of the run is evaluated."""
    candidates: int | None = None
    """Number of chunks proposed for each one that is executed. The critic that was saved with the policy chooses among
    them. By default as in the evaluated policy."""
    temperature: float | None = None
    """Scale of the base noise of proposed chunks. Higher values make them more varied.
    By default as in the evaluated policy."""
    greedy: bool = False
    """Whether to execute the most likely chunk instead of sampled candidates. softflow-export writes this greedy
    choice."""
    device: str = "cpu"
    """Device of the policy, in torch's notation: `cpu`, `cuda`, `cuda:1`."""
    guard: str | None = None
    """Folder that softflow-guard wrote. The policy then acts behind this guard, and its interventions are counted."""
    guard_attempts: int = 8
    """Maximum number of chunks sampled to replace one that the guard flags. 0 only flags chunks."""
    csv: str | None = None
    """CSV file to write, with one row per episode. It must not exist."""
    video: str | None = None
    """Video of the first episodes to write: .mp4 or .gif. It must not exist. It shows the outcome and the critic's
    value. Requires softflow[video]."""
    video_episodes: int = 1
    """Number of episodes in the video, side by side."""
    video_beside: str | None = None
    """Stage whose final policy is shown as well, such as `imitation` or `base` (see `stage`): in the upper half of the
    video, on the same seeds."""
    video_shows: str | None = None
    """Number that the environment reports in its info, written on every picture, such as `turns` of cube_rotate."""

    def __post_init__(self) -> None:
        for name in ("episodes", "num_envs", "video_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in 0 ... 2^63 - 1, got {self.seed}")
        if self.greedy and (self.candidates is not None or self.temperature is not None):
            raise ValueError("the greedy chunk is not sampled: give it neither candidates nor a temperature")
        if self.greedy and self.guard is not None:
            raise ValueError("a guard replaces flagged chunks by other samples: give one of guard and greedy")
        if self.guard is not None and self.video is not None:
            raise ValueError("a video shows the policy without its guard: give one of video and guard")
        if self.video is None and (self.video_episodes != 1 or self.video_beside or self.video_shows):
            raise ValueError(
                "video_episodes, video_beside and video_shows say what a video shows: give video, the file to write"
            )
        if self.video is not None and not self.video.endswith(SUFFIXES):
            raise ValueError(f"video must end in {' or '.join(SUFFIXES)}, got {self.video!r}")


class Evaluator:
    """A run's policy, ready to be evaluated.

    Args:
        run: Run folder, or a checkpoint's folder in it.
        config: The settings of the evaluation.

    Raises:
        UserError: The run, the guard or a setting is invalid, or a file to write exists.
    """

    def __init__(self, run: str, config: EvaluationConfig) -> None:
        self.run, self.config = run, config
        self._rows, self._film = _new_file(config.csv, "--csv"), _new_file(config.video, "--video")
        require_device(config.device)
        loaded, trained = load_run(run, config.device, config.stage)
        self.policy, self._loaded = _with_settings(loaded.policy, config, run), loaded
        try:
            self.settings = replace(
                trained.run,
                env_options={**trained.run.env_options, **config.env_options},
                success=config.success or trained.run.success,
                vectorization_mode=config.vectorization_mode or trained.run.vectorization_mode,
                env_time_limit=config.env_time_limit,
            )
        except ValueError as error:  # from the checks of the run's configuration
            raise UserError(str(error)) from error
        beside = config.video_beside
        self._beside = None if beside is None else load_run(run, config.device, beside)[0].policy
        self._guarded = None if config.guard is None else _behind_guard(self.policy, config, config.guard)

    def evaluate(self) -> tuple[Evaluation, list[Episode]]:
        """Run the episodes. The global random states are seeded first, for the candidates and the environments."""
        config = self.config
        seed_all(config.seed)
        number, errors = min(config.num_envs, config.episodes), EnvironmentErrors(config.on_env_error)
        with closing(make_environments(self.settings, number, self.policy.n_action_steps)) as environments:
            require_fit(self.policy, environments, self.run)
            if self._guarded is None:
                result = evaluate(environments, self._act, config.episodes, config.seed, errors)
            else:
                result = evaluate_guarded(environments, self._guarded, config.episodes, config.seed, errors)
        self._loaded.say_choice()
        return result

    def write(self, episodes: Sequence[Episode]) -> None:
        """Write the CSV table of these episodes and the video, if the settings name files for them."""
        if self._rows is not None:
            _write_csv(self._rows, episodes)
        if self._film is not None:
            number = self.config.video_episodes
            columns = number if self._beside else columns_of(number)
            films = self._films(LARGEST_WIDTHS[self._film.suffix] // columns)
            write_films(self._film, films, columns)
            remark(f"film: {self.config.video}; " + ", ".join(f"{film.caption}: {film.outcome}" for film in films))

    def _films(self, width: int) -> list[Film]:
        """Film the first episodes, if wanted by the policy of another stage as well, with pictures of this width."""
        config = self.config
        seeds = range(config.seed, config.seed + config.video_episodes)
        where = self.settings, self.run, seeds, width
        films: list[Film] = []
        if self._beside is not None:  # valued by the same critic, because that of an early stage has not learnt
            caption = _caption(config.video_beside)
            films += film_policy(self._beside, *where, caption, valued_by=self.policy, shown=config.video_shows)
        caption = "" if self._beside is None else _caption(config.stage)
        return [*films, *film_policy(self.policy, *where, caption, config.greedy, shown=config.video_shows)]

    def _act(self, observation: np.ndarray) -> np.ndarray:
        seen = observation_tensor(observation, self.config.device)
        if not self.config.greedy:
            return self.policy.act(seen).cpu().numpy()
        with torch.inference_mode():
            return self.policy.policy.greedy(seen)[:, : self.policy.n_action_steps].cpu().numpy()


def _caption(stage: str | None) -> str:
    """Return the caption of the policy that a setting `stage` names."""
    if stage is None:
        return "best"
    return stage if stage == BASE else f"after {stage}"


def _new_file(name: str | None, flag: str) -> Path | None:
    """Return the absolute path of a file to write, because an environment may change the current folder."""
    if name is None:
        return None
    require_new_file(Path(name), flag)
    return Path(name).absolute()


def _with_settings(policy: BestOfN, config: EvaluationConfig, run: str) -> BestOfN:
    """Return the policy with the number of candidates and the temperature of the evaluation, if it has any."""
    candidates = policy.candidates if config.candidates is None else config.candidates
    temperature = policy.temperature if config.temperature is None else config.temperature
    try:
        return BestOfN(policy.policy, policy.critic, policy.n_action_steps, candidates, temperature, policy.task)
    except ValueError as error:
        raise UserError(f"{run}: {error}") from error


def _behind_guard(policy: BestOfN, config: EvaluationConfig, folder: str) -> GuardedPolicy:
    guard = ChunkGuard.load(folder, config.device)
    guard.require_fit(policy, f"guard {folder}")
    try:
        return GuardedPolicy(policy.choose, guard, policy.n_action_steps, config.guard_attempts, policy.temperature)
    except ValueError as error:
        raise UserError(f"guard_attempts: {error}") from error


def _write_csv(path: Path, episodes: Sequence[Episode]) -> None:
    rows = [_row(episode) for episode in episodes]
    with written_whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


def _row(episode: Episode) -> dict[str, float | None]:
    return {
        "seed": episode.seed,
        "success": int(episode.is_success),
        "return": float(episode.reward.sum()),
        "length": len(episode),
        "terminated": int(episode.terminated),
        **{f"outcome/{name}": value for name, value in episode.outcome.items()},
        **{f"guard/{name}": share for name, share in guard_shares(episode).items()},
    }
