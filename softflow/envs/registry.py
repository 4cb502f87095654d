"""Environments and demonstrators by name. All environments have flat observations and actions in [-1, 1]."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from softflow.envs.actions import unit_actions
from softflow.envs.options import check_options
from softflow.envs.packing import flatten_observations
from softflow.envs.simulation import SimulatedTask
from softflow.envs.stateful import StatefulTask
from softflow.envs.success import SuccessInfo, SuccessReward
from softflow.envs.tasks import (
    FOREIGN_IDS,
    Demonstrator,
    Mirror,
    Supervisor,
    find_task,
    known_tasks,
    nearest_environment,
    short_names,
)
from softflow.errors import UserError, described, did_you_mean, import_error, import_hint, one_line
from softflow.task import TaskSpec

Env = gymnasium.Env[Any, Any]
NO_DEMONSTRATOR = (
    "no demonstrator is known for {}: train with --demos FILE.npz (softflow.data.save_demonstrations writes such a "
    "file), record a person with softflow-demo --teleop keyboard, or name one with softflow.envs.register_task"
)
NO_SUPERVISOR = (
    "nothing in {} can take over from a policy: write corrections of your own with softflow.data.save_corrections"
)


def make_env(
    name: str, /, sparse_success: Any = False, observed_as: Mapping[str, Any] | None = None, **options: Any
) -> Env:
    """Make an environment with observation ``Box (O,)`` and action ``Box(-1, 1, (A,), float32)``.

    Dict observations and boxes with several axes are flattened, and packed if they contain images (`ObservationRows`).
    Actions with other bounds are rescaled. An ``info`` with ``success`` gets ``is_success`` as well. The native names,
    shapes and bounds are in ``metadata["task_spec"]``, which wrappers and vector environments pass on.

    Args:
        name: A short name (``available_envs``) or a registered gymnasium id, optionally as ``module:Id-v0``.
        sparse_success: True or False; the first success ends the episode with reward 1, and all other rewards are 0.
            This replaces the environment's own rewards (`SuccessReward`).
        observed_as: How to interpret parts of the observation, by their names (`TaskSpec.from_env`).
        options: Keyword arguments of ``gymnasium.make``, such as ``render_mode``, and of the environment, which
            receives copies.

    Raises:
        UserError: The name is unknown, the environment does not accept an option, or its spaces cannot be converted to
            this form. Or making the environment raises an error.
    """
    env_id, what = resolve_env_id(name), f"environment {name!r}"
    if not isinstance(sparse_success, bool):
        raise UserError(f"{what}: sparse_success must be true or false, got {sparse_success!r}")
    check_options(gymnasium.make, options, what)  # gymnasium.make takes some of them itself
    try:
        with options_checked(what, _constructor(env_id), options):
            env: Env = SuccessInfo(gymnasium.make(env_id, **copy.deepcopy(options)))
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UserError(f"{what} needs a package that is not installed: {error}") from error
    except UserError:
        raise
    except Exception as error:  # making an environment can raise anything
        raise UserError(f"{what} cannot be made: {described(error)}") from error
    env.metadata = {**env.metadata, "time_limit": _time_limit(env)}
    if sparse_success:
        env = SuccessReward(env)
    try:
        spec = TaskSpec.from_env(env, observed_as)
    except UserError:
        env.close()
        raise
    env = unit_actions(flatten_observations(env, spec), spec)
    spaces = env.observation_space, env.action_space
    env.metadata = {**env.metadata, "task_spec": spec, "task_spaces": spaces}
    return env


def available_envs() -> list[str]:
    """Return the short names that `make_env` accepts besides gymnasium's ids."""
    return short_names()


def resolve_env_id(name: str) -> str:
    """Return the registered gymnasium id for a short name or an id, importing the module of ``module:Id-v0``.

    Raises:
        UserError: No such environment is registered.
    """
    task = None if ":" in name else find_task(name)
    module, _, env_id = (task.id if task else name).rpartition(":")
    before = set(gymnasium.registry)
    if module:
        _import(module, name)
    if env_id in gymnasium.registry:
        return env_id
    if module:
        its_own = set(gymnasium.registry) - before or _registered_by(module)
        hint = did_you_mean(env_id, its_own) if its_own else "it has no such gymnasium.register(...)"
        raise UserError(f"environment {name!r}: {module!r} registers no {env_id!r}: {hint}")
    near = nearest_environment(env_id, available_envs())
    hint = f"did you mean {near!r}?" if near is not None else f"valid: {', '.join(available_envs())}."
    raise UserError(f"no environment is called {name!r}: {hint} {FOREIGN_IDS}")


