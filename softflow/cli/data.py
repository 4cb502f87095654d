"""`softflow-data`: look at, check, convert, repair, merge, filter and split recorded datasets of any known format."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import chdir, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import Positional, arg

from softflow.cli.check_data import CheckConfig, check_file
from softflow.cli.command_line import as_json, parse_command_line, run_main
from softflow.cli.output import OutputConfig, lerobot_needed, new_file
from softflow.console import remark
from softflow.data import Dataset, read_dataset, save_demonstrations
from softflow.data.contact_sheet import save_contact_sheet
from softflow.data.damage import leaving_out_damaged
from softflow.data.editing import Conditions, merge, split
from softflow.data.summary import count, in_words, summary_of
from softflow.envs import make_env
from softflow.errors import UserError, did_you_mean
from softflow.runs.given_demonstrations import fitting, naming_by
from softflow.settings.fields import Flat, keys_of
from softflow.settings.presets import known_layers
from softflow.task import TaskSpec
from softflow.training.config import EnvOptions
from softflow.training.global_state import environments_turn


@dataclass
class ReadingConfig:
    """How datasets are read."""

    format: str | None = None
    """Name of the format. By default, it is recognised from the content."""
    map: dict[str, str] = field(default_factory=dict)
    """Names in the dataset of parts that the environment calls otherwise: `--map wrist=observation.images.cam_high`.
    Without an environment, only these parts of the observation are kept (docs/how-to/datasets.md)."""
    env: str | None = None
    """Environment that the data are for: a short name or a gymnasium id. It determines the parts of the observation and
    the bounds of actions. By default, the dataset determines them."""
    env_options: EnvOptions = field(default_factory=dict)
    """Arguments of the environment, as YAML."""

    @cached_property
    def task(self) -> TaskSpec | None:
        """The task of the environment. None if none is named."""
        if self.env is None:
            return None
        with environments_turn(), chdir("."):  # files are named relative to the folder, which an environment may change
            return TaskSpec.from_env(make_env(self.env, **self.env_options))

    def read(self, source: str, wanted: TaskSpec | None = None) -> Dataset:
        """Read a source for the environment or, without one, for the task `wanted`."""
        if (task := self.task) is None:
            return read_dataset(source, self.format, wanted, self.map)
        with naming_by("--map"):
            return fitting(task, read_dataset(source, self.format, task, self.map), source)


@dataclass
class InfoConfig:
    """Settings of `softflow-data info`."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """File or folder of a known format."""
    reading: Flat[ReadingConfig] = field(default_factory=ReadingConfig)
    json: bool = False
    """Whether to print the result as one JSON object."""
    images: str | None = None
    """Contact sheet to write: a .png file, which must not exist, with frames of a few episodes from every camera."""


def info(config: InfoConfig) -> None:
    sheet = None if config.images is None else new_file(config.images, ".png")
    dataset = config.reading.read(config.file)
    summary = summary_of(dataset)
    if sheet is not None:
        save_contact_sheet(sheet, dataset)
    if config.json:
        print(as_json({"file": config.file, **summary}))
        return
    print(f"{config.file}:", *in_words(summary), sep="\n")


@dataclass
class RepairConfig:
    """Settings of `softflow-data repair`."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Folder of the interrupted LeRobot recording, which is not changed."""
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """Folder to write. It must not exist."""


def repair(config: RepairConfig) -> None:
    with lerobot_needed("repair"):
        from softflow.formats.lerobot.repair import repair as recover
    print(recover(Path(config.source), Path(config.target)))


