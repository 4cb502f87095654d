"""A policy behind a guard: what it proposes is limited, judged, and replaced if it is too unlikely."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from softflow.policies.guard import ChunkGuard

Choose = Callable[[Tensor], Tensor]
"""Observations (B, O) -> whole chunks (B, H, A), such as `BestOfN.choose`."""


class Report(NamedTuple):
    """What a guard did; each field has shape (B,), or () for a single observation."""

    log_prob: Tensor
    """The log-likelihood of the chunk that is executed, in nats."""
    flagged: Tensor
    """Whether what the policy proposed is less likely than the threshold."""
    replaced: Tensor
    """Whether another chunk is executed instead."""
    unlikely: Tensor
    """Whether what is executed is less likely than the threshold: it was flagged, and nothing better was found."""
    limited: Tensor
    """Whether the limits changed a number of what is executed."""
    unfamiliar: Tensor
    """Whether the observation is farther from the data than the threshold."""


class GuardedPolicy:
    """What any policy proposes, as far as a guard lets it pass.

    A chunk is limited, then judged as it would be executed. One that is flagged is replaced by the first that passes
    of `attempts` more of the policy's own, which are drawn in one batch: by a draw of the policy, given that it passes.
    Then as many of the guard's density are tried. If none passes, the likeliest of all is executed and reported as
    `unlikely`: whoever would rather stop, stops then.

    Random numbers are those of torch's global generator, as the policies' are; without a flagged chunk none is drawn
    but the policy's own.

    Args:
        choose: The policy. It must propose whole chunks of the density's horizon, not only what is executed.
        guard: A calibrated guard.
        n_action_steps: How many actions of a chunk are executed.
        attempts: How many more chunks may be drawn in place of a flagged one, N. 0 flags and replaces nothing.
        temperature: Temperature of the density's draws; higher ones vary more.

    Raises:
        ValueError: `n_action_steps` is not in 1 ... H, or `attempts` is negative.
        RuntimeError: The guard is not calibrated.
    """

    def __init__(
        self, choose: Choose, guard: ChunkGuard, n_action_steps: int, attempts: int = 8, temperature: float = 0.35
    ) -> None:
        guard.require_calibrated()
        horizon = guard.density.horizon
        if not 1 <= n_action_steps <= horizon:
            raise ValueError(f"n_action_steps: expected 1 ... {horizon}, the guard's horizon, got {n_action_steps}")
        if attempts < 0:
            raise ValueError(f"attempts: expected an integer >= 0, got {attempts}")
        self.choose, self.guard, self.n_action_steps = choose, guard, n_action_steps
        self.attempts, self.temperature = attempts, temperature

    @torch.inference_mode()
    def act(self, observation: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Report]:
        """Choose the actions to execute, (B, O) -> (B, n_action_steps, A), and report what was done to them.

        Args:
            observation: What is seen.
            previous: The actions executed last, (B, A). None at the start of an episode, whose first step no rate
                limits. It is asked for at every call because only the caller knows what was executed in the end.

        Raises:
            ValueError: A number of an observation or of what the policy proposes is not finite, or a shape is wrong.
        """
        guard = self.guard
        guard.require_observations(observation)
        proposed = self._propose(observation).clone()
        chunk = guard.limits(proposed, previous)
        score = guard.log_prob(observation, chunk)
        flagged = ~(score >= guard.threshold)
        replaced = torch.zeros_like(flagged)
        unlikely = flagged.clone()
        for draw in (self._propose_again, self._draw_from_density) if self.attempts else ():
            rows = unlikely.nonzero()[:, 0]
            if not len(rows):
                break
            candidates = draw(observation[rows])  # (R, N, H, A), as many for each row that is still unlikely
            kept = guard.limits(candidates, previous[rows] if previous is not None else None)
            scores = guard.log_prob(observation[rows], kept)
            passes = scores >= guard.threshold
            best = torch.where(passes.any(1), passes.int().argmax(1), scores.argmax(1))  # the first that passes
            each = torch.arange(len(rows), device=rows.device)
            better = scores[each, best] > score[rows]
            rows, each, best = rows[better], each[better], best[better]
            proposed[rows], chunk[rows], score[rows] = candidates[each, best], kept[each, best], scores[each, best]
            replaced[rows] = True
            unlikely[rows] = ~passes[each, best]
        limited = (chunk != proposed)[:, : self.n_action_steps].flatten(1).any(1)
        unfamiliar = ~(guard.distance(observation) <= guard.distance_threshold)
        return chunk[:, : self.n_action_steps], Report(score, flagged, replaced, unlikely, limited, unfamiliar)

    def _propose_again(self, observation: Tensor) -> Tensor:
        """Draw more chunks of the policy in one batch: (R, O) -> (R, N, H, A)."""
        return self._propose(observation.repeat_interleave(self.attempts, 0)).unflatten(0, (-1, self.attempts))

    def _draw_from_density(self, observation: Tensor) -> Tensor:
        """Draw as many chunks of the guard's density."""
        return self.guard.density.propose(observation, self.attempts, self.temperature)

    def _propose(self, observation: Tensor) -> Tensor:
        """Return what the policy proposes, checked."""
        density = self.guard.density
        chunk, expected = self.choose(observation), (len(observation), density.horizon, density.action_dim)
        if chunk.shape != expected:
            raise ValueError(
                f"chunk: the guard judges whole chunks, {expected}, the policy proposes {tuple(chunk.shape)}: give "
                "what is not yet cut to the executed steps, such as `BestOfN.choose`"
            )
        if not chunk.isfinite().all():
            raise ValueError("chunk: the policy proposes numbers that are not finite: nothing is executed")
        return chunk
