"""The demonstrator of PointMaze: its ways are shortest, and it arrives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow.envs import make_demonstrator, make_env
from softflow.envs.external.point_maze import shortest_way
from softflow.errors import UserError

U_MAZE = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]


def test_the_way_through_a_u() -> None:
    way = shortest_way(U_MAZE, (1, 1), (3, 1), np.random.default_rng(0))
    assert way == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    assert shortest_way(U_MAZE, (1, 1), (1, 1), np.random.default_rng(0)) == [(1, 1)]


def test_equally_short_ways_are_all_taken() -> None:
    ways = {tuple(shortest_way([[0, 0], [0, 0]], (0, 0), (1, 1), np.random.default_rng(seed))) for seed in range(20)}
    assert ways == {((0, 0), (0, 1), (1, 1)), ((0, 0), (1, 0), (1, 1))}


def test_a_walled_in_goal_is_refused() -> None:
    with pytest.raises(UserError, match=r"no way leads from cell \(0, 0\) of the maze to cell \(0, 2\)"):
        shortest_way([[0, 1, "g"]], (0, 0), (0, 2), np.random.default_rng(0))


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from([0, 0, 1]), min_size=5, max_size=5), min_size=5, max_size=5), st.randoms())
def test_ways_are_connected_free_and_shortest(maze: list[list[Any]], random: Any) -> None:
    maze[0][0] = maze[4][4] = 0
    free = np.pad(np.array(maze) == 0, 1)
    distance = np.full((7, 7), np.inf)
    distance[1, 1] = 0
    for _ in range(25):
        near = np.min([np.roll(distance, shift, axis) for shift in (1, -1) for axis in (0, 1)], axis=0)
        distance = np.where(free, np.minimum(distance, near + 1), np.inf)
    rng = np.random.default_rng(random.randrange(1000))
    if np.isinf(distance[5, 5]):
        with pytest.raises(UserError, match="no way"):
            shortest_way(maze, (0, 0), (4, 4), rng)
        return
    way = shortest_way(maze, (0, 0), (4, 4), rng)
    assert way[0] == (0, 0) and way[-1] == (4, 4) and len(way) == distance[5, 5] + 1
    assert all(maze[i][j] == 0 for i, j in way)
    assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in itertools.pairwise(way))


@pytest.mark.parametrize("maze", ["UMaze", "Medium"])
def test_it_arrives(maze: str) -> None:
    pytest.importorskip("gymnasium_robotics")
    env = make_env(f"gymnasium_robotics:PointMaze_{maze}-v3", continuing_task=False)
    for seed in range(10):
        env.reset(seed=seed)
        demonstrator = make_demonstrator(env, np.random.default_rng(seed))
        terminated = truncated = False
        while not (terminated or truncated):
            observation, reward, terminated, truncated, info = env.step(demonstrator.act())
        assert terminated and info["is_success"] is True and reward == 1
        goal, place = env.unwrapped.goal, env.unwrapped.data.qpos[:2]
        assert np.linalg.norm(goal - place) <= 0.45
        np.testing.assert_allclose(observation[:4], [*place, *goal])  # a Dict flattened in the order of its keys
