"""Own episodes of actors, which run in other processes or on other machines while this process learns.

An actor executes a bout, which is a few whole episodes, with a copy of the method's networks. Each bout uses the newest
networks that were published when it was handed out. Bouts that are lost with their actor are handed out again, with
their seeds and arms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from softflow.algos.base import Acting, Algorithm
from softflow.data import Episode
from softflow.errors import UserError
from softflow.training.experience import Experience, Publication
from softflow.training.failures import EnvironmentErrors, Failure

PATIENCE = 0.5
"""Seconds between two looks at whether the run was interrupted, while no bout ends."""


class Bout(NamedTuple):
    """Episodes for an actor to execute."""

    seeds: Sequence[int]
    arms: Sequence[int]
    """The behaviour of each episode, see `Algorithm.assign`."""


class Returned(NamedTuple):
    """What an actor returns of a bout."""

    episodes: Sequence[Episode]
    steps: int
    """Primitive steps, also of episodes that were lost."""
    failures: Sequence[tuple[str, Failure]] = ()
    """The place and the reason of each error of an environment."""


class CrewFailed(UserError):
    """The actors cannot go on. The learner can save a checkpoint, from which the run is resumed."""


class Crew(ABC):
    """The actors."""

    episodes_per_bout: int

    @abstractmethod
    def publish(self, acting: Acting) -> None:
        """Give the networks with which bouts are executed that are handed out from now on."""

    @abstractmethod
    def vacancies(self) -> int:
        """Return how many bouts can be handed out now."""

    @abstractmethod
    def hand_out(self, bout: Bout) -> int:
        """Give a bout to an actor. Return its number, which no other bout of the crew has."""

    @abstractmethod
    def wait(self, seconds: float) -> list[tuple[int, Returned | None]]:
        """Wait up to `seconds` until some bouts have ended. Return their numbers, with None for one that was lost.

        Raises:
            CrewFailed: No actor is left.
            UserError: The episodes cannot be executed.
        """

    def close(self) -> None:  # noqa: B027 (optional)
        """End the actors."""

    def scalars(self) -> Mapping[str, float]:
        """Return what the log shows of the actors."""
        return {}


class _Out(NamedTuple):
    """A bout in the hands of an actor."""

    bout: Bout
    updates: int
    """Updates of the run when its networks were published."""


class Fleet(Experience):
    """Own episodes of a crew.

    Args:
        crew: The actors. They are not closed.
        seeds: One seed for each episode.
        algorithm: Assigns the arms of episodes, and has the networks that actors need.
        updates: Returns the number of updates of the run so far.
        publish_every: The number of updates after which new networks are published. They are also published once arms
            mean other networks.
        errors: Counts the errors of environments, and decides whether the run continues after them.
        interrupt: Raises an exception if the run was interrupted. Called while no bout ends.
    """

    why_anew = "actors execute whole episodes"

    def __init__(
        self,
        crew: Crew,
        seeds: Iterator[int],
        algorithm: Algorithm,
        updates: Callable[[], int],
        publish_every: int,
        errors: EnvironmentErrors,
        interrupt: Callable[[], None],
    ) -> None:
        self._crew, self._seeds, self._algorithm = crew, seeds, algorithm
        self._updates, self._publish_every = updates, publish_every
        self._errors, self._interrupt = errors, interrupt
        self._out: dict[int, _Out] = {}
        self._lost: deque[Bout] = deque()
        self._arrived: list[tuple[Bout, Returned]] = []
        self._published: Publication | None = None
        self._staleness: list[int] = []

    def collect(self, steps: int) -> tuple[list[Episode], int]:
        """See `Experience`. Waits for whole bouts, so the number of steps may be much higher than `steps`."""
        self._staleness.clear()
        self._publish()
        while sum(returned.steps for _, returned in self._arrived) < steps:
            self._interrupt()
            self._hand_out()
            self._receive()
        self._hand_out()  # so that the actors are busy while the caller learns
        arrived, self._arrived = self._arrived, []
        episodes = [episode for _, returned in arrived for episode in returned.episodes]
        for _, returned in arrived:
            for _ in returned.episodes:
                self._errors.episode_ended()
            for place, failure in returned.failures:
                self._errors.add(place, failure)
        return episodes, sum(returned.steps for _, returned in arrived)

    @property
    def running_seeds(self) -> list[int]:
        return [seed for bout in self._unreturned() for seed in bout.seeds]

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the bouts that have not been returned. Their episodes begin anew when the run is resumed."""
        return [{"seeds": list(bout.seeds), "arms": list(bout.arms)} for bout in self._unreturned()]

    def load_state_dict(self, state: Any) -> int:
        for saved in state:  # of a fleet, or an episode of environments in this process
            bout = (
                Bout(saved["seeds"], saved["arms"])
                if "seeds" in saved
                else Bout([saved["seed"]], [saved.get("arm", 0)])
            )
            self._lost.append(bout)
        return sum(len(bout.seeds) for bout in self._lost)

    def scalars(self) -> Mapping[str, float]:
        """Return the mean and the largest staleness: the updates since the networks of a bout were published."""
        known = self._staleness
        staleness = {"actors/staleness": sum(known) / len(known), "actors/staleness_max": max(known)} if known else {}
        return {**staleness, **self._crew.scalars()}

    def _unreturned(self) -> list[Bout]:
        return [*(out.bout for out in self._out.values()), *self._lost, *(bout for bout, _ in self._arrived)]

    def _publish(self) -> None:
        now = Publication(self._updates(), self._algorithm.arms_version)
        if now.is_due(self._published, self._publish_every):
            self._crew.publish(self._algorithm.acting())
            self._published = now

    def _hand_out(self) -> None:
        assert self._published is not None
        for _ in range(self._crew.vacancies()):
            bout = self._lost.popleft() if self._lost else self._next_bout()
            self._out[self._crew.hand_out(bout)] = _Out(bout, self._published.updates)

    def _next_bout(self) -> Bout:
        seeds = [next(self._seeds) for _ in range(self._crew.episodes_per_bout)]
        return Bout(seeds, [self._algorithm.assign() for _ in seeds])

    def _receive(self) -> None:
        for number, returned in self._crew.wait(PATIENCE):
            out = self._out.pop(number, None)
            if out is None:  # of an earlier stage
                continue
            if returned is None:
                self._lost.append(out.bout)
                continue
            self._arrived.append((out.bout, returned))
            self._staleness.append(self._updates() - out.updates)
