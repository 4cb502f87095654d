"""The choice of the best policy in simulated runs."""

from __future__ import annotations

import numpy as np

from benchmarks.studies.simulated_choice import simulate


def test_certain_policies_are_chosen_without_further_episodes() -> None:
    chosen = simulate((0.0, 1.0, 1.0), 50, np.random.default_rng(0))
    assert {rule: (one.chosen, one.additional) for rule, one in chosen.items()} == {
        "last": (2, 0),
        "first episodes": (2, 0),
        "further episodes": (2, 0),
    }


def test_a_certain_fall_costs_two_evaluations() -> None:
    chosen = simulate((1.0, 0.0), 50, np.random.default_rng(0))["further episodes"]
    assert (chosen.chosen, chosen.additional) == (0, 2)
