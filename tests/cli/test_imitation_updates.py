"""How long imitation lasts: as long as the settings say, or as the demonstrations are worth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.algos import SoftFlowConfig
from softflow.algos.settings import ImitationConfig
from softflow.settings.typed import load_file


@given(steps=st.integers(1, 10_000_000), batch_size=st.integers(2, 4_096))
def test_each_step_is_drawn_400_times_in_at_most_8000_updates(steps: int, batch_size: int) -> None:
    settings = SoftFlowConfig(batch_size=batch_size).for_demonstrations(steps, length=50)
    updates = settings.imitation_updates
    assert updates == settings.imitation.updates == min(8_000, math.ceil(400 * steps / batch_size))


def test_a_number_that_is_given_is_kept() -> None:
    settings = SoftFlowConfig(imitation=ImitationConfig(updates=7), discount=0.9)
    assert settings.for_demonstrations(1_000_000, length=500) is settings and settings.imitation_updates == 7


def test_before_the_demonstrations_are_known_it_is_the_largest_number() -> None:
    assert SoftFlowConfig().imitation_updates == SoftFlowConfig().full_imitation_updates == 8_000


def test_with_a_base_imitation_is_skipped_but_its_length_from_scratch_is_known() -> None:
    settings = SoftFlowConfig(base="run").for_demonstrations(64, length=50)
    assert (settings.imitation_updates, settings.full_imitation_updates) == (0, 100)


@given(st.integers(1, 10_000))
def test_a_reward_counts_half_over_the_length_of_a_demonstration(length: int) -> None:
    """The demonstrations of `point_maze_large` have 210 steps."""
    discount = SoftFlowConfig().for_demonstrations(100, length).step_discount
    assert 0.99 <= discount < 1 and discount**length >= 0.5 - 1e-9
    assert discount == 0.99 or discount**length == pytest.approx(0.5)
    assert SoftFlowConfig().step_discount == 0.99


def test_a_discount_above_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\], got 1.01"):
        SoftFlowConfig(discount=1.01)


def test_a_run_says_its_number_and_keeps_it(command: Any, demonstrations: Path) -> None:
    small = "--run-dir run --threads 1 --eval-episodes 2 --batch-size 512 --flow-options.width 8"
    result = command(
        f"softflow-train --algo imitation --env Pendulum-v1 --demos {demonstrations} {small} --run-dir run"
    )
    assert result.status == 0, result
    assert "4 of 4 episodes, 120 of 120 steps" in result.out
    assert "imitation makes 94 updates, so each of these steps is sampled about 401 times\n" in result.out
    assert load_file("run/config.yaml").values["imitation"]["updates"] == 94
    assert "imitation 94/94 (100 %)" in result.err
    assert Path("run/from_data.json").read_text() == '["imitation.updates"]\n'
    flags = f"--demos {demonstrations} {small} --run-dir given --imitation.updates 2"
    given = command(f"softflow-train --algo imitation --env Pendulum-v1 {flags}")
    assert given.status == 0 and Path("given/from_data.json").read_text() == "[]\n"
