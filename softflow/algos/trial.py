"""Trials in own episodes: which policy acts and is evaluated, and among how many of its chunks the critic chooses.

Training can make a policy worse, and the choice of a critic that knows little is worse than none. Neither shows in
a loss. Both show in own episodes, so these decide:

    policy    the champion is the last policy that has proven itself; the challenger is a frozen copy of the policy in
              training. A challenger that does at least as well replaces the champion, any other is replaced by a newer
              copy. The champion is the imitation policy at first.
    choice    the number of chunks among which the critic chooses: 1, some or many. More follow the critic more
              closely, including its errors.

Every own episode answers both questions: its arm names the policy and the choice that execute it. Each is drawn by
Thompson sampling (Thompson 1933; arXiv 1707.02038) from the beliefs that the latest outcomes leave, so what does worse
acts less. A critic learns, so its choice is judged by the latest own episodes alone: one that did badly is tried again
when they are forgotten. Outcomes count in the order in which the episodes started, and only if the same policy acted to
their end.

A trial takes 20 to 40 episodes of the challenger, or 8 if the difference is clear, so trials decide little if there are
only 100 own episodes. Where there are held-out episodes, these compare what deploys with the policy in training and
with the other choices at the end of the stage.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from softflow.algos.beliefs import Outcome, Record, beliefs, draw_best, probability_better
from softflow.data import Episode
from softflow.errors import UserError
from softflow.policies import BestOfN, ChunkPolicy

PolicyT = TypeVar("PolicyT", bound=ChunkPolicy)

FEWEST_CLEAR, BETTER, WORSE = 8, 0.8, 0.1
"""After this many episodes, a challenger that is at least as good with more than the one or less than the other
probability need not have `trials.fewest`: the difference is clear."""
FEWEST_CHOICES = 15
"""Number of episodes in which the critic has to have chosen among so many chunks before this choice can deploy."""
MOST_CHOICES = 4
"""Number of choices that the number of an arm has room for."""
CAUTION_STEP, MOST_CAUTION = 1.5, 10.0
"""The factor by which a verdict changes the caution, and its largest value; the smallest is the inverse."""
CHOICES_WINDOW = 2
"""The number of latest episodes that count for the choices, in multiples of `trials.window`."""
CARRIED = 3.0
"""Number of episodes that what is known counts for in a prior: the champion's record for a new challenger, all own
episodes for a choice."""


@dataclass
class TrialConfig:
    """Trials in own episodes, which decide what acts and what is evaluated."""

    enabled: bool = True
    """Whether trials in own episodes decide which policy acts and is evaluated. Otherwise it is the newest policy, with
    all its `candidates`."""
    fewest: int = 20
    """Smallest number of episodes after which a challenger may replace the champion. One that is clearly better may do
    so after 8. Higher values decide more safely, but later."""
    most: int = 40
    """Number of episodes after which a challenger that has not replaced the champion is given up."""
    window: int = 60
    """Number of latest episodes of each policy that count in a trial. For the choice among chunks, twice this number of
    episodes count. Higher values are more precise, but react later."""

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most <= self.window:
            raise ValueError(
                "expected 1 <= fewest <= most <= window in trials, got "
                f"fewest {self.fewest}, most {self.most}, window {self.window}"
            )


class Arm(NamedTuple):
    """How an own episode is executed."""

    version: int
    """Number of the trial in which the episode started."""
    challenger: bool
    """Whether the challenger acts, and not the champion."""
    choice: int
    """Index in `Trial.candidates` of the number of chunks among which the critic chooses; 0 for a single chunk."""

    def encode(self) -> int:
        """Return the arm as the integer that the episode keeps."""
        return 2 * (MOST_CHOICES * self.version + self.choice) + self.challenger

    @classmethod
    def decode(cls, number: int) -> Arm:
        """Invert `encode`."""
        rest, challenger = divmod(number, 2)
        return cls(rest // MOST_CHOICES, challenger == 1, rest % MOST_CHOICES)


class Verdict(NamedTuple):
    """The end of a trial."""

    promoted: bool
    """Whether the challenger has become the champion."""
    worse: bool
    """Whether the challenger was as good with a probability below `WORSE`, and not merely unable to show that it is."""
    text: str
    """The numbers, for the log."""


class Trial(Generic[PolicyT]):
    """The champion, the challenger, and the records by which one is preferred to the other.

    Args:
        policy: The policy in training, of which both begin as copies.
        candidates: The largest number of chunks among which the critic chooses. With 1 it never chooses.
        config: The settings.

    Attributes:
        candidates: The numbers of chunks among which it may choose: 1, the square root of the largest, and the largest.
        champion: The policy that was last proven. Frozen.
        challenger: The policy on trial. Frozen.
        version: The number of trials so far.
        caution: A factor on the weight of the KL from the champion. It falls with every promotion and rises with every
            challenger that is given up.
    """

    def __init__(self, policy: PolicyT, candidates: int, config: TrialConfig) -> None:
        self.config, self.candidates = config, sorted({1, round(math.sqrt(candidates)), candidates})
        self.champion, self.challenger = policy.twin(), policy.twin()
        self.version, self.caution = 0, 1.0
        self.policies = [Record(config.window), Record(config.window)]  # of champion and challenger
        self._chosen: deque[tuple[int, Outcome]] = deque(maxlen=CHOICES_WINDOW * config.window)  # of all own episodes
        self._preferred: int | None = None  # the choice that held-out episodes prefer, until there are new own episodes
        self._since = 0  # episodes in this trial

    def begin(self, policy: PolicyT) -> None:
        """Put a frozen copy of `policy` on trial."""
        self.challenger.learnt.load_state_dict(policy.learnt.state_dict())
        self.version += 1
        self._since = 0
        self.policies[1] = Record(self.config.window, _prior(beliefs(*self.policies)[0].mean))

    @property
    def choices(self) -> list[Record]:
        """The records of the choices, from the latest own episodes.

        A choice without outcomes of its own is believed to be as good as all choices together.
        """
        window = CHOICES_WINDOW * self.config.window
        every = Record(window)
        for _, outcome in self._chosen:
            every.add(outcome)
        believed = beliefs(every)[0].mean
        records = [Record(window, _prior(believed)) for _ in self.candidates]
        for choice, outcome in self._chosen:
            records[choice].add(outcome)
        return records

    def assign(self) -> int:
        """Draw the arm of the next own episode."""
        return Arm(self.version, draw_best(self.policies) == 1, draw_best(self.choices)).encode()

    def decide(
        self, observation: Tensor, arms: Tensor, behaviour: Callable[[PolicyT, int], BestOfN]
    ) -> tuple[Tensor, Tensor]:
        """Choose what own episodes execute, (B, O) and their arms (B,), as `BestOfN.decide` does.

        Args:
            observation: Observations, (B, O).
            arms: The arms of their episodes, (B,).
            behaviour: Returns what acts for a policy and a number of candidates.
        """
        kinds = arms % (2 * MOST_CHOICES)  # the version does not matter
        found = kinds.unique().tolist()
        decided = []
        for kind in found:
            arm = Arm.decode(kind)
            policy = self.challenger if arm.challenger else self.champion
            acting = behaviour(policy, self.candidates[arm.choice])
            decided.append(acting.decide(observation[kinds == kind]))
        order = torch.cat([torch.nonzero(kinds == kind)[:, 0] for kind in found]).argsort()
        actions, proposed = zip(*decided, strict=True)
        return torch.cat(actions)[order], torch.cat(proposed)[order]

    def receive(self, episodes: Iterable[Episode]) -> None:
        """Add the outcomes of own episodes, in the order in which they started."""
        for episode in episodes:
            arm, outcome = Arm.decode(episode.arm), Outcome.of(episode)
            self._chosen.append((arm.choice, outcome))
            self._preferred = None
            if arm.version == self.version:
                self.policies[arm.challenger].add(outcome)
                self._since += 1

    def judge(self) -> Verdict | None:
        """End the trial if the records suffice; a promoted challenger is then the champion. Call `begin` afterwards."""
        c, (champion, challenger) = self.config, self.policies
        better = probability_better(*beliefs(challenger, champion))
        clear = challenger.episodes >= FEWEST_CLEAR
        promoted = (challenger.episodes >= c.fewest and better >= 0.5) or (clear and better >= BETTER)
        worse = clear and better < WORSE
        if not (promoted or worse or challenger.episodes >= c.most or self._since >= 3 * c.most):
            return None
        text = (
            f"challenger {self.version} {'replaces the champion' if promoted else 'is given up'}: at least as good "
            f"as the champion with probability {better:.2f}; latest successes: challenger {_shown(challenger)}, "
            f"champion {_shown(champion)}; by number of candidates: "
            + ", ".join(f"{n}: {_shown(record)}" for n, record in zip(self.candidates, self.choices, strict=True))
        )
        self._adapt_caution(promoted)
        if promoted:
            self.champion.learnt.load_state_dict(self.challenger.learnt.state_dict())
            self.policies[0] = challenger
        return Verdict(promoted, worse, text)

    def promote(self, policy: PolicyT, episodes: Iterable[Episode]) -> None:
        """Make `policy` the champion, because it did better in these held-out episodes, and begin a new trial."""
        self._adapt_caution(promoted=True)
        self.champion.learnt.load_state_dict(policy.learnt.state_dict())
        self.policies[0] = Record(self.config.window)
        for episode in episodes:
            self.policies[0].add(Outcome.of(episode))
        self.begin(policy)

    def prefer(self, number: int, episodes: Iterable[Episode], other: int, others: Iterable[Episode]) -> None:
        """Let the critic choose among `number` chunks, because this did better in held-out episodes than `other`.

        The held-out episodes of both take the place of the own episodes, in which older policies and critics chose.
        """
        self._preferred, less = self.candidates.index(number), self.candidates.index(other)
        self._chosen.clear()
        for worse, better in zip(others, episodes, strict=False):  # one of each, so that neither is forgotten first
            self._chosen.extend([(less, Outcome.of(worse)), (self._preferred, Outcome.of(better))])

    def _adapt_caution(self, promoted: bool) -> None:
        factor = 1 / CAUTION_STEP if promoted else CAUTION_STEP
        self.caution = min(max(self.caution * factor, 1 / MOST_CAUTION), MOST_CAUTION)

    def best(self) -> Arm:
        """Return the arm that deploys: that with the highest means. Without enough episodes, the safe one."""
        (champion, challenger), choices = beliefs(*self.policies), self.choices
        proven = self.policies[1].episodes >= self.config.fewest and challenger.mean > champion.mean
        means = [one.mean for one in beliefs(*choices)]
        known = [i for i, record in enumerate(choices) if i == 0 or record.episodes >= FEWEST_CHOICES]
        choice = max(known, key=means.__getitem__) if self._preferred is None else self._preferred
        return Arm(self.version, proven, choice)

    def scalars(self) -> dict[str, float]:
        """Return what the log shows: how good each is believed to be, and which deploys."""
        (champion, challenger), choices = beliefs(*self.policies), beliefs(*self.choices)
        best = self.best()
        return {
            "trial/champion": champion.mean,
            "trial/challenger": challenger.mean,
            **{f"trial/best_of_{n}": one.mean for n, one in zip(self.candidates, choices, strict=True)},
            "trial/deploys_challenger": float(best.challenger),
            "trial/deploys_best_of": float(self.candidates[best.choice]),
            "trial/version": float(self.version),
        }

    def parts(self) -> Mapping[str, Any]:
        """Return everything that a checkpoint must contain."""
        return {"champion": self.champion.learnt, "challenger": self.challenger.learnt, "records": self}

    def state_dict(self) -> dict[str, Any]:
        records = [record.state_dict() for record in self.policies]
        chosen = [(choice, *outcome) for choice, outcome in self._chosen]
        state = {"version": self.version, "caution": self.caution, "since": self._since, "preferred": self._preferred}
        return {**state, "records": records, "chosen": chosen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "chosen" not in state:
            raise UserError(
                "its trials were made by an earlier version, which numbered them otherwise: start a new run from its "
                "policy, with --base RUN"
            )
        self.version, self.caution, self._since = state["version"], state["caution"], state["since"]
        self._preferred = state.get("preferred")
        for record, saved in zip(self.policies, state["records"], strict=True):
            record.load_state_dict(saved)
        self._chosen.clear()
        self._chosen.extend((choice, Outcome(*outcome)) for choice, *outcome in state["chosen"])


def _prior(mean: float) -> tuple[float, float]:
    return CARRIED * mean, CARRIED * (1 - mean)


def _shown(record: Record) -> str:
    return f"{sum(one.is_success for one in record.outcomes)} of {len(record.outcomes)}"