def _import(module: str, name: str) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # importing a module can raise anything
        hint = _import_hint(module, error)
        raise UserError(f"environment {name!r}: cannot import {module!r} ({import_error(error)}){hint}") from error


def _import_hint(module: str, error: BaseException) -> str:
    for task in known_tasks():
        if task.module == module and task.install and isinstance(error, ModuleNotFoundError):
            return f": pip install '{task.install}'"
    return import_hint(module, error)


def _registered_by(module: str) -> set[str]:
    """Return the ids of environments whose entry points are in the module's package."""
    package = module.partition(".")[0]
    return {env_id for env_id, spec in gymnasium.registry.items() if _module(spec.entry_point).split(".")[0] == package}


def _module(entry_point: Any) -> str:
    return entry_point.partition(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")


def make_demonstrator(env: Env, rng: np.random.Generator, /, **options: Any) -> Demonstrator:
    """Make the demonstrator for one episode of ``env``, an environment from `make_env` that has just been reset.

    Args:
        env: The environment to demonstrate in.
        rng: Source of all randomness in the demonstration.
        options: Keyword arguments of the demonstrator, such as ``mode``.

    Raises:
        UserError: This environment has no demonstrator, or the demonstrator has no such option.
    """
    return _make("demonstrator", env, rng, options, NO_DEMONSTRATOR)


def make_supervisor(env: Env, rng: np.random.Generator, /, **options: Any) -> Supervisor:
    """Make the supervisor for one episode of ``env``; the arguments are those of `make_demonstrator`.

    Raises:
        UserError: This environment has no supervisor, or the supervisor has no such option.
    """
    return _make("supervisor", env, rng, options, NO_SUPERVISOR)


def _make(part: str, env: Env, rng: np.random.Generator, options: Mapping[str, Any], missing: str) -> Any:
    env_id = _env_id(env)
    constructor = _part_of(env_id, part)
    if constructor is None:
        raise UserError(missing.format(repr(env_id)))
    with options_checked(f"the {part} of {env_id!r}", constructor, options):
        return constructor(env, rng, **options)


def find_mirror(name: str, /, **options: Any) -> Mirror | None:
    """Return the function that mirrors episodes of `make_env(name, **options)`, or None without such a symmetry."""
    find = _part_of(resolve_env_id(name), "mirror")
    return None if find is None else find(**options)


def _part_of(env_id: str, part: str) -> Callable[..., Any] | None:
    task = find_task(env_id)
    return None if task is None else task.load(part)


@contextmanager
def options_checked(what: str, constructor: Callable[..., Any], options: Mapping[str, Any]) -> Iterator[None]:
    """Check the options, and turn an error raised while making `what` with them into a `UserError` that lists them."""
    check_options(constructor, options, what)
    try:
        yield
    except (UserError, gymnasium.error.DependencyNotInstalled, ImportError):
        raise
    except Exception as error:
        if not options:  # no option can be at fault, so it is a bug in the constructor
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise UserError(f"{what} cannot be made with {given}: {type(error).__name__}: {one_line(error)}") from error


def _constructor(env_id: str) -> Callable[..., Any]:
    entry_point: Any = gymnasium.spec(env_id).entry_point
    return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


def _time_limit(env: Env) -> int | None:
    """Return the number of steps after which gymnasium or one of softflow's own environments truncates an episode."""
    limits, task = [env.spec.max_episode_steps if env.spec else None], env.unwrapped
    if isinstance(task, SimulatedTask):
        limits.append(task.max_steps)
    elif isinstance(task, StatefulTask):
        limits.append(task.MAX_STEPS)
    return min((limit for limit in limits if limit is not None), default=None)


def _env_id(env: Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
