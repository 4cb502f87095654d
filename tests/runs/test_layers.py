"""Settings that are given in Python, over the presets and the file that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softflow.errors import UserError
from softflow.runs.layers import resolve
from softflow.settings.presets import Selection, load_preset, preset_layers
from softflow.settings.typed import Layer


def test_settings_stand_over_a_mapping_that_over_a_file_and_that_over_presets(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{seed: 1, num_demos: 11, threads: 3, warmup: {updates: 5}}")
    mapping = {"seed": 2, "num_demos": 12, "env": "two_routes", "preset": "quick", "config": file}
    config = resolve(mapping, {"seed": 3, "offline": {"updates": 7}})
    assert (config.run.seed, config.run.num_demos, config.run.threads) == (3, 12, 3)
    assert (config.method.warmup.updates, config.method.offline.updates) == (5, 7)
    assert config.run.num_envs == load_preset("presets", "quick").values["num_envs"]
    assert config.run.config == str(file)


def test_options_of_another_flow_are_left_out() -> None:
    mapping = {"flow": "coupling", "flow_options": {"layers": 2, "components": 2}}
    config = resolve(mapping, {"flow": "gaussian", "flow_options": {"width": 4}})
    assert config.method.flow_options == {"width": 4}
    assert resolve(mapping, {"flow_options": {"width": 4}}).method.flow_options["layers"] == 2


def test_a_layer_may_lie_above_the_presets() -> None:
    above = Layer({"seed": 5}, "mine")
    assert preset_layers(Selection(algo="softflow"), above)[-1] is above


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "nowhere"}, "nowhere: no such run folder"),
        ({"algo": "correction", "base": "nowhere"}, "nowhere: no such run folder"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"algo": 3}, "'algo' must be a text, got 3"),
        ({"seed": 100}, r"seed must be in 0 ... 99, got 100"),
        ({"horizon": 4, "n_action_steps": 5}, r"n_action_steps must be in 1 ... horizon = 4, got 5"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve({}, settings)
