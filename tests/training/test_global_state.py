"""Whatever an environment does to the global state of the process, training does not notice, and both draw on."""

from __future__ import annotations

import random
import warnings
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random.mtrand import set_bit_generator

from softflow.errors import UserError
from softflow.training.evaluation import evaluate
from softflow.training.global_state import environments_turn
from softflow.training.random_state import random_state, random_state_kept, seed_all, set_random_state
from softflow.training.rollout import Rollout
from softflow.training.vector import VectorizationMode, closing, vectorize


def settings() -> tuple[Any, ...]:
    device = torch.empty(0).device
    return torch.get_default_dtype(), device, torch.get_num_threads(), torch.is_grad_enabled(), np.geterr()


def draw() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand((), dtype=torch.float32, device="cpu"))


def upset() -> None:
    """What careless simulators do."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    np.seterr(all="raise")


@pytest.fixture(autouse=True)
def kept() -> Any:
    before = settings()
    with random_state_kept():
        seed_all(3)
        yield
        with environments_turn():  # what a test has upset there
            torch.set_default_dtype(before[0])
            torch.set_default_device(None)
            torch.set_num_threads(before[2])
            torch.set_grad_enabled(before[3])
            np.seterr(**before[4])
    assert settings() == before


def careless(counting: Any) -> Any:
    class Careless(counting):
        def __init__(self) -> None:
            super().__init__()
            upset()

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            upset()
            return super().reset(seed=seed, options=options)

        def step(self, action: np.ndarray) -> Any:
            upset()
            return super().step(action)

        def get_state(self) -> dict[str, Any]:
            upset()
            return {}

        def close(self) -> None:
            upset()

    return Careless


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_training_does_not_notice(mode: VectorizationMode, counting: Any) -> None:
    before, state = settings(), random_state()
    expected = [draw() for _ in range(8)]
    set_random_state(state)
    drawn = [draw()]
    with closing(vectorize([careless(counting)] * 2, 3, mode, processes=2)) as environments:
        assert settings() == before
        rollout = Rollout(environments, count())

        def act(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
            assert settings() == before
            drawn.append(draw())
            return np.zeros((len(observation), 3, 1), np.float32)

        rollout.collect(act, 20)
        rollout.state_dict()
    assert settings() == before
    drawn += [draw() for _ in range(8 - len(drawn))]
    assert drawn == expected


def test_environments_find_again_what_they_set() -> None:
    with environments_turn():
        upset()
        expected = [draw() for _ in range(3)]
        upset()
        drawn = [draw()]
        left = settings()
    for _ in range(2):
        draw()
        with environments_turn():
            assert settings() == left
            drawn.append(draw())
    assert drawn == expected


def test_an_error_ends_their_turn() -> None:
    before = settings()
    with pytest.raises(ZeroDivisionError), environments_turn():
        upset()
        with environments_turn():
            raise ZeroDivisionError
    assert settings() == before


def noisy(counting: Any) -> Any:
    class Noisy(counting):
        """Its noise is of numpy's global generator."""

        def _observation(self) -> np.ndarray:
            return super()._observation() + np.random.rand(2).astype(np.float32) / 2

    return Noisy


def still(observation: np.ndarray, arms: np.ndarray | None = None) -> np.ndarray:
    return np.zeros((len(observation), 3, 1), np.float32)


def test_noise_of_a_global_generator_goes_on_after_a_checkpoint(counting: Any) -> None:
    """An evaluation in between draws from it, too, and changes nothing."""
    rollout = Rollout(vectorize([noisy(counting)], 3), count())
    rollout.collect(still, 5)
    state = random_state()
    with random_state_kept():
        evaluate(vectorize([noisy(counting)], 3), still, 2)
    expected = rollout.collect(still, 5)[0]
    seed_all(8)
    set_random_state(state)
    rollout = Rollout(vectorize([noisy(counting)], 3), count(1))
    again = rollout.collect(still, 5)[0]
    np.testing.assert_array_equal(again[0].observation, expected[0].observation)


def test_the_seed_decides_their_draws() -> None:
    def theirs(seed: int) -> tuple[float, ...]:
        seed_all(seed)
        with environments_turn():
            return draw()

    assert theirs(5) == theirs(5) != theirs(6)


def test_a_checkpoint_from_before_there_were_two_sets_is_read() -> None:
    state = random_state()
    expected = draw()
    del state["environments"]
    set_random_state(state)
    assert draw() == expected


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64])
def test_another_generator_of_theirs_is_kept(kind: Any) -> None:
    with environments_turn():
        set_bit_generator(kind(3))
        np.random.rand(5)
    state = random_state()
    with environments_turn():
        expected = np.random.rand(3).tolist()
    seed_all(8)
    set_random_state(state)
    with environments_turn():
        assert np.random.rand(3).tolist() == expected


def test_a_mode_that_is_left_on_is_named() -> None:
    mode = torch.inference_mode()
    try:
        with pytest.raises(UserError, match="an environment entered torch's inference_mode and did not leave it"):
            with environments_turn():
                mode.__enter__()
    finally:
        mode.__exit__(None, None, None)


def test_warnings_do_not_become_errors() -> None:
    with warnings.catch_warnings():
        before = list(warnings.filters)
        with environments_turn():
            warnings.simplefilter("error")
        assert list(warnings.filters) == before
