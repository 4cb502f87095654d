"""Construction of a run's environments, algorithm and policy from its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from flows.registry import find_flow
from softflow.algos import Algorithm, find_algorithm
from softflow.algos.settings import PolicyConfig
from softflow.algos.steering_settings import SteeredConfig
from softflow.console import remark
from softflow.data import SUCCESS_REWARDS, Episode, RewardKind
from softflow.envs import make_env
from softflow.envs.registry import Env, find_mirror
from softflow.envs.success import reward_success
from softflow.errors import UserError, one_line
from softflow.policies import BestOfN
from softflow.policies.bases import is_foreign, open_base
from softflow.policies.pixel_encoder import require_encoder
from softflow.policies.weights import memory_limit
from softflow.runs.config import TrainConfig, chosen_name, read_config
from softflow.task import TaskSpec
from softflow.task.layout import ObservationLayout, ObservationSize
from softflow.training.checkpoint import load_policy
from softflow.training.config import RunConfig
from softflow.training.evaluated import describe_best, end_of_stage, read_evaluation
from softflow.training.global_state import environments_turn
from softflow.training.run_folder import RunFolder
from softflow.training.success import SuccessRule
from softflow.training.vector import vectorize

T = TypeVar("T")
BASE = "base"
"""Name, in place of a stage, of the policy from which a run started: that of `--base`. Its folder has the same name."""


def config_path_of(run: str) -> Path:
    """Return the path of the configuration of a run folder, or of a checkpoint folder in it.

    The file does not exist if the checkpoint folder has been moved out of its run.

    Raises:
        UserError: The folder is neither a run folder nor a checkpoint folder.
    """
    path = Path(run).resolve()
    if (path / "policy.json").is_file():
        return path.parent.parent / "config.yaml"
    return path / RunFolder.open(run).config_path.name  # opened as it was given, which an error repeats


class Deployed(NamedTuple):
    """A deployed policy, and what its user should know about its choice."""

    policy: BestOfN
    choice: str | None
    """A line that says which of the run's policies it is. None if it was named explicitly."""

    def say_choice(self) -> None:
        """Print the choice to standard error. Commands do so after their last check, so that errors are one line."""
        if self.choice is not None:
            remark(self.choice)


def load_run(run: str, device: str = "cpu", stage: str | None = None) -> tuple[Deployed, TrainConfig[Any]]:
    """Load the deployed policy and the configuration of a run folder, or of a checkpoint folder in it.

    The run may still be training. `stage` is explained in `load_deployed`; it may also be `BASE` if the run started
    from the policy of another run.

    Raises:
        UserError: The folder is neither a run folder nor a checkpoint folder, or the policy or the configuration cannot
            be loaded.
    """
    # The configuration comes first, because the module of the algorithm may register the policy's flow.
    config = read_config(str(config_path_of(run)))
    base, instead = getattr(config.method, "base", None), ""
    if base is not None and not is_foreign(base):
        if stage == BASE:
            kept = config_path_of(run).parent / "checkpoints" / BASE
            if not kept.is_dir():  # an earlier version trained the run
                return load_deployed(base, device), config
            return Deployed(load_policy(kept, device), f"the policy of {base} from which {run} started"), config
        if stage == "imitation":
            instead = f"; {BASE!r} is the policy from which it started, {base}"
    return load_deployed(run, device, stage, instead), config


def load_deployed(run: str, device: str = "cpu", stage: str | None = None, instead: str = "") -> Deployed:
    """Load the deployed policy of a run folder, or of a checkpoint folder, without reading the run's configuration.

    Args:
        run: The folder. The policy of a run folder is its best one, or the last one if none has been evaluated.
        device: The device of the policy.
        stage: The name of a stage whose policy, as it was at the end of the stage, is loaded instead.
        instead: Said at the end of the error if the run has no such stage.

    Raises:
        UserError: The folder is neither a run folder nor a checkpoint folder, the policy cannot be loaded, or the stage
            is unknown, has not ended, or is given although `run` already names a checkpoint.
    """
    if (Path(run) / "policy.json").is_file():
        if stage is not None:
            raise UserError(f"{run} is one checkpoint already: give its run folder to choose the stage {stage!r}")
        return Deployed(load_policy(run, device), None)
    folder = RunFolder.open(run)
    if stage is not None:
        end = end_of_stage(folder, stage, instead)
        return Deployed(load_policy(end, device), f"end of stage: {read_evaluation(end)}")
    return folder.read_best(lambda best: Deployed(load_policy(best, device), _choice(folder, best)))


