"""Settings of a run that every algorithm shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from softflow.data import ImitationRule, RewardKind
from softflow.training.failures import OnEnvError
from softflow.training.success import SuccessRule
from softflow.training.vector import VectorizationMode, check_time_limit

EnvOptions = dict[str, Any]
"""Arguments of an environment by name. Values are anything YAML expresses: numbers, strings, null, lists, mappings."""


@dataclass
class RunConfig:
    """Settings of a run that do not depend on the algorithm."""

    algo: str = "softflow"
    """Preset of the algorithm: its name, or the path of your own YAML file."""
    env: str = "tape_cut"
    """Environment: a short name, or a gymnasium id (`module:Id-v0` imports the module first). Use `none` for a robot
    without a simulation: observations and actions are then described by the demonstrations, and there is no
    evaluation."""
    preset: str | None = None
    """Additional preset, such as `quick`. It overrides the presets of the algorithm and the environment."""
    config: str | None = None
    """YAML file of settings. It overrides all presets; flags override the file."""
    env_options: EnvOptions = field(default_factory=dict)
    """Arguments of the environment, as YAML: `--env-options.maze-map '[[1, 1], [1, 0]]'`."""
    success: str = "last"
    """Which episodes count as successes: `last` if the last step reports `is_success`, `any` if some step does, or
    `return>=X` if the return is at least X."""
    demos: str | None = None
    """File or folder of demonstrations in a known format (docs/how-to/demonstrations.md). By default, the environment's
    own demonstrator records them. With `--resume`, these demonstrations are added."""
    demos_format: str | None = None
    """Name of the format of `demos`. By default, it is recognised from the content."""
    demo_map: dict[str, str] = field(default_factory=dict)
    """Names in `demos` of parts that the environment calls otherwise: `--demo-map wrist=observation.images.cam_high`.
    The numbers of an action are called `action[0]`, `action[1]` and so on. With `--env none`, only the parts that are
    named are kept (docs/how-to/datasets.md)."""
    demos_success: Literal["recorded", "all"] = "recorded"
    """Which demonstrations of `demos` count as successes: those that are `recorded` as such, or `all`. Give `all` if a
    person recorded them and kept only successes, but nothing in the file says so, as in most datasets of LeRobot."""
    reward: RewardKind = "dataset"
    """Rewards of demonstrations and environment. `dataset` leaves them unchanged. `sparse` is 1 at the success and 0 at
    all other steps. `steps` is 0 at the success and -1 at all other steps. With the last two, an episode ends at its
    success (docs/how-to/rewards.md)."""
    num_demos: int = 200
    """Number of demonstrations to use, from the file or the demonstrator. It includes failed ones, which help to train
    the critic."""
    imitate: str = "auto"
    """Rule for the steps of demonstrations and own episodes that are imitated. `all` imitates every step. `success`
    imitates successful episodes. `reward_to_come` imitates steps that are followed by reward. `top:X` imitates episodes
    whose return is as high as that of the best X per cent of the demonstrations; a higher X imitates more. `return>=X`
    imitates episodes with a return of at least X. `auto` chooses a rule that suits the demonstrations, and prints it
    (docs/how-to/imitate.md)."""
    mirror: bool = True
    """Whether to train on the mirror image of every episode as well, if the environment has a mirror symmetry."""
    seed: int = 0
    """Random seed of the run, 0 to 99. The same seed gives the same run on the same machine."""
    device: str = "cpu"
    """Device of the networks, in torch's notation: `cpu`, `cuda`, `cuda:1`."""
    threads: int = 1
    """Number of CPU threads that torch uses. The networks are small, so more threads gain little, and on a busy machine
    they wait for each other."""
    num_envs: int = 10
    """Number of parallel environments. With trials, episodes that still run when a trial ends do not count in the next
    one, so fewer environments leave room for more trials."""
    vectorization_mode: VectorizationMode = "sync"
    """How environments run. `sync` steps them in turn in this process. `async` distributes them over one process per
    CPU core. Environments of actors are always `sync`, unless they have an `env_time_limit`."""
    actors: int = 0
    """Number of actors: processes, on this machine or others, that execute own episodes while this process learns. They
    share the `num_envs` environments. 0 acts and learns in turn, in this process (docs/how-to/scale.md)."""
    actors_ahead: int = 2
    """Number of bouts, groups of a few episodes, that an actor is given in advance. With 1, it waits for the learner
    after each bout. Higher values keep it busy, but its networks are older."""
    actor_resources: dict[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    """Resources that Ray reserves for each actor, by Ray's names: `CPU`, `GPU`, or a resource of your own such as
    `robot`. An actor uses the CPU unless it has a GPU."""
    cluster: str = "local"
    """Ray cluster on which actors run. `local` starts Ray on this machine, for this run only. `auto` uses the cluster
    that is running on this machine. HOST:PORT uses another one."""
    robots: str | None = None
    """Folder through which robots deliver their episodes and receive new networks. On the robot, start `softflow-robot
    run FOLDER`. No environment acts then (docs/how-to/learn-on-a-robot.md)."""
    publish_every: int = 100
    """Number of updates after which actors and robots get new networks. They also get them when a trial begins. Higher
    values send less data, but older networks act."""
    on_env_error: OnEnvError = "stop"
    """Reaction to an environment error: `stop` the run, or `restart` the environment and drop the episode."""
    env_time_limit: float | None = None
    """Limit in seconds of wall time for a reset or a chunk. A longer one counts as an environment error. By default
    there is no limit. Requires vectorization mode `async`."""
    replay_capacity: int = 1_000_000
    """Capacity of the replay, in primitive steps of own episodes. A full replay overwrites the oldest steps."""
    frame_cache: str | None = None
    """Folder that stores the features of demonstrations, if a frozen encoder reads images. Other runs on the same
    demonstrations then need not compute them again. By default `features` in the run folder."""
    replay_storage: Literal["memory", "disk"] = "memory"
    """Where the replay is stored: in `memory`, or on `disk`, in the run folder. Use `disk` if the replay is larger than
    the memory."""
    collect_steps: int = 1_000
    """Number of primitive steps collected between two rounds of updates, in stages that act.
    Higher values update the policy less often, with more updates at a time."""
    eval_episodes: int = 50
    """Number of held-out episodes per evaluation. More episodes narrow the confidence interval. 0 switches evaluation
    off, and the last policy counts as the best."""
    eval_films: int = 0
    """Number of held-out episodes filmed at each evaluation, for TensorBoard's tab Images. Needs softflow[video] and an
    environment that renders. 0 films none."""
    eval_every: int = 25_000
    """Number of primitive steps between two evaluations, in stages that act."""
    save_minutes: float = 5.0
    """Minutes between checkpoints. 0 saves one after every round of collecting and updating. A checkpoint is also saved
    after every evaluation and at the end of every stage."""
    log_every: int = 100
    """Number of updates between two rows of logged scalars."""
    runs: str = "runs"
    """Parent folder of the run folders."""
    run_dir: str | None = None
    """Run folder. By default it is named after the environment, algorithm, time and seed."""
    resume: str | None = None
    """Run folder to resume, with its original settings. Only a few of them may be changed (see
    docs/reference/run-folder.md)."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.threads > 1024:  # more of them crash the process
            raise ValueError(f"threads must be in 1 ... 1024, got {self.threads}")
        for name in ("actors", "eval_episodes", "eval_films"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.eval_films and not self.eval_episodes:
            raise ValueError("eval_films are made at evaluations, and eval_episodes is 0: set it to 1 or more")
        if self.robots is not None and self.actors:
            raise ValueError("actors and robots both act: give one of them")
        if self.robots is not None and self.reward == "dataset":
            raise ValueError(
                "robots know whether an episode succeeded, and no other reward: set reward to sparse or steps"
            )
        for name, number in self.actor_resources.items():
            if not 0 <= number < inf:
                raise ValueError(f"actor_resources.{name} must be 0 or more, got {number}")
        if self.cluster not in ("local", "auto") and not self.cluster.rpartition(":")[2].isdecimal():
            raise ValueError(f"cluster must be local, auto or HOST:PORT, got {self.cluster!r}")
        SuccessRule(self.success)
        if self.demos_success == "all" and self.success not in ("last", "any"):
            raise ValueError(
                f"demos_success is 'all', but success {self.success!r} judges demonstrations by their return"
            )
        check_reward(self.reward, self.success, self.env_options)
        ImitationRule(self.imitate)
        check_time_limit(self.env_time_limit, self.vectorization_mode)
        if not self.save_minutes >= 0:
            raise ValueError(f"save_minutes must be 0 or more, got {self.save_minutes}")
        check_seed(self.seed)


def check_seed(seed: int) -> None:
    """Raise `ValueError` unless the episodes of a seed are distinct from those of evaluations."""
    if not 0 <= seed < 100:
        raise ValueError(f"seed must be in 0 ... 99, got {seed}: the episodes of higher seeds are kept for evaluations")


def check_reward(reward: RewardKind, success: str, env_options: EnvOptions) -> None:
    """Raise `ValueError` if rewards that depend on the success alone contradict other settings."""
    if reward != "dataset" and success not in ("last", "any"):
        raise ValueError(
            f"reward is {reward!r}, which needs a success that is not judged by the reward: set success to last or "
            f"any, got {success!r}"
        )
    if reward == "steps" and env_options.get("sparse_success"):
        raise ValueError(
            "reward is 'steps', but the option sparse_success of the environment gives 1 at the success: set "
            "env_options.sparse_success to false, or reward to sparse"
        )


WITHOUT_EFFECT = (
    "run_dir", "runs", "resume", "device", "threads", "vectorization_mode", "env_time_limit", "on_env_error",
    "actor_resources", "cluster", "frame_cache", "replay_storage", "eval_films", "log_every", "save_minutes",
)  # fmt: skip
"""Settings of where and how a run is executed, on which its results do not depend beyond rounding and timing."""
_COUNTS = (
    "num_demos", "threads", "num_envs", "replay_capacity", "collect_steps", "eval_every", "log_every",
    "actors_ahead", "publish_every",
)  # fmt: skip
