"""Dips of own success, and those by chance, against a loop over episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import chance_dips
from benchmarks.studies.dips import longest_dip
from softflow.report.history import HeldOutResult, read_history
from tests.report.folders import write_run


@pytest.mark.parametrize("successes", [0, 4, 20, 38])
def test_the_longest_dip_of_each_draw(successes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chance_dips, "DRAWS", 20)
    monkeypatch.setattr(chance_dips, "RECENT_EPISODES", 7)
    before = HeldOutResult("offline", 0, 1000, 0, successes, 40)
    dips = chance_dips.chance_dips(before, episodes=30, steps=12.5, rng=np.random.default_rng(1))
    rng = np.random.default_rng(1)
    success = rng.beta(successes + 1, 41 - successes, 20)
    outcomes = rng.random((20, 30)) < success[:, None]
    for dip, draw in zip(dips, outcomes, strict=True):
        longest = current = 0
        for end in range(1, 31):
            is_low = draw[max(end - 7, 0) : end].mean() < successes / 40 - 0.1 - 1e-9
            current = current + 1 if is_low else 0
            longest = max(longest, current)
        assert dip == 12.5 * max(longest - 1, 0)


@pytest.mark.parametrize(("own", "steps"), [([0.3, 0.39], 200), ([0.3, 0.4], 0), ([0.4, 0.5], 0)])
def test_a_dip_lasts_from_its_first_step_to_its_last(tmp_path: Path, own: list[float], steps: int) -> None:
    assert longest_dip(read_history(write_run(tmp_path / "a", success=(0.5, *own)))) == steps
