"""Returns of action chunks, as pure functions.

A chunk of horizon H is executed for k <= H steps: all of them, or fewer where the episode ended inside it. Its
target is (Q-chunking, arXiv 2507.07969, eq. 5, written for any k)

    y = sum_{i<k} discount^i r_i + (1 - terminated) * discount^k * V(s_k).

Only a terminal state stops the bootstrap. A time limit does not: s_k is then the last observation of the episode.
"""

from __future__ import annotations

import torch
from torch import Tensor


def chunk_return(reward: Tensor, length: Tensor, discount: float) -> Tensor:
    """Discounted reward of the steps really executed, sum_{i<length} discount^i reward_i.

    Args:
        reward: (B, H); entries at and beyond `length` are padding and ignored, NaN included.
        length: (B,), steps executed, k in 1 ... H.
        discount: per step, in [0, 1].

    Returns:
        (B,).

    Raises:
        ValueError: wrong shapes, a length outside 1 ... H, or a discount outside [0, 1].
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
    """Target of a chunk's value, chunk_return + (1 - terminated) * discount^length * next_value.

    Args:
        chunk_return: (B,), see the function of this name.
        discount: per step, in [0, 1].
        length: (B,), steps executed, k.
        terminated: (B,), bool or 0/1: the chunk ended in a terminal state. A time limit is not one.
        next_value: (B,), value of the observation after the last step; ignored, NaN included, where terminated.

    Returns:
        (B,).

    Raises:
        ValueError: wrong shapes, or a discount outside [0, 1].
    """
    if chunk_return.ndim != 1:
        raise ValueError(f"chunk_return: expected (B,), got {tuple(chunk_return.shape)}")
    _check(discount, len(chunk_return), length=length, terminated=terminated, next_value=next_value)
    carried = discount ** length.to(chunk_return.dtype) * next_value
    return chunk_return + torch.where(terminated.bool(), 0.0, carried)


def generalized_advantage(
    chunk_return: Tensor, length: Tensor, terminated: bool, value: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Generalised advantages of an episode's consecutive chunks (arXiv 1506.02438, eq. 16, for chunks of k_j steps):

        delta_j = R_j + discount^k_j V(s_j+1) - V(s_j),    A_j = delta_j + gae_lambda * discount^k_j * A_j+1

    Args:
        chunk_return: (N,), R_j; see the function of this name.
        length: (N,), steps executed, k_j.
        terminated: whether the last chunk ended in a terminal state. A time limit is not one.
        value: (N + 1,), of the observation before each chunk, and of the one after the last.
        discount: per step, in [0, 1].
        gae_lambda: lambda, per chunk, in [0, 1]: 0 is the one-chunk error, 1 the whole return less the value.

    Returns:
        (N,).

    Raises:
        ValueError: wrong shapes, or a discount or gae_lambda outside [0, 1].
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
        # (B, 1) against (B,) would broadcast to (B, B) without a word.
        if value.shape != (batch,):
            raise ValueError(f"{name}: expected ({batch},), got {tuple(value.shape)}")
