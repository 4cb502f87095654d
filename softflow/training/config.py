"""Settings of a run that are the same whatever the algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from softflow.training.failures import OnEnvError
from softflow.training.success import SuccessRule
from softflow.training.vector import VectorizationMode, check_time_limit

EnvOptions = dict[str, Any]
"""Arguments of an environment by name; each is whatever YAML can say: a number, a text, null, a list or a mapping."""


@dataclass
class RunConfig:
    """Settings of a run."""

    algo: str = "softflow"
    """Preset of the algorithm: a name, or a YAML file of your own."""
    env: str = "tape_cut"
    """Environment: a short name, or a gymnasium id (`module:Id-v0` imports the module first)."""
    preset: str | None = None
    """Preset on top of those of algorithm and environment, such as `quick`."""
    config: str | None = None
    """YAML file of settings, on top of the presets."""
    env_options: EnvOptions = field(default_factory=dict)
    """Arguments of the environment, as YAML: `--env-options.maze-map '[[1, 1], [1, 0]]'`."""
    success: str = "last"
    """Which episodes count as successes: `last`, if their last step says `is_success`; `any`, if some step does; or
    `return>=X`, if their return is at least the number X."""
    demos: str | None = None
    """Demonstrations (.npz, see docs/demonstrations.md); without it the environment's own demonstrator makes them."""
    num_demos: int = 200
    """Episodes taken from the file, or made by the demonstrator; failures among them teach the critic."""
    mirror: bool = True
    """Learn from the mirror image of every episode as well, where the environment has that symmetry."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """Where the networks live, as torch names it."""
    threads: int = 2
    """CPU threads of torch."""
    num_envs: int = 25
    """Environments that run side by side."""
    vectorization_mode: VectorizationMode = "sync"
    """How: all in one process, one after another, or spread over as many processes as there are cores."""
    on_env_error: OnEnvError = "stop"
    """What an error of an environment does: stop the run, or make the environment anew and drop the episode."""
    env_time_limit: float | None = None
    """Seconds after which an environment that has not finished a reset or a chunk is in error; needs the mode async."""
    replay_capacity: int = 1_000_000
    """Rows of the replay of own episodes, one per step; the oldest are overwritten."""
    replay_storage: Literal["memory", "disk"] = "memory"
    """Where they are: `disk` for a replay larger than the memory, in files of the run folder."""
    collect_steps: int = 1_000
    """Primitive steps between two bouts of updates, in stages that act."""
    eval_episodes: int = 50
    """Held-out episodes after each stage."""
    eval_every: int = 25_000
    """Primitive steps between evaluations in stages that act."""
    save_minutes: float = 5.0
    """Minutes between checkpoints; 0 saves one after every round of acting and learning. The end of a stage and an
    evaluation within it save one as well."""
    log_every: int = 100
    """Updates between two rows of scalars."""
    runs: str = "runs"
    """Folder of run folders."""
    run_dir: str | None = None
    """Run folder; without it one is named after environment, algorithm, time and seed."""
    resume: str | None = None
    """Run folder to continue, with the settings it was started with; a few may change (docs/architecture.md)."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.threads > 1024:  # so many crash the process
            raise ValueError(f"threads must be in 1 ... 1024, got {self.threads}")
        SuccessRule(self.success)
        check_time_limit(self.env_time_limit, self.vectorization_mode)
        if not self.save_minutes >= 0:
            raise ValueError(f"save_minutes must be 0 or more, got {self.save_minutes}")
        if not 0 <= self.seed < 100:  # beyond, the demonstrations' episodes would be those held out
            raise ValueError(f"seed must be in 0 ... 99, got {self.seed}")


_COUNTS = (
    "num_demos", "threads", "num_envs", "replay_capacity", "collect_steps", "eval_episodes", "eval_every", "log_every"
)  # fmt: skip
