"""A policy with a guard, which limits and judges proposed chunks and replaces those that are too unlikely."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from softflow.policies.chunk_guard import ChunkGuard

Choose = Callable[[Tensor], Tensor]
"""Observations (B, O) -> whole chunks (B, H, A), such as `BestOfN.choose`."""


class Report(NamedTuple):
    """What the guard did. Each field has shape (B,), or () for a single observation."""

    log_prob: Tensor
    """Log-likelihood of the executed chunk, in nats."""
    flagged: Tensor
    """Whether the policy's first proposal is less likely than the threshold."""
    replaced: Tensor
    """Whether another chunk is executed in its place."""
    unlikely: Tensor
    """Whether the executed chunk is less likely than the threshold, because no replacement passed."""
    limited: Tensor
    """Whether the limits changed any executed action."""
    unfamiliar: Tensor
    """Whether the distance of the observation from the data exceeds its threshold."""


class GuardedPolicy:
    """Any policy, with a guard that judges its chunks.

    Each chunk is limited first and then judged as it would be executed. If a chunk is flagged, the policy proposes
    `attempts` more chunks in one batch, and the first that passes is executed. It is thus a sample of the policy, given
    that it passes. If none passes, as many chunks are drawn from the guard's density. If none of these passes either,
    the likeliest of all chunks is executed and reported as `unlikely`. The caller may stop instead.

    Random numbers come from torch's global generator. If no chunk is flagged, the guard draws none.

    Args:
        choose: The policy. It must return whole chunks of the density's horizon, not only the executed actions.
        guard: A calibrated guard.
        n_action_steps: Number of actions of a chunk that are executed.
        attempts: Number of chunks to draw as replacements of a flagged one, N. With 0, chunks are flagged but not
            replaced.
        temperature: Temperature of samples from the density. Higher values give more diverse samples.

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
        """Choose the actions to execute, (B, O) -> (B, n_action_steps, A), and report what the guard did.

        Args:
            observation: The current observations, (B, O).
            previous: The previously executed actions, (B, A). Every call needs them, because only the caller knows what
                was executed. None at the start of an episode; the rate then does not limit the first step.

        Raises:
            ValueError: A number in an observation or in a proposed chunk is not finite, or a shape is wrong.
        """
        guard = self.guard
        distance, seen = guard.distance(observation), guard.density.read(observation)  # encodes each image once
        proposed = self._propose(observation).clone()
        chunk = guard.limits(proposed, previous)
        score = guard.log_prob(seen, chunk)
        flagged = ~(score >= guard.threshold)
        replaced = torch.zeros_like(flagged)
        unlikely = flagged.clone()
        draws = ((self._propose_again, observation), (self._draw_from_density, seen)) if self.attempts else ()
        for draw, given in draws:
            rows = unlikely.nonzero()[:, 0]
            if not len(rows):
                break
            candidates = draw(given[rows])  # (R, N, H, A), N for each row that is still unlikely
            kept = guard.limits(candidates, previous[rows] if previous is not None else None)
            scores = guard.log_prob(seen[rows], kept)
            passes = scores >= guard.threshold
            best = torch.where(passes.any(1), passes.int().argmax(1), scores.argmax(1))  # the first that passes
            each = torch.arange(len(rows), device=rows.device)
            better = scores[each, best] > score[rows]
            rows, each, best = rows[better], each[better], best[better]
            proposed[rows], chunk[rows], score[rows] = candidates[each, best], kept[each, best], scores[each, best]
            replaced[rows] = True
            unlikely[rows] = ~passes[each, best]
        limited = (chunk != proposed)[:, : self.n_action_steps].flatten(1).any(1)
        unfamiliar = ~(distance <= guard.distance_threshold)
        return chunk[:, : self.n_action_steps], Report(score, flagged, replaced, unlikely, limited, unfamiliar)

    def _propose_again(self, observation: Tensor) -> Tensor:
        """Draw more chunks from the policy in one batch: (R, O) -> (R, N, H, A)."""
        return self._propose(observation.repeat_interleave(self.attempts, 0)).unflatten(0, (-1, self.attempts))

    def _draw_from_density(self, seen: Tensor) -> Tensor:
        """Draw chunks from the density of the guard: (R, O) -> (R, N, H, A)."""
        return self.guard.density.propose(seen, self.attempts, self.temperature)

    def _propose(self, observation: Tensor) -> Tensor:
        """Return the chunks that the policy proposes, after checking them: (B, O) -> (B, H, A)."""
        density = self.guard.density
        chunk, expected = self.choose(observation), (len(observation), density.horizon, density.action_dim)
        if chunk.shape != expected:
            raise ValueError(
                f"chunk: the guard judges whole chunks, {expected}, the policy proposes {tuple(chunk.shape)}: pass "
                "a function that returns whole chunks, such as `BestOfN.choose`"
            )
        if not chunk.isfinite().all():
            raise ValueError("chunk: the policy proposes numbers that are not finite: nothing is executed")
        return chunk
