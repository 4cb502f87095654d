"""`softflow-study`: run methods, environments, settings and seeds side by side, and tabulate what they reach."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from softflow.cli.command_line import parse_command_line, read_selection, run_main
from softflow.cli.dict_flags import flag_name
from softflow.cli.train import parse_new_run
from softflow.console import note, remark
from softflow.envs import NO_ENVIRONMENT, resolve_env_id
from softflow.errors import UserError
from softflow.runs.assembly import require_networks
from softflow.runs.config import config_class
from softflow.runs.ray_cluster import connected
from softflow.settings.fields import Flat, dotted_fields, to_dict
from softflow.studies.jobs import Job
from softflow.studies.plan import (
    Choice,
    Plan,
    Planned,
    Resolve,
    choices,
    grid_of,
    require_different,
    require_free,
    seeds_of,
)
from softflow.studies.ray_runner import RayRunner
from softflow.studies.results import DEPLOYED, FIGURES, Results
from softflow.studies.runners import LocalRunner, Runner, run_jobs
from softflow.training.config import RunConfig
from softflow.training.global_state import environments_turn
from softflow.training.run_lock import RunLock


@dataclass
class AxesConfig:
    """What differs between the runs. There is one for each combination."""

    algos: tuple[str, ...] = ("softflow",)
    """Presets of algorithms: names, or paths of your own YAML files."""
    envs: tuple[str, ...] = ("tape_cut",)
    """Environments: short names or gymnasium ids."""
    seeds: tuple[str, ...] = ("0",)
    """Seeds: `0 1 2`, or the range `0..2`, which is the same."""
    grid: Annotated[tuple[tuple[str, ...], ...], UseAppendAction, arg(metavar="KEY=VALUE,... ...")] = ()
    """Other settings of softflow-train to vary, each with its values: `--grid online.learning_rate=1e-4,3e-4`."""


@dataclass
class ExecutionConfig:
    """How the runs are executed."""

    episodes: int = 100
    """Number of held-out episodes on which each run's best policy is evaluated. More episodes narrow the confidence
    interval. Training uses other episodes to choose this policy."""
    jobs: int = 1
    """Number of simultaneous runs on this machine."""
    retries: int = 1
    """Number of times that a failed run is continued from its last checkpoint."""
    cluster: str | None = None
    """Ray cluster whose nodes execute the runs: `auto` for the one that is running on this machine, or HOST:PORT. As
    many runs execute at the same time as the cluster has resources for. FOLDER must be on a file system that all nodes
    share (docs/how-to/scale.md)."""
    resources: dict[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    """Resources that the cluster reserves for each run, by Ray's names: `CPU`, `GPU`, or a resource of your own."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("jobs", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.cluster is None:
            return
        if self.cluster != "auto" and not self.cluster.rpartition(":")[2].isdecimal():
            raise ValueError(f"cluster must be auto or HOST:PORT, got {self.cluster!r}")
        if self.jobs > 1:
            raise ValueError("jobs are for this machine: on a cluster, resources says how many runs it has room for")


@dataclass
class StudyConfig:
    """Settings of `softflow-study`."""

    folder: Annotated[Positional[str], arg(metavar="FOLDER")]
    """Folder for the runs and the results. If it already holds a study, finished runs are skipped, interrupted runs
    continue from their checkpoints, and new runs are added."""
    axes: Flat[AxesConfig] = field(default_factory=AxesConfig)
    execution: Flat[ExecutionConfig] = field(default_factory=ExecutionConfig)


DESCRIPTION = """\
Run softflow-train for all combinations of algorithms, environments, settings and seeds, and tabulate the success.
Flags after -- are passed to softflow-train in every run, with {env} and {seed} replaced by those of the run."""


@run_main
def main(argv: Sequence[str]) -> int:
    split = argv.index("--") if "--" in argv else len(argv)
    parsing = {"prog": "softflow-study", "description": DESCRIPTION}
    config = parse_command_line(StudyConfig, argv[:split], **parsing, layers_for=lambda _: [])
    axes, execution = config.axes, config.execution
    algos, envs = require_different("--algos", [*axes.algos]), require_different("--envs", [*axes.envs])
    wanted = choices(algos, envs, seeds_of(axes.seeds), grid_of([one for some in axes.grid for one in some]))
    with _locked(Path(config.folder)) as folder:
        plan = Plan(folder)
        runs = plan.extend(wanted, _resolver(argv[split + 1 :]))
        with _runner(execution, plan.file) as runner:
            plan.save()
            failed = _execute(plan, runs, runner, execution)
    return 1 if failed else 0


