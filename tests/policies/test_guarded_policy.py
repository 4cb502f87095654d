"""A policy behind a guard: what passes is untouched, what is flagged is replaced, and what is broken does not act."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from softflow.policies import ChunkGuard, GuardedPolicy
from tests.policies.guards import calibrated, log_density, standard_normal

SEEN = torch.zeros(3, 2)
GOOD, FAR, FARTHER = 0.1, 0.9, 1.0
"""Chunks that hold this number everywhere; the guard below passes the first alone."""


def strict() -> ChunkGuard:
    """Flags every chunk with |a|^2 / 2 above 0.25."""
    guard = calibrated()
    guard.threshold.copy_(log_density(torch.full((2, 1), 0.5)))
    return guard


def proposing(*rows: list[float]) -> Callable[[Tensor], Tensor]:
    """A policy that proposes constant chunks, one list for each call."""
    calls = iter(rows)
    return lambda observation: torch.tensor(next(calls))[:, None, None].expand(-1, 2, 1)


def test_what_passes_is_untouched() -> None:
    policy = GuardedPolicy(proposing([GOOD, -GOOD, 0.0]), strict(), n_action_steps=1)
    before = torch.get_rng_state()
    chunk, report = policy.act(SEEN)
    assert torch.equal(chunk, torch.tensor([GOOD, -GOOD, 0.0])[:, None, None])
    torch.testing.assert_close(report.log_prob, log_density(chunk.expand(-1, 2, -1)))
    assert not torch.stack(report[1:]).any()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_policy_is_asked_again_for_flagged_rows_alone() -> None:
    again = [FARTHER, 0.3, 0.2, GOOD]  # two for row 0, two for row 2
    policy = GuardedPolicy(proposing([FAR, GOOD, FAR], again), strict(), n_action_steps=2, attempts=2)
    chunk, report = policy.act(SEEN)
    assert chunk[:, 0, 0].tolist() == pytest.approx([0.3, GOOD, 0.2])  # the first that passes, not the likeliest
    assert report.flagged.tolist() == report.replaced.tolist() == [True, False, True]
    assert not report.unlikely.any()


def test_then_the_density_is() -> None:
    torch.manual_seed(0)
    policy = GuardedPolicy(proposing([FAR] * 3, [FAR] * 3), strict(), n_action_steps=2, attempts=1, temperature=0.0)
    chunk, report = policy.act(SEEN)
    assert torch.equal(chunk, torch.zeros(3, 2, 1))  # its mean
    assert report.replaced.all() and not report.unlikely.any()


def test_if_none_passes_the_likeliest_is_executed_and_reported() -> None:
    torch.manual_seed(0)
    guard = strict()
    guard.threshold.fill_(1e3)
    policy = GuardedPolicy(
        proposing([FAR, GOOD, 0.0], [0.8, 0.2, 0.1]), guard, n_action_steps=2, attempts=1, temperature=9.0
    )
    chunk, report = policy.act(SEEN)
    assert chunk[:, 0, 0].tolist() == pytest.approx([0.8, GOOD, 0.0])
    assert report.flagged.all() and report.unlikely.all()
    assert report.replaced.tolist() == [True, False, False]
    torch.testing.assert_close(report.log_prob, log_density(chunk))


def test_flagging_alone_replaces_nothing() -> None:
    chunk, report = GuardedPolicy(proposing([FAR] * 3), strict(), n_action_steps=2, attempts=0).act(SEEN)
    assert torch.equal(chunk, torch.full((3, 2, 1), FAR))
    assert report.flagged.all() and report.unlikely.all() and not report.replaced.any()


def test_replacing_raises_the_least_likelihood() -> None:
    seen, guard = torch.zeros(500, 2), strict()

    def noisy(observation: Tensor) -> Tensor:
        return torch.randn(len(observation), 2, 1).clamp(-1, 1)

    least = []
    for attempts in (0, 1, 4):
        torch.manual_seed(0)
        _, report = GuardedPolicy(noisy, guard, n_action_steps=1, attempts=attempts).act(seen)
        least.append(report.log_prob.min().item())
        assert bool(report.unlikely.any()) == (report.log_prob.min() < guard.threshold)
    assert least[0] < least[1] <= least[2] and least[2] >= guard.threshold


def test_chunks_are_judged_as_they_are_executed() -> None:
    guard = calibrated(rate=0.25)
    previous = torch.tensor([[0.0], [0.0], [GOOD]])
    chunk, report = GuardedPolicy(proposing([1.0, -1.0, GOOD]), guard, n_action_steps=2).act(SEEN, previous)
    assert torch.equal(chunk[:2, :, 0], torch.tensor([[0.25, 0.5], [-0.25, -0.5]]))
    assert report.limited.tolist() == [True, True, False]
    torch.testing.assert_close(report.log_prob, log_density(chunk))


def test_replacements_keep_the_limits() -> None:
    torch.manual_seed(0)
    guard = calibrated(rate=0.25)
    guard.threshold.fill_(1e3)
    previous = torch.tensor([[1.0], [0.5], [-1.0]])
    policy = GuardedPolicy(lambda seen: torch.randn(len(seen), 2, 1).clamp(-1, 1), guard, n_action_steps=2)
    chunk, _ = policy.act(SEEN, previous)
    steps = torch.cat([previous[:, None], chunk], 1)
    assert (steps.diff(dim=1).abs() <= 0.25 + 1e-6).all()


def test_only_what_is_executed_counts_as_limited() -> None:
    policy = GuardedPolicy(lambda seen: torch.tensor([[[0.0], [1.0]]]), calibrated(rate=0.25), n_action_steps=1)
    assert not policy.act(SEEN[:1])[1].limited.any()


def test_unfamiliar_observations_are_reported() -> None:
    seen = torch.tensor([[1.0, 1.0], [0.0, 0.0], [3.0, -3.0]])
    _, report = GuardedPolicy(proposing([0.0] * 3), calibrated(), n_action_steps=1).act(seen)
    assert report.unfamiliar.tolist() == [False, False, True] and not report.flagged.any()


@pytest.mark.parametrize(
    ("observation", "proposed", "message"),
    [
        (torch.tensor([[0.0, torch.nan]]), 0.0, r"observation: dimensions \[1\] are not finite numbers: no action"),
        (torch.tensor([[torch.inf, 0.0]]), 0.0, r"observation: dimensions \[0\]"),
        (torch.zeros(2), 0.0, r"observation: expected \(B, 2\), got \(2,\)"),
        (torch.zeros(1, 2), torch.nan, "the policy proposes numbers that are not finite"),
    ],
)
def test_what_is_broken_does_not_act(observation: Tensor, proposed: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuardedPolicy(proposing([proposed]), calibrated(), n_action_steps=1).act(observation)


def test_cut_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"whole chunks, \(1, 2, 1\), the policy proposes \(1, 1, 1\)"):
        GuardedPolicy(lambda seen: torch.zeros(1, 1, 1), calibrated(), n_action_steps=1).act(torch.zeros(1, 2))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(RuntimeError, match="no thresholds"):
        GuardedPolicy(proposing(), ChunkGuard(standard_normal()), n_action_steps=1)
    with pytest.raises(ValueError, match=r"n_action_steps: expected 1 \.\.\. 2"):
        GuardedPolicy(proposing(), calibrated(), n_action_steps=3)
    with pytest.raises(ValueError, match="attempts: expected an integer >= 0"):
        GuardedPolicy(proposing(), calibrated(), n_action_steps=1, attempts=-1)
