"""Rules that decide which steps of an episode are imitated, and the choice among them from the demonstrations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from softflow.data.episodes import Episode
from softflow.errors import UserError, did_you_mean

RULES = ("auto", "all", "success", "reward_to_come", "top:X", "return>=X")
DENSE = 0.5
"""Rewards are dense if more than this share of the steps has a positive one."""

_SIGNS = {"top": ":", "return": ">="}
_NOTHING = {
    "all": ("no chunk of an episode was executed as proposed", "give demonstrations"),
    "success": (
        "no episode is a success",
        "give demonstrations of which some are marked by is_success, or set imitate to all or top:50",
    ),
    "reward_to_come": (
        "no step has reward after it",
        "give demonstrations with a positive reward, for instance 1 on the step that succeeded, or set imitate to auto",
    ),
    "return": (
        "no episode has such a return",
        "give demonstrations of which some have it, or set imitate to a lower number or to top:50",
    ),
}
"""For each rule, what it means that nothing is worth imitating, and what to do."""


@dataclass(frozen=True)
class ImitationRule:
    """The rule that decides which steps of an episode are worth imitating.

    Attributes:
        text: One of these rules. `all`: every step. `success`: all steps of successful episodes. `reward_to_come`: the
            steps after which the rewards of the episode still sum to more than 0. `return>=X`: all steps of episodes
            whose undiscounted return is at least the number X. `top:X`: `return>=` the lowest return of the best X per
            cent of the demonstrations. `auto`: whichever of these suits the demonstrations. The last two depend on
            demonstrations, so `choose` must be called before episodes can be judged.

    Raises:
        ValueError: `text` is not one of these rules.
    """

    text: str = "auto"

    def __post_init__(self) -> None:
        number = self._number
        valid = {"top": 0 < number <= 100, "return": math.isfinite(number)}
        if not valid.get(self._name, self.text in RULES):
            hint = did_you_mean(self.text, RULES)
            raise ValueError(
                f"imitate is {self.text!r}: {hint} (top:X takes a percentage above 0 and up to 100, return>=X a number)"
            )

    @property
    def _name(self) -> str:
        """`top` or `return` for rules with a number, else the whole text."""
        for name, sign in _SIGNS.items():
            before, found, _ = self.text.partition(sign)
            if found and before.strip() == name:
                return name
        return self.text

    @property
    def _number(self) -> float:
        """The number X of the rule. NaN if it has none."""
        try:
            return float(self.text.partition(_SIGNS[self._name])[2])
        except (KeyError, ValueError):
            return math.nan

    def worth(self, episode: Episode) -> np.ndarray:
        """Return whether each step of `episode` is worth imitating, (T,) bool.

        Raises:
            ValueError: The rule depends on demonstrations: use the one that `choose` returns.
        """
        if self._name == "reward_to_come":
            return returns_to_go(episode.reward) > 0
        if self._name in ("auto", "top"):
            raise ValueError(f"imitate {self.text!r} depends on demonstrations: call choose first")
        whole = {"all": True, "success": episode.is_success, "return": episode_return(episode) >= self._number}
        return np.full(len(episode), whole[self._name])

    def choose(self, demonstrations: Sequence[Episode]) -> Choice:
        """Return a rule that judges every episode by itself: this one, or what it means for these demonstrations."""
        if self._name == "auto":
            chosen, reason = _suited(demonstrations)
            rule, _ = ImitationRule(chosen).choose(demonstrations)
            return Choice(rule, f"auto{'' if rule.text == chosen else f', {chosen}'}: {reason}")
        if self._name == "top":
            returns = sorted(map(episode_return, demonstrations), reverse=True)
            best = math.ceil(round(self._number * len(returns) / 100, 9))  # 7 % of 100 episodes are 7.000000000000001
            return Choice(ImitationRule(f"return>={returns[best - 1]!r}".removesuffix(".0")), self.text)
        return Choice(self, "")

    def require_some(self, demonstrations: Sequence[Episode]) -> None:
        """Raise `UserError` if no step of the demonstrations is worth imitating."""
        if not any(self.worth(episode).any() for episode in demonstrations):
            raise self.nothing()

    def nothing(self) -> UserError:
        """Return the error to raise where nothing is worth imitating. It says what to do."""
        problem, advice = _NOTHING[self._name]
        return UserError(f"imitate is {self.text!r}, but {problem}, so nothing is worth imitating: {advice}")


class Choice(NamedTuple):
    """A rule that judges every episode by itself, and where it comes from."""

    rule: ImitationRule
    origin: str
    """The rule that it was chosen by, with the reason. Empty if it was given."""

    def steps(self, demonstrations: Sequence[Episode]) -> int:
        """Return the number of steps of the demonstrations that are imitated."""
        return sum(self._steps_of_each(demonstrations))

    def describe(self, demonstrations: Sequence[Episode]) -> str:
        """Describe in one line what is imitated of the demonstrations."""
        steps = self._steps_of_each(demonstrations)
        number, total = len(steps) - steps.count(0), sum(map(len, demonstrations))
        origin = f" ({self.origin})" if self.origin else ""
        return f"imitate {self.rule.text}{origin}: {number} of {len(steps)} episodes, {sum(steps):,} of {total:,} steps"

    def _steps_of_each(self, demonstrations: Sequence[Episode]) -> list[int]:
        return [int(self._imitated(episode).sum()) for episode in demonstrations]

    def _imitated(self, demonstration: Episode) -> np.ndarray:
        """Return whether each step is imitated, (T,) bool. Where a person took over, only the person's steps are."""
        worth = self.rule.worth(demonstration)
        return worth if demonstration.human is None else worth & demonstration.human


