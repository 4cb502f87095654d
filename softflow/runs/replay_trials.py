"""Replays of chosen episodes: from which resets they start, and how well each reading of their actions fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softflow.data import Episode
from softflow.data.action_effects import Arrangement, Steps, arrangement
from softflow.data.action_readings import Reading
from softflow.data.findings import Finding
from softflow.data.parting import Motion, ObservationScale, best_order, disagreement, first_beyond, offsets
from softflow.runs.replaying import Replay, Replayer
from softflow.task import TaskSpec

THIN = 0.5
"""Misfit from which on replays say little about the actions."""
FRESH_RESETS = 30
"""Number of resets from which the nearest start is chosen for an episode whose own start cannot be repeated."""
MUCH_BETTER = 0.5
"""Share to which a disagreement must fall before another reading, or another order of parts, counts as better."""
UNLIKE = 0.8
"""Disagreement of a number from which on starts are not alike, in units of its deviation in recordings and resets."""
FOLLOWS = 0.05
"""Misfit up to which a replay follows its recording."""
FAR = 3.0
"""Distance from which on a start is far, in units of a part's scale and of the spread of starts."""
TOLERANCE, IMAGE_TOLERANCE = 0.1, 0.5
"""Distance from which on a part has parted, in units of its scale. Images may have been compressed with loss."""
VARIATION = 0.3
"""Standard deviation of what is added to recorded actions, in [-1, 1], to see the effect of each number."""
MOST_LISTED = 20
"""How many numbers of episodes a finding lists."""

QUANTILES = np.linspace(0, 1, 11)
SAME_ENVIRONMENT = "give the environment the options and the version of the recording (--env-options)"


class Parting(NamedTuple):
    """Where a replay parts from its recording."""

    step: int
    """The number of steps after which it does."""
    part: str
    """The part of the observation that differs most."""
    distance: float
    """How far it is off, in units of its scale."""


@dataclass(frozen=True)
class Outcome:
    """The replays of one reading of the actions of E episodes.

    Attributes:
        reading: The reading.
        replays: The replay of each episode.
        partings: Where each replay parts from its recording. None if it follows as long as both go on.
        missed: How much each replay misses of the recorded changes, (E, M) (`Motion.missed`).
        recorded: The recorded changes, (E, M).
    """

    reading: Reading
    replays: list[Replay]
    partings: list[Parting | None]
    missed: NDArray[np.float64]
    recorded: NDArray[np.float64]

    @property
    def misfits(self) -> NDArray[np.float64]:
        """The share of the recorded motion that each replay misses, (E,).

        0 is an exact replay, 1 is as bad as one that does not move. It is infinite if the recording does not move.
        """
        return _share(self.missed.sum(1), self.recorded.sum(1))

    @property
    def misfit(self) -> float:
        """The median of the misfits."""
        return float(np.median(self.misfits))

    @property
    def misfits_by_number(self) -> NDArray[np.float64]:
        """The same for each measured number, (E, M)."""
        return _share(self.missed, self.recorded)

    @property
    def judges_success(self) -> bool:
        """Whether the environment, or the rule, told of any of the episodes whether it is a success."""
        return any(replay.judges_success for replay in self.replays)

    @property
    def successes(self) -> int:
        return sum(replay.is_success for replay in self.replays)


