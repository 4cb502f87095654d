"""Returns of action chunks, as pure functions.

A chunk of horizon H is executed for k <= H steps; k < H if the episode ends within the chunk. Its target is
(Q-chunking, arXiv 2507.07969, eq. 5, generalised to any k)

    y = sum_{i<k} discount^i r_i + (1 - terminated) * discount^k * V(s_k).

Only termination stops the bootstrap. If the episode is truncated by a time limit, s_k is its last observation.
"""

from __future__ import annotations

import torch
from torch import Tensor


def chunk_return(reward: Tensor, length: Tensor, discount: float) -> Tensor:
    """Return the discounted reward of the executed steps, sum_{i<length} discount^i reward_i.

    Args:
        reward: Rewards, (B, H). Entries from index `length` on are padding and ignored, even if NaN.
        length: Number of executed steps, k in 1 ... H, (B,).
        discount: Discount per step, in [0, 1].

    Returns:
        The returns, (B,).

    Raises:
        ValueError: A shape is wrong, a length is outside 1 ... H, or the discount is outside [0, 1].
    """
    if reward.ndim != 2:
        raise ValueError(f"reward: expected (B, H), got {tuple(reward.shape)}")
    _check(discount, len(reward), length=length)
    horizon = reward.shape[1]
    if not ((length >= 1) & (length <= horizon)).all():
        raise ValueError(f"length: expected values in 1 ... {horizon}, got {length.min()} ... {length.max()}")
    step = torch.arange(horizon, device=reward.device)
    executed = torch.where(step < length.unsqueeze(1), reward, 0.0)
    return executed @ discount ** step.to(reward.dtype)


def bootstrap(chunk_return: Tensor, discount: float, length: Tensor, terminated: Tensor, next_value: Tensor) -> Tensor:
    """Return the target for a chunk's value, chunk_return + (1 - terminated) * discount^length * next_value.

    Args:
        chunk_return: Results of `chunk_return`, (B,).
        discount: Discount per step, in [0, 1].
        length: Number of executed steps, k, (B,).
        terminated: Whether the chunk ended in a terminal state, bool or 0/1, (B,). Truncation does not count.
        next_value: Value of the observation after the last step, (B,). Ignored, even if NaN, where terminated.

    Returns:
        The targets, (B,).

    Raises:
        ValueError: A shape is wrong, or the discount is outside [0, 1].
    """
    if chunk_return.ndim != 1:
        raise ValueError(f"chunk_return: expected (B,), got {tuple(chunk_return.shape)}")
    _check(discount, len(chunk_return), length=length, terminated=terminated, next_value=next_value)
    carried = discount ** length.to(chunk_return.dtype) * next_value
    return chunk_return + torch.where(terminated.bool(), 0.0, carried)


def generalized_advantage(
    chunk_return: Tensor, length: Tensor, terminated: bool, value: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Return generalised advantages of consecutive chunks of an episode (arXiv 1506.02438, eq. 16, for k_j steps):

        delta_j = R_j + discount^k_j V(s_j+1) - V(s_j),    A_j = delta_j + gae_lambda * discount^k_j * A_j+1

    Args:
        chunk_return: Results of `chunk_return`, R_j, (N,).
        length: Number of executed steps, k_j, (N,).
        terminated: Whether the last chunk ended in a terminal state. Truncation does not count.
        value: Value of the observation before each chunk, and after the last one, (N + 1,).
        discount: Discount per step, in [0, 1].
        gae_lambda: The lambda of GAE, per chunk, in [0, 1]. 0 gives the one-chunk TD error, 1 the full return minus the
            value. Higher values have less bias and more variance.

    Returns:
        The advantages, (N,).

    Raises:
        ValueError: A shape is wrong, or `discount` or `gae_lambda` is outside [0, 1].
    """
    if value.shape != (len(chunk_return) + 1,):
        raise ValueError(f"value: expected ({len(chunk_return) + 1},), got {tuple(value.shape)}")
    if not 0.0 <= gae_lambda <= 1.0:
        raise ValueError(f"gae_lambda: expected a number in [0, 1], got {gae_lambda!r}")
    last = torch.arange(len(chunk_return), device=value.device) == len(chunk_return) - 1
    delta = bootstrap(chunk_return, discount, length, last & terminated, value[1:]) - value[:-1]
    decay = gae_lambda * discount ** length.to(value.dtype)
    advantage = torch.zeros_like(delta)
    following = delta.new_zeros(())
    for j in reversed(range(len(delta))):
        advantage[j] = following = delta[j] + decay[j] * following
    return advantage


def _check(discount: float, batch: int, **rows: Tensor) -> None:
    if isinstance(discount, Tensor) or not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount: expected a number in [0, 1], got {discount!r}")
    for name, value in rows.items():
        # (B, 1) and (B,) would silently broadcast to (B, B).
        if value.shape != (batch,):
            raise ValueError(f"{name}: expected ({batch},), got {tuple(value.shape)}")
