"""Batches of demonstrations and of the policy's own episodes."""

from __future__ import annotations

import numpy as np

from softflow.data.replay import Replay
from softflow.data.windows import Windows, concatenate


def sample_mixed(
    offline: Replay,
    online: Replay,
    batch_size: int,
    horizon: int,
    rng: np.random.Generator,
    offline_share: float = 0.5,
    imitable: bool = False,
) -> Windows[np.ndarray]:
    """Sample a batch of which a share comes from demonstrations, and the rest from the policy's own episodes.

    The default share of one half is the symmetric sampling of RLPD (arXiv 2302.02948, section 4.1). Offline windows
    come first. All are offline until the first own episode has ended (with `imitable`, one with steps worth imitating).

    Args:
        offline: The demonstrations.
        online: The policy's own episodes.
        batch_size: The number B of windows.
        horizon: The maximum length H of a window in steps.
        rng: The generator that draws the steps.
        offline_share: The share of the batch that is drawn from `offline`, in [0, 1].
        imitable: Whether to draw only from steps worth imitating (see `Replay.sample`).

    Raises:
        ValueError: `offline_share` is not in [0, 1], or a replay that is needed is empty.
    """
    if not 0 <= offline_share <= 1:
        raise ValueError(f"offline_share must be in [0, 1], got {offline_share}")
    available = online.imitable_steps if imitable else online.steps
    from_offline = round(batch_size * offline_share) if available else batch_size
    parts = [(offline, from_offline), (online, batch_size - from_offline)]
    return concatenate([replay.sample(count, horizon, rng, imitable) for replay, count in parts if count])