def _choice(folder: RunFolder, best: Path) -> str:
    if best not in (kept := folder.policies()):
        return f"newest checkpoint: {folder.given}/checkpoints/{best.name}; no policy of this run has been evaluated"
    return describe_best(read_evaluation(best), max(map(read_evaluation, kept), key=lambda one: one.number))


def give(load: Callable[[T], None], what: T, name: str) -> None:
    """Pass `what` to an algorithm's method `load`. Raise `UserError` with the `name` if the algorithm refuses it."""
    try:
        load(what)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def make_environment(config: RunConfig, **options: Any) -> Env:
    """Make an environment of the run's configuration; `options` are further arguments of it."""
    with environments_turn():
        return environment_maker(config, **options)()


def environment_maker(config: RunConfig, **options: Any) -> Callable[[], Env]:
    """Return a function that makes an environment, for processes in which the configuration's class may be unknown."""
    return maker_with_reward(config.env, {**config.env_options, **options}, config.reward)


def maker_with_reward(env: str, options: Mapping[str, Any], reward: RewardKind) -> Callable[[], Env]:
    """Return a function that makes an environment with its options and its own rewards, or those of its success."""
    make = partial(make_env, env, **options)
    return make if reward == "dataset" else partial(reward_success, make, *SUCCESS_REWARDS[reward])


def make_environments(config: RunConfig, number: int, n_action_steps: int) -> VectorEnv[Any, Any, Any]:
    """Make `number` parallel environments that execute chunks of `n_action_steps` actions."""
    make, mode = [environment_maker(config)] * number, config.vectorization_mode
    return vectorize(make, n_action_steps, mode, time_limit=config.env_time_limit, success=SuccessRule(config.success))


def require_fit(policy: BestOfN, environment: Env | VectorEnv[Any, Any, Any], run: str) -> None:
    """Raise `UserError` if the observations or actions of the run's policy are not those of the environment."""
    for name, got, space in (
        ("observations", policy.policy.observation_dim, environment.observation_space),
        ("actions", policy.policy.action_dim, environment.action_space),
    ):
        assert space.shape is not None
        if got != space.shape[-1]:
            raise UserError(
                f"{run}: its policy has {name} of {got} dimensions, the environment {space.shape[-1]}: "
                "is the checkpoint another run's?"
            )
    if policy.task is not None:
        policy.task.require_same(TaskSpec.from_env(environment), f"{run}: the environment is another task")


def make_mirror(config: RunConfig, layout: ObservationLayout | None = None) -> Callable[[Episode], Episode] | None:
    """Return a function that mirrors an episode, or None if the setting is off or the environment has no symmetry.

    Packed observations, which have a `layout`, are not mirrored, because they may contain images.
    """
    with environments_turn():  # the environment's module may be imported here first
        trajectory = find_mirror(config.env, **config.env_options) if config.mirror and layout is None else None
    if trajectory is None:
        return None

    def mirror(episode: Episode) -> Episode:
        proposals, steps = episode.proposals, len(episode)
        actions = episode.action
        if proposals is not None:
            actions = np.concatenate([actions, proposals.chunk.reshape(-1, episode.action_dim)])
        observation, actions = trajectory(episode.observation, actions)
        if proposals is not None:
            proposals = replace(proposals, chunk=actions[steps:].reshape(proposals.chunk.shape))
        image = replace(episode, observation=observation, action=actions[:steps], proposals=proposals)
        return replace(image, mode=-1, decision=None)

    return mirror


def make_algorithm(
    config: TrainConfig[Any], observation_dim: ObservationSize, action_dim: int, checkpoint: Path | None = None
) -> Algorithm:
    """Build the algorithm that the configuration names.

    Args:
        config: The configuration of the run.
        observation_dim, action_dim: The sizes of the environment's observations and actions.
        checkpoint: The checkpoint from which the run is resumed. It limits the memory of the networks to not much more
            than its own size, because the configuration may come from an untrusted source.

    Raises:
        UserError: A setting is invalid, such as an unknown option of the flow, or the package of a flow or encoder
            cannot be imported.
    """
    algorithm = find_algorithm(config.algorithm)
    require_device(config.run.device)
    try:
        with nullcontext() if checkpoint is None else memory_limit("the configuration", checkpoint / "training.pt"):
            made = algorithm(config.method, observation_dim, action_dim, config.run.device)
        made.schedule()  # a stage may be wrong
    except (ValueError, ImportError, RuntimeError, OverflowError) as error:  # the last two: sizes too large for torch
        raise UserError(f"algorithm {chosen_name(config)!r}: {one_line(error)}") from error
    try:
        inspect.signature(made.explore).bind("observation", "arms")
    except TypeError as error:  # the interface of earlier versions
        raise UserError(
            f"algorithm {config.algorithm!r}: explore must take the observations and the arms of their episodes, "
            "explore(self, observation, arms), see docs/explanation/architecture.md"
        ) from error
    for name in ("update", "begin", "diagnose"):
        if hasattr(made, name):  # the interface of earlier versions, which nobody would call
            raise UserError(
                f"algorithm {config.algorithm!r} has a method {name!r}, which nothing calls: give it to the stage, "
                f"Stage(..., {name}=...), see docs/explanation/architecture.md"
            )
    if not isinstance(getattr(made, "deployed", None), BestOfN):
        raise UserError(f"algorithm {config.algorithm!r}: its constructor must set self.deployed to a BestOfN")
    try:
        made.deployed.require_restorable()
    except UserError as error:
        raise UserError(f"algorithm {config.algorithm!r}: {error}") from error
    return made


