"""The study of likelihood weights: what its runs minimise and start from, and its file of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.studies.likelihood_weights import (
    WEIGHTS,
    Key,
    imitation,
    improvement,
    keys,
    read_results,
    write_results,
)
from softflow.cli.command_line import parse_command_line
from softflow.runs.config import config_class
from softflow.settings.presets import Selection


@pytest.mark.parametrize("key", [Key("nll", 0.3, 2), Key("kl", 3.0, 2), Key("nll", 0.0, 2)])
def test_one_term_has_a_weight_and_nothing_else_protects_the_policy(key: Key, tmp_path: Path) -> None:
    config = config_class(Selection(algo="softflow_paper", env="peg_insertion"))
    flags = improvement(tmp_path, key).arguments
    method = parse_command_line(config, flags, prog="train", description="").method
    for stage in (method.offline, method.online):
        assert (stage.q_weight, stage.advantage_scale) == (1, None)
        assert {"nll": stage.nll_weight, "kl": stage.kl_weight} == {"nll": 0, "kl": 0} | {key.term: key.weight}
    assert not method.trials.enabled and method.candidates == 1


def test_runs_of_a_seed_start_from_its_imitation_and_the_last_policy_counts(tmp_path: Path) -> None:
    for key in keys([0, 4]):
        job = improvement(tmp_path, key)
        flags = list(job.arguments)
        assert flags[flags.index("--base") + 1] == str(imitation(tmp_path, key.seed).run_dir)
        assert job.evaluated == {"last": ["--stage", "online"]}
    assert len({improvement(tmp_path, key).run_dir for key in keys([0, 4])}) == 2 * (2 * len(WEIGHTS) - 1)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    job = improvement(tmp_path, Key("kl", 0.1, 1))
    job.evaluation("last").write_text(json.dumps({"success_rate": 0.29}))
    results = {job.key: job.successes(), Key("nll", 3.0, 0): 71, Key("imitation", 0.0, 0): 60}
    path = tmp_path / "likelihood_weights.csv"
    write_results(path, results)
    assert path.read_text().splitlines() == [
        "term,weight,seed,successes", "imitation,0,0,60", "nll,3,0,71", "kl,0.1,1,29"
    ]  # fmt: skip
    assert read_results(path) == results
