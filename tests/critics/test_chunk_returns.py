"""Chunk returns and targets, against numbers computed by hand and a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from critics import bootstrap, chunk_return, generalized_advantage

NAN = math.nan


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("reward", "length", "terminated", "next_value", "expected_return", "expected_target"),
    [
        # Neither: all 3 steps.     1 + 0.5 * 2 + 0.25 * 4 = 3;  3 + 0.125 * 8 = 4
        pytest.param([1.0, 2.0, 4.0], 3, 0, 8.0, 3.0, 4.0, id="neither"),
        # Terminal at step 2 of 3.  1 + 0.5 * 2 = 2;             no bootstrap: 2
        pytest.param([1.0, 2.0, 99.0], 2, 1, 8.0, 2.0, 2.0, id="terminal in mid-chunk"),
        # Time limit at step 2.     1 + 0.5 * 2 = 2;             2 + 0.25 * 8 = 4, with gamma^2, not gamma^3
        pytest.param([1.0, 2.0, 99.0], 2, 0, 8.0, 2.0, 4.0, id="time limit in mid-chunk"),
        # Both at step 1: the terminal state counts. 1;          1
        pytest.param([1.0, 99.0, 99.0], 1, 1, 8.0, 1.0, 1.0, id="both"),
        # Terminal at the last step. 3;                          3
        pytest.param([1.0, 2.0, 4.0], 3, 1, 8.0, 3.0, 3.0, id="terminal at the chunk's end"),
        # Padding and the value of a terminal state may be anything.
        pytest.param([1.0, NAN, math.inf], 1, 1, NAN, 1.0, 1.0, id="garbage"),
        # A NaN that was really received is not hidden.
        pytest.param([1.0, NAN, 0.0], 2, 1, 0.0, NAN, NAN, id="NaN reward"),
    ],
)
def test_by_hand_at_discount_one_half(
    reward: list[float],
    length: int,
    terminated: int,
    next_value: float,
    expected_return: float,
    expected_target: float,
) -> None:
    for flag in (torch.tensor([bool(terminated)]), t(terminated)):
        for steps in (torch.tensor([length]), t(length)):
            returned = chunk_return(t(*reward).unsqueeze(0), steps, 0.5)
            target = bootstrap(returned, 0.5, steps, flag, t(next_value))
            assert returned.item() == pytest.approx(expected_return, nan_ok=True)
            assert target.item() == pytest.approx(expected_target, nan_ok=True)


def test_gamma_to_the_k() -> None:
    # 0.99^1, 0.99^4, 0.99^8 times 100, rewards zero
    length = torch.tensor([1, 4, 8])
    returned = chunk_return(torch.zeros(3, 8), length, 0.99)
    target = bootstrap(returned, 0.99, length, torch.zeros(3), torch.full((3,), 100.0))
    torch.testing.assert_close(target, torch.tensor([99.0, 96.059601, 92.274469]))


def test_horizon_one_is_the_one_step_target() -> None:
    # 2 + 0.9 * 10 = 11
    one = torch.ones(1, dtype=torch.int64)
    assert bootstrap(chunk_return(t(2.0).view(1, 1), one, 0.9), 0.9, one, t(0.0), t(10.0)).item() == pytest.approx(11.0)


def test_no_gradient_leaks_from_padding() -> None:
    value = t(1.0, NAN).requires_grad_()
    bootstrap(t(0.0, 0.0), 0.5, torch.tensor([1, 1]), t(0.0, 1.0), value).sum().backward()
    assert value.grad is not None and value.grad.tolist() == [0.5, 0.0]


@settings(max_examples=60)
@given(st.data(), st.integers(0, 5), st.integers(1, 6), st.floats(0.0, 1.0))
def test_equals_a_plain_loop(data: st.DataObject, rows: int, horizon: int, discount: float) -> None:
    number = st.floats(-10, 10)
    reward = [data.draw(st.lists(number, min_size=horizon, max_size=horizon)) for _ in range(rows)]
    length = [data.draw(st.integers(1, horizon)) for _ in range(rows)]
    terminated = [data.draw(st.booleans()) for _ in range(rows)]
    value = [data.draw(number) for _ in range(rows)]
    expected = []
    for r, k, done, v in zip(reward, length, terminated, value, strict=True):
        total = 0.0
        for i in range(k):
            total += discount**i * r[i]
        expected.append(total if done else total + discount**k * v)
    steps = torch.tensor(length, dtype=torch.int64)
    returned = chunk_return(torch.tensor(reward, dtype=torch.float64).view(rows, horizon), steps, discount)
    target = bootstrap(returned, discount, steps, torch.tensor(terminated, dtype=torch.bool), t(*value))
    torch.testing.assert_close(target, t(*expected), rtol=1e-12, atol=1e-12)


def test_bad_input_is_named() -> None:
    reward, length, one = torch.zeros(2, 3), torch.tensor([1, 3]), torch.ones(2)
    with pytest.raises(ValueError, match=r"reward: expected \(B, H\), got \(3,\)"):
        chunk_return(reward[0], length, 0.9)
    with pytest.raises(ValueError, match=r"length: expected values in 1 \.\.\. 3, got 1 \.\.\. 4"):
        chunk_return(reward, torch.tensor([1, 4]), 0.9)
    with pytest.raises(ValueError, match=r"length: expected values in 1 \.\.\. 3, got 0 \.\.\. 3"):
        chunk_return(reward, torch.tensor([0, 3]), 0.9)
    with pytest.raises(ValueError, match="discount"):
        chunk_return(reward, length, 1.5)
    with pytest.raises(ValueError, match=r"next_value: expected \(2,\), got \(2, 1\)"):
        bootstrap(one, 0.9, length, one, one.unsqueeze(1))
    with pytest.raises(ValueError, match="discount"):
        bootstrap(one, length, one, one, 0.9)  # type: ignore[arg-type]  # arguments in another order


@given(
    steps=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    discount=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.3, 1.0]),
    terminated=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_generalized_advantages_are_the_discounted_sum_of_errors(
    steps: list[int], discount: float, gae_lambda: float, terminated: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    returned, value = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (len(steps), len(steps) + 1))
    expected = []
    for start in range(len(steps)):
        total, factor = 0.0, 1.0
        for j in range(start, len(steps)):
            following = 0.0 if terminated and j == len(steps) - 1 else discount ** steps[j] * value[j + 1]
            total += factor * (returned[j] + following - value[j])
            factor *= gae_lambda * discount ** steps[j]
        expected.append(total)
    if terminated:
        value[-1] = NAN  # of no interest
    advantage = generalized_advantage(returned, torch.tensor(steps), terminated, value, discount, gae_lambda)
    torch.testing.assert_close(advantage, torch.stack(expected))


def test_generalized_advantages_by_hand() -> None:
    """Chunks of 2, 2 and 1 steps at discount and gae_lambda 1/2: errors 1 + 4/4 - 8, 2 + 16/4 - 4 and 3 + 32/2 - 16."""
    for terminated, last in ((False, 3.0), (True, -13.0)):
        advantage = generalized_advantage(
            t(1, 2, 3), torch.tensor([2, 2, 1]), terminated, t(8, 4, 16, 32), discount=0.5, gae_lambda=0.5
        )
        second = 2 + last / 8
        assert advantage.tolist() == [-6 + second / 8, second, last]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(value=t(1, 2)), r"value: expected \(3,\), got \(2,\)"),
        (dict(length=torch.tensor([[1], [1]])), r"length: expected \(2,\)"),
        (dict(gae_lambda=1.5), r"gae_lambda: expected a number in \[0, 1\], got 1.5"),
        (dict(discount=-0.1), "discount: expected a number"),
    ],
)
def test_impossible_advantages_are_refused(changes: dict, message: str) -> None:
    valid = dict(chunk_return=t(1, 2), length=torch.tensor([2, 1]), terminated=True, value=t(0, 0, 0))
    with pytest.raises(ValueError, match=message):
        generalized_advantage(**{**valid, "discount": 0.9, "gae_lambda": 0.9, **changes})