class Trials:
    """Episodes and the resets from which they are replayed.

    Args:
        replayer: Executes the actions.
        task: The task of the environment.
        episodes: The episodes to replay by their number in the dataset, with the parts of their observations in the
            order of the task. All of them have a seed, or none has.
        reading: Their actions as recorded.

    Attributes:
        numbers: The numbers of the episodes.
        episodes: The episodes. If another order of their numbers fits much better, they are rearranged.
        repeats: Whether the environment repeats an episode with the same seed and actions.
        repeats_start: Whether it starts from the same observation after two resets with the same seed.
        from_recorded_starts: Whether the replays start as the recordings did.
        findings: What is wrong with the order of observations and with the starts.
        tolerances: Distance from which on each part has parted, in units of its scale.
    """

    def __init__(self, replayer: Replayer, task: TaskSpec, episodes: Mapping[int, Episode], reading: Reading) -> None:
        self._replayer, self._task = replayer, task
        self.numbers, self.episodes, self.findings = list(episodes), list(episodes.values()), list[Finding]()
        self._fresh: NDArray[Any] | None = None
        self.tolerances = [IMAGE_TOLERANCE if part.is_image else TOLERANCE for part in task.observation]
        seeds = [episode.seed for episode in self.episodes if episode.seed is not None]
        first, again = (replayer.replay(seeds[0] if seeds else 0, reading.actions[0])[0] for _ in range(2))
        self.repeats, self.repeats_start = np.array_equal(first, again), np.array_equal(first[0], again[0])
        self.from_recorded_starts = self.repeats and len(seeds) == len(episodes)
        self._seeds = seeds
        self._settle()
        if task.layout is None:  # parts of packed observations were compared by name
            self._find_order()
        if self.from_recorded_starts:
            self._check_recorded_starts()
        if not self.from_recorded_starts:
            self._check_fresh_starts()

    def outcome(self, reading: Reading) -> Outcome:
        """Replay all episodes with the actions of a reading."""
        replays: list[Replay] = []
        partings: list[Parting | None] = []
        motions: list[Motion] = []
        for episode, seed, actions in zip(self.episodes, self._seeds, reading.actions, strict=True):
            rows, replay = self._replayer.replay(seed, actions)
            recorded = seen(episode)
            replays.append(replay)
            partings.append(self._parting(recorded, rows))
            motions.append(self.scale.motion(recorded, rows, reading.known_steps(len(recorded) - 1)))
        return Outcome(reading, replays, partings, *map(np.stack, zip(*motions, strict=True)))

    def arrangement(self, reading: Reading) -> Arrangement | None:
        """Compare the effects of the numbers of recorded actions with those of similar actions in the environment.

        The numbers that it says to be driven are measured ones. It is None if only images are observed.
        """
        if not self.scale.plain:
            return None
        rng = np.random.default_rng(0)
        recorded, executed = [], []
        for episode, seed, actions in zip(self.episodes, self._seeds, reading.actions, strict=True):
            recorded.append(Steps(self.scale.numbers(seen(episode)), actions))
            varied = (actions + VARIATION * rng.standard_normal(actions.shape)).clip(-1, 1).astype(np.float32)
            executed.append(Steps(self.scale.numbers(self._replayer.replay(seed, varied)[0]), varied))
        found = arrangement(recorded, executed)
        return replace(found, driven=[[self.scale.plain[number] for number in each] for each in found.driven])

    def rows(self, reading: Reading) -> Iterator[NDArray[Any]]:
        """Replay all episodes with the actions of a reading. Yield the rows (t + 1, O) of each."""
        for seed, actions in zip(self._seeds, reading.actions, strict=True):
            yield self._replayer.replay(seed, actions)[0]

    def compared_elsewhere(self, reading: Reading) -> tuple[Motion, Motion]:
        """Compare the replays of a reading with replays from other resets, and the recordings with the replays.

        The other reset of an episode is the one nearest to that from which it is replayed.

        Returns:
            How well the replay from the other reset predicts the changes of each replay, (E, M), and how well this one
            predicts those of the recording, as long as it goes on, (E, M).
        """
        starts = self.fresh_starts()
        between, apart = list[Motion](), list[Motion]()
        replays = zip(self.episodes, self._seeds, reading.actions, self.rows(reading), strict=True)
        for episode, seed, actions, rows in replays:
            distances = self.scale.distances(np.repeat(starts[seed : seed + 1], len(starts), 0), starts).sum(1)
            distances[seed] = np.inf
            elsewhere = self._replayer.replay(int(distances.argmin()), actions)[0]
            recorded = seen(episode)
            between.append(self.scale.motion(rows, elsewhere, slice(None)))
            apart.append(self.scale.motion(recorded, rows, slice(len(rows) - 1)))
        first, second = (Motion(*map(np.stack, zip(*motions, strict=True))) for motions in (between, apart))
        return first, second

    def _parting(self, recorded: NDArray[Any], replayed: NDArray[Any]) -> Parting | None:
        steps = min(len(recorded), len(replayed))
        distances = self.scale.distances(recorded[:steps], replayed[:steps])
        step = first_beyond(distances, self.tolerances)
        if step is None:
            return None
        part = int((distances[step] / self.tolerances).argmax())
        return Parting(step, self.scale.names[part], float(distances[step, part]))

    def _settle(self) -> None:
        """Measure the scale of the episodes and, where they do not start from their own seeds, choose the nearest."""
        self.scale = ObservationScale(self._task, [episode.observation for episode in self.episodes])
        if not self.from_recorded_starts:
            starts = self.fresh_starts()
            self._seeds = [int(self._from_all(starts, one).sum(1).argmin()) for one in self.episodes]

    def fresh_starts(self) -> NDArray[Any]:
        """Return the first observations (n, O) of fresh resets, with the seeds 0, ..., n - 1."""
        if self._fresh is None:
            self._fresh = np.stack([self._replayer.start(seed) for seed in range(FRESH_RESETS)])
        return self._fresh

    def _from_all(self, starts: NDArray[Any], episode: Episode) -> NDArray[np.float64]:
        """Return how far each start (n, O) is from that of an episode, (n, parts)."""
        return self.scale.distances(np.repeat(episode.observation[:1], len(starts), 0), starts)

    def _find_order(self) -> None:
        """Rearrange the parts of observations if their starts fit the environment much better in another order."""
        sizes = [part.packed.size for part in self._task.observation]
        recorded, given = np.stack([one.observation[0] for one in self.episodes]), list(range(len(sizes)))
        if self.from_recorded_starts:
            starts = np.stack([self._replayer.start(seed) for seed in self._seeds])
        else:  # their distributions are compared
            recorded, starts = (np.quantile(rows, QUANTILES, axis=0) for rows in (recorded, self.fresh_starts()))
        costs = disagreement(recorded, starts, sizes)
        order = best_order(costs, sizes)
        places, expected_places = (dict(zip(one, offsets(sizes, one), strict=True)) for one in (order, given))
        moved = [part for part in given if places[part] != expected_places[part]]
        before, after = (sum(costs[part, where[part]] for part in moved) for where in (expected_places, places))
        unlike = 0.0 if self.from_recorded_starts else UNLIKE * sum(sizes[part] for part in moved)
        if after >= MUCH_BETTER * before or before < unlike:
            return
        rearranged = np.concatenate([places[part] + np.arange(sizes[part]) for part in given])
        self.episodes = [replace(one, observation=one.observation[:, rearranged]) for one in self.episodes]
        self._settle()
        names, expected = (", ".join(self.scale.names[part] for part in each) for each in (order, given))
        self.findings.append(
            Finding(
                "order",
                f"the parts of the observations are in another order than the dataset says: read as {names}, their "
                f"first rows differ from resets {after / before:.2f} times as much as read as {expected}, in the parts "
                "that change place",
                "rearrange the columns, or make the episodes with Episode.from_native, which goes by names",
            )
        )

    def _check_recorded_starts(self) -> None:
        """Find episodes that start otherwise from their seeds. If most do, give up the recorded seeds."""
        starts = zip(self._seeds, self.episodes, strict=True)
        distances = np.concatenate([self._from_all(self._replayer.start(seed)[None], one) for seed, one in starts])
        differ = (distances > self.tolerances).any(1)
        if not differ.any():
            return
        off = np.median(distances[differ], 0)
        worst = int((off / self.tolerances).argmax())
        self.findings.append(
            Finding(
                "start",
                f"in {differ.sum()} of {len(self.episodes)} episodes the environment does not start from the recorded "
                f"seed as the recording does: {self.scale.names[worst]!r} is off by {off[worst]:.2g} of its scale "
                f"(median; {listed(np.array(self.numbers)[differ])})",
                SAME_ENVIRONMENT,
            )
        )
        if differ.mean() > 0.5:
            self.from_recorded_starts = False
            self._settle()

    def _check_fresh_starts(self) -> None:
        """Find a part of the observation from which no reset of the environment is near most of the recordings."""
        starts = self.fresh_starts()
        far = FAR * np.maximum(1, self.scale.spreads(starts))
        nearest = np.median([self._from_all(starts, one).min(0) for one in self.episodes], 0)
        for part in np.flatnonzero(nearest > far):
            self.findings.append(
                Finding(
                    "start",
                    f"the recordings start where none of {FRESH_RESETS} resets does: {self.scale.names[part]!r} is off "
                    f"by {nearest[part]:.2g} of its scale from the nearest one (median)",
                    f"see whether both mean the same numbers in the same unit; {SAME_ENVIRONMENT}",
                )
            )


def _share(missed: NDArray[np.float64], recorded: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(missed, recorded, out=np.full_like(missed, np.inf), where=recorded > 0)


def listed(numbers: Sequence[int] | NDArray[np.int64]) -> str:
    """Return the numbers of episodes in words, at most `MOST_LISTED` of them."""
    some = ", ".join(str(number) for number in numbers[:MOST_LISTED])
    more = f" and {len(numbers) - MOST_LISTED} more" if len(numbers) > MOST_LISTED else ""
    return f"{'episode' if len(numbers) == 1 else 'episodes'} {some}{more}"


def seen(episode: Episode) -> NDArray[Any]:
    """Return the observations of an episode, without a last one that was not recorded and repeats the one before."""
    rows = episode.observation
    return rows[:-1] if len(rows) > 2 and np.array_equal(rows[-1], rows[-2]) else rows
