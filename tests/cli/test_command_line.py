"""The order of the layers, flags and their errors, exit statuses."""

from __future__ import annotations

import dataclasses
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

import pytest
import tyro

from softflow.cli.command_line import HelpShown, parse_command_line, read_selection, run_main
from softflow.errors import UserError
from softflow.settings import presets as preset_files
from softflow.settings.fields import Flat
from softflow.settings.presets import Selection
from softflow.settings.typed import ConfigError, Layer
from softflow.training.interruption import Interrupted


@dataclasses.dataclass(frozen=True)
class Levels:
    algo: str = "default"
    """Set by the algorithm's preset and all above it."""
    env: str = "default"
    """Set by the environment's preset and all above it."""
    preset: str = "default"
    """Set by --preset and all above it."""
    file: str = "default"
    """Set by --config and all above it."""
    flag: str = "default"
    """Set by the flag."""
    none: str = "default"
    """Set by nothing."""


@dataclasses.dataclass(frozen=True)
class Stage:
    updates: int = 1
    """How many updates."""
    batch: int = 8
    """How many windows
    there are in a batch."""
    augment: bool = False
    """Whether to add noise."""
    ema_rate: float = 0.5
    """Rate of the running average."""


@dataclasses.dataclass(frozen=True)
class Train:
    algo: str = "softflow"
    """Which algorithm."""
    env: str = "tape_cut"
    """Which environment."""
    preset: str | None = None
    """A preset over those of the algorithm and the environment."""
    config: str | None = None
    """A file over the presets."""
    flow: Literal["coupling", "gaussian"] = "coupling"
    """Which density."""
    imitation: Stage = dataclasses.field(default_factory=Stage)
    levels: Levels = dataclasses.field(default_factory=Levels)
    flow_options: dict[str, float | int | str | bool] = dataclasses.field(default_factory=dict)
    """Options of the flow."""


@dataclasses.dataclass(frozen=True)
class Method:
    """Settings of a method."""

    horizon: int = 8
    """Actions of a chunk."""
    n_action_steps: int = 4
    """Actions of a chunk that are executed."""
    augment: bool = False
    """Whether to add noise."""
    stage: Stage = dataclasses.field(default_factory=Stage)

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError("horizon must be at least 1")


MethodT = TypeVar("MethodT")


@dataclasses.dataclass(frozen=True)
class Composed(Generic[MethodT]):
    train: Flat[Train]
    method: Flat[MethodT]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    run: tyro.conf.Positional[str]
    """The run folder."""
    episodes: int = 50
    """How many episodes."""


