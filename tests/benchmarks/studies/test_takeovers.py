"""The study of takeovers: which run starts from which, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.studies.takeovers import Chain, Study, evaluate, tabulate
from softflow.data import Episode, save_demonstrations


def make_chain(folder: Path, method: str, seed: int = 0) -> Chain:
    return Chain(Study(folder, 3, 20, 200, ["--threads", "1"]), "tape_cut", method, "early", seed)


def flag(arguments: list[str], name: str) -> list[str]:
    """The values of a flag, up to the next one."""
    after = arguments[arguments.index(name) + 1 :]
    end = next((i for i, word in enumerate(after) if word.startswith("--")), len(after))
    return [Path(word).name for word in after[:end]]


def test_all_rounds_are_learnt_from(tmp_path: Path) -> None:
    for method in ("hg_dagger", "correction", "correction_chained"):
        arguments = list(make_chain(tmp_path, method).job(3).arguments)
        assert flag(arguments, "--corrections") == ["round1.npz", "round2.npz", "round3.npz"]


def test_which_methods_go_on_from_the_round_before(tmp_path: Path) -> None:
    for method in ("iwr", "correction_chained"):
        bases = [flag(list(make_chain(tmp_path, method, 2).job(number).arguments), "--base") for number in (1, 2, 3)]
        assert bases == [["base_s2"], ["round1"], ["round2"]]
    bases = [flag(list(make_chain(tmp_path, "correction", 2).job(number).arguments), "--base") for number in (1, 2, 3)]
    assert bases == [["base_s2"]] * 3


def test_the_table_pools_seeds(tmp_path: Path) -> None:
    chains = [make_chain(tmp_path, "iwr", seed) for seed in (0, 1)]
    for chain in chains:
        chain.folder.mkdir(parents=True)
        rates = (0.7, 0.71, 0.75, 0.8) if chain.seed else (0.7, 0.73, 0.75, 0.9)
        for number, rate in enumerate(rates):
            result = json.dumps({"success_rate": rate, "episodes": 200})
            run = chain.job(number).run_dir
            run.with_name(f"{run.name}.json").write_text(result)
            assert evaluate(chain.job(number), 200)  # it is not evaluated again
    human = np.arange(4) >= 2
    episodes = [
        Episode(np.zeros((5, 1)), np.zeros((4, 1)), np.zeros(4), True, False, success, human=acts)
        for success, acts in ((True, human), (False, human), (True, None))
    ]
    save_demonstrations(chains[0].takeovers(1), episodes)
    row = tabulate(chains).splitlines()[2]
    assert row == (
        "| tape_cut | early | iwr | 0.50 [0.09, 0.91] | 0.70 [0.65, 0.74] | 0.72 [0.67, 0.76] | 0.75 [0.71, 0.79] "
        "| 0.85 [0.77, 0.92] | +0.15 [+0.06, +0.23] |"
    )


def test_rounds_that_are_missing_stay_empty(tmp_path: Path) -> None:
    assert tabulate([make_chain(tmp_path, "rl")]).splitlines()[2] == "| tape_cut | early | rl |  |  |  |  |  |  |"
