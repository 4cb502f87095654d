"""Own episodes of actors: what is handed out, lost, returned and kept in checkpoints."""

from __future__ import annotations

from itertools import count

import gymnasium
import numpy as np
import pytest

from softflow.algos import Acting
from softflow.data import Episode
from softflow.training.experience import LocalExperience
from softflow.training.failures import EnvironmentErrors, EnvironmentFailed, Failure
from softflow.training.fleet import Bout, Crew, Fleet, Returned
from softflow.training.rollout import Rollout
from tests.training.vectors import side_by_side

LENGTH = 5


def episode(seed: int, arm: int) -> Episode:
    return Episode(
        np.zeros((LENGTH + 1, 1)), np.zeros((LENGTH, 1)), np.zeros(LENGTH), True, False, True, arm=arm, seed=seed
    )


class Counting(gymnasium.Env):
    """Episodes of `LENGTH` steps."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, self.steps == LENGTH, False, {"is_success": False}


class TestCrew(Crew):
    """Actors that return bouts only when the test says so."""

    __test__ = False
    episodes_per_bout = 2

    def __init__(self, places: int = 3) -> None:
        self.places, self.handed, self.published = places, dict[int, Bout](), list[Acting]()
        self.numbers = count(1)

    def publish(self, acting):
        self.published.append(acting)

    def vacancies(self):
        return self.places - len(self.handed)

    def hand_out(self, bout):
        self.handed[number := next(self.numbers)] = bout
        return number

    def wait(self, seconds):
        return [self.done(min(self.handed))]

    def done(self, number, failures=()):
        bout = self.handed.pop(number)
        episodes = [episode(*pair) for pair in zip(bout.seeds, bout.arms, strict=True)]
        return number, Returned(episodes, LENGTH * len(episodes), failures)


class Harness:
    """A fleet of a test's crew, and its algorithm, with ten updates between two calls of `collect`."""

    def __init__(self, crew, publish_every=1, on_error="stop"):
        self.updates, self.interrupted, self.arms_version, self.assign = 0, False, 0, count(100).__next__
        self.errors = EnvironmentErrors(on_error)
        self.fleet = Fleet(crew, count(7), self, lambda: self.updates, publish_every, self.errors, self.check)

    def acting(self):
        return Acting({}, self.updates)

    def check(self):
        if self.interrupted:
            raise KeyboardInterrupt

    def collect(self, steps):
        episodes, executed = self.fleet.collect(steps)
        self.updates += 10
        return [(one.seed, one.arm) for one in episodes], executed


def test_whole_bouts_are_collected_until_there_are_enough_steps():
    harness = Harness(crew := TestCrew())
    assert harness.collect(15) == ([(7, 100), (8, 101), (9, 102), (10, 103)], 20)
    assert len(crew.handed) == crew.places, "the actors are busy while the learner learns"
    assert harness.fleet.running_seeds == [11, 12, 13, 14, 15, 16]
    assert harness.collect(1) == ([(11, 104), (12, 105)], 10)


def test_a_bout_lost_with_its_actor_is_handed_out_again_as_it_was():
    harness, lost = Harness(crew := TestCrew(places=1)), []

    def lose_the_first(seconds):
        if lost:
            return [crew.done(min(crew.handed))]
        lost.append(crew.handed.pop(1))
        return [(1, None)]

    crew.wait = lose_the_first
    assert harness.collect(10) == ([(7, 100), (8, 101)], 10)
    assert lost == [Bout([7, 8], [100, 101])]


def test_networks_are_published_after_enough_updates_and_the_log_says_how_old_they_were():
    harness = Harness(crew := TestCrew(places=2), publish_every=20)
    harness.collect(10)
    assert harness.fleet.scalars() == {"actors/staleness": 0.0, "actors/staleness_max": 0}
    for updates in (10, 20):
        harness.collect(10)
        assert harness.fleet.scalars()["actors/staleness_max"] == updates
    assert [one.candidates for one in crew.published] == [0, 20]


