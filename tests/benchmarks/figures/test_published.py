"""Published curves are read from the first environment step on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures.published import published
from softflow.errors import UserError

CURVES = """\
task,method,million_steps_offline_then_online,success_mean
cube,QC,1.1,0.75
cube,QC,0.9,0.25
cube,QC,1.0,0.5
cube,FQL,1.1,0.1
scene,QC,1.1,0.2
cube,QC,1.2000000000000002,1.0
cube,QC,1.3,0.9
"""


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    path = tmp_path / "curves.csv"
    path.write_text(CURVES)
    return path


def test_a_curve_begins_after_the_offline_updates(curves: Path) -> None:
    steps, rates = zip(*published(curves, "cube", "QC", 200_000), strict=True)
    assert steps == pytest.approx((0, 100_000, 200_000), abs=1e-3)
    assert rates == (0.5, 0.75, 1.0)


def test_a_missing_curve_is_an_error(curves: Path) -> None:
    with pytest.raises(UserError, match="no curve of QC on puzzle"):
        published(curves, "puzzle", "QC", 200_000)
