"""Which steps are imitated by each rule, and which rule is chosen for each kind of demonstrations."""

from __future__ import annotations

import numpy as np
import pytest

from softflow.data import Episode, ImitationRule, Replay
from softflow.errors import UserError
from tests.data.test_replay import make_episode, rng


def episode(reward: list[float], success: bool = False) -> Episode:
    steps = len(reward)
    return Episode(np.zeros((steps + 1, 2)), np.zeros((steps, 1)), np.array(reward), True, False, success)


def steps(rule: str, *episodes: Episode) -> list[list[int]]:
    """The steps of each episode that are imitated."""
    chosen = ImitationRule(rule).choose(episodes).rule
    return [np.flatnonzero(chosen.worth(one)).tolist() for one in episodes]


EPISODES = (
    episode([0, 1, 0, 0], success=True),  # a return of 1
    episode([0, 0, 0]),  # 0
    episode([2, -3, 2]),  # 1
    episode([-1, -1, 5, 0], success=True),  # 3
    episode([-9, 1, 0]),  # -8
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all", [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2]]),
        ("success", [[0, 1, 2, 3], [], [], [0, 1, 2, 3], []]),
        ("reward_to_come", [[0, 1], [], [0, 2], [0, 1, 2], [1]]),
        ("top:20", [[], [], [], [0, 1, 2, 3], []]),
        ("top:21", [[0, 1, 2, 3], [], [0, 1, 2], [0, 1, 2, 3], []]),  # two episodes, and one with the same return
        ("top: 80", [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3], []]),
        ("top:1e2", [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2]]),
        ("return>=0.5", [[0, 1, 2, 3], [], [0, 1, 2], [0, 1, 2, 3], []]),
        ("return >= -8", [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2]]),
    ],
)
def test_masks_by_hand(rule: str, expected: list[list[int]]) -> None:
    assert steps(rule, *EPISODES) == expected
    chosen = ImitationRule(rule).choose(EPISODES).rule
    for one in EPISODES:
        assert chosen.worth(one).shape == (len(one),) and chosen.worth(one).dtype == np.bool_


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("sucess", "did you mean 'success'?"),
        ("reward", "did you mean 'reward_to_come'?"),
        ("", "valid: all, auto"),
        ("All", "did you mean 'all'?"),
        *(
            (text, "top:X takes a percentage above 0")
            for text in ("top", "top:", "top:X", "top:0", "top:101", "top:nan")
        ),
        *((text, "return>=X a number") for text in ("return", "return>=", "return>=inf", "return>=X", "all:3")),
    ],
)
def test_other_rules_are_refused(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match="imitate is ") as error:
        ImitationRule(text)
    assert repr(text) in str(error.value) and hint in str(error.value)


def test_a_share_is_rounded_up_and_not_by_the_error_of_its_product() -> None:
    hundred = [episode([number]) for number in range(100)]
    assert ImitationRule("top:7").choose(hundred).rule.text == "return>=93"  # 7 / 100 * 100 is 7.000000000000001
    assert ImitationRule("top:7.5").choose(hundred).rule.text == "return>=92"
    assert ImitationRule("top:0.1").choose(hundred).rule.text == "return>=99"


def test_the_chosen_return_holds_in_text_and_for_rewards_in_any_order() -> None:
    """What was chosen is kept as text, and judges own episodes by exactly the return of the demonstration."""
    rewards = rng().normal(size=30).astype(np.float32)
    same, less = episode(rewards[::-1].tolist()), rewards.copy()
    less[3] = np.nextafter(less[3], np.float32(-9))
    rule = ImitationRule("top:50").choose([episode(rewards.tolist()), episode([-100])]).rule
    assert ImitationRule(rule.text) == rule and rule.choose([episode([1])]).rule == rule
    assert rule.worth(same).all() and not rule.worth(episode(less.tolist())).any()


