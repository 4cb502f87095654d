"""`softflow-eval`: success of a trained policy on held-out episodes."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from softflow.cli.command_line import as_json, parse_command_line, run_main
from softflow.cli.video import write_video
from softflow.data import Episode, observation_tensor
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.policies import BestOfN, ChunkGuard, GuardedPolicy
from softflow.runs.assembly import (
    load_run,
    make_environment,
    make_environments,
    require_device,
    require_fit,
    require_new_file,
)
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.config import EnvOptions
from softflow.training.evaluation import HELD_OUT_SEEDS, evaluate, evaluate_guarded, guard_shares
from softflow.training.failures import EnvironmentErrors, OnEnvError
from softflow.training.random_state import seed_all
from softflow.training.vector import VectorizationMode, closing


@dataclass
class EvalConfig:
    """Settings of `softflow-eval`."""

    run: Positional[str]
    """Run folder, or a checkpoint's folder in it."""
    episodes: int = 50
    """Held-out episodes."""
    env_options: EnvOptions = field(default_factory=dict)
    """Arguments of the environment, over those of the run: its success on a harder task, say."""
    success: str | None = None
    """Which episodes count as successes: `last`, `any` or `return>=X`, see softflow-train. As in training, unless
    given."""
    seed: int = HELD_OUT_SEEDS
    """Seed of the first; the others follow."""
    num_envs: int = 25
    """Environments that run side by side."""
    vectorization_mode: VectorizationMode | None = None
    """How: all in one process, one after another, or spread over as many processes as there are cores. As in training,
    unless given."""
    on_env_error: OnEnvError = "stop"
    """What an error of an environment does: stop, or count its episode as no success and go on."""
    env_time_limit: float | None = None
    """Seconds after which an environment that has not finished a reset or a chunk is in error; needs the mode async."""
    device: str = "cpu"
    """Where the policy runs."""
    guard: str | None = None
    """Folder that softflow-guard wrote: run the policy behind it, and count what it does."""
    guard_attempts: int = 8
    """Chunks that may be drawn in place of one that it flags; 0 flags alone."""
    json: bool = False
    """Print one JSON object."""
    csv: str | None = None
    """File to write, one row an episode; an existing one is refused."""
    video: str | None = None
    """Film of the first episode to write, .mp4 (needs softflow[video]); an existing one is refused."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(
        EvalConfig, argv, prog="softflow-eval", description="Evaluate a trained policy on held-out episodes."
    )
    if config.episodes < 1:
        raise UserError(f"--episodes must be at least 1, got {config.episodes}")
    if config.num_envs < 1:
        raise UserError(f"--num-envs must be at least 1, got {config.num_envs}")
    if not 0 <= config.seed < 2**63:
        raise UserError(f"--seed must be in 0 ... 2^63 - 1, got {config.seed}")
    rows = _new_file(config.csv, "--csv")
    film = _new_file(config.video, "--video")
    require_device(config.device)
    policy, run = load_run(config.run, config.device)
    try:
        run = replace(
            run,
            env_options={**run.env_options, **config.env_options},
            success=config.success or run.success,
            vectorization_mode=config.vectorization_mode or run.vectorization_mode,
            env_time_limit=config.env_time_limit,
        )
    except ValueError as error:  # as a run's configuration checks itself
        raise UserError(str(error)) from error
    guarded = _behind_guard(policy, config) if config.guard is not None else None

    def act(observation: np.ndarray) -> np.ndarray:
        return policy.act(observation_tensor(observation, config.device)).cpu().numpy()

    seed_all(config.seed)  # candidates are drawn, and environments may draw from global generators
    number, errors = min(config.num_envs, config.episodes), EnvironmentErrors(config.on_env_error)
    with closing(make_environments(run, number, policy.n_action_steps)) as environments:
        require_fit(policy, environments, config.run)
        if guarded is None:
            result, episodes = evaluate(environments, act, config.episodes, config.seed, errors)
        else:
            result, episodes = evaluate_guarded(environments, guarded, config.episodes, config.seed, errors)
    if config.json:
        print(as_json(result.as_dict()))
    else:
        low, high = result.success_ci95
        print(f"success {result.success_rate:.2f} [{low:.2f}, {high:.2f}] on {result.episodes} held-out episodes")
        if result.lost:
            print(
                f"{result.lost} episodes were lost and count as no success, {result.errors} of them to errors of their "
                "environment"
            )
        print(f"mean return {result.mean_return:.3f}, mean length {result.mean_length:.0f} steps")
        if result.outcome:
            print(", ".join(f"mean {name} {mean:.3g}" for name, mean in result.outcome.items()))
        if result.guard:
            print("guard: " + ", ".join(f"{name} {share:.3g}" for name, share in result.guard.items()))
    if rows is not None:  # after the result, which a full disk must not cost
        _write_csv(rows, episodes)
    if film is not None:
        filmed = CheckedEnvironment(make_environment(run, render_mode="rgb_array"))
        with contextlib.closing(filmed) as environment:
            write_video(film, environment, act, policy.n_action_steps, config.seed)


def _new_file(name: str | None, flag: str) -> Path | None:
    """The file to write, by an absolute path: an environment may change the current folder."""
    if name is None:
        return None
    require_new_file(Path(name), flag)
    return Path(name).absolute()


def _behind_guard(policy: BestOfN, config: EvalConfig) -> GuardedPolicy:
    assert config.guard is not None
    if config.video:
        raise UserError("--video films the policy without its guard: give one of --video and --guard")
    guard = ChunkGuard.load(config.guard, config.device)
    guard.require_fit(policy, f"guard {config.guard}")
    try:
        return GuardedPolicy(policy.choose, guard, policy.n_action_steps, config.guard_attempts, policy.temperature)
    except ValueError as error:
        raise UserError(f"--guard-attempts: {error}") from error


def _write_csv(path: Path, episodes: Sequence[Episode]) -> None:
    rows = [_row(episode) for episode in episodes]
    with written_whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


def _row(episode: Episode) -> dict[str, float]:
    return {
        "success": int(episode.is_success),
        "return": float(episode.reward.sum()),
        "length": len(episode),
        "terminated": int(episode.terminated),
        **{f"outcome/{name}": value for name, value in episode.outcome.items()},
        **{f"guard/{name}": share for name, share in guard_shares(episode).items()},
    }


if __name__ == "__main__":
    sys.exit(main())
