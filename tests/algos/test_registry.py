"""Algorithms by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from softflow.algos import ALGORITHMS, FilteredImitation, SoftFlow, find_algorithm, register_algorithm
from softflow.errors import UserError
from tests.packages import install


def test_ours_and_those_of_a_module() -> None:
    assert find_algorithm("softflow") is find_algorithm("softflow.algos:SoftFlow") is SoftFlow
    assert set(ALGORITHMS.names()) > {"correction", "filtered_imitation", "flow_q_learning", "rfs_ppo", "sac"}


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ALGORITHMS, "_things", dict(ALGORITHMS._things))

    @register_algorithm("mine")
    class Mine(FilteredImitation):
        pass

    assert find_algorithm("mine") is Mine
    with pytest.raises(ValueError, match="algorithm 'softflow' is already registered, by SoftFlow"):
        register_algorithm("softflow")(Mine)
    with pytest.raises(UserError, match=r"unknown algorithm 'mime': did you mean 'mine'\? Those of other modules are"):
        find_algorithm("mime")


def test_a_package_brings_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    points = "theirs = softflow.algos.sac:SAC\nno_algorithm = math:pi\nbroken = no_such_package:Algorithm"
    install(tmp_path, points, "their_algorithms", "", "softflow.algorithms")
    assert find_algorithm("theirs") is find_algorithm("sac")
    with pytest.raises(UserError, match=r"math:pi .* is not a subclass of softflow\.algos\.Algorithm"):
        find_algorithm("no_algorithm")
    with pytest.raises(UserError, match="algorithm 'broken' cannot be imported from no_such_package:Algorithm"):
        find_algorithm("broken")