SPARSE = [0.0] * 9 + [1.0]
COSTS = [-1.0] * 10
DENSE = [0.1] * 10
HELD = [0.0] * 9 + [1.0] * 30
COUNTED = "of steps up to the largest of each episode"
"""A success that holds on to the goal, which pays at every step."""
AUTO: dict[str, tuple[list[Episode], str, str]] = {
    "flags alone": (
        [episode([0] * 5, success=True), episode([0] * 5)],
        "success",
        "auto: there is no reward, and 1 of 2 episodes are successes",
    ),
    "no labels": ([episode([0] * 5)] * 2, "all", "auto: there is no reward, and no episode is a success"),
    "step costs": (
        [episode(COSTS[:6], success=True), episode(COSTS)],
        "success",
        "auto: no step has reward to come, and 1 of 2 episodes are successes",
    ),
    "step costs without flags": (
        [episode(COSTS), episode(COSTS[:6]), episode(COSTS[:7])],
        "return>=-7",
        "auto, top:50: no step has reward to come, and no episode is a success",
    ),
    "dense": (
        [episode(DENSE, success=True), episode(DENSE)],
        "success",
        f"auto: rewards are dense: positive on 100% {COUNTED}, and 1 of 2 episodes are successes",
    ),
    "dense without flags": (
        [episode(DENSE)] * 2,
        "all",
        f"auto: rewards are dense: positive on 100% {COUNTED}, and no episode is a success",
    ),
    "dense and nothing but successes": (
        [episode(DENSE, success=True)] * 2,
        "all",
        f"auto: rewards are dense: positive on 100% {COUNTED}, and 2 of 2 episodes are successes",
    ),
    "half of the steps are not more than half": (
        [episode([0, 1, 0, 2], success=True)],
        "reward_to_come",
        f"auto: rewards are sparse or staged: positive on 50.0% {COUNTED}",
    ),
    "sparse": (
        [episode(SPARSE, success=True), episode([0] * 10)],
        "reward_to_come",
        f"auto: rewards are sparse or staged: positive on 5.0% {COUNTED}",
    ),
    "a goal that pays at every step": (
        [episode(HELD, success=True), episode([0] * 39), episode([*SPARSE, *[0.0] * 29])],
        "reward_to_come",
        f"auto: rewards are sparse or staged: positive on 3.4% {COUNTED}",  # 2 of 10 + 39 + 10
    ),
    "a reward below its costs": (
        [episode([*COSTS, 5], success=True), episode([-1, 5], success=True), episode(COSTS)],
        "success",
        "auto: costs outweigh the reward of 1 successes, and 2 of 3 episodes are successes",
    ),
    "a reward that is lost again": (
        [episode([1, -2])] * 2,
        "return>=-1",
        "auto, top:50: no step has reward to come, and no episode is a success",
    ),
}


@pytest.mark.parametrize("kind", AUTO)
def test_auto_suits_the_demonstrations(kind: str) -> None:
    demonstrations, rule, origin = AUTO[kind]
    chosen = ImitationRule().choose(demonstrations)
    assert (chosen.rule.text, chosen.origin) == (rule, origin)
    chosen.rule.require_some(demonstrations)


def test_what_is_imitated_is_told_in_one_line() -> None:
    told = {
        rule: ImitationRule(rule).choose(EPISODES).describe(EPISODES)
        for rule in ("auto", "all", "top:20", "reward_to_come")
    }
    assert told == {
        "auto": "imitate reward_to_come (auto: rewards are sparse or staged: "
        "positive on 36.4% of steps up to the largest of each episode): 4 of 5 episodes, 8 of 17 steps",
        "all": "imitate all: 5 of 5 episodes, 17 of 17 steps",
        "top:20": "imitate return>=3 (top:20): 1 of 5 episodes, 4 of 17 steps",
        "reward_to_come": "imitate reward_to_come: 4 of 5 episodes, 8 of 17 steps",
    }


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("reward_to_come", "but no step has reward after it, so nothing is worth imitating: give demonstrations with"),
        ("success", "but no episode is a success, so nothing is worth imitating: give demonstrations of which some"),
        ("return>=1", "but no episode has such a return, so nothing is worth imitating: give demonstrations of which"),
    ],
)
def test_the_error_names_the_rule_and_what_to_do(rule: str, message: str) -> None:
    replay = Replay(20, 2, 1, imitate=ImitationRule(rule))
    replay.add_episode(episode(COSTS))
    for ask in (lambda: ImitationRule(rule).require_some([episode(COSTS)]), lambda: replay.sample(1, 1, rng(), True)):
        with pytest.raises(UserError, match=f"imitate is '{rule}', {message}"):
            ask()


def test_a_replay_asks_for_a_rule_that_judges_episodes_by_themselves() -> None:
    for text in ("auto", "top:50"):
        replay = Replay(20, 2, 1, imitate=ImitationRule(text))
        with pytest.raises(ValueError, match=f"imitate '{text}' depends on demonstrations: call choose first"):
            replay.add_episode(make_episode(3))
        assert replay.steps == 0
