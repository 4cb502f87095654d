"""A run's environments, algorithm and policy, as its configuration asks for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from gymnasium.vector import VectorEnv

from softflow.algos import Algorithm, find_algorithm
from softflow.data import Episode
from softflow.envs import make_env
from softflow.envs.registry import Env, find_mirror
from softflow.errors import UserError, one_line
from softflow.policies import BestOfN, ChunkPolicy
from softflow.policies.weights import memory_limit
from softflow.runs.config import TrainConfig, read_config
from softflow.task.layout import ObservationLayout, ObservationSize
from softflow.training.checkpoint import load_policy
from softflow.training.config import RunConfig
from softflow.training.global_state import environments_turn
from softflow.training.run_folder import RunFolder
from softflow.training.success import SuccessRule
from softflow.training.vector import vectorize

T = TypeVar("T")


def config_path_of(run: str) -> Path:
    """The configuration of a run folder, or of a checkpoint's folder in it. The latter may have been taken out of its
    run: then there is no such file.

    Raises:
        UserError: it is neither.
    """
    path = Path(run).resolve()
    return path.parent.parent / "config.yaml" if (path / "policy.json").is_file() else RunFolder.open(path).config_path


def load_run(run: str, device: str = "cpu") -> tuple[BestOfN, TrainConfig[Any]]:
    """What deploys of a run folder, or of a checkpoint's folder in it, and the run's configuration. The run may go on
    meanwhile.

    Raises:
        UserError: it is neither, or one of the two cannot be loaded.
    """
    config = read_config(
        str(config_path_of(run))
    )  # first: the module of someone's algorithm may register the policy's flow
    return load_deployed(run, device), config


def read_base(run: str) -> ChunkPolicy:
    """The policy of a run that is to be steered. Raises `UserError` if it cannot be loaded."""
    return load_deployed(run).policy


def load_deployed(run: str, device: str = "cpu") -> BestOfN:
    """Load what deploys of a run folder, or of a checkpoint's folder, without a look at the run's configuration.

    Raises:
        UserError: it is neither, or the policy cannot be loaded.
    """
    path = Path(run).absolute()
    if (path / "policy.json").is_file():
        return load_policy(path, device)
    return RunFolder.open(path).read_last(partial(load_policy, device=device))


def give(load: Callable[[T], None], what: T, name: str) -> None:
    """Have an algorithm `load` what a setting names. Raises `UserError`, with the `name`, if it does not take it."""
    try:
        load(what)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def make_environment(config: RunConfig, **options: Any) -> Env:
    """An environment as the run's configuration asks for; `options` are more of its arguments."""
    with environments_turn():
        return make_env(config.env, **{**config.env_options, **options})


def environment_maker(config: RunConfig) -> Callable[[], Env]:
    """`make_environment` for another process, where the class of the configuration may not be known."""
    return partial(make_env, config.env, **config.env_options)


def make_environments(config: RunConfig, number: int, n_action_steps: int) -> VectorEnv[Any, Any, Any]:
    """`number` of them side by side, each executing chunks of `n_action_steps` actions."""
    make, mode = [environment_maker(config)] * number, config.vectorization_mode
    return vectorize(make, n_action_steps, mode, time_limit=config.env_time_limit, success=SuccessRule(config.success))


def require_fit(policy: BestOfN, environment: Env | VectorEnv[Any, Any, Any], run: str) -> None:
    """Raises `UserError` if the observations or actions of the run's policy are not those of the environment."""
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


def make_mirror(config: RunConfig, layout: ObservationLayout | None = None) -> Callable[[Episode], Episode] | None:
    """What makes the mirror image of an episode; None without the setting, or without the symmetry, which is known of
    numbers alone: cameras have no mirror image, and `layout`, of packed observations, says whether there are any."""
    with environments_turn():  # the environment's module may be imported here first
        trajectory = find_mirror(config.env, **config.env_options) if config.mirror and layout is None else None
    if trajectory is None:
        return None

    def mirror(episode: Episode) -> Episode:
        observation, action = trajectory(episode.observation, episode.action)
        return replace(episode, observation=observation, action=action, mode=-1, decision=None)

    return mirror


def make_algorithm(
    config: TrainConfig[Any], observation_dim: ObservationSize, action_dim: int, checkpoint: Path | None = None
) -> Algorithm:
    """The algorithm that the configuration names.

    Args:
        config: of the run.
        observation_dim, action_dim: of the environment.
        checkpoint: the run is resumed from it. Then nothing much larger is built than what it holds: the configuration
            may be a stranger's.

    Raises:
        UserError: a setting that it does not take, such as an unknown option of the flow; or a flow or an encoder whose
            package cannot be imported.
    """
    algorithm = find_algorithm(config.algorithm)
    require_device(config.run.device)
    try:
        with nullcontext() if checkpoint is None else memory_limit("the configuration", checkpoint / "training.pt"):
            return algorithm(config.method, observation_dim, action_dim, config.run.device)
    except (ValueError, ImportError, RuntimeError, OverflowError) as error:  # the last two: sizes beyond torch's
        raise UserError(f"algorithm {config.algorithm!r}: {one_line(error)}") from error


def require_device(name: str) -> None:
    """Raises `UserError` if torch cannot use the device."""
    try:
        torch.zeros(1, device=name).cpu()  # "meta" makes tensors that hold nothing
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


def require_new_file(path: Path, flag: str, make_folder: bool = False) -> None:
    """Check, before there is anything to write, that `path` can be written without overwriting anything.

    Raises:
        UserError: it exists, or its folder does not; with `make_folder`, a folder of that name cannot be made.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists; choose another {flag}")
    folder = path.absolute().parent
    if make_folder:
        folder = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not folder.is_dir():
        raise UserError(f"{path}: {folder} is no folder; choose another {flag}")
