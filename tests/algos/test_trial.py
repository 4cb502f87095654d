"""Trials in own episodes: records, verdicts, and what acts and deploys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softflow.algos.beliefs import Belief, Outcome, Record, beliefs, probability_better
from softflow.algos.trial import MOST_CHOICES, Arm, Trial, TrialConfig
from softflow.data import Episode
from softflow.errors import UserError
from softflow.policies import BestOfN, FlowPolicy

CONFIG = TrialConfig(fewest=5, most=10, window=20)


def make_policy(seed: int = 0) -> FlowPolicy:
    torch.manual_seed(seed)
    policy = FlowPolicy(2, 1, 4, "gaussian", normalize_actions=False)
    policy.normalizer.fit(torch.zeros(2), torch.ones(2))
    return policy


def make_trial(candidates: int = 4, config: TrialConfig = CONFIG) -> Trial[FlowPolicy]:
    trial = Trial(make_policy(), candidates, config)
    trial.begin(make_policy(1))
    return trial


def episode(arm: int, is_success: bool, reward: float = 0.0) -> Episode:
    return Episode(np.zeros((2, 2)), np.zeros((1, 1)), np.array([reward]), True, False, is_success, arm=arm)


def receive(trial: Trial[FlowPolicy], challenger: bool, successes: int, failures: int, choice: int = 0) -> None:
    arm = Arm(trial.version, challenger, choice).encode()
    trial.receive(episode(arm, success) for success in [True] * successes + [False] * failures)


@given(st.integers(0, 1000), st.booleans(), st.integers(0, MOST_CHOICES - 1))
def test_an_arm_is_restored_from_its_number(version, challenger, choice):
    arm = Arm(version, challenger, choice)
    assert Arm.decode(arm.encode()) == arm


def test_the_probability_of_being_better_is_that_of_two_normal_beliefs():
    assert probability_better(Belief(0.3, 0.01), Belief(0.3, 0.02)) == pytest.approx(0.5)
    # the difference has mean 0.2 and standard deviation 0.2
    assert probability_better(Belief(0.5, 0.03), Belief(0.3, 0.01)) == pytest.approx(0.8413447, abs=1e-6)
    assert probability_better(Belief(0.3, 0.01), Belief(0.5, 0.03)) == pytest.approx(1 - 0.8413447, abs=1e-6)


@given(st.lists(st.booleans(), max_size=20), st.floats(0.1, 5), st.floats(0.1, 5))
def test_successes_alone_are_believed_as_a_beta_posterior(outcomes, a, b):
    record = Record(20, (a, b))
    for success in outcomes:
        record.add(Outcome(success, float(success)))
    posterior = torch.distributions.Beta(a + sum(outcomes), b + len(outcomes) - sum(outcomes))
    expected = posterior.mean.item(), posterior.variance.item()
    assert beliefs(record, Record(20))[0] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_among_successes_the_return_decides():
    slow, fast = Record(20), Record(20)
    for i in range(15):
        slow.add(Outcome(True, 0.60 + 0.001 * i))
        fast.add(Outcome(True, 0.80 + 0.001 * i))
    assert probability_better(*reversed(beliefs(slow, fast))) > 0.9


def test_a_higher_return_does_not_replace_success():
    """Rewards per step may give a long failure the higher return."""
    successful, long = Record(20), Record(20)
    for _ in range(15):
        successful.add(Outcome(True, 1.0))
        long.add(Outcome(False, 5.0))
    assert probability_better(*beliefs(successful, long)) > 0.99


def test_scores_by_hand():
    first, second = Record(10), Record(10, (2.0, 3.0))
    first.add(Outcome(True, 4.0))  # 0.75 + 0.25
    first.add(Outcome(False, 2.0))  # 0.25 / 2
    second.add(Outcome(False, 0.0))
    mean = (1 + 1 + 0.125) / 4
    variance = ((1 + 1 + 0.125**2) / 4 - mean**2) / 5
    assert beliefs(first, second) == [pytest.approx((mean, variance)), pytest.approx((2 / 6, (2 / 6 - 4 / 36) / 7))]


def test_only_the_latest_outcomes_count():
    record = Record(2)
    for success in (True, True, False, False):
        record.add(Outcome(success, float(success)))
    assert beliefs(record, Record(2))[0].mean == pytest.approx(1 / 4)
    assert record.episodes == 4


def test_a_challenger_that_does_as_well_replaces_the_champion():
    trial = make_trial()
    receive(trial, challenger=False, successes=3, failures=3)
    receive(trial, challenger=True, successes=3, failures=1)
    assert trial.judge() is None  # four episodes are too few
    receive(trial, challenger=True, successes=1, failures=0)
    verdict = trial.judge()
    assert verdict is not None and verdict.promoted and not verdict.worse
    for mine, its in zip(trial.champion.parameters(), make_policy(1).parameters(), strict=True):
        assert torch.equal(mine, its)
    assert trial.caution == pytest.approx(1 / 1.5)
    assert "; latest successes: challenger 4 of 5, champion 3 of 6; by number of candidates: 1: " in verdict.text


def test_a_challenger_that_is_worse_is_given_up_early():
    trial = make_trial()
    receive(trial, challenger=False, successes=8, failures=2)
    receive(trial, challenger=True, successes=0, failures=8)
    verdict = trial.judge()
    assert verdict is not None and verdict.worse and not verdict.promoted
    for mine, its in zip(trial.champion.parameters(), make_policy(0).parameters(), strict=True):
        assert torch.equal(mine, its)
    assert trial.caution == pytest.approx(1.5)


def test_a_challenger_that_is_clearly_better_replaces_the_champion_early():
    trial = make_trial(config=TrialConfig())
    receive(trial, challenger=False, successes=6, failures=6)
    receive(trial, challenger=True, successes=7, failures=0)
    assert trial.judge() is None  # seven episodes are too few
    receive(trial, challenger=True, successes=1, failures=0)
    verdict = trial.judge()
    assert verdict is not None and verdict.promoted
    for mine, its in zip(trial.champion.parameters(), make_policy(1).parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_challenger_that_may_be_better_has_to_go_on():
    trial = make_trial(config=TrialConfig())
    receive(trial, challenger=False, successes=6, failures=6)
    receive(trial, challenger=True, successes=5, failures=4)
    assert trial.judge() is None  # it would suffice after `fewest` episodes


def test_a_challenger_that_cannot_show_it_is_given_up_in_the_end():
    trial = make_trial()
    receive(trial, challenger=False, successes=6, failures=4)
    receive(trial, challenger=True, successes=5, failures=4)
    assert trial.judge() is None
    receive(trial, challenger=True, successes=0, failures=1)
    verdict = trial.judge()
    assert verdict is not None and not verdict.promoted and not verdict.worse


def test_episodes_of_an_earlier_trial_tell_nothing_about_the_new_challenger():
    trial = make_trial()
    old = Arm(trial.version, True, 2).encode()
    trial.begin(make_policy(2))
    trial.receive([episode(old, True)])
    assert trial.policies[1].episodes == 0
    assert [record.episodes for record in trial.choices] == [0, 0, 1]  # the choice is the same critic's


def test_the_safe_arm_deploys_without_evidence():
    trial = make_trial()
    assert trial.best() == Arm(1, challenger=False, choice=0)
    receive(trial, challenger=True, successes=4, failures=0, choice=1)  # too few
    assert trial.best() == Arm(1, challenger=False, choice=0)


def test_what_does_better_deploys():
    trial = make_trial()
    receive(trial, challenger=False, successes=5, failures=15)
    receive(trial, challenger=True, successes=13, failures=2, choice=2)
    receive(trial, challenger=True, successes=14, failures=1, choice=1)
    assert trial.best() == Arm(1, challenger=True, choice=1)


def test_what_does_worse_seldom_acts():
    torch.manual_seed(0)
    trial = make_trial(config=TrialConfig(fewest=60, most=60))
    bad = 0
    for _ in range(200):
        arm = trial.assign()
        acts = Arm.decode(arm)
        is_bad = acts.challenger or acts.choice > 0
        bad += is_bad
        trial.receive([episode(arm, not is_bad)])
    assert 0 < bad < 60  # by chance 167 of 200


def test_a_choice_that_did_badly_is_tried_again_when_that_is_forgotten():
    trial = make_trial(config=TrialConfig(fewest=5, most=10, window=10))
    receive(trial, challenger=False, successes=0, failures=15, choice=2)
    assert [record.episodes for record in trial.choices] == [0, 0, 15]
    receive(trial, challenger=False, successes=20, failures=0)  # twice the window
    assert [record.episodes for record in trial.choices] == [20, 0, 0]


def test_all_outcomes_that_are_remembered_count_for_a_choice():
    """The latest episodes count up to twice the window, though a policy's record ends after one."""
    trial = make_trial(config=TrialConfig(fewest=5, most=10, window=10))
    receive(trial, challenger=False, successes=10, failures=0, choice=1)
    receive(trial, challenger=False, successes=0, failures=10, choice=1)
    single, some, _ = trial.choices
    assert len(some.outcomes) == 20 and len(trial.policies[0].outcomes) == 10
    assert single.prior == pytest.approx((1.5, 1.5))


