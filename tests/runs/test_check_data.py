"""The sign test behind the verdicts of a check."""

from __future__ import annotations

from fractions import Fraction

from softflow.runs.check_data import accident


def test_the_probability_of_so_many_wins_by_accident() -> None:
    assert accident(5, 5) == Fraction(1, 32)
    assert accident(4, 5) == Fraction(6, 32)
    assert accident(0, 5) == 1
