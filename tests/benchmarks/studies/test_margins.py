"""The fixture `measured`, the options that go with it, and the distances of benchmarks/studies/test_margins.py."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.studies.test_margins import Margin
from tests.conftest import Measured

ROOT = Path(__file__).resolve().parents[3]
TEST = "tests/flows/test_latent_bases.py::test_mixture_components_are_drawn_by_their_weights_at_every_temperature"


def test_a_measured_value_is_a_plain_number(measured: Any) -> None:
    for value in (0.5, torch.tensor(0.5, requires_grad=True), torch.tensor([[0.5]])):
        assert float(measured(value)) == 0.5


def test_both_sides_are_reported_however_the_comparison_is_written() -> None:
    reported, number = [], Measured(0.5)
    number.report = lambda *report: reported.append(report)
    assert 0 < number < 1.0 and 0.25 < number and not 0.75 < number and not number > torch.tensor(2.0)
    expected = [(0, "above"), (1.0, "below"), (0.25, "above"), (0.75, "above"), (2.0, "above")]
    assert reported == [(0.5, *report) for report in expected]


def test_only_measured_tests_run_and_other_seeds_give_other_values(tmp_path: Path) -> None:
    values = []
    for seed in ("0", "1"):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", TEST]
        command += ["tests/flows/test_latent_bases.py::test_modes", "--margins", str(tmp_path / seed)]
        done = subprocess.run([*command, "--seed-offset", seed], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
        first, second = map(json.loads, (tmp_path / seed).read_text().splitlines())
        assert first["test"] == second["test"] == TEST
        assert first["line"].startswith("measured((share") and (first["bound"], first["side"]) == (0.02, "below")
        values += [first["value"], second["value"]]
    assert len(set(values)) == 4


@pytest.mark.parametrize(
    ("bound", "side", "values", "distance"),
    [
        (1.0, "below", [0.4, 0.5, 0.6], 5),
        (0.0, "above", [0.4, 0.5, 0.6], 5),
        (0.45, "below", [0.4, 0.5, 0.6], -0.5),
        (1.0, "above", [math.exp(2), math.exp(3), math.exp(4)], 3),  # of logarithms
        (1.0, "below", [0.5, 0.5], math.inf),
        (0.5, "above", [0.4, 0.4], -math.inf),
    ],
)
def test_distances_by_hand(bound: float, side: str, values: list[float], distance: float) -> None:
    assert Margin(bound, side, values).distance == pytest.approx(distance)