@pytest.mark.parametrize(("largest", "numbers"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (16, [1, 4, 16])])
def test_the_critic_chooses_among_few_or_many(largest, numbers):
    trial = make_trial(largest)
    assert trial.candidates == numbers
    drawn = {Arm.decode(trial.assign()).choice for _ in range(100)}
    assert drawn == set(range(len(numbers)))


def test_each_episode_is_executed_by_its_arm():
    trial = make_trial()
    observation = torch.randn(6, 2)
    acts = torch.tensor([True, False, True, True, False, False])  # the challenger
    arms = torch.tensor([Arm(1, challenger, 0).encode() for challenger in acts.tolist()])
    actions, proposed = trial.decide(observation, arms, lambda policy, n: BestOfN(policy, None, 2, n, 0.0))
    by_champion, by_challenger = (
        BestOfN(policy, None, 2, 1, 0.0).act(observation) for policy in (trial.champion, trial.challenger)
    )
    expected = torch.where(acts[:, None, None], by_challenger, by_champion)
    torch.testing.assert_close(actions, expected)
    torch.testing.assert_close(proposed[:, :2].clamp(-1, 1), actions)


def test_a_restored_trial_goes_on_as_it_would_have():
    trial = make_trial()
    receive(trial, challenger=False, successes=3, failures=2)
    receive(trial, challenger=True, successes=4, failures=0, choice=1)
    other = make_trial()
    other.load_state_dict(trial.state_dict())
    for one in (trial, other):
        receive(one, challenger=True, successes=1, failures=0)
    assert trial.judge() == other.judge()
    assert trial.state_dict() == other.state_dict()