@dataclass
class ConvertConfig:
    """Settings of `softflow-data convert`."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """File or folder of a known format."""
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """The .npz file to write, or with `--to lerobot` the folder. It must not exist."""
    reading: Flat[ReadingConfig] = field(default_factory=ReadingConfig)
    output: Flat[OutputConfig] = field(default_factory=OutputConfig)


def convert(config: ConvertConfig) -> None:
    target = config.output.new(config.target)
    dataset = config.reading.read(config.source)
    config.output.write(target, dataset)
    print(f"{target}: {_size(dataset)}")


@dataclass
class MergeConfig:
    """Settings of `softflow-data merge`."""

    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """The .npz file to write. It must not exist."""
    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE...")]
    """Two or more files or folders of known formats. Formats without bounds of actions use the bounds of the first
    source."""
    reading: Flat[ReadingConfig] = field(default_factory=ReadingConfig)


def merge_files(config: MergeConfig) -> None:
    target = new_file(config.target)
    datasets: list[tuple[str, Dataset]] = []
    for source in config.sources:
        # A format without the bounds of actions takes them from the first dataset.
        wanted = datasets[0][1].task if datasets else None
        datasets.append((source, config.reading.read(source, wanted)))
    merged = merge(datasets)
    _write(target, merged)
    print(f"{target}: {_size(merged)} of {len(config.sources)} datasets")


@dataclass
class FilterConfig:
    """Settings of `softflow-data filter`."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """File or folder of a known format."""
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """The .npz file to write. It must not exist."""
    conditions: Flat[Conditions] = field(default_factory=Conditions)
    drop_damaged: bool = False
    """Whether to leave out episodes that cannot be read, such as one with a NaN. They are listed with what is wrong.
    All conditions are judged on the others, which `index` counts."""
    reading: Flat[ReadingConfig] = field(default_factory=ReadingConfig)


def filter_file(config: FilterConfig) -> None:
    target = new_file(config.target)
    with leaving_out_damaged() if config.drop_damaged else nullcontext(list[str]()) as damaged:
        try:
            dataset = config.reading.read(config.source)
        finally:  # if nothing is left, the lines say why
            for line in damaged:
                remark(f"{config.source}: left out: {line}")
    only_damage = config.drop_damaged and config.conditions == Conditions()
    kept = dataset if only_damage else config.conditions.keep(dataset)
    _write(target, kept)
    print(
        f"{target}: {len(kept.episodes):,} of {len(dataset.episodes):,} episodes kept, "
        f"{_steps(kept):,} of {_steps(dataset):,} steps"
        + (f"; {count(len(damaged), 'damaged episode')} left out" if config.drop_damaged else "")
    )


@dataclass
class SplitConfig:
    """Settings of `softflow-data split`."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """File or folder of a known format."""
    first: Annotated[Positional[str], arg(metavar="FIRST")]
    """The .npz file to write with a fraction of the episodes. It must not exist."""
    second: Annotated[Positional[str], arg(metavar="SECOND")]
    """The .npz file to write with all other episodes. It must not exist."""
    share: float = 0.8
    """Fraction of the episodes in the first file, above 0 and below 1. The number is rounded, but each file gets at
    least one episode. Higher values move episodes from the second file to the first."""
    seed: int = 0
    """Random seed of the choice of episodes, 0 or more."""
    reading: Flat[ReadingConfig] = field(default_factory=ReadingConfig)


def split_file(config: SplitConfig) -> None:
    targets = new_file(config.first), new_file(config.second)
    if targets[0].absolute() == targets[1].absolute():
        raise UserError(f"{targets[0]} is given twice: the two parts need a file each")
    parts = split(config.reading.read(config.source), config.share, config.seed)
    _write(targets[0], parts[0])
    try:
        _write(targets[1], parts[1])
    except BaseException:  # one part alone is no split, and would stand in the way of another attempt
        targets[0].unlink()
        raise
    for target, part in zip(targets, parts, strict=True):
        print(f"{target}: {_size(part)}")


class Command(NamedTuple):
    settings: type
    run: Callable[[Any], int | None]
    """Returns the exit status, 0 by default."""
    description: str


COMMANDS = {
    "info": Command(InfoConfig, info, "Show what a dataset contains, and which of its steps would be imitated."),
    "check": Command(CheckConfig, check_file, "Compare a dataset with an environment, and replay its actions there."),
    "repair": Command(RepairConfig, repair, "Recover the complete episodes of an interrupted LeRobot recording."),
    "convert": Command(
        ConvertConfig, convert, "Write a dataset of any known format as an .npz file or a LeRobot folder."
    ),
    "merge": Command(MergeConfig, merge_files, "Merge datasets of the same task into one .npz file."),
    "filter": Command(FilterConfig, filter_file, "Keep the episodes that meet all given conditions."),
    "split": Command(SplitConfig, split_file, "Split a dataset at random into two, without dividing episodes."),
}


@run_main
def main(argv: Sequence[str]) -> int | None:
    name, *arguments = argv or ["--help"]
    if name in ("-h", "--help"):
        print("usage: softflow-data COMMAND ...\n")
        for command, (_, _, description) in COMMANDS.items():
            print(f"  {command:8} {description}")
        print("\nsoftflow-data COMMAND --help lists the flags of a command.")
        return 0
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}: {did_you_mean(name, COMMANDS)}")
    settings, run, description = COMMANDS[name]
    known = keys_of(settings)
    config: Any = parse_command_line(
        settings,
        arguments,
        prog=f"softflow-data {name}",
        description=description,
        layers_for=lambda selection: known_layers(selection, known),
    )
    return run(config)


def _write(target: Path, dataset: Dataset) -> None:
    save_demonstrations(target, dataset.episodes, dataset.task)


def _steps(dataset: Dataset) -> int:
    return sum(map(len, dataset.episodes))


def _size(dataset: Dataset) -> str:
    return f"{count(len(dataset.episodes), 'episode')}, {count(_steps(dataset), 'step')}"


if __name__ == "__main__":
    sys.exit(main())
