"""Measures of episodes that have ended: what the critic expected of them, and how likely their chunks were.

They are computed without gradients, and preserve the random states: training does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from softflow.algos.base import Algorithm, Data
from softflow.data import Episode, observation_tensor, to_torch
from softflow.policies import BestOfN, ChunkPolicy, FlowPolicy
from softflow.training.episode_table import EpisodeRow
from softflow.training.random_state import random_state_kept

SAMPLED_CHUNKS = 256
"""Number of chunks whose likelihood an evaluation measures."""


@torch.no_grad()
def measure_episodes(
    algorithm: Algorithm,
    data: Data,
    episodes: Sequence[Episode],
    stage: str,
    step: int,
    source: str,
    device: str,
    values: bool,
) -> list[EpisodeRow]:
    """Return the rows of `episodes.csv` of episodes that have ended.

    Args:
        algorithm: The algorithm, whose `deployed` policy values the episodes.
        data: The replays.
        episodes: The episodes, which have seeds.
        stage: The current stage.
        step: The updates or environment steps done in it.
        source: Whose episodes they are: `own` or `held_out`.
        device: The device of the policy.
        values: Whether the critic has learnt, so that its values mean something.
    """
    rows = []
    with random_state_kept(device):
        for episode in episodes:
            value, achieved = _values(algorithm, data, episode, device) if values else (None, None)
            ending = "terminated" if episode.terminated else "truncated"
            what = episode.arm, episode.is_success, ending, len(episode), float(episode.reward.sum())
            nll = _nll_of_proposals(algorithm.deployed.policy, episode, device)
            rows.append(EpisodeRow(stage, step, source, episode.seed or 0, *what, value, achieved, nll))
    return rows


@torch.no_grad()
def measure_likelihood(policy: ChunkPolicy, data: Data, device: str) -> dict[str, float]:
    """Return the negative log-likelihood per dimension of demonstrated, held-out and own chunks.

    All are chunks that are worth imitating. A scalar is missing without such chunks, or without their density.
    """
    scalars = {}
    with random_state_kept(device):
        for name, replay in (("demonstrated", data.offline), ("held_out", data.held_out), ("own", data.online)):
            if replay is not None and replay.imitable_steps:
                windows = replay.sample(SAMPLED_CHUNKS, policy.horizon, np.random.default_rng(0), imitable=True)
                batch = to_torch(windows, device)
                if (nll := _nll(policy, batch.observation, batch.chunk)) is not None:
                    scalars[f"eval/nll_{name}"] = nll
    return scalars


def bias_of(rows: Sequence[EpisodeRow]) -> dict[str, float]:
    """Return the scalar `eval/q_bias`: the mean of the values minus what was achieved. Empty without values."""
    differences = [row.value - row.achieved for row in rows if row.value is not None and row.achieved is not None]
    return {"eval/q_bias": float(np.mean(differences))} if differences else {}


def _values(algorithm: Algorithm, data: Data, episode: Episode, device: str) -> tuple[float, float] | tuple[None, None]:
    """Return the mean value of the executed chunks, and the mean discounted return that followed them."""
    deployed, discount = algorithm.deployed, algorithm.discount
    if deployed.critic is None or discount is None:
        return None, None
    starts = _decisions(episode, deployed)
    steps = np.minimum(starts[:, None] + np.arange(deployed.critic.horizon), len(episode) - 1)  # as in `Windows`
    chunks = torch.as_tensor(episode.action[steps], dtype=torch.float32, device=device)
    context = deployed.policy.features(observation_tensor(episode.observation[starts], device))
    returns = np.empty(len(episode))
    following = 0.0
    for step in reversed(range(len(episode))):
        following = returns[step] = float(episode.reward[step]) + discount * following
    return float(deployed.critic(context, chunks).mean()), float(returns[starts].mean()) / data.offline.largest_return


def _decisions(episode: Episode, deployed: BestOfN) -> np.ndarray:
    """Return the steps at which chunks were proposed, (D,)."""
    if episode.proposals is not None:
        return episode.proposals.step
    return np.arange(0, len(episode), deployed.n_action_steps)


def _nll_of_proposals(policy: ChunkPolicy, episode: Episode, device: str) -> float | None:
    """Return the negative log-likelihood per dimension of the chunks that the policy proposed and executed."""
    proposals = episode.proposals
    if proposals is None or not proposals.own.any():
        return None
    observation = observation_tensor(episode.observation[proposals.step[proposals.own]], device)
    return _nll(policy, observation, torch.as_tensor(proposals.chunk[proposals.own], device=device))


def _nll(policy: ChunkPolicy, observation: torch.Tensor, chunk: torch.Tensor) -> float | None:
    """Return the mean negative log-likelihood per dimension of chunks. None if one of them has no density."""
    if not (isinstance(policy, FlowPolicy) and policy.flow.loss_is_nll and policy.flow.exact_density):
        return None
    try:
        return float(policy.bc_loss(observation, chunk))
    except ValueError:  # a tanh-Gaussian has no density at the bounds of actions
        return None
