"""Random states of the process: what is drawn after returning to one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from softflow.training.random_state import random_state, random_state_kept, seed_all, set_random_state


def draw() -> list[float]:
    """Odd numbers of normal draws, which leave one in store."""
    return [
        random.gauss(0, 1),
        random.random(),
        float(np.random.normal()),
        float(np.random.rand()),
        float(torch.rand(())),
    ]


def test_it_is_returned_to() -> None:
    with random_state_kept():
        draw()
        state = random_state()
        expected = draw()
        assert draw() != expected
        set_random_state(state)
        assert draw() == expected


def test_what_is_drawn_inside_was_not_drawn_outside() -> None:
    with random_state_kept():
        state = random_state()
        expected = draw()
        set_random_state(state)
        with random_state_kept():
            seed_all(3)
            draw()
        assert draw() == expected


def test_one_seed_decides_all() -> None:
    with random_state_kept():
        seed_all(3)
        expected = draw()
        seed_all(3)
        assert draw() == expected
        seed_all(4)
        assert not {*draw()} & {*expected}


def test_a_run_on_a_gpu_goes_on_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    restored = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *arguments: restored.append(arguments))
    with random_state_kept():
        state = random_state()
        expected = draw()
        set_random_state(state | {"cuda": "of the GPU"}, "cpu")
        assert draw() == expected and restored == []
        set_random_state(state | {"cuda": "of the GPU"}, "cuda:1")
        assert draw() == expected and restored == [("of the GPU", "cuda:1")]