REWARD_TO_COME = ImitationRule("reward_to_come")
"""The rule of runs from before there was a choice."""


def returns_to_go(reward: np.ndarray) -> np.ndarray:
    """Return the undiscounted sum of the rewards from each step to the end of the episode, (T,) -> (T,) float64."""
    return np.cumsum(reward[::-1], dtype=np.float64)[::-1]


def episode_return(episode: Episode) -> float:
    """Return the exact undiscounted return: episodes with the same rewards in any order have equal ones."""
    return math.fsum(episode.reward.tolist())


def _suited(demonstrations: Sequence[Episode]) -> tuple[str, str]:
    """Return the rule that suits the demonstrations, and the reason in words.

    Returns judge the steps of an episode only if the reward that it earned outweighs its costs. A step cost of 1 leaves
    the first steps of a success without reward to come.
    """
    number, rewards = len(demonstrations), np.concatenate([episode.reward for episode in demonstrations])
    successes = [episode for episode in demonstrations if episode.is_success]
    flags = f"{len(successes)} of {number} episodes are successes" if successes else "no episode is a success"
    if not rewards.any():
        return "success" if successes else "all", f"there is no reward, and {flags}"
    if not any((returns_to_go(episode.reward) > 0).any() for episode in demonstrations):
        return "success" if successes else "top:50", f"no step has reward to come, and {flags}"
    share = _rewarded_share(demonstrations)
    if share > DENSE:
        some = 0 < len(successes) < number
        return (
            "success" if some else "all",
            f"rewards are dense: positive on {share:.0%} of steps up to the largest of each episode, and {flags}",
        )
    if lost := sum(episode_return(episode) <= 0 for episode in successes):
        return "success", f"costs outweigh the reward of {lost} successes, and {flags}"
    return (
        "reward_to_come",
        f"rewards are sparse or staged: positive on {share:.1%} of steps up to the largest of each episode",
    )


def _rewarded_share(demonstrations: Sequence[Episode]) -> float:
    """Return the share of steps with a positive reward.

    An episode counts up to its first largest reward. Otherwise, a success that goes on to the end with the same reward
    at every step would look like a dense reward.
    """
    rewarded = steps = 0
    for reward in (episode.reward for episode in demonstrations):
        counted = reward[: reward.argmax() + 1] if reward.max() > 0 else reward
        rewarded, steps = rewarded + int((counted > 0).sum()), steps + len(counted)
    return rewarded / steps
