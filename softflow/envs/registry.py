"""Environments and demonstrators by name.  Whatever comes out has flat observations and actions in [-1, 1]."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from softflow.envs.actions import unit_actions
from softflow.envs.diagnostics.tasks import DiagnosticTask
from softflow.envs.options import check_options
from softflow.envs.packing import flatten_observations
from softflow.envs.simulation import SimulatedTask
from softflow.envs.success import SparseSuccess, SuccessInfo
from softflow.envs.tasks import Demonstrator, Mirror, Supervisor, find_task, known_tasks, short_names
from softflow.errors import UserError, did_you_mean, one_line
from softflow.task import TaskSpec

Env = gymnasium.Env[Any, Any]
NO_DEMONSTRATOR = (
    "no demonstrator is known for {}: give demonstrations with --demos FILE.npz "
    "(softflow.data.save_demonstrations writes such a file)"
)
NO_SUPERVISOR = (
    "nothing in {} can take over from a policy: write corrections of your own with softflow.data.save_corrections"
)


def make_env(
    name: str, /, sparse_success: Any = False, observed_as: Mapping[str, Any] | None = None, **options: Any
) -> Env:
    """Make an environment with observation ``Box (O,)`` and action ``Box(-1, 1, (A,), float32)``.

    A ``Dict``, or a box of more axes, is flattened; with images in it, it is packed (`ObservationRows`); other bounds
    of actions are rescaled; an ``info`` that says ``success`` says ``is_success`` too. Its names, shapes and native
    bounds are in its ``metadata["task_spec"]``, which wrappers and vector environments hand on.

    Args:
        name: a short name (``available_envs``) or a registered gymnasium id, also as ``module:Id-v0``.
        sparse_success: True or False; the first success ends the episode with reward 1, and all else is worth 0,
            whatever the environment's own rewards and ends (`SparseSuccess`).
        observed_as: by name of a part of the observation, what to take it for (`TaskSpec.from_env`).
        options: keyword arguments of ``gymnasium.make``, such as ``render_mode``, and of the environment, which gets
            copies.

    Raises:
        UserError: nothing of that name, an option it does not have or cannot take, or spaces that cannot be brought
            into this form.
    """
    env_id, what = resolve_env_id(name), f"environment {name!r}"
    if not isinstance(sparse_success, bool):
        raise UserError(f"{what}: sparse_success must be true or false, got {sparse_success!r}")
    check_options(gymnasium.make, options, what)  # it has some of its own
    try:
        with _options_of(what, _constructor(env_id), options):
            env: Env = SuccessInfo(gymnasium.make(env_id, **copy.deepcopy(options)))
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UserError(f"{what} needs a package that is not installed: {error}") from error
    env.metadata = {**env.metadata, "time_limit": _time_limit(env)}
    if sparse_success:
        env = SparseSuccess(env)
    try:
        spec = TaskSpec.from_env(env, observed_as)
    except UserError:
        env.close()
        raise
    env = unit_actions(flatten_observations(env, spec), spec)
    env.metadata = {**env.metadata, "task_spec": spec}
    return env


def available_envs() -> list[str]:
    """The short names that `make_env` takes besides gymnasium's ids."""
    return short_names()


def resolve_env_id(name: str) -> str:
    """The registered gymnasium id behind a short name or an id, importing the module of ``module:Id-v0``.

    Raises:
        UserError: there is none.
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
    hint = did_you_mean(env_id, [*available_envs(), *gymnasium.registry], neighbours=available_envs())
    raise UserError(f"no environment is called {name!r}: {hint} Other packages' are named module:Id-v0.")


def _import(module: str, name: str) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        hint = _import_hint(module, error.name) if isinstance(error, ModuleNotFoundError) else ""
        raise UserError(f"environment {name!r}: cannot import {module!r} ({error!r}){hint}") from error


def _import_hint(module: str, missing: str | None) -> str:
    for task in known_tasks():
        if task.module == module and task.install:
            return f": pip install '{task.install}'"
    if missing and not f"{module}.".startswith(f"{missing}."):
        return f": is {missing!r} installed?"  # the module itself is there
    if module.endswith(".py"):
        return f": name it {module.removesuffix('.py')!r}, without the .py"
    package = module.partition(".")[0]
    if Path(package).is_dir() or Path(f"{package}.py").is_file():
        return ": it is in the current folder, which Python does not search: set PYTHONPATH=."
    return ": is it installed, or its folder in PYTHONPATH?"


def _registered_by(module: str) -> set[str]:
    """Ids whose environments are made in the module's package."""
    package = module.partition(".")[0]
    return {env_id for env_id, spec in gymnasium.registry.items() if _module(spec.entry_point).split(".")[0] == package}


def _module(entry_point: Any) -> str:
    return entry_point.partition(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")


def make_demonstrator(env: Env, rng: np.random.Generator, /, **options: Any) -> Demonstrator:
    """Make the demonstrator of one episode of ``env``, an environment of `make_env` that has just been reset.

    Args:
        env: the environment to be demonstrated in.
        rng: source of everything random in the demonstration.
        options: keyword arguments of the demonstrator, such as ``mode``.

    Raises:
        UserError: there is no demonstrator for this environment, or it has no such option.
    """
    return _make("demonstrator", env, rng, options, NO_DEMONSTRATOR)


def make_supervisor(env: Env, rng: np.random.Generator, /, **options: Any) -> Supervisor:
    """Make the supervisor of one episode of ``env``; arguments as for `make_demonstrator`.

    Raises:
        UserError: there is no supervisor for this environment, or it has no such option.
    """
    return _make("supervisor", env, rng, options, NO_SUPERVISOR)


def _make(part: str, env: Env, rng: np.random.Generator, options: Mapping[str, Any], missing: str) -> Any:
    env_id = _env_id(env)
    constructor = _part_of(env_id, part)
    if constructor is None:
        raise UserError(missing.format(repr(env_id)))
    with _options_of(f"the {part} of {env_id!r}", constructor, options):
        return constructor(env, rng, **options)


def find_mirror(name: str, /, **options: Any) -> Mirror | None:
    """What makes an episode's mirror image in `make_env` of the same arguments; None if it has none."""
    find = _part_of(resolve_env_id(name), "mirror")
    return None if find is None else find(**options)


def _part_of(env_id: str, part: str) -> Callable[..., Any] | None:
    task = find_task(env_id)
    return None if task is None else task.load(part)


@contextmanager
def _options_of(what: str, constructor: Callable[..., Any], options: Mapping[str, Any]) -> Iterator[None]:
    """Say of `what` that it does not take the options, where that is why it cannot be made."""
    check_options(constructor, options, what)
    try:
        yield
    except (UserError, gymnasium.error.DependencyNotInstalled, ImportError):
        raise
    except Exception as error:
        if not options:  # then it is a bug of whoever wrote it
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise UserError(f"{what} cannot be made with {given}: {type(error).__name__}: {one_line(error)}") from error


def _constructor(env_id: str) -> Callable[..., Any]:
    entry_point: Any = gymnasium.spec(env_id).entry_point
    return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


def _time_limit(env: Env) -> int | None:
    """Steps after which episodes are cut off, by gymnasium or by an environment of softflow itself."""
    limits, task = [env.spec.max_episode_steps if env.spec else None], env.unwrapped
    if isinstance(task, SimulatedTask):
        limits.append(task.max_steps)
    elif isinstance(task, DiagnosticTask):
        limits.append(task.MAX_STEPS)
    return min((limit for limit in limits if limit is not None), default=None)


def _env_id(env: Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
