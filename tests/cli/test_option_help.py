"""`--help` lists the options of what is chosen: flow, encoder, environment, demonstrator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

FOREIGN = """
import gymnasium

class Foreign(gymnasium.Env):
    def __init__(self, speed=2, names=None, tilt=0.0, **options):
        pass

gymnasium.register("Foreign-v0", entry_point=Foreign, kwargs={"tilt": 0.25, "extra": "x"}, max_episode_steps=30)
"""


@pytest.fixture
def help_of(command: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Options by flag, and the whole text, of a command with `--help`."""

    def run(line: str, columns: int = 200) -> tuple[dict[str, str], str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        result = command(f"{line} --help")
        assert (result.status, result.err) == (0, "")
        text = result.out
        options: dict[str, str] = {}
        for row in text.splitlines():
            if row.startswith("  --"):
                flag, _, rest = row.strip().partition(" ")
                options[flag] = rest
            elif row.startswith("      ") and options:
                options[flag] += f" {row.strip()}"
        return options, text

    return run


def test_training_lists_the_options_of_flow_encoder_and_environment(help_of: Any) -> None:
    options, text = help_of("softflow-train --env cube_rotate")
    assert [line for line in text.splitlines() if line.startswith("Options of")] == [
        "Options of the flow coupling:",
        "Options of the encoder conv:",
        "Options of the environment cube_rotate:",
    ]
    assert options["--flow-options.dropout"].startswith("FLOAT (default: ")
    assert options["--flow-options.noise-law"] == 'STR (default: gaussian) "gaussian" or "uniform".'
    assert options["--encoder-options.features"].startswith("INT (default: 64)")
    assert options["--env-options.reward"].startswith("sparse|staged (default: staged) ")
    assert options["--env-options.sparse-success"].startswith("YAML (default: false) True or False; the first success")
    assert "--flow-options.horizon" not in options and "--demonstrator-options.noise" not in options


def test_flags_choose_what_is_listed_and_what_it_is_set_to(help_of: Any) -> None:
    line = "softflow-train --flow gaussian --flow-options.depth 5 --encoder resnet18 --env-options.hand adroit"
    options, text = help_of(line)
    assert "Options of the flow gaussian:" in text
    assert options["--flow-options.depth"].startswith("INT (default: 5)")
    assert options["--flow-options.log-std-bound"].startswith("FLOAT (default: 5.0) log standard deviations")
    assert "--flow-options.layers" not in options
    assert options["--encoder-options.weights"].startswith("STR|null (default: null) Path")
    assert options["--env-options.hand"].startswith("STR (default: adroit)")


def test_a_foreign_environment_lists_what_its_signature_gives(
    help_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign_task.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(str(tmp_path))
    options, _ = help_of("softflow-train --env foreign_task:Foreign-v0")
    sys.modules.pop("foreign_task")
    assert options["--env-options.speed"] == "INT (default: 2)"
    assert options["--env-options.names"] == "YAML (default: null)"
    assert options["--env-options.tilt"] == "FLOAT (default: 0.25)"
    assert options["--env-options.extra"] == "STR (default: x)"
    assert options["--env-options.max-episode-steps"].startswith("INT|null (default: 30) ")


def test_what_cannot_be_listed_says_why(help_of: Any) -> None:
    _, text = help_of("softflow-train --flow couplin --env nowhere:Env-v0")
    assert "--flow-options cannot be listed: unknown flow 'couplin'; did you mean 'coupling'?" in text
    assert "--env-options cannot be listed: environment 'nowhere:Env-v0': cannot import 'nowhere'" in text
    assert "Options of the encoder conv:" in text


def test_evaluation_lists_the_options_of_the_runs_environment(help_of: Any, small_run: Path) -> None:
    options, _ = help_of("softflow-eval run --episodes 3")
    assert "--env-options.max-episode-steps" in options and "--env-options.sparse-success" in options
    _, text = help_of("softflow-demo --corrections run")
    assert "Options of the environment Pendulum-v1:" in text
    assert "--demonstrator-options cannot be listed: Pendulum-v1 has no supervisor" in text
    _, text = help_of("softflow-eval")
    assert "--env-options cannot be listed: they are those of the environment, so name it, or the run, as well" in text


def test_corrections_of_a_training_are_files_and_name_no_run(help_of: Any, small_run: Path) -> None:
    _, text = help_of("softflow-train --algo iwr --base run --corrections takeovers.npz")
    assert "Options of the environment" in text and "cannot be listed" not in text


def test_demonstrating_lists_the_options_of_the_demonstrator(help_of: Any) -> None:
    options, text = help_of("softflow-demo --demonstrator-options.noise 0.5")
    assert "Options of the demonstrator of softflow/TapeCut-v0:" in text
    assert options["--demonstrator-options.noise"].startswith("FLOAT (default: 0.5) standard deviation")
    assert "--demonstrator-options.rng" not in options
    _, text = help_of("softflow-demo --env Pendulum-v1")
    assert "--demonstrator-options cannot be listed: Pendulum-v1 has no demonstrator" in text


def test_it_fits_the_terminal(help_of: Any) -> None:
    _, text = help_of("softflow-train", columns=70)
    assert max(map(len, text[text.index("Options of the flow") :].splitlines())) <= 70
