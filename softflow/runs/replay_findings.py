"""Findings from replays that start as their recordings did: what differs although the same actions are executed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from softflow.data import Episode
from softflow.data.findings import Finding
from softflow.data.summary import count
from softflow.runs.replay_trials import FOLLOWS, SAME_ENVIRONMENT, Outcome, Trials, listed
from softflow.runs.replaying import Replay

REWARD_TOLERANCE = 1e-3
"""Difference of two rewards that counts, as a share of the larger one, or absolute below 1."""


class Pair(NamedTuple):
    """An episode, its number in the dataset and its replay."""

    number: int
    episode: Episode
    replay: Replay


def differences(trials: Trials, outcome: Outcome) -> Iterator[Finding]:
    """Yield what differs between the recordings and the replays of the reading that fits best.

    Every episode is judged by itself, because a replay from its own seed is exact. One that starts otherwise is not
    judged: `Trials` has found it.
    """
    if outcome.reading.shift:  # one action is a guess, so the replays are not exact
        return
    pairs = list(map(Pair, trials.numbers, trials.episodes, outcome.replays))
    apart = [
        (pair.number, parting, misfit)
        for pair, parting, misfit in zip(pairs, outcome.partings, outcome.misfits, strict=True)
        if parting is not None and parting.step > 0 and misfit > FOLLOWS
    ]
    if apart:
        number, first, _ = min(apart, key=lambda one: one[1].step)
        missed = np.median([misfit for _, _, misfit in apart])
        yield Finding(
            "replay",
            f"observations part from their recordings in {len(apart)} of {len(pairs)} replays "
            f"({listed([one for one, _, _ in apart])}), which no other reading of the actions explains: they miss "
            f"{missed:.2f} of the recorded motion (median), and in episode {number}, {first.part!r} is off by "
            f"{first.distance:.2g} of its scale after {count(first.step, 'step')}",
            f"{SAME_ENVIRONMENT}, and see whether its control rate, and the units, the order and the control mode of "
            "its actions, are those of the recording; if other episodes follow, see whether these were recorded or "
            "converted in another way",
        )
    following = [pair for pair, parting in zip(pairs, outcome.partings, strict=True) if parting is None]
    yield from _rewards(following)
    yield from _ends(following)
    if outcome.judges_success:
        yield from _successes(following)


def _rewards(pairs: Sequence[Pair]) -> Iterator[Finding]:
    differ = [(pair, step) for pair in pairs if (step := _first_other_reward(pair.episode, pair.replay)) is not None]
    if differ:
        (number, episode, replay), step = differ[0]
        yield Finding(
            "reward",
            f"rewards differ in {len(differ)} of {len(pairs)} replays that follow their recordings "
            f"({listed([pair.number for pair, _ in differ])}): the reward of step {step} of episode {number} is "
            f"{episode.reward[step]:.4g} in the dataset and {replay.reward[step]:.4g} in the environment",
            "give the environment the rewards of the dataset, such as by --reward, or write its rewards anew",
        )


def _first_other_reward(episode: Episode, replay: Replay) -> int | None:
    steps = min(len(episode), len(replay))
    recorded, replayed = episode.reward[:steps].astype(np.float64), replay.reward[:steps]
    allowed = REWARD_TOLERANCE * np.maximum(1, np.maximum(np.abs(recorded), np.abs(replayed)))
    other = np.abs(recorded - replayed) > allowed
    return int(other.argmax()) if other.any() else None


def _ends(pairs: Sequence[Pair]) -> Iterator[Finding]:
    differ = [
        pair
        for pair in pairs
        if (pair.episode.terminated, len(pair.episode)) != (pair.replay.terminated, len(pair.replay))
    ]
    if differ:
        number, episode, replay = differ[0]
        yield Finding(
            "end",
            f"{len(differ)} of {len(pairs)} replays that follow their recordings end otherwise "
            f"({listed([pair.number for pair in differ])}): episode {number} is {_end(episode)} in the dataset and "
            f"{_end(replay)} in the environment",
            f"{SAME_ENVIRONMENT}, such as sparse_success or a time limit, or --reward",
        )


def _end(one: Episode | Replay) -> str:
    return f"{'terminated' if one.terminated else 'not terminated'} after {len(one)} steps"


def _successes(pairs: Sequence[Pair]) -> Iterator[Finding]:
    if differ := [pair.number for pair in pairs if pair.episode.is_success != pair.replay.is_success]:
        recorded = sum(pair.episode.is_success for pair in pairs)
        replayed = sum(pair.replay.is_success for pair in pairs)
        yield Finding(
            "success",
            f"{len(differ)} of {len(pairs)} replays that follow their recordings are judged otherwise "
            f"({listed(differ)}): of all that follow, {recorded} are successes in the dataset and {replayed} in the "
            "environment",
            "give the success rule of the recording (--success), or mark the successes of the dataset anew",
        )