def for_demonstrations(config: TrainConfig[Any], steps: int, length: float) -> TrainConfig[Any]:
    """Return the settings with the numbers that follow from the demonstrations (`PolicyConfig.for_demonstrations`).

    Settings that give a number are kept, and so are those of a method without `PolicyConfig`.

    Args:
        config: The settings.
        steps: Number of steps worth imitating, with mirror images.
        length: Median number of steps of a demonstration.
    """
    if not isinstance(config.method, PolicyConfig):
        return config
    return replace(config, method=config.method.for_demonstrations(steps, length))


def with_saved_weights(config: TrainConfig[Any]) -> TrainConfig[Any]:
    """Return a configuration whose encoder reads no file and downloads nothing, because its weights are loaded later.

    They are those of a checkpoint, of a base, or of the learner.
    """
    options = getattr(config.method, "encoder_options", {})
    if not options.keys() & {"weights", "download"}:
        return config
    return replace(config, method=replace(config.method, encoder_options={**options, "weights": "", "download": False}))


def require_networks(config: TrainConfig[Any]) -> None:
    """Check the networks of a new run's configuration, before its environment is made.

    Raises:
        UserError: The flow is unknown or lacks an option, the encoder or one of its options is unknown, or no weights
            of a pretrained encoder are named.
    """
    checks: dict[str, Callable[[str, dict[str, Any]], object]] = {"flow": find_flow}
    if getattr(config.method, "base", None) is None:  # with a base, the encoder and its weights are those of the base
        if getattr(config.method, "encoder_options", {}).get("weights") == "":
            raise UserError("encoder_options.weights is empty: give --encoder-options.weights FILE")
        checks["encoder"] = require_encoder
    for kind, check in checks.items():
        name, options = (getattr(config.method, key, None) for key in (kind, f"{kind}_options"))
        if name is None:
            continue
        try:
            check(name, options or {})
        except (ValueError, ImportError) as error:
            raise UserError(f"algorithm {chosen_name(config)!r}: {one_line(error)}") from error


def require_policy(config: TrainConfig[Any], task: TaskSpec) -> None:
    """Check that the policy of a new run can be made for its task, before demonstrations are recorded.

    Raises:
        UserError: The flow or the encoder refuses an option, the weights of the encoder cannot be read, it cannot take
            the observation, or there is no such base of another project.
    """
    method = config.method
    if not isinstance(method, PolicyConfig):
        return
    try:
        with torch.random.fork_rng(devices=[]):  # the networks of the run are as if there had been no check
            if method.base is None:
                method.make_policy(task.observation_size, task.action_dim)
            elif isinstance(method, SteeredConfig) and is_foreign(method.base):
                open_base(method.base, method.base_options)
    except (ValueError, ImportError, RuntimeError, OverflowError) as error:
        raise UserError(f"algorithm {chosen_name(config)!r}: {one_line(error)}") from error


def require_device(name: str) -> None:
    """Raise `UserError` if torch cannot use the device."""
    try:
        torch.zeros(1, device=name).cpu()  # `cpu()` fails on the device "meta", whose tensors have no data
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


def require_new_file(path: Path, flag: str, make_folder: bool = False) -> None:
    """Check in advance that `path` can be written without overwriting anything.

    Raises:
        UserError: The path exists, or its folder does not exist (with `make_folder`: and cannot be created).
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists; choose another {flag}")
    folder = path.absolute().parent
    if make_folder:
        folder = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not folder.is_dir():
        raise UserError(f"{path}: {folder} is no folder; choose another {flag}")
