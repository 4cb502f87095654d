"""Findings from replays that start as their recordings did: what differs although the same actions are executed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from softflow.data import Episode
from softflow.data.findings import Finding
from softflow.runs.replay_trials import FOLLOWS, SAME_ENVIRONMENT, Outcome, Trials
from softflow.runs.replaying import Replay

Pair = tuple[Episode, Replay]
REWARD_TOLERANCE = 1e-3
"""Difference of two rewards that counts, as a share of the larger one, or absolute below 1."""


def differences(trials: Trials, outcome: Outcome) -> Iterator[Finding]:
    """Yield what differs between the recordings and the replays of the reading that fits best."""
    pairs = list(zip(trials.episodes, outcome.replays, strict=True))
    partings = [trials.parting(*pair) for pair in pairs]
    parted = sorted(parting for parting in partings if parting is not None)
    if len(parted) > len(pairs) / 2 and outcome.misfit > FOLLOWS:
        step, part, distance = parted[len(parted) // 2]
        yield Finding(
            "replay",
            f"observations part from their recordings in {len(parted)} of {len(pairs)} replays, which no other reading "
            f"of the actions explains: after {step} steps (median) {part!r} is off by {distance:.2g} of its scale",
            f"{SAME_ENVIRONMENT}, and see whether its control rate is that of the recording",
        )
    if outcome.reading.shift:  # one action is a guess, so rewards and ends may differ
        return
    following = [pair for pair, parting in zip(pairs, partings, strict=True) if parting is None]
    yield from _rewards(following)
    yield from _ends(following)
    yield from _successes(following)


def _rewards(pairs: Sequence[Pair]) -> Iterator[Finding]:
    differ = [(pair, step) for pair in pairs if (step := _first_other_reward(*pair)) is not None]
    if differ:
        (episode, replay), step = differ[0]
        yield Finding(
            "reward",
            f"rewards differ in {len(differ)} of {len(pairs)} replays that follow their recordings: in one, the "
            f"reward of step {step} is {episode.reward[step]:.4g} in the dataset and {replay.reward[step]:.4g} in the "
            "environment",
            "give the environment the rewards of the dataset, such as by sparse_success, or write its rewards anew",
        )


def _first_other_reward(episode: Episode, replay: Replay) -> int | None:
    steps = min(len(episode), len(replay))
    recorded, replayed = episode.reward[:steps].astype(np.float64), replay.reward[:steps]
    allowed = REWARD_TOLERANCE * np.maximum(1, np.maximum(np.abs(recorded), np.abs(replayed)))
    other = np.abs(recorded - replayed) > allowed
    return int(other.argmax()) if other.any() else None


def _ends(pairs: Sequence[Pair]) -> Iterator[Finding]:
    differ = [(one, other) for one, other in pairs if (one.terminated, len(one)) != (other.terminated, len(other))]
    if differ:
        episode, replay = differ[0]
        yield Finding(
            "end",
            f"{len(differ)} of {len(pairs)} replays that follow their recordings end otherwise: one of them is "
            f"{_end(episode)} in the dataset and {_end(replay)} in the environment",
            f"{SAME_ENVIRONMENT}, such as sparse_success or a time limit",
        )


def _end(one: Episode | Replay) -> str:
    return f"{'terminated' if one.terminated else 'not terminated'} after {len(one)} steps"


def _successes(pairs: Sequence[Pair]) -> Iterator[Finding]:
    if differ := sum(one.is_success != other.is_success for one, other in pairs):
        recorded, replayed = (sum(one.is_success for one in each) for each in zip(*pairs, strict=True))
        yield Finding(
            "success",
            f"{differ} of {len(pairs)} replays that follow their recordings are judged otherwise: {recorded} of these "
            f"episodes are successes in the dataset, {replayed} in the environment",
            "give the success rule of the recording (--success), or mark the successes of the dataset anew",
        )
