"""Limits of actions: always kept, to the bit where nothing is to be limited, and by hand."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from softflow.policies import ActionLimits

HORIZON, ACTION_DIM = 4, 3


def numbers(low: float, high: float, shape: tuple[int, ...]) -> st.SearchStrategy[torch.Tensor]:
    elements = st.floats(low, high, width=32)
    return arrays.arrays(np.float32, shape, elements=elements).map(torch.from_numpy)


limits = st.builds(
    ActionLimits,
    st.just(ACTION_DIM),
    low=numbers(-1, -0.125, (ACTION_DIM,)),
    high=numbers(0.125, 1, (ACTION_DIM,)),
    rate=numbers(2**-10, 2, (ACTION_DIM,)),
)


@given(limits, numbers(-3, 3, (2, 5, HORIZON, ACTION_DIM)), numbers(-0.125, 0.125, (2, ACTION_DIM)), st.booleans())
@settings(max_examples=60)
def test_limits_always_hold(limits: ActionLimits, chunk: torch.Tensor, previous: torch.Tensor, continues: bool) -> None:
    kept = limits(chunk, previous if continues else None)
    assert ((kept >= limits.low) & (kept <= limits.high)).all()
    assert (kept.diff(dim=-2).abs() <= limits.rate + 1e-6).all()
    if continues:
        assert ((kept[..., 0, :] - previous[:, None]).abs() <= limits.rate + 1e-6).all()
    else:
        assert torch.equal(kept[..., 0, :], chunk[..., 0, :].clamp(limits.low, limits.high))
    assert torch.equal(limits(kept, previous if continues else None), kept)  # and what is within them passes to the bit


def test_by_hand_across_the_seam() -> None:
    limits = ActionLimits(2, low=-0.5, rate=torch.tensor([0.25, torch.inf]))
    chunk = torch.tensor([[[1.0, 1.0], [0.0, -1.0], [0.0, 0.0]]])
    # Column 0 climbs by 0.25 from 0.5, then turns towards 0; column 1 is cut at -0.5 alone.
    expected = torch.tensor([[[0.75, 1.0], [0.5, -0.5], [0.25, 0.0]]])
    assert torch.equal(limits(chunk, torch.tensor([[0.5, 0.0]])), expected)
    free = torch.tensor([[[1.0, 1.0], [0.75, -0.5], [0.5, 0.0]]])
    assert torch.equal(limits(chunk), free)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(low=0.5, high=0.5), "low < high"),
        (dict(high=1.5), "low < high"),
        (dict(rate=0.0), "rate: expected positive numbers"),
        (dict(rate=torch.nan), "rate: expected positive numbers"),
        (dict(rate=torch.ones(2)), r"rate: expected one number or \(3,\), got \(2,\)"),
    ],
)
def test_what_is_no_limit_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionLimits(3, **options)


@pytest.mark.parametrize(
    ("previous", "message"),
    [
        (torch.zeros(1, 3), r"previous: expected \(2, 3\), got \(1, 3\)"),
        (torch.full((2, 3), 1.01), "not a number within the bounds"),
        (torch.full((2, 3), torch.nan), "not a number within the bounds"),
    ],
)
def test_a_start_that_no_limit_can_keep_is_refused(previous: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionLimits(3)(torch.zeros(2, 4, 3), previous)


@given(limits, numbers(-3, 3, (HORIZON, ACTION_DIM)))
@settings(max_examples=60)
def test_one_action_after_another_is_limited_to_the_same_bits(limits: ActionLimits, chunk: torch.Tensor) -> None:
    steps, previous = limits.of_steps(), None
    for expected, action in zip(limits(chunk[None])[0].numpy(), chunk.numpy(), strict=True):
        previous = steps.apply(action, previous)
        np.testing.assert_array_equal(previous, expected)
