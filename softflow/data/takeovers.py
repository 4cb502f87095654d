"""Episodes in which a person took over from a policy: which of their chunks are imitated, and what a takeover costs.

A chunk of H actions is imitated as one choice of whoever acts, so it must not contain the actions of both. A person's
chunk may start at any step of a takeover from which the person acts for H steps. At the episode's end a chunk is
shorter, and its last action is held, as in any window of a `Replay`. Chunks that would cross the end of a takeover
within the episode are left out, because what the person would have done next is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from softflow.data.corrections import chunks_from
from softflow.data.episodes import Episode
from softflow.data.imitable import ImitationRule
from softflow.data.proposals import Proposals
from softflow.data.replay import Replay
from softflow.data.summary import count
from softflow.errors import UserError

SOLVED = ImitationRule("success")
"""The rule by which chunks of takeovers are imitated, as corrections are: those of episodes that are successes."""


def human_steps(episode: Episode) -> np.ndarray:
    """Return whether a person acted at each step, (T,) bool. Nobody did if it was not recorded."""
    return np.zeros(len(episode), np.bool_) if episode.human is None else episode.human


def whole_starts(acts: np.ndarray, horizon: int) -> np.ndarray:
    """Return the steps from which `horizon` steps in a row are True, or all that are left: (T,) bool -> (T,) bool."""
    padded = np.concatenate([acts, np.ones(horizon - 1, np.bool_)])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, horizon).all(1))


def human_chunks(episodes: Sequence[Episode], horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the observations (N, O) and chunks (N, H, A) of people who took over, in episodes that are successes."""
    starts = [one.is_success & whole_starts(human_steps(one), horizon) for one in episodes]
    observation = [one.observation[:-1][rows] for one, rows in zip(episodes, starts, strict=True)]
    chunk = [chunks_from(one.action, horizon)[rows] for one, rows in zip(episodes, starts, strict=True)]
    return np.concatenate(observation), np.concatenate(chunk)


def of_the_human(episode: Episode, horizon: int) -> Episode:
    """Return an episode of which the person's chunks are imitated, and nothing else."""
    return _imitated_at(episode, whole_starts(human_steps(episode), horizon), horizon)


def of_the_policy(episode: Episode, horizon: int) -> Episode:
    """Return an episode of which the policy's chunks are imitated, and nothing else.

    They are the chunks that the policy proposed and that were executed as proposed. If no chunks of this length were
    recorded, they are the actions that it executed.
    """
    if episode.proposals is not None and episode.proposals.horizon == horizon:
        return episode
    return _imitated_at(episode, whole_starts(~human_steps(episode), horizon), horizon)


def as_demonstration(episode: Episode, horizon: int) -> Episode:
    """Return an episode of which the person's chunks are imitated. If it does not say who acted, every step may be."""
    return replace(episode, proposals=None) if episode.human is None else of_the_human(episode, horizon)


def require_chunks(demonstrations: Sequence[Episode], rule: ImitationRule, horizon: int) -> None:
    """Raise `UserError` if no chunk of the demonstrations is imitated. `rule` says which steps are worth imitating."""
    rule.require_some(demonstrations)
    for one in demonstrations:
        starts = True if one.human is None else whole_starts(one.human, horizon)
        if (rule.worth(one) & starts).any():
            return
    raise UserError(
        "of demonstrations that say who acted, only chunks of a person are imitated, but no person acted for "
        f"{count(horizon, 'step')} in a row where imitate is {rule.text!r}: give longer takeovers or other "
        "demonstrations, or set horizon to a lower number"
    )


def describe_takeovers(episodes: Sequence[Episode], horizon: int) -> str | None:
    """Describe in one line what is imitated of demonstrations in which a person took over. None if nobody did."""
    starts = [whole_starts(one.human, horizon) for one in episodes if one.human is not None and one.human.any()]
    if not starts:
        return None
    return (
        f"a person acted in {count(len(starts), 'demonstration')}: only chunks in which the person acted throughout "
        f"are imitated, at most {sum(int(one.sum()) for one in starts):,} of them"
    )


def _imitated_at(episode: Episode, starts: np.ndarray, horizon: int) -> Episode:
    chunks = Proposals(np.arange(len(episode)), chunks_from(episode.action, horizon), starts)
    return replace(episode, proposals=chunks)


def with_penalty(episode: Episode, penalty: float) -> Episode:
    """Return an episode whose reward is lower by `penalty` at the last step of the policy before each takeover."""
    human = human_steps(episode)
    reward = episode.reward.copy()
    reward[np.flatnonzero(~human[:-1] & human[1:])] -= penalty
    return replace(episode, reward=reward)


def replay_of(episodes: Sequence[Episode], horizon: int) -> Replay:
    """Return a replay of whole episodes with proposals of H actions. Those of successes are worth imitating."""
    first, rows = episodes[0], sum(len(episode) + 1 for episode in episodes)
    sizes = first.observation_dim, first.action_dim, first.observation.dtype
    replay = Replay(rows, *sizes, horizon=horizon, imitate=SOLVED, fixed=True)
    for episode in episodes:
        replay.add_episode(episode)
    return replay
