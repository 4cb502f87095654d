"""What each number of an action does to an observation, which tells numbers in another order or of another sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

RIDGE = 0.1
"""Penalty of the ridge regression, for numbers of unit variance."""
ALIKE = 0.4
"""Cosine of two effects from which on they are taken for effects of the same number of an action."""
MAINLY = 0.5
"""Share of the largest effect of a number of an action from which on another effect of it is large as well."""


class Steps(NamedTuple):
    """The steps of an episode."""

    numbers: Numbers
    """(T + 1, N): the numbers of its observations."""
    actions: NDArray[np.float32]
    """(t, A), where t may be more than T."""


@dataclass(frozen=True)
class Arrangement:
    """Which recorded number of an action each number of the environment's action is.

    Attributes:
        order: The recorded number of each number of the environment, (A,).
        signs: The sign with which it was recorded, 1 or -1, (A,).
        known: Whether its effect tells, (A,). Where it does not, order and sign are those of the environment as far as
            that is possible.
        driven: The numbers of an observation that each number of the environment's action mainly changes, (A,).
    """

    order: list[int]
    signs: list[int]
    known: list[bool]
    driven: list[list[int]]

    @property
    def is_identity(self) -> bool:
        return self.order == list(range(len(self.order))) and min(self.signs) == 1


def arrangement(recorded: Sequence[Steps], executed: Sequence[Steps]) -> Arrangement:
    """Compare the effects of actions in recordings with those in episodes of the environment.

    The most similar effects are matched first. Both have A numbers of an action and N > 0 numbers of an observation.
    """
    ours, theirs = _effects(recorded), _effects(executed)
    alike = _directions(ours) @ _directions(theirs).T
    size = len(alike)
    order, signs = [-1] * size, [1] * size
    left = np.abs(alike)
    while left.max() > ALIKE:
        stored, number = map(int, np.unravel_index(left.argmax(), left.shape))
        order[number], signs[number] = stored, 1 if alike[stored, number] > 0 else -1
        left[stored] = left[:, number] = 0
    known = [stored >= 0 for stored in order]
    for number in range(size):
        if not known[number] and number not in order:
            order[number] = number
    unused = iter(sorted(set(range(size)) - set(order)))
    order = [next(unused) if stored < 0 else stored for stored in order]
    driven = [np.flatnonzero(row >= MAINLY * row.max()).tolist() for row in np.abs(theirs)]
    return Arrangement(order, signs, known, driven)


def _effects(episodes: Sequence[Steps]) -> Numbers:
    """Return how each number of an action changes each number of an observation, (A, N), in units of both deviations.

    Motion goes on by itself, so changes of the motion are regressed on changes of the action.
    """
    pairs = [_changes(episode) for episode in episodes]
    actions, motion = (_of_unit_size(np.concatenate(each)) for each in zip(*pairs, strict=True))
    count = max(1, len(actions))
    penalty = RIDGE * np.eye(actions.shape[1])
    effects = np.linalg.solve(actions.T @ actions / count + penalty, actions.T @ motion / count)
    return effects.astype(np.float64)


def _changes(episode: Steps) -> tuple[Numbers, Numbers]:
    steps = min(len(episode.actions), len(episode.numbers) - 1)
    actions, numbers = episode.actions[:steps].astype(np.float64), episode.numbers[: steps + 1]
    return np.diff(actions, axis=0), np.diff(numbers, n=2, axis=0)


def _of_unit_size(columns: Numbers) -> Numbers:
    """Scale columns to a mean square of 1. One that hardly changes becomes 0."""
    size = np.sqrt(np.square(columns).sum(0) / max(1, len(columns)))
    return np.divide(columns, size, out=np.zeros_like(columns), where=size > 1e-9)


def _directions(effects: Numbers) -> Numbers:
    size = np.linalg.norm(effects, axis=1, keepdims=True)
    return np.divide(effects, size, out=np.zeros_like(effects), where=size > 1e-9)