def test_networks_are_published_at_once_if_arms_mean_others():
    """An episode of a new trial that old networks executed would count for a policy that it says nothing about."""
    harness = Harness(crew := TestCrew(places=1), publish_every=1_000)
    harness.collect(10)
    harness.collect(10)
    assert [one.candidates for one in crew.published] == [0]
    harness.arms_version += 1
    harness.collect(10)
    assert [one.candidates for one in crew.published] == [0, 20]


def test_a_checkpoint_keeps_what_was_handed_out_and_a_resumed_run_hands_it_out_first():
    harness = Harness(TestCrew())
    harness.collect(10)
    state = harness.fleet.state_dict()
    resumed = Harness(TestCrew(places=4))
    assert resumed.fleet.load_state_dict(state) == 6
    assert resumed.fleet.running_seeds == [9, 10, 11, 12, 13, 14]
    assert resumed.collect(40)[0] == [
        (9, 102),
        (10, 103),
        (11, 104),
        (12, 105),
        (13, 106),
        (14, 107),
        (7, 100),
        (8, 101),
    ]


def test_episodes_that_arrived_before_an_interruption_are_not_lost():
    harness = Harness(crew := TestCrew(places=1))
    crew.wait = lambda seconds: [crew.done(min(crew.handed))] if not harness.interrupted else []
    original = crew.hand_out

    def interrupt_later(bout):
        harness.interrupted = bout.seeds[0] > 7
        return original(bout)

    crew.hand_out = interrupt_later
    with pytest.raises(KeyboardInterrupt):
        harness.collect(100)
    assert sorted(harness.fleet.running_seeds) == [7, 8, 9, 10]
    assert [seed for saved in harness.fleet.state_dict() for seed in saved["seeds"]] == harness.fleet.running_seeds


def test_errors_of_environments_stop_the_run_or_are_counted():
    failures = [("environment 0, step 3", Failure("ValueError: broken"))]
    for on_error in ("stop", "restart"):
        harness = Harness(crew := TestCrew(places=1), on_error=on_error)
        crew.wait = lambda seconds, crew=crew: [crew.done(min(crew.handed), failures)]
        if on_error == "stop":
            with pytest.raises(EnvironmentFailed, match="environment 0, step 3: ValueError: broken"):
                harness.collect(1)
        else:
            with pytest.warns(UserWarning, match="an episode was dropped: environment 0"):
                harness.collect(1)
            assert harness.errors.count == 1


def test_bouts_of_an_earlier_stage_are_ignored():
    crew = TestCrew(places=2)
    Harness(crew).collect(1)
    later = Harness(crew)
    assert later.collect(10)[0] == [(7, 100), (8, 101)]


def test_a_run_may_go_on_with_actors():
    """Episodes that this process had begun begin anew, each as a bout of its own."""
    fleet = Harness(TestCrew(places=3)).fleet
    assert fleet.load_state_dict([{"seed": 3, "arm": 40, "environment": 0}, {"seed": 4, "environment": 1}]) == 2
    episodes, steps = fleet.collect(20)
    assert [(one.seed, one.arm) for one in episodes] == [(3, 40), (4, 0), (7, 100), (8, 101)]
    assert steps == 20


def test_a_run_may_go_on_without_actors():
    """Episodes that actors had begin anew in this process, with their seeds and arms, before new ones."""
    rollout = Rollout(side_by_side([Counting(), Counting()], 1), count(10), assign=lambda: 1)
    experience = LocalExperience(rollout, lambda observation, arms: np.zeros((len(observation), 1, 1)))
    state = [{"seeds": [7, 8], "arms": [40, 41]}, {"seeds": [9], "arms": [42]}]
    assert experience.load_state_dict(state) == 3
    episodes = [one for _ in range(3) for one in experience.collect(2 * LENGTH)[0]]
    assert [(one.seed, one.arm) for one in episodes] == [(7, 40), (8, 41), (9, 42), (10, 1), (11, 1), (12, 1)]
