"""Findings without recorded starts: observations or actions that are in other units than those of the environment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from softflow.data.action_effects import Arrangement
from softflow.data.action_readings import Reading, number_names
from softflow.data.findings import Finding
from softflow.runs.replay_trials import FRESH_RESETS, SAME_ENVIRONMENT, THIN, Trials
from softflow.task import TaskSpec

OUT_OF_PROPORTION = 10.0
"""Ratio of two spreads from which on they cannot be of the same unit."""
FEWEST_STARTS = 8
"""Number of recorded episodes from which on the spread of their starts tells something, whatever its distribution."""
STILL = 0.05
"""Spread of starts, as a share of that of whole episodes, up to which a number starts from nearly the same value."""
ALIKE = 0.25
"""Misfit between two replays from different resets up to which a number moves as the actions say."""
MOST_NUMBERS = 10
"""How many numbers are named at most."""

Numbers = NDArray[np.float64]


def other_spreads(trials: Trials, starts: NDArray[np.float32], reading: Reading) -> Iterator[Finding]:
    """Yield the numbers whose recorded starts spread at least ten times as much as resets do, or a tenth as much.

    Quartiles, standard deviation and root mean square must all say so, because each of them alone may differ by
    chance: the first two if a number has a few favoured values. The last one is alike where recordings start in a small
    region that resets have as well. A number that hardly differs between starts, compared with its motion, tells
    nothing: its spread is the noise of a reset.

    Args:
        trials: Episodes that are replayed from fresh resets.
        starts: The first observations (n, O) of all recorded episodes, in the same order of parts.
        reading: Their actions as recorded.
    """
    if len(starts) < FEWEST_STARTS:
        return
    ours, theirs = trials.scale.numbers(starts), trials.scale.numbers(trials.fresh_starts())
    ratios = np.divide(_sizes(ours), _sizes(theirs), out=np.ones((3, ours.shape[1])), where=_sizes(theirs) > 0)
    off = (ratios >= OUT_OF_PROPORTION).all(0) | ((ratios > 0) & (ratios <= 1 / OUT_OF_PROPORTION)).all(0)
    if not off.any():
        return
    recorded = np.concatenate([trials.scale.numbers(one.observation) for one in trials.episodes])
    replayed = np.concatenate([trials.scale.numbers(rows) for rows in trials.rows(reading)])
    off &= (ours.std(0) > STILL * recorded.std(0)) & (theirs.std(0) > STILL * replayed.std(0))
    for number in np.flatnonzero(off)[:MOST_NUMBERS]:
        ratio = ratios[1, number]
        times = f"{ratio:.3g} times as much" if ratio > 1 else f"only 1 / {1 / ratio:.3g} as much"
        yield Finding(
            "unit",
            f"first observations of {trials.scale.measured[trials.scale.plain[number]]} spread over "
            f"{_range(ours[:, number])} in the recordings, but over {_range(theirs[:, number])} in {FRESH_RESETS} "
            f"resets of the environment: {times}",
            "see whether both are in the same unit, such as metres and centimetres: if not, multiply the observations "
            "of the dataset by the factor, or correct their conversion, and see to the units of the actions as well; "
            f"if they are, {SAME_ENVIRONMENT}",
        )


def _sizes(rows: Numbers) -> Numbers:
    """Return the distance of the quartiles, the standard deviation and the root mean square of each column, (3, N).

    They are 0 where a column is constant but for rounding.
    """
    quartiles = np.subtract(*np.quantile(rows, [0.75, 0.25], axis=0))
    size = np.sqrt(np.square(rows).mean(0))
    return np.where(rows.std(0) > 1e-6 * size, [quartiles, rows.std(0), size], 0.0)


def _range(numbers: Numbers) -> str:
    return f"{numbers.min():.3g} ... {numbers.max():.3g}"


def missed_motion(trials: Trials, reading: Reading, arrangement: Arrangement, task: TaskSpec) -> Iterator[Finding]:
    """Yield that most numbers of the actions do not cause the recorded motion, wherever an episode starts.

    Replays from another start may miss much although nothing is wrong: what is not grasped is not carried, and an
    unstable motion goes elsewhere. So a number of an action is only judged by what moves alike in replays of the same
    actions from two resets, and of that by what follows its recording best.

    Args:
        trials: Episodes that are replayed from fresh resets.
        reading: Their actions as recorded, if no other reading fits better.
        arrangement: What each number of an action drives.
        task: The task of the environment.
    """
    between, apart = trials.compared_elsewhere(reading)
    moved, moves, missed = (np.median(each, 0) for each in (apart.recorded, between.recorded, apart.missed))
    is_judged = (np.median(between.missed, 0) <= ALIKE * moves) & (moves > 0) & (moved > 0)
    shares = np.divide(missed, moved, out=np.full_like(moved, np.inf), where=is_judged)
    nearest = {
        name: min(driven, key=lambda number: shares[number])
        for name, driven in zip(number_names(task), arrangement.driven, strict=True)
        if is_judged[driven].any()
    }
    wrong = {name: number for name, number in nearest.items() if shares[number] > THIN}
    if not 2 * len(wrong) > len(nearest):
        return
    numbers = sorted(set(wrong.values()))
    yield Finding(
        "actions",
        f"replayed as recorded, {', '.join(list(wrong)[:MOST_NUMBERS])} of the actions miss "
        f"{np.median(shares[numbers]):.2f} of the recorded motion of what they move in the environment, "
        f"{', '.join(trials.scale.measured[number] for number in numbers[:MOST_NUMBERS])}, and no other reading "
        f"explains it: they move it {np.median(moves[numbers] / moved[numbers]):.2g} times as much as in the "
        "recordings",
        "the units, the order or the control mode of the actions differ from those of the environment: convert the "
        "actions, or give the environment the options of the recording (--env-options)",
    )