def test_a_restored_trial_ends_as_it_would_have_without_the_challenger():
    """A trial ends after three times `most` episodes even if the challenger executes none of them."""
    trial = make_trial()
    receive(trial, challenger=False, successes=29, failures=0)
    other = make_trial()
    other.load_state_dict(trial.state_dict())
    assert trial.judge() is None and other.judge() is None
    for one in (trial, other):
        receive(one, challenger=False, successes=1, failures=0)
        assert one.judge() is not None


def test_trials_of_an_earlier_version_are_refused():
    state = make_trial().state_dict()
    del state["chosen"]
    with pytest.raises(UserError, match=r"made by an earlier version.*--base RUN"):
        make_trial().load_state_dict(state)


@pytest.mark.parametrize("wrong", [dict(fewest=0), dict(fewest=50), dict(most=100)])
def test_impossible_numbers_of_episodes_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 1 <= fewest <= most <= window"):
        TrialConfig(**wrong)


def test_a_choice_that_held_out_episodes_prefer_deploys_until_own_episodes_tell_otherwise():
    """It deploys although its return is lower. Own episodes of before no longer count."""
    trial = make_trial()
    receive(trial, challenger=False, successes=20, failures=0)
    some = [episode(0, number < 3, reward=-9.0) for number in range(5)]
    many = [episode(0, number < 2, reward=9.0) for number in range(5)]
    trial.prefer(2, some, 4, many)
    assert trial.best().choice == 1 and [record.episodes for record in trial.choices] == [0, 5, 5]
    restored = make_trial()
    restored.load_state_dict(trial.state_dict())
    assert restored.best().choice == 1
    receive(trial, challenger=False, successes=1, failures=0)
    assert trial.best().choice == 0  # the others have too few episodes


def test_a_policy_that_held_out_episodes_prefer_is_the_champion_with_their_record():
    trial = make_trial()
    receive(trial, challenger=True, successes=0, failures=3)
    trial.promote(make_policy(2), [episode(0, is_success) for is_success in [True] * 3 + [False]])
    for policy in (trial.champion, trial.challenger):
        for mine, its in zip(policy.parameters(), make_policy(2).parameters(), strict=True):
            assert torch.equal(mine, its)
    assert [record.episodes for record in trial.policies] == [4, 0] and trial.version == 2
    assert beliefs(*trial.policies)[0].mean == pytest.approx(4 / 6)
    assert trial.caution == pytest.approx(1 / 1.5) and not trial.best().challenger
