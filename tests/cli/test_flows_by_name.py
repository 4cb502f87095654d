"""Flows on the command line: what --help lists, what a flow cannot imitate, and flows of installed packages."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import available_flows
from softflow.data import load_demonstrations, save_demonstrations
from softflow.settings.typed import load_file
from tests.packages import MODULE, install

ROOT = Path(__file__).parents[2]
PENDULUM = "--env Pendulum-v1 --config small.yaml --run-dir run --demos"


def keep_width_alone(folder: Path) -> None:
    """Keep only the flow option of the small settings that every flow has."""
    path = folder / "small.yaml"
    path.write_text(path.read_text().replace("{layers: 2, width: 8, components: 2}", "{width: 8}"))


def softflow_train(site: Path, cwd: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with `site` beside the installed packages."""
    code = "import sys; from softflow.cli.train import main; sys.exit(main())"
    path = os.pathsep.join((str(ROOT), str(site)))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    line = [sys.executable, "-c", code, *arguments.split()]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True)


def test_help_lists_the_flows(command: Any) -> None:
    words = command("softflow-train --help").out.replace(",", " ").replace(".", " ").split()
    assert set(available_flows()) <= set(words)


def test_a_package_brings_a_flow(
    tmp_path: Path,
    command: Any,
    demonstrations: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = install(tmp_path / "site", "shy = shy_flows:ShyFlow")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(site))
        assert "shy," in command("softflow-train --help").out
    keep_width_alone(tmp_path)
    trained = softflow_train(site, tmp_path, f"{PENDULUM} {demonstrations} --flow shy")
    assert trained.returncode == 0, trained.stderr
    assert "after online" in trained.stdout
    assert trained.stderr.count("flow 'shy' comes from shy_flows:ShyFlow of the package 'shy-flows'\n") == 1
    # Where the package is missing, the policy cannot be built, and the error says by what name it is looked for.
    missing = command("softflow-eval run --episodes 1").error()
    assert "the policy cannot be loaded: unknown flow 'shy'" in missing


@pytest.mark.parametrize(
    ("entry_point", "module", "message"),
    [
        ("shy = shy_flows:ShyFlow", "import no_such_module",
         "flow 'shy' cannot be imported from shy_flows:ShyFlow of the package 'shy-flows': ModuleNotFoundError("),
        ("shy = shy_flows:ShyFlow", "1 / 0", "of the package 'shy-flows': ZeroDivisionError("),
        ("shy = shy_flows:Shy", MODULE, "flow 'shy' cannot be imported from shy_flows:Shy of the package 'shy-flows'"),
        ("shy = shy_flows:GaussianFlow.embed", MODULE, "'shy-flows' is not a subclass of flows.ChunkFlow"),
    ],
)  # fmt: skip
def test_a_broken_package_is_named(
    entry_point: str,
    module: str,
    message: str,
    command: Any,
    demonstrations: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", entry_point, module=module)))
    monkeypatch.delitem(sys.modules, "shy_flows", raising=False)
    error = command(f"softflow-train {PENDULUM} {demonstrations} --flow {entry_point.split()[0]}").error()
    assert message in error
    assert not (tmp_path / "run").exists()
    sys.modules.pop("shy_flows", None)


def test_actions_at_the_bounds_are_not_for_a_tanh_gaussian(command: Any, demonstrations: Path, tmp_path: Path) -> None:
    keep_width_alone(tmp_path)
    line = f"softflow-train {PENDULUM} {demonstrations} --flow"
    assert command(f"{line} tanh_gaussian".replace("run-dir run", "run-dir inside")).status == 0
    episodes = load_demonstrations(demonstrations)
    action = episodes[2].action.copy()
    action[7, 0] = 1.0
    save_demonstrations(demonstrations, [*episodes[:2], replace(episodes[2], action=action), episodes[3]])
    error = command(f"{line} tanh_gaussian").error()
    assert "flow 'tanh_gaussian' cannot imitate these demonstrations: chunk: expected values strictly within" in error
    assert "flow 'gaussian' with the option bounds='atanh' takes any value" in error
    assert not (tmp_path / "run").exists()
    assert command(f"{line} gaussian --flow-options.bounds atanh").status == 0


@pytest.mark.parametrize(
    ("options", "weight"),
    [("", "offline.kl_weight is 1"), ("--offline.kl-weight 0 --online.kl-weight 0.1", "online.kl_weight is 0.1")],
)
def test_a_kl_is_not_for_flow_matching(
    options: str, weight: str, command: Any, demonstrations: Path, tmp_path: Path
) -> None:
    keep_width_alone(tmp_path)
    line = f"softflow-train {PENDULUM} {demonstrations} --flow flow_matching"
    error = command(f"{line} {options}").error()
    assert f"{weight}, but flow 'flow_matching' has no exact density" in error
    assert "set offline.kl_weight and online.kl_weight to 0, or choose another flow" in error
    assert not (tmp_path / "run").exists()


def test_without_a_kl_flow_matching_trains(command: Any, demonstrations: Path, tmp_path: Path) -> None:
    keep_width_alone(tmp_path)
    sizes = "--flow-options.depth 1 --flow-options.steps 2 --offline.kl-weight 0 --online.kl-weight 0"
    assert command(f"softflow-train {PENDULUM} {demonstrations} --flow flow_matching {sizes}").status == 0


@pytest.mark.parametrize(("in_file", "flag"), [("flow: gaussian", ""), ("", "--flow gaussian")])
def test_options_of_another_flow_are_left_behind(
    in_file: str, flag: str, command: Any, demonstrations: Path, tmp_path: Path
) -> None:
    """Those that the preset writes beside the flow it names; a file's that names none are meant for any."""
    keep_width_alone(tmp_path)
    small = (tmp_path / "small.yaml").read_text()
    (tmp_path / "small.yaml").write_text(small + in_file)
    assert command(f"softflow-train {PENDULUM} {demonstrations} {flag}").status == 0
    settings = load_file("run/config.yaml").values
    assert (settings["flow"], settings["flow_options"]) == ("gaussian", {"width": 8})
    (tmp_path / "small.yaml").write_text(small.replace("width: 8}", "layers: 2}"))
    other = PENDULUM.replace("run-dir run", "run-dir other")
    error = command(f"softflow-train {other} {demonstrations} --flow gaussian").error()
    assert "unknown option 'layers' of flow 'gaussian'" in error