@pytest.fixture(autouse=True)
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Presets of which each sets the levels from its own upwards to its name."""
    levels = ["algo", "env", "preset", "file", "flag"]

    def write(path: str, level: str) -> None:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        values = "".join(f"  {name}: {Path(path).stem}\n" for name in levels[levels.index(level) :])
        (tmp_path / path).write_text(f"levels:\n{values}")

    for path, level in {
        "algos/softflow.yaml": "algo",
        "algos/other.yaml": "algo",
        "envs/tape_cut.yaml": "env",
        "presets/quick.yaml": "preset",
        "mine.yaml": "file",
    }.items():
        write(path, level)
    monkeypatch.setattr(preset_files, "_presets", lambda: tmp_path)
    return tmp_path


def parse(*argv: str) -> Train:
    return parse_command_line(Train, argv, prog="softflow-train", description="Train.")


def test_each_layer_lies_over_the_one_before(presets: Path) -> None:
    mine = str(presets / "mine.yaml")
    assert parse("--levels.flag", "flag", "--config", mine, "--preset", "quick") == Train(
        preset="quick",
        config=mine,
        levels=Levels(algo="softflow", env="tape_cut", preset="quick", file="mine", flag="flag", none="default"),
    )
    assert parse("--algo=other").levels == Levels("other", "tape_cut", "tape_cut", "tape_cut", "tape_cut")


def test_a_gymnasium_id_needs_no_preset() -> None:
    assert parse("--env", "module:Thing-v0").levels == Levels(*["softflow"] * 5)
    assert parse("--env", "Thing-v0").env == "Thing-v0"
    with pytest.raises(ConfigError, match="unknown environment 'tapecut': did you mean 'tape_cut'"):
        parse("--env", "tapecut")


def test_a_file_may_select_the_presets(presets: Path) -> None:
    path = presets / "run.yaml"
    path.write_text("algo: other\npreset: quick\n")
    expected = Selection(algo="other", env="tape_cut", preset="quick", config=str(path))
    assert read_selection(Train, ["--config", str(path)]) == expected
    assert read_selection(Train, ["--config", str(path), "--algo", "softflow"]).algo == "softflow"
    built = parse("--config", str(path))
    assert (built.algo, built.preset, built.levels.algo, built.levels.preset) == ("other", "quick", "other", "quick")


def test_flags() -> None:
    built = parse(*"--imitation.updates 1e5 --imitation.augment --flow gaussian --flow_options.base_scale 1e-4".split())
    assert built.imitation == Stage(100_000, augment=True)
    assert built.flow == "gaussian"
    assert built.flow_options == {"base_scale": 1e-4}
    built = parse("--flow-options.n-layers=3", "--flow-options.mixture", "true", "--imitation.no-augment")
    assert built.flow_options == {"n_layers": 3, "mixture": True}


def parse_composed(*argv: str) -> Composed[Method]:
    return parse_command_line(Composed[Method], argv, prog="softflow-train", description="Train.")


def test_the_flags_of_a_composed_configuration_have_no_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--horizon 4 --algo=other --augment --stage.updates 3 --imitation.updates 5 --flow-options.width 2"
    built = parse_composed(*line.split())
    assert built.method == Method(4, augment=True, stage=Stage(3))
    assert built.train.levels == Levels("other", "tape_cut", "tape_cut", "tape_cut", "tape_cut")
    assert (built.train.imitation, built.train.flow_options) == (Stage(5), {"width": 2})
    with pytest.raises(ConfigError, match=r"^unknown flag --hroizon: did you mean '--horizon'\?"):
        parse_composed("--hroizon", "4")
    with pytest.raises(ConfigError, match=r"horizon must be at least 1$"):
        parse_composed("--horizon", "0")
    with pytest.raises(HelpShown):
        parse_composed("--help")
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in (
        "--horizon INT Actions of a chunk. (default: 8)",
        "--augment, --no-augment",
        "--imitation.updates INT",
    ):
        assert text in words


def test_flags_of_earlier_versions_are_taken_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    built = parse_composed("--execute", "2", "--stage.average_rate=0.25", "--flow-options.execute", "3")
    assert built.method == Method(n_action_steps=2, stage=Stage(ema_rate=0.25))
    assert built.train.flow_options == {"execute": 3}
    assert capsys.readouterr().err.splitlines() == [
        "--execute is called --n-action-steps now",
        "--stage.average_rate is called --stage.ema-rate now",
    ]
    both = "--execute is the earlier name of --n-action-steps, and both are given: remove --execute"
    with pytest.raises(ConfigError, match=f"^{both}$"):
        parse_composed("--execute", "2", "--n_action_steps=3")
    with pytest.raises(ConfigError, match=r"^unknown flag --trace: "):  # it would be --gae-lambda, which there is none
        parse_composed("--trace", "2")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--imitaton.updates 4", "unknown flag --imitaton.updates: did you mean '--imitation.updates'?"),
        ("--algoo softflow", "unknown flag --algoo: did you mean '--algo'?"),
        ("--imitation.no-augmnt", "unknown flag --imitation.no-augmnt: did you mean '--imitation.no-augment'?"),
        (
            "--imitation.augment true",
            "--imitation.augment takes no value: write --imitation.augment, or --imitation.no-",
        ),
        ("--imitation.no-augment=1", "--imitation.no-augment takes no value: write --imitation.augment, or --imi"),
        ("--zzzzzz 1", "unknown flag --zzzzzz: --help lists the flags"),
        ("--imitation.updates x", "'x' is not a whole number"),
        ("--imitation.updates 1.5", "'1.5' is not a whole number"),
        ("--imitation.updates", "--imitation.updates"),
        ("--algo", "argument --algo: expected one argument"),
        ("--flow coupl", "invalid choice 'coupl'"),
        ("--flow-options.width", "--flow-options.width needs a value"),
        ("--flow-options.width [1]", "--flow-options.width: 'flow_options.width' must be"),
        ("stray", "stray"),
        ("--algo zzz", "unknown algorithm 'zzz': valid: other, softflow"),
        ("--preset quik", "unknown preset 'quik': did you mean 'quick'?"),
        ("--config none.yaml", "none.yaml: no such file"),
    ],
)
def test_errors_are_one_line(argv: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    @run_main
    def main(argv: Sequence[str]) -> None:
        parse(*argv)

    assert main(argv.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    assert message in output.err
    assert not set("│─╭") & set(output.err)


def test_errors_in_files_name_them(presets: Path) -> None:
    (presets / "presets" / "quick.yaml").write_text("imitation: {udpates: 3}\n")
    with pytest.raises(ConfigError) as caught:
        parse("--preset", "quick")
    expected = "configs/presets/quick.yaml: unknown key 'imitation.udpates': did you mean 'imitation.updates'?"
    assert str(caught.value) == expected


def test_help_shows_the_presets_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HelpShown):
        parse("--preset", "quick", "--help")
    text = capsys.readouterr().out
    assert "--levels.preset STR" in text and "(default: quick)" in text
    assert "How many updates. (default: 1)" in text


def test_help_fills_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HelpShown):
        parse("--help")
    assert "How many windows there are in a batch. (default: 8)" in capsys.readouterr().out


def test_required_fields_and_own_layers(capsys: pytest.CaptureFixture[str]) -> None:
    def evaluate(*argv: str) -> Evaluate:
        layers = [Layer({"episodes": 7}, "own")]
        return parse_command_line(Evaluate, argv, prog="softflow-eval", description="", layers_for=lambda _: layers)

    assert evaluate("runs/a") == Evaluate("runs/a", 7)
    assert evaluate("runs/a", "--episodes", "9") == Evaluate("runs/a", 9)
    with pytest.raises(ConfigError, match="run folder"):
        evaluate("--episodes", "9")


def test_commands_show_the_words_of_a_warning_alone(capsys: pytest.CaptureFixture[str]) -> None:
    @run_main
    def main(argv: Sequence[str]) -> None:
        for message in (UserWarning("an episode was dropped:\nstep 3"), "\x1b[33mWARN: deprecated\x1b[0m"):
            print(warnings.formatwarning(message, UserWarning, "/package/x.py", 12), end="")

    before = warnings.formatwarning
    assert main([]) == 0 and warnings.formatwarning is before
    assert capsys.readouterr().out == "warning: an episode was dropped: step 3\nwarning: deprecated\n"


def test_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes: dict[str, BaseException | None] = {
        "done": None,
        "user": UserError("two\nlines"),
        "system": FileNotFoundError(2, "No such file", "a"),
        "memory": MemoryError(),
        "interrupt": KeyboardInterrupt(),
        "terminate": Interrupted(signal.SIGTERM),
        "bug": ValueError("a bug"),
    }

    @run_main
    def main(argv: Sequence[str]) -> None:
        error = outcomes[argv[0]]
        if error is not None:
            raise error

    names = ("done", "user", "system", "memory", "interrupt", "terminate")
    assert [main([name]) for name in names] == [0, 2, 2, 2, 130, 143]
    assert capsys.readouterr().err.splitlines() == [
        "error: two lines",
        "error: [Errno 2] No such file: 'a'",
        "error: not enough memory, ask for less: MemoryError",
        "interrupted",
        "interrupted",
    ]
    with pytest.raises(ValueError, match="a bug"):
        main(["bug"])
