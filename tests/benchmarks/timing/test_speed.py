"""The speed benchmark measures the update that the default settings make."""

from __future__ import annotations

import pytest

from benchmarks.timing import speed


def test_the_parts_of_the_update_are_counted_for_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    algorithm, _ = speed.make_algorithm()
    assert algorithm.trial is not None and algorithm.actor.normalizes_actions  # as softflow-train makes it
    speed.products(rounds=1)
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.count("|") == 4]
    millions = {name.strip(): float(number.replace(",", "")) for _, name, number, *_ in rows[2:]}
    total = millions.pop("the update")
    assert total == pytest.approx(sum(millions.values()), abs=len(millions))
    assert len(millions) == 7 and all(millions.values())


def test_every_update_is_timed_with_its_products(capsys: pytest.CaptureFixture[str]) -> None:
    speed.updates(rounds=1)
    rows = [line for line in capsys.readouterr().out.splitlines() if "G multiply-adds" in line]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(speed.UPDATES)