def _execute(plan: Plan, runs: Sequence[Planned], runner: Runner, config: ExecutionConfig) -> bool:
    """Execute runs of a plan, print and write the results of all, and return whether a run has failed."""
    results, evaluated = Results(plan), {DEPLOYED: list[str]()}
    names = {
        Job((plan.folder / name).absolute(), _with_seed(run.arguments, run.choice), evaluated, config.episodes): name
        for name, run in plan.runs.items()
    }
    wanted = {run.name for run in runs}
    for job, name in names.items():
        if job.finished or (name not in wanted and job.has_trained and job.evaluation(DEPLOYED).is_file()):
            results.add(name, job)

    def keep(job: Job) -> None:
        results.add(names[job], job)
        results.write()

    jobs = [job for job, name in names.items() if name in wanted]
    done = sum(job.finished for job in jobs)
    note(f"{len(jobs)} runs, {done} of them finished")
    if not (can_plot := find_spec("matplotlib") is not None):
        remark(f"{FIGURES[0]} will not be drawn: pip install 'softflow[plot]'")
    failed = run_jobs(jobs, runner, keep, config.retries)
    note(results.write().rstrip())
    if can_plot:
        results.plot()
    return bool(failed)


def _resolver(flags: Sequence[str]) -> Resolve:
    """Return what resolves runs with these flags. Only the seed differs within a cell, unless a flag depends on it."""
    cells: dict[tuple[object, ...], Planned] = {}
    depends_on_seed = any("{seed}" in flag for flag in flags)

    def resolve(choice: Choice) -> Planned:
        cell = choice.algo, choice.env, *choice.grid.items()
        if depends_on_seed or cell not in cells:
            cells[cell] = _resolve(choice, flags)
        return replace(cells[cell], choice=choice, settings={**cells[cell].settings, "seed": choice.seed})

    return resolve


def _with_seed(arguments: Sequence[str], choice: Choice) -> list[str]:
    return [*arguments, "--seed", str(choice.seed)]


def _resolve(choice: Choice, flags: Sequence[str]) -> Planned:
    """Resolve the settings of a run as softflow-train does.

    Raises:
        UserError: A setting is not valid, or one of the study's own is among the flags.
    """
    given = [flag.replace("{env}", choice.env).replace("{seed}", str(choice.seed)) for flag in flags]
    for flag in given:
        if flag.startswith("--"):
            key = flag_name(flag[2:].partition("=")[0]).replace("-", "_")
            require_free(key, flag)
            if key in choice.grid:
                raise UserError(f"{flag}: it is on the grid as well, remove it after --")
    fixed = ["--algo", choice.algo, "--env", choice.env, *given]
    try:
        arguments = [*fixed, *_grid_flags(choice.grid, fixed)]
        config = parse_new_run(_with_seed(arguments, choice))
        if config.run.env == NO_ENVIRONMENT:
            raise UserError("env none: there is nothing in which a policy could be evaluated")
        with environments_turn():
            resolve_env_id(config.run.env)
        require_networks(config)
    except UserError as error:
        grid = "".join(f", {key} {text}" for key, text in choice.grid.items())
        raise UserError(f"{choice.algo} on {choice.env}{grid}: {error}") from error
    return Planned(choice, arguments, to_dict(config))


def _grid_flags(grid: Mapping[str, str], fixed: Sequence[str]) -> list[str]:
    """Return the flags of softflow-train for settings that are given as texts. Switches take no value there."""
    flags = {f"--{flag_name(key)}": text for key, text in grid.items()}
    settings = config_class(read_selection(RunConfig, [*fixed, *(f"{flag}={text}" for flag, text in flags.items())]))
    switches = {f"--{flag_name(key)}" for key, annotation in dotted_fields(settings) if annotation is bool}
    given = [[_switch(flag, text)] if flag in switches else [flag, text] for flag, text in flags.items()]
    return [part for parts in given for part in parts]


def _switch(flag: str, text: str) -> str:
    if text not in ("true", "false"):
        raise UserError(f"{flag} is {text!r}: it must be true or false")
    parent, dot, name = flag[2:].rpartition(".")
    return flag if text == "true" else f"--{parent}{dot}no-{name}"


@contextmanager
def _runner(config: ExecutionConfig, mark: Path) -> Iterator[Runner]:
    if config.cluster is None:
        yield LocalRunner(config.jobs)
        return
    with connected(config.cluster) as ray:
        yield RayRunner(ray, config.resources, mark)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Make the folder of a study, and keep other studies out of it. Remove it if nothing is written to it.

    Raises:
        UserError: The folder cannot be made, or another study uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be the folder of a study ({error.strerror}): choose another one") from error
    lock = RunLock(folder, str(folder))
    lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
        with suppress(OSError):
            folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
